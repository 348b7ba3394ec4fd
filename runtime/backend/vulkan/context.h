/* The device: instance, physical and logical device, queue, limits and the optional features that are in use. Made here or imported. */
#ifndef BPDQ_VULKAN_CONTEXT_H
#define BPDQ_VULKAN_CONTEXT_H

#include <stdatomic.h>

#include "backend/backend.h"
#include "backend/vulkan/functions.h"
#include "backend/vulkan/subgroups.h"
#include "core/platform.h"

/* Optional paths. A path that the device offers is still switched off by name when its known-answer check fails (probe.c). */
typedef struct vulkan_features {
  bool integer_dot;        /* VK_KHR_shader_integer_dot_product, 4 x int8 packed, signed and accelerated (but on CPU devices) */
  bool subgroup;           /* subgroups for the *_subgroup shaders; not on CPU devices, whose compilers take minutes over them */
  bool cooperative_matrix; /* VK_KHR_cooperative_matrix: 16x16x16, f16 in and f32 out, subgroup scope */
  bool narrow_matrix;      /* 16x8x16 as well */
  bool known_matrix;       /* and threads hold the elements of those that linear_bits.comp expects */
  bool unchecked;          /* VK_EXT_pipeline_robustness: shaders may go without bounds checks of their own */
  bool memory_budget;      /* VK_EXT_memory_budget */
} vulkan_features;

typedef struct vulkan_limits {
  uint64_t storage_range;     /* bytes one descriptor can see */
  uint64_t allocation;        /* bytes of one allocation */
  uint64_t storage_alignment; /* of descriptor offsets */
  uint32_t bindings;          /* storage buffers of a shader, at most VULKAN_BINDINGS */
  uint32_t groups[3];         /* work groups per dispatch */
  uint32_t group_threads;     /* threads of a work group */
  uint32_t shared_bytes;      /* shared memory of a work group */
  uint32_t multiprocessors;   /* what runs work groups side by side; an estimate where the device does not say */
} vulkan_limits;

typedef struct vulkan_context {
  bpdq_log log;
  bpdq_vulkan_instance_functions instance_functions;
  bpdq_vulkan_device_functions vk;
  VkInstance instance;
  VkPhysicalDevice physical_device;
  VkDevice device;
  VkQueue queue;
  uint32_t queue_family;
  bool owns_device;
  bpdq_vulkan_import import; /* the lock callbacks of an imported device */
  bpdq_mutex *queue_mutex;   /* VkQueue is externally synchronized; our own threads share it */
  VkPhysicalDeviceProperties properties;
  uint8_t driver_uuid[VK_UUID_SIZE], device_uuid[VK_UUID_SIZE];
  vulkan_limits limits;
  vulkan_subgroups subgroups;
  vulkan_features features;
  bool is_cpu;
  VkDebugUtilsMessengerEXT messenger;
  atomic_uint submissions; /* so far; tests count them */
  atomic_uint validation_errors;
  bpdq_mutex *validation_mutex; /* guards validation_message */
  char validation_message[768]; /* the first error since the last check */
} vulkan_context;

/* Limits, and the optional paths that `context->physical_device` offers (needs instance_functions, and no device). */
void bpdq_vulkan_query(vulkan_context *context);
/* The names of optional paths, separated by blanks. */
void bpdq_vulkan_describe_features(const vulkan_features *features, char *text, size_t size);

/* Creates an instance and the device options->device (or the best), or takes over options->vulkan. The context must not move afterwards. */
bpdq_status bpdq_vulkan_context_create(vulkan_context *context, const bpdq_backend_options *options, bpdq_device_info *info,
                                       bpdq_error *error);
void bpdq_vulkan_context_destroy(vulkan_context *context);

/* Submits `count` recorded command buffers, to run in this order; `fence` may be VK_NULL_HANDLE. Any thread. */
bpdq_status bpdq_vulkan_submit(vulkan_context *context, const VkCommandBuffer *commands, uint32_t count, VkFence fence, bpdq_error *error);
/* Waits for a fence and resets it. BPDQ_ERROR_DEVICE when the device is lost or does not answer. */
bpdq_status bpdq_vulkan_wait(vulkan_context *context, VkFence fence, bpdq_error *error);

/* A VkResult as an error that says what was being done and what to change. VK_SUCCESS gives BPDQ_OK. */
bpdq_status bpdq_vulkan_result(const vulkan_context *context, VkResult result, const char *what, bpdq_error *error);

/* BPDQ_ERROR_INTERNAL with the first message when the validation layer reported an error since the last call, else `status`. */
bpdq_status bpdq_vulkan_validation_status(vulkan_context *context, bpdq_status status, bpdq_error *error);

/* ---- devices.c ---- */

/* A switch in the environment: unset (or empty), 0, or anything else. */
typedef enum vulkan_switch { VULKAN_SWITCH_UNSET, VULKAN_SWITCH_OFF, VULKAN_SWITCH_ON } vulkan_switch;
vulkan_switch bpdq_vulkan_switch(const char *name);

/* BPDQ_VULKAN_VALIDATION=1 asks for the validation layer with synchronization validation. */
bpdq_status bpdq_vulkan_instance_create(VkInstance *instance, bpdq_vulkan_instance_functions *functions, bool *validation,
                                        bpdq_error *error);
/* Fills *info for one physical device; `unusable` says what it lacks. */
void bpdq_vulkan_describe(const bpdq_vulkan_instance_functions *functions, VkPhysicalDevice device, int index, bpdq_device_info *info);
size_t bpdq_vulkan_list(bpdq_device_info *devices, size_t capacity, const bpdq_log *log);
/* malloc'ed; *count may be 0. */
bpdq_status bpdq_vulkan_enumerate(const bpdq_vulkan_instance_functions *functions, VkInstance instance, VkPhysicalDevice **devices,
                                  uint32_t *count, bpdq_error *error);
/* The compute queue family (one without graphics is not preferred: some drivers run it at low priority), or UINT32_MAX. */
uint32_t bpdq_vulkan_queue_family(const bpdq_vulkan_instance_functions *functions, VkPhysicalDevice device);
/* Threads of a work group at most; all of ours lie along the first axis. */
uint32_t bpdq_vulkan_group_threads(const VkPhysicalDeviceLimits *limits);
bool bpdq_vulkan_has_extension(const bpdq_vulkan_instance_functions *functions, VkPhysicalDevice device, const char *name);
/* Free bytes of the largest device-local heap, or its size where the driver does not say. */
uint64_t bpdq_vulkan_free_memory(const bpdq_vulkan_instance_functions *functions, VkPhysicalDevice device, uint64_t *total);

#endif
