/* K x K matrices: sums of outer products, H in walk order, the factor and its diagonal blocks inverted. One thread block per row. */
#include "levels.cuh"

enum { THREADS = 256 };

static __global__ void accumulate(const float *product, int64_t first, int64_t width, double *sum) {
  const float *from = product + blockIdx.x * width;
  double *to = sum + blockIdx.x * (first + width) + first;
  for (int64_t j = threadIdx.x; j < width; j += THREADS) to[j] += (double)from[j];
}

cudaError_t bpdq_gpu_accumulate(const float *product, int64_t rows, int64_t first, int64_t width, double *sum, cudaStream_t stream) {
  accumulate<<<(unsigned)rows, THREADS, 0, stream>>>(product, first, width, sum);
  return cudaGetLastError();
}

static __global__ void add_sums(const double *values, int64_t count, double *sum) {
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += (int64_t)gridDim.x * THREADS) sum[i] += values[i];
}

cudaError_t bpdq_gpu_add_sums(const double *values, int64_t count, double *sum, cudaStream_t stream) {
  enum { BLOCKS = 2048 }; /* fill any device */
  add_sums<<<BLOCKS, THREADS, 0, stream>>>(values, count, sum);
  return cudaGetLastError();
}

static __global__ void finish(const double *sum, int64_t columns, double scale, bool symmetric, const float *subtract, float *out,
                              int *not_finite) {
  int64_t i = blockIdx.x;
  for (int64_t j = threadIdx.x; j < columns; j += THREADS) {
    double value = scale * (symmetric && j < i ? sum[j * columns + i] : sum[i * columns + j]);
    if (subtract) value -= (double)subtract[i * columns + j];
    float rounded = (float)value;
    if (!(fabsf(rounded) <= 3.402823466e38f)) *not_finite = 1;
    out[i * columns + j] = rounded;
  }
}

cudaError_t bpdq_gpu_finish(const double *sum, int64_t rows, int64_t columns, double scale, bool symmetric, const float *subtract,
                            float *out, int *not_finite, cudaStream_t stream) {
  finish<<<(unsigned)rows, THREADS, 0, stream>>>(sum, columns, scale, symmetric, subtract, out, not_finite);
  return cudaGetLastError();
}

template <typename T>
static __global__ void gather(bpdq_gpu_gather_args a, bool reversed, T *out) {
  int64_t n = a.padded, to_row = blockIdx.x, i = reversed ? n - 1 - to_row : to_row;
  int64_t row = a.order ? a.order[i] : i;
  for (int64_t to = threadIdx.x; to < n; to += THREADS) {
    int64_t j = reversed ? n - 1 - to : to, column = a.order ? a.order[j] : j;
    bool inside = row < a.columns && column < a.columns;
    out[to_row * n + to] = i == j ? (T)a.diagonal[i] : inside ? (T)a.hessian[row * a.columns + column] : (T)0;
  }
}

cudaError_t bpdq_gpu_gather_metric(const bpdq_gpu_gather_args *args, float *out, cudaStream_t stream) {
  gather<float><<<(unsigned)args->padded, THREADS, 0, stream>>>(*args, false, out);
  return cudaGetLastError();
}

cudaError_t bpdq_gpu_gather_double(const bpdq_gpu_gather_args *args, bool reversed, double *out, cudaStream_t stream) {
  gather<double><<<(unsigned)args->padded, THREADS, 0, stream>>>(*args, reversed, out);
  return cudaGetLastError();
}

static __global__ void take_factor(const double *inverse_root, int64_t n, float *factor) {
  int64_t i = blockIdx.x;
  for (int64_t j = threadIdx.x; j < n; j += THREADS) factor[i * n + j] = j >= i ? (float)inverse_root[(n - 1 - i) * n + n - 1 - j] : 0.0f;
}

cudaError_t bpdq_gpu_take_factor(const double *inverse_root, int64_t n, float *factor, cudaStream_t stream) {
  take_factor<<<(unsigned)n, THREADS, 0, stream>>>(inverse_root, n, factor);
  return cudaGetLastError();
}

/* Back substitution; thread s owns column s. */
static __global__ void invert_local(const float *factor, int64_t n, int group, float *inverse, float *ones) {
  int s = (int)threadIdx.x;
  const float *block = factor + (blockIdx.x * n + blockIdx.x) * group;
  float *out = inverse + (int64_t)blockIdx.x * group * group;
  double total = 0;
  for (int t = group - 1; t >= 0; t--) {
    double sum = t == s ? 1.0 : 0.0;
    for (int m = t + 1; m <= s; m++) sum -= (double)block[t * n + m] * (double)out[m * group + s];
    double value = t <= s ? sum / (double)block[t * n + t] : 0.0;
    out[t * group + s] = (float)value;
    total += value;
  }
  ones[blockIdx.x * group + s] = (float)total;
}

cudaError_t bpdq_gpu_invert_local(const float *factor, int64_t n, int group, float *inverse, float *ones, cudaStream_t stream) {
  invert_local<<<(unsigned)(n / group), group, 0, stream>>>(factor, n, group, inverse, ones);
  return cudaGetLastError();
}

static __global__ void group_sums(const float *metric, int64_t n, int group, float *sums) {
  const float *row = metric + blockIdx.x * n;
  for (int64_t q = threadIdx.x; q < n / group; q += THREADS) {
    double sum = 0;
    for (int j = 0; j < group; j++) sum += (double)row[q * group + j];
    sums[blockIdx.x * (n / group) + q] = (float)sum;
  }
}

cudaError_t bpdq_gpu_group_sums(const float *metric, int64_t n, int group, float *sums, cudaStream_t stream) {
  group_sums<<<(unsigned)n, THREADS, 0, stream>>>(metric, n, group, sums);
  return cudaGetLastError();
}

static __global__ void widen(const float *in, int64_t count, double *out) {
  int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < count) out[i] = (double)in[i];
}

cudaError_t bpdq_gpu_widen(const float *in, int64_t count, double *out, cudaStream_t stream) {
  widen<<<(unsigned)((count + THREADS - 1) / THREADS), THREADS, 0, stream>>>(in, count, out);
  return cudaGetLastError();
}
