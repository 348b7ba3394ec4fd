/* Inputs of `quantize` that are wrong or at the edge: each a clear error that leaves no output, or a stated fallback. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>
#include <math.h>

#include "core/half.h"
#include "small_model.h"

/* ---- calibration ---- */

static bpdq_quantize_options options_with(const char *name, const char *text, size_t size, char *path) {
  write_text(name, text, size);
  bpdq_quantize_options options = small_options(path);
  options.calibration_path = path_in(name, path);
  return options;
}

static bpdq_status with_calibration(const char *name, const char *text, size_t size, bpdq_error *error) {
  char path[512];
  bpdq_quantize_options options = options_with(name, text, size, path);
  bpdq_status status = try_quantize("dense", "refused", &options, error);
  assert_false(exists("refused"));
  assert_false(exists("refused.partial"));
  return status;
}

static void bad_calibration_is_refused(void **unused) {
  (void)unused;
  bpdq_error error = {0};
  assert_int_equal(with_calibration("empty.ids", "", 0, &error), BPDQ_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "empty"));
  assert_int_equal(with_calibration("short.ids", "1 2 3", 5, &error), BPDQ_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "too few"));
  assert_int_equal(with_calibration("range.ids", "1 2 999999999999", 16, &error), BPDQ_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "vocabulary"));
  assert_int_equal(with_calibration("words.ids", "1 2 x", 5, &error), BPDQ_ERROR_FORMAT);
  assert_int_equal(with_calibration("text.txt", "one two", 7, &error), BPDQ_ERROR_IO); /* the model has no tokenizer */
  assert_non_null(strstr(error.message, "tokenizer.json"));
  char path[512];
  bpdq_quantize_options options = small_options(path);
  options.calibration_path = NULL;
  assert_int_equal(try_quantize("dense", "refused", &options, &error), BPDQ_ERROR_ARGUMENT);
  options.calibration_path = "/nonexistent/calibration.txt";
  assert_int_equal(try_quantize("dense", "refused", &options, &error), BPDQ_ERROR_IO);
}

/* Warnings of a run, one after the other. */
static void collect_warnings(void *user, bpdq_log_level level, const char *line) {
  char *text = user;
  if (level == BPDQ_LOG_WARNING) snprintf(text + strlen(text), 1000 - strlen(text), "%s\n", line);
}

/* A shorter text than asked for is used as far as it goes, and the log says so. */
static void short_calibration_is_stretched(void **unused) {
  (void)unused;
  char path[512], warnings[1000] = "", ids[40 * 4 + 1] = "";
  for (int i = 0; i < 40; i++) sprintf(ids + strlen(ids), "%d ", i * 7 % VOCAB);
  bpdq_quantize_options options = options_with("forty.ids", ids, strlen(ids), path);
  options.method = BPDQ_METHOD_GPTQ;
  options.log = collect_warnings;
  options.log_user = warnings;
  options.sequence_length = 100;
  quantize("less-than-a-window", &options);
  assert_non_null(strstr(warnings, "less than one window"));
  warnings[0] = 0;
  options.sequence_length = 16;
  options.samples = 5;
  quantize("less-than-five-windows", &options);
  assert_non_null(strstr(warnings, "using them all"));
  check_folder("less-than-five-windows", 2, 32);
}

/* One token over and over: every Hessian has a rank of about one. */
static void rank_deficient_inputs(void **unused) {
  (void)unused;
  char path[512], ids[200 * 2 + 1];
  for (int i = 0; i < 200; i++) memcpy(ids + 2 * i, "7 ", 3);
  bpdq_quantize_options options = options_with("sevens.ids", ids, strlen(ids), path);
  for (bpdq_quantize_method method = BPDQ_METHOD_BPDQ; method <= BPDQ_METHOD_GPTQ; method++) {
    options.method = method;
    options.algebra = method == BPDQ_METHOD_BPDQ ? "cpu+cpu" : "cpu";
    options.overwrite = true;
    quantize("rank-one", &options);
    check_folder("rank-one", 2, 32);
  }
}

/* ---- models ---- */

typedef void (*change_weights)(float *values, size_t count);

static void not_a_number(float *values, size_t count) { values[count / 2] = NAN; }
static void infinite(float *values, size_t count) { values[count - 1] = -INFINITY; }
static void zeroes(float *values, size_t count) { memset(values, 0, count * sizeof *values); }
static void nothing(float *values, size_t count) { (void)values, (void)count; }

