#include "backend/vulkan/pipeline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A run that takes longer than this is taken for a hung device. Software devices may need minutes for a large prompt. */
#define WAIT_NANOSECONDS (600ull * 1000 * 1000 * 1000)

#define MATRIX_SHARED_BYTES 36880 /* of linear_matrix.comp */
#define MULTIPROCESSORS 128       /* of a large device, where it does not say */

/* ---- validation ---- */

static VkBool32 VKAPI_CALL on_validation_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity, VkDebugUtilsMessageTypeFlagsEXT types,
                                                 const VkDebugUtilsMessengerCallbackDataEXT *data, void *user) {
  (void)severity, (void)types;
  vulkan_context *context = user;
  bpdq_mutex_lock(context->validation_mutex);
  if (!atomic_fetch_add(&context->validation_errors, 1))
    snprintf(context->validation_message, sizeof context->validation_message, "%s", data->pMessage ? data->pMessage : "(no message)");
  bpdq_mutex_unlock(context->validation_mutex);
  bpdq_log_warning(&context->log, "vulkan validation: %s", data->pMessage ? data->pMessage : "");
  return VK_FALSE;
}

bpdq_status bpdq_vulkan_validation_status(vulkan_context *context, bpdq_status status, bpdq_error *error) {
  if (!context->messenger || !atomic_load(&context->validation_errors)) return status;
  bpdq_mutex_lock(context->validation_mutex);
  unsigned count = atomic_exchange(&context->validation_errors, 0);
  bpdq_fail(error, BPDQ_ERROR_INTERNAL, "vulkan validation reported %u errors, the first: %s", count, context->validation_message);
  bpdq_mutex_unlock(context->validation_mutex);
  return BPDQ_ERROR_INTERNAL;
}

static bpdq_status watch_validation(vulkan_context *context, bpdq_error *error) {
  VkDebugUtilsMessengerCreateInfoEXT info = {.sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
                                             .messageSeverity = VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
                                             .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT,
                                             .pfnUserCallback = on_validation_message,
                                             .pUserData = context};
  return bpdq_vulkan_result(context,
                            context->instance_functions.CreateDebugUtilsMessengerEXT(context->instance, &info, NULL, &context->messenger),
                            "watching the validation layer", error);
}

/* ---- results ---- */

bpdq_status bpdq_vulkan_result(const vulkan_context *context, VkResult result, const char *what, bpdq_error *error) {
  const char *name = context->properties.deviceName;
  switch (result) {
    case VK_SUCCESS:
      return BPDQ_OK;
    case VK_ERROR_OUT_OF_HOST_MEMORY:
      return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory while %s", name, what);
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
      return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of device memory while %s: lower --ctx, or choose another --device", name, what);
    case VK_ERROR_DEVICE_LOST:
      return bpdq_fail(error, BPDQ_ERROR_DEVICE,
                       "%s: the device was lost while %s (driver reset or crash): load the model again, or choose another --device", name,
                       what);
    case VK_TIMEOUT:
      return bpdq_fail(error, BPDQ_ERROR_DEVICE, "%s: the device does not answer while %s: choose another --device", name, what);
    default:
      return bpdq_fail(error, BPDQ_ERROR_DEVICE, "%s: VkResult %d while %s: update the driver, or choose another --device", name,
                       (int)result, what);
  }
}

/* ---- choice of a device ---- */

static int kind_rank(VkPhysicalDeviceType type) {
  switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
      return 0;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU:
      return 1;
    case VK_PHYSICAL_DEVICE_TYPE_CPU:
      return 3;
    default:
      return 2;
  }
}

