/* Which backends are built in, and which device a model gets at startup. */
#ifndef BPDQ_BACKEND_REGISTRY_H
#define BPDQ_BACKEND_REGISTRY_H

#include "backend/backend.h"

/* The built-in backends, best first; *count is their number. */
const bpdq_backend_registration *const *bpdq_backend_registrations(size_t *count);

/* Creates the backend named by `name`, else by BPDQ_BACKEND, else the best device: CUDA if a usable device has `memory_needed` free,
 * else the best Vulkan device (discrete > integrated > virtual; a CPU device only when asked for), else the CPU. One that does not start
 * (BPDQ_ERROR_DEVICE) is passed over. options->device >= 0 or BPDQ_DEVICE picks the device: no other of that backend counts, and it must
 * start. `choice` (size bytes) gets one line: what was chosen and why. */
bpdq_status bpdq_backend_choose(const char *name, uint64_t memory_needed, const bpdq_backend_options *options, bpdq_backend **backend,
                                char *choice, size_t size, bpdq_error *error);

/* The same among other backends than the built-in ones, best first; the CPU's comes last. */
typedef struct bpdq_backend_list {
  const bpdq_backend_registration *const *backends;
  size_t count;
} bpdq_backend_list;

bpdq_status bpdq_backend_choose_from(const bpdq_backend_list *list, const char *name, uint64_t memory_needed,
                                     const bpdq_backend_options *options, bpdq_backend **backend, char *choice, size_t size,
                                     bpdq_error *error);

#endif
