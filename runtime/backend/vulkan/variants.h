/* The ways in which linear_dot.comp can be set up for a product, and which one suits. */
#ifndef BPDQ_VULKAN_VARIANTS_H
#define BPDQ_VULKAN_VARIANTS_H

#include "backend/program.h"

typedef struct vulkan_dot_variant {
  uint32_t threads; /* of a work group */
  uint32_t slices;  /* threads that share a row */
  uint32_t ahead;   /* blocks of weights that a thread requests before it needs them */
  bool copied;      /* each work group copies the input to its shared memory */
} vulkan_dot_variant;

/* Every variant that is worth a measurement. */
const vulkan_dot_variant *bpdq_vulkan_dot_variants(size_t *count);

/* The variant whose index is in BPDQ_VULKAN_VARIANT, by which tests force one wherever it is possible. */
bool bpdq_vulkan_forced_variant(vulkan_dot_variant *variant);

typedef struct vulkan_dot_shape {
  int64_t rows, blocks; /* of the weight */
  int64_t tokens;
  bpdq_transform_kind transform;
  uint32_t most_threads; /* of a work group on the device */
  bool is_cpu;
} vulkan_dot_shape;

bool bpdq_vulkan_same_variant(const vulkan_dot_variant *a, const vulkan_dot_variant *b);

/* The variant for a device that was not measured; it need not be one of bpdq_vulkan_dot_variants. */
vulkan_dot_variant bpdq_vulkan_usual_variant(const vulkan_dot_shape *shape);

#endif
