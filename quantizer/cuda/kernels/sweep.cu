/* One block of columns of a coordinate-descent sweep (quantizer/cpu/sweep.c has the mathematics). The residual at the block's start comes
 * from a matrix product; inside the block each thread takes its row through the columns, sixteen residuals in registers at a time. */
#include "levels.cuh"

template <int PLANES>
static __global__ void sweep_block(bpdq_gpu_state s, const float *metric, const float *residual, int splits, int64_t begin, int64_t count,
                                   float *error, unsigned long long *changed) {
  __shared__ float moves[BPDQ_GPU_SWEEP_BLOCK][BPDQ_GPU_LANES]; /* how much each weight of the block moved */
  int lane = (int)threadIdx.x;
  int64_t row = (int64_t)blockIdx.x * BPDQ_GPU_LANES + lane, n = s.padded;
  unsigned moved = 0;
  for (int64_t sub = 0; sub < count; sub += SUB_BLOCK) {
    float rest[SUB_BLOCK], factor[SUB_BLOCK], levels[1 << PLANES];
#pragma unroll
    for (int i = 0; i < SUB_BLOCK; i++) rest[i] = 0;
    for (int part = 0; part < splits; part++)
#pragma unroll
      for (int i = 0; i < SUB_BLOCK; i++) rest[i] += residual[(part * count + sub + i) * s.stride + row];
#pragma unroll 4
    for (int64_t t = 0; t < sub; t++) {
      float move = moves[t][lane];
      load_sub_block(metric + (begin + t) * n + begin + sub, factor);
#pragma unroll
      for (int i = 0; i < SUB_BLOCK; i++) rest[i] -= move * factor[i];
    }
    const float *coefficients = s.coefficients + (begin + sub) / s.group * (PLANES + 1) * s.stride + row;
    load_levels<PLANES>(coefficients, s.stride, levels);
#pragma unroll
    for (int i = 0; i < SUB_BLOCK; i++) {
      int64_t j = begin + sub + i;
      load_sub_block(metric + j * n + begin + sub, factor);
      unsigned before = s.codes[j * s.stride + row];
      float old = level_value(coefficients, s.stride, PLANES, before), nearest = old;
      int code = (int)before;
      find_nearest<PLANES>(levels, old + rest[i] / factor[i], nearest, code);
      float move = nearest - old;
      moves[sub + i][lane] = move;
      if (code != (int)before) {
        s.codes[j * s.stride + row] = (uint8_t)code;
        error[j * s.stride + row] -= move;
        moved += row < s.rows;
      }
#pragma unroll
      for (int l = i + 1; l < SUB_BLOCK; l++) rest[l] -= move * factor[l];
    }
  }
  if (moved) atomicAdd(changed, (unsigned long long)moved);
}

cudaError_t bpdq_gpu_sweep_block(const bpdq_gpu_state *state, const float *metric, const float *residual, int splits, int64_t begin,
                                 int64_t count, float *error, unsigned long long *changed, cudaStream_t stream) {
  unsigned blocks = (unsigned)(state->stride / BPDQ_GPU_LANES);
  BPDQ_GPU_FOR_PLANES(state->planes, (sweep_block<PLANES><<<blocks, BPDQ_GPU_LANES, 0, stream>>>(*state, metric, residual, splits, begin,
                                                                                                 count, error, changed)));
  return cudaGetLastError();
}
