/* The tensors of one session. */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "core/checked.h"

enum { MAXIMUM_HEAD_DIM = 1024, COPY_BYTES = 1 << 20 };

/* Bytes of a tensor, or false where its shape makes no sense. */
static bool tensor_bytes(const bpdq_tensor_desc *desc, uint64_t *bytes) {
  if (desc->rows < 1 || desc->columns < 1) return false;
  uint64_t rows = (uint64_t)desc->rows, columns = (uint64_t)desc->columns;
  if (desc->kind != BPDQ_TENSOR_KV) return bpdq_mul_u64(rows, columns, bytes) && bpdq_mul_u64(*bytes, 4, bytes);
  if (desc->head_dim < 1 || desc->head_dim > MAXIMUM_HEAD_DIM || desc->columns % desc->head_dim) return false;
  uint64_t per_block = cpu_kv_block_bytes(desc->head_dim, desc->kv_type), heads = columns / (uint64_t)desc->head_dim;
  return bpdq_mul_u64(bpdq_ceil_div(rows, CPU_BLOCK), heads, bytes) && bpdq_mul_u64(*bytes, per_block, bytes);
}

bpdq_status cpu_state_create(bpdq_backend *base, const bpdq_tensor_desc *tensors, size_t count, bpdq_state **result, bpdq_error *error) {
  cpu_backend *backend = (cpu_backend *)base;
  *result = NULL;
  bpdq_state *state = calloc(1, sizeof *state);
  if (state) state->tensors = calloc(count ? count : 1, sizeof *state->tensors);
  if (!state || !state->tensors) {
    free(state);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for a session");
  }
  state->backend = backend;
  state->count = count;
  for (size_t i = 0; i < count; i++) {
    uint64_t bytes;
    uint8_t *memory;
    if (!tensor_bytes(&tensors[i], &bytes)) {
      cpu_state_destroy(base, state);
      return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "tensor %zu of the session has an impossible shape: %lld x %lld", i,
                       (long long)tensors[i].rows, (long long)tensors[i].columns);
    }
    bpdq_status status = cpu_allocate(backend, bytes, "a session's tensors and cache", &memory, error);
    if (status != BPDQ_OK) {
      cpu_state_destroy(base, state);
      return status;
    }
    memset(memory, 0, bytes);
    state->tensors[i] = (cpu_tensor){tensors[i], memory, bytes};
  }
  *result = state;
  return BPDQ_OK;
}

void cpu_state_destroy(bpdq_backend *base, bpdq_state *state) {
  if (!state) return;
  for (size_t i = 0; i < state->count; i++) cpu_release((cpu_backend *)base, state->tensors[i].data, state->tensors[i].bytes);
  free(state->tensors);
  free(state);
}

static bpdq_status check_range(const bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, bpdq_error *error) {
  if (tensor < 0 || (size_t)tensor >= state->count || state->tensors[tensor].desc.kind == BPDQ_TENSOR_KV)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "tensor %d cannot be read or written by the host", tensor);
  const bpdq_tensor_desc *desc = &state->tensors[tensor].desc;
  int64_t size = desc->rows * desc->columns;
  if (first < 0 || count < 0 || first > size || count > size - first)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "elements %lld + %lld lie outside tensor %d", (long long)first, (long long)count, tensor);
  return BPDQ_OK;
}

/* One core does not use up the memory's bandwidth. */
typedef struct copy_job {
  uint8_t *to;
  const uint8_t *from;
  size_t bytes;
} copy_job;

static void copy_task(void *context, int64_t index, int thread) {
  (void)thread;
  const copy_job *job = context;
  size_t first = (size_t)index * COPY_BYTES, bytes = job->bytes - first < COPY_BYTES ? job->bytes - first : COPY_BYTES;
  memcpy(job->to + first, job->from + first, bytes);
}

static void copy(const bpdq_state *state, void *to, const void *from, int64_t count) {
  copy_job job = {to, from, (size_t)count * 4};
  if (count) bpdq_pool_run(state->backend->pool, (int64_t)bpdq_ceil_div(job.bytes, COPY_BYTES), copy_task, &job);
}

bpdq_status cpu_tensor_write(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, const void *data, bpdq_error *error) {
  BPDQ_TRY(check_range(state, tensor, first, count, error));
  copy(state, (uint8_t *)state->tensors[tensor].data + first * 4, data, count);
  return BPDQ_OK;
}

bpdq_status cpu_tensor_read(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, void *data, bpdq_error *error) {
  BPDQ_TRY(check_range(state, tensor, first, count, error));
  copy(state, data, (const uint8_t *)state->tensors[tensor].data + first * 4, count);
  return BPDQ_OK;
}
