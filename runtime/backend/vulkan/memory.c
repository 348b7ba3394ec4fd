#include "backend/vulkan/memory.h"

#include <stdlib.h>
#include <string.h>

#include "core/checked.h"

#define BLOCK_BYTES ((uint64_t)32 << 20)    /* small buffers share allocations of this size */
#define OWN_BLOCK_BYTES ((uint64_t)8 << 20) /* from here on a buffer gets an allocation of its own size: no slack */
#define WINDOW_TENSOR ((uint64_t)1 << 20)   /* largest mapped tensor where the mapped window is 256 MiB (no resizable BAR) */
#define WIDE_TENSOR ((uint64_t)64 << 20)    /* largest mapped tensor elsewhere */
#define WIDE_WINDOW ((uint64_t)1 << 30)

typedef struct range {
  uint64_t offset, size;
} range;

struct vulkan_block {
  vulkan_block *next;
  vulkan_memory_kind kind;
  VkDeviceMemory memory;
  VkBuffer buffer;
  uint8_t *mapped;
  uint64_t size, used;
  range *free; /* ordered by offset, never touching each other */
  size_t free_count, free_capacity;
};

static bool is_device_kind(vulkan_memory_kind kind) { return kind == VULKAN_MEMORY_DEVICE || kind == VULKAN_MEMORY_SHARED; }

/* ---- memory types ---- */

/* The first type with all of `wanted` that is not protected or otherwise special. */
static int find_type(const vulkan_memory *memory, uint32_t allowed, VkMemoryPropertyFlags wanted) {
  for (uint32_t i = 0; i < memory->properties.memoryTypeCount; i++) {
    VkMemoryPropertyFlags flags = memory->properties.memoryTypes[i].propertyFlags;
    if ((allowed >> i & 1) && (flags & wanted) == wanted &&
        !(flags & (VK_MEMORY_PROPERTY_PROTECTED_BIT | VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT)))
      return (int)i;
  }
  return -1;
}

static VkResult create_buffer(const vulkan_context *context, uint64_t size, VkBuffer *buffer) {
  VkBufferCreateInfo info = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
                             .size = size,
                             .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT |
                                      VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT};
  return context->vk.CreateBuffer(context->device, &info, NULL, buffer);
}

static bpdq_status choose_types(vulkan_memory *memory, bpdq_error *error) {
  const vulkan_context *context = memory->context;
  VkBuffer probe;
  VkMemoryRequirements requirements;
  BPDQ_TRY(bpdq_vulkan_result(context, create_buffer(context, 65536, &probe), "creating a buffer", error));
  context->vk.GetBufferMemoryRequirements(context->device, probe, &requirements);
  context->vk.DestroyBuffer(context->device, probe, NULL);
  uint32_t allowed = requirements.memoryTypeBits;
  VkMemoryPropertyFlags device = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
  VkMemoryPropertyFlags mapped = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  int upload = find_type(memory, allowed, mapped);
  int readback = find_type(memory, allowed, mapped | VK_MEMORY_PROPERTY_HOST_CACHED_BIT);
  int local = find_type(memory, allowed, device), shared = find_type(memory, allowed, device | mapped);
  if (upload < 0) return bpdq_fail(error, BPDQ_ERROR_DEVICE, "%s: no host-visible memory for buffers", context->properties.deviceName);
  memory->type_of[VULKAN_MEMORY_UPLOAD] = upload;
  memory->type_of[VULKAN_MEMORY_READBACK] = readback >= 0 ? readback : upload;
  memory->type_of[VULKAN_MEMORY_DEVICE] = local >= 0 ? local : upload;
  memory->type_of[VULKAN_MEMORY_SHARED] = shared >= 0 ? shared : upload;
  return BPDQ_OK;
}

static uint64_t largest_shared(const vulkan_memory *memory) {
  const VkMemoryType *type = &memory->properties.memoryTypes[memory->type_of[VULKAN_MEMORY_SHARED]];
  /* Tests let any device keep its tensors where the host does not see them. */
  if (!(type->propertyFlags & VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT) || bpdq_vulkan_switch("BPDQ_VULKAN_UNMAPPED") == VULKAN_SWITCH_ON)
    return 0;
  return memory->properties.memoryHeaps[type->heapIndex].size >= WIDE_WINDOW ? WIDE_TENSOR : WINDOW_TENSOR;
}

bool bpdq_vulkan_fits_shared(const vulkan_memory *memory, uint64_t size) { return size <= memory->largest_shared; }

