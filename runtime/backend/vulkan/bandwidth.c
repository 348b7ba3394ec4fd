/* The device's read bandwidth, which decode speed is measured against, and whether it has a large cache. */
#include "backend/vulkan/vulkan.h"

#define GPU_BYTES ((uint64_t)2 << 30) /* far beyond any cache */
#define CPU_BYTES ((uint64_t)64 << 20)
#define MAX_PARTS 32 /* below the range that one descriptor can see */
#define PASSES 3
#define GPU_SECONDS 0.5 /* passes go on so long: an idle GPU takes some 300 ms to raise its clocks */
#define THREADS 256
#define GROUPS 4096
/* Few work groups wait for memory most of the time, so that they read what the cache holds faster, however fast the memory is. */
#define CACHE_GROUPS 16
#define CACHE_FAR_BYTES ((uint64_t)256 << 20)
#define CACHE_SECONDS 0.15
#define CACHE_GAIN 1.25

typedef struct reading {
  uint64_t wanted; /* bytes of memory */
  bool exact;      /* so many or an error; else less where there is less */
  uint32_t rounds; /* how often they are read; more than once only a power of two of bytes, in one part */
  uint32_t groups; /* work groups */
  double seconds;  /* how long at least, on a GPU */
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
    const uint32_t count = (uint32_t)(r->parts[i].size / 16), push[] = {count * r->rounds, r->rounds > 1 ? count - 1 : UINT32_MAX};
    bpdq_vulkan_write_set(context, r->sets[i], bindings);
    bpdq_vulkan_bind(&vulkan->pipelines, commands, pipeline, r->sets[i], push, 2);
    context->vk.CmdDispatch(commands, r->groups, 1, 1);
    bpdq_vulkan_compute_barrier(context, commands); /* they all may write the target */
  }
  context->vk.CmdWriteTimestamp(commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, r->queries, 1);
  return bpdq_vulkan_commands_end(context, &r->commands, error);
}

static bpdq_status prepare(bpdq_vulkan *vulkan, reading *r, bpdq_error *error) {
  vulkan_context *context = &vulkan->context;
  BPDQ_TRY(bpdq_vulkan_allocate(&vulkan->memory, VULKAN_MEMORY_DEVICE, 256, "the bandwidth measurement", &r->target, error));
  uint64_t wanted = r->wanted, free_bytes = bpdq_vulkan_free_memory(&context->instance_functions, context->physical_device, NULL);
  if (wanted > free_bytes / 2) wanted = free_bytes / 2;
  uint64_t left = vulkan->memory.cap > vulkan->memory.current ? vulkan->memory.cap - vulkan->memory.current : 0;
  if (wanted > left) wanted = left;
  uint64_t part = context->limits.storage_range / 2 < wanted ? context->limits.storage_range / 2 : wanted;
  if (part > (uint64_t)256 << 20) part = (uint64_t)256 << 20;
  part &= ~(uint64_t)255;
  if (!part || (r->exact && wanted < r->wanted))
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "no device memory is left to measure the bandwidth: raise --memory-cap");
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
  const uint64_t begin = bpdq_monotonic_nanoseconds(), least = context->is_cpu ? 0 : (uint64_t)(r->seconds * 1e9);
  *best = 0;
  for (int pass = 0; pass < PASSES || bpdq_monotonic_nanoseconds() - begin < least; pass++) {
    uint64_t stamps[2], start = bpdq_monotonic_nanoseconds();
    BPDQ_TRY(bpdq_vulkan_commands_submit(context, &r->commands, error));
    BPDQ_TRY(bpdq_vulkan_commands_wait(context, &r->commands, error));
    double seconds = (double)(bpdq_monotonic_nanoseconds() - start) * 1e-9;
    VkResult result = context->vk.GetQueryPoolResults(context->device, r->queries, 0, 2, sizeof stamps, stamps, 8, VK_QUERY_RESULT_64_BIT);
    if (result == VK_SUCCESS && stamps[1] > stamps[0] && !context->is_cpu)
      seconds = (double)(stamps[1] - stamps[0]) * (double)context->properties.limits.timestampPeriod * 1e-9;
    double rate = (double)r->bytes * r->rounds / seconds;
    if (rate > *best) *best = rate;
  }
  return BPDQ_OK;
}

static bpdq_status read_rate(bpdq_vulkan *vulkan, reading *r, double *bytes_per_second, bpdq_error *error) {
  vulkan_context *context = &vulkan->context;
  uint64_t current, peak;
  vulkan->backend.memory(&vulkan->backend, &current, &peak);
  bpdq_status status = prepare(vulkan, r, error);
  if (status == BPDQ_OK) status = fill(vulkan, r, error);
  if (status == BPDQ_OK) status = measure(vulkan, r, bytes_per_second, error);
  bpdq_vulkan_commands_destroy(context, &r->commands);
  if (r->queries) context->vk.DestroyQueryPool(context->device, r->queries, NULL);
  if (r->pool) context->vk.DestroyDescriptorPool(context->device, r->pool, NULL);
  for (uint32_t i = 0; i < r->count; i++) bpdq_vulkan_release(&vulkan->memory, &r->parts[i]);
  bpdq_vulkan_release(&vulkan->memory, &r->target);
  bpdq_vulkan_restore_peak(&vulkan->memory, peak);
  return status;
}

bpdq_status bpdq_vulkan_measure_bandwidth(bpdq_vulkan *vulkan, double *bytes_per_second, bpdq_error *error) {
  reading r = {.wanted = vulkan->context.is_cpu ? CPU_BYTES : GPU_BYTES, .rounds = 1, .groups = GROUPS, .seconds = GPU_SECONDS};
  return read_rate(vulkan, &r, bytes_per_second, error);
}

bpdq_status bpdq_vulkan_measure_cache(bpdq_vulkan *vulkan, bool *large, bpdq_error *error) {
  const uint64_t kept = VULKAN_LARGE_CACHE_BYTES, beyond = vulkan->context.is_cpu ? CPU_BYTES : CACHE_FAR_BYTES;
  double fast = 0, slow = 0;
  /* Again and again between two readings of what no cache holds: clocks that rise meanwhile speak against it. */
  for (int i = 0; i < 3; i++) {
    bool again = i == 1;
    reading r = {.wanted = again ? kept : beyond, .exact = true, .groups = CACHE_GROUPS, .seconds = CACHE_SECONDS};
    r.rounds = again ? (uint32_t)(beyond / kept) : 1;
    double rate;
    BPDQ_TRY(read_rate(vulkan, &r, &rate, error));
    double *best = again ? &fast : &slow;
    if (rate > *best) *best = rate;
  }
  *large = fast > CACHE_GAIN * slow;
  bpdq_log_info(&vulkan->context.log, "vulkan: %.0f MiB are read at %.0f GB/s, %.0f MiB at %.0f: the cache is %s", (double)kept / 0x1p20,
                fast * 1e-9, (double)beyond / 0x1p20, slow * 1e-9, *large ? "large" : "small");
  return BPDQ_OK;
}