static bpdq_status choose_device(vulkan_context *context, int wanted, bpdq_device_info *info, bpdq_error *error) {
  const bpdq_vulkan_instance_functions *functions = &context->instance_functions;
  VkPhysicalDevice *devices;
  uint32_t count;
  BPDQ_TRY(bpdq_vulkan_enumerate(functions, context->instance, &devices, &count, error));
  int best = -1, best_rank = 0;
  bpdq_status status = BPDQ_OK;
  if (wanted >= 0 && (uint32_t)wanted < count) {
    best = wanted;
  } else if (wanted >= 0) {
    status = bpdq_fail(error, BPDQ_ERROR_DEVICE, "there is no Vulkan device %d; `bpdq devices` lists %u", wanted, count);
  } else {
    for (uint32_t i = 0; i < count; i++) {
      VkPhysicalDeviceProperties properties;
      bpdq_vulkan_describe(functions, devices[i], (int)i, info);
      functions->GetPhysicalDeviceProperties(devices[i], &properties);
      int rank = kind_rank(properties.deviceType);
      if (info->unusable[0] || (best >= 0 && rank >= best_rank)) continue;
      best = (int)i;
      best_rank = rank;
    }
    if (best < 0) status = bpdq_fail(error, BPDQ_ERROR_DEVICE, "no usable Vulkan device; `bpdq devices` says why");
  }
  if (best >= 0) {
    context->physical_device = devices[best];
    bpdq_vulkan_describe(functions, devices[best], best, info);
    if (info->unusable[0]) status = bpdq_fail(error, BPDQ_ERROR_DEVICE, "Vulkan device %d (%s): %s", best, info->name, info->unusable);
  }
  free(devices);
  return status;
}

static uint32_t count_multiprocessors(const vulkan_context *context) {
  VkPhysicalDeviceShaderSMBuiltinsPropertiesNV builtins = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_SM_BUILTINS_PROPERTIES_NV};
  VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &builtins};
  if (!bpdq_vulkan_has_extension(&context->instance_functions, context->physical_device, VK_NV_SHADER_SM_BUILTINS_EXTENSION_NAME))
    return MULTIPROCESSORS;
  context->instance_functions.GetPhysicalDeviceProperties2(context->physical_device, &properties);
  return builtins.shaderSMCount ? builtins.shaderSMCount : MULTIPROCESSORS;
}

static bool has_device_extension(const vulkan_context *context, const char *name) {
  return bpdq_vulkan_has_extension(&context->instance_functions, context->physical_device, name);
}

/* Whether the device understands the structures of an extension that became a part of Vulkan 1.3. */
static bool offers(const vulkan_context *context, const char *extension) {
  return context->properties.apiVersion >= VK_API_VERSION_1_3 || has_device_extension(context, extension);
}

/* Zeros where the device does not say. */
static VkPhysicalDeviceSubgroupSizeControlProperties subgroup_sizes(const vulkan_context *context) {
  VkPhysicalDeviceSubgroupSizeControlProperties sizes = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES};
  VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &sizes};
  if (offers(context, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME))
    context->instance_functions.GetPhysicalDeviceProperties2(context->physical_device, &properties);
  return sizes;
}

