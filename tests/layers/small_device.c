/* A Vulkan layer under which a device has no more than the backend asks of one: the 16 KiB of shared memory that the specification
 * guarantees, work groups of 256 threads, 8 storage buffers per shader; a Raspberry Pi's has not much more. Below the validation layer,
 * which takes its limits from here, every pipeline is checked against them (scripts/test, stage vulkan). One instance at a time. */
#include <string.h>

#include <vulkan/vk_layer.h>
#include <vulkan/vulkan_core.h>

#define EXPORT __attribute__((visibility("default")))

enum { SHARED_BYTES = 16384, GROUP_THREADS = 256, STORAGE_BUFFERS = 8 };

static struct {
  VkInstance instance;
  PFN_vkGetInstanceProcAddr instance_function;
  PFN_vkGetDeviceProcAddr device_function;
  PFN_vkGetPhysicalDeviceProperties properties;
  PFN_vkGetPhysicalDeviceProperties2 properties2;
} below;

/* ---- limits ---- */

static void lower(uint32_t *limit, uint32_t most) {
  if (*limit > most) *limit = most;
}

static void lower_limits(VkPhysicalDeviceLimits *limits) {
  lower(&limits->maxComputeSharedMemorySize, SHARED_BYTES);
  lower(&limits->maxComputeWorkGroupInvocations, GROUP_THREADS);
  for (int i = 0; i < 3; i++) lower(&limits->maxComputeWorkGroupSize[i], GROUP_THREADS);
  lower(&limits->maxPerStageDescriptorStorageBuffers, STORAGE_BUFFERS);
}

static VKAPI_ATTR void VKAPI_CALL get_properties(VkPhysicalDevice device, VkPhysicalDeviceProperties *properties) {
  below.properties(device, properties);
  lower_limits(&properties->limits);
}

static VKAPI_ATTR void VKAPI_CALL get_properties2(VkPhysicalDevice device, VkPhysicalDeviceProperties2 *properties) {
  below.properties2(device, properties);
  lower_limits(&properties->properties.limits);
}

/* ---- what every layer does: the loader's chain says who is below, and is handed on one further ---- */

/* The entry of a create info's chain by which the loader links the layers. Those of instances and of devices begin alike. */
static void *find_link(const void *chain, VkStructureType type) {
  const VkLayerInstanceCreateInfo *link = chain;
  while (link && (link->sType != type || link->function != VK_LAYER_LINK_INFO)) link = link->pNext;
  return (void *)link;
}

static VKAPI_ATTR VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo *info, const VkAllocationCallbacks *allocator,
                                                      VkInstance *instance) {
  VkLayerInstanceCreateInfo *link = find_link(info->pNext, VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO);
  if (!link) return VK_ERROR_INITIALIZATION_FAILED;
  below.instance_function = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
  link->u.pLayerInfo = link->u.pLayerInfo->pNext;
  VkResult result = ((PFN_vkCreateInstance)below.instance_function(NULL, "vkCreateInstance"))(info, allocator, instance);
  if (result != VK_SUCCESS) return result;
  below.instance = *instance;
  /* Now, while the loader answers with what is below; later it would answer with the top of all layers. */
  below.properties = (PFN_vkGetPhysicalDeviceProperties)below.instance_function(*instance, "vkGetPhysicalDeviceProperties");
  below.properties2 = (PFN_vkGetPhysicalDeviceProperties2)below.instance_function(*instance, "vkGetPhysicalDeviceProperties2");
  return VK_SUCCESS;
}

static VKAPI_ATTR VkResult VKAPI_CALL create_device(VkPhysicalDevice physical, const VkDeviceCreateInfo *info,
                                                    const VkAllocationCallbacks *allocator, VkDevice *device) {
  VkLayerDeviceCreateInfo *link = find_link(info->pNext, VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO);
  if (!link) return VK_ERROR_INITIALIZATION_FAILED;
  below.device_function = link->u.pLayerInfo->pfnNextGetDeviceProcAddr;
  PFN_vkCreateDevice create = (PFN_vkCreateDevice)link->u.pLayerInfo->pfnNextGetInstanceProcAddr(below.instance, "vkCreateDevice");
  link->u.pLayerInfo = link->u.pLayerInfo->pNext;
  return create(physical, info, allocator, device);
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL device_function(VkDevice device, const char *name) {
  return below.device_function(device, name);
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL instance_function(VkInstance instance, const char *name) {
  static const struct {
    const char *name;
    PFN_vkVoidFunction function;
  } own[] = {{"vkGetInstanceProcAddr", (PFN_vkVoidFunction)instance_function},
             {"vkGetDeviceProcAddr", (PFN_vkVoidFunction)device_function},
             {"vkCreateInstance", (PFN_vkVoidFunction)create_instance},
             {"vkCreateDevice", (PFN_vkVoidFunction)create_device},
             {"vkGetPhysicalDeviceProperties", (PFN_vkVoidFunction)get_properties},
             {"vkGetPhysicalDeviceProperties2", (PFN_vkVoidFunction)get_properties2}};
  for (size_t i = 0; i < sizeof own / sizeof *own; i++)
    if (!strcmp(own[i].name, name)) return own[i].function;
  return below.instance_function ? below.instance_function(instance, name) : NULL;
}

/* The loader looks for these two by their names. Nothing here refers to them: the loader itself has functions of the same names, which
 * might come first. */
EXPORT VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vkGetDeviceProcAddr(VkDevice device, const char *name) {
  return device_function(device, name);
}
EXPORT VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vkGetInstanceProcAddr(VkInstance instance, const char *name) {
  return instance_function(instance, name);
}
