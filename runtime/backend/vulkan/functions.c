#include "backend/vulkan/functions.h"

#include <string.h>

#include "volk.h"

bpdq_status bpdq_vulkan_find_loader(PFN_vkGetInstanceProcAddr *get, bpdq_error *error) {
  if (volkInitialize() != VK_SUCCESS || !vkGetInstanceProcAddr)
    return bpdq_fail(error, BPDQ_ERROR_DEVICE,
                     "no Vulkan loader (libvulkan.so.1) found: install the system's Vulkan loader and a driver, or choose --backend cpu");
  *get = vkGetInstanceProcAddr;
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_load_instance(bpdq_vulkan_instance_functions *functions, PFN_vkGetInstanceProcAddr get, VkInstance instance,
                                      bpdq_error *error) {
  memset(functions, 0, sizeof *functions);
  functions->GetInstanceProcAddr = get;
#define LOAD(name)                                           \
  functions->name = (PFN_vk##name)get(instance, "vk" #name); \
  if (!functions->name) return bpdq_fail(error, BPDQ_ERROR_DEVICE, "the Vulkan loader lacks vk%s: it is older than Vulkan 1.1", #name);
  BPDQ_VULKAN_INSTANCE_FUNCTIONS(LOAD)
#undef LOAD
  functions->CreateDebugUtilsMessengerEXT = (PFN_vkCreateDebugUtilsMessengerEXT)get(instance, "vkCreateDebugUtilsMessengerEXT");
  functions->DestroyDebugUtilsMessengerEXT = (PFN_vkDestroyDebugUtilsMessengerEXT)get(instance, "vkDestroyDebugUtilsMessengerEXT");
  functions->GetPhysicalDeviceCooperativeMatrixPropertiesKHR = get(instance, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_load_device(bpdq_vulkan_device_functions *functions, const bpdq_vulkan_instance_functions *instance,
                                    VkDevice device, bpdq_error *error) {
#define LOAD(name)                                                                 \
  functions->name = (PFN_vk##name)instance->GetDeviceProcAddr(device, "vk" #name); \
  if (!functions->name) return bpdq_fail(error, BPDQ_ERROR_DEVICE, "the Vulkan driver lacks vk%s", #name);
  BPDQ_VULKAN_DEVICE_FUNCTIONS(LOAD)
#undef LOAD
  return BPDQ_OK;
}
