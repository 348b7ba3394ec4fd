#include "backend/vulkan/variants.h"

#include <stdlib.h>

#define BUSY_THREADS 131072 /* about what fills a large device */

/* threads, slices, ahead, parts, groups, fused */
static const vulkan_dot_variant variants[] = {
    {256, 4, 1, 1, 0, true},   {256, 4, 1, 1, 528, true}, {128, 4, 2, 1, 396, true}, {128, 4, 4, 1, 396, true},  {512, 4, 1, 1, 264, true},
    {256, 4, 2, 1, 264, true}, {512, 8, 1, 1, 132, true}, {256, 4, 1, 1, 0, false},  {512, 8, 2, 1, 0, true},    {512, 16, 1, 1, 0, true},
    {256, 4, 2, 8, 0, true},   {256, 4, 1, 8, 0, true},   {128, 4, 2, 8, 0, true},   {512, 4, 1, 8, 0, true},    {256, 4, 1, 4, 0, true},
    {512, 8, 1, 4, 0, true},   {256, 16, 1, 1, 0, false}, {256, 4, 1, 1, 264, true}, {1024, 4, 1, 1, 132, true}, {128, 4, 2, 1, 528, true},
    {256, 8, 1, 8, 0, true},   {256, 4, 1, 16, 0, true}};

const vulkan_dot_variant *bpdq_vulkan_dot_variants(size_t *count) {
  *count = sizeof variants / sizeof *variants;
  return variants;
}

/* The number in an environment variable, if it is below `count`. */
static bool forced_index(const char *name, size_t count, size_t *index) {
  const char *text = getenv(name);
  if (!text || !*text) return false;
  char *end;
  unsigned long number = strtoul(text, &end, 10);
  *index = number;
  return !*end && number < count;
}

bool bpdq_vulkan_forced_variant(vulkan_dot_variant *variant) {
  size_t index;
  if (!forced_index("BPDQ_VULKAN_VARIANT", sizeof variants / sizeof *variants, &index)) return false;
  *variant = variants[index];
  return true;
}

const vulkan_matrix_variant *bpdq_vulkan_matrix_variant(void) {
  static const vulkan_matrix_variant matrix_variants[] = {{"matrix_planes", 256}, {"matrix_planes_wide", 128}, {"matrix_planes_deep", 256}};
  size_t index;
  return &matrix_variants[forced_index("BPDQ_VULKAN_MATRIX", sizeof matrix_variants / sizeof *matrix_variants, &index) ? index : 0];
}

/* Few rows are spread over many threads each, so that small matrices fill the device too; one thread reads at least one block. */
vulkan_dot_variant bpdq_vulkan_usual_variant(const vulkan_dot_shape *shape) {
  vulkan_dot_variant variant = {.threads = 256, .slices = 4, .ahead = 1, .parts = 1};
  variant.fused = shape->tokens == 1 && shape->transform != BPDQ_TRANSFORM_SILU_GATE;
  if (!shape->is_cpu && shape->tokens == 1 && shape->transform == BPDQ_TRANSFORM_SILU_GATE && shape->blocks >= 64) {
    variant.fused = true;
    variant.parts = 8;
    return variant;
  }
  while (variant.slices < 32 && shape->rows * variant.slices < BUSY_THREADS && variant.slices * 2 <= shape->blocks) variant.slices *= 2;
  while (variant.slices > shape->blocks && variant.slices > 1) variant.slices /= 2;
  if (!shape->is_cpu && shape->tokens == 1 && variant.slices > 4) variant.threads = 512; /* fewer preparations of the input */
  return variant;
}
