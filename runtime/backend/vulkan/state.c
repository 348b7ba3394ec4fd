/* A session's tensors, and their traffic with the host. */
#include <stdlib.h>
#include <string.h>

#include "backend/vulkan/vulkan.h"
#include "core/checked.h"

#define STAGING_BYTES ((uint64_t)4 << 20)
#define WRITES_BYTES ((uint64_t)1 << 20) /* rows of a few tokens, which wait for the run; a prompt's are transferred */
/* Bytes of a KV cache: f16 values in pairs, or int8 values in fours followed by one f32 scale per head and position. */
static bool kv_bytes(const bpdq_tensor_desc *desc, uint64_t *bytes) {
  if (desc->head_dim < 1 || desc->columns % desc->head_dim) return false;
  uint64_t per_row = (uint64_t)desc->columns * 2;
  if (desc->kv_type == BPDQ_KV_Q8) per_row = (uint64_t)desc->columns + 4 * (uint64_t)(desc->columns / desc->head_dim);
  return bpdq_mul_u64((uint64_t)desc->rows, per_row, bytes);
}

static bpdq_status create_tensor(bpdq_state *state, size_t index, const bpdq_tensor_desc *desc, bpdq_error *error) {
  bpdq_vulkan *vulkan = state->vulkan;
  vulkan_tensor *tensor = &state->tensors[index];
  tensor->desc = *desc;
  bool kv = desc->kind == BPDQ_TENSOR_KV, valid = desc->rows > 0 && desc->columns > 0;
  if (kv && desc->kv_type != BPDQ_KV_F16 && desc->kv_type != BPDQ_KV_Q8)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "vulkan: a KV cache holds f16 or 8 bits");
  if (kv)
    valid = valid && kv_bytes(desc, &tensor->bytes);
  else
    valid = valid && bpdq_mul_u64((uint64_t)desc->rows, (uint64_t)desc->columns * 4, &tensor->bytes);
  if (!valid)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "vulkan: tensor %zu has an impossible shape [%lld, %lld]", index, (long long)desc->rows,
                     (long long)desc->columns);
  if (tensor->bytes > vulkan->context.limits.storage_range)
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s of %.0f MiB is more than a shader of %s can see (%.0f MiB): lower --ctx or the batch",
                     kv ? "a KV cache" : "a tensor", (double)tensor->bytes / 0x1p20, vulkan->context.properties.deviceName,
                     (double)vulkan->context.limits.storage_range / 0x1p20);
  vulkan_memory_kind kind = VULKAN_MEMORY_DEVICE;
  if (desc->result)
    kind = VULKAN_MEMORY_READBACK; /* the host would read device memory through the bus a few bytes at a time */
  else if (!kv && bpdq_vulkan_fits_shared(&vulkan->memory, tensor->bytes))
    kind = VULKAN_MEMORY_SHARED;
  return bpdq_vulkan_allocate(&vulkan->memory, kind, tensor->bytes, kv ? "the KV cache" : "a tensor", &tensor->buffer, error);
}

static bpdq_status clear_tensors(bpdq_state *state, bpdq_error *error) {
  vulkan_context *context = &state->vulkan->context;
  BPDQ_TRY(bpdq_vulkan_commands_begin(context, &state->commands, false, error));
  for (size_t i = 0; i < state->count; i++) {
    const vulkan_buffer *buffer = &state->tensors[i].buffer;
    context->vk.CmdFillBuffer(state->commands.buffer, buffer->buffer, buffer->offset, buffer->size, 0);
  }
  bpdq_vulkan_barrier(context, state->commands.buffer, true);
  BPDQ_TRY(bpdq_vulkan_commands_end(context, &state->commands, error));
  BPDQ_TRY(bpdq_vulkan_commands_submit(context, &state->commands, error));
  return bpdq_vulkan_commands_wait(context, &state->commands, error);
}

bpdq_status bpdq_vulkan_state_create(bpdq_vulkan *vulkan, const bpdq_tensor_desc *tensors, size_t count, bpdq_state **result,
                                     bpdq_error *error) {
  *result = NULL;
  bpdq_state *state = calloc(1, sizeof *state);
  if (state) state->tensors = calloc(count ? count : 1, sizeof *state->tensors);
  if (!state || !state->tensors) {
    free(state);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  }
  state->vulkan = vulkan;
  state->count = count;
  bpdq_status status = bpdq_vulkan_commands_create(&vulkan->context, &state->commands, error);
  for (size_t i = 0; i < count && status == BPDQ_OK; i++) status = create_tensor(state, i, &tensors[i], error);
  if (status == BPDQ_OK) status = clear_tensors(state, error);
  if (status == BPDQ_OK)
    *result = state;
  else
    bpdq_vulkan_state_destroy(vulkan, state);
  return status;
}

