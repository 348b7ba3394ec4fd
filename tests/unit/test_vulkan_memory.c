/* What a model takes of a device's memory: as estimated before, and no more for having measured the device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "backend/vulkan/vulkan.h"
#include "model/session.h"
#include "shape.h"
#include "vulkan.h"

#define MIB ((uint64_t)1 << 20)

enum { CONTEXT = 1024 };

static bpdq_model *random_model(void) {
  bpdq_error error = {0};
  bpdq_model_options options = bpdq_model_default_options();
  options.backend = "vulkan";
  bpdq_model *model;
  check(bpdq_model_random("qwen2.5-0.5b", 2, 64, &options, &model, &error), &error);
  return model;
}

static void a_model_takes_what_was_estimated(void **unused) {
  (void)unused;
  bpdq_error error = {0};
  bpdq_inspection *shape = inspection_of_shape("qwen2.5-0.5b", 2, 64);
  bpdq_model *model = random_model();
  for (bpdq_kv_type kv = BPDQ_KV_F16; kv <= BPDQ_KV_Q8; kv++) {
    bpdq_session_options options = {.context = CONTEXT, .kv_type = kv, .sequences = 1};
    bpdq_memory_estimate estimate = bpdq_estimate_memory(shape, &options, BPDQ_ACTIVATIONS_DEFAULT);
    uint64_t weights, all, peak;
    bpdq_session *session;
    bpdq_model_memory(model, &weights, &peak);
    check(bpdq_session_create(model, &options, &session, &error), &error);
    bpdq_model_memory(model, &all, &peak);
    bpdq_session_free(session);
    assert_true(all <= estimate.total);
    assert_true((double)weights > 0.7 * (double)estimate.weights);
    assert_true(all - weights >= estimate.cache);
  }
  bpdq_model_free(model);
  bpdq_inspection_free(shape);
}

/* However small the others are: attention reads the rope table in every layer, and would do so through the bus. */
static void only_results_live_with_the_host(void **unused) {
  (void)unused;
  bpdq_error error = {0};
  bpdq_model *model = random_model();
  bpdq_session *session;
  check(bpdq_session_create(model, &(bpdq_session_options){.context = 16, .sequences = 1}, &session, &error), &error);
  for (int i = 0; i < TENSOR_FIRST_CACHE; i++) {
    bool result = i == TENSOR_BEST_VALUE || i == TENSOR_BEST_ID || i == TENSOR_VALUES || i == TENSOR_IDS;
    assert_int_equal(session->state->tensors[i].buffer.block_kind == VULKAN_MEMORY_READBACK, result);
  }
  bpdq_session_free(session);
  bpdq_model_free(model);
}

/* Without a cap, and with one that leaves less than the measurement would like. */
static void a_measurement_leaves_no_peak(void **unused) {
  (void)unused;
  bpdq_error error = {0};
  for (uint64_t cap = 0; cap <= 80 * MIB; cap += 80 * MIB) {
    bpdq_backend_options options = {.device = -1, .memory_cap = cap};
    bpdq_backend *backend;
    bpdq_weight *weight;
    check(bpdq_vulkan_registration.create(&options, &backend, &error), &error);
    check(bpdq_random_matrix(backend, "weight", 1024, 1024, 2, 64, 5, &weight, &error), &error);
    check(backend->weights_flush(backend, &error), &error);
    uint64_t before[2], after[2];
    double bandwidth = 0;
    backend->memory(backend, &before[0], &before[1]);
    assert_true(before[1] >= before[0] && before[0] > 0);
    check(backend->measure_bandwidth(backend, &bandwidth, &error), &error);
    assert_true(bandwidth > 0);
    backend->memory(backend, &after[0], &after[1]);
    assert_int_equal(after[0], before[0]);
    assert_int_equal(after[1], before[1]);
    backend->weight_destroy(backend, weight);
    backend->destroy(backend);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_model_takes_what_was_estimated),
      cmocka_unit_test(only_results_live_with_the_host),
      cmocka_unit_test(a_measurement_leaves_no_peak),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
