#include "backend/vulkan/builder.h"

#include <stdlib.h>
#include <string.h>

bpdq_status bpdq_vulkan_unsupported(const vulkan_builder *builder, const char *what, bpdq_error *error) {
  return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "vulkan: operation %s: %s", builder->op->name, what);
}

bpdq_status bpdq_vulkan_dispatch_start(vulkan_builder *builder, vulkan_dispatch *dispatch, const char *shader, const uint32_t *constants,
                                       size_t constant_count, bpdq_error *error) {
  memset(dispatch, 0, sizeof *dispatch);
  dispatch->name = builder->op->name;
  dispatch->per = 1;
  for (int i = 0; i < 3; i++) dispatch->grid[i] = 1;
  return bpdq_vulkan_pipeline(&builder->vulkan->pipelines, shader, constants, constant_count, &dispatch->pipeline, error);
}

void bpdq_vulkan_read(vulkan_dispatch *dispatch, int slot, vulkan_binding memory) {
  dispatch->slots[slot] = (vulkan_slot){.memory = memory, .scratch = -1, .used = true};
}

void bpdq_vulkan_write(vulkan_dispatch *dispatch, int slot, vulkan_binding memory) {
  dispatch->slots[slot] = (vulkan_slot){.memory = memory, .scratch = -1, .used = true, .written = true};
}

void bpdq_vulkan_read_scratch(vulkan_dispatch *dispatch, int slot, vulkan_scratch scratch) {
  dispatch->slots[slot] = (vulkan_slot){.scratch = scratch, .used = true};
}

void bpdq_vulkan_write_scratch(vulkan_builder *builder, vulkan_dispatch *dispatch, int slot, vulkan_scratch scratch, uint64_t bytes) {
  dispatch->slots[slot] = (vulkan_slot){.scratch = scratch, .used = true, .written = true};
  if (bytes > builder->scratch_bytes[scratch]) builder->scratch_bytes[scratch] = bytes;
}

void bpdq_vulkan_push(vulkan_dispatch *dispatch, uint32_t value) { dispatch->push[dispatch->push_words++] = value; }

void bpdq_vulkan_push_float(vulkan_dispatch *dispatch, float value) {
  memcpy(&dispatch->push[dispatch->push_words++], &value, sizeof value);
}

bpdq_status bpdq_vulkan_dispatch_add(vulkan_builder *builder, const vulkan_dispatch *dispatch, bpdq_error *error) {
  for (int i = 0; i < 3; i++)
    if (dispatch->grid[i] > builder->vulkan->context.limits.groups[i])
      return bpdq_vulkan_unsupported(builder, "needs more work groups than the device dispatches at once", error);
  for (int i = 0; i < VULKAN_BINDINGS; i++)
    if (dispatch->slots[i].used && dispatch->slots[i].scratch >= 0 &&
        builder->scratch_bytes[dispatch->slots[i].scratch] > builder->vulkan->context.limits.storage_range)
      return bpdq_vulkan_unsupported(builder, "needs more scratch memory than a shader can see: lower the batch", error);
  if (builder->count == builder->capacity) {
    size_t capacity = builder->capacity ? 2 * builder->capacity : 64;
    vulkan_dispatch *grown = realloc(builder->dispatches, capacity * sizeof *grown);
    if (!grown) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
    builder->dispatches = grown;
    builder->capacity = capacity;
  }
  builder->dispatches[builder->count++] = *dispatch;
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_operand(const vulkan_builder *builder, bpdq_tensor tensor, bpdq_tensor_kind kind, int64_t rows, int64_t columns,
                                const vulkan_tensor **operand, bpdq_error *error) {
  if (tensor < 0 || (size_t)tensor >= builder->state->count)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "vulkan: operation %s: there is no tensor %d", builder->op->name, tensor);
  const vulkan_tensor *found = &builder->state->tensors[tensor];
  if (found->desc.kind != kind || found->desc.rows < rows || found->desc.columns < columns)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "vulkan: operation %s: tensor %d is [%lld, %lld], [%lld, %lld] is needed",
                     builder->op->name, tensor, (long long)found->desc.rows, (long long)found->desc.columns, (long long)rows,
                     (long long)columns);
  *operand = found;
  return BPDQ_OK;
}
