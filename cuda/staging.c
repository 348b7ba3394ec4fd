/* From host memory to the device: a ring of pinned slots, filled by several threads while earlier slots are on their way. Host memory
 * beyond the caller's own is STAGING_SLOTS * STAGING_SLOT_BYTES, whatever the size of the model. */
#include "internal.h"

bpdq_status cuda_staging_create(cuda_backend *backend, bpdq_error *error) {
  cuda_staging *s = &backend->staging;
  BPDQ_TRY(bpdq_staging_pool_create(&backend->pool, error));
  BPDQ_TRY(cuda_check(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking), error, "creating a stream"));
  BPDQ_TRY(cuda_check(cudaMalloc((void **)&s->word, sizeof *s->word), error, "allocating a first word"));
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
  if (s->word) cudaFree(s->word);
  if (s->stream) cudaStreamDestroy(s->stream);
  bpdq_pool_destroy(backend->pool);
}

static bpdq_status allocate_slots(cuda_backend *backend, bpdq_error *error) {
  cuda_staging *s = &backend->staging;
  if (s->charged) return BPDQ_OK;
  /* The device's memory last: once it is charged, every slot is whole, and a caller may try again after a failure. */
  for (int i = 0; i < STAGING_SLOTS; i++)
    if (!s->slots[i].host)
      BPDQ_TRY(
          cuda_check(cudaHostAlloc(&s->slots[i].host, STAGING_SLOT_BYTES, cudaHostAllocDefault), error, "allocating pinned host memory"));
  void *memory;
  BPDQ_TRY(cuda_allocate(backend, STAGING_SLOTS * STAGING_SLOT_BYTES, "the upload ring", &memory, &s->charged, error));
  for (int i = 0; i < STAGING_SLOTS; i++) s->slots[i].device = (char *)memory + (size_t)i * STAGING_SLOT_BYTES;
  return BPDQ_OK;
}

bpdq_status cuda_staging_next(cuda_backend *backend, cuda_slot **slot, bpdq_error *error) {
  BPDQ_TRY(allocate_slots(backend, error));
  *slot = &backend->staging.slots[backend->staging.next];
  return cuda_check(cudaEventSynchronize((*slot)->free), error, "waiting for an upload");
}

bpdq_status cuda_stage(cuda_backend *backend, const void *source, size_t rows, size_t row_bytes, size_t pitch, cuda_slot **slot,
                       bpdq_error *error) {
  size_t bytes = rows * row_bytes;
  if (bytes > STAGING_SLOT_BYTES) return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "cuda: an upload of %zu bytes exceeds a slot", bytes);
  BPDQ_TRY(cuda_staging_next(backend, slot, error));
  bpdq_copy_rows(backend->pool, &(bpdq_row_copy){(*slot)->host, source, row_bytes, pitch, row_bytes, rows});
  cudaError_t result = cudaMemcpyAsync((*slot)->device, (*slot)->host, bytes, cudaMemcpyHostToDevice, backend->staging.stream);
  return cuda_check(result, error, "uploading a weight");
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
