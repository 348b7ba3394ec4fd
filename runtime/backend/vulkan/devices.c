/* Instances and the list of physical devices. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/vulkan/pipeline.h"

#define VALIDATION_LAYER "VK_LAYER_KHRONOS_validation"

vulkan_switch bpdq_vulkan_switch(const char *name) {
  const char *value = getenv(name);
  if (!value || !*value) return VULKAN_SWITCH_UNSET;
  return strcmp(value, "0") ? VULKAN_SWITCH_ON : VULKAN_SWITCH_OFF;
}

static bool has_instance_extension(PFN_vkGetInstanceProcAddr get, const char *name) {
  PFN_vkEnumerateInstanceExtensionProperties enumerate =
      (PFN_vkEnumerateInstanceExtensionProperties)get(NULL, "vkEnumerateInstanceExtensionProperties");
  uint32_t count = 0;
  if (!enumerate || enumerate(NULL, &count, NULL) != VK_SUCCESS) return false;
  VkExtensionProperties *list = calloc(count ? count : 1, sizeof *list);
  bool found = false;
  if (list && enumerate(NULL, &count, list) >= 0)
    for (uint32_t i = 0; i < count && !found; i++) found = !strcmp(list[i].extensionName, name);
  free(list);
  return found;
}

/* The layer's own extensions (validation features) are listed per layer. */
static bool has_validation_layer(PFN_vkGetInstanceProcAddr get) {
  PFN_vkEnumerateInstanceLayerProperties enumerate =
      (PFN_vkEnumerateInstanceLayerProperties)get(NULL, "vkEnumerateInstanceLayerProperties");
  uint32_t count = 0;
  if (!enumerate || enumerate(&count, NULL) != VK_SUCCESS) return false;
  VkLayerProperties *list = calloc(count ? count : 1, sizeof *list);
  bool found = false;
  if (list && enumerate(&count, list) >= 0)
    for (uint32_t i = 0; i < count && !found; i++) found = !strcmp(list[i].layerName, VALIDATION_LAYER);
  free(list);
  return found;
}

bpdq_status bpdq_vulkan_instance_create(VkInstance *instance, bpdq_vulkan_instance_functions *functions, bool *validation,
                                        bpdq_error *error) {
  PFN_vkGetInstanceProcAddr get;
  *instance = VK_NULL_HANDLE;
  BPDQ_TRY(bpdq_vulkan_find_loader(&get, error));
  PFN_vkCreateInstance create = (PFN_vkCreateInstance)get(NULL, "vkCreateInstance");
  if (!create) return bpdq_fail(error, BPDQ_ERROR_DEVICE, "the Vulkan loader lacks vkCreateInstance");

  static const char *const layers[] = {VALIDATION_LAYER};
  static const VkValidationFeatureEnableEXT enables[] = {VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT};
  const char *extensions[3];
  uint32_t extension_count = 0;
  VkValidationFeaturesEXT checks = {
      .sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT, .enabledValidationFeatureCount = 1, .pEnabledValidationFeatures = enables};
  VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .pEngineName = "bpdq", .apiVersion = VK_API_VERSION_1_3};
  VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application};
  *validation = bpdq_vulkan_switch("BPDQ_VULKAN_VALIDATION") == VULKAN_SWITCH_ON;
  if (*validation) {
    if (!has_validation_layer(get))
      return bpdq_fail(error, BPDQ_ERROR_DEVICE, "BPDQ_VULKAN_VALIDATION is set, but the layer " VALIDATION_LAYER " is not installed");
    info.pNext = &checks;
    info.enabledLayerCount = 1;
    info.ppEnabledLayerNames = layers;
    extensions[extension_count++] = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
    extensions[extension_count++] = VK_EXT_VALIDATION_FEATURES_EXTENSION_NAME;
  }
