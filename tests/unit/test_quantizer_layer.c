/* quantize-layer on the reference vectors: each method's objective against the stored ones, recomputed here in float64 from the planes and
 * coefficients that were written. */
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
#include <unistd.h>

#include "../temporary.h"
#include "bpdq_quantizer.h"
#include "core/half.h"
#include "format/safetensors.h"
#include "quantizer/method.h"

typedef struct vector {
  const char *name;
  int planes, group;
} vector;

static const vector VECTORS[] = {{"k2_g64", 2, 64}, {"k3_g128", 3, 128}, {"k4_g32", 4, 32}, {"k2_g256_pad", 2, 256}};
enum { VECTOR_COUNT = sizeof VECTORS / sizeof *VECTORS };

static char folder[192];

static char *input_path(const vector *v, char *path) {
  sprintf(path, "%s/vectors/%s.safetensors", BPDQ_SHARED, v->name);
  return path;
}

static char *output_path(const char *name, char *path) {
  sprintf(path, "%s/%s.safetensors", folder, name);
  return path;
}

static bpdq_safetensors *open_file(const char *path) {
  bpdq_safetensors *file = NULL;
  bpdq_error error = {0};
  if (bpdq_safetensors_open(path, &file, &error) != BPDQ_OK) fail_msg("%s", error.message);
  return file;
}

static float float_at(const bpdq_stored_tensor *tensor, int64_t index) {
  float value;
  memcpy(&value, tensor->data + 4 * index, 4);
  return value;
}

/* A stored objective from the vector's metadata; NAN for "None". */
static double stored(const vector *v, const char *key) {
  char path[512];
  bpdq_safetensors *file = open_file(input_path(v, path));
  const char *text = bpdq_safetensors_metadata(file, key);
  assert_non_null(text);
  double value = strcmp(text, "None") ? strtod(text, NULL) : NAN;
  bpdq_safetensors_close(file);
  return value;
}

/* W' [n, j] by the formula of docs/format.md section 1 from c and B as they lie in the file. */
static double level(const bpdq_stored_tensor *c, const bpdq_stored_tensor *b, const vector *v, int64_t row, int64_t column) {
  int64_t rows = b->shape[2], group = column / v->group;
  double value = 0;
  for (int p = 0; p <= v->planes; p++) {
    uint16_t bits;
    memcpy(&bits, c->data + 2 * ((group * (v->planes + 1) + p) * rows + row), 2);
    uint32_t word = 1;
    if (p < v->planes) {
      memcpy(&word, b->data + 4 * ((column / 32 * v->planes + p) * rows + row), 4);
      word = word >> (column % 32) & 1;
    }
    if (word) value += (double)bpdq_bf16_to_float(bits);
  }
  return value;
}

static double objective_of_file(const vector *v, const char *output) {
  char path[512];
  bpdq_safetensors *in = open_file(input_path(v, path)), *out = open_file(output);
  const bpdq_stored_tensor *w = bpdq_safetensors_find(in, "W"), *h = bpdq_safetensors_find(in, "H");
  const bpdq_stored_tensor *c = bpdq_safetensors_find(out, "c"), *b = bpdq_safetensors_find(out, "B"), *q = bpdq_safetensors_find(out, "Q");
  assert_true(w && h && c && b && q);
  int64_t rows = w->shape[0], columns = w->shape[1], groups = (columns + v->group - 1) / v->group;
  assert_int_equal(c->shape[0], groups);
  assert_int_equal(c->shape[1], v->planes + 1);
  assert_int_equal(c->shape[2], rows);
  assert_int_equal(b->shape[0], groups * v->group / 32);
  assert_int_equal(b->shape[1], v->planes);
  assert_int_equal(b->shape[2], rows);
  double total = 0, *difference = malloc((size_t)columns * sizeof *difference);
  assert_non_null(difference);
  for (int64_t row = 0; row < rows; row++) {
    for (int64_t j = 0; j < columns; j++) {
      double value = level(c, b, v, row, j);
      assert_float_equal((float)value, float_at(q, row * columns + j), 1e-5f);
      difference[j] = (double)float_at(w, row * columns + j) - value;
    }
    for (int64_t i = 0; i < columns; i++) {
      double sum = 0;
      for (int64_t j = 0; j < columns; j++) sum += (double)float_at(h, i * columns + j) * difference[j];
      total += sum * difference[i];
    }
  }
  free(difference);
  bpdq_safetensors_close(in);
  bpdq_safetensors_close(out);
  return total;
}

