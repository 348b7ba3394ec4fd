/* Several algebras as one against one alone: the same bits where the statistics are the same, the same layer to within rounding where the
 * tokens are shared, and failures of single parts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>
#include <math.h>

#include "layers.h"
#include "quantizer/multi/multi.h"

static const char *const SEVERAL[] = {"cpu+cpu", "cpu+cpu+cpu"};
enum { SEVERAL_COUNT = sizeof SEVERAL / sizeof *SEVERAL };

static float *new_values(const layer *l) {
  float *values = malloc((size_t)(l->rows * l->columns) * sizeof *values);
  assert_non_null(values);
  return values;
}

static void assert_near(double value, double expected, double tolerance) {
  if (!(fabs(value - expected) <= tolerance * fabs(expected))) fail_msg("%.17g is not %.17g", value, expected);
}

/* The objectives are sums over rows in another order. */
static void assert_same_report(const bpdq_layer_report *several, const bpdq_layer_report *one) {
  assert_near(several->objective, one->objective, 1e-12);
  assert_near(several->objective_target, one->objective_target, 1e-12);
  assert_near(several->objective_zero, one->objective_zero, 1e-12);
  assert_near(several->objective_rtn, one->objective_rtn, 1e-12);
  assert_true(several->damping == one->damping);
  assert_int_equal(several->dead_columns, one->dead_columns);
  assert_int_equal(several->rows, one->rows);
  assert_int_equal(several->columns, one->columns);
}

static void assert_same_layer(const layer *l, const bpdq_quantize_options *options) {
  float *expected = new_values(l), *values = new_values(l);
  bpdq_layer_report one = quantize("cpu", l, options, expected);
  for (int i = 0; i < SEVERAL_COUNT; i++) {
    bpdq_layer_report several = quantize(SEVERAL[i], l, options, values);
    assert_same_report(&several, &one);
    assert_memory_equal(values, expected, (size_t)(l->rows * l->columns) * sizeof *values);
  }
  free(expected);
  free(values);
}

static void vectors_have_the_same_bits(void **unused) {
  (void)unused;
  for (size_t i = 0; i < sizeof VECTORS / sizeof *VECTORS; i++) {
    layer l = read_vector(&VECTORS[i]);
    bpdq_quantize_options options = bpdq_quantize_default_options();
    options.planes = VECTORS[i].planes;
    options.group = VECTORS[i].group;
    for (int method = BPDQ_METHOD_BPDQ; method <= BPDQ_METHOD_RTN; method++) {
      options.method = (bpdq_quantize_method)method;
      assert_same_layer(&l, &options);
    }
    free_layer(&l);
  }
}

/* Rows that do not divide evenly, with targets whose R is shared by rows, with every kind of walk. */
static void made_layers_have_the_same_bits(void **unused) {
  (void)unused;
  static const int64_t ROWS[] = {1, 65, 200, 321};
  for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
    layer l = make_layer(ROWS[i], 96, 5, true);
    bpdq_quantize_options options = bpdq_quantize_default_options();
    options.group = 64;
    options.compare_gptq = true;
    assert_same_layer(&l, &options);
    options.recipe.restarts = 2;
    assert_same_layer(&l, &options);
    options.recipe.best_per_row = false;
    assert_same_layer(&l, &options);
    join_targets(&l);
    options = bpdq_quantize_default_options();
    assert_same_layer(&l, &options);
    free_layer(&l);
  }
}