/* A copy of the dense model with one tensor changed, in two shards. */
static void make_changed(const char *name, const char *tensor, change_weights change) {
  char path[512], command[1300], index[4096] = "{\"metadata\": {}, \"weight_map\": {";
  bpdq_safetensors *file;
  bpdq_tensor_to_write shards[2][64];
  size_t counts[2] = {0, 0};
  sprintf(command, "rm -rf '%s/%s' && cp -r '%s/dense' '%s/%s' && rm '%s/%s/model.safetensors'", folder, name, folder, folder, name, folder,
          name);
  assert_int_equal(system(command), 0);
  assert_int_equal(bpdq_safetensors_open(path_in("dense/model.safetensors", path), &file, NULL), BPDQ_OK);
  void *changed = NULL;
  for (size_t i = 0; i < bpdq_safetensors_count(file); i++) {
    const bpdq_stored_tensor *stored = bpdq_safetensors_at(file, i);
    bpdq_tensor_to_write *to = &shards[i % 2][counts[i % 2]++];
    *to = (bpdq_tensor_to_write){.name = stored->name, .type = stored->type, .dimensions = stored->dimensions, .data = stored->data};
    memcpy(to->shape, stored->shape, sizeof to->shape);
    sprintf(index + strlen(index), "%s\"%s\": \"model-%05zu-of-00002.safetensors\"", i ? ", " : "", stored->name, i % 2 + 1);
    if (strcmp(stored->name, tensor) != 0) continue;
    changed = malloc(stored->bytes);
    assert_non_null(changed);
    memcpy(changed, stored->data, stored->bytes);
    change(changed, stored->bytes / sizeof(float));
    to->data = changed;
  }
  assert_non_null(changed);
  for (int i = 0; i < 2; i++) {
    sprintf(path, "%s/%s/model-%05d-of-00002.safetensors", folder, name, i + 1);
    assert_int_equal(bpdq_safetensors_write(path, shards[i], counts[i], NULL, NULL), BPDQ_OK);
  }
  free(changed);
  bpdq_safetensors_close(file);
  strcat(index, "}}");
  char index_name[64];
  snprintf(index_name, sizeof index_name, "%s/model.safetensors.index.json", name);
  write_text(index_name, index, strlen(index));
}

static void weights_that_are_not_finite(void **unused) {
  (void)unused;
  static const struct {
    const char *tensor, *named;
    change_weights change;
  } cases[] = {
      {"model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.weight", not_a_number},
      {"model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight", infinite},
      {"model.layers.1.input_layernorm.weight", "model.layers.1.input_layernorm.weight", not_a_number},
      {"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj", not_a_number}, /* found in the first inputs it reaches */
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char path[512];
    bpdq_error error = {0};
    bpdq_quantize_options options = small_options(path);
    make_changed("changed", cases[i].tensor, cases[i].change);
    if (i == 3) { /* the middle of the embedding */
      char ids[64 * 4 + 1] = "";
      for (int j = 0; j < 64; j++) strcat(ids, "150 ");
      options = options_with("middle.ids", ids, strlen(ids), path);
    }
    options.overwrite = true;
    assert_int_equal(try_quantize("changed", "refused", &options, &error), BPDQ_ERROR_FORMAT);
    if (!strstr(error.message, cases[i].named)) fail_msg("'%s' is not named: %s", cases[i].named, error.message);
    assert_non_null(strstr(error.message, "finite"));
    assert_false(exists("refused"));
  }
}

/* W'[row, column] of a linear with two planes and HIDDEN rows. */
static float stored_weight(const bpdq_linear_source *linear, int64_t column, int64_t row) {
  float value = 0;
  for (int p = 0; p <= 2; p++) {
    uint16_t coefficient;
    uint32_t word = 1;
    memcpy(&coefficient, linear->coefficients->data + 2 * ((column / linear->group * 3 + p) * HIDDEN + row), 2);
    if (p < 2) {
      memcpy(&word, linear->bits->data + 4 * ((column / 32 * 2 + p) * HIDDEN + row), 4);
      word = word >> (column % 32) & 1;
    }
    if (word) value += bpdq_bf16_to_float(coefficient);
  }
  return value;
}