static double quantize_with(const vector *v, bpdq_quantize_options *options, const char *output) {
  char path[512];
  bpdq_error error = {0};
  bpdq_layer_report report;
  options->planes = v->planes;
  options->group = v->group;
  if (bpdq_quantize_layer_file(input_path(v, path), output, options, &report, &error) != BPDQ_OK) fail_msg("%s", error.message);
  double objective = objective_of_file(v, output);
  assert_true(fabs(report.objective / objective - 1) < 1e-5);
  return objective;
}

static double quantize(const vector *v, bpdq_quantize_method method) {
  bpdq_quantize_options options = bpdq_quantize_default_options();
  options.method = method;
  char output[512];
  return quantize_with(v, &options, output_path(bpdq_quantize_method_name(method), output));
}

static void rtn_and_gptq_match(void **unused) {
  (void)unused;
  for (int i = 0; i < VECTOR_COUNT; i++) {
    /* The stored figures have float32 scales; here the scales are bf16. Round to nearest cannot make up for that, GPTQ can. */
    double rtn = quantize(&VECTORS[i], BPDQ_METHOD_RTN) / stored(&VECTORS[i], "herr_rtn");
    assert_true(rtn > 0.95 && rtn < 1.05);
    double gptq = quantize(&VECTORS[i], BPDQ_METHOD_GPTQ), expected = stored(&VECTORS[i], "herr_gptq");
    if (isfinite(expected)) assert_true(fabs(gptq / expected - 1) < 0.01);
  }
}

static void reference_matches(void **unused) {
  (void)unused;
  for (int i = 0; i < VECTOR_COUNT; i++)
    assert_true(quantize(&VECTORS[i], BPDQ_METHOD_REFERENCE) < 1.01 * stored(&VECTORS[i], "herr_bpdq_bf16c"));
}

static void bpdq_is_far_better(void **unused) {
  (void)unused;
  double sum = 0;
  for (int i = 0; i < VECTOR_COUNT; i++) {
    double ratio = quantize(&VECTORS[i], BPDQ_METHOD_BPDQ) / stored(&VECTORS[i], "herr_bpdq_bf16c");
    print_message("%s: %.4f of the reference's objective\n", VECTORS[i].name, ratio);
    assert_true(ratio < 0.70);
    sum += ratio;
  }
  assert_true(sum / VECTOR_COUNT < 0.60);
}

/* Each step of the recipe lowers the objective on these layers. */
static void every_step_pays(void **unused) {
  (void)unused;
  char output[512];
  output_path("steps", output);
  bpdq_quantize_options options = bpdq_quantize_default_options();
  options.recipe.several_starts = options.recipe.coordinate_descent = options.recipe.joint_refit = false;
  bool *const steps[] = {&options.recipe.coordinate_descent, &options.recipe.joint_refit, &options.recipe.several_starts};
  double before = quantize_with(&VECTORS[0], &options, output);
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    *steps[i] = true;
    double after = quantize_with(&VECTORS[0], &options, output);
    assert_true(after < before);
    before = after;
  }
  options.recipe.restarts = 3;
  assert_true(quantize_with(&VECTORS[0], &options, output) < before);
}

