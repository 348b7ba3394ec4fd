/* Registration, device list, creation and the small entries of the backend. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "no_device.h"

#define PREFILL_TOKENS 512
#define BATCH_TOKENS 8
#define BANDWIDTH_BYTES ((uint64_t)4 << 30)
#define DEPENDENT_LAUNCH 90 /* code from here on waits for its predecessors (device.cuh) */

static void fill_info(int index, const struct cudaDeviceProp *properties, bpdq_device_info *info) {
  int version = 0;
  size_t available = 0, total = 0;
  memset(info, 0, sizeof *info);
  cudaDriverGetVersion(&version);
  snprintf(info->backend, sizeof info->backend, "cuda");
  info->index = index;
  snprintf(info->name, sizeof info->name, "%.250s", properties->name);
  snprintf(info->driver, sizeof info->driver, "CUDA driver %d.%d", version / 1000, version % 1000 / 10);
  snprintf(info->kind, sizeof info->kind, "%s", properties->integrated ? "integrated" : "discrete");
  info->memory_total = info->memory_free = properties->totalGlobalMem;
  bool selected = cudaSetDevice(index) == cudaSuccess;
  if (selected && cudaMemGetInfo(&available, &total) == cudaSuccess) info->memory_free = available;
  cudaGetLastError();
  int code = 0;
  cudaError_t loaded = selected ? bpdq_cuda_code_version(&code) : cudaSuccess;
  snprintf(info->features, sizeof info->features, "sm_%d%d graphs bit-mma%s", properties->major, properties->minor,
           code >= DEPENDENT_LAUNCH ? " dependent-launch" : "");
  if (properties->major < 8)
    snprintf(info->unusable, sizeof info->unusable, "compute capability %d.%d; 8.0 or newer is needed", properties->major,
             properties->minor);
  else if (loaded != cudaSuccess)
    snprintf(info->unusable, sizeof info->unusable, "the code of this build does not load on compute capability %d.%d: %s",
             properties->major, properties->minor, cudaGetErrorString(loaded));
}

/* 0 comes with the reason. */
static int device_count(char *reason, size_t size) {
  int count = 0;
  cudaError_t result = cudaGetDeviceCount(&count);
  if (result == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  bpdq_cuda_no_device(result, reason, size);
  return 0;
}

static size_t list_devices(bpdq_device_info *devices, size_t capacity, const bpdq_log *log) {
  char reason[256];
  int count = device_count(reason, sizeof reason);
  size_t listed = 0;
  if (!count) bpdq_log_info(log, "cuda: no device (%s)", reason);
  for (int i = 0; i < count; i++) {
    struct cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) {
      cudaGetLastError();
      continue;
    }
    if (listed < capacity) fill_info(i, &properties, &devices[listed]);
    listed++;
  }
  return listed;
}

static void destroy(bpdq_backend *base) {
  cuda_backend *backend = (cuda_backend *)base;
  if (!backend) return;
  cudaSetDevice(backend->device);
  cuda_staging_destroy(backend);
  if (backend->mutex) bpdq_mutex_destroy(backend->mutex);
  free(backend);
}

static bpdq_status weights_flush(bpdq_backend *base, bpdq_error *error) {
  cuda_backend *backend = (cuda_backend *)base;
  BPDQ_TRY(cuda_check(cudaSetDevice(backend->device), error, "selecting the device"));
  return cuda_staging_flush(backend, error);
}

static void memory(bpdq_backend *base, uint64_t *current, uint64_t *peak) {
  cuda_backend *backend = (cuda_backend *)base;
  bpdq_mutex_lock(backend->mutex);
  *current = backend->memory_current;
  *peak = backend->memory_peak;
  bpdq_mutex_unlock(backend->mutex);
}

/* The best of several timed reads, with events, after one that warms up. */
static bpdq_status time_reads(cuda_backend *backend, const void *data, uint64_t bytes, double *bytes_per_second, bpdq_error *error) {
  cudaEvent_t begin = NULL, end = NULL;
  cudaStream_t stream = backend->staging.stream;
  cudaError_t result = cudaEventCreate(&begin);
  if (result == cudaSuccess) result = cudaEventCreate(&end);
  float best = 0;
  for (int i = 0; i < 6 && result == cudaSuccess; i++) {
    float milliseconds = 0;
    cudaEventRecord(begin, stream);
    result = bpdq_cuda_read(stream, data, bytes, backend->queue.multiprocessors, backend->staging.word);
    cudaEventRecord(end, stream);
    if (result == cudaSuccess) result = cudaEventSynchronize(end);
    if (result == cudaSuccess) result = cudaEventElapsedTime(&milliseconds, begin, end);
    if (i && (best == 0 || milliseconds < best)) best = milliseconds;
  }
  if (begin) cudaEventDestroy(begin);
  if (end) cudaEventDestroy(end);
  BPDQ_TRY(cuda_check(result, error, "measuring bandwidth"));
  *bytes_per_second = (double)bytes / (best * 1e-3);
  return BPDQ_OK;
}

/* What the cap leaves. */
static uint64_t memory_left(cuda_backend *backend) {
  bpdq_mutex_lock(backend->mutex);
  uint64_t cap = backend->memory_cap ? backend->memory_cap : UINT64_MAX, current = backend->memory_current;
  bpdq_mutex_unlock(backend->mutex);
  return cap > current ? cap - current : 0;
}

