/* Whether subgroups are as wide as a shader needs: by nature, or by asking for their size when its pipeline is made.
 * VkPhysicalDeviceSubgroupProperties.subgroupSize alone says too little. Intel's compiler (Mesa's ANV) reports 32 and, where nobody
 * requires a size, takes whichever of 8, 16 and 32 threads it likes for each shader: lanes beyond those do not exist. */
#ifndef BPDQ_VULKAN_SUBGROUPS_H
#define BPDQ_VULKAN_SUBGROUPS_H

#include "backend/vulkan/functions.h"

#define VULKAN_SUBGROUP 32 /* neighbouring threads that the *_subgroup shaders exchange values among */

typedef struct vulkan_subgroups {
  bool operations;           /* arithmetic and shuffles in compute shaders */
  uint32_t usual;            /* size of a subgroup, as the driver puts it */
  uint32_t least, most;      /* what it may be; 0: the driver does not say */
  uint32_t most_in_group;    /* subgroups of a work group, where a size is required */
  bool compute_can_require;  /* a size may be required of compute shaders... */
  bool size_control, filled; /* ...with these features: subgroupSizeControl and computeFullSubgroups, offered or enabled */
} vulkan_subgroups;

/* What a shader needs (the shader table says it). */
typedef enum vulkan_subgroup_need {
  VULKAN_SUBGROUP_ANY,  /* it has no subgroup operation */
  VULKAN_SUBGROUP_WIDE, /* VULKAN_SUBGROUP threads at least */
  VULKAN_SUBGROUP_EXACT /* neither more nor fewer: what cooperative matrices share out depends on it */
} vulkan_subgroup_need;

typedef enum vulkan_subgroup_way {
  VULKAN_SUBGROUP_IMPOSSIBLE,
  VULKAN_SUBGROUP_NATURAL, /* pipelines are made as any other */
  VULKAN_SUBGROUP_REQUIRED /* pipelines require full subgroups of VULKAN_SUBGROUP threads; both features must be enabled */
} vulkan_subgroup_way;

/* How to get what is needed, in work groups of up to `group_threads`. */
vulkan_subgroup_way bpdq_vulkan_subgroup_way(const vulkan_subgroups *subgroups, vulkan_subgroup_need need, uint32_t group_threads);

#endif