/* Merged statistics read as those of one algebra. */
static void statistics_are_merged(void **unused) {
  (void)unused;
  enum { ROWS = 3, COLUMNS = 50, TOKENS = 31 };
  float *x = make_tokens(TOKENS, COLUMNS, 5, 1), *dense = make_tokens(TOKENS, COLUMNS, 5, 2), *residual = make_tokens(TOKENS, ROWS, -1, 3);
  static float hessian[2][COLUMNS * COLUMNS], cross[2][COLUMNS * COLUMNS], rest[2][ROWS * COLUMNS];
  for (int several = 0; several < 2; several++) {
    bpdq_algebra *algebra = make(several ? "cpu+cpu+cpu" : "cpu");
    bpdq_statistics_desc desc = {.name = "test", .columns = COLUMNS, .cross = true, .residual_rows = ROWS};
    bpdq_statistics *statistics;
    CHECK(algebra->statistics_create(algebra, &desc, &statistics, error));
    CHECK(algebra->statistics_add(algebra, statistics, x, dense, residual, TOKENS - 1, error));
    CHECK(algebra->statistics_add(algebra, statistics, x + (TOKENS - 1) * COLUMNS, dense + (TOKENS - 1) * COLUMNS,
                                  residual + (TOKENS - 1) * ROWS, 1, error)); /* a part's share is empty */
    CHECK(algebra->statistics_finish(algebra, statistics, error));
    CHECK(algebra->statistics_read(algebra, statistics, hessian[several], cross[several], rest[several], error));
    algebra->statistics_destroy(algebra, statistics);
    algebra->destroy(algebra);
  }
  for (int i = 0; i < COLUMNS * COLUMNS; i++) {
    assert_float_equal(hessian[1][i], hessian[0][i], 1e-5f * fabsf(hessian[0][i]) + 1e-5f);
    assert_float_equal(cross[1][i], cross[0][i], 1e-5f * fabsf(cross[0][i]) + 1e-5f);
  }
  for (int i = 0; i < ROWS * COLUMNS; i++) assert_float_equal(rest[1][i], rest[0][i], 1e-5f * fabsf(rest[0][i]) + 1e-5f);
  free(x);
  free(dense);
  free(residual);
}

/* Each part sums a share of the tokens in float32 and float64: H differs by about 1e-7, and descent meets a few ties differently. */
static void tokens_are_shared(void **unused) {
  (void)unused;
  enum { ROWS = 150, COLUMNS = 96, TOKENS = 300 };
  layer l = make_layer(ROWS, COLUMNS, 5, true);
  float *x = make_tokens(TOKENS, COLUMNS, 5, 1), *residual = make_tokens(TOKENS, ROWS, -1, 3);
  bpdq_quantize_options options = bpdq_quantize_default_options();
  for (int whole = 0; whole < 2; whole++) {
    if (whole) {
      join_targets(&l);
      add_outputs(&l, x, TOKENS, residual);
    }
    bpdq_layer_report one = quantize_tokens("cpu", &l, x, x, residual, TOKENS, &options, NULL);
    for (int i = 0; i < SEVERAL_COUNT; i++) {
      float *first = new_values(&l), *again = new_values(&l);
      bpdq_layer_report several = quantize_tokens(SEVERAL[i], &l, x, x, residual, TOKENS, &options, first);
      assert_near(several.objective_zero, one.objective_zero, 1e-6);
      assert_near(several.objective_rtn, one.objective_rtn, 1e-6);
      assert_near(several.objective_target, one.objective_target, 0.02);
      assert_int_equal(several.dead_columns, 1);
      quantize_tokens(SEVERAL[i], &l, x, x, residual, TOKENS, &options, again);
      assert_memory_equal(first, again, ROWS * COLUMNS * sizeof *first); /* the same shares in the same order every time */
      free(first);
      free(again);
    }
  }
  free(x);
  free(residual);
  free_layer(&l);
}

static void names_are_checked(void **unused) {
  (void)unused;
  static const char *const KNOWN[] = {"cpu", "cuda", "cuda:0", "cuda:1023", "cpu+cpu", "cuda+cuda:1", "cuda:0+cuda:1+cuda:2"};
  static const char *const UNKNOWN[] = {"",
                                        "+",
                                        "cpu+",
                                        "+cpu",
                                        "cpu++cpu",
                                        "cpu+cuda",
                                        "cuda:0+cpu",
                                        "cuda:",
                                        "cuda:-1",
                                        "cuda:1024",
                                        "cuda:0x1",
                                        "cuda:0+",
                                        "cpu cpu",
                                        "cpux",
                                        "gpu",
                                        "CPU",
                                        "cuda0",
                                        "cuda:0,1",
                                        "cuda:99999999999999999999"};
  for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++) assert_true(bpdq_quantize_algebra_known(KNOWN[i]));
  for (size_t i = 0; i < sizeof UNKNOWN / sizeof *UNKNOWN; i++) {
    bpdq_algebra *algebra;
    bpdq_error error = {0};
    assert_false(bpdq_quantize_algebra_known(UNKNOWN[i]));
    assert_int_equal(bpdq_algebra_create(UNKNOWN[i], 0, &algebra, &error), BPDQ_ERROR_ARGUMENT);
    assert_null(algebra);
  }
  char many[17 * 4] = "cpu";
  for (int i = 1; i < 16; i++) strcat(many, "+cpu");
  assert_true(bpdq_quantize_algebra_known(many));
  strcat(many, "+cpu");
  assert_false(bpdq_quantize_algebra_known(many));
}

