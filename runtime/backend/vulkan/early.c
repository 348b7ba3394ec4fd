#include "backend/vulkan/early.h"

#include "core/checked.h"

#define SECTOR_BYTES 32
#define MOST_LOADS 4                    /* of a thread, which has a register for each until its end */
#define MOST_BYTES ((uint64_t)12 << 20) /* of a cache that keeps VULKAN_LARGE_CACHE_BYTES */

static vulkan_early_part plan_part(uint64_t tiles, uint64_t tile_bytes, uint64_t wanted_bytes, uint64_t threads) {
  uint64_t chunk = bpdq_ceil_div(wanted_bytes, SECTOR_BYTES), count = tiles * chunk;
  return (vulkan_early_part){(uint32_t)bpdq_ceil_div(count, threads), (uint32_t)chunk, (uint32_t)(tile_bytes / 4), (uint32_t)count};
}

vulkan_early bpdq_vulkan_plan_early(const bpdq_weight *behind, uint32_t slices, uint32_t groups, uint32_t threads) {
  vulkan_early early = {0};
  uint64_t blocks = (uint64_t)behind->blocks, first = slices < blocks ? slices : blocks, all = (uint64_t)groups * threads;
  uint64_t tiles = bpdq_ceil_div((uint64_t)behind->rows, VULKAN_TILE_ROWS);
  uint64_t block_bytes = (uint64_t)behind->planes * VULKAN_TILE_ROWS * (VULKAN_BLOCK_COLUMNS / 8);
  uint64_t group_bytes = (uint64_t)(behind->planes + 1) * VULKAN_TILE_ROWS * (behind->number == VULKAN_NUMBER_F32 ? 4 : 2);
  uint64_t first_groups = bpdq_ceil_div(first * VULKAN_BLOCK_COLUMNS, (uint64_t)behind->group);
  if (behind->piece_count != 1 || tiles * (first * block_bytes + first_groups * group_bytes) > MOST_BYTES) return early;
  early.planes = plan_part(tiles, blocks * block_bytes, first * block_bytes, all);
  early.coefficients = plan_part(tiles, (uint64_t)behind->groups * group_bytes, first_groups * group_bytes, all);
  if (early.planes.loads + early.coefficients.loads > MOST_LOADS) return (vulkan_early){0};
  early.piece = &behind->pieces[0];
  return early;
}

void bpdq_vulkan_early_constants(const vulkan_early *early, uint32_t constants[VULKAN_EARLY_CONSTANTS]) {
  const vulkan_early_part *parts[] = {&early->planes, &early->coefficients};
  for (int i = 0; i < 2; i++, constants += 4) {
    constants[0] = parts[i]->loads;
    constants[1] = parts[i]->chunk;
    constants[2] = parts[i]->stride;
    constants[3] = parts[i]->count;
  }
}
