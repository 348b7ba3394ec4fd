/* The CPU backend's registration, its memory accounting and its bandwidth. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "core/checked.h"
#include "core/platform.h"

enum { PREFILL_TOKENS = 240, LARGE_PAGE = 2 << 20, BANDWIDTH_BUFFER = 512 << 20, LARGE_ALLOCATION = 1 << 20 };

/* ---- memory ---- */

/* Counts the bytes before they are allocated, so that sessions that are made at the same time cannot pass the cap together. *before is
 * what was in use. */
static bool reserve(cpu_backend *backend, uint64_t bytes, uint64_t *before) {
  uint64_t after;
  *before = atomic_load(&backend->memory_current);
  do {
    if (!bpdq_add_u64(*before, bytes, &after) || (backend->memory_cap && after > backend->memory_cap)) return false;
  } while (!atomic_compare_exchange_weak(&backend->memory_current, before, after));
  return true;
}

static void raise_peak(cpu_backend *backend, uint64_t current) {
  uint64_t peak = atomic_load(&backend->memory_peak);
  while (current > peak && !atomic_compare_exchange_weak(&backend->memory_peak, &peak, current)) {
  }
}

/* Systems promise memory that they do not have, and end the program when it is touched: what cannot be there is refused before that. A
 * little is left to the system, which ends programs before the last byte is gone. */
static bpdq_status check_machine(uint64_t bytes, uint64_t before, const char *what, bpdq_error *error) {
  if (bytes < LARGE_ALLOCATION) return BPDQ_OK;
  uint64_t spared = bpdq_host_memory_total() / 64, available = bpdq_host_memory_available(),
           left = available > spared ? available - spared : 0;
  if (bytes <= left) return BPDQ_OK;
  return bpdq_fail(
      error, BPDQ_ERROR_MEMORY,
      "%.1f MiB for %s are more than this machine has left: %.1f MiB beside the %.1f MiB in use; lower --ctx, or use --kv q8 or "
      "a smaller model",
      (double)bytes / 0x1p20, what, (double)left / 0x1p20, (double)before / 0x1p20);
}

bpdq_status cpu_allocate(cpu_backend *backend, uint64_t bytes, const char *what, uint8_t **memory, bpdq_error *error) {
  *memory = NULL;
  uint64_t alignment = bytes >= 4 * LARGE_PAGE ? LARGE_PAGE : 64;
  uint64_t before = atomic_load(&backend->memory_current);
  bool sane = bytes <= SIZE_MAX / 2;
  if (sane && !reserve(backend, bytes, &before)) {
    return bpdq_fail(error, BPDQ_ERROR_MEMORY,
                     "%.1f MiB for %s do not fit under the memory cap: %.1f of %.1f MiB are in use; raise --memory-cap or lower --ctx",
                     (double)bytes / 0x1p20, what, (double)before / 0x1p20, (double)backend->memory_cap / 0x1p20);
  }
  if (sane) {
    bpdq_status status = check_machine(bytes, before, what, error);
    if (status != BPDQ_OK) {
      atomic_fetch_sub(&backend->memory_current, bytes);
      return status;
    }
  }
  uint8_t *block = sane ? aligned_alloc(alignment, bpdq_round_up(bytes ? bytes : 1, alignment)) : NULL;
  if (!block) {
    if (sane) atomic_fetch_sub(&backend->memory_current, bytes);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY,
                     "out of memory: %.1f MiB for %s, %.1f MiB are in use; use a smaller model or a shorter context",
                     (double)bytes / 0x1p20, what, (double)before / 0x1p20);
  }
  raise_peak(backend, before + bytes);
  *memory = block;
  return BPDQ_OK;
}

void cpu_release(cpu_backend *backend, uint8_t *memory, uint64_t bytes) {
  if (!memory) return;
  free(memory);
  atomic_fetch_sub(&backend->memory_current, bytes);
}

static void memory(bpdq_backend *base, uint64_t *current, uint64_t *peak) {
  cpu_backend *backend = (cpu_backend *)base;
  *current = atomic_load(&backend->memory_current);
  *peak = atomic_load(&backend->memory_peak);
}

/* ---- bandwidth ---- */

typedef struct read_job {
  const uint64_t *data;
  uint64_t words_per_task;
  uint64_t *sums; /* [tasks]: keeps the reads from being optimized away */
} read_job;