static bpdq_status measure_bandwidth(bpdq_backend *base, double *bytes_per_second, bpdq_error *error) {
  cuda_backend *backend = (cuda_backend *)base;
  BPDQ_TRY(cuda_check(cudaSetDevice(backend->device), error, "selecting the device"));
  size_t available = 0, total = 0;
  BPDQ_TRY(cuda_check(cudaMemGetInfo(&available, &total), error, "asking for free memory"));
  uint64_t bytes = available / 2 < BANDWIDTH_BYTES ? available / 2 : BANDWIDTH_BYTES, left = memory_left(backend);
  bytes = (bytes < left ? bytes : left) / 4096 * 4096;
  if (!bytes) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "cuda: no device memory is left to measure the bandwidth: raise --memory-cap");
  void *data = NULL; /* only for this measurement: within the cap, but not counted as the model's memory */
  BPDQ_TRY(cuda_check(cudaMalloc(&data, bytes), error, "allocating a buffer to measure bandwidth"));
  cudaMemsetAsync(data, 1, bytes, backend->staging.stream);
  bpdq_status status = time_reads(backend, data, bytes, bytes_per_second, error);
  cudaFree(data);
  return status;
}

/* Lets one kernel run: a build without code for this device says so here and not in the middle of a token. */
static bpdq_status try_kernel(cuda_backend *backend, bpdq_error *error) {
  cudaError_t result = bpdq_cuda_fill_f32(backend->staging.stream, (float *)backend->staging.word, 1, 0);
  if (result == cudaSuccess) result = cudaStreamSynchronize(backend->staging.stream);
  return cuda_check(result, error, "running a first kernel (is this build made for the device?)");
}

static bpdq_status choose_device(const bpdq_backend_options *options, int *device, bpdq_error *error) {
  char reason[256];
  int count = device_count(reason, sizeof reason);
  if (!count) return bpdq_fail(error, BPDQ_ERROR_DEVICE, "cuda: no device: %s; use another backend", reason);
  if (options->device >= count)
    return bpdq_fail(error, BPDQ_ERROR_DEVICE, "cuda: there is no device %d; there are %d", options->device, count);
  *device = options->device < 0 ? 0 : options->device;
  for (int i = 0; options->device < 0 && i < count; i++) { /* the first usable one */
    bpdq_device_info info;
    struct cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    fill_info(i, &properties, &info);
    if (info.unusable[0]) continue;
    *device = i;
    break;
  }
  return BPDQ_OK;
}

static bpdq_status initialize(cuda_backend *backend, const bpdq_backend_options *options, bpdq_error *error) {
  struct cudaDeviceProp properties;
  BPDQ_TRY(choose_device(options, &backend->device, error));
  BPDQ_TRY(cuda_check(cudaSetDevice(backend->device), error, "selecting the device"));
  BPDQ_TRY(cuda_check(cudaGetDeviceProperties(&properties, backend->device), error, "reading the device's properties"));
  fill_info(backend->device, &properties, &backend->base.info);
  if (backend->base.info.unusable[0])
    return bpdq_fail(error, BPDQ_ERROR_DEVICE, "cuda: %s cannot run models: %s", properties.name, backend->base.info.unusable);
  backend->memory_cap = options->memory_cap;
  backend->log = options->log;
  int code;
  BPDQ_TRY(cuda_check(bpdq_cuda_code_version(&code), error, "loading a first kernel"));
  backend->queue = (bpdq_cuda_queue){.dependent_launch = code >= DEPENDENT_LAUNCH,
                                     .wgmma = bpdq_cuda_uses_wgmma(),
                                     .multiprocessors = properties.multiProcessorCount,
                                     .shared_per_block = (int)properties.sharedMemPerBlockOptin,
                                     .shared_per_multiprocessor = (int)properties.sharedMemPerMultiprocessor};
  BPDQ_TRY(cuda_staging_create(backend, error));
  return try_kernel(backend, error);
}

static bpdq_status create(const bpdq_backend_options *options, bpdq_backend **result, bpdq_error *error) {
  *result = NULL;
  cuda_backend *backend = calloc(1, sizeof *backend);
  if (backend) backend->mutex = bpdq_mutex_create();
  if (!backend || !backend->mutex) {
    free(backend);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "cuda: out of host memory");
  }
  bpdq_backend *base = &backend->base;
  base->prefill_tokens = PREFILL_TOKENS;
  base->batch_tokens = BATCH_TOKENS;
  base->default_activations = BPDQ_ACTIVATIONS_8;
  base->destroy = destroy;
  base->weight_create = cuda_weight_create;
  base->weight_destroy = cuda_weight_destroy;
  base->weights_flush = weights_flush;
  base->weight_bytes = cuda_weight_bytes;
  base->weight_random = cuda_weight_random;
  base->state_create = cuda_state_create;
  base->state_destroy = cuda_state_destroy;
  base->tensor_write = cuda_tensor_write;
  base->tensor_read = cuda_tensor_read;
  base->compile = cuda_compile;
  base->executable_destroy = cuda_executable_destroy;
  base->run = cuda_run;
  base->memory = memory;
  base->measure_bandwidth = measure_bandwidth;
  bpdq_status status = initialize(backend, options, error);
  if (status != BPDQ_OK) {
    destroy(base);
    return status;
  }
  *result = base;
  return BPDQ_OK;
}

const bpdq_backend_registration bpdq_cuda_registration = {"cuda", list_devices, create};
