#include "backend/vulkan/vulkan.h"

bpdq_status bpdq_vulkan_probe(bpdq_vulkan *vulkan, bpdq_error *error) {
  (void)error;
  if (!bpdq_vulkan_shader("linear_dot8")) vulkan->context.features.integer_dot = false;
  if (!bpdq_vulkan_shader("matrix_planes")) vulkan->context.features.cooperative_matrix = false;
  return BPDQ_OK;
}
