/* The staging ring: host memory goes to the device in slots, so that copying from the mapped file, the transfer and the repacking
 * overlap while host memory stays bounded (SLOTS x SLOT_BYTES). A slot has as much device memory: shaders that repack read it in an
 * order of their own, which would cross the bus a few bytes at a time. */
#ifndef BPDQ_VULKAN_UPLOAD_H
#define BPDQ_VULKAN_UPLOAD_H

#include "backend/staging.h"
#include "backend/vulkan/commands.h"

#define VULKAN_UPLOAD_SLOTS 4
#define VULKAN_UPLOAD_SLOT_BYTES ((uint64_t)8 << 20)

typedef struct vulkan_upload_slot {
  vulkan_commands commands;
  vulkan_buffer staging; /* mapped */
  vulkan_buffer device;  /* what the shaders read */
  VkDescriptorSet set;
} vulkan_upload_slot;

typedef struct vulkan_uploader {
  vulkan_context *context;
  vulkan_memory *memory;
  vulkan_pipelines *pipelines;
  VkDescriptorPool pool;
  bpdq_pool *threads; /* that copy into the slots */
  vulkan_upload_slot slots[VULKAN_UPLOAD_SLOTS];
  int next;
  bool any_head; /* heads of any size are stored in 8 bits: for the device check */
  bool ready;    /* the slots exist: they are made at the first upload and go at the flush */
} vulkan_uploader;

void bpdq_vulkan_uploader_create(vulkan_uploader *uploader, vulkan_context *context, vulkan_memory *memory, vulkan_pipelines *pipelines);
void bpdq_vulkan_uploader_destroy(vulkan_uploader *uploader);

/* Makes the ring where it is not there yet; _begin does so too. */
bpdq_status bpdq_vulkan_upload_start(vulkan_uploader *uploader, bpdq_error *error);
/* The next free slot, recording. Fill slot->staging, record commands that use it, then call _end. */
bpdq_status bpdq_vulkan_upload_begin(vulkan_uploader *uploader, vulkan_upload_slot **slot, bpdq_error *error);
bpdq_status bpdq_vulkan_upload_end(vulkan_uploader *uploader, vulkan_upload_slot *slot, bpdq_error *error);
/* Records the transfer of the slot's first `bytes` to `target` at `offset`; dispatches that follow may read it. */
void bpdq_vulkan_upload_copy(vulkan_uploader *uploader, vulkan_upload_slot *slot, const vulkan_buffer *target, uint64_t offset,
                             uint64_t bytes);
/* One dispatch in a slot: pipeline `name` over `bindings`. */
bpdq_status bpdq_vulkan_upload_dispatch(vulkan_uploader *uploader, vulkan_upload_slot *slot, const char *name,
                                        const vulkan_binding bindings[VULKAN_BINDINGS], const uint32_t *push, uint32_t push_words,
                                        const uint32_t grid[3], bpdq_error *error);
/* Waits until everything has arrived and frees the ring. */
bpdq_status bpdq_vulkan_upload_flush(vulkan_uploader *uploader, bpdq_error *error);

#endif
