/* The CUDA linear algebra against the CPU's: every method on the reference vectors, a target from dense activations and a residual, layers
 * of odd shapes, and statistics from tokens. Skipped (exit status 77) where there is no CUDA device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>
#include <math.h>

#include "layers.h"

/* Of objectives, in both directions. Descent from sums in another order meets a few ties differently and ends in another local optimum of
 * about the same depth; in made layers of a few thousand weights, and with many planes, one weight counts for more. */
static const double TOLERANCE = 0.01, SMALL_TOLERANCE = 0.05;
/* With many planes the fit of a group is close to singular, so that the rounding of its sums alone leads to other levels. Of eight made
 * layers of 512 rows with eight planes the CPU ends between 0.970 and 1.028 times (on average 0.994) what it ends at when it adds up the
 * same products in the opposite order. */
static const double MANY_LEVELS_TOLERANCE = 0.05;

static void assert_close(double value, double expected, double tolerance, const char *what) {
  if (!(fabs(value - expected) <= tolerance * fabs(expected) + 1e-12)) fail_msg("%s: cuda %.9g, cpu %.9g", what, value, expected);
}

/* Both back ends agree, and each one's report tells the truth about its own result. */
static void compare_on(const char *devices, const char *what, const layer *l, const bpdq_quantize_options *options, double tolerance) {
  float *values = malloc((size_t)(l->rows * l->columns) * sizeof *values);
  assert_non_null(values);
  bpdq_layer_report cpu = quantize("cpu", l, options, NULL), cuda = quantize(devices, l, options, values);
  print_message("%-24s cpu %.6f %s %.6f (ratio %.4f)\n", what, cpu.objective, devices, cuda.objective, cuda.objective / cpu.objective);
  assert_close(cuda.objective, cpu.objective, tolerance, what);
  assert_close(cuda.objective_target, cpu.objective_target, tolerance, what);
  assert_close(cuda.objective_zero, cpu.objective_zero, 1e-5, what);
  assert_close(cuda.objective_rtn, cpu.objective_rtn, 1e-3, what);
  assert_close(cuda.damping, cpu.damping, 1e-9, what);
  assert_int_equal(cuda.dead_columns, cpu.dead_columns);
  assert_close(cuda.objective, objective(l, values), 1e-4, what);
  free(values);
}

static void compare(const char *what, const layer *l, const bpdq_quantize_options *options, double tolerance) {
  compare_on("cuda", what, l, options, tolerance);
}

static void vectors_agree(void **unused) {
  (void)unused;
  for (size_t i = 0; i < sizeof VECTORS / sizeof *VECTORS; i++) {
    char what[64];
    layer l = read_vector(&VECTORS[i]);
    for (int method = BPDQ_METHOD_BPDQ; method <= BPDQ_METHOD_RTN; method++) {
      bpdq_quantize_options options = bpdq_quantize_default_options();
      options.planes = VECTORS[i].planes;
      options.group = VECTORS[i].group;
      options.method = (bpdq_quantize_method)method;
      snprintf(what, sizeof what, "%s %s", VECTORS[i].name, bpdq_quantize_method_name(options.method));
      compare(what, &l, &options, TOLERANCE);
    }
    free_layer(&l);
  }
}

