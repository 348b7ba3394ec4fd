/* The results of attention_decode.cu as its blocks leave them, one sum per split of the positions, and how they are merged. */
#ifndef BPDQ_CUDA_ATTENTION_SUMS_CUH
#define BPDQ_CUDA_ATTENTION_SUMS_CUH

#include "kernels/device.cuh"

#define ATTENTION_MAX_SPLITS 32 /* a lane of a warp has the statistics of one */

/* How the positions of a token's sequence are divided: chunks of whole blocks of 32 cache rows, counted from the latest one back, `share`
 * of them to a split. */
typedef struct split_positions {
  int chunks, share, splits;
} split_positions;

__device__ __forceinline__ static split_positions split_of(const bpdq_cuda_attention_sums &a, int sequence, int position) {
  int64_t start = sequence * a.context;
  int rows = (int)(((start + position) | 31) - (start & ~(int64_t)31)); /* less one */
  split_positions s;
  s.chunks = rows / a.chunk + 1;
  s.share = (s.chunks + a.splits - 1) / a.splits;
  s.splits = (s.chunks + s.share - 1) / s.share;
  return s;
}
__device__ __forceinline__ static split_positions split_of(const bpdq_cuda_attention_sums &a, int token) {
  return split_of(a, __ldcg(a.run.sequences + token), __ldcg(a.run.positions + token));
}

/* One dim of the result. All lanes of a warp have the same token and head. */
__device__ __forceinline__ static float merged_dim(const bpdq_cuda_attention_sums &a, const split_positions &s, int token, int head,
                                                   int dim) {
  constexpr int BATCH = ATTENTION_MAX_SPLITS / 2; /* splits; all sums are requested at once */
  int active = s.splits, lane = threadIdx.x & 31;
  int64_t first = ((int64_t)token * a.heads + head) * a.splits;
  const float *from = a.sums + first * a.width + dim;
  if (active == 1) return __ldcg(from) / __ldcg(a.statistics + first).y;
  float parts[2][BATCH];
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int i = 0; i < BATCH; i++) parts[half][i] = half * BATCH + i < active ? __ldcg(from + (half * BATCH + i) * a.width) : 0;
  float2 own = lane < active ? __ldcg(a.statistics + first + lane) : make_float2(-INFINITY, 0);
  float largest = warp_max(own.x), factor = exp2f(own.x - (largest == -INFINITY ? 0 : largest));
  factor /= warp_sum(factor * own.y);
  float total = 0;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (half * BATCH >= active) break;
#pragma unroll
    for (int i = 0; i < BATCH; i++) total = fmaf(__shfl_sync(~0u, factor, half * BATCH + i), parts[half][i], total);
  }
  return total;
}

#endif