static void read_task(void *context, int64_t index, int thread) {
  (void)thread;
  const read_job *job = context;
  const uint64_t *data = job->data + (uint64_t)index * job->words_per_task;
  uint64_t sum[8] = {0};
  for (uint64_t i = 0; i < job->words_per_task; i += 8)
    for (int j = 0; j < 8; j++) sum[j] ^= data[i + (uint64_t)j];
  job->sums[index] = sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

static bpdq_status measure_bandwidth(bpdq_backend *base, double *bytes_per_second, bpdq_error *error) {
  enum { TASK_BYTES = 1 << 20, TASKS = BANDWIDTH_BUFFER / TASK_BYTES, ROUNDS = 3 };
  cpu_backend *backend = (cpu_backend *)base;
  uint64_t sums[TASKS];
  int64_t tasks = TASKS;
  while (tasks > 32 && (uint64_t)tasks * TASK_BYTES > bpdq_host_memory_available() / 4) tasks /= 2;
  uint64_t *data = aligned_alloc(64, (size_t)tasks * TASK_BYTES);
  if (!data) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for the bandwidth measurement");
  memset(data, 1, (size_t)tasks * TASK_BYTES);
  read_job job = {data, TASK_BYTES / sizeof *data, sums};
  double best = 0;
  for (int round = 0; round < ROUNDS; round++) {
    uint64_t start = bpdq_monotonic_nanoseconds();
    bpdq_pool_run(backend->pool, tasks, read_task, &job);
    uint64_t nanoseconds = bpdq_monotonic_nanoseconds() - start;
    double rate = (double)tasks * TASK_BYTES * 1e9 / (double)(nanoseconds ? nanoseconds : 1);
    if (rate > best) best = rate;
  }
  free(data);
  *bytes_per_second = best;
  return BPDQ_OK;
}

/* ---- registration ---- */

static void describe(bpdq_device_info *info, const char *features) {
  *info = (bpdq_device_info){.backend = "cpu", .index = 0, .kind = "cpu"};
  bpdq_cpu_name(info->name, sizeof info->name);
  snprintf(info->driver, sizeof info->driver, "bpdq %s", bpdq_version());
  snprintf(info->features, sizeof info->features, "%s", features);
  info->memory_total = bpdq_host_memory_total();
  info->memory_free = bpdq_host_memory_available();
}

static size_t list(bpdq_device_info *devices, size_t capacity, const bpdq_log *log) {
  (void)log;
  if (capacity > 0) {
    char features[256];
    const char *asked;
    const cpu_kernels *kernels = cpu_choose_kernels(features, sizeof features, &asked);
    describe(&devices[0], kernels ? features : "");
    if (!kernels) snprintf(devices[0].unusable, sizeof devices[0].unusable, "BPDQ_CPU_KERNELS=%.40s does not run here", asked);
  }
  return 1;
}

static bpdq_status weights_flush(bpdq_backend *backend, bpdq_error *error) {
  (void)backend;
  (void)error;
  return BPDQ_OK;
}

static void destroy(bpdq_backend *base) {
  cpu_backend *backend = (cpu_backend *)base;
  bpdq_pool_destroy(backend->pool);
  free(backend);
}

static bpdq_status create(const bpdq_backend_options *options, bpdq_backend **result, bpdq_error *error) {
  *result = NULL;
  if (options->device > 0) {
    return bpdq_fail(error, BPDQ_ERROR_DEVICE, "cpu device %d does not exist: the CPU is device 0", options->device);
  }
  char features[200];
  const char *asked;
  const cpu_kernels *kernels = cpu_choose_kernels(features, sizeof features, &asked);
  if (!kernels) {
    return bpdq_fail(error, BPDQ_ERROR_DEVICE, "BPDQ_CPU_KERNELS=%.40s: this processor cannot run them; unset it, or use \"plain\"", asked);
  }
  cpu_backend *backend = calloc(1, sizeof *backend);
  if (!backend) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for the CPU backend");
  bpdq_status status = bpdq_pool_create(options->threads, &backend->pool, error);
  if (status != BPDQ_OK) {
    free(backend);
    return status;
  }
  backend->kernels = kernels;
  backend->log = options->log;
  backend->memory_cap = options->memory_cap;
  backend->base = (bpdq_backend){
      .prefill_tokens = PREFILL_TOKENS,
      .batch_tokens = 1,
      .default_activations = BPDQ_ACTIVATIONS_8,
      .destroy = destroy,
      .weight_create = cpu_weight_create,
      .weight_destroy = cpu_weight_destroy,
      .weights_flush = weights_flush,
      .weight_bytes = cpu_weight_bytes,
      .weight_random = cpu_weight_random,
      .state_create = cpu_state_create,
      .state_destroy = cpu_state_destroy,
      .tensor_write = cpu_tensor_write,
      .tensor_read = cpu_tensor_read,
      .compile = cpu_compile,
      .executable_destroy = cpu_executable_destroy,
      .run = cpu_run,
      .memory = memory,
      .measure_bandwidth = measure_bandwidth,
  };
  describe(&backend->base.info, features);
  *result = &backend->base;
  return BPDQ_OK;
}

const bpdq_backend_registration bpdq_cpu_registration = {"cpu", list, create};
