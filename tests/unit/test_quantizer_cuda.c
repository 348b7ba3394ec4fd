/* The CUDA linear algebra against the CPU's: every method on the reference vectors, a target from dense activations and a residual, layers
 * of odd shapes, and statistics from tokens. Skipped (exit status 77) where there is no CUDA device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bpdq_quantizer.h"
#include "core/half.h"
#include "core/platform.h"
#include "format/safetensors.h"
#include "quantizer/method.h"

/* Of objectives, in both directions. Descent from sums in another order meets a few ties differently and ends in another local optimum of
 * about the same depth; in made layers of a few thousand weights, and with many planes, one weight counts for more. */
static const double TOLERANCE = 0.01, SMALL_TOLERANCE = 0.05;

typedef struct layer {
  int64_t rows, columns;
  float *weight, *hessian, *cross, *residual; /* W [N, K], H and C [K, K], R [N, K]; C and R may be NULL */
  bool whole;                                 /* R holds W C + R */
} layer;

static void free_layer(layer *l) {
  free(l->weight);
  free(l->hessian);
  free(l->cross);
  free(l->residual);
}

static bpdq_algebra *make(const char *name) {
  bpdq_algebra *algebra = NULL;
  bpdq_error error = {0};
  if (bpdq_algebra_create(name, 2, &algebra, &error) != BPDQ_OK) fail_msg("%s", error.message);
  return algebra;
}