/* The target from C and R summed apart, and from both in one sum over outputs (whole_target), lead to the same layer. */
static void targets_agree(void **unused) {
  (void)unused;
  enum { TOKENS = 300, COLUMNS = 64, ROWS = 20 };
  static float x[TOKENS * COLUMNS], dense[TOKENS * COLUMNS], residual[TOKENS * ROWS], outputs[TOKENS * ROWS], weight[ROWS * COLUMNS];
  uint32_t state = 5;
  for (int i = 0; i < ROWS * COLUMNS; i++) weight[i] = (float)((state = state * 1664525u + 1013904223u) >> 8) / (1 << 24) - 0.5f;
  for (int i = 0; i < TOKENS * COLUMNS; i++) {
    dense[i] = (float)((state = state * 1664525u + 1013904223u) >> 8) / (1 << 24) - 0.4f;
    x[i] = dense[i] + 0.2f * ((float)((state = state * 1664525u + 1013904223u) >> 8) / (1 << 24) - 0.5f);
  }
  for (int t = 0; t < TOKENS; t++)
    for (int n = 0; n < ROWS; n++) {
      float sum = 0;
      for (int j = 0; j < COLUMNS; j++) sum += weight[n * COLUMNS + j] * dense[t * COLUMNS + j];
      residual[t * ROWS + n] = (float)((state = state * 1664525u + 1013904223u) >> 8) / (1 << 24) - 0.5f;
      outputs[t * ROWS + n] = sum + residual[t * ROWS + n];
    }
  bpdq_algebra *algebra;
  bpdq_error error = {0};
  assert_int_equal(bpdq_cpu_algebra_create(2, &algebra, &error), BPDQ_OK);
  double against_weight[2], against_target[2];
  bpdq_quantize_options options = bpdq_quantize_default_options();
  for (int whole = 0; whole < 2; whole++) {
    bpdq_statistics_desc desc = {.name = "layer", .columns = COLUMNS, .cross = !whole, .residual_rows = ROWS, .whole_target = whole};
    bpdq_statistics *statistics;
    bpdq_inputs *inputs;
    bpdq_inputs_info info;
    bpdq_work *work;
    assert_int_equal(algebra->statistics_create(algebra, &desc, &statistics, &error), BPDQ_OK);
    assert_int_equal(algebra->statistics_add(algebra, statistics, x, dense, whole ? outputs : residual, TOKENS, &error), BPDQ_OK);
    assert_int_equal(algebra->statistics_finish(algebra, statistics, &error), BPDQ_OK);
    bpdq_inputs_desc inputs_desc = bpdq_method_inputs(&bpdq_method_bpdq, &options, 32);
    assert_int_equal(algebra->inputs_create(algebra, statistics, &inputs_desc, &inputs, &info, &error), BPDQ_OK);
    bpdq_work_desc work_desc = {.name = "layer", .rows = ROWS, .planes = 8, .weight = weight, .use_cross = true, .use_residual = true};
    assert_int_equal(algebra->work_create(algebra, inputs, &work_desc, &work, &error), BPDQ_OK);
    assert_int_equal(algebra->uniform(algebra, work, true, &error), BPDQ_OK); /* eight planes: as good as T itself */
    assert_int_equal(algebra->objective(algebra, work, &against_weight[whole], &against_target[whole], NULL, &error), BPDQ_OK);
    algebra->work_destroy(algebra, work);
    algebra->inputs_destroy(algebra, inputs);
    algebra->statistics_destroy(algebra, statistics);
  }
  algebra->destroy(algebra);
  assert_true(against_target[0] < 0.01 * against_weight[0]); /* T is not W here */
  assert_true(fabs(against_weight[1] / against_weight[0] - 1) < 0.01);
}

static void threads_do_not_matter(void **unused) {
  (void)unused;
  char first[512], second[512], command[1200];
  output_path("one-thread", first);
  output_path("three-threads", second);
  bpdq_quantize_options options = bpdq_quantize_default_options();
  options.threads = 1;
  quantize_with(&VECTORS[0], &options, first);
  options.threads = 3;
  quantize_with(&VECTORS[0], &options, second);
  sprintf(command, "cmp -s '%s' '%s'", first, second);
  assert_int_equal(system(command), 0);
}