static void read_subgroups(vulkan_context *context, const VkPhysicalDeviceSubgroupProperties *subgroup) {
  VkSubgroupFeatureFlags wanted = VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_ARITHMETIC_BIT | VK_SUBGROUP_FEATURE_SHUFFLE_BIT;
  VkPhysicalDeviceSubgroupSizeControlProperties sizes = subgroup_sizes(context);
  context->subgroups = (vulkan_subgroups){
      .operations = (subgroup->supportedOperations & wanted) == wanted && (subgroup->supportedStages & VK_SHADER_STAGE_COMPUTE_BIT),
      .usual = subgroup->subgroupSize,
      .least = sizes.minSubgroupSize,
      .most = sizes.maxSubgroupSize,
      .most_in_group = sizes.maxComputeWorkgroupSubgroups,
      .compute_can_require = (sizes.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0};
}

static void read_limits(vulkan_context *context) {
  VkPhysicalDeviceMaintenance3Properties maintenance = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES};
  VkPhysicalDeviceSubgroupProperties subgroup = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES, .pNext = &maintenance};
  VkPhysicalDeviceIDProperties id = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ID_PROPERTIES, .pNext = &subgroup};
  VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &id};
  context->instance_functions.GetPhysicalDeviceProperties2(context->physical_device, &properties);
  context->properties = properties.properties;
  /* Tests let a CPU device run the kernels of GPUs. */
  context->is_cpu =
      properties.properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU && bpdq_vulkan_switch("BPDQ_VULKAN_CPU_AS_GPU") != VULKAN_SWITCH_ON;
  memcpy(context->driver_uuid, id.driverUUID, VK_UUID_SIZE);
  memcpy(context->device_uuid, id.deviceUUID, VK_UUID_SIZE);
  const VkPhysicalDeviceLimits *limits = &properties.properties.limits;
  context->limits = (vulkan_limits){
      .storage_range = limits->maxStorageBufferRange,
      .allocation = maintenance.maxMemoryAllocationSize,
      .storage_alignment = limits->minStorageBufferOffsetAlignment,
      .bindings =
          limits->maxPerStageDescriptorStorageBuffers < VULKAN_BINDINGS ? limits->maxPerStageDescriptorStorageBuffers : VULKAN_BINDINGS,
      .groups = {limits->maxComputeWorkGroupCount[0], limits->maxComputeWorkGroupCount[1], limits->maxComputeWorkGroupCount[2]},
      .group_threads = bpdq_vulkan_group_threads(limits),
      .shared_bytes = limits->maxComputeSharedMemorySize,
      .multiprocessors = count_multiprocessors(context)};
  if (context->limits.storage_alignment < 16) context->limits.storage_alignment = 16;
  read_subgroups(context, &subgroup);
}

/* ---- features: what the device has, then what is enabled ---- */

typedef struct feature_chain {
  VkPhysicalDeviceFeatures2 features;
  VkPhysicalDevice16BitStorageFeatures storage16;
  VkPhysicalDeviceShaderFloat16Int8Features float16;
  VkPhysicalDeviceVulkanMemoryModelFeatures memory_model;
  VkPhysicalDeviceSubgroupSizeControlFeatures size_control;
  VkPhysicalDeviceShaderIntegerDotProductFeatures integer_dot;
  VkPhysicalDevicePipelineRobustnessFeaturesEXT robustness;
#ifdef VK_KHR_cooperative_matrix
  VkPhysicalDeviceCooperativeMatrixFeaturesKHR cooperative_matrix;
#endif
} feature_chain;

/* Structures that the driver understands. */
typedef struct chain_parts {
  bool size_control, integer_dot, robustness, cooperative_matrix;
} chain_parts;

static void link_chain(feature_chain *chain, const chain_parts *parts) {
  memset(chain, 0, sizeof *chain);
  chain->features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
  chain->storage16.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES;
  chain->float16.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES;
  chain->memory_model.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES;
  chain->size_control.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES;
  chain->integer_dot.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES;
  chain->robustness.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_ROBUSTNESS_FEATURES_EXT;
  chain->features.pNext = &chain->storage16;
  chain->storage16.pNext = &chain->float16;
  chain->float16.pNext = &chain->memory_model;
  void **tail = &chain->memory_model.pNext;
  if (parts->size_control) {
    *tail = &chain->size_control;
    tail = &chain->size_control.pNext;
  }
  if (parts->integer_dot) {
    *tail = &chain->integer_dot;
    tail = &chain->integer_dot.pNext;
  }
  if (parts->robustness) {
    *tail = &chain->robustness;
    tail = &chain->robustness.pNext;
  }
#ifdef VK_KHR_cooperative_matrix
  chain->cooperative_matrix.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR;
  if (parts->cooperative_matrix) *tail = &chain->cooperative_matrix;
#endif
}