void bpdq_vulkan_state_destroy(bpdq_vulkan *vulkan, bpdq_state *state) {
  if (!state) return;
  bpdq_vulkan_commands_destroy(&vulkan->context, &state->commands);
  for (size_t i = 0; i < state->count; i++) bpdq_vulkan_release(&vulkan->memory, &state->tensors[i].buffer);
  bpdq_vulkan_release(&vulkan->memory, &state->staging);
  bpdq_vulkan_commands_destroy(&vulkan->context, &state->writes.commands);
  bpdq_vulkan_release(&vulkan->memory, &state->writes.memory);
  free(state->tensors);
  free(state);
}

/* ---- writes that wait ---- */

static bpdq_status need_writes(bpdq_state *state, bpdq_error *error) {
  bpdq_vulkan *vulkan = state->vulkan;
  vulkan_writes *writes = &state->writes;
  if (!writes->memory.block)
    BPDQ_TRY(bpdq_vulkan_allocate(&vulkan->memory, VULKAN_MEMORY_SHARED, WRITES_BYTES, "staging memory", &writes->memory, error));
  return writes->commands.pool ? BPDQ_OK : bpdq_vulkan_commands_create(&vulkan->context, &writes->commands, error);
}

/* False where there is no room, or where an earlier write would have to come first: copies have no order among themselves. */
static bool can_wait(const vulkan_writes *writes, const vulkan_buffer *tensor, uint64_t offset, uint64_t bytes) {
  if (writes->count == VULKAN_WRITES || bytes > WRITES_BYTES - writes->used) return false;
  for (size_t i = 0; i < writes->count; i++) {
    const vulkan_write *other = &writes->waiting[i];
    uint64_t first = tensor->offset + offset, other_first = other->region.dstOffset;
    if (other->target == tensor->buffer && first < other_first + other->region.size && other_first < first + bytes) return false;
  }
  return true;
}

static void add_write(vulkan_writes *writes, const vulkan_buffer *tensor, uint64_t offset, uint64_t bytes, const void *data) {
  memcpy(writes->memory.mapped + writes->used, data, bytes);
  writes->waiting[writes->count++] = (vulkan_write){tensor->buffer, {writes->memory.offset + writes->used, tensor->offset + offset, bytes}};
  writes->used += bytes;
}

static bool is_recorded(const vulkan_writes *writes) {
  return writes->recorded_count == writes->count && !memcmp(writes->recorded, writes->waiting, writes->count * sizeof *writes->waiting);
}

/* No barriers: what used the tensors before was waited for, and what uses them next begins with one. */
static bpdq_status record_writes(vulkan_context *context, vulkan_writes *writes, bpdq_error *error) {
  writes->recorded_count = 0;
  BPDQ_TRY(bpdq_vulkan_commands_begin(context, &writes->commands, true, error));
  for (size_t i = 0; i < writes->count; i++)
    context->vk.CmdCopyBuffer(writes->commands.buffer, writes->memory.buffer, writes->waiting[i].target, 1, &writes->waiting[i].region);
  BPDQ_TRY(bpdq_vulkan_commands_end(context, &writes->commands, error));
  memcpy(writes->recorded, writes->waiting, sizeof writes->recorded);
  writes->recorded_count = writes->count;
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_state_submit(bpdq_state *state, vulkan_commands *commands, bpdq_error *error) {
  vulkan_context *context = &state->vulkan->context;
  vulkan_writes *writes = &state->writes;
  if (writes->count && !is_recorded(writes)) BPDQ_TRY(record_writes(context, writes, error));
  VkCommandBuffer first = writes->count ? writes->commands.buffer : VK_NULL_HANDLE;
  BPDQ_TRY(bpdq_vulkan_commands_submit_behind(context, first, commands, error));
  writes->count = 0;
  writes->used = 0;
  return bpdq_vulkan_commands_wait(context, commands, error);
}

/* ---- transfers ---- */

static bpdq_status check_range(const bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, bpdq_error *error) {
  if (tensor < 0 || (size_t)tensor >= state->count || state->tensors[tensor].desc.kind == BPDQ_TENSOR_KV)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "vulkan: tensor %d cannot be accessed from the host", tensor);
  const bpdq_tensor_desc *desc = &state->tensors[tensor].desc;
  int64_t elements = desc->rows * desc->columns;
  if (first < 0 || count < 0 || first > elements || count > elements - first)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "vulkan: elements %lld..%lld are outside tensor %d", (long long)first,
                     (long long)(first + count), tensor);
  return BPDQ_OK;
}

