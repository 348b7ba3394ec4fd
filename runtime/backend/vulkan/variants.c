#include "backend/vulkan/variants.h"

#include <stdlib.h>

#define BUSY_THREADS 131072 /* about what fills a large device */
#define LONG_BLOCKS 64      /* of a row: enough for many threads, or for large work groups */
#define LEAST_THREADS 128   /* every Vulkan device has as many */

/* Measured on an H200 (docs/benchmarks/log.md); the last ones serve shapes and devices that the first ones do not suit. */
enum { MANY_ROWS, FEW_ROWS, FEW_ROWS_NORM, LONG_ROWS, PLAIN, SMALL };

/* threads, slices, ahead, copied */
static const vulkan_dot_variant variants[] = {
    [MANY_ROWS] = {LEAST_THREADS, 4, 1, true}, [FEW_ROWS] = {512, 16, 1, true}, [FEW_ROWS_NORM] = {LEAST_THREADS, 16, 1, true},
    [LONG_ROWS] = {1024, 32, 1, true},         [PLAIN] = {256, 4, 1, true},     [SMALL] = {LEAST_THREADS, 4, 2, false}};

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

static vulkan_dot_variant winner(const vulkan_dot_shape *shape) {
  if (shape->is_cpu || shape->tokens > 1) return spread(shape);
  bool is_long = shape->blocks >= LONG_BLOCKS;
  if (shape->rows * variants[MANY_ROWS].slices >= BUSY_THREADS) return variants[is_long ? PLAIN : MANY_ROWS];
  if (shape->transform == BPDQ_TRANSFORM_SILU_GATE && is_long) return variants[LONG_ROWS];
  return variants[shape->transform == BPDQ_TRANSFORM_RMS_NORM && !is_long ? FEW_ROWS_NORM : FEW_ROWS];
}

vulkan_dot_variant bpdq_vulkan_usual_variant(const vulkan_dot_shape *shape) {
  vulkan_dot_variant variant = winner(shape);
  for (; variant.slices > shape->blocks && variant.slices > 1; variant.slices /= 2)
    if (variant.threads > LEAST_THREADS) variant.threads /= 2; /* a work group keeps its rows */
  for (; variant.threads > shape->most_threads && variant.threads > LEAST_THREADS; variant.threads /= 2)
    if (variant.threads < 16 * variant.slices) variant.slices /= 2;
  return variant;
}
