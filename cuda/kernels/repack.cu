/* From checkpoint order to the kernels' order (layout.h), and random contents for benchmarks. */
#include "kernels/device.cuh"

#define THREADS 256

/* A thread moves one lane's four words of a fragment: reads are runs of 8 rows, writes are 16 bytes per lane. Words outside this piece of
 * the weight are left alone, as a neighbouring piece writes them. */
__global__ void __launch_bounds__(THREADS)
    repack_words_kernel(const uint32_t *source, int64_t t_first, int64_t t_count, int64_t n_first, int64_t n_count, bpdq_cuda_planes planes,
                        uint32_t *words, int64_t tile_first, int64_t tile_rows, int64_t column_first, int64_t column_tiles) {
  int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  int lane = (int)(index & 31);
  int64_t plane = (index >> 5) % planes.planes, rest = (index >> 5) / planes.planes;
  int64_t column_tile = column_first + rest % column_tiles, row_tile = tile_first + rest / column_tiles;
  if (row_tile >= tile_first + tile_rows) return;
  int q = lane & 3, r = lane >> 2;
#pragma unroll
  for (int word = 0; word < 4; word++) {
    int64_t n = row_tile * 16 + r + 8 * (word & 1), t = column_tile * 8 + q + 4 * (word >> 1);
    if (n < n_first || n >= n_first + n_count || t < t_first || t >= t_first + t_count) continue;
    uint32_t value = source[((t - t_first) * planes.planes + plane) * n_count + n - n_first];
    words[bpdq_cuda_plane_word(n, t, (int)plane, planes.planes, planes.column_tiles)] = value;
  }
}

cudaError_t bpdq_cuda_repack_words(cudaStream_t stream, const uint32_t *words, int64_t t_first, int64_t t_count, int64_t n_first,
                                   int64_t n_count, const bpdq_cuda_planes *planes) {
  int64_t tile_first = n_first / 16, tile_rows = (n_first + n_count + 15) / 16 - tile_first;
  int64_t column_first = t_first / 8, column_tiles = (t_first + t_count + 7) / 8 - column_first;
  int64_t threads = tile_rows * column_tiles * planes->planes * 32;
  repack_words_kernel<<<blocks_for(threads, THREADS), THREADS, 0, stream>>>(
      words, t_first, t_count, n_first, n_count, *planes, (uint32_t *)planes->words, tile_first, tile_rows, column_first, column_tiles);
  return cudaGetLastError();
}

__device__ static float load_number(const void *source, int type, int64_t index) {
  if (type == BPDQ_CUDA_F32) return ((const float *)source)[index];
  if (type == BPDQ_CUDA_F16) return __half2float(((const __half *)source)[index]);
  return __bfloat162float(((const __nv_bfloat16 *)source)[index]);
}
__device__ static void store_number(void *target, int type, int64_t index, float value) {
  if (type == BPDQ_CUDA_F32)
    ((float *)target)[index] = value;
  else if (type == BPDQ_CUDA_F16)
    ((__half *)target)[index] = __float2half(value);
  else
    ((__nv_bfloat16 *)target)[index] = __float2bfloat16(value);
}

__global__ void __launch_bounds__(THREADS)
    repack_coefficients_kernel(const void *source, int type, int64_t group_first, int64_t group_count, int64_t n_first, int64_t n_count,
                               bpdq_cuda_planes planes, void *target) {
  int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (index >= group_count * (planes.planes + 1) * n_count) return;
  int64_t n = index % n_count, slot = index / n_count % (planes.planes + 1), group = index / n_count / (planes.planes + 1);
  int64_t to = bpdq_cuda_coefficient(n_first + n, group_first + group, (int)slot, planes.planes, planes.groups);
  store_number(target, planes.coefficient_type, to, load_number(source, type, index));
}

cudaError_t bpdq_cuda_repack_coefficients(cudaStream_t stream, const void *source, int type, int64_t group_first, int64_t group_count,
                                          int64_t n_first, int64_t n_count, const bpdq_cuda_planes *planes) {
  int64_t total = group_count * (planes->planes + 1) * n_count;
  repack_coefficients_kernel<<<blocks_for(total, THREADS), THREADS, 0, stream>>>(source, type, group_first, group_count, n_first, n_count,
                                                                                 *planes, (void *)planes->coefficients);
  return cudaGetLastError();
}

