/* The device's read bandwidth: what decode speed is measured against. */
#include "backend/vulkan/vulkan.h"

#define GPU_BYTES ((uint64_t)2 << 30) /* far beyond any cache */
#define CPU_BYTES ((uint64_t)64 << 20)
#define MAX_PARTS 32 /* below the range that one descriptor can see */
#define PASSES 3
#define GPU_SECONDS 0.5 /* passes go on so long: an idle GPU takes some 300 ms to raise its clocks */
#define THREADS 256
#define GROUPS 4096

typedef struct reading {
  vulkan_buffer parts[MAX_PARTS], target;
  uint32_t count;
  uint64_t bytes;
  VkDescriptorPool pool;
  VkDescriptorSet sets[MAX_PARTS];
  VkQueryPool queries;
  vulkan_commands commands;
} reading;

static bpdq_status record(bpdq_vulkan *vulkan, reading *r, bpdq_error *error) {
  vulkan_context *context = &vulkan->context;
  static const uint32_t constants[] = {THREADS};
  VkPipeline pipeline;
  BPDQ_TRY(bpdq_vulkan_pipeline(&vulkan->pipelines, "read_bandwidth", constants, 1, &pipeline, error));
  BPDQ_TRY(bpdq_vulkan_create_sets(&vulkan->pipelines, r->count, &r->pool, r->sets, error));
  BPDQ_TRY(bpdq_vulkan_commands_begin(context, &r->commands, true, error));
  VkCommandBuffer commands = r->commands.buffer;
  context->vk.CmdResetQueryPool(commands, r->queries, 0, 2);
  bpdq_vulkan_barrier(context, commands, false);
  context->vk.CmdWriteTimestamp(commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, r->queries, 0);
  for (uint32_t i = 0; i < r->count; i++) {
    const vulkan_binding bindings[VULKAN_BINDINGS] = {bpdq_vulkan_whole(&r->parts[i]), bpdq_vulkan_whole(&r->target)};
    const uint32_t push[] = {(uint32_t)(r->parts[i].size / 16)};
    bpdq_vulkan_write_set(context, r->sets[i], bindings);
    bpdq_vulkan_bind(&vulkan->pipelines, commands, pipeline, r->sets[i], push, 1);
    context->vk.CmdDispatch(commands, GROUPS, 1, 1);
    bpdq_vulkan_compute_barrier(context, commands); /* they all may write the target */
  }
  context->vk.CmdWriteTimestamp(commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, r->queries, 1);
  return bpdq_vulkan_commands_end(context, &r->commands, error);
}

static bpdq_status prepare(bpdq_vulkan *vulkan, reading *r, bpdq_error *error) {
  vulkan_context *context = &vulkan->context;
  BPDQ_TRY(bpdq_vulkan_allocate(&vulkan->memory, VULKAN_MEMORY_DEVICE, 256, "the bandwidth measurement", &r->target, error));
  uint64_t wanted = context->is_cpu ? CPU_BYTES : GPU_BYTES, free_bytes;
  free_bytes = bpdq_vulkan_free_memory(&context->instance_functions, context->physical_device, NULL);
  if (wanted > free_bytes / 2) wanted = free_bytes / 2;
  uint64_t left = vulkan->memory.cap > vulkan->memory.current ? vulkan->memory.cap - vulkan->memory.current : 0;
  if (wanted > left) wanted = left;
  uint64_t part = context->limits.storage_range / 2 < wanted ? context->limits.storage_range / 2 : wanted;
  if (part > (uint64_t)256 << 20) part = (uint64_t)256 << 20;
  part &= ~(uint64_t)255;
  if (!part) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "no device memory is left to measure the bandwidth: raise --memory-cap");
  for (; r->count < MAX_PARTS && r->bytes + part <= wanted; r->count++) {
    BPDQ_TRY(bpdq_vulkan_allocate(&vulkan->memory, VULKAN_MEMORY_DEVICE, part, "the bandwidth measurement", &r->parts[r->count], error));
    r->bytes += part;
  }
  VkQueryPoolCreateInfo queries = {
      .sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO, .queryType = VK_QUERY_TYPE_TIMESTAMP, .queryCount = 2};
  BPDQ_TRY(
      bpdq_vulkan_result(context, context->vk.CreateQueryPool(context->device, &queries, NULL, &r->queries), "creating queries", error));
  BPDQ_TRY(bpdq_vulkan_commands_create(context, &r->commands, error));
  return record(vulkan, r, error);
}

