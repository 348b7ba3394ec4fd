#include "backend/vulkan/variants.h"

#include <stdlib.h>

#define BUSY_THREADS 131072 /* about what fills a large device */

static const vulkan_dot_variant variants[] = {{256, 4, 1, 1, true},  {256, 4, 2, 1, true},  {256, 4, 4, 1, true},   {512, 4, 1, 1, true},
                                              {512, 4, 2, 1, true},  {1024, 4, 1, 1, true}, {256, 8, 2, 1, true},   {512, 8, 2, 1, true},
                                              {512, 16, 1, 1, true}, {256, 16, 2, 1, true}, {1024, 32, 1, 1, true}, {128, 4, 2, 1, true},
                                              {256, 4, 2, 1, false}, {256, 8, 2, 1, false}, {512, 16, 2, 1, false}, {256, 4, 2, 8, true},
                                              {512, 4, 2, 8, true},  {512, 8, 2, 8, true},  {512, 8, 2, 4, true},   {1024, 8, 1, 8, true},
                                              {256, 8, 2, 16, true}, {512, 4, 1, 16, true}, {256, 4, 1, 16, true},  {512, 16, 1, 4, true}};

const vulkan_dot_variant *bpdq_vulkan_dot_variants(size_t *count) {
  *count = sizeof variants / sizeof *variants;
  return variants;
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
vulkan_dot_variant bpdq_vulkan_usual_variant(const vulkan_dot_shape *shape) {
  vulkan_dot_variant variant = {.threads = 256, .slices = 4, .ahead = 1, .parts = 1};
  variant.fused = shape->tokens == 1 && shape->transform != BPDQ_TRANSFORM_SILU_GATE;
  if (!shape->is_cpu && shape->tokens == 1) {
    variant.threads = 512;
    variant.ahead = 2;
    if (shape->transform == BPDQ_TRANSFORM_SILU_GATE && shape->blocks >= 64) {
      variant.fused = true;
      variant.parts = 8;
      variant.slices = 8;
      return variant;
    }
  }
  while (variant.slices < 32 && shape->rows * variant.slices < BUSY_THREADS && variant.slices * 2 <= shape->blocks) variant.slices *= 2;
  while (variant.slices > shape->blocks && variant.slices > 1) variant.slices /= 2;
  return variant;
}
