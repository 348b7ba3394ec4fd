#include "backend/vulkan/upload.h"

#include <string.h>

#define THREADS 64 /* of the repacking shaders */

void bpdq_vulkan_uploader_create(vulkan_uploader *uploader, vulkan_context *context, vulkan_memory *memory, vulkan_pipelines *pipelines) {
  *uploader = (vulkan_uploader){.context = context, .memory = memory, .pipelines = pipelines};
}

static void free_ring(vulkan_uploader *uploader) {
  vulkan_context *context = uploader->context;
  for (int i = 0; i < VULKAN_UPLOAD_SLOTS; i++) {
    bpdq_vulkan_commands_destroy(context, &uploader->slots[i].commands);
    bpdq_vulkan_release(uploader->memory, &uploader->slots[i].staging);
    bpdq_vulkan_release(uploader->memory, &uploader->slots[i].device);
  }
  bpdq_pool_destroy(uploader->threads);
  uploader->threads = NULL;
  if (uploader->pool) context->vk.DestroyDescriptorPool(context->device, uploader->pool, NULL);
  uploader->pool = VK_NULL_HANDLE;
  uploader->ready = false;
}

void bpdq_vulkan_uploader_destroy(vulkan_uploader *uploader) {
  if (uploader->context) free_ring(uploader);
}

static bpdq_status make_ring(vulkan_uploader *uploader, bpdq_error *error) {
  VkDescriptorSet sets[VULKAN_UPLOAD_SLOTS];
  bpdq_status status = bpdq_vulkan_create_sets(uploader->pipelines, VULKAN_UPLOAD_SLOTS, &uploader->pool, sets, error);
  if (status == BPDQ_OK) status = bpdq_staging_pool_create(&uploader->threads, error);
  for (int i = 0; i < VULKAN_UPLOAD_SLOTS && status == BPDQ_OK; i++) {
    vulkan_upload_slot *slot = &uploader->slots[i];
    slot->set = sets[i];
    status = bpdq_vulkan_commands_create(uploader->context, &slot->commands, error);
    if (status == BPDQ_OK)
      status =
          bpdq_vulkan_allocate(uploader->memory, VULKAN_MEMORY_UPLOAD, VULKAN_UPLOAD_SLOT_BYTES, "staging memory", &slot->staging, error);
    if (status == BPDQ_OK)
      status =
          bpdq_vulkan_allocate(uploader->memory, VULKAN_MEMORY_DEVICE, VULKAN_UPLOAD_SLOT_BYTES, "the upload ring", &slot->device, error);
  }
  if (status == BPDQ_OK)
    uploader->ready = true;
  else
    free_ring(uploader);
  return status;
}

bpdq_status bpdq_vulkan_upload_start(vulkan_uploader *uploader, bpdq_error *error) {
  return uploader->ready ? BPDQ_OK : make_ring(uploader, error);
}

bpdq_status bpdq_vulkan_upload_begin(vulkan_uploader *uploader, vulkan_upload_slot **slot, bpdq_error *error) {
  BPDQ_TRY(bpdq_vulkan_upload_start(uploader, error));
  vulkan_upload_slot *next = &uploader->slots[uploader->next];
  uploader->next = (uploader->next + 1) % VULKAN_UPLOAD_SLOTS;
  BPDQ_TRY(bpdq_vulkan_commands_wait(uploader->context, &next->commands, error));
  BPDQ_TRY(bpdq_vulkan_commands_begin(uploader->context, &next->commands, false, error));
  *slot = next;
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_upload_end(vulkan_uploader *uploader, vulkan_upload_slot *slot, bpdq_error *error) {
  bpdq_vulkan_barrier(uploader->context, slot->commands.buffer, false);
  BPDQ_TRY(bpdq_vulkan_commands_end(uploader->context, &slot->commands, error));
  return bpdq_vulkan_commands_submit(uploader->context, &slot->commands, error);
}

void bpdq_vulkan_upload_copy(vulkan_uploader *uploader, vulkan_upload_slot *slot, const vulkan_buffer *target, uint64_t offset,
                             uint64_t bytes) {
  VkBufferCopy copy = {slot->staging.offset, target->offset + offset, bytes};
  uploader->context->vk.CmdCopyBuffer(slot->commands.buffer, slot->staging.buffer, target->buffer, 1, &copy);
  bpdq_vulkan_barrier(uploader->context, slot->commands.buffer, false);
}

bpdq_status bpdq_vulkan_upload_dispatch(vulkan_uploader *uploader, vulkan_upload_slot *slot, const char *name,
                                        const vulkan_binding bindings[VULKAN_BINDINGS], const uint32_t *push, uint32_t push_words,
                                        const uint32_t grid[3], bpdq_error *error) {
  static const uint32_t constants[] = {THREADS};
  VkPipeline pipeline;
  BPDQ_TRY(bpdq_vulkan_pipeline(uploader->pipelines, name, constants, 1, &pipeline, error));
  bpdq_vulkan_write_set(uploader->context, slot->set, bindings);
  bpdq_vulkan_bind(uploader->pipelines, slot->commands.buffer, pipeline, slot->set, push, push_words);
  uploader->context->vk.CmdDispatch(slot->commands.buffer, grid[0], grid[1], grid[2]);
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_upload_flush(vulkan_uploader *uploader, bpdq_error *error) {
  bpdq_status status = BPDQ_OK;
  for (int i = 0; i < VULKAN_UPLOAD_SLOTS && uploader->ready; i++) {
    bpdq_status waited = bpdq_vulkan_commands_wait(uploader->context, &uploader->slots[i].commands, status == BPDQ_OK ? error : NULL);
    if (status == BPDQ_OK) status = waited;
  }
  free_ring(uploader);
  return status;
}
