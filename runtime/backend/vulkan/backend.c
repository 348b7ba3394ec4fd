/* The backend's function table and its registration. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/vulkan/vulkan.h"

static bpdq_vulkan *of(bpdq_backend *backend) { return (bpdq_vulkan *)(void *)backend; }

static void destroy(bpdq_backend *backend) {
  if (!backend) return;
  bpdq_vulkan *vulkan = of(backend);
  if (vulkan->context.device) {
    bpdq_vulkan_uploader_destroy(&vulkan->uploader);
    if (vulkan->context.owns_device) vulkan->context.vk.DeviceWaitIdle(vulkan->context.device);
    bpdq_vulkan_tuning_destroy(&vulkan->tuning);
    bpdq_vulkan_pipelines_destroy(&vulkan->pipelines);
    if (vulkan->memory.context) bpdq_vulkan_memory_destroy(&vulkan->memory);
    bpdq_vulkan_context_destroy(&vulkan->context);
  }
  free(vulkan);
}

/* ---- weights ---- */

static bpdq_status weight_create(bpdq_backend *backend, const bpdq_weight_desc *desc, bpdq_weight **weight, bpdq_error *error) {
  bpdq_vulkan *vulkan = of(backend);
  return bpdq_vulkan_validation_status(&vulkan->context, bpdq_vulkan_weight_create(&vulkan->uploader, desc, weight, error), error);
}

static bpdq_status weight_random(bpdq_backend *backend, const bpdq_weight_desc *desc, uint64_t seed, bpdq_weight **weight,
                                 bpdq_error *error) {
  bpdq_vulkan *vulkan = of(backend);
  return bpdq_vulkan_validation_status(&vulkan->context, bpdq_vulkan_weight_random(&vulkan->uploader, desc, seed, weight, error), error);
}

static void weight_destroy(bpdq_backend *backend, bpdq_weight *weight) { bpdq_vulkan_weight_destroy(&of(backend)->uploader, weight); }

static bpdq_status weights_flush(bpdq_backend *backend, bpdq_error *error) {
  bpdq_vulkan *vulkan = of(backend);
  return bpdq_vulkan_validation_status(&vulkan->context, bpdq_vulkan_upload_flush(&vulkan->uploader, error), error);
}

static uint64_t weight_bytes(const bpdq_weight *weight) { return weight->bytes; }

/* ---- states and executables ---- */

static bpdq_status state_create(bpdq_backend *backend, const bpdq_tensor_desc *tensors, size_t count, bpdq_state **state,
                                bpdq_error *error) {
  bpdq_vulkan *vulkan = of(backend);
  return bpdq_vulkan_validation_status(&vulkan->context, bpdq_vulkan_state_create(vulkan, tensors, count, state, error), error);
}

static void state_destroy(bpdq_backend *backend, bpdq_state *state) { bpdq_vulkan_state_destroy(of(backend), state); }

static bpdq_status tensor_write(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, const void *data, bpdq_error *error) {
  return bpdq_vulkan_validation_status(&state->vulkan->context, bpdq_vulkan_tensor_write(state, tensor, first, count, data, error), error);
}

static bpdq_status tensor_read(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, void *data, bpdq_error *error) {
  return bpdq_vulkan_validation_status(&state->vulkan->context, bpdq_vulkan_tensor_read(state, tensor, first, count, data, error), error);
}

static bpdq_status compile(bpdq_backend *backend, bpdq_state *state, const bpdq_program *program, bpdq_executable **executable,
                           bpdq_error *error) {
  bpdq_vulkan *vulkan = of(backend);
  return bpdq_vulkan_validation_status(&vulkan->context, bpdq_vulkan_compile(vulkan, state, program, executable, error), error);
}

static void executable_destroy(bpdq_backend *backend, bpdq_executable *executable) {
  bpdq_vulkan_executable_destroy(of(backend), executable);
}

static bpdq_status run(bpdq_executable *executable, const bpdq_run *scalars, bpdq_error *error) {
  bpdq_vulkan *vulkan = bpdq_vulkan_of_executable(executable);
  return bpdq_vulkan_validation_status(&vulkan->context, bpdq_vulkan_run(executable, scalars, error), error);
}

static void memory(bpdq_backend *backend, uint64_t *current, uint64_t *peak) {
  bpdq_vulkan *vulkan = of(backend);
  bpdq_mutex_lock(vulkan->memory.mutex);
  *current = vulkan->memory.current;
  *peak = vulkan->memory.peak;
  bpdq_mutex_unlock(vulkan->memory.mutex);
}

static bpdq_status measure_bandwidth(bpdq_backend *backend, double *bytes_per_second, bpdq_error *error) {
  bpdq_vulkan *vulkan = of(backend);
  return bpdq_vulkan_validation_status(&vulkan->context, bpdq_vulkan_measure_bandwidth(vulkan, bytes_per_second, error), error);
}

/* ---- registration ---- */

static bpdq_status start(bpdq_vulkan *vulkan, const bpdq_backend_options *options, bpdq_error *error) {
  BPDQ_TRY(bpdq_vulkan_context_create(&vulkan->context, options, &vulkan->backend.info, error));
  BPDQ_TRY(bpdq_vulkan_memory_create(&vulkan->memory, &vulkan->context, options->memory_cap, error));
  BPDQ_TRY(bpdq_vulkan_pipelines_create(&vulkan->pipelines, &vulkan->context, options->cache_folder, error));
  bpdq_vulkan_uploader_create(&vulkan->uploader, &vulkan->context, &vulkan->memory, &vulkan->pipelines);
  BPDQ_TRY(bpdq_vulkan_tuning_create(&vulkan->tuning, &vulkan->context, options->cache_folder, error));
  BPDQ_TRY(bpdq_vulkan_probe(vulkan, error));
  bpdq_device_info *info = &vulkan->backend.info;
  bpdq_vulkan_describe_features(&vulkan->context.features, info->features, sizeof info->features);
  vulkan->backend.prefill_tokens = vulkan->context.is_cpu ? 128 : 512;
  vulkan->backend.batch_tokens = 8;
  vulkan->backend.default_activations = BPDQ_ACTIVATIONS_8;
  return bpdq_vulkan_validation_status(&vulkan->context, BPDQ_OK, error);
}

static bpdq_status create(const bpdq_backend_options *options, bpdq_backend **backend, bpdq_error *error) {
  *backend = NULL;
  bpdq_vulkan *vulkan = calloc(1, sizeof *vulkan);
  if (!vulkan) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  vulkan->backend = (bpdq_backend){.destroy = destroy,
                                   .weight_create = weight_create,
                                   .weight_destroy = weight_destroy,
                                   .weights_flush = weights_flush,
                                   .weight_bytes = weight_bytes,
                                   .weight_random = weight_random,
                                   .state_create = state_create,
                                   .state_destroy = state_destroy,
                                   .tensor_write = tensor_write,
                                   .tensor_read = tensor_read,
                                   .compile = compile,
                                   .executable_destroy = executable_destroy,
                                   .run = run,
                                   .memory = memory,
                                   .measure_bandwidth = measure_bandwidth};
  bpdq_status status = start(vulkan, options, error);
  if (status == BPDQ_OK)
    *backend = &vulkan->backend;
  else
    destroy(&vulkan->backend);
  return status;
}

const bpdq_backend_registration bpdq_vulkan_registration = {"vulkan", bpdq_vulkan_list, create};
