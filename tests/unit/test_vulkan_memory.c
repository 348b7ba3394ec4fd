/* What a model takes of a device's memory: as estimated before, and no more for having measured the device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "shape.h"
#include "vulkan.h"

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
    print_message("weights %.1f of %.1f MiB, all %.1f of %.1f MiB\n", (double)weights / 0x1p20, (double)estimate.weights / 0x1p20,
                  (double)all / 0x1p20, (double)estimate.total / 0x1p20);
    assert_true(all <= estimate.total);
    assert_true((double)weights > 0.7 * (double)estimate.weights);
    assert_true(all - weights >= estimate.cache);
  }
  bpdq_model_free(model);
  bpdq_inspection_free(shape);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(a_model_takes_what_was_estimated)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
