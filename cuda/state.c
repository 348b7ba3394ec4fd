/* Tensors of a session: device memory, and host access to it in the order of the runs. */
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "internal.h"

#define PINNED_BYTES ((size_t)1 << 20)

static int cache_width(int64_t head_dim) { return head_dim <= 128 ? (int)((head_dim + 31) / 32 * 32) : 256; }

/* Bytes of a tensor; false where the description makes no sense. */
static bool measure(cuda_tensor *tensor, uint64_t *scales_at) {
  const bpdq_tensor_desc *desc = &tensor->desc;
  uint64_t numbers;
  if (desc->rows < 1 || desc->columns < 1 || !bpdq_mul_u64((uint64_t)desc->rows, (uint64_t)desc->columns, &numbers)) return false;
  if (desc->kind != BPDQ_TENSOR_KV) return bpdq_mul_u64(numbers, 4, &tensor->bytes);
  if (desc->head_dim < 2 || desc->head_dim > 256 || desc->head_dim % 2 || desc->columns % desc->head_dim) return false;
  if (desc->kv_type != BPDQ_KV_F16 && desc->kv_type != BPDQ_KV_Q8) return false;
  bpdq_cuda_cache *cache = &tensor->cache;
  if (desc->rows > INT64_MAX - 31) return false;
  uint64_t heads = (uint64_t)(desc->columns / desc->head_dim), elements;
  cache->rows = (desc->rows + 31) / 32 * 32;
  cache->width = cache_width(desc->head_dim);
  cache->type = desc->kv_type == BPDQ_KV_Q8 ? BPDQ_CUDA_Q8 : BPDQ_CUDA_F16;
  if (!bpdq_mul_u64(heads * (uint64_t)cache->width, (uint64_t)cache->rows, &elements) || elements > (uint64_t)1 << 44) return false;
  *scales_at = elements * (cache->type == BPDQ_CUDA_Q8 ? 1 : 2);
  tensor->bytes = *scales_at + (cache->type == BPDQ_CUDA_Q8 ? heads * (uint64_t)cache->rows * 4 : 0);
  return true;
}

static bpdq_status create_tensor(bpdq_state *state, const bpdq_tensor_desc *desc, cuda_tensor *tensor, bpdq_error *error) {
  uint64_t scales_at = 0;
  tensor->desc = *desc;
  if (!measure(tensor, &scales_at))
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "cuda: a tensor of %lld x %lld (head_dim %lld) cannot be made", (long long)desc->rows,
                     (long long)desc->columns, (long long)desc->head_dim);
  const char *what = desc->kind == BPDQ_TENSOR_KV ? "the cache of keys and values" : "an activation tensor";
  BPDQ_TRY(cuda_allocate(state->backend, tensor->bytes, what, &tensor->data, &tensor->charged, error));
  if (desc->kind == BPDQ_TENSOR_KV) { /* whether it holds keys or values is the operations' affair; sizes agree */
    tensor->cache.keys = tensor->cache.values = tensor->data;
    tensor->cache.key_scales = tensor->cache.value_scales = (float *)((char *)tensor->data + scales_at);
  }
  return cuda_check(cudaMemsetAsync(tensor->data, 0, tensor->bytes, state->stream), error, "clearing a tensor");
}

static bpdq_status create_tensors(bpdq_state *state, const bpdq_tensor_desc *descs, bpdq_error *error) {
  BPDQ_TRY(cuda_check(cudaStreamCreateWithFlags(&state->stream, cudaStreamNonBlocking), error, "creating a stream"));
  BPDQ_TRY(cuda_check(cudaHostAlloc((void **)&state->pinned, PINNED_BYTES, cudaHostAllocDefault), error, "allocating pinned host memory"));
  for (size_t i = 0; i < state->count; i++) BPDQ_TRY(create_tensor(state, &descs[i], &state->tensors[i], error));
  return cuda_check(cudaStreamSynchronize(state->stream), error, "clearing tensors");
}

bpdq_status cuda_state_create(bpdq_backend *base, const bpdq_tensor_desc *tensors, size_t count, bpdq_state **result, bpdq_error *error) {
  cuda_backend *backend = (cuda_backend *)base;
  *result = NULL;
  BPDQ_TRY(cuda_check(cudaSetDevice(backend->device), error, "selecting the device"));
  bpdq_state *state = calloc(1, sizeof *state);
  if (state) state->tensors = calloc(count ? count : 1, sizeof *state->tensors);
  if (!state || !state->tensors) {
    free(state);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "cuda: out of host memory for %zu tensors", count);
  }
  state->backend = backend;
  state->count = count;
  bpdq_status status = create_tensors(state, tensors, error);
  if (status != BPDQ_OK) {
    cuda_state_destroy(base, state);
    return status;
  }
  *result = state;
  return BPDQ_OK;
}

