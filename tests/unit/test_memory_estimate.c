/* What is said of a model's memory before a device is chosen, against what devices took. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shape.h"

static double gibibytes(uint64_t bytes) { return (double)bytes / 0x1p30; }

static bpdq_memory_estimate estimate(const bpdq_inspection *shape, int64_t context, bpdq_kv_type kv, bpdq_activations activations) {
  return bpdq_estimate_memory(shape, &(bpdq_session_options){.context = context, .kv_type = kv, .sequences = 1}, activations);
}

/* On an H200 the peaks were 22.06 GiB (CUDA) and 21.98 GiB (Vulkan). */
static void of_72b(void **unused) {
  (void)unused;
  bpdq_inspection *shape = inspection_of_shape("qwen2.5-72b", 2, 256);
  bpdq_memory_estimate usual = estimate(shape, 8192, BPDQ_KV_F16, BPDQ_ACTIVATIONS_DEFAULT);
  assert_true(gibibytes(usual.total) > 22.06 && gibibytes(usual.total) < 22.69);
  assert_true(gibibytes(usual.cache) == 2.5);
  assert_int_equal(usual.total, usual.weights + usual.cache + usual.work);
  assert_true(estimate(shape, 8192, BPDQ_KV_F16, BPDQ_ACTIVATIONS_8).total == usual.total);
  bpdq_memory_estimate q8 = estimate(shape, 8192, BPDQ_KV_Q8, BPDQ_ACTIVATIONS_DEFAULT);
  assert_int_equal(q8.weights, usual.weights);
  assert_true(q8.cache > usual.cache / 2 && q8.cache < usual.cache * 0.65); /* pages count */
  /* The head keeps its 16 bits. */
  double more = gibibytes(estimate(shape, 8192, BPDQ_KV_F16, BPDQ_ACTIVATIONS_F32).total - usual.total);
  assert_true(more > 1.0 && more < 1.3);
  /* With the context of a session that asks for none, a card of 24 GiB holds it. */
  bpdq_memory_estimate alone = bpdq_estimate_memory(shape, NULL, BPDQ_ACTIVATIONS_DEFAULT);
  assert_int_equal(alone.context, 4096);
  assert_true(gibibytes(alone.total) > 20 && gibibytes(alone.total) < 21.3);
  bpdq_inspection_free(shape);
}

/* A head that is the embedding too is on the device once; a small one stays as it is. */
static void of_small_models(void **unused) {
  (void)unused;
  bpdq_inspection *shape = inspection_of_shape("qwen2.5-0.5b", 2, 64);
  uint64_t head = 151936ull * 896;
  bpdq_memory_estimate usual = estimate(shape, 1024, BPDQ_KV_F16, BPDQ_ACTIVATIONS_DEFAULT);
  bpdq_memory_estimate exact = estimate(shape, 1024, BPDQ_KV_F16, BPDQ_ACTIVATIONS_F32);
  assert_true(exact.weights - usual.weights > head / 2 && exact.weights - usual.weights < head);
  shape->linears[shape->linear_count - 1].rows = 1000;
  assert_int_equal(estimate(shape, 1024, BPDQ_KV_F16, BPDQ_ACTIVATIONS_DEFAULT).weights,
                   estimate(shape, 1024, BPDQ_KV_F16, BPDQ_ACTIVATIONS_F32).weights);
  bpdq_inspection_free(shape);
}

/* Sizes that no machine has are large, and do not wrap around. */
static void of_impossible_models(void **unused) {
  (void)unused;
  bpdq_inspection *shape = inspection_of_shape("qwen2.5-72b", 2, 256);
  shape->kv_heads = 4096;
  shape->head_dim = (int64_t)1 << 20;
  bpdq_memory_estimate huge = estimate(shape, INT32_MAX, BPDQ_KV_F16, BPDQ_ACTIVATIONS_DEFAULT);
  assert_true(huge.total >= (uint64_t)1 << 48 && huge.total <= (uint64_t)1 << 62);
  bpdq_inspection_free(shape);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(of_72b),
      cmocka_unit_test(of_small_models),
      cmocka_unit_test(of_impossible_models),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