#ifdef VK_KHR_cooperative_matrix
/* True where f16 x f16 + f32 is offered as 16 x `columns` x 16 at subgroup scope. */
static bool has_matrix_shape(const vulkan_context *context, uint32_t columns) {
  PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR get =
      (PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)context->instance_functions.GetPhysicalDeviceCooperativeMatrixPropertiesKHR;
  uint32_t count = 0;
  if (!get || get(context->physical_device, &count, NULL) != VK_SUCCESS || !count) return false;
  VkCooperativeMatrixPropertiesKHR *list = calloc(count, sizeof *list);
  if (!list) return false;
  for (uint32_t i = 0; i < count; i++) list[i].sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
  bool found = false;
  if (get(context->physical_device, &count, list) >= 0)
    for (uint32_t i = 0; i < count && !found; i++)
      found = list[i].MSize == 16 && list[i].NSize == columns && list[i].KSize == 16 && list[i].AType == VK_COMPONENT_TYPE_FLOAT16_KHR &&
              list[i].BType == VK_COMPONENT_TYPE_FLOAT16_KHR && list[i].CType == VK_COMPONENT_TYPE_FLOAT32_KHR &&
              list[i].ResultType == VK_COMPONENT_TYPE_FLOAT32_KHR && list[i].scope == VK_SCOPE_SUBGROUP_KHR;
  free(list);
  return found;
}
#endif

/* Whether a product of packed bytes is one instruction (it is on an H200); without, linear_lut.comp is the faster one. CPU devices say no
 * (lavapipe, of every combination) and take the integers all the same, so that CI tests them. */
static bool accelerates_dot(const vulkan_context *context) {
  VkPhysicalDeviceShaderIntegerDotProductProperties dot = {.sType =
                                                               VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_PROPERTIES};
  VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &dot};
  if (context->properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU) return true;
  if (offers(context, VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME))
    context->instance_functions.GetPhysicalDeviceProperties2(context->physical_device, &properties);
  return dot.integerDotProduct4x8BitPackedSignedAccelerated;
}

static vulkan_subgroup_way way_of(const vulkan_context *context, vulkan_subgroup_need need) {
  return bpdq_vulkan_subgroup_way(&context->subgroups, need, context->limits.group_threads);
}

/* Which optional paths `chain` (supported or enabled features) allows. */
static void features_from_chain(vulkan_context *context, const feature_chain *chain) {
  context->subgroups.size_control = chain->size_control.subgroupSizeControl;
  context->subgroups.filled = chain->size_control.computeFullSubgroups;
  context->features.subgroup = !context->is_cpu && way_of(context, VULKAN_SUBGROUP_WIDE) != VULKAN_SUBGROUP_IMPOSSIBLE;
  context->features.integer_dot = chain->integer_dot.shaderIntegerDotProduct && accelerates_dot(context);
  context->features.unchecked = chain->robustness.pipelineRobustness;
#ifdef VK_KHR_cooperative_matrix
  context->features.cooperative_matrix = chain->cooperative_matrix.cooperativeMatrix && chain->float16.shaderFloat16 &&
                                         chain->storage16.storageBuffer16BitAccess && chain->memory_model.vulkanMemoryModel &&
                                         way_of(context, VULKAN_SUBGROUP_EXACT) != VULKAN_SUBGROUP_IMPOSSIBLE &&
                                         context->limits.shared_bytes >= MATRIX_SHARED_BYTES && has_matrix_shape(context, 16);
  context->features.narrow_matrix = context->features.cooperative_matrix && has_matrix_shape(context, 8);
  context->features.known_matrix = context->features.narrow_matrix;
#endif
}