/* A linear of zeroes stays one, whatever the method; the rest is as good as before. */
static void weights_that_are_zero(void **unused) {
  (void)unused;
  char path[512], output[512];
  bpdq_error error = {0};
  bpdq_quantize_options options = small_options(path);
  options.compare_gptq = true;
  make_changed("changed", "model.layers.0.mlp.down_proj.weight", zeroes);
  for (bpdq_quantize_method method = BPDQ_METHOD_BPDQ; method <= BPDQ_METHOD_RTN; method++) {
    bpdq_checkpoint made;
    options.method = method;
    options.overwrite = true;
    options.recipe.residual_target = false; /* which moves the weights away from zero, as it should */
    options.recipe.dense_target = false;
    if (try_quantize("changed", "zero", &options, &error) != BPDQ_OK) fail_msg("%s: %s", bpdq_quantize_method_name(method), error.message);
    check_folder("zero", 2, 32);
    assert_int_equal(bpdq_checkpoint_open(path_in("zero", output), &made, NULL, NULL), BPDQ_OK);
    const bpdq_linear_source *linear = bpdq_block_source(&made.layers[0], BPDQ_DOWN);
    for (int64_t column = 0; column < INNER; column++)
      for (int64_t row = 0; row < HIDDEN; row++) assert_true(fabsf(stored_weight(linear, column, row)) < 1e-30f);
    bpdq_checkpoint_close(&made);
  }
}

/* Shapes that the format allows only with padding, or with more planes than levels are worth. */
static void planes_and_groups_at_the_edge(void **unused) {
  (void)unused;
  char path[512];
  bpdq_error error = {0};
  bpdq_quantize_options options = small_options(path);
  options.group = 256; /* wider than any linear */
  quantize("wide-groups", &options);
  check_folder("wide-groups", 2, 256);
  options.group = 32;
  options.planes = 8;
  options.method = BPDQ_METHOD_GPTQ;
  quantize("eight-planes", &options);
  check_folder("eight-planes", 8, 32);
  static const int GROUPS[] = {0, -32, 31, 48, 288}, PLANES[] = {0, -1, 9};
  for (size_t i = 0; i < sizeof GROUPS / sizeof *GROUPS + sizeof PLANES / sizeof *PLANES; i++) {
    bool groups = i < sizeof GROUPS / sizeof *GROUPS;
    options.group = groups ? GROUPS[i] : 32;
    options.planes = groups ? 2 : PLANES[i - sizeof GROUPS / sizeof *GROUPS];
    assert_int_equal(try_quantize("dense", "refused", &options, &error), BPDQ_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, groups ? "group" : "planes"));
    assert_false(exists("refused"));
    assert_false(exists("refused.partial"));
  }
}

static void sharded_source_makes_the_same_model(void **unused) {
  (void)unused;
  char path[512], command[1300];
  bpdq_error error = {0};
  bpdq_quantize_options options = small_options(path);
  options.method = BPDQ_METHOD_GPTQ;
  make_changed("shards", "model.norm.weight", nothing);
  quantize("of-one-file", &options);
  assert_int_equal(try_quantize("shards", "of-shards", &options, &error), BPDQ_OK);
  assert_same_folder("of-one-file", "of-shards");
  sprintf(command, "%s/shards/model-00002-of-00002.safetensors", folder);
  assert_int_equal(remove(command), 0);
  assert_int_not_equal(try_quantize("shards", "refused", &options, &error), BPDQ_OK);
  assert_non_null(strstr(error.message, "model-00002-of-00002"));
  assert_false(exists("refused.partial"));
}

static void sources_and_outputs_are_checked(void **unused) {
  (void)unused;
  char path[512];
  bpdq_error error = {0};
  bpdq_quantize_options options = small_options(path);
  options.method = BPDQ_METHOD_RTN;
  quantize("quantized", &options);
  assert_int_equal(try_quantize("quantized", "refused", &options, &error), BPDQ_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "already"));
  assert_int_equal(try_quantize("nowhere", "refused", &options, &error), BPDQ_ERROR_IO);
  write_text("a-file", "x", 1);
  assert_int_not_equal(try_quantize("dense", "a-file/out", &options, &error), BPDQ_OK);
  options.algebra = "abacus";
  assert_int_equal(try_quantize("dense", "refused", &options, &error), BPDQ_ERROR_ARGUMENT);
  options.algebra = "cuda:1023"; /* no such device, no driver, or no CUDA in this build */
  assert_int_not_equal(try_quantize("dense", "refused", &options, &error), BPDQ_OK);
  assert_non_null(strstr(error.message, "algebra"));
  assert_false(exists("refused"));
  assert_false(exists("refused.partial"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bad_calibration_is_refused),
      cmocka_unit_test(short_calibration_is_stretched),
      cmocka_unit_test(rank_deficient_inputs),
      cmocka_unit_test(weights_that_are_not_finite),
      cmocka_unit_test(weights_that_are_zero),
      cmocka_unit_test(planes_and_groups_at_the_edge),
      cmocka_unit_test(sharded_source_makes_the_same_model),
      cmocka_unit_test(sources_and_outputs_are_checked),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
