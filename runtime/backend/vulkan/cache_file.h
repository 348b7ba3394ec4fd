/* Files that are kept between runs, one per device and driver version: what one driver wrote is never offered to another. */
#ifndef BPDQ_VULKAN_CACHE_FILE_H
#define BPDQ_VULKAN_CACHE_FILE_H

#include "backend/vulkan/context.h"

/* `folder`/vulkan-UUID-IDS.EXTENSION, malloc'ed; NULL when memory is short. */
char *bpdq_vulkan_cache_path(const vulkan_context *context, const char *folder, const uint8_t uuid[VK_UUID_SIZE], const char *extension);

/* Writes the file and its folder. A cache that cannot be written costs start-up time, nothing else: it is worth a log line that names
 * `what`, not an error. */
void bpdq_vulkan_cache_write(const vulkan_context *context, const char *path, const char *what, const void *data, size_t size);

#endif