#ifdef VK_KHR_portability_enumeration
  /* MoltenVK is listed only when asked for. */
  if (has_instance_extension(get, VK_KHR_PORTABILITY_ENUMERATION_EXTENSION_NAME)) {
    extensions[extension_count++] = VK_KHR_PORTABILITY_ENUMERATION_EXTENSION_NAME;
    info.flags |= VK_INSTANCE_CREATE_ENUMERATE_PORTABILITY_BIT_KHR;
  }
#endif
  info.enabledExtensionCount = extension_count;
  info.ppEnabledExtensionNames = extensions;
  VkResult result = create(&info, NULL, instance);
  if (result != VK_SUCCESS)
    return bpdq_fail(error, BPDQ_ERROR_DEVICE,
                     "cannot create a Vulkan instance (VkResult %d): check the driver with vulkaninfo, or choose --backend cpu",
                     (int)result);
  bpdq_status status = bpdq_vulkan_load_instance(functions, get, *instance, error);
  if (status != BPDQ_OK && functions->DestroyInstance) functions->DestroyInstance(*instance, NULL);
  return status;
}

bpdq_status bpdq_vulkan_enumerate(const bpdq_vulkan_instance_functions *functions, VkInstance instance, VkPhysicalDevice **devices,
                                  uint32_t *count, bpdq_error *error) {
  *devices = NULL;
  *count = 0;
  VkResult result = functions->EnumeratePhysicalDevices(instance, count, NULL);
  if (result != VK_SUCCESS) return bpdq_fail(error, BPDQ_ERROR_DEVICE, "cannot list Vulkan devices (VkResult %d)", (int)result);
  *devices = calloc(*count ? *count : 1, sizeof **devices);
  if (!*devices) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  result = functions->EnumeratePhysicalDevices(instance, count, *devices);
  if (result >= 0) return BPDQ_OK;
  free(*devices);
  *devices = NULL;
  return bpdq_fail(error, BPDQ_ERROR_DEVICE, "cannot list Vulkan devices (VkResult %d)", (int)result);
}

uint32_t bpdq_vulkan_queue_family(const bpdq_vulkan_instance_functions *functions, VkPhysicalDevice device) {
  VkQueueFamilyProperties families[32];
  uint32_t count = 32;
  functions->GetPhysicalDeviceQueueFamilyProperties(device, &count, families);
  for (uint32_t i = 0; i < count; i++)
    if (families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) return i;
  return UINT32_MAX;
}

uint32_t bpdq_vulkan_group_threads(const VkPhysicalDeviceLimits *limits) {
  uint32_t all = limits->maxComputeWorkGroupInvocations, along = limits->maxComputeWorkGroupSize[0];
  return along < all ? along : all;
}

bool bpdq_vulkan_has_extension(const bpdq_vulkan_instance_functions *functions, VkPhysicalDevice device, const char *name) {
  uint32_t count = 0;
  if (functions->EnumerateDeviceExtensionProperties(device, NULL, &count, NULL) != VK_SUCCESS) return false;
  VkExtensionProperties *list = calloc(count ? count : 1, sizeof *list);
  bool found = false;
  if (list && functions->EnumerateDeviceExtensionProperties(device, NULL, &count, list) >= 0)
    for (uint32_t i = 0; i < count && !found; i++) found = !strcmp(list[i].extensionName, name);
  free(list);
  return found;
}

uint64_t bpdq_vulkan_free_memory(const bpdq_vulkan_instance_functions *functions, VkPhysicalDevice device, uint64_t *total) {
  bool has_budget = bpdq_vulkan_has_extension(functions, device, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
  VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
  VkPhysicalDeviceMemoryProperties2 memory = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
                                              .pNext = has_budget ? &budget : NULL};
  functions->GetPhysicalDeviceMemoryProperties2(device, &memory);
  uint64_t largest = 0, available = 0;
  for (uint32_t i = 0; i < memory.memoryProperties.memoryHeapCount; i++) {
    const VkMemoryHeap *heap = &memory.memoryProperties.memoryHeaps[i];
    if (!(heap->flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) || heap->size <= largest) continue;
    largest = available = heap->size;
    if (has_budget) available = budget.heapBudget[i] > budget.heapUsage[i] ? budget.heapBudget[i] - budget.heapUsage[i] : 0;
  }
  if (total) *total = largest;
  return available;
}