/* Writes W [rows, columns] and H [columns, columns] = identity, after `spoil` has had its way with them. */
static bpdq_status quantize_made_up(int64_t rows, int64_t columns, void (*spoil)(float *w, float *h), const char *hessian_name,
                                    bpdq_error *error) {
  float *w = calloc((size_t)(rows * columns), sizeof *w), *h = calloc((size_t)(columns * columns), sizeof *h);
  assert_true(w && h);
  for (int64_t i = 0; i < rows * columns; i++) w[i] = (float)((i * 7919) % 101 - 50) / 50;
  for (int64_t i = 0; i < columns; i++) h[i * columns + i] = 1;
  spoil(w, h);
  char in[512], out[512];
  output_path("made-up", in);
  output_path("made-up-out", out);
  bpdq_tensor_to_write tensors[] = {{hessian_name, BPDQ_STORED_F32, 2, {columns, columns}, h},
                                    {"W", BPDQ_STORED_F32, 2, {rows, columns}, w}};
  assert_int_equal(bpdq_safetensors_write(in, tensors, 2, NULL, error), BPDQ_OK);
  bpdq_status status = bpdq_quantize_layer_file(in, out, NULL, NULL, error);
  free(w);
  free(h);
  return status;
}

static void nothing(float *w, float *h) { (void)w, (void)h; }
static void not_a_number(float *w, float *h) { (void)h, w[3] = NAN; }
static void infinite(float *w, float *h) { (void)w, h[5] = INFINITY; }
static void negative(float *w, float *h) { (void)w, h[0] = -1; }
static void all_zero(float *w, float *h) { (void)h, memset(w, 0, 5 * 70 * sizeof *w); }
static void no_inputs(float *w, float *h) { (void)w, memset(h, 0, 70 * 70 * sizeof *h); }
static void rank_one(float *w, float *h) {
  (void)w;
  for (int i = 0; i < 70 * 70; i++) h[i] = 1;
}

static void odd_layers(void **unused) {
  (void)unused;
  bpdq_error error = {0};
  assert_int_equal(quantize_made_up(5, 70, nothing, "H", &error), BPDQ_OK);
  assert_int_equal(quantize_made_up(5, 70, all_zero, "H", &error), BPDQ_OK);
  assert_int_equal(quantize_made_up(5, 70, no_inputs, "H", &error), BPDQ_OK);
  assert_int_equal(quantize_made_up(5, 70, rank_one, "H", &error), BPDQ_OK);
  assert_int_equal(quantize_made_up(1, 1, nothing, "H", &error), BPDQ_OK);
  assert_int_equal(quantize_made_up(5, 70, not_a_number, "H", &error), BPDQ_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "'W'"));
  assert_int_equal(quantize_made_up(5, 70, infinite, "H", &error), BPDQ_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "'H'"));
  assert_int_equal(quantize_made_up(5, 70, negative, "H", &error), BPDQ_ERROR_FORMAT);
  assert_int_equal(quantize_made_up(5, 70, nothing, "X", &error), BPDQ_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "'H'"));
}