/* ---- failures ---- */

/* One token of one part is not a number. */
static void bad_tokens_name_the_layer(void **unused) {
  (void)unused;
  enum { COLUMNS = 40, TOKENS = 30 };
  for (int part = 0; part < 3; part++) {
    float *x = make_tokens(TOKENS, COLUMNS, -1, 1);
    x[(part * 10 + 4) * COLUMNS + 7] = part == 1 ? INFINITY : NAN;
    bpdq_algebra *algebra = make("cpu+cpu+cpu");
    bpdq_statistics_desc desc = {.name = "layer.name", .columns = COLUMNS};
    bpdq_statistics *statistics;
    bpdq_error failure = {0};
    CHECK(algebra->statistics_create(algebra, &desc, &statistics, error));
    CHECK(algebra->statistics_add(algebra, statistics, x, NULL, NULL, TOKENS, error));
    assert_int_equal(algebra->statistics_finish(algebra, statistics, &failure), BPDQ_ERROR_FORMAT);
    assert_non_null(strstr(failure.message, "layer.name"));
    algebra->statistics_destroy(algebra, statistics);
    algebra->destroy(algebra);
    free(x);
  }
}

/* Too large for any memory; not positive definite; R of too few rows: nothing is left behind. */
static void failed_creations_leave_nothing(void **unused) {
  (void)unused;
  bpdq_algebra *algebra = make("cpu+cpu");
  bpdq_error failure = {0};
  bpdq_statistics *statistics;
  bpdq_statistics_desc huge = {.name = "layer.name", .columns = (int64_t)1 << 40};
  assert_int_equal(algebra->statistics_create(algebra, &huge, &statistics, &failure), BPDQ_ERROR_MEMORY);
  assert_null(statistics);
  const float hessian[4] = {1, 9, 9, 1};
  const float residual[400] = {0};
  bpdq_statistics_desc small = {.name = "layer.name", .columns = 2, .residual_rows = 100};
  CHECK(algebra->statistics_create(algebra, &small, &statistics, error));
  CHECK(algebra->statistics_set(algebra, statistics, hessian, NULL, residual, error));
  CHECK(algebra->statistics_finish(algebra, statistics, error));
  bpdq_inputs_desc inputs_desc = {.group = 32, .damping = 0.05, .target_damping = 0.01, .factor = true};
  bpdq_inputs_info info;
  bpdq_inputs *inputs;
  assert_int_equal(algebra->inputs_create(algebra, statistics, &inputs_desc, &inputs, &info, &failure), BPDQ_ERROR_FORMAT);
  assert_null(inputs);
  assert_non_null(strstr(failure.message, "layer.name"));
  inputs_desc.factor = false;
  CHECK(algebra->inputs_create(algebra, statistics, &inputs_desc, &inputs, &info, error));
  bpdq_work_desc work_desc = {.name = "layer.name", .rows = 200, .planes = 2, .weight = residual, .use_residual = true};
  bpdq_work *work;
  assert_int_not_equal(algebra->work_create(algebra, inputs, &work_desc, &work, &failure), BPDQ_OK);
  assert_null(work);
  algebra->inputs_destroy(algebra, inputs);
  algebra->statistics_destroy(algebra, statistics);
  algebra->destroy(algebra);
}

/* ---- one part of three fails in one operation ---- */

static int sweeps;

static bpdq_status counted_sweep(bpdq_algebra *algebra, bpdq_work *work, int64_t *changed, bpdq_error *error) {
  (void)algebra, (void)work, (void)error;
  *changed = 1;
  __atomic_add_fetch(&sweeps, 1, __ATOMIC_RELAXED);
  return BPDQ_OK;
}

static bpdq_status failing_sweep(bpdq_algebra *algebra, bpdq_work *work, int64_t *changed, bpdq_error *error) {
  *changed = 1000;
  counted_sweep(algebra, work, changed, error);
  return bpdq_fail(error, BPDQ_ERROR_DEVICE, "part %s: the device is lost", algebra->name);
}

static bpdq_status failing_work(bpdq_algebra *algebra, const bpdq_inputs *inputs, const bpdq_work_desc *desc, bpdq_work **work,
                                bpdq_error *error) {
  (void)algebra, (void)inputs;
  *work = NULL;
  return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: rows from %lld do not fit", desc->name, (long long)desc->first_row);
}