static const char *kind_name(VkPhysicalDeviceType type) {
  switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
      return "discrete";
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU:
      return "integrated";
    case VK_PHYSICAL_DEVICE_TYPE_CPU:
      return "cpu";
    default:
      return "virtual";
  }
}

void bpdq_vulkan_describe(const bpdq_vulkan_instance_functions *functions, VkPhysicalDevice device, int index, bpdq_device_info *info) {
  VkPhysicalDeviceDriverProperties driver = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES};
  VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2};
  functions->GetPhysicalDeviceProperties(device, &properties.properties);
  bool recent = properties.properties.apiVersion >= VK_API_VERSION_1_2;
  if (recent) {
    properties.pNext = &driver;
    functions->GetPhysicalDeviceProperties2(device, &properties);
  }
  memset(info, 0, sizeof *info);
  snprintf(info->backend, sizeof info->backend, "vulkan");
  info->index = index;
  snprintf(info->name, sizeof info->name, "%s", properties.properties.deviceName);
  snprintf(info->driver, sizeof info->driver, "%.100s %.100s", driver.driverName, driver.driverInfo);
  snprintf(info->kind, sizeof info->kind, "%s", kind_name(properties.properties.deviceType));
  info->memory_free = bpdq_vulkan_free_memory(functions, device, &info->memory_total);
  const VkPhysicalDeviceLimits *limits = &properties.properties.limits;
  if (!recent)
    snprintf(info->unusable, sizeof info->unusable, "Vulkan %u.%u is too old, 1.2 is needed: update the driver",
             VK_API_VERSION_MAJOR(properties.properties.apiVersion), VK_API_VERSION_MINOR(properties.properties.apiVersion));
  else if (bpdq_vulkan_queue_family(functions, device) == UINT32_MAX)
    snprintf(info->unusable, sizeof info->unusable, "no compute queue");
  else if (limits->maxPerStageDescriptorStorageBuffers < VULKAN_LEAST_BINDINGS || bpdq_vulkan_group_threads(limits) < 256)
    snprintf(info->unusable, sizeof info->unusable, "needs %d storage buffers per shader and 256 threads per work group, has %u and %u",
             VULKAN_LEAST_BINDINGS, limits->maxPerStageDescriptorStorageBuffers, bpdq_vulkan_group_threads(limits));
}

size_t bpdq_vulkan_list(bpdq_device_info *devices, size_t capacity, const bpdq_log *log) {
  VkInstance instance;
  bpdq_vulkan_instance_functions functions;
  VkPhysicalDevice *physical = NULL;
  uint32_t count = 0;
  bool validation;
  bpdq_error error = {0};
  if (bpdq_vulkan_instance_create(&instance, &functions, &validation, &error) != BPDQ_OK) {
    bpdq_log_info(log, "vulkan: %s", error.message);
    return 0;
  }
  if (bpdq_vulkan_enumerate(&functions, instance, &physical, &count, &error) != BPDQ_OK)
    bpdq_log_info(log, "vulkan: %s", error.message);
  else if (!count)
    bpdq_log_info(log, "vulkan: the loader lists no device: install a driver");
  for (uint32_t i = 0; devices && physical && i < count && i < capacity; i++) {
    bpdq_vulkan_describe(&functions, physical[i], (int)i, &devices[i]);
    if (devices[i].unusable[0]) continue;
    vulkan_context offered = {.instance_functions = functions, .physical_device = physical[i]};
    bpdq_vulkan_query(&offered);
    bpdq_vulkan_describe_features(&offered.features, devices[i].features, sizeof devices[i].features);
  }
  free(physical);
  functions.DestroyInstance(instance, NULL);
  return count;
}
