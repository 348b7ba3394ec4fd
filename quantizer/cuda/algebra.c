/* The CUDA back end: device, stream, libraries, memory, and the table of functions. */
#include <stdlib.h>

#include "core/checked.h"
#include "cuda/no_device.h"
#include "gpu_algebra.h"

/* ---- errors ---- */

bpdq_status bpdq_gpu_check(cudaError_t result, const char *what, bpdq_error *error) {
  if (result == cudaSuccess) return BPDQ_OK;
  (void)cudaGetLastError(); /* forgets what is not sticky */
  if (result == cudaErrorMemoryAllocation) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of device memory", what);
  return bpdq_fail(error, BPDQ_ERROR_DEVICE, "%s: CUDA: %s", what, cudaGetErrorString(result));
}

bpdq_status bpdq_gpu_check_blas(cublasStatus_t result, const char *what, bpdq_error *error) {
  if (result == CUBLAS_STATUS_SUCCESS) return BPDQ_OK;
  return bpdq_fail(error, result == CUBLAS_STATUS_ALLOC_FAILED ? BPDQ_ERROR_MEMORY : BPDQ_ERROR_DEVICE, "%s: cuBLAS failed with status %d",
                   what, (int)result);
}

bpdq_status bpdq_gpu_check_solver(cusolverStatus_t result, const char *what, bpdq_error *error) {
  if (result == CUSOLVER_STATUS_SUCCESS) return BPDQ_OK;
  return bpdq_fail(error, result == CUSOLVER_STATUS_ALLOC_FAILED ? BPDQ_ERROR_MEMORY : BPDQ_ERROR_DEVICE,
                   "%s: cuSOLVER failed with status %d", what, (int)result);
}

/* ---- memory ---- */

bpdq_status bpdq_gpu_allocate(gpu_algebra *gpu, int64_t count, size_t size, const char *what, void *memory, bpdq_error *error) {
  size_t bytes;
  void *made = NULL;
  if (count < 0 || __builtin_mul_overflow((size_t)count, size, &bytes))
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: too large for any device", what);
  cudaError_t result = cudaErrorMemoryAllocation;
  if (!gpu->memory_limit || bytes <= bpdq_gpu_available(gpu)) result = cudaMallocAsync(&made, bytes ? bytes : 1, gpu->stream);
  if (result == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    return bpdq_fail(error, BPDQ_ERROR_MEMORY,
                     "%s: out of device memory: %.1f MiB more are needed and %.1f MiB are free; let it have more (--device-memory), or use "
                     "shorter or fewer windows (--seqlen, --samples)",
                     what, (double)bytes / (1 << 20), (double)bpdq_gpu_available(gpu) / (1 << 20));
  }
  BPDQ_TRY(bpdq_gpu_check(result, what, error));
  *(void **)memory = made;
  return BPDQ_OK;
}

void bpdq_gpu_free(gpu_algebra *gpu, void *memory) {
  if (memory) (void)cudaFreeAsync(memory, gpu->stream);
}

static uint64_t pool_bytes(gpu_algebra *gpu, enum cudaMemPoolAttr attribute) {
  uint64_t bytes = 0;
  return cudaMemPoolGetAttribute(gpu->pool, attribute, &bytes) == cudaSuccess ? bytes : 0;
}

uint64_t bpdq_gpu_available(gpu_algebra *gpu) {
  size_t unused = 0, total = 0;
  uint64_t reserved = pool_bytes(gpu, cudaMemPoolAttrReservedMemCurrent), used = pool_bytes(gpu, cudaMemPoolAttrUsedMemCurrent);
  if (cudaMemGetInfo(&unused, &total) != cudaSuccess) return 0;
  /* What the pool holds and has not given out is free as well. */
  uint64_t available = unused + (reserved > used ? reserved - used : 0), limit = gpu->memory_limit;
  if (!limit || used + available <= limit) return available;
  return limit > used ? limit - used : 0;
}

uint64_t bpdq_gpu_memory(gpu_algebra *gpu) {
  size_t unused = 0, total = 0;
  if (cudaMemGetInfo(&unused, &total) != cudaSuccess) return 0;
  return gpu->memory_limit && gpu->memory_limit < total ? gpu->memory_limit : total;
}

static void limit_memory(bpdq_algebra *algebra, uint64_t bytes) { ((gpu_algebra *)algebra)->memory_limit = bytes; }

static uint64_t peak_memory(bpdq_algebra *algebra) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  (void)cudaSetDevice(gpu->device);
  return pool_bytes(gpu, cudaMemPoolAttrUsedMemHigh);
}

/* Errors come to light at the next call. */
static void wait(bpdq_algebra *algebra) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  (void)cudaSetDevice(gpu->device);
  (void)cudaStreamSynchronize(gpu->stream);
}

bpdq_status bpdq_gpu_upload(gpu_algebra *gpu, void *to, const void *from, int64_t count, size_t size, const char *what, bpdq_error *error) {
  return bpdq_gpu_check(cudaMemcpyAsync(to, from, (size_t)count * size, cudaMemcpyDefault, gpu->stream), what, error);
}

bpdq_status bpdq_gpu_download(gpu_algebra *gpu, void *to, const void *from, int64_t count, size_t size, const char *what,
                              bpdq_error *error) {
  BPDQ_TRY(bpdq_gpu_check(cudaMemcpyAsync(to, from, (size_t)count * size, cudaMemcpyDeviceToHost, gpu->stream), what, error));
  return bpdq_gpu_check(cudaStreamSynchronize(gpu->stream), what, error);
}

bpdq_status bpdq_gpu_clear(gpu_algebra *gpu, void *memory, int64_t count, size_t size, const char *what, bpdq_error *error) {
  return bpdq_gpu_check(cudaMemsetAsync(memory, 0, (size_t)count * size, gpu->stream), what, error);
}

