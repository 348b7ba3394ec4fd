/* Device memory: buffers cut from larger allocations, with a cap, a peak and messages that say what is in use. */
#ifndef BPDQ_VULKAN_MEMORY_H
#define BPDQ_VULKAN_MEMORY_H

#include "backend/vulkan/context.h"

typedef enum vulkan_memory_kind {
  VULKAN_MEMORY_DEVICE,  /* device-local; the host does not touch it */
  VULKAN_MEMORY_SHARED,  /* device-local and mapped where there is such memory, else host memory: small inputs, written in place */
  VULKAN_MEMORY_UPLOAD,  /* host memory that the device reads: staging */
  VULKAN_MEMORY_READBACK /* cached host memory that the device writes: results */
} vulkan_memory_kind;
#define VULKAN_MEMORY_KINDS 4

typedef struct vulkan_block vulkan_block;

typedef struct vulkan_buffer {
  VkBuffer buffer;
  uint64_t offset, size; /* bytes; the offset is aligned for descriptors */
  uint8_t *mapped;       /* host address of `offset`, or NULL; coherent */
  vulkan_memory_kind block_kind;
  vulkan_block *block; /* the allocation this was cut from */
} vulkan_buffer;

typedef struct vulkan_memory {
  vulkan_context *context;
  VkPhysicalDeviceMemoryProperties properties;
  int type_of[VULKAN_MEMORY_KINDS]; /* memory type index */
  uint64_t largest_shared;          /* bytes of a tensor in SHARED memory */
  uint64_t cap;                     /* bytes of device-local memory; UINT64_MAX: none */
  uint64_t current, peak;           /* bytes of device-local memory allocated, buffers of the kinds DEVICE and SHARED */
  vulkan_block *blocks;
  bpdq_mutex *mutex;
} vulkan_memory;

bpdq_status bpdq_vulkan_memory_create(vulkan_memory *memory, vulkan_context *context, uint64_t cap, bpdq_error *error);
void bpdq_vulkan_memory_destroy(vulkan_memory *memory);

/* A storage, indirect and transfer buffer of `size` bytes, not cleared. `what` names it in messages. Any thread. */
bpdq_status bpdq_vulkan_allocate(vulkan_memory *memory, vulkan_memory_kind kind, uint64_t size, const char *what, vulkan_buffer *buffer,
                                 bpdq_error *error);
void bpdq_vulkan_release(vulkan_memory *memory, vulkan_buffer *buffer); /* a zeroed buffer is allowed */

/* Forgets what was allocated in between and given back: measurements are no part of what a model holds. */
void bpdq_vulkan_restore_peak(vulkan_memory *memory, uint64_t peak);

/* True where a tensor of this size may live in SHARED memory without crowding a small mapped window. */
bool bpdq_vulkan_fits_shared(const vulkan_memory *memory, uint64_t size);

#endif
