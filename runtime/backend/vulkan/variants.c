#include "backend/vulkan/variants.h"

#include <stdlib.h>

#define BUSY_THREADS 131072 /* about what fills a large device */
#define LEAST_MANY_ROWS 32768
#define EVEN_STEPS 5      /* blocks of a thread; among more of them one that some threads do not have matters less */
#define LONG_BLOCKS 64    /* of a row: enough for many threads, or for large work groups */
#define LEAST_THREADS 128 /* every Vulkan device has as many */

/* Measured on an H200 (docs/benchmarks/log.md); the last ones serve shapes and devices that the first ones do not suit. */
enum { MANY_ROWS, FEW_LONG_ROWS, FEW_ROWS_NORM, FEW_ROWS, PLAIN, SMALL };

/* threads, slices, ahead, copied */
static const vulkan_dot_variant variants[] = {
    [MANY_ROWS] = {256, 8, 1, true},  [FEW_LONG_ROWS] = {512, 16, 1, true}, [FEW_ROWS_NORM] = {LEAST_THREADS, 16, 1, true},
    [FEW_ROWS] = {1024, 32, 1, true}, [PLAIN] = {256, 4, 1, true},          [SMALL] = {LEAST_THREADS, 4, 2, false}};

const vulkan_dot_variant *bpdq_vulkan_dot_variants(size_t *count) {
  *count = sizeof variants / sizeof *variants;
  return variants;
}

bool bpdq_vulkan_same_variant(const vulkan_dot_variant *a, const vulkan_dot_variant *b) {
  return a->threads == b->threads && a->slices == b->slices && a->ahead == b->ahead && a->copied == b->copied;
}

bool bpdq_vulkan_forced_variant(vulkan_dot_variant *variant) {
  const char *text = getenv("BPDQ_VULKAN_VARIANT");
  if (!text || !*text) return false;
  char *end;
  unsigned long index = strtoul(text, &end, 10);
  if (*end || index >= sizeof variants / sizeof *variants) return false;
  *variant = variants[index];
  return true;
}

/* Few rows are spread over many threads each, so that small matrices fill the device too; one thread reads at least one block. */
static vulkan_dot_variant spread(const vulkan_dot_shape *shape) {
  vulkan_dot_variant variant = variants[PLAIN];
  while (variant.slices < 32 && shape->rows * variant.slices < BUSY_THREADS && variant.slices * 2 <= shape->blocks) variant.slices *= 2;
  return variant;
}

/* Many slices that end together: 148 blocks are five for each of 32 threads, but also for each of 30. A work group keeps its rows, and its
 * subgroups stay full. */
static vulkan_dot_variant even_slices(vulkan_dot_variant variant, int64_t blocks) {
  uint32_t rows = variant.threads / variant.slices;
  int64_t steps = (blocks + variant.slices - 1) / variant.slices;
  if (rows % 32 != 0 || variant.slices < variants[MANY_ROWS].slices || steps > EVEN_STEPS) return variant;
  variant.slices = (uint32_t)((blocks + steps - 1) / steps);
  variant.threads = rows * variant.slices;
  return variant;
}

static vulkan_dot_variant winner(const vulkan_dot_shape *shape) {
  if (shape->is_cpu || shape->tokens > 1) return spread(shape);
  bool is_long = shape->blocks >= LONG_BLOCKS;
  if (shape->rows >= LEAST_MANY_ROWS) return variants[MANY_ROWS];
  if (shape->transform == BPDQ_TRANSFORM_SILU_GATE && is_long) return variants[FEW_ROWS];
  if (shape->transform == BPDQ_TRANSFORM_RMS_NORM && !is_long) return variants[FEW_ROWS_NORM];
  return is_long ? variants[FEW_LONG_ROWS] : variants[FEW_ROWS];
}

vulkan_dot_variant bpdq_vulkan_usual_variant(const vulkan_dot_shape *shape) {
  vulkan_dot_variant variant = winner(shape), even = even_slices(variant, shape->blocks);
  if (even.threads <= shape->most_threads) variant = even;
  for (; variant.slices > shape->blocks && variant.slices > 1; variant.slices /= 2)
    if (variant.threads > LEAST_THREADS) variant.threads /= 2; /* a work group keeps its rows */
  for (; variant.threads > shape->most_threads && variant.threads > LEAST_THREADS; variant.threads /= 2)
    if (variant.threads < 16 * variant.slices) variant.slices /= 2;
  return variant;
}