__global__ void __launch_bounds__(THREADS)
    repack_dense_kernel(const void *source, int type, int64_t n_first, int64_t n_count, bpdq_cuda_dense dense, void *target) {
  int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (index >= n_count * dense.columns) return;
  int64_t row = index / dense.columns, column = index % dense.columns;
  store_number(target, dense.type, (n_first + row) * dense.stride + column, load_number(source, type, index));
}

/* 8 bits: one warp per row and 256 columns; scale = largest magnitude / 127. */
__global__ void __launch_bounds__(THREADS) quantize_rows_kernel(const void *source, int type, int64_t n_first, int64_t n_count,
                                                                bpdq_cuda_dense dense, int8_t *target, float *scales) {
  int64_t blocks = dense.stride >> 8, unit = ((int64_t)blockIdx.x * THREADS + threadIdx.x) >> 5;
  int lane = threadIdx.x & 31;
  if (unit >= n_count * blocks) return;
  int64_t row = unit / blocks, block = unit % blocks;
  float value[8], largest = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    int64_t column = block * 256 + i * 32 + lane;
    value[i] = column < dense.columns ? load_number(source, type, row * dense.columns + column) : 0;
    largest = fmaxf(largest, fabsf(value[i]));
  }
  largest = warp_max(largest);
  float inverse = largest > 0 ? 127.0f / largest : 0;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    int code = max(-127, min(127, __float2int_rn(value[i] * inverse)));
    target[bpdq_cuda_q8_index(n_first + row, block * 256 + i * 32 + lane, blocks)] = (int8_t)code;
  }
  if (lane == 0) scales[((n_first + row) / 16 * blocks + block) * 16 + (n_first + row) % 16] = largest / 127.0f;
}

cudaError_t bpdq_cuda_repack_dense(cudaStream_t stream, const void *source, int type, int64_t n_first, int64_t n_count,
                                   const bpdq_cuda_dense *dense) {
  if (dense->type == BPDQ_CUDA_Q8) {
    int64_t threads = n_count * (dense->stride >> 8) * 32;
    quantize_rows_kernel<<<blocks_for(threads, THREADS), THREADS, 0, stream>>>(source, type, n_first, n_count, *dense,
                                                                               (int8_t *)dense->data, (float *)dense->scales);
  } else {
    repack_dense_kernel<<<blocks_for(n_count * dense->columns, THREADS), THREADS, 0, stream>>>(source, type, n_first, n_count, *dense,
                                                                                               (void *)dense->data);
  }
  return cudaGetLastError();
}

/* splitmix64 of the index: the same contents on every device and for every launch shape. */
__device__ static uint64_t random_bits(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

__global__ void __launch_bounds__(THREADS) random_words_kernel(uint32_t *words, uint64_t count, uint64_t seed) {
  for (uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += (uint64_t)gridDim.x * THREADS)
    words[i] = (uint32_t)(random_bits(seed, i) >> 16);
}

__global__ void __launch_bounds__(THREADS) random_numbers_kernel(void *data, int type, uint64_t count, float magnitude, uint64_t seed) {
  for (uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += (uint64_t)gridDim.x * THREADS) {
    float unit = (float)(int32_t)(random_bits(seed, i) >> 32) * 0x1p-31f;
    store_number(data, type, (int64_t)i, unit * magnitude);
  }
}

__global__ void __launch_bounds__(THREADS) fill_f32_kernel(float *data, uint64_t count, float value) {
  for (uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += (uint64_t)gridDim.x * THREADS) data[i] = value;
}

cudaError_t bpdq_cuda_random_words(cudaStream_t stream, uint32_t *words, uint64_t count, uint64_t seed) {
  random_words_kernel<<<4096, THREADS, 0, stream>>>(words, count, seed);
  return cudaGetLastError();
}
cudaError_t bpdq_cuda_random_numbers(cudaStream_t stream, void *data, int type, uint64_t count, float magnitude, uint64_t seed) {
  random_numbers_kernel<<<4096, THREADS, 0, stream>>>(data, type, count, magnitude, seed);
  return cudaGetLastError();
}
cudaError_t bpdq_cuda_fill_f32(cudaStream_t stream, float *data, uint64_t count, float value) {
  fill_f32_kernel<<<1024, THREADS, 0, stream>>>(data, count, value);
  return cudaGetLastError();
}
