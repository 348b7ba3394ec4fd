/* The Vulkan backend's own structs. */
#ifndef BPDQ_VULKAN_VULKAN_H
#define BPDQ_VULKAN_VULKAN_H

#include "backend/vulkan/tuning.h"
#include "backend/vulkan/weight.h"

typedef struct bpdq_vulkan {
  bpdq_backend backend; /* first: the dispatch layer sees only this */
  vulkan_context context;
  vulkan_memory memory;
  vulkan_pipelines pipelines;
  vulkan_uploader uploader;
  vulkan_tuning tuning;
} bpdq_vulkan;

typedef struct vulkan_tensor {
  bpdq_tensor_desc desc;
  vulkan_buffer buffer; /* F32, I32: row-major. KV: see rope_cache.comp */
  uint64_t bytes;
} vulkan_tensor;

/* Small host writes to tensors that are not mapped. They wait in mapped memory for the next submission that uses the state, which copies
 * them first: a token's row then takes no submission, and no wait, of its own. Devices without resizable BAR need this. */
#define VULKAN_WRITES 4
typedef struct vulkan_write {
  VkBuffer target;
  VkBufferCopy region;
} vulkan_write;

typedef struct vulkan_writes {
  vulkan_buffer memory;     /* made when first needed */
  vulkan_commands commands; /* the copies of `recorded`, kept: from token to token they are the same */
  vulkan_write waiting[VULKAN_WRITES], recorded[VULKAN_WRITES];
  size_t count, recorded_count;
  uint64_t used; /* bytes of `memory` that waiting writes hold */
} vulkan_writes;

struct bpdq_state {
  bpdq_vulkan *vulkan;
  vulkan_tensor *tensors;
  size_t count;
  vulkan_commands commands; /* of host transfers */
  vulkan_buffer staging;    /* for tensors that are not mapped; made when first needed */
  vulkan_writes writes;
};

/* state.c: backend.h's state_create, state_destroy, tensor_write and tensor_read */
bpdq_status bpdq_vulkan_state_create(bpdq_vulkan *vulkan, const bpdq_tensor_desc *tensors, size_t count, bpdq_state **state,
                                     bpdq_error *error);
void bpdq_vulkan_state_destroy(bpdq_vulkan *vulkan, bpdq_state *state);
bpdq_status bpdq_vulkan_tensor_write(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, const void *data,
                                     bpdq_error *error);
bpdq_status bpdq_vulkan_tensor_read(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, void *data, bpdq_error *error);
/* Submits commands that use the state's tensors, behind the writes that wait for them, and waits. They begin with a bpdq_vulkan_barrier. */
bpdq_status bpdq_vulkan_state_submit(bpdq_state *state, vulkan_commands *commands, bpdq_error *error);

/* Positions from which on a run is deep: programs whose operations suit either few or many positions are recorded twice. */
#define VULKAN_DEEP 1024

/* program.c: compile and run */
bpdq_status bpdq_vulkan_compile(bpdq_vulkan *vulkan, bpdq_state *state, const bpdq_program *program, bpdq_executable **executable,
                                bpdq_error *error);
/* The same with one variant for every product of integers, whatever was measured; *suits becomes false where a product cannot have it. */
bpdq_status bpdq_vulkan_compile_variant(bpdq_vulkan *vulkan, bpdq_state *state, const bpdq_program *program,
                                        const vulkan_dot_variant *variant, bool *suits, bpdq_executable **executable, bpdq_error *error);
void bpdq_vulkan_executable_destroy(bpdq_vulkan *vulkan, bpdq_executable *executable);
bpdq_status bpdq_vulkan_run(bpdq_executable *executable, const bpdq_run *run, bpdq_error *error);
bpdq_vulkan *bpdq_vulkan_of_executable(const bpdq_executable *executable);

/* bandwidth.c */
bpdq_status bpdq_vulkan_measure_bandwidth(bpdq_vulkan *vulkan, double *bytes_per_second, bpdq_error *error);
/* Whether the device's cache keeps VULKAN_LARGE_CACHE_BYTES bytes. Vulkan does not say, so they are read again and again. Takes half a
 * second and 256 MiB of device memory, which do not count in the peak. */
#define VULKAN_LARGE_CACHE_BYTES ((uint64_t)16 << 20)
bpdq_status bpdq_vulkan_measure_cache(bpdq_vulkan *vulkan, bool *large, bpdq_error *error);

/* tune.c: chooses variants for the products of a program of one row that were not measured on this device before, within a second.
   Nothing on CPU devices. BPDQ_VULKAN_TUNE=1, for tests, asks for products of any size on any device, however long it takes;
   BPDQ_VULKAN_TUNE=0 for none, and for the usual variants whatever was measured before. */
bpdq_status bpdq_vulkan_tune(bpdq_vulkan *vulkan, const bpdq_program *program, bpdq_error *error);

/* probe.c: runs a known-answer check of each optional path and switches off what fails, by name in the log. */
bpdq_status bpdq_vulkan_probe(bpdq_vulkan *vulkan, bpdq_error *error);

#endif
