/* Compute pipelines: one embedded shader, specialized by up to VULKAN_CONSTANTS constants, made once and kept. All shaders share one
 * layout: storage buffers at bindings 0..10 of set 0 (fewer, but 0..7 at least, where the device has no more) and 128 bytes of push
 * constants (which every device has). */
#ifndef BPDQ_VULKAN_PIPELINE_H
#define BPDQ_VULKAN_PIPELINE_H

#include "backend/vulkan/context.h"

#define VULKAN_BINDINGS 11
#define VULKAN_LEAST_BINDINGS 8 /* that a device must have: Mesa's v3dv (Raspberry Pi) and some drivers of phones have no more */
#define VULKAN_PUSH_BYTES 128
#define VULKAN_CONSTANTS 19

/* SPIR-V made from shaders/NAME at build time. */
typedef struct vulkan_shader {
  const char *name;
  const uint32_t *code;
  size_t bytes;
  vulkan_subgroup_need subgroups;
} vulkan_shader;
/* NULL where this build's shader compiler could not make the variant. */
const vulkan_shader *bpdq_vulkan_shader(const char *name);

typedef struct vulkan_pipeline_entry vulkan_pipeline_entry;

typedef struct vulkan_pipelines {
  vulkan_context *context;
  VkDescriptorSetLayout set_layout;
  VkPipelineLayout layout;
  VkPipelineCache cache;
  char *cache_path; /* NULL: not kept on disk */
  bool cache_grew;
  vulkan_pipeline_entry *entries;
  bpdq_mutex *mutex;
} vulkan_pipelines;

/* `cache_folder` may be NULL. A missing or foreign cache file is no error. */
bpdq_status bpdq_vulkan_pipelines_create(vulkan_pipelines *pipelines, vulkan_context *context, const char *cache_folder, bpdq_error *error);
/* Writes the cache file when pipelines were added. */
void bpdq_vulkan_pipelines_destroy(vulkan_pipelines *pipelines);

/* The pipeline of shader `name` with constants[i] as specialization constant i; constant 0 is the number of threads of a work group.
 * Owned by `pipelines`. Any thread. */
bpdq_status bpdq_vulkan_pipeline(vulkan_pipelines *pipelines, const char *name, const uint32_t *constants, size_t count,
                                 VkPipeline *pipeline, bpdq_error *error);

#endif
