#include "backend/vulkan/pipeline.h"

#include <stdlib.h>
#include <string.h>

#include "backend/vulkan/cache_file.h"
#include "core/checked.h"
#include "shader_table.h" /* generated: every shader's code, and the list of them */

#define CACHE_LIMIT ((uint64_t)256 << 20)

struct vulkan_pipeline_entry {
  vulkan_pipeline_entry *next;
  const vulkan_shader *shader;
  uint32_t constants[VULKAN_CONSTANTS];
  size_t count;
  VkPipeline pipeline;
};

const vulkan_shader *bpdq_vulkan_shader(const char *name) {
  for (size_t i = 0; i < sizeof shader_table / sizeof *shader_table; i++)
    if (!strcmp(shader_table[i].name, name)) return &shader_table[i];
  return NULL;
}

/* ---- the cache file ---- */

/* The header that every driver's cache data starts with (Vulkan specification, VkPipelineCacheHeaderVersionOne). */
static bool is_own_cache(const vulkan_context *context, const char *data, size_t size) {
  VkPipelineCacheHeaderVersionOne header;
  if (size < sizeof header) return false;
  memcpy(&header, data, sizeof header);
  return header.headerVersion == VK_PIPELINE_CACHE_HEADER_VERSION_ONE && header.vendorID == context->properties.vendorID &&
         header.deviceID == context->properties.deviceID &&
         !memcmp(header.pipelineCacheUUID, context->properties.pipelineCacheUUID, VK_UUID_SIZE);
}

static bpdq_status open_cache(vulkan_pipelines *pipelines, bpdq_error *error) {
  const vulkan_context *context = pipelines->context;
  char *data = NULL;
  size_t size = 0;
  bool usable = pipelines->cache_path && bpdq_path_exists(pipelines->cache_path) &&
                bpdq_read_file(pipelines->cache_path, CACHE_LIMIT, &data, &size, NULL) == BPDQ_OK && is_own_cache(context, data, size);
  VkPipelineCacheCreateInfo info = {
      .sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO, .initialDataSize = usable ? size : 0, .pInitialData = usable ? data : NULL};
  VkResult result = context->vk.CreatePipelineCache(context->device, &info, NULL, &pipelines->cache);
  free(data);
  return bpdq_vulkan_result(context, result, "creating the pipeline cache", error);
}

static void save_cache(vulkan_pipelines *pipelines) {
  const vulkan_context *context = pipelines->context;
  size_t size = 0;
  if (context->vk.GetPipelineCacheData(context->device, pipelines->cache, &size, NULL) != VK_SUCCESS || !size) return;
  char *data = malloc(size);
  if (!data) return;
  if (context->vk.GetPipelineCacheData(context->device, pipelines->cache, &size, data) == VK_SUCCESS)
    bpdq_vulkan_cache_write(context, pipelines->cache_path, "the pipeline cache", data, size);
  free(data);
}

/* ---- life cycle ---- */

static bpdq_status create_layouts(vulkan_pipelines *pipelines, bpdq_error *error) {
  const vulkan_context *context = pipelines->context;
  VkDescriptorSetLayoutBinding bindings[VULKAN_BINDINGS];
  for (uint32_t i = 0; i < context->limits.bindings; i++)
    bindings[i] = (VkDescriptorSetLayoutBinding){
        .binding = i, .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, .descriptorCount = 1, .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT};
  VkDescriptorSetLayoutCreateInfo set = {
      .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO, .bindingCount = context->limits.bindings, .pBindings = bindings};
  BPDQ_TRY(bpdq_vulkan_result(context, context->vk.CreateDescriptorSetLayout(context->device, &set, NULL, &pipelines->set_layout),
                              "creating the set layout", error));
  VkPushConstantRange push = {VK_SHADER_STAGE_COMPUTE_BIT, 0, VULKAN_PUSH_BYTES};
  VkPipelineLayoutCreateInfo layout = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
                                       .setLayoutCount = 1,
                                       .pSetLayouts = &pipelines->set_layout,
                                       .pushConstantRangeCount = 1,
                                       .pPushConstantRanges = &push};
  return bpdq_vulkan_result(context, context->vk.CreatePipelineLayout(context->device, &layout, NULL, &pipelines->layout),
                            "creating the pipeline layout", error);
}

bpdq_status bpdq_vulkan_pipelines_create(vulkan_pipelines *pipelines, vulkan_context *context, const char *cache_folder,
                                         bpdq_error *error) {
  memset(pipelines, 0, sizeof *pipelines);
  pipelines->context = context;
  pipelines->mutex = bpdq_mutex_create();
  if (!pipelines->mutex) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  if (cache_folder) pipelines->cache_path = bpdq_vulkan_cache_path(context, cache_folder, context->driver_uuid, "pipelines");
  BPDQ_TRY(create_layouts(pipelines, error));
  return open_cache(pipelines, error);
}

