/* From host memory to the device: a ring of pinned slots, filled by several threads while earlier slots are on their way. Host memory
 * beyond the caller's own is STAGING_SLOTS * STAGING_SLOT_BYTES, whatever the size of the model. */
#include <string.h>

#include "internal.h"

#define COPY_THREADS 8
#define COPY_PIECE ((size_t)1 << 20)

typedef struct copy_job {
  char *target;
  const char *source;
  size_t rows, row_bytes, pitch, rows_per_task;
} copy_job;

static void copy_rows(void *context, int64_t index, int thread) {
  (void)thread;
  const copy_job *job = context;
  size_t first = (size_t)index * job->rows_per_task, last = first + job->rows_per_task;
  if (last > job->rows) last = job->rows;
  if (job->pitch == job->row_bytes) {
    memcpy(job->target + first * job->row_bytes, job->source + first * job->pitch, (last - first) * job->row_bytes);
    return;
  }
  for (size_t row = first; row < last; row++) memcpy(job->target + row * job->row_bytes, job->source + row * job->pitch, job->row_bytes);
}

bpdq_status cuda_staging_create(cuda_backend *backend, bpdq_error *error) {
  cuda_staging *s = &backend->staging;
  int cores = bpdq_cpu_count();
  BPDQ_TRY(bpdq_pool_create(cores < COPY_THREADS ? cores : COPY_THREADS, &backend->pool, error));
  BPDQ_TRY(cuda_check(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking), error, "creating a stream"));
  BPDQ_TRY(cuda_check(cudaMalloc((void **)&s->flags, 2 * sizeof *s->flags), error, "allocating flags"));
  BPDQ_TRY(cuda_check(cudaHostAlloc((void **)&s->host_flags, 2 * sizeof *s->host_flags, cudaHostAllocDefault), error, "allocating flags"));
  BPDQ_TRY(cuda_check(cudaEventCreateWithFlags(&s->flags_here, cudaEventDisableTiming), error, "creating an event"));
  for (int i = 0; i < STAGING_SLOTS; i++)
    BPDQ_TRY(cuda_check(cudaEventCreateWithFlags(&s->slots[i].free, cudaEventDisableTiming), error, "creating an event"));
  return BPDQ_OK;
}

void cuda_staging_destroy(cuda_backend *backend) {
  cuda_staging *s = &backend->staging;
  if (s->stream) cuda_staging_flush(backend, NULL);
  for (int i = 0; i < STAGING_SLOTS; i++) {
    if (s->slots[i].host) cudaFreeHost(s->slots[i].host);
    if (s->slots[i].free) cudaEventDestroy(s->slots[i].free);
  }
  if (s->flags_here) cudaEventDestroy(s->flags_here);
  if (s->host_flags) cudaFreeHost(s->host_flags);
  if (s->flags) cudaFree(s->flags);
  if (s->stream) cudaStreamDestroy(s->stream);
  bpdq_pool_destroy(backend->pool);
}

static bpdq_status allocate_slots(cuda_backend *backend, bpdq_error *error) {
  cuda_staging *s = &backend->staging;
  if (s->charged) return BPDQ_OK;
  void *memory;
  BPDQ_TRY(cuda_allocate(backend, STAGING_SLOTS * STAGING_SLOT_BYTES, "the upload ring", &memory, &s->charged, error));
  for (int i = 0; i < STAGING_SLOTS; i++) {
    s->slots[i].device = (char *)memory + (size_t)i * STAGING_SLOT_BYTES;
    if (!s->slots[i].host)
      BPDQ_TRY(
          cuda_check(cudaHostAlloc(&s->slots[i].host, STAGING_SLOT_BYTES, cudaHostAllocDefault), error, "allocating pinned host memory"));
  }
  return BPDQ_OK;
}

bpdq_status cuda_stage(cuda_backend *backend, const void *source, size_t rows, size_t row_bytes, size_t pitch, void **device,
                       bpdq_error *error) {
  cuda_staging *s = &backend->staging;
  BPDQ_TRY(allocate_slots(backend, error));
  size_t bytes = rows * row_bytes;
  if (bytes > STAGING_SLOT_BYTES) return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "cuda: an upload of %zu bytes exceeds a slot", bytes);
  cuda_slot *slot = &s->slots[s->next];
  BPDQ_TRY(cuda_check(cudaEventSynchronize(slot->free), error, "waiting for an upload"));
  size_t rows_per_task = row_bytes >= COPY_PIECE ? 1 : COPY_PIECE / (row_bytes ? row_bytes : 1);
  copy_job job = {slot->host, source, rows, row_bytes, pitch, rows_per_task};
  if (pitch == row_bytes) { /* one run of bytes: cut it evenly, whatever its rows */
    job.rows = bytes;
    job.row_bytes = job.pitch = 1;
    job.rows_per_task = COPY_PIECE;
  }
  bpdq_pool_run(backend->pool, (int64_t)((job.rows + job.rows_per_task - 1) / job.rows_per_task), copy_rows, &job);
  *device = slot->device;
  return cuda_check(cudaMemcpyAsync(slot->device, slot->host, bytes, cudaMemcpyHostToDevice, s->stream), error, "uploading a weight");
}

bpdq_status cuda_staging_done(cuda_backend *backend, bpdq_error *error) {
  cuda_staging *s = &backend->staging;
  cuda_slot *slot = &s->slots[s->next];
  s->next = (s->next + 1) % STAGING_SLOTS;
  return cuda_check(cudaEventRecord(slot->free, s->stream), error, "recording an event");
}

bpdq_status cuda_staging_flush(cuda_backend *backend, bpdq_error *error) {
  cuda_staging *s = &backend->staging;
  cudaError_t result = cudaStreamSynchronize(s->stream);
  if (s->charged) {
    cuda_release(backend, s->slots[0].device, s->charged);
    s->charged = 0;
  }
  return cuda_check(result, error, "uploading weights");
}