static void query_features(vulkan_context *context, feature_chain *supported) {
  link_chain(supported, &(chain_parts){.size_control = offers(context, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME),
                                       .integer_dot = offers(context, VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME),
                                       .robustness = has_device_extension(context, VK_EXT_PIPELINE_ROBUSTNESS_EXTENSION_NAME),
                                       .cooperative_matrix = has_device_extension(context, "VK_KHR_cooperative_matrix")});
  context->instance_functions.GetPhysicalDeviceFeatures2(context->physical_device, &supported->features);
  features_from_chain(context, supported);
  context->features.memory_budget = has_device_extension(context, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
}

void bpdq_vulkan_query(vulkan_context *context) {
  feature_chain supported;
  read_limits(context);
  query_features(context, &supported);
}

void bpdq_vulkan_describe_features(const vulkan_features *features, char *text, size_t size) {
  snprintf(text, size, "%s%s%s", features->subgroup ? "subgroup " : "", features->integer_dot ? "integer-dot " : "",
           features->cooperative_matrix ? "cooperative-matrix " : "");
  size_t length = strlen(text);
  if (length) text[length - 1] = 0;
}

static bpdq_status create_device(vulkan_context *context, bpdq_error *error) {
  const char *extensions[6];
  uint32_t extension_count = 0;
  feature_chain supported, enabled;
  query_features(context, &supported);
  bool older = context->properties.apiVersion < VK_API_VERSION_1_3; /* extensions bring what 1.3 has */
  bool requires_size = (context->features.subgroup && way_of(context, VULKAN_SUBGROUP_WIDE) == VULKAN_SUBGROUP_REQUIRED) ||
                       (context->features.cooperative_matrix && way_of(context, VULKAN_SUBGROUP_EXACT) == VULKAN_SUBGROUP_REQUIRED);
  link_chain(&enabled, &(chain_parts){requires_size, context->features.integer_dot, context->features.unchecked,
                                      context->features.cooperative_matrix});
  enabled.size_control.subgroupSizeControl = enabled.size_control.computeFullSubgroups = requires_size;
  enabled.integer_dot.shaderIntegerDotProduct = context->features.integer_dot;
  enabled.robustness.pipelineRobustness = context->features.unchecked;
#ifdef VK_KHR_cooperative_matrix
  if (context->features.cooperative_matrix) {
    enabled.cooperative_matrix.cooperativeMatrix = VK_TRUE;
    enabled.float16.shaderFloat16 = VK_TRUE;
    enabled.storage16.storageBuffer16BitAccess = VK_TRUE;
    enabled.memory_model.vulkanMemoryModel = VK_TRUE;
    enabled.memory_model.vulkanMemoryModelDeviceScope = supported.memory_model.vulkanMemoryModelDeviceScope;
    extensions[extension_count++] = VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME;
  }
#endif
  if (requires_size && older) extensions[extension_count++] = VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME;
  if (context->features.integer_dot && older) extensions[extension_count++] = VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME;
  if (context->features.unchecked) extensions[extension_count++] = VK_EXT_PIPELINE_ROBUSTNESS_EXTENSION_NAME;
  if (context->features.memory_budget) extensions[extension_count++] = VK_EXT_MEMORY_BUDGET_EXTENSION_NAME;
  /* The specification demands it to be enabled wherever it is offered (MoltenVK). */
  if (has_device_extension(context, "VK_KHR_portability_subset")) extensions[extension_count++] = "VK_KHR_portability_subset";

  float priority = 1;
  context->queue_family = bpdq_vulkan_queue_family(&context->instance_functions, context->physical_device);
  VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                   .queueFamilyIndex = context->queue_family,
                                   .queueCount = 1,
                                   .pQueuePriorities = &priority};
  VkDeviceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                             .pNext = &enabled.features,
                             .queueCreateInfoCount = 1,
                             .pQueueCreateInfos = &queue,
                             .enabledExtensionCount = extension_count,
                             .ppEnabledExtensionNames = extensions};
  BPDQ_TRY(bpdq_vulkan_result(context, context->instance_functions.CreateDevice(context->physical_device, &info, NULL, &context->device),
                              "creating the device", error));
  BPDQ_TRY(bpdq_vulkan_load_device(&context->vk, &context->instance_functions, context->device, error));
  context->vk.GetDeviceQueue(context->device, context->queue_family, 0, &context->queue);
  return BPDQ_OK;
}

/* ---- an imported device ---- */

static bool was_enabled(const bpdq_vulkan_import *import, const char *extension) {
  for (size_t i = 0; i < import->extension_count; i++)
    if (!strcmp(import->extensions[i], extension)) return true;
  return false;
}

