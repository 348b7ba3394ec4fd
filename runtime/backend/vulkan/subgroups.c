#include "backend/vulkan/subgroups.h"

static bool can_require(const vulkan_subgroups *subgroups, uint32_t group_threads) {
  return subgroups->size_control && subgroups->filled && subgroups->compute_can_require && subgroups->least <= VULKAN_SUBGROUP &&
         subgroups->most >= VULKAN_SUBGROUP && (uint64_t)subgroups->most_in_group * VULKAN_SUBGROUP >= group_threads;
}

/* Subgroups that are always wide enough are left alone: NVIDIA's (32, always) were measured so, and 64 threads serve as well as 32. */
vulkan_subgroup_way bpdq_vulkan_subgroup_way(const vulkan_subgroups *subgroups, vulkan_subgroup_need need, uint32_t group_threads) {
  if (need == VULKAN_SUBGROUP_ANY) return VULKAN_SUBGROUP_NATURAL;
  if (!subgroups->operations) return VULKAN_SUBGROUP_IMPOSSIBLE;
  if (subgroups->least >= VULKAN_SUBGROUP && (need == VULKAN_SUBGROUP_WIDE || subgroups->usual == VULKAN_SUBGROUP))
    return VULKAN_SUBGROUP_NATURAL;
  return can_require(subgroups, group_threads) ? VULKAN_SUBGROUP_REQUIRED : VULKAN_SUBGROUP_IMPOSSIBLE;
}
