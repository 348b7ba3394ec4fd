#include "backend/vulkan/cache_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *bpdq_vulkan_cache_path(const vulkan_context *context, const char *folder, const uint8_t uuid[VK_UUID_SIZE], const char *extension) {
  char name[128];
  size_t used = (size_t)snprintf(name, sizeof name, "vulkan-");
  for (uint32_t i = 0; i < VK_UUID_SIZE; i++) used += (size_t)snprintf(name + used, sizeof name - used, "%02x", uuid[i]);
  snprintf(name + used, sizeof name - used, "-%08x%08x%08x.%s", context->properties.vendorID, context->properties.deviceID,
           context->properties.driverVersion, extension);
  return bpdq_path_join(folder, name);
}

static bpdq_status write_file(const char *path, const void *data, size_t size, bpdq_error *error) {
  const char *slash = strrchr(path, '/');
  size_t length = slash ? (size_t)(slash - path) : 0;
  char *folder = malloc(length + 1);
  if (!folder) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  memcpy(folder, path, length);
  folder[length] = 0;
  bpdq_output_file *file = NULL;
  bpdq_status status = length ? bpdq_make_folder(folder, error) : BPDQ_OK;
  free(folder);
  BPDQ_TRY(status);
  BPDQ_TRY(bpdq_output_open(path, &file, error));
  status = bpdq_output_write(file, data, size, error);
  if (status == BPDQ_OK) return bpdq_output_commit(file, error);
  bpdq_output_discard(file);
  return status;
}

void bpdq_vulkan_cache_write(const vulkan_context *context, const char *path, const char *what, const void *data, size_t size) {
  bpdq_error error = {0};
  if (write_file(path, data, size, &error) != BPDQ_OK)
    bpdq_log_warning(&context->log, "vulkan: %s was not written: %s", what, error.message);
}