bpdq_status bpdq_vulkan_memory_create(vulkan_memory *memory, vulkan_context *context, uint64_t cap, bpdq_error *error) {
  memset(memory, 0, sizeof *memory);
  VkPhysicalDeviceMemoryProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2};
  context->instance_functions.GetPhysicalDeviceMemoryProperties2(context->physical_device, &properties);
  memory->context = context;
  memory->properties = properties.memoryProperties;
  memory->cap = cap ? cap : UINT64_MAX;
  memory->mutex = bpdq_mutex_create();
  if (!memory->mutex) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  BPDQ_TRY(choose_types(memory, error));
  memory->largest_shared = largest_shared(memory);
  return BPDQ_OK;
}

/* ---- blocks ---- */

static void destroy_block(vulkan_memory *memory, vulkan_block *block) {
  const vulkan_context *context = memory->context;
  for (vulkan_block **link = &memory->blocks; *link; link = &(*link)->next)
    if (*link == block) {
      *link = block->next;
      break;
    }
  if (block->buffer) context->vk.DestroyBuffer(context->device, block->buffer, NULL);
  if (block->memory) {
    context->vk.FreeMemory(context->device, block->memory, NULL);
    if (is_device_kind(block->kind)) memory->current -= block->size;
  }
  free(block->free);
  free(block);
}

void bpdq_vulkan_memory_destroy(vulkan_memory *memory) {
  while (memory->blocks) destroy_block(memory, memory->blocks);
  bpdq_mutex_destroy(memory->mutex);
  memory->mutex = NULL;
}

static bpdq_status over_cap(const vulkan_memory *memory, uint64_t size, const char *what, bpdq_error *error) {
  return bpdq_fail(error, BPDQ_ERROR_MEMORY,
                   "%s needs %.1f MiB, with %.1f MiB in use that is over the cap of %.1f MiB: raise --memory-cap or lower --ctx", what,
                   (double)size / 0x1p20, (double)memory->current / 0x1p20, (double)memory->cap / 0x1p20);
}

/* The driver's budget counts other programs too; allocating beyond it would make the system page video memory. */
static bool over_budget(const vulkan_memory *memory, uint64_t size, uint64_t *available) {
  const vulkan_context *context = memory->context;
  if (!context->features.memory_budget || context->is_cpu) return false;
  *available = bpdq_vulkan_free_memory(&context->instance_functions, context->physical_device, NULL);
  return size > *available;
}

static bpdq_status allocate_block_memory(vulkan_memory *memory, vulkan_block *block, const char *what, bpdq_error *error) {
  const vulkan_context *context = memory->context;
  VkMemoryRequirements requirements;
  BPDQ_TRY(bpdq_vulkan_result(context, create_buffer(context, block->size, &block->buffer), "creating a buffer", error));
  context->vk.GetBufferMemoryRequirements(context->device, block->buffer, &requirements);
  VkMemoryAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                               .allocationSize = requirements.size,
                               .memoryTypeIndex = (uint32_t)memory->type_of[block->kind]};
  uint64_t available = 0;
  bool budget = is_device_kind(block->kind) && over_budget(memory, requirements.size, &available);
  VkResult result = budget ? VK_ERROR_OUT_OF_DEVICE_MEMORY : context->vk.AllocateMemory(context->device, &info, NULL, &block->memory);
  if (result != VK_SUCCESS) {
    block->memory = VK_NULL_HANDLE;
    if (result != VK_ERROR_OUT_OF_DEVICE_MEMORY && result != VK_ERROR_OUT_OF_HOST_MEMORY)
      return bpdq_vulkan_result(context, result, "allocating memory", error);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY,
                     "%s needs %.1f MiB on %s; %.1f MiB are in use by this model%s: lower --ctx, or choose another --device", what,
                     (double)block->size / 0x1p20, context->properties.deviceName, (double)memory->current / 0x1p20,
                     budget ? ", and other programs hold the rest" : "");
  }
  if (is_device_kind(block->kind)) {
    memory->current += block->size;
    if (memory->current > memory->peak) memory->peak = memory->current;
  }
  BPDQ_TRY(
      bpdq_vulkan_result(context, context->vk.BindBufferMemory(context->device, block->buffer, block->memory, 0), "binding memory", error));
  void *mapped = NULL;
  if (block->kind != VULKAN_MEMORY_DEVICE)
    BPDQ_TRY(bpdq_vulkan_result(context, context->vk.MapMemory(context->device, block->memory, 0, VK_WHOLE_SIZE, 0, &mapped),
                                "mapping memory", error));
  block->mapped = mapped;
  return BPDQ_OK;
}

