#include "stream_memory.h"

#include <stdlib.h>

#include "core/checked.h"
#include "core/platform.h"

/* Of the free memory; the rest is for the weights and matrices of a block. */
static const double SHARE = 0.6;

static double gib(uint64_t bytes) { return (double)bytes / (1 << 30); }

/* Streams of other ranges of the same windows are about to ask for their part of the memory as well. */
static bool has_room(const bpdq_streams_desc *desc, uint64_t bytes) {
  double all = (double)bytes * (double)desc->calibration->count / (double)desc->window_count;
  return all <= SHARE * (double)bpdq_host_memory_available();
}

static bpdq_status create_on_disk(const bpdq_streams_desc *desc, bpdq_stream_memory *memory, bpdq_error *error) {
  bpdq_error reason = {0};
  void *values = NULL;
  bpdq_status status = desc->spill_folder ? bpdq_map_scratch(desc->spill_folder, memory->bytes, &values, &reason)
                                          : bpdq_fail(&reason, BPDQ_ERROR_MEMORY, "no folder is given for a file");
  if (status != BPDQ_OK)
    return bpdq_fail(
        error, BPDQ_ERROR_MEMORY,
        "no room for %.1f GiB of activations of %lld calibration windows of %lld tokens: %.1f GiB of host memory are free, and "
        "%s; use fewer (--samples) or shorter ones (--seqlen)",
        gib(memory->bytes), (long long)desc->window_count, (long long)desc->calibration->length, gib(bpdq_host_memory_available()),
        reason.message);
  if (desc->first_window == 0) /* once for all ranges */
    bpdq_log_info(desc->log, "%.1f GiB of activations go to a temporary file in %s: %.1f GiB of host memory are free",
                  gib(memory->bytes * (uint64_t)desc->calibration->count / (uint64_t)desc->window_count), desc->spill_folder,
                  gib(bpdq_host_memory_available()));
  memory->values = values;
  memory->on_disk = true;
  return BPDQ_OK;
}

bpdq_status bpdq_stream_memory_create(const bpdq_streams_desc *desc, int count, bpdq_stream_memory *memory, bpdq_error *error) {
  uint64_t windows = (uint64_t)desc->window_count, length = (uint64_t)desc->calibration->length, values, bytes;
  *memory = (bpdq_stream_memory){0};
  if (!bpdq_mul_u64(windows, length, &values) ||
      !bpdq_mul_u64(values, (uint64_t)count * (uint64_t)desc->checkpoint->config.hidden_size, &values) ||
      !bpdq_mul_u64(values, sizeof(float), &bytes))
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "the activations of the calibration windows do not fit into the address space");
  memory->bytes = bytes;
  if (!desc->spill && has_room(desc, bytes)) memory->values = bpdq_alloc_array((size_t)values, sizeof(float));
  return memory->values ? BPDQ_OK : create_on_disk(desc, memory, error);
}

void bpdq_stream_memory_free(bpdq_stream_memory *memory) {
  if (memory->on_disk)
    bpdq_unmap_scratch(memory->values, memory->bytes);
  else
    free(memory->values);
  *memory = (bpdq_stream_memory){0};
}
