/* What happens to activations before a product: RMS norm or gated SiLU, then conversion to what the product's kernel reads. */
#include "kernels/device.cuh"

#define THREADS 256

enum { KIND_NONE, KIND_RMS_NORM, KIND_SILU_GATE }; /* bpdq_transform_kind */

__device__ static float block_sum(float value) {
  __shared__ float parts[32];
  value = warp_sum(value);
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = value;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < (int)(blockDim.x >> 5); i++) sum += parts[i];
  __syncthreads();
  return sum;
}

__device__ static float block_max(float value) {
  __shared__ float parts[32];
  value = warp_max(value);
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = value;
  __syncthreads();
  float largest = 0;
  for (int i = 0; i < (int)(blockDim.x >> 5); i++) largest = fmaxf(largest, parts[i]);
  __syncthreads();
  return largest;
}

__device__ static const float *input_row(const bpdq_cuda_prepare &p, int row) {
  int64_t source = p.last ? *p.run.tokens - 1 : row;
  return p.input + source * p.width * (p.kind == KIND_SILU_GATE ? 2 : 1);
}

/* The factor that RMS norm gives the row; 1 for the other kinds. Every block of a row finds the same number. */
__device__ static float row_factor(const bpdq_cuda_prepare &p, const float *x) {
  if (p.kind != KIND_RMS_NORM) return 1;
  float sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) sum = fmaf(x[i], x[i], sum);
  return 1.0f / sqrtf(block_sum(sum) / (float)p.width + p.epsilon);
}

__device__ static float transformed(const bpdq_cuda_prepare &p, const float *x, float factor, int64_t column) {
  if (column >= p.width) return 0;
  if (p.kind == KIND_RMS_NORM) return x[column] * factor * p.norm[column];
  if (p.kind == KIND_SILU_GATE) return x[column] / (1.0f + expf(-x[column])) * x[p.width + column];
  return x[column];
}

__global__ void __launch_bounds__(THREADS) copy_scalars_kernel(const int32_t *host, int32_t *device, int64_t count) {
  let_dependents_launch();
  for (int64_t i = threadIdx.x; i < count; i += THREADS) device[i] = host[i];
}

cudaError_t bpdq_cuda_copy_scalars(const bpdq_cuda_queue *queue, const int32_t *host, int32_t *device, int64_t count) {
  void *arguments[] = {&host, &device, &count};
  return launch_as(queue, false, (const void *)copy_scalars_kernel, 1, THREADS, 0, arguments);
}

__global__ void __launch_bounds__(THREADS) prepare_f32_kernel(bpdq_cuda_prepare p, float *output, int64_t stride) {
  let_dependents_launch();
  wait_for_predecessors();
  int row = blockIdx.y;
  if (row >= row_count(p.run, p.last)) return;
  const float *x = input_row(p, row);
  float factor = row_factor(p, x);
  int64_t column = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (column < stride) output[row * stride + column] = transformed(p, x, factor, column);
}

template <bool BF16>
__global__ void __launch_bounds__(THREADS) prepare_pair_kernel(bpdq_cuda_prepare p, uint16_t *high, uint16_t *low, int64_t stride) {
  let_dependents_launch();
  wait_for_predecessors();
  int row = blockIdx.y;
  if (row >= row_count(p.run, p.last)) return;
  const float *x = input_row(p, row);
  float factor = row_factor(p, x);
  int64_t column = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (column >= stride) return;
  float value = transformed(p, x, factor, column);
  if (BF16) {
    __nv_bfloat16 first = __float2bfloat16(value);
    high[row * stride + column] = __bfloat16_as_ushort(first);
    low[row * stride + column] = __bfloat16_as_ushort(__float2bfloat16(value - __bfloat162float(first)));
  } else {
    __half first = __float2half(value);
    high[row * stride + column] = __half_as_ushort(first);
    low[row * stride + column] = __half_as_ushort(__float2half(value - __half2float(first)));
  }
}