/* Copies what the caller enabled, whichever of the equivalent structures it used. */
static void read_enabled_features(const void *chain, feature_chain *enabled) {
  for (const VkBaseInStructure *item = chain; item; item = item->pNext) {
    switch ((int)item->sType) {
      case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES:
        enabled->storage16.storageBuffer16BitAccess = ((const VkPhysicalDeviceVulkan11Features *)item)->storageBuffer16BitAccess;
        break;
      case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES:
        enabled->float16.shaderFloat16 = ((const VkPhysicalDeviceVulkan12Features *)item)->shaderFloat16;
        enabled->memory_model.vulkanMemoryModel = ((const VkPhysicalDeviceVulkan12Features *)item)->vulkanMemoryModel;
        break;
      case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES:
        enabled->size_control.subgroupSizeControl = ((const VkPhysicalDeviceVulkan13Features *)item)->subgroupSizeControl;
        enabled->size_control.computeFullSubgroups = ((const VkPhysicalDeviceVulkan13Features *)item)->computeFullSubgroups;
        enabled->integer_dot.shaderIntegerDotProduct = ((const VkPhysicalDeviceVulkan13Features *)item)->shaderIntegerDotProduct;
        break;
      case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES:
        enabled->storage16.storageBuffer16BitAccess = ((const VkPhysicalDevice16BitStorageFeatures *)item)->storageBuffer16BitAccess;
        break;
      case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES:
        enabled->float16.shaderFloat16 = ((const VkPhysicalDeviceShaderFloat16Int8Features *)item)->shaderFloat16;
        break;
      case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES:
        enabled->memory_model.vulkanMemoryModel = ((const VkPhysicalDeviceVulkanMemoryModelFeatures *)item)->vulkanMemoryModel;
        break;
      case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES:
        enabled->size_control.subgroupSizeControl = ((const VkPhysicalDeviceSubgroupSizeControlFeatures *)item)->subgroupSizeControl;
        enabled->size_control.computeFullSubgroups = ((const VkPhysicalDeviceSubgroupSizeControlFeatures *)item)->computeFullSubgroups;
        break;
      case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES:
        enabled->integer_dot.shaderIntegerDotProduct =
            ((const VkPhysicalDeviceShaderIntegerDotProductFeatures *)item)->shaderIntegerDotProduct;
        break;
      case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_ROBUSTNESS_FEATURES_EXT:
        enabled->robustness.pipelineRobustness = ((const VkPhysicalDevicePipelineRobustnessFeaturesEXT *)item)->pipelineRobustness;
        break;
#ifdef VK_KHR_cooperative_matrix
      case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR:
        enabled->cooperative_matrix.cooperativeMatrix = ((const VkPhysicalDeviceCooperativeMatrixFeaturesKHR *)item)->cooperativeMatrix;
        break;
#endif
      default:
        break;
    }
  }
}

static bpdq_status import_device(vulkan_context *context, const bpdq_vulkan_import *import, bpdq_device_info *info, bpdq_error *error) {
  if (!import->get_instance_proc_addr || !import->instance || !import->physical_device || !import->device || !import->queue)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "bpdq_vulkan_import: a handle is NULL");
  if (import->extension_count && !import->extensions)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "bpdq_vulkan_import: extension_count is set, but extensions is NULL");
  if (!import->lock_queue != !import->unlock_queue)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "bpdq_vulkan_import: set both lock_queue and unlock_queue, or neither");
  if (import->api_version < VK_API_VERSION_1_2)
    return bpdq_fail(error, BPDQ_ERROR_DEVICE, "bpdq_vulkan_import: the instance was created for Vulkan %u.%u, 1.2 is needed",
                     VK_API_VERSION_MAJOR(import->api_version), VK_API_VERSION_MINOR(import->api_version));
  context->import = *import;
  context->instance = (VkInstance)import->instance;
  context->physical_device = (VkPhysicalDevice)import->physical_device;
  context->device = (VkDevice)import->device;
  context->queue = (VkQueue)import->queue;
  context->queue_family = import->queue_family;
  BPDQ_TRY(bpdq_vulkan_load_instance(&context->instance_functions, (PFN_vkGetInstanceProcAddr)import->get_instance_proc_addr,
                                     context->instance, error));
  BPDQ_TRY(bpdq_vulkan_load_device(&context->vk, &context->instance_functions, context->device, error));
  bpdq_vulkan_describe(&context->instance_functions, context->physical_device, 0, info);
  if (info->unusable[0]) return bpdq_fail(error, BPDQ_ERROR_DEVICE, "bpdq_vulkan_import: %s: %s", info->name, info->unusable);
  read_limits(context);
  feature_chain enabled;
  link_chain(&enabled, &(chain_parts){0});
  read_enabled_features(import->enabled_features, &enabled);
  features_from_chain(context, &enabled);
  context->features.memory_budget = was_enabled(import, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
  if (!was_enabled(import, VK_EXT_PIPELINE_ROBUSTNESS_EXTENSION_NAME)) context->features.unchecked = false;
  if (!was_enabled(import, "VK_KHR_cooperative_matrix"))
    context->features.cooperative_matrix = context->features.narrow_matrix = context->features.known_matrix = false;
  return BPDQ_OK;
}