static bpdq_status failing_result(bpdq_algebra *algebra, bpdq_work *work, bpdq_layer_result *result, bpdq_error *error) {
  (void)algebra, (void)work, (void)result;
  return bpdq_fail(error, BPDQ_ERROR_DEVICE, "the result is lost");
}

/* 200 rows on three parts that the test can change. */
static void failures_of_one_part(void **unused) {
  (void)unused;
  layer l = make_layer(200, 64, -1, false);
  bpdq_algebra *parts[3], *algebra;
  for (int i = 0; i < 3; i++) parts[i] = make("cpu");
  CHECK(bpdq_multi_algebra_create("three", parts, 3, &algebra, error));
  bpdq_statistics *statistics = make_statistics(algebra, &l);
  CHECK(algebra->statistics_set(algebra, statistics, l.hessian, NULL, NULL, error));
  CHECK(algebra->statistics_finish(algebra, statistics, error));
  bpdq_inputs_desc inputs_desc = {.group = 32, .damping = 0.05, .target_damping = 0.01, .factor = true, .metric = true};
  bpdq_inputs_info info;
  bpdq_inputs *inputs;
  CHECK(algebra->inputs_create(algebra, statistics, &inputs_desc, &inputs, &info, error));
  bpdq_work_desc desc = {.name = "layer.name", .rows = l.rows, .planes = 2, .weight = l.weight};
  bpdq_work *work;
  bpdq_error failure = {0};
  const bpdq_algebra original = *parts[2];
  parts[2]->work_create = failing_work;
  assert_int_equal(algebra->work_create(algebra, inputs, &desc, &work, &failure), BPDQ_ERROR_MEMORY);
  assert_string_equal(failure.message, "layer.name: rows from 128 do not fit");
  assert_null(work);
  parts[2]->work_create = original.work_create;
  CHECK(algebra->work_create(algebra, inputs, &desc, &work, error));
  assert_int_equal(algebra->weights(work), 200 * 64);
  bpdq_walk_options walk = {.starts = BPDQ_START_MSB, .iterations = 2, .alpha = 1e-4, .best_per_row = true};
  CHECK(algebra->walk(algebra, work, &walk, error));

  int64_t changed;
  parts[1]->name = "one";
  parts[2]->name = "two";
  parts[0]->sweep = counted_sweep;
  parts[1]->sweep = parts[2]->sweep = failing_sweep;
  assert_int_equal(algebra->sweep(algebra, work, &changed, &failure), BPDQ_ERROR_DEVICE);
  assert_string_equal(failure.message, "part one: the device is lost");
  assert_int_equal(algebra->sweep(algebra, work, &changed, NULL), BPDQ_ERROR_DEVICE);
  assert_int_equal(sweeps, 6); /* the others finished */
  parts[1]->sweep = parts[2]->sweep = counted_sweep;
  CHECK(algebra->sweep(algebra, work, &changed, error));
  assert_int_equal(changed, 3);
  for (int i = 0; i < 3; i++) parts[i]->sweep = original.sweep;

  bpdq_layer_result result;
  parts[1]->result = failing_result;
  assert_int_equal(algebra->result(algebra, work, &result, &failure), BPDQ_ERROR_DEVICE);
  parts[1]->result = original.result;
  CHECK(algebra->keep_best(algebra, work, error));
  walk.best_per_row = false;
  assert_int_equal(algebra->walk(algebra, work, &walk, &failure), BPDQ_ERROR_INTERNAL); /* would lose what was kept */
  CHECK(algebra->restore_best(algebra, work, error));
  CHECK(algebra->result(algebra, work, &result, error));
  assert_int_equal(result.rows, l.rows);
  bpdq_layer_result_free(&result);
  algebra->work_destroy(algebra, work);
  algebra->inputs_destroy(algebra, inputs);
  algebra->statistics_destroy(algebra, statistics);
  algebra->destroy(algebra);
  free_layer(&l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(vectors_have_the_same_bits),
      cmocka_unit_test(made_layers_have_the_same_bits),
      cmocka_unit_test(statistics_are_merged),
      cmocka_unit_test(tokens_are_shared),
      cmocka_unit_test(names_are_checked),
      cmocka_unit_test(bad_tokens_name_the_layer),
      cmocka_unit_test(failed_creations_leave_nothing),
      cmocka_unit_test(failures_of_one_part),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