#define CHECK(call)                                                   \
  do {                                                                \
    bpdq_error error_ = {0}, *error = &error_;                        \
    if ((call) != BPDQ_OK) fail_msg("%s: %s", #call, error_.message); \
  } while (0)

/* Quantizes a layer; returns its report, and the dequantized weights in `values` unless it is NULL. */
static bpdq_layer_report quantize(const char *name, const layer *l, const bpdq_quantize_options *options, float *values) {
  bpdq_algebra *algebra = make(name);
  bpdq_statistics_desc desc = {"test", l->columns, l->cross != NULL, l->residual ? l->rows : 0, l->whole};
  bpdq_statistics *statistics;
  bpdq_inputs *inputs;
  bpdq_inputs_info info;
  bpdq_layer_result result = {0};
  bpdq_layer_report report = {0};
  CHECK(algebra->statistics_create(algebra, &desc, &statistics, error));
  CHECK(algebra->statistics_set(algebra, statistics, l->hessian, l->cross, l->residual, error));
  CHECK(algebra->statistics_finish(algebra, statistics, error));
  bpdq_inputs_desc inputs_desc = bpdq_method_inputs(bpdq_method_of(options->method), options, options->group);
  inputs_desc.factor = true;
  CHECK(algebra->inputs_create(algebra, statistics, &inputs_desc, &inputs, &info, error));
  bpdq_linear_job job = {"test", l->weight, l->rows, options->planes};
  CHECK(bpdq_quantize_linear(algebra, inputs, &info, &job, options, &result, &report, error));
  if (values) bpdq_dequantize_result(&result, values);
  bpdq_layer_result_free(&result);
  algebra->inputs_destroy(algebra, inputs);
  algebra->statistics_destroy(algebra, statistics);
  algebra->destroy(algebra);
  return report;
}

/* tr((W - Q) H (W - Q)^T) in float64. */
static double objective(const layer *l, const float *values) {
  double total = 0;
  for (int64_t row = 0; row < l->rows; row++)
    for (int64_t i = 0; i < l->columns; i++) {
      double sum = 0;
      for (int64_t j = 0; j < l->columns; j++)
        sum += (double)l->hessian[i * l->columns + j] * ((double)l->weight[row * l->columns + j] - (double)values[row * l->columns + j]);
      total += sum * ((double)l->weight[row * l->columns + i] - (double)values[row * l->columns + i]);
    }
  return total;
}

static void assert_close(double value, double expected, double tolerance, const char *what) {
  if (!(fabs(value - expected) <= tolerance * fabs(expected) + 1e-12)) fail_msg("%s: cuda %.9g, cpu %.9g", what, value, expected);
}

/* Both back ends agree, and each one's report tells the truth about its own result. */
static void compare(const char *what, const layer *l, const bpdq_quantize_options *options, double tolerance) {
  float *values = malloc((size_t)(l->rows * l->columns) * sizeof *values);
  assert_non_null(values);
  bpdq_layer_report cpu = quantize("cpu", l, options, NULL), cuda = quantize("cuda", l, options, values);
  print_message("%-24s cpu %.6f cuda %.6f (ratio %.4f)\n", what, cpu.objective, cuda.objective, cuda.objective / cpu.objective);
  assert_close(cuda.objective, cpu.objective, tolerance, what);
  assert_close(cuda.objective_target, cpu.objective_target, tolerance, what);
  assert_close(cuda.objective_zero, cpu.objective_zero, 1e-5, what);
  assert_close(cuda.objective_rtn, cpu.objective_rtn, 1e-3, what);
  assert_close(cuda.damping, cpu.damping, 1e-9, what);
  assert_int_equal(cuda.dead_columns, cpu.dead_columns);
  assert_close(cuda.objective, objective(l, values), 1e-4, what);
  free(values);
}

static float *read_tensor(const bpdq_safetensors *file, const char *name, int64_t shape[2]) {
  const bpdq_stored_tensor *tensor = bpdq_safetensors_find(file, name);
  assert_non_null(tensor);
  float *data = malloc(tensor->bytes);
  assert_non_null(data);
  memcpy(data, tensor->data, tensor->bytes);
  shape[0] = tensor->shape[0];
  shape[1] = tensor->shape[1];
  return data;
}

typedef struct vector {
  const char *name;
  int planes, group;
} vector;

static const vector VECTORS[] = {{"k2_g64", 2, 64}, {"k3_g128", 3, 128}, {"k4_g32", 4, 32}, {"k2_g256_pad", 2, 256}};

static void vectors_agree(void **unused) {
  (void)unused;
  for (size_t i = 0; i < sizeof VECTORS / sizeof *VECTORS; i++) {
    char path[512], what[64];
    snprintf(path, sizeof path, "%s/vectors/%s.safetensors", getenv("BPDQ_SHARED") ? getenv("BPDQ_SHARED") : BPDQ_SHARED, VECTORS[i].name);
    bpdq_safetensors *file;
    CHECK(bpdq_safetensors_open(path, &file, error));
    int64_t shape[2];
    layer l = {0};
    l.hessian = read_tensor(file, "H", shape);
    l.weight = read_tensor(file, "W", shape);
    l.rows = shape[0];
    l.columns = shape[1];
    bpdq_safetensors_close(file);
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

/* ---- made layers ---- */

/* Uniform in [-1, 1), the same on every machine. */
static float random_value(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (float)((double)(*state >> 11) / 4503599627370496.0 - 1.0);
}

/* Tokens with correlated columns of unequal size; column `dead` is 0 (-1: none). */
static float *make_tokens(int64_t tokens, int64_t columns, int64_t dead, uint64_t seed) {
  float *x = malloc((size_t)(tokens * columns) * sizeof *x);
  assert_non_null(x);
  for (int64_t t = 0; t < tokens; t++) {
    float common = random_value(&seed);
    for (int64_t j = 0; j < columns; j++)
      x[t * columns + j] = j == dead ? 0 : (common + random_value(&seed)) * (1 + 3 * (float)(j % 7 == 0));
  }
  return x;
}

static float *outer(const float *a, const float *b, int64_t tokens, int64_t rows, int64_t columns) {
  float *sum = malloc((size_t)(rows * columns) * sizeof *sum);
  assert_non_null(sum);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) {
      double total = 0;
      for (int64_t t = 0; t < tokens; t++) total += (double)a[t * rows + i] * (double)b[t * columns + j];
      sum[i * columns + j] = (float)(2 * total / (double)tokens);
    }
  return sum;
}

static layer make_layer(int64_t rows, int64_t columns, int64_t dead, bool streams) {
  enum { TOKENS = 300 };
  uint64_t seed = 7;
  layer l = {.rows = rows, .columns = columns};
  float *x = make_tokens(TOKENS, columns, dead, 1);
  l.hessian = outer(x, x, TOKENS, columns, columns);
  l.weight = malloc((size_t)(rows * columns) * sizeof(float));
  assert_non_null(l.weight);
  for (int64_t i = 0; i < rows * columns; i++) l.weight[i] = random_value(&seed) * random_value(&seed);
  if (streams) {
    float *dense = make_tokens(TOKENS, columns, dead, 1), *residual = make_tokens(TOKENS, rows, -1, 3);
    for (int64_t i = 0; i < TOKENS * columns; i++) dense[i] += 0.05f * random_value(&seed) * (dense[i] != 0);
    for (int64_t i = 0; i < TOKENS * rows; i++) residual[i] *= 0.05f;
    l.cross = outer(dense, x, TOKENS, columns, columns);
    l.residual = outer(residual, x, TOKENS, rows, columns);
    free(dense);
    free(residual);
  }
  free(x);
  return l;
}

/* R becomes W C + R, and C is gone. */
static void join_targets(layer *l) {
  for (int64_t row = 0; row < l->rows; row++)
    for (int64_t j = 0; j < l->columns; j++) {
      double sum = (double)l->residual[row * l->columns + j];
      for (int64_t i = 0; i < l->columns; i++) sum += (double)l->weight[row * l->columns + i] * (double)l->cross[i * l->columns + j];
      l->residual[row * l->columns + j] = (float)sum;
    }
  free(l->cross);
  l->cross = NULL;
  l->whole = true;
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
      {"five planes", 31, 96, 9, false, 5, 96, 0},
      {"eight planes", 32, 64, -1, false, 8, 64, 0},
      {"many unknowns", 34, 544, -1, false, 3, 32, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    layer l = make_layer(cases[i].rows, cases[i].columns, cases[i].dead, cases[i].streams);
    bpdq_quantize_options options = bpdq_quantize_default_options();
    options.planes = cases[i].planes;
    options.group = cases[i].group;
    options.recipe.restarts = cases[i].restarts;
    compare(cases[i].what, &l, &options, SMALL_TOLERANCE);
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
      cmocka_unit_test(vectors_agree),
      cmocka_unit_test(odd_layers_agree),
      cmocka_unit_test(tokens_agree),
      cmocka_unit_test(bad_inputs_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