void cuda_state_destroy(bpdq_backend *base, bpdq_state *state) {
  if (!state) return;
  cuda_backend *backend = (cuda_backend *)base;
  cudaSetDevice(backend->device);
  if (state->stream) cudaStreamSynchronize(state->stream);
  for (size_t i = 0; i < state->count; i++) {
    cuda_release(backend, state->tensors[i].data, state->tensors[i].charged);
    if (state->tensors[i].mirror) cudaFreeHost(state->tensors[i].mirror);
  }
  if (state->pinned) cudaFreeHost(state->pinned);
  if (state->stream) cudaStreamDestroy(state->stream);
  free(state->tensors);
  free(state);
}

static bpdq_status check_access(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, bpdq_error *error) {
  if (tensor < 0 || (size_t)tensor >= state->count || state->tensors[tensor].desc.kind == BPDQ_TENSOR_KV)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "cuda: tensor %d cannot be accessed from the host", tensor);
  int64_t size = (int64_t)(state->tensors[tensor].bytes / 4);
  if (first < 0 || count < 0 || first > size || count > size - first)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "cuda: elements %lld..%lld lie outside tensor %d of %lld", (long long)first,
                     (long long)(first + count), tensor, (long long)size);
  return cuda_check(cudaSetDevice(state->backend->device), error, "selecting the device");
}

static bpdq_status wait_for(bpdq_state *state, bpdq_error *error) {
  state->pinned_used = 0;
  return cuda_check(cudaStreamSynchronize(state->stream), error, "waiting for the device");
}

bpdq_status cuda_flush_pending(bpdq_state *state, bpdq_error *error) {
  struct pending_write pending = state->pending;
  state->pending = (struct pending_write){0};
  if (!pending.bytes) return BPDQ_OK;
  return cuda_check(cudaMemcpyAsync(pending.target, state->pinned, pending.bytes, cudaMemcpyHostToDevice, state->stream), error,
                    "writing a tensor");
}

bpdq_status cuda_tensor_write(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, const void *data, bpdq_error *error) {
  BPDQ_TRY(check_access(state, tensor, first, count, error));
  cuda_tensor *t = &state->tensors[tensor];
  char *target = (char *)t->data + first * 4;
  size_t bytes = (size_t)count * 4;
  if (!bytes) return BPDQ_OK;
  t->mirror_is_current = false;
  if (state->pinned_used == 0 && bytes <= CUDA_PENDING_BYTES && bytes % 16 == 0 && (uintptr_t)target % 16 == 0) {
    memcpy(state->pinned, data, bytes);
    state->pinned_used = bytes;
    state->pending = (struct pending_write){target, bytes};
    return BPDQ_OK;
  }
  BPDQ_TRY(cuda_flush_pending(state, error));
  if (bytes > PINNED_BYTES) {
    BPDQ_TRY(cuda_check(cudaMemcpyAsync(target, data, bytes, cudaMemcpyHostToDevice, state->stream), error, "writing a tensor"));
    return wait_for(state, error);
  }
  if (bytes > PINNED_BYTES - state->pinned_used) BPDQ_TRY(wait_for(state, error));
  char *pinned = state->pinned + state->pinned_used;
  state->pinned_used += bytes;
  memcpy(pinned, data, bytes);
  return cuda_check(cudaMemcpyAsync(target, pinned, bytes, cudaMemcpyHostToDevice, state->stream), error, "writing a tensor");
}

bpdq_status cuda_tensor_read(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, void *data, bpdq_error *error) {
  BPDQ_TRY(check_access(state, tensor, first, count, error));
  const cuda_tensor *t = &state->tensors[tensor];
  size_t bytes = (size_t)count * 4;
  if (!bytes) return BPDQ_OK;
  if (t->mirror_is_current) { /* runs have waited for the device */
    memcpy(data, (const char *)t->mirror + first * 4, bytes);
    return BPDQ_OK;
  }
  BPDQ_TRY(cuda_flush_pending(state, error));
  const char *source = (const char *)t->data + first * 4;
  bool small = bytes <= PINNED_BYTES;
  if (small && bytes > PINNED_BYTES - state->pinned_used) BPDQ_TRY(wait_for(state, error));
  char *pinned = state->pinned + state->pinned_used;
  BPDQ_TRY(cuda_check(cudaMemcpyAsync(small ? (void *)pinned : data, source, bytes, cudaMemcpyDeviceToHost, state->stream), error,
                      "reading a tensor"));
  BPDQ_TRY(wait_for(state, error));
  if (small) memcpy(data, pinned, bytes);
  return BPDQ_OK;
}

bpdq_status cuda_tensor_mirror(bpdq_state *state, bpdq_tensor tensor, bpdq_error *error) {
  cuda_tensor *t = &state->tensors[tensor];
  if (t->mirror) return BPDQ_OK;
  return cuda_check(cudaHostAlloc(&t->mirror, t->bytes, cudaHostAllocMapped), error, "allocating mapped host memory");
}
