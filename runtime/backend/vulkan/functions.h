/* The Vulkan functions this backend calls, one table per instance and per device: nothing is loaded into process-wide pointers, so that
 * an imported device with a loader of its own works beside ours. volk only finds the loader library. */
#ifndef BPDQ_VULKAN_FUNCTIONS_H
#define BPDQ_VULKAN_FUNCTIONS_H

#define VK_NO_PROTOTYPES
#include <vulkan/vulkan_core.h>

#include "core/status.h"

#define BPDQ_VULKAN_INSTANCE_FUNCTIONS(X)   \
  X(DestroyInstance)                        \
  X(EnumeratePhysicalDevices)               \
  X(GetPhysicalDeviceProperties)            \
  X(GetPhysicalDeviceProperties2)           \
  X(GetPhysicalDeviceFeatures2)             \
  X(GetPhysicalDeviceMemoryProperties2)     \
  X(GetPhysicalDeviceQueueFamilyProperties) \
  X(EnumerateDeviceExtensionProperties)     \
  X(CreateDevice)                           \
  X(GetDeviceProcAddr)

#define BPDQ_VULKAN_DEVICE_FUNCTIONS(X) \
  X(DestroyDevice)                      \
  X(GetDeviceQueue)                     \
  X(DeviceWaitIdle)                     \
  X(AllocateMemory)                     \
  X(FreeMemory)                         \
  X(MapMemory)                          \
  X(CreateBuffer)                       \
  X(DestroyBuffer)                      \
  X(GetBufferMemoryRequirements)        \
  X(BindBufferMemory)                   \
  X(CreateShaderModule)                 \
  X(DestroyShaderModule)                \
  X(CreatePipelineCache)                \
  X(GetPipelineCacheData)               \
  X(DestroyPipelineCache)               \
  X(CreateComputePipelines)             \
  X(DestroyPipeline)                    \
  X(CreatePipelineLayout)               \
  X(DestroyPipelineLayout)              \
  X(CreateDescriptorSetLayout)          \
  X(DestroyDescriptorSetLayout)         \
  X(CreateDescriptorPool)               \
  X(DestroyDescriptorPool)              \
  X(AllocateDescriptorSets)             \
  X(UpdateDescriptorSets)               \
  X(CreateCommandPool)                  \
  X(DestroyCommandPool)                 \
  X(AllocateCommandBuffers)             \
  X(BeginCommandBuffer)                 \
  X(EndCommandBuffer)                   \
  X(CmdBindPipeline)                    \
  X(CmdBindDescriptorSets)              \
  X(CmdPushConstants)                   \
  X(CmdDispatch)                        \
  X(CmdDispatchIndirect)                \
  X(CmdPipelineBarrier)                 \
  X(CmdCopyBuffer)                      \
  X(CmdFillBuffer)                      \
  X(CmdResetQueryPool)                  \
  X(CmdWriteTimestamp)                  \
  X(CreateQueryPool)                    \
  X(DestroyQueryPool)                   \
  X(GetQueryPoolResults)                \
  X(QueueSubmit)                        \
  X(CreateFence)                        \
  X(DestroyFence)                       \
  X(ResetFences)                        \
  X(GetFenceStatus)                     \
  X(WaitForFences)

#define DECLARE_FUNCTION(name) PFN_vk##name name;
typedef struct bpdq_vulkan_instance_functions {
  PFN_vkGetInstanceProcAddr GetInstanceProcAddr;
  BPDQ_VULKAN_INSTANCE_FUNCTIONS(DECLARE_FUNCTION)
  /* NULL unless VK_EXT_debug_utils is enabled. */
  PFN_vkCreateDebugUtilsMessengerEXT CreateDebugUtilsMessengerEXT;
  PFN_vkDestroyDebugUtilsMessengerEXT DestroyDebugUtilsMessengerEXT;
  /* NULL unless VK_KHR_cooperative_matrix is supported. */
  PFN_vkVoidFunction GetPhysicalDeviceCooperativeMatrixPropertiesKHR;
} bpdq_vulkan_instance_functions;

typedef struct bpdq_vulkan_device_functions {
  BPDQ_VULKAN_DEVICE_FUNCTIONS(DECLARE_FUNCTION)
} bpdq_vulkan_device_functions;
#undef DECLARE_FUNCTION

/* Finds the system's Vulkan loader. BPDQ_ERROR_DEVICE where there is none. */
bpdq_status bpdq_vulkan_find_loader(PFN_vkGetInstanceProcAddr *get, bpdq_error *error);
/* BPDQ_ERROR_DEVICE names the function that is missing. */
bpdq_status bpdq_vulkan_load_instance(bpdq_vulkan_instance_functions *functions, PFN_vkGetInstanceProcAddr get, VkInstance instance,
                                      bpdq_error *error);
bpdq_status bpdq_vulkan_load_device(bpdq_vulkan_device_functions *functions, const bpdq_vulkan_instance_functions *instance,
                                    VkDevice device, bpdq_error *error);

#endif