void bpdq_vulkan_pipelines_destroy(vulkan_pipelines *pipelines) {
  vulkan_context *context = pipelines->context;
  if (!context) return;
  if (pipelines->cache_path && pipelines->cache_grew) save_cache(pipelines);
  for (vulkan_pipeline_entry *entry = pipelines->entries, *next; entry; entry = next) {
    next = entry->next;
    context->vk.DestroyPipeline(context->device, entry->pipeline, NULL);
    free(entry);
  }
  if (pipelines->cache) context->vk.DestroyPipelineCache(context->device, pipelines->cache, NULL);
  if (pipelines->layout) context->vk.DestroyPipelineLayout(context->device, pipelines->layout, NULL);
  if (pipelines->set_layout) context->vk.DestroyDescriptorSetLayout(context->device, pipelines->set_layout, NULL);
  bpdq_mutex_destroy(pipelines->mutex);
  free(pipelines->cache_path);
  memset(pipelines, 0, sizeof *pipelines);
}

/* ---- pipelines ---- */

static bpdq_status build(vulkan_pipelines *pipelines, vulkan_pipeline_entry *entry, bpdq_error *error) {
  const vulkan_context *context = pipelines->context;
  VkSpecializationMapEntry map[VULKAN_CONSTANTS];
  for (uint32_t i = 0; i < entry->count; i++) map[i] = (VkSpecializationMapEntry){i, i * 4, 4};
  VkSpecializationInfo specialization = {(uint32_t)entry->count, map, entry->count * 4, entry->constants};
  VkShaderModuleCreateInfo code = {
      .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = entry->shader->bytes, .pCode = entry->shader->code};
  VkShaderModule module;
  BPDQ_TRY(bpdq_vulkan_result(context, context->vk.CreateShaderModule(context->device, &code, NULL, &module), "loading a shader", error));
  VkPipelineShaderStageRequiredSubgroupSizeCreateInfo size = {
      .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO, .requiredSubgroupSize = VULKAN_SUBGROUP};
  /* NVIDIA's driver compares every index with the buffer's size unless told not to: 4% of a product's instructions
   * (docs/benchmarks/log.md). */
  VkPipelineRobustnessCreateInfoEXT unchecked = {.sType = VK_STRUCTURE_TYPE_PIPELINE_ROBUSTNESS_CREATE_INFO_EXT,
                                                 .storageBuffers = VK_PIPELINE_ROBUSTNESS_BUFFER_BEHAVIOR_DISABLED_EXT};
  VkComputePipelineCreateInfo info = {.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
                                      .pNext = context->features.unchecked ? &unchecked : NULL,
                                      .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                                                .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                                                .module = module,
                                                .pName = "main",
                                                .pSpecializationInfo = &specialization},
                                      .layout = pipelines->layout};
  if (bpdq_vulkan_subgroup_way(&context->subgroups, entry->shader->subgroups, context->limits.group_threads) == VULKAN_SUBGROUP_REQUIRED) {
    info.stage.flags = VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT;
    info.stage.pNext = &size;
  }
  VkResult result = context->vk.CreateComputePipelines(context->device, pipelines->cache, 1, &info, NULL, &entry->pipeline);
  context->vk.DestroyShaderModule(context->device, module, NULL);
  pipelines->cache_grew = true;
  return bpdq_vulkan_result(context, result, entry->shader->name, error);
}

bpdq_status bpdq_vulkan_pipeline(vulkan_pipelines *pipelines, const char *name, const uint32_t *constants, size_t count,
                                 VkPipeline *pipeline, bpdq_error *error) {
  const vulkan_shader *shader = bpdq_vulkan_shader(name);
  if (!shader || count > VULKAN_CONSTANTS) return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "vulkan: no shader %s in this build", name);
  bpdq_status status = BPDQ_OK;
  bpdq_mutex_lock(pipelines->mutex);
  vulkan_pipeline_entry *entry = pipelines->entries;
  while (entry && (entry->shader != shader || entry->count != count || memcmp(entry->constants, constants, count * 4) != 0))
    entry = entry->next;
  if (!entry) {
    entry = calloc(1, sizeof *entry);
    if (entry) {
      entry->shader = shader;
      entry->count = count;
      if (count) memcpy(entry->constants, constants, count * 4);
      status = build(pipelines, entry, error);
      if (status == BPDQ_OK) {
        entry->next = pipelines->entries;
        pipelines->entries = entry;
      } else {
        free(entry);
        entry = NULL;
      }
    } else {
      status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
    }
  }
  if (entry) *pipeline = entry->pipeline;
  bpdq_mutex_unlock(pipelines->mutex);
  return status;
}