static void odd_layers_agree(void **unused) {
  (void)unused;
  const struct {
    const char *what;
    int64_t rows, columns, dead;
    bool streams;
    int planes, group, restarts;
  } cases[] = {
      {"dense stream, residual", 70, 256, -1, true, 2, 64, 0},
      {"restarts", 33, 128, -1, true, 2, 32, 2},
      {"padding, dead column", 5, 70, 3, false, 2, 64, 0},
      {"one plane", 40, 160, -1, false, 1, 32, 0},
      {"five planes", 511, 96, 9, false, 5, 96, 0},
      {"eight planes", 512, 64, -1, false, 8, 64, 0},
      {"many unknowns", 34, 544, -1, false, 3, 32, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    layer l = make_layer(cases[i].rows, cases[i].columns, cases[i].dead, cases[i].streams);
    bpdq_quantize_options options = bpdq_quantize_default_options();
    options.planes = cases[i].planes;
    options.group = cases[i].group;
    options.recipe.restarts = cases[i].restarts;
    compare(cases[i].what, &l, &options, options.planes > 4 ? MANY_LEVELS_TOLERANCE : SMALL_TOLERANCE);
    if (l.cross) {
      join_targets(&l);
      compare("the same, summed as one", &l, &options, SMALL_TOLERANCE);
    }
    options.method = BPDQ_METHOD_REFERENCE;
    /* With more planes the fit of a group is too close to singular for one iterate of all rows to be the same one twice. */
    if (options.planes <= 3) compare(cases[i].what, &l, &options, SMALL_TOLERANCE);
    free_layer(&l);
  }
}

/* Statistics from tokens agree with the exact ones: their objective of round to nearest does. */
static void tokens_agree(void **unused) {
  (void)unused;
  enum { TOKENS = 300, ROWS = 20, COLUMNS = 100 };
  layer l = make_layer(ROWS, COLUMNS, -1, false);
  float *x = make_tokens(TOKENS, COLUMNS, -1, 1);
  bpdq_quantize_options options = bpdq_quantize_default_options();
  options.method = BPDQ_METHOD_RTN;
  double expected = quantize("cpu", &l, &options, NULL).objective, found;
  bpdq_algebra *algebra = make("cuda");
  bpdq_statistics_desc desc = {"test", COLUMNS, true, 0, false};
  bpdq_statistics *statistics;
  bpdq_inputs *inputs;
  bpdq_inputs_info info;
  bpdq_work *work;
  CHECK(algebra->statistics_create(algebra, &desc, &statistics, error));
  CHECK(algebra->statistics_add(algebra, statistics, x, x, NULL, 100, error));
  CHECK(algebra->statistics_add(algebra, statistics, x + 100 * COLUMNS, x + 100 * COLUMNS, NULL, 200, error));
  CHECK(algebra->statistics_finish(algebra, statistics, error));
  bpdq_inputs_desc inputs_desc = {.group = 64, .damping = 0.05, .target_damping = 0.01, .factor = true, .metric = true};
  CHECK(algebra->inputs_create(algebra, statistics, &inputs_desc, &inputs, &info, error));
  bpdq_work_desc work_desc = {.name = "test", .rows = ROWS, .planes = 2, .weight = l.weight, .use_cross = true};
  CHECK(algebra->work_create(algebra, inputs, &work_desc, &work, error));
  CHECK(algebra->uniform(algebra, work, false, error));
  CHECK(algebra->objective(algebra, work, &found, NULL, NULL, error));
  assert_close(found, expected, 2e-3, "round to nearest with statistics from tokens");
  algebra->work_destroy(algebra, work);
  algebra->inputs_destroy(algebra, inputs);
  algebra->statistics_destroy(algebra, statistics);
  algebra->destroy(algebra);
  free(x);
  free_layer(&l);
}

/* Two devices where there are two, else one twice: the same code but for the way between the devices. */
static const char *several_devices(void) {
  bpdq_algebra *second;
  if (bpdq_algebra_create("cuda:1", 0, &second, NULL) != BPDQ_OK) return "cuda:0+cuda:0";
  second->destroy(second);
  return "cuda:0+cuda:1";
}

/* Layers whose rows are shared, and statistics whose tokens are. */
static void several_devices_agree(void **unused) {
  (void)unused;
  enum { ROWS = 200, COLUMNS = 256, TOKENS = 300 };
  const char *devices = several_devices();
  print_message("sharing the work: %s\n", devices);
  layer vector = read_vector(&VECTORS[0]), made = make_layer(ROWS, COLUMNS, 9, true);
  bpdq_quantize_options options = bpdq_quantize_default_options();
  for (int method = BPDQ_METHOD_BPDQ; method <= BPDQ_METHOD_RTN; method++) {
    options.method = (bpdq_quantize_method)method;
    compare_on(devices, bpdq_quantize_method_name(options.method), &vector, &options, TOLERANCE);
    compare_on(devices, bpdq_quantize_method_name(options.method), &made, &options, SMALL_TOLERANCE);
  }
  options.method = BPDQ_METHOD_BPDQ;
  options.recipe.restarts = 2;
  compare_on(devices, "restarts", &made, &options, SMALL_TOLERANCE);
  options.recipe.restarts = 0;
  float *x = make_tokens(TOKENS, COLUMNS, 9, 1), *residual = make_tokens(TOKENS, ROWS, -1, 3);
  for (int whole = 0; whole < 2; whole++) {
    if (whole) {
      join_targets(&made);
      add_outputs(&made, x, TOKENS, residual);
    }
    bpdq_layer_report one = quantize_tokens("cuda:0", &made, x, x, residual, TOKENS, &options, NULL),
                      two = quantize_tokens(devices, &made, x, x, residual, TOKENS, &options, NULL);
    assert_close(two.objective_rtn, one.objective_rtn, 1e-4, "round to nearest with statistics from shared tokens");
    assert_close(two.objective_target, one.objective_target, SMALL_TOLERANCE, "statistics from shared tokens");
  }
  free(x);
  free(residual);
  free_layer(&made);
  free_layer(&vector);
}

/* The same errors as on the CPU. */
static void bad_inputs_are_refused(void **unused) {
  (void)unused;
  bpdq_algebra *algebra = make("cuda");
  bpdq_error failure = {0};
  float hessian[4] = {1, 0, 0, 1};
  bpdq_statistics_desc desc = {"layer.name", 2, false, 0, false};
  for (int i = 0; i < 2; i++) {
    bpdq_statistics *statistics;
    hessian[3] = i ? -1 : INFINITY;
    CHECK(algebra->statistics_create(algebra, &desc, &statistics, error));
    CHECK(algebra->statistics_set(algebra, statistics, hessian, NULL, NULL, error));
    assert_int_equal(algebra->statistics_finish(algebra, statistics, &failure), BPDQ_ERROR_FORMAT);
    assert_non_null(strstr(failure.message, "layer.name"));
    algebra->statistics_destroy(algebra, statistics);
  }
  algebra->destroy(algebra);
}

int main(void) {
  bpdq_algebra *algebra;
  bpdq_error error = {0};
  bpdq_status status = bpdq_algebra_create("cuda", 0, &algebra, &error);
  if (status == BPDQ_ERROR_DEVICE || status == BPDQ_ERROR_UNSUPPORTED) {
    printf("skipped: %s\n", error.message);
    return 77;
  }
  if (status == BPDQ_OK) algebra->destroy(algebra);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(vectors_agree),         cmocka_unit_test(odd_layers_agree),       cmocka_unit_test(tokens_agree),
      cmocka_unit_test(several_devices_agree), cmocka_unit_test(bad_inputs_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
