/* A program that owns a Vulkan device hands it to the runtime: results are right, the queue is locked around every use, only enabled
 * features are used, and the device survives. Needs a Vulkan loader and any device (Mesa's lavapipe will do). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vulkan_host.h"

/* y = W x for a dense [3, 5] matrix. */
static void check_product(bpdq_backend *backend) {
  static const float w[15] = {1, 2, 3, 4, 5, -1, 0, 1, 0, -1, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f}, x[5] = {1, -1, 2, 3, 0.25f};
  static const float expected[3] = {18.25f, 0.75f, 2.625f};
  bpdq_weight_part part = {3, w, BPDQ_F32, NULL, BPDQ_F32};
  bpdq_weight_desc desc = {BPDQ_WEIGHT_DENSE, "w", 5, 0, 0, &part, 1, true, false};
  bpdq_tensor_desc tensors[2] = {{.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = 5}, {.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = 3}};
  bpdq_error error = {0};
  bpdq_weight *weight = NULL;
  bpdq_state *state = NULL;
  bpdq_executable *executable = NULL;
  assert_int_equal(backend->weight_create(backend, &desc, &weight, &error), BPDQ_OK);
  assert_int_equal(backend->weights_flush(backend, &error), BPDQ_OK);
  assert_int_equal(backend->state_create(backend, tensors, 2, &state, &error), BPDQ_OK);
  bpdq_op op = {.kind = BPDQ_OP_LINEAR, .name = "product"};
  op.linear = (bpdq_op_linear){.input = 0, .output = 1, .weight = weight};
  bpdq_program program = {&op, 1, 1, BPDQ_ACTIVATIONS_F32};
  assert_int_equal(backend->compile(backend, state, &program, &executable, &error), BPDQ_OK);
  assert_int_equal(backend->tensor_write(state, 0, 0, 5, x, &error), BPDQ_OK);
  int32_t zero = 0;
  bpdq_run run = {1, &zero, &zero};
  assert_int_equal(backend->run(executable, &run, &error), BPDQ_OK);
  float y[3];
  assert_int_equal(backend->tensor_read(state, 1, 0, 3, y, &error), BPDQ_OK);
  for (int i = 0; i < 3; i++) assert_true(fabsf(y[i] - expected[i]) < 1e-5f);
  backend->executable_destroy(backend, executable);
  backend->state_destroy(backend, state);
  backend->weight_destroy(backend, weight);
}

static void runs_on_an_imported_device(void **unused) {
  (void)unused;
  host h;
  bpdq_error error = {0};
  start_host(&h, NULL);
  bpdq_vulkan_import import = import_of(&h, NULL);
  bpdq_backend_options options = {.device = -1, .vulkan = &import};
  for (int round = 0; round < 2; round++) { /* a second model on the same device works as the first did */
    bpdq_backend *backend = NULL;
    int before = h.locks;
    assert_int_equal(bpdq_vulkan_registration.create(&options, &backend, &error), BPDQ_OK);
    assert_null(strstr(backend->info.features, "integer-dot")); /* the host did not enable it */
    check_product(backend);
    backend->destroy(backend);
    assert_int_equal(h.depth, 0);
    assert_true(h.locks > before);
  }
  stop_host(&h);
}

static void uses_what_the_host_enabled(void **unused) {
  (void)unused;
  host h;
  bpdq_error error = {0};
  start_host(&h, NULL);
  VkPhysicalDeviceProperties properties;
  h.functions.GetPhysicalDeviceProperties(h.physical, &properties);
  VkPhysicalDeviceVulkan13Features offered = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES};
  VkPhysicalDeviceFeatures2 query = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &offered};
  if (properties.apiVersion >= VK_API_VERSION_1_3) h.functions.GetPhysicalDeviceFeatures2(h.physical, &query);
  stop_host(&h);
  if (!offered.shaderIntegerDotProduct) skip();

  VkPhysicalDeviceVulkan13Features enabled = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES,
                                              .shaderIntegerDotProduct = VK_TRUE};
  start_host(&h, &enabled);
  bpdq_vulkan_import import = import_of(&h, &enabled);
  bpdq_backend_options options = {.device = -1, .vulkan = &import};
  bpdq_backend *backend = NULL;
  assert_int_equal(bpdq_vulkan_registration.create(&options, &backend, &error), BPDQ_OK);
  assert_non_null(strstr(backend->info.features, "integer-dot"));
  check_product(backend);
  backend->destroy(backend);
  stop_host(&h);
}

static void refuses_broken_imports(void **unused) {
  (void)unused;
  host h;
  start_host(&h, NULL);
  for (int broken = 0; broken < 5; broken++) {
    bpdq_vulkan_import import = import_of(&h, NULL);
    if (broken == 0) import.device = NULL;
    if (broken == 1) import.queue = NULL;
    if (broken == 2) import.extension_count = 1;
    if (broken == 3) import.unlock_queue = NULL;
    if (broken == 4) import.api_version = VK_API_VERSION_1_1;
    bpdq_backend_options options = {.device = -1, .vulkan = &import};
    bpdq_backend *backend = NULL;
    bpdq_error error = {0};
    assert_int_equal(bpdq_vulkan_registration.create(&options, &backend, &error), broken == 4 ? BPDQ_ERROR_DEVICE : BPDQ_ERROR_ARGUMENT);
    assert_null(backend);
    assert_non_null(strstr(error.message, "bpdq_vulkan_import"));
  }
  stop_host(&h);
}

static void caps_memory(void **unused) {
  (void)unused;
  bpdq_error error = {0};
  bpdq_backend_options options = {.device = -1, .memory_cap = (uint64_t)16 << 20};
  bpdq_backend *backend = NULL;
  assert_int_equal(bpdq_vulkan_registration.create(&options, &backend, &error), BPDQ_OK);
  bpdq_tensor_desc large = {.kind = BPDQ_TENSOR_F32, .rows = 4096, .columns = 2048};
  bpdq_tensor_desc small = {.kind = BPDQ_TENSOR_F32, .rows = 64, .columns = 2048};
  bpdq_state *state = NULL;
  assert_int_equal(backend->state_create(backend, &large, 1, &state, &error), BPDQ_ERROR_MEMORY);
  assert_null(state);
  assert_non_null(strstr(error.message, "--memory-cap"));
  assert_int_equal(backend->state_create(backend, &small, 1, &state, &error), BPDQ_OK);
  uint64_t current, peak;
  backend->memory(backend, &current, &peak);
  assert_true(current >= (uint64_t)64 * 2048 * 4 && current <= options.memory_cap && peak <= options.memory_cap);
  backend->state_destroy(backend, state);
  backend->memory(backend, &current, &peak);
  assert_int_equal(current, 0);
  backend->destroy(backend);
}

static void refuses_a_device_that_is_not_there(void **unused) {
  (void)unused;
  bpdq_error error = {0};
  bpdq_backend_options options = {.device = 1000};
  bpdq_backend *backend = NULL;
  assert_int_equal(bpdq_vulkan_registration.create(&options, &backend, &error), BPDQ_ERROR_DEVICE);
  assert_non_null(strstr(error.message, "1000"));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(runs_on_an_imported_device), cmocka_unit_test(uses_what_the_host_enabled),
                                     cmocka_unit_test(refuses_broken_imports), cmocka_unit_test(caps_memory),
                                     cmocka_unit_test(refuses_a_device_that_is_not_there)};
  return cmocka_run_group_tests_name("vulkan import", tests, NULL, NULL);
}