/* One block per column tile and row: a thread is a column, a warp is one word of each bit-plane. */
template <int SLICES, int GROUP>
__global__ void __launch_bounds__(THREADS) prepare_bits_kernel(bpdq_cuda_prepare p, uint32_t *bits, float2 *scales) {
  constexpr int WARPS_PER_GROUP = GROUP / 32, GROUPS = 256 / GROUP;
  constexpr float LIMIT = SLICES == 1 ? 127.0f : 32767.0f;
  __shared__ float maxima[8];
  __shared__ int sums[8];
  let_dependents_launch();
  wait_for_predecessors();
  int row = blockIdx.y, tile = blockIdx.x, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  if (row >= row_count(p.run, p.last)) return;
  const float *x = input_row(p, row);
  float value = transformed(p, x, row_factor(p, x), (int64_t)tile * 256 + threadIdx.x);

  float largest = warp_max(fabsf(value));
  if (lane == 0) maxima[warp] = largest;
  __syncthreads();
  int first = warp / WARPS_PER_GROUP * WARPS_PER_GROUP;
#pragma unroll
  for (int i = 0; i < WARPS_PER_GROUP; i++) largest = fmaxf(largest, maxima[first + i]);
  int code = largest > 0 ? __float2int_rn(value * (LIMIT / largest)) : 0;
  code = max(-(int)LIMIT, min((int)LIMIT, code));

  uint32_t mine = 0;
#pragma unroll
  for (int bit = 0; bit < 8 * SLICES; bit++) {
    uint32_t word = __ballot_sync(~0u, (code >> bit) & 1);
    if (lane == bit) mine = word;
  }
  int64_t tile_index = (int64_t)row * gridDim.x + tile;
  if (lane < 8 * SLICES) bits[(tile_index * SLICES + (lane >> 3)) * 64 + bpdq_cuda_bit_word(lane & 7, warp)] = mine;

  int sum = __reduce_add_sync(~0u, code);
  if (lane == 0) sums[warp] = sum;
  __syncthreads();
  if (threadIdx.x < GROUPS) {
    int total = 0;
    float maximum = 0;
#pragma unroll
    for (int i = 0; i < WARPS_PER_GROUP; i++) {
      total += sums[threadIdx.x * WARPS_PER_GROUP + i];
      maximum = fmaxf(maximum, maxima[threadIdx.x * WARPS_PER_GROUP + i]);
    }
    float scale = maximum / LIMIT;
    scales[tile_index * GROUPS + threadIdx.x] = make_float2(scale, scale * (float)total);
  }
}

/* One block per row: the row's largest magnitude gives a power of two that keeps the halves below 2^11, far from both ends of f16. */
__global__ void __launch_bounds__(1024) prepare_half_kernel(bpdq_cuda_prepare p, int64_t stride, __half *halves, float *row_scale) {
  let_dependents_launch();
  wait_for_predecessors();
  int row = blockIdx.x;
  if (row >= row_count(p.run, p.last)) return;
  const float *x = input_row(p, row);
  float factor = row_factor(p, x), largest = 0;
  for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) largest = fmaxf(largest, fabsf(transformed(p, x, factor, i)));
  largest = block_max(largest);
  int exponent = 0;
  if (largest > 0 && largest < INFINITY) frexpf(largest, &exponent);
  float shrink = ldexpf(1.0f, 11 - exponent);
  for (int64_t i = threadIdx.x; i < stride; i += blockDim.x) {
    int64_t position = (i & ~(int64_t)127) + bpdq_cuda_half_position((int)(i & 127));
    halves[row * stride + position] = __float2half(transformed(p, x, factor, i) * shrink);
  }
  if (threadIdx.x == 0) row_scale[row] = ldexpf(1.0f, exponent - 11);
}

cudaError_t bpdq_cuda_prepare_f32(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, float *output, int64_t stride) {
  void *arguments[] = {(void *)prepare, &output, &stride};
  return launch(queue, (const void *)prepare_f32_kernel, dim3(blocks_for(stride, THREADS), (unsigned)prepare->max_rows), THREADS, 0,
                arguments);
}

cudaError_t bpdq_cuda_prepare_pair(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, int dtype, void *high, void *low,
                                   int64_t stride) {
  const void *kernel = dtype == BPDQ_CUDA_BF16 ? (const void *)prepare_pair_kernel<true> : (const void *)prepare_pair_kernel<false>;
  void *arguments[] = {(void *)prepare, &high, &low, &stride};
  return launch(queue, kernel, dim3(blocks_for(stride, THREADS), (unsigned)prepare->max_rows), THREADS, 0, arguments);
}

template <int SLICES>
static const void *bits_kernel(int group) {
  if (group == 64) return (const void *)prepare_bits_kernel<SLICES, 64>;
  if (group == 128) return (const void *)prepare_bits_kernel<SLICES, 128>;
  return (const void *)prepare_bits_kernel<SLICES, 256>;
}

cudaError_t bpdq_cuda_prepare_bits(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, int slices, int group,
                                   int64_t column_tiles, uint32_t *bits, float2 *scales) {
  const void *kernel = slices == 1 ? bits_kernel<1>(group) : bits_kernel<2>(group);
  void *arguments[] = {(void *)prepare, &bits, &scales};
  return launch(queue, kernel, dim3((unsigned)column_tiles, (unsigned)prepare->max_rows), THREADS, 0, arguments);
}

cudaError_t bpdq_cuda_prepare_half(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, int64_t column_tiles, void *halves,
                                   float *row_scale) {
  int64_t stride = column_tiles * 256;
  unsigned threads = stride >= 1024 ? 1024 : 256;
  void *arguments[] = {(void *)prepare, &stride, &halves, &row_scale};
  return launch(queue, (const void *)prepare_half_kernel, dim3((unsigned)prepare->max_rows), threads, 0, arguments);
}
