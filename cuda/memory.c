/* Device memory: every allocation is counted and held below the cap. */
#include "internal.h"

/* What the driver really takes: pages of 2 MiB for large pieces, shared ones for small. */
static uint64_t granted(uint64_t bytes) {
  uint64_t unit = bytes >= (1u << 20) ? (uint64_t)2 << 20 : 512;
  return (bytes + unit - 1) / unit * unit;
}

bpdq_status cuda_check(cudaError_t result, bpdq_error *error, const char *doing) {
  if (result == cudaSuccess) return BPDQ_OK;
  cudaGetLastError(); /* clears what is not sticky */
  bpdq_status status = result == cudaErrorMemoryAllocation ? BPDQ_ERROR_MEMORY : BPDQ_ERROR_DEVICE;
  return bpdq_fail(error, status, "cuda: %s: %s (%s)", doing, cudaGetErrorString(result), cudaGetErrorName(result));
}

static bool reserve(cuda_backend *backend, uint64_t bytes) {
  bpdq_mutex_lock(backend->mutex);
  bool fits =
      !backend->memory_cap || (backend->memory_current <= backend->memory_cap && bytes <= backend->memory_cap - backend->memory_current);
  if (fits) {
    backend->memory_current += bytes;
    if (backend->memory_current > backend->memory_peak) backend->memory_peak = backend->memory_current;
  }
  bpdq_mutex_unlock(backend->mutex);
  return fits;
}

static void unreserve(cuda_backend *backend, uint64_t bytes) {
  bpdq_mutex_lock(backend->mutex);
  backend->memory_current -= bytes;
  bpdq_mutex_unlock(backend->mutex);
}

bpdq_status cuda_allocate(cuda_backend *backend, uint64_t bytes, const char *what, void **memory, uint64_t *charged, bpdq_error *error) {
  const double mib = 1 << 20;
  *memory = NULL;
  *charged = 0;
  if (bytes > (uint64_t)1 << 46) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "cuda: %s is too large for any device", what);
  uint64_t charge = granted(bytes ? bytes : 1);
  if (!reserve(backend, charge))
    return bpdq_fail(
        error, BPDQ_ERROR_MEMORY,
        "cuda: %s needs %.1f MiB; %.1f MiB are in use and the cap is %.1f MiB: raise --memory-cap, lower --ctx or use fewer planes", what,
        charge / mib, backend->memory_current / mib, backend->memory_cap / mib);
  cudaError_t result = cudaMalloc(memory, bytes ? bytes : 1);
  if (result == cudaSuccess) {
    *charged = charge;
    return BPDQ_OK;
  }
  *memory = NULL;
  cudaGetLastError();
  unreserve(backend, charge);
  if (result != cudaErrorMemoryAllocation) return cuda_check(result, error, what);
  return bpdq_fail(
      error, BPDQ_ERROR_MEMORY,
      "cuda: %s needs %.1f MiB, and the device has no room beside the %.1f MiB in use: lower --ctx, use fewer planes or another "
      "device",
      what, charge / mib, backend->memory_current / mib);
}

void cuda_release(cuda_backend *backend, void *memory, uint64_t charged) {
  if (!memory) return;
  cudaFree(memory);
  unreserve(backend, charged);
}