/* Tensors that do not fit each other, and an H that belongs to no inputs: the file and the tensor are named, and nothing is written. */
static void files_are_checked(void **unused) {
  (void)unused;
  enum { ROWS = 6, COLUMNS = 40 };
  static float weight[ROWS * COLUMNS], hessian[COLUMNS * COLUMNS], indefinite[COLUMNS * COLUMNS];
  for (int i = 0; i < ROWS * COLUMNS; i++) weight[i] = (float)(i % 7) - 3;
  for (int i = 0; i < COLUMNS * COLUMNS; i++) indefinite[i] = i % (COLUMNS + 1) ? 9 : 1;
  for (int i = 0; i < COLUMNS; i++) hessian[i * COLUMNS + i] = 1;
  const bpdq_tensor_to_write w = {"W", BPDQ_STORED_F32, 2, {ROWS, COLUMNS}, weight},
                             h = {"H", BPDQ_STORED_F32, 2, {COLUMNS, COLUMNS}, hessian};
  const struct {
    const char *named;
    bpdq_tensor_to_write changed; /* in the place of W or H, or beside them */
  } cases[] = {
      {"'H'", {"H", BPDQ_STORED_F32, 2, {COLUMNS, COLUMNS - 1}, hessian}},
      {"'H'", {"H", BPDQ_STORED_F32, 2, {COLUMNS / 2, COLUMNS / 2}, hessian}},
      {"'H'", {"H", BPDQ_STORED_F32, 1, {COLUMNS}, hessian}},
      {"'W'", {"W", BPDQ_STORED_BF16, 2, {ROWS, COLUMNS}, weight}},
      {"'W'", {"W", BPDQ_STORED_F32, 3, {ROWS, 2, COLUMNS / 2}, weight}},
      {"'C'", {"C", BPDQ_STORED_F32, 2, {ROWS, COLUMNS}, weight}},
      {"'R'", {"R", BPDQ_STORED_F32, 2, {ROWS - 1, COLUMNS}, weight}},
      {"factorised", {"H", BPDQ_STORED_F32, 2, {COLUMNS, COLUMNS}, indefinite}},
  };
  char in[512], out[512];
  output_path("wrong", in);
  output_path("wrong-out", out);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    bpdq_tensor_to_write tensors[3] = {h, w, cases[i].changed};
    bool beside = cases[i].changed.name[0] != 'H' && cases[i].changed.name[0] != 'W';
    if (!beside) tensors[cases[i].changed.name[0] == 'W'] = cases[i].changed;
    bpdq_error error = {0};
    assert_int_equal(bpdq_safetensors_write(in, tensors, beside ? 3 : 2, NULL, &error), BPDQ_OK);
    assert_int_equal(bpdq_quantize_layer_file(in, out, NULL, NULL, &error), BPDQ_ERROR_FORMAT);
    if (!strstr(error.message, cases[i].named) || !strstr(error.message, in)) fail_msg("case %zu: %s", i, error.message);
    assert_int_not_equal(access(out, F_OK), 0);
  }
}

/* Within the layer, whatever the method, and nothing is written. */
static void layers_can_be_cancelled(void **unused) {
  (void)unused;
  char path[512], output[512];
  const volatile int cancel = 1;
  bpdq_quantize_options options = bpdq_quantize_default_options();
  options.cancel = &cancel;
  for (bpdq_quantize_method method = BPDQ_METHOD_BPDQ; method <= BPDQ_METHOD_RTN; method++) {
    bpdq_error error = {0};
    options.method = method;
    assert_int_equal(bpdq_quantize_layer_file(input_path(VECTORS, path), output_path("cancelled", output), &options, NULL, &error),
                     BPDQ_ERROR_CANCELLED);
    assert_int_not_equal(access(output, F_OK), 0);
  }
}

static void options_are_checked(void **unused) {
  (void)unused;
  bpdq_error error = {0};
  char path[512], output[512];
  for (int i = 0; i < 7; i++) {
    bpdq_quantize_options options = bpdq_quantize_default_options();
    if (i == 0) options.planes = 0;
    if (i == 1) options.group = 48;
    if (i == 2) options.damping = NAN;
    if (i == 3) options.iterations = 0;
    if (i == 4) options.bits = 0.5;
    if (i == 5) options.recipe.rounds = -1;
    if (i == 6) options.device_memory = -1;
    assert_int_equal(bpdq_quantize_layer_file(input_path(VECTORS, path), output_path("x", output), &options, NULL, &error),
                     BPDQ_ERROR_ARGUMENT);
  }
}

static int make_folder(void **unused) {
  (void)unused;
  return temporary_folder(folder, sizeof folder, "bpdq-test-quantizer") ? 0 : -1;
}

static int remove_folder(void **unused) {
  (void)unused;
  return bpdq_remove_folder(folder, NULL) == BPDQ_OK ? 0 : -1;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rtn_and_gptq_match),    cmocka_unit_test(reference_matches), cmocka_unit_test(bpdq_is_far_better),
      cmocka_unit_test(every_step_pays),       cmocka_unit_test(odd_layers),        cmocka_unit_test(layers_can_be_cancelled),
      cmocka_unit_test(options_are_checked),   cmocka_unit_test(files_are_checked), cmocka_unit_test(targets_agree),
      cmocka_unit_test(threads_do_not_matter),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
