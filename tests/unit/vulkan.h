/* What the tests of the Vulkan backend share. Include after cmocka.h. */
#ifndef BPDQ_TEST_VULKAN_H
#define BPDQ_TEST_VULKAN_H

#include "backend/registry.h"

static inline void check(bpdq_status status, const bpdq_error *error) {
  if (status != BPDQ_OK) fail_msg("status %d: %s", (int)status, error->message);
}

/* In -1..1, from a generator of its own so that values are the same everywhere. */
static inline float uniform(uint32_t *seed) {
  *seed = *seed * 1664525u + 1013904223u;
  return (float)(*seed >> 8) / (float)(1 << 23) - 1;
}

static inline bpdq_backend *first_vulkan_device(void) {
  bpdq_error error = {0};
  bpdq_backend_options options = {.device = -1};
  bpdq_backend *backend = NULL;
  check(bpdq_vulkan_registration.create(&options, &backend, &error), &error);
  return backend;
}

#endif