/* Memory is written first: pages that were never touched may all be the same zero page. */
static bpdq_status fill(bpdq_vulkan *vulkan, reading *r, bpdq_error *error) {
  vulkan_context *context = &vulkan->context;
  vulkan_commands commands;
  BPDQ_TRY(bpdq_vulkan_commands_create(context, &commands, error));
  bpdq_status status = bpdq_vulkan_commands_begin(context, &commands, false, error);
  if (status == BPDQ_OK) {
    for (uint32_t i = 0; i < r->count; i++)
      context->vk.CmdFillBuffer(commands.buffer, r->parts[i].buffer, r->parts[i].offset, r->parts[i].size, 0x5bd1e995u);
    bpdq_vulkan_barrier(context, commands.buffer, false);
    status = bpdq_vulkan_commands_end(context, &commands, error);
  }
  if (status == BPDQ_OK) status = bpdq_vulkan_commands_submit(context, &commands, error);
  if (status == BPDQ_OK) status = bpdq_vulkan_commands_wait(context, &commands, error);
  bpdq_vulkan_commands_destroy(context, &commands);
  return status;
}

static bpdq_status measure(bpdq_vulkan *vulkan, reading *r, double *best, bpdq_error *error) {
  vulkan_context *context = &vulkan->context;
  const uint64_t begin = bpdq_monotonic_nanoseconds(), least = context->is_cpu ? 0 : (uint64_t)(GPU_SECONDS * 1e9);
  *best = 0;
  for (int pass = 0; pass < PASSES || bpdq_monotonic_nanoseconds() - begin < least; pass++) {
    uint64_t stamps[2], start = bpdq_monotonic_nanoseconds();
    BPDQ_TRY(bpdq_vulkan_commands_submit(context, &r->commands, error));
    BPDQ_TRY(bpdq_vulkan_commands_wait(context, &r->commands, error));
    double seconds = (double)(bpdq_monotonic_nanoseconds() - start) * 1e-9;
    VkResult result = context->vk.GetQueryPoolResults(context->device, r->queries, 0, 2, sizeof stamps, stamps, 8, VK_QUERY_RESULT_64_BIT);
    if (result == VK_SUCCESS && stamps[1] > stamps[0] && !context->is_cpu)
      seconds = (double)(stamps[1] - stamps[0]) * (double)context->properties.limits.timestampPeriod * 1e-9;
    if ((double)r->bytes / seconds > *best) *best = (double)r->bytes / seconds;
  }
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_measure_bandwidth(bpdq_vulkan *vulkan, double *bytes_per_second, bpdq_error *error) {
  vulkan_context *context = &vulkan->context;
  reading r = {0};
  uint64_t current, peak;
  vulkan->backend.memory(&vulkan->backend, &current, &peak);
  bpdq_status status = prepare(vulkan, &r, error);
  if (status == BPDQ_OK) status = fill(vulkan, &r, error);
  if (status == BPDQ_OK) status = measure(vulkan, &r, bytes_per_second, error);
  bpdq_vulkan_commands_destroy(context, &r.commands);
  if (r.queries) context->vk.DestroyQueryPool(context->device, r.queries, NULL);
  if (r.pool) context->vk.DestroyDescriptorPool(context->device, r.pool, NULL);
  for (uint32_t i = 0; i < r.count; i++) bpdq_vulkan_release(&vulkan->memory, &r.parts[i]);
  bpdq_vulkan_release(&vulkan->memory, &r.target);
  bpdq_vulkan_restore_peak(&vulkan->memory, peak);
  return status;
}
