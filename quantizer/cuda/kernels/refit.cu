/* Joint least squares over all coefficients of a row (quantizer/cpu/refit.c has the mathematics): the design, D^T R, and D^T Hd D by
 * blocks of groups from the products Hd D that a matrix product left. One thread is one row. */
#include "levels.cuh"

enum { THREADS = 128 };

template <int PLANES>
static __global__ void add_right(bpdq_gpu_refit f, const float *residual, int splits, int64_t begin, int64_t columns) {
  const bpdq_gpu_state &s = f.state;
  int64_t row = (int64_t)blockIdx.x * BPDQ_GPU_LANES + threadIdx.x;
  float sum[PLANES + 1] = {};
  for (int64_t j = 0; j < columns; j++) {
    float value = 0;
    for (int part = 0; part < splits; part++) value += residual[(part * columns + j) * s.stride + row];
    unsigned code = s.codes[(begin + j) * s.stride + row];
#pragma unroll
    for (int p = 0; p < PLANES; p++) sum[p] += code >> p & 1u ? value : 0.0f;
    sum[PLANES] += value;
    if ((begin + j + 1) % s.group && j + 1 < columns) continue;
    float *to = f.right + (begin + j) / s.group * (PLANES + 1) * s.stride + row;
#pragma unroll
    for (int p = 0; p <= PLANES; p++) {
      to[p * s.stride] += sum[p];
      sum[p] = 0;
    }
  }
}

cudaError_t bpdq_gpu_add_right(const bpdq_gpu_refit *refit, const float *residual, int splits, int64_t begin, int64_t columns,
                               cudaStream_t stream) {
  unsigned blocks = (unsigned)(refit->state.stride / BPDQ_GPU_LANES);
  BPDQ_GPU_FOR_PLANES(refit->state.planes,
                      (add_right<PLANES><<<blocks, BPDQ_GPU_LANES, 0, stream>>>(*refit, residual, splits, begin, columns)));
  return cudaGetLastError();
}

static __global__ void fill_design(bpdq_gpu_refit f) {
  int64_t i = blockIdx.x;
  for (int64_t r = threadIdx.x; r < f.count; r += THREADS) {
    unsigned code = f.state.codes[i * f.state.stride + f.first + r];
    for (int p = 0; p < f.state.planes; p++) f.design[(i * f.state.planes + p) * f.count + r] = (float)(code >> p & 1u);
  }
}

cudaError_t bpdq_gpu_design(const bpdq_gpu_refit *refit, cudaStream_t stream) {
  fill_design<<<(unsigned)refit->state.padded, THREADS, 0, stream>>>(*refit);
  return cudaGetLastError();
}

/* Rows (q, .) against the columns (column_group, .) for q = column_group + blockIdx.y. */
template <int PLANES>
static __global__ void gram_column(bpdq_gpu_refit f, int64_t column_group) {
  const bpdq_gpu_state &s = f.state;
  const int64_t r = (int64_t)blockIdx.x * THREADS + threadIdx.x, q = column_group + blockIdx.y, group = s.group, groups = s.padded / group;
  if (r >= f.count) return;
  float sum[PLANES + 1][PLANES + 1] = {};
  for (int64_t i = q * group; i < (q + 1) * group; i++) {
    unsigned code = s.codes[i * s.stride + f.first + r];
    const float *product = f.product + (i - column_group * group) * PLANES * f.count + r;
    float ones = f.sums[i * groups + column_group];
#pragma unroll
    for (int b = 0; b <= PLANES; b++) {
      float value = b < PLANES ? product[b * f.count] : ones;
#pragma unroll
      for (int a = 0; a < PLANES; a++) sum[a][b] += code >> a & 1u ? value : 0.0f;
      sum[PLANES][b] += value;
    }
  }
  float *system = f.systems + r * (f.unknowns + 1) * f.unknowns;
#pragma unroll
  for (int a = 0; a <= PLANES; a++)
#pragma unroll
    for (int b = 0; b <= PLANES; b++) system[(q * (PLANES + 1) + a) * f.unknowns + column_group * (PLANES + 1) + b] = sum[a][b];
}

cudaError_t bpdq_gpu_gram_column(const bpdq_gpu_refit *refit, int64_t group, cudaStream_t stream) {
  int64_t groups = refit->state.padded / refit->state.group;
  dim3 grid((unsigned)((refit->count + THREADS - 1) / THREADS), (unsigned)(groups - group));
  BPDQ_GPU_FOR_PLANES(refit->state.planes, (gram_column<PLANES><<<grid, THREADS, 0, stream>>>(*refit, group)));
  return cudaGetLastError();
}