static bpdq_status create_block(vulkan_memory *memory, vulkan_memory_kind kind, uint64_t size, const char *what, vulkan_block **result,
                                bpdq_error *error) {
  if (size > memory->context->limits.allocation)
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s needs %.1f MiB in one piece, %s allocates at most %.1f MiB: lower --ctx or the batch",
                     what, (double)size / 0x1p20, memory->context->properties.deviceName,
                     (double)memory->context->limits.allocation / 0x1p20);
  if (is_device_kind(kind) && (size > memory->cap || memory->current > memory->cap - size)) return over_cap(memory, size, what, error);
  vulkan_block *block = calloc(1, sizeof *block);
  if (block) block->free = malloc(8 * sizeof *block->free);
  if (!block || !block->free) {
    free(block);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  }
  block->kind = kind;
  block->size = size;
  block->free_capacity = 8;
  block->free[block->free_count++] = (range){0, size};
  block->next = memory->blocks;
  memory->blocks = block;
  bpdq_status status = allocate_block_memory(memory, block, what, error);
  if (status == BPDQ_OK)
    *result = block;
  else
    destroy_block(memory, block);
  return status;
}

/* First fit. Makes room for one more range beforehand, so that a later release cannot fail. */
static bool cut(vulkan_block *block, uint64_t size, vulkan_buffer *buffer) {
  for (size_t i = 0; i < block->free_count; i++) {
    range *free_range = &block->free[i];
    if (free_range->size < size) continue;
    if (block->free_capacity < block->free_count + block->used + 2) {
      size_t capacity = 2 * (block->free_count + (size_t)block->used + 2);
      range *grown = realloc(block->free, capacity * sizeof *grown);
      if (!grown) return false;
      block->free = grown;
      block->free_capacity = capacity;
      free_range = &block->free[i];
    }
    *buffer = (vulkan_buffer){
        block->buffer, free_range->offset, size, block->mapped ? block->mapped + free_range->offset : NULL, block->kind, block};
    free_range->offset += size;
    free_range->size -= size;
    if (!free_range->size) memmove(free_range, free_range + 1, (--block->free_count - i) * sizeof *free_range);
    block->used++;
    return true;
  }
  return false;
}

static void give_back(vulkan_block *block, const vulkan_buffer *buffer) {
  size_t i = 0;
  while (i < block->free_count && block->free[i].offset < buffer->offset) i++;
  memmove(block->free + i + 1, block->free + i, (block->free_count++ - i) * sizeof *block->free);
  block->free[i] = (range){buffer->offset, buffer->size};
  if (i + 1 < block->free_count && block->free[i].offset + block->free[i].size == block->free[i + 1].offset) {
    block->free[i].size += block->free[i + 1].size;
    memmove(block->free + i + 1, block->free + i + 2, (--block->free_count - i - 1) * sizeof *block->free);
  }
  if (i > 0 && block->free[i - 1].offset + block->free[i - 1].size == block->free[i].offset) {
    block->free[i - 1].size += block->free[i].size;
    memmove(block->free + i, block->free + i + 1, (--block->free_count - i) * sizeof *block->free);
  }
  block->used--;
}

bpdq_status bpdq_vulkan_allocate(vulkan_memory *memory, vulkan_memory_kind kind, uint64_t size, const char *what, vulkan_buffer *buffer,
                                 bpdq_error *error) {
  memset(buffer, 0, sizeof *buffer);
  uint64_t alignment = memory->context->limits.storage_alignment > 256 ? memory->context->limits.storage_alignment : 256;
  if (size > UINT64_MAX / 2) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: impossible size", what);
  size = bpdq_round_up(size ? size : 1, alignment);
  bpdq_status status = BPDQ_OK;
  bpdq_mutex_lock(memory->mutex);
  bool found = false;
  if (size < OWN_BLOCK_BYTES)
    for (vulkan_block *block = memory->blocks; block && !found; block = block->next)
      found = block->kind == kind && cut(block, size, buffer);
  if (!found) {
    /* Below a tight cap the shared block shrinks to what is needed. */
    vulkan_block *block = NULL;
    uint64_t wanted = size >= OWN_BLOCK_BYTES ? size : BLOCK_BYTES;
    if (wanted > size && is_device_kind(kind) && (wanted > memory->cap || memory->current > memory->cap - wanted)) wanted = size;
    status = create_block(memory, kind, wanted, what, &block, error);
    if (status == BPDQ_OK && !cut(block, size, buffer)) {
      destroy_block(memory, block);
      status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
    }
  }
  bpdq_mutex_unlock(memory->mutex);
  return status;
}

void bpdq_vulkan_release(vulkan_memory *memory, vulkan_buffer *buffer) {
  if (!buffer->block) return;
  bpdq_mutex_lock(memory->mutex);
  give_back(buffer->block, buffer);
  if (!buffer->block->used) destroy_block(memory, buffer->block);
  bpdq_mutex_unlock(memory->mutex);
  memset(buffer, 0, sizeof *buffer);
}

void bpdq_vulkan_restore_peak(vulkan_memory *memory, uint64_t peak) {
  bpdq_mutex_lock(memory->mutex);
  memory->peak = peak > memory->current ? peak : memory->current;
  bpdq_mutex_unlock(memory->mutex);
}
