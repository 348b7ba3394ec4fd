/* The first kernel of a run: brings what the host has to say to the device. */
#include "kernels/device.cuh"

#define THREADS 256

/* All of it is requested at once, since a read of host memory takes over a microsecond: a thread's 16 bytes of the write before the header
 * says whether there are as many. The kernel's dependents start when it has ended: they read the scalars before they wait. */
__global__ void __launch_bounds__(THREADS)
    start_run_kernel(const int32_t *host, int32_t *device, int64_t count, const uint4 *written, int64_t most) {
  int64_t piece = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  const bpdq_cuda_run_header *header = (const bpdq_cuda_run_header *)host;
  uint4 own = make_uint4(0, 0, 0, 0);
  if (piece * 16 < most) own = written[piece];
  for (int64_t i = piece; i < count; i += (int64_t)gridDim.x * THREADS) device[i] = host[i];
  if (piece * 16 < header->written_bytes) ((uint4 *)header->written_to)[piece] = own;
}

cudaError_t bpdq_cuda_start_run(const bpdq_cuda_queue *queue, const int32_t *host, int32_t *device, int64_t count, const void *written,
                                int64_t written_bytes) {
  void *arguments[] = {&host, &device, &count, &written, &written_bytes};
  unsigned blocks = blocks_for(written_bytes / 16, THREADS);
  return launch_as(queue, false, (const void *)start_run_kernel, blocks ? blocks : 1, THREADS, 0, arguments);
}