/* Copies `bytes` between the staging buffer and a tensor. */
static bpdq_status transfer(bpdq_state *state, const vulkan_buffer *tensor, uint64_t offset, uint64_t bytes, bool to_device,
                            bpdq_error *error) {
  vulkan_context *context = &state->vulkan->context;
  const vulkan_buffer *staging = &state->staging;
  VkBufferCopy copy = {to_device ? staging->offset : tensor->offset + offset, to_device ? tensor->offset + offset : staging->offset, bytes};
  BPDQ_TRY(bpdq_vulkan_commands_begin(context, &state->commands, false, error));
  bpdq_vulkan_barrier(context, state->commands.buffer, false);
  context->vk.CmdCopyBuffer(state->commands.buffer, to_device ? staging->buffer : tensor->buffer,
                            to_device ? tensor->buffer : staging->buffer, 1, &copy);
  bpdq_vulkan_barrier(context, state->commands.buffer, true);
  BPDQ_TRY(bpdq_vulkan_commands_end(context, &state->commands, error));
  return bpdq_vulkan_state_submit(state, &state->commands, error);
}

static bpdq_status need_staging(bpdq_state *state, bpdq_error *error) {
  if (state->staging.block) return BPDQ_OK;
  return bpdq_vulkan_allocate(&state->vulkan->memory, VULKAN_MEMORY_READBACK, STAGING_BYTES, "staging memory", &state->staging, error);
}

bpdq_status bpdq_vulkan_tensor_write(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, const void *data,
                                     bpdq_error *error) {
  BPDQ_TRY(check_range(state, tensor, first, count, error));
  const vulkan_buffer *buffer = &state->tensors[tensor].buffer;
  uint64_t offset = (uint64_t)first * 4, bytes = (uint64_t)count * 4;
  /* Runs are waited for, so that nothing on the device uses the tensor now. */
  if (buffer->mapped) {
    memcpy(buffer->mapped + offset, data, bytes);
    return BPDQ_OK;
  }
  if (!bytes) return BPDQ_OK; /* a copy has at least one byte */
  if (can_wait(&state->writes, buffer, offset, bytes)) {
    BPDQ_TRY(need_writes(state, error));
    add_write(&state->writes, buffer, offset, bytes, data);
    return BPDQ_OK;
  }
  BPDQ_TRY(need_staging(state, error));
  for (uint64_t done = 0; done < bytes; done += STAGING_BYTES) {
    uint64_t step = bytes - done < STAGING_BYTES ? bytes - done : STAGING_BYTES;
    memcpy(state->staging.mapped, (const uint8_t *)data + done, step);
    BPDQ_TRY(transfer(state, buffer, offset + done, step, true, error));
  }
  return BPDQ_OK;
}

/* Host reads of device-local memory cross the bus uncached; they go through staging unless the memory is the host's own. */
static bool reads_directly(const bpdq_state *state, const vulkan_buffer *buffer) {
  return buffer->mapped && (buffer->block_kind == VULKAN_MEMORY_READBACK || state->vulkan->context.is_cpu);
}

bpdq_status bpdq_vulkan_tensor_read(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, void *data, bpdq_error *error) {
  BPDQ_TRY(check_range(state, tensor, first, count, error));
  const vulkan_buffer *buffer = &state->tensors[tensor].buffer;
  uint64_t offset = (uint64_t)first * 4, bytes = (uint64_t)count * 4;
  if (reads_directly(state, buffer)) {
    memcpy(data, buffer->mapped + offset, bytes);
    return BPDQ_OK;
  }
  BPDQ_TRY(need_staging(state, error));
  for (uint64_t done = 0; done < bytes; done += STAGING_BYTES) {
    uint64_t step = bytes - done < STAGING_BYTES ? bytes - done : STAGING_BYTES;
    BPDQ_TRY(transfer(state, buffer, offset + done, step, false, error));
    memcpy((uint8_t *)data + done, state->staging.mapped, step);
  }
  return BPDQ_OK;
}
