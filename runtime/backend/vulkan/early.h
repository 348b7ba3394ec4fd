/* What a dispatch brings into the device's cache for the product of planes behind it, while it does not need the memory itself. */
#ifndef BPDQ_VULKAN_EARLY_H
#define BPDQ_VULKAN_EARLY_H

#include "backend/vulkan/variants.h"
#include "backend/vulkan/weight.h"

#define VULKAN_EARLY_BINDINGS 10 /* storage buffers of linear_dot.comp with it */
#define VULKAN_EARLY_CONSTANTS 8 /* of early.glsl */

/* The same bytes of each tile, in sectors of 32. */
typedef struct vulkan_early_part {
  uint32_t loads;  /* of a thread, one a sector */
  uint32_t chunk;  /* sectors of a tile */
  uint32_t stride; /* words from tile to tile */
  uint32_t count;  /* sectors in all */
} vulkan_early_part;

typedef struct vulkan_early {
  const vulkan_piece *piece; /* NULL: nothing */
  vulkan_early_part planes, coefficients;
} vulkan_early;

/* What the threads of the product behind begin with, `slices` blocks of each tile, for a dispatch of `groups` work groups of `threads`;
 * nothing where that is more than the threads should carry. */
vulkan_early bpdq_vulkan_plan_early(const bpdq_weight *behind, uint32_t slices, uint32_t groups, uint32_t threads);

/* The constants of early.glsl. */
void bpdq_vulkan_early_constants(const vulkan_early *early, uint32_t constants[VULKAN_EARLY_CONSTANTS]);

#endif
