/* The state of one linear: into walk order, T - Q, objectives per row, and the best state of each row. */
#include "levels.cuh"

enum { THREADS = 256, TILE = 32 };

/* A transposition through shared memory: rows of W become columns of the walk order. */
static __global__ void to_walk_order(const float *weight, const double *step, int64_t rows, int64_t columns, const int32_t *order,
                                     const uint8_t *skip, int64_t padded, int64_t stride, int64_t first, float *out) {
  __shared__ float tile[TILE][TILE + 1];
  int64_t position = (int64_t)blockIdx.x * TILE, row = (int64_t)blockIdx.y * TILE;
  int lane = (int)threadIdx.x;
  int64_t from = position + lane, column = from < padded ? order[from] : columns;
  bool nothing = column >= columns || (skip && skip[from]);
  for (int r = (int)threadIdx.y; r < TILE; r += THREADS / TILE) {
    float value = 0;
    if (!nothing && row + r < rows) {
      value = weight[(row + r) * columns + column];
      if (step) value = (float)((double)value + step[(row + r) * columns + column]);
    }
    tile[r][lane] = value;
  }
  __syncthreads();
  for (int i = (int)threadIdx.y; i < TILE; i += THREADS / TILE)
    if (position + i < padded && row + lane < rows) out[(position + i) * stride + first + row + lane] = tile[lane][i];
}

cudaError_t bpdq_gpu_to_walk_order(const float *weight, const double *step, int64_t rows, int64_t columns, const int32_t *order,
                                   const uint8_t *skip, const bpdq_gpu_state *state, int64_t first, float *out, cudaStream_t stream) {
  dim3 grid((unsigned)((state->padded + TILE - 1) / TILE), (unsigned)((rows + TILE - 1) / TILE)), block(TILE, THREADS / TILE);
  to_walk_order<<<grid, block, 0, stream>>>(weight, step, rows, columns, order, skip, state->padded, state->stride, first, out);
  return cudaGetLastError();
}

static __global__ void difference(bpdq_gpu_state s, const float *source, bool zero, const int32_t *order, int64_t columns, float *out) {
  int64_t i = blockIdx.x, to = order ? order[i] : i;
  if (order && to >= columns) return;
  const float *coefficients = s.coefficients + i / s.group * (s.planes + 1) * s.stride;
  for (int64_t row = threadIdx.x; row < s.stride; row += THREADS) {
    float value = source[i * s.stride + row];
    if (!zero) value -= level_value(coefficients + row, s.stride, s.planes, s.codes[i * s.stride + row]);
    out[to * s.stride + row] = value;
  }
}

cudaError_t bpdq_gpu_difference(const bpdq_gpu_state *state, const float *source, bool zero, const int32_t *order, int64_t columns,
                                float *out, cudaStream_t stream) {
  difference<<<(unsigned)state->padded, THREADS, 0, stream>>>(*state, source, zero, order, columns, out);
  return cudaGetLastError();
}

static __global__ void add_objective(int64_t rows, int64_t stride, const float *error, const float *residual, int splits, int64_t count,
                                     double *sums) {
  int64_t row = (int64_t)blockIdx.x * BPDQ_GPU_LANES + threadIdx.x;
  if (row >= rows) return;
  double sum = 0;
  for (int64_t j = 0; j < count; j++) {
    double value = 0;
    for (int s = 0; s < splits; s++) value += (double)residual[(s * count + j) * stride + row];
    sum += value * (double)error[j * stride + row];
  }
  sums[row] += sum;
}

cudaError_t bpdq_gpu_add_objective(const bpdq_gpu_state *state, const float *error, const float *residual, int splits, int64_t count,
                                   double *sums, cudaStream_t stream) {
  add_objective<<<(unsigned)(state->stride / BPDQ_GPU_LANES), BPDQ_GPU_LANES, 0, stream>>>(state->rows, state->stride, error, residual,
                                                                                           splits, count, sums);
  return cudaGetLastError();
}

static __global__ void total_of(const double *sums, int64_t rows, double *total) {
  __shared__ double partial[THREADS];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < rows; i += THREADS) sum += sums[i];
  partial[threadIdx.x] = sum;
  __syncthreads();
  for (int half = THREADS / 2; half; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) *total = partial[0];
}

cudaError_t bpdq_gpu_total(const double *sums, int64_t rows, double *total, cudaStream_t stream) {
  total_of<<<1, THREADS, 0, stream>>>(sums, rows, total);
  return cudaGetLastError();
}

static __global__ void mark_better(const double *objective, int64_t rows, double *best, uint8_t *better) {
  int64_t row = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (row >= rows) return;
  better[row] = objective[row] < best[row];
  if (better[row]) best[row] = objective[row];
}

cudaError_t bpdq_gpu_mark_better(const double *objective, int64_t rows, double *best, uint8_t *better, cudaStream_t stream) {
  mark_better<<<(unsigned)((rows + THREADS - 1) / THREADS), THREADS, 0, stream>>>(objective, rows, best, better);
  return cudaGetLastError();
}

static __global__ void mark_finite(const double *values, int64_t rows, uint8_t *marked) {
  int64_t row = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (row < rows) marked[row] = isfinite(values[row]) != 0;
}

cudaError_t bpdq_gpu_mark_finite(const double *values, int64_t rows, uint8_t *marked, cudaStream_t stream) {
  mark_finite<<<(unsigned)((rows + THREADS - 1) / THREADS), THREADS, 0, stream>>>(values, rows, marked);
  return cudaGetLastError();
}

/* Thread blocks 0 .. padded - 1 copy codes, the others coefficients. */
static __global__ void copy_rows(bpdq_gpu_state from, bpdq_gpu_state to, const uint8_t *marked) {
  int64_t i = blockIdx.x, term = i - from.padded;
  for (int64_t row = threadIdx.x; row < from.rows; row += THREADS) {
    if (!marked[row]) continue;
    if (term < 0)
      to.codes[i * from.stride + row] = from.codes[i * from.stride + row];
    else
      to.coefficients[term * from.stride + row] = from.coefficients[term * from.stride + row];
  }
}

cudaError_t bpdq_gpu_copy_rows(const bpdq_gpu_state *from, const bpdq_gpu_state *to, const uint8_t *marked, cudaStream_t stream) {
  int64_t terms = from->padded / from->group * (from->planes + 1);
  copy_rows<<<(unsigned)(from->padded + terms), THREADS, 0, stream>>>(*from, *to, marked);
  return cudaGetLastError();
}
