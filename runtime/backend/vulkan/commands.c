#include "backend/vulkan/commands.h"

#include <string.h>

#include "core/checked.h"

#define POLL_NANOSECONDS 4000000ull /* longer than a token of most models takes */

bpdq_status bpdq_vulkan_commands_create(vulkan_context *context, vulkan_commands *commands, bpdq_error *error) {
  memset(commands, 0, sizeof *commands);
  VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                  .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
                                  .queueFamilyIndex = context->queue_family};
  VkFenceCreateInfo fence = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
  VkResult result = context->vk.CreateCommandPool(context->device, &pool, NULL, &commands->pool);
  if (result == VK_SUCCESS) {
    VkCommandBufferAllocateInfo buffer = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                          .commandPool = commands->pool,
                                          .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                          .commandBufferCount = 1};
    result = context->vk.AllocateCommandBuffers(context->device, &buffer, &commands->buffer);
  }
  if (result == VK_SUCCESS) result = context->vk.CreateFence(context->device, &fence, NULL, &commands->fence);
  if (result != VK_SUCCESS) bpdq_vulkan_commands_destroy(context, commands);
  return bpdq_vulkan_result(context, result, "creating a command buffer", error);
}

void bpdq_vulkan_commands_destroy(vulkan_context *context, vulkan_commands *commands) {
  if (commands->pending) bpdq_vulkan_commands_wait(context, commands, NULL);
  if (commands->fence) context->vk.DestroyFence(context->device, commands->fence, NULL);
  if (commands->pool) context->vk.DestroyCommandPool(context->device, commands->pool, NULL);
  memset(commands, 0, sizeof *commands);
}

bpdq_status bpdq_vulkan_commands_begin(vulkan_context *context, vulkan_commands *commands, bool reusable, bpdq_error *error) {
  VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                   .flags = reusable ? 0 : VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT};
  return bpdq_vulkan_result(context, context->vk.BeginCommandBuffer(commands->buffer, &info), "recording commands", error);
}

bpdq_status bpdq_vulkan_commands_end(vulkan_context *context, vulkan_commands *commands, bpdq_error *error) {
  return bpdq_vulkan_result(context, context->vk.EndCommandBuffer(commands->buffer), "recording commands", error);
}

bpdq_status bpdq_vulkan_commands_submit(vulkan_context *context, vulkan_commands *commands, bpdq_error *error) {
  return bpdq_vulkan_commands_submit_behind(context, VK_NULL_HANDLE, commands, error);
}

bpdq_status bpdq_vulkan_commands_submit_behind(vulkan_context *context, VkCommandBuffer first, vulkan_commands *commands,
                                               bpdq_error *error) {
  const VkCommandBuffer buffers[] = {first, commands->buffer};
  bool both = first != VK_NULL_HANDLE;
  BPDQ_TRY(bpdq_vulkan_submit(context, both ? buffers : buffers + 1, both ? 2 : 1, commands->fence, error));
  commands->pending = true;
  return BPDQ_OK;
}

/* The system takes 30 to 80 us to wake a thread that waits for a fence (seen on an H200): short work is watched instead. */
static void poll(vulkan_context *context, VkFence fence) {
  uint64_t start = bpdq_monotonic_nanoseconds();
  while (context->vk.GetFenceStatus(context->device, fence) == VK_NOT_READY && bpdq_monotonic_nanoseconds() - start < POLL_NANOSECONDS) {
  }
}

bpdq_status bpdq_vulkan_commands_wait(vulkan_context *context, vulkan_commands *commands, bpdq_error *error) {
  if (!commands->pending) return BPDQ_OK;
  commands->pending = false;
  if (!context->is_cpu) poll(context, commands->fence); /* a CPU device needs the processor for itself */
  return bpdq_vulkan_wait(context, commands->fence, error);
}

static void barrier(const vulkan_context *context, VkCommandBuffer commands, VkPipelineStageFlags from, VkAccessFlags written,
                    VkPipelineStageFlags to, VkAccessFlags used) {
  VkMemoryBarrier memory = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER, .srcAccessMask = written, .dstAccessMask = used};
  context->vk.CmdPipelineBarrier(commands, from, to, 0, 1, &memory, 0, NULL, 0, NULL);
}

#define COMPUTE VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT
#define SHADER_USE (VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT)

