/* Command buffers, and the dispatch: one compute shader with its bindings, constants and grid. */
#ifndef BPDQ_VULKAN_COMMANDS_H
#define BPDQ_VULKAN_COMMANDS_H

#include "backend/vulkan/memory.h"
#include "backend/vulkan/pipeline.h"

/* One command buffer with the fence of its submission. Used by one thread at a time. */
typedef struct vulkan_commands {
  VkCommandPool pool;
  VkCommandBuffer buffer;
  VkFence fence;
  bool pending; /* submitted and not waited for */
} vulkan_commands;

bpdq_status bpdq_vulkan_commands_create(vulkan_context *context, vulkan_commands *commands, bpdq_error *error);
void bpdq_vulkan_commands_destroy(vulkan_context *context, vulkan_commands *commands); /* waits for what is pending */
/* Starts recording (what was recorded before is dropped). With `reusable` the recording may be submitted many times. */
bpdq_status bpdq_vulkan_commands_begin(vulkan_context *context, vulkan_commands *commands, bool reusable, bpdq_error *error);
bpdq_status bpdq_vulkan_commands_end(vulkan_context *context, vulkan_commands *commands, bpdq_error *error);
bpdq_status bpdq_vulkan_commands_submit(vulkan_context *context, vulkan_commands *commands, bpdq_error *error);
/* The same in one submission with commands that run before it; `first` may be VK_NULL_HANDLE. */
bpdq_status bpdq_vulkan_commands_submit_behind(vulkan_context *context, VkCommandBuffer first, vulkan_commands *commands,
                                               bpdq_error *error);
bpdq_status bpdq_vulkan_commands_wait(vulkan_context *context, vulkan_commands *commands, bpdq_error *error);

/* All earlier compute and transfer writes become visible to all later compute, transfer and indirect reads; with `host` to the host too. */
void bpdq_vulkan_barrier(const vulkan_context *context, VkCommandBuffer commands, bool host);
/* A program's: only with the stages that it has, since each more makes a barrier longer (docs/benchmarks/log.md). It begins behind earlier
 * compute and transfer writes, with compute and, where `indirect`, grids; and ends with results that the host reads. */
void bpdq_vulkan_begin_barrier(const vulkan_context *context, VkCommandBuffer commands, bool indirect);
void bpdq_vulkan_end_barrier(const vulkan_context *context, VkCommandBuffer commands);
/* Earlier compute writes become visible to later compute work: the barrier between two operations. */
void bpdq_vulkan_compute_barrier(const vulkan_context *context, VkCommandBuffer commands);

typedef struct vulkan_binding {
  VkBuffer buffer; /* VK_NULL_HANDLE: the shader does not use this binding */
  uint64_t offset, size;
} vulkan_binding;

static inline vulkan_binding bpdq_vulkan_whole(const vulkan_buffer *buffer) {
  return (vulkan_binding){buffer->buffer, buffer->offset, buffer->size};
}

void bpdq_vulkan_write_set(const vulkan_context *context, VkDescriptorSet set, const vulkan_binding bindings[VULKAN_BINDINGS]);

/* A descriptor pool with `count` sets of the common layout; `sets` has room for them. */
bpdq_status bpdq_vulkan_create_sets(const vulkan_pipelines *pipelines, uint32_t count, VkDescriptorPool *pool, VkDescriptorSet *sets,
                                    bpdq_error *error);

/* Binds pipeline and set, pushes `push_words` words; the caller dispatches. */
void bpdq_vulkan_bind(const vulkan_pipelines *pipelines, VkCommandBuffer commands, VkPipeline pipeline, VkDescriptorSet set,
                      const uint32_t *push, uint32_t push_words);

#endif
