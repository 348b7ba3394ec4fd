/* A plain read of a large buffer: the yardstick for every other kernel, and small enough to ask it what code was loaded. */
#include "kernels/device.cuh"

#define THREADS 512
#define UNROLL 8

__global__ void __launch_bounds__(THREADS) read_kernel(const uint4 *data, uint64_t count, uint32_t *sink) {
  uint32_t sum = 0;
  uint64_t stride = (uint64_t)gridDim.x * THREADS, i = (uint64_t)blockIdx.x * THREADS + threadIdx.x;
  for (; i + (UNROLL - 1) * stride < count; i += UNROLL * stride) {
    uint4 v[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; u++) v[u] = __ldcs(data + i + u * stride);
#pragma unroll
    for (int u = 0; u < UNROLL; u++) sum += v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
  }
  for (; i < count; i += stride) sum += data[i].x;
  if (sum == 0x12345678u) atomicAdd(sink, sum);
}

cudaError_t bpdq_cuda_code_version(int *version) {
  cudaFuncAttributes attributes = {};
  cudaError_t result = cudaFuncGetAttributes(&attributes, (const void *)read_kernel);
  if (result != cudaSuccess) cudaGetLastError();
  *version = result == cudaSuccess ? attributes.ptxVersion : 0;
  return result;
}

cudaError_t bpdq_cuda_read(cudaStream_t stream, const void *data, uint64_t bytes, int multiprocessors, uint32_t *sink) {
  read_kernel<<<(unsigned)multiprocessors * 4, THREADS, 0, stream>>>((const uint4 *)data, bytes / 16, sink);
  return cudaGetLastError();
}