void bpdq_vulkan_barrier(const vulkan_context *context, VkCommandBuffer commands, bool host) {
  const VkPipelineStageFlags work = COMPUTE | VK_PIPELINE_STAGE_TRANSFER_BIT;
  const VkAccessFlags written = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
  barrier(context, commands, work, written, work | VK_PIPELINE_STAGE_DRAW_INDIRECT_BIT | (host ? VK_PIPELINE_STAGE_HOST_BIT : 0),
          SHADER_USE | VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT | VK_ACCESS_INDIRECT_COMMAND_READ_BIT |
              (host ? VK_ACCESS_HOST_READ_BIT : 0));
}

void bpdq_vulkan_compute_barrier(const vulkan_context *context, VkCommandBuffer commands) {
  barrier(context, commands, COMPUTE, VK_ACCESS_SHADER_WRITE_BIT, COMPUTE, SHADER_USE);
}

void bpdq_vulkan_begin_barrier(const vulkan_context *context, VkCommandBuffer commands, bool indirect) {
  barrier(context, commands, COMPUTE | VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT,
          COMPUTE | (indirect ? VK_PIPELINE_STAGE_DRAW_INDIRECT_BIT : 0),
          SHADER_USE | (indirect ? VK_ACCESS_INDIRECT_COMMAND_READ_BIT : 0));
}

void bpdq_vulkan_end_barrier(const vulkan_context *context, VkCommandBuffer commands) {
  barrier(context, commands, COMPUTE, VK_ACCESS_SHADER_WRITE_BIT, VK_PIPELINE_STAGE_HOST_BIT, VK_ACCESS_HOST_READ_BIT);
}

void bpdq_vulkan_write_set(const vulkan_context *context, VkDescriptorSet set, const vulkan_binding bindings[VULKAN_BINDINGS]) {
  VkDescriptorBufferInfo buffers[VULKAN_BINDINGS];
  VkWriteDescriptorSet writes[VULKAN_BINDINGS];
  uint32_t count = 0;
  for (uint32_t i = 0; i < VULKAN_BINDINGS; i++) {
    if (!bindings[i].buffer) continue;
    uint64_t size = bindings[i].size < context->limits.storage_range ? bindings[i].size : context->limits.storage_range;
    buffers[count] = (VkDescriptorBufferInfo){bindings[i].buffer, bindings[i].offset, size};
    writes[count] = (VkWriteDescriptorSet){.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
                                           .dstSet = set,
                                           .dstBinding = i,
                                           .descriptorCount = 1,
                                           .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                           .pBufferInfo = &buffers[count]};
    count++;
  }
  context->vk.UpdateDescriptorSets(context->device, count, writes, 0, NULL);
}

bpdq_status bpdq_vulkan_create_sets(const vulkan_pipelines *pipelines, uint32_t count, VkDescriptorPool *pool, VkDescriptorSet *sets,
                                    bpdq_error *error) {
  const vulkan_context *context = pipelines->context;
  VkDescriptorPoolSize size = {VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, count * context->limits.bindings};
  VkDescriptorPoolCreateInfo info = {
      .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO, .maxSets = count, .poolSizeCount = 1, .pPoolSizes = &size};
  BPDQ_TRY(
      bpdq_vulkan_result(context, context->vk.CreateDescriptorPool(context->device, &info, NULL, pool), "creating descriptor sets", error));
  for (uint32_t i = 0; i < count; i++) {
    VkDescriptorSetAllocateInfo allocate = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
                                            .descriptorPool = *pool,
                                            .descriptorSetCount = 1,
                                            .pSetLayouts = &pipelines->set_layout};
    VkResult result = context->vk.AllocateDescriptorSets(context->device, &allocate, &sets[i]);
    if (result == VK_SUCCESS) continue;
    context->vk.DestroyDescriptorPool(context->device, *pool, NULL);
    *pool = VK_NULL_HANDLE;
    return bpdq_vulkan_result(context, result, "creating descriptor sets", error);
  }
  return BPDQ_OK;
}

void bpdq_vulkan_bind(const vulkan_pipelines *pipelines, VkCommandBuffer commands, VkPipeline pipeline, VkDescriptorSet set,
                      const uint32_t *push, uint32_t push_words) {
  const bpdq_vulkan_device_functions *vk = &pipelines->context->vk;
  vk->CmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
  vk->CmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipelines->layout, 0, 1, &set, 0, NULL);
  if (push_words) vk->CmdPushConstants(commands, pipelines->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, push_words * 4, push);
}