/* ---- life cycle ---- */

bpdq_status bpdq_vulkan_context_create(vulkan_context *context, const bpdq_backend_options *options, bpdq_device_info *info,
                                       bpdq_error *error) {
  memset(context, 0, sizeof *context);
  context->log = options->log;
  context->queue_mutex = bpdq_mutex_create();
  context->validation_mutex = bpdq_mutex_create();
  bpdq_status status = BPDQ_OK;
  if (!context->queue_mutex || !context->validation_mutex) {
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  } else if (options->vulkan) {
    status = import_device(context, options->vulkan, info, error);
  } else {
    bool validation;
    context->owns_device = true;
    status = bpdq_vulkan_instance_create(&context->instance, &context->instance_functions, &validation, error);
    if (status != BPDQ_OK) context->instance = VK_NULL_HANDLE;
    if (status == BPDQ_OK && validation) status = watch_validation(context, error);
    if (status == BPDQ_OK) status = choose_device(context, options->device, info, error);
    if (status == BPDQ_OK) {
      read_limits(context);
      status = create_device(context, error);
    }
  }
  if (status != BPDQ_OK) bpdq_vulkan_context_destroy(context);
  return status;
}

void bpdq_vulkan_context_destroy(vulkan_context *context) {
  if (context->owns_device) {
    if (context->device && context->vk.DestroyDevice) context->vk.DestroyDevice(context->device, NULL);
    if (context->messenger) context->instance_functions.DestroyDebugUtilsMessengerEXT(context->instance, context->messenger, NULL);
    if (context->instance) context->instance_functions.DestroyInstance(context->instance, NULL);
  }
  bpdq_mutex_destroy(context->queue_mutex);
  bpdq_mutex_destroy(context->validation_mutex);
  memset(context, 0, sizeof *context);
}

/* ---- the queue ---- */

bpdq_status bpdq_vulkan_submit(vulkan_context *context, const VkCommandBuffer *commands, uint32_t count, VkFence fence, bpdq_error *error) {
  VkSubmitInfo submit = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = count, .pCommandBuffers = commands};
  atomic_fetch_add(&context->submissions, 1);
  bpdq_mutex_lock(context->queue_mutex);
  if (context->import.lock_queue) context->import.lock_queue(context->import.user);
  VkResult result = context->vk.QueueSubmit(context->queue, 1, &submit, fence);
  if (context->import.unlock_queue) context->import.unlock_queue(context->import.user);
  bpdq_mutex_unlock(context->queue_mutex);
  return bpdq_vulkan_result(context, result, "submitting work", error);
}

bpdq_status bpdq_vulkan_wait(vulkan_context *context, VkFence fence, bpdq_error *error) {
  BPDQ_TRY(
      bpdq_vulkan_result(context, context->vk.WaitForFences(context->device, 1, &fence, VK_TRUE, WAIT_NANOSECONDS), "computing", error));
  return bpdq_vulkan_result(context, context->vk.ResetFences(context->device, 1, &fence), "resetting a fence", error);
}