/* ---- life ---- */

static void destroy(bpdq_algebra *algebra) {
  if (!algebra) return;
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  (void)cudaSetDevice(gpu->device);
  if (gpu->stream) {
    bpdq_gpu_free(gpu, gpu->flag);
    (void)cudaStreamSynchronize(gpu->stream);
  }
  bpdq_gpu_staging_free(&gpu->staging);
  if (gpu->solver) gpu->libraries.solver_destroy(gpu->solver);
  if (gpu->blas) gpu->libraries.blas_destroy(gpu->blas);
  if (gpu->pool) (void)cudaMemPoolTrimTo(gpu->pool, 0);
  if (gpu->stream) (void)cudaStreamDestroy(gpu->stream);
  bpdq_gpu_libraries_unload(&gpu->libraries);
  free(gpu);
}

static int64_t weights(const bpdq_work *work) { return work->state.rows * work->inputs->columns; }

static const bpdq_algebra INTERFACE = {
    .name = "cuda",
    .destroy = destroy,
    .wait = wait,
    .limit_memory = limit_memory,
    .peak_memory = peak_memory,
    .streams_create = bpdq_gpu_streams_create,
    .statistics_create = bpdq_gpu_statistics_create,
    .statistics_destroy = bpdq_gpu_statistics_destroy,
    .statistics_add = bpdq_gpu_statistics_add,
    .statistics_set = bpdq_gpu_statistics_set,
    .statistics_finish = bpdq_gpu_statistics_finish,
    .statistics_read = bpdq_gpu_statistics_read,
    .statistics_merge = bpdq_gpu_statistics_merge,
    .statistics_copy = bpdq_gpu_statistics_copy,
    .inputs_create = bpdq_gpu_inputs_create,
    .inputs_destroy = bpdq_gpu_inputs_destroy,
    .work_create = bpdq_gpu_work_create,
    .work_destroy = bpdq_gpu_work_destroy,
    .weights = weights,
    .uniform = bpdq_gpu_uniform,
    .walk = bpdq_gpu_walk_all,
    .sweep = bpdq_gpu_sweep,
    .refit = bpdq_gpu_refit_all,
    .keep_best = bpdq_gpu_keep_best,
    .restore_best = bpdq_gpu_restore_best,
    .objective = bpdq_gpu_objective,
    .result = bpdq_gpu_result,
};

static bpdq_status fail_without_device(cudaError_t result, bpdq_error *error) {
  char reason[256];
  bpdq_cuda_no_device(result, reason, sizeof reason);
  return bpdq_fail(error, BPDQ_ERROR_DEVICE, "algebra cuda: no usable CUDA device: %s; use the algebra cpu", reason);
}

static bpdq_status open_device(gpu_algebra *gpu, int device, bpdq_error *error) {
  int count = 0, pools = 0;
  cudaError_t result = cudaGetDeviceCount(&count);
  if (result != cudaSuccess || count < 1) {
    (void)cudaGetLastError();
    return fail_without_device(result, error);
  }
  if (device < 0 || device >= count)
    return count == 1 ? bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "algebra cuda: there is no CUDA device %d; only device 0 is there", device)
                      : bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "algebra cuda: there is no CUDA device %d; devices 0 to %d are there", device,
                                  count - 1);
  gpu->device = device;
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(device), "algebra cuda", error));
  BPDQ_TRY(bpdq_gpu_check(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, device), "algebra cuda", error));
  if (!pools) return bpdq_fail(error, BPDQ_ERROR_DEVICE, "algebra cuda: no usable CUDA device (device %d has no memory pools)", device);
  return bpdq_gpu_check(cudaDeviceGetAttribute(&gpu->multiprocessors, cudaDevAttrMultiProcessorCount, device), "algebra cuda", error);
}

static bpdq_status start(gpu_algebra *gpu, int device, bpdq_error *error) {
  const char *what = "algebra cuda";
  BPDQ_TRY(open_device(gpu, device, error));
  BPDQ_TRY(bpdq_gpu_libraries_load(&gpu->libraries, error));
  BPDQ_TRY(bpdq_gpu_check(cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking), what, error));
  BPDQ_TRY(bpdq_gpu_check(cudaDeviceGetDefaultMemPool(&gpu->pool, device), what, error));
  uint64_t keep = UINT64_MAX;
  BPDQ_TRY(bpdq_gpu_check(cudaMemPoolSetAttribute(gpu->pool, cudaMemPoolAttrReleaseThreshold, &keep), what, error));
  BPDQ_TRY(bpdq_gpu_check_blas(gpu->libraries.blas_create(&gpu->blas), what, error));
  BPDQ_TRY(bpdq_gpu_check_blas(gpu->libraries.blas_set_stream(gpu->blas, gpu->stream), what, error));
  BPDQ_TRY(bpdq_gpu_check_solver(gpu->libraries.solver_create(&gpu->solver), what, error));
  BPDQ_TRY(bpdq_gpu_check_solver(gpu->libraries.solver_set_stream(gpu->solver, gpu->stream), what, error));
  return bpdq_gpu_allocate(gpu, 1, sizeof *gpu->flag, what, &gpu->flag, error);
}

bpdq_status bpdq_cuda_algebra_create(int device, bpdq_algebra **algebra, bpdq_error *error) {
  *algebra = NULL;
  gpu_algebra *gpu = calloc(1, sizeof *gpu);
  if (!gpu) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "quantizer: out of memory");
  gpu->base = INTERFACE;
  bpdq_status status = start(gpu, device, error);
  if (status != BPDQ_OK) {
    destroy(&gpu->base);
    return status;
  }
  *algebra = &gpu->base;
  return BPDQ_OK;
}
