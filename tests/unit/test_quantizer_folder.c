/* `quantize` on whole models: the forward pass against expected logits, the written folder, interruption and resumption. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <unistd.h>

#include "core/half.h"
#include "quantizer/budget.h"
#include "quantizer/forward.h"
#include "small_model.h"

static void run_model(const bpdq_checkpoint *c, const int32_t *ids, int64_t tokens, float *logits) {
  bpdq_forward forward;
  bpdq_error error = {0};
  int64_t hidden = c->config.hidden_size;
  bpdq_forward_desc desc = {.config = &c->config, .length = tokens, .most_tokens = tokens, .head = true};
  assert_int_equal(bpdq_forward_create(&desc, &forward, &error), BPDQ_OK);
  float *x = malloc((size_t)(tokens * hidden) * 4), *norm = malloc((size_t)hidden * 4);
  bpdq_block_linear head = {.name = "head", .rows = c->config.vocab_size, .columns = hidden};
  head.weight = malloc((size_t)(head.rows * hidden) * 4);
  for (int64_t v = 0; v < head.rows; v++) bpdq_stored_row_to_f32(c->head.weight, v, hidden, head.weight + v * hidden);
  for (int64_t t = 0; t < tokens; t++) bpdq_stored_row_to_f32(c->embedding, ids[t], hidden, x + t * hidden);
  bpdq_stored_row_to_f32(c->final_norm, 0, hidden, norm);
  assert_int_equal(bpdq_forward_write(&forward, BPDQ_HIDDEN, tokens, x, &error), BPDQ_OK);
  for (int64_t layer = 0; layer <= c->config.layers; layer++) {
    bpdq_block block = {0};
    bpdq_forward_program program = bpdq_forward_begin(&forward);
    if (layer < c->config.layers) {
      assert_int_equal(bpdq_block_load(c, layer, NULL, &block, NULL), BPDQ_OK);
      assert_int_equal(bpdq_forward_add_attention(&program, &block, &error), BPDQ_OK);
      assert_int_equal(bpdq_forward_add_residual(&program, &block.linears[BPDQ_O], BPDQ_HEADS, &error), BPDQ_OK);
      assert_int_equal(bpdq_forward_add_gate(&program, &block, &error), BPDQ_OK);
      assert_int_equal(bpdq_forward_add_residual(&program, &block.linears[BPDQ_DOWN], BPDQ_GATED, &error), BPDQ_OK);
    } else {
      assert_int_equal(bpdq_forward_add_head(&program, norm, &head, &error), BPDQ_OK);
    }
    assert_int_equal(bpdq_forward_compile(&program, &error), BPDQ_OK);
    assert_int_equal(bpdq_forward_run(&program, 0, 0, tokens, &error), BPDQ_OK);
    bpdq_forward_program_free(&program);
    bpdq_block_free(&block);
  }
  assert_int_equal(bpdq_forward_read(&forward, BPDQ_LOGITS, tokens, logits, &error), BPDQ_OK);
  free(x);
  free(norm);
  free(head.weight);
  bpdq_forward_free(&forward);
}

static void forward_gives_the_expected_logits(void **unused) {
  (void)unused;
  bpdq_checkpoint checkpoint;
  bpdq_safetensors *expected;
  bpdq_error error = {0};
  assert_int_equal(bpdq_safetensors_open(BPDQ_SHARED "/models/classics-12m/expected.safetensors", &expected, &error), BPDQ_OK);
  assert_int_equal(bpdq_checkpoint_open(BPDQ_SHARED "/models/classics-12m", &checkpoint, NULL, &error), BPDQ_OK);
  static const int32_t PROMPT[] = {1092, 310, 258, 1097, 280, 3956, 88, 847, 11, 280, 260};
  const bpdq_stored_tensor *stored = NULL;
  for (size_t i = 0; i < bpdq_safetensors_count(expected); i++)
    if (bpdq_safetensors_at(expected, i)->type == BPDQ_STORED_F32) stored = bpdq_safetensors_at(expected, i);
  if (!stored) {
    fail_msg("expected.safetensors has no f32 tensor");
    return;
  }
  enum { TOKENS = sizeof PROMPT / sizeof *PROMPT };
  int64_t vocab = checkpoint.config.vocab_size;
  assert_int_equal(stored->bytes, TOKENS * vocab * 4);
  float *logits = malloc((size_t)(TOKENS * vocab) * sizeof *logits), largest = 0, difference = 0;
  run_model(&checkpoint, PROMPT, TOKENS, logits);
  for (int64_t i = 0; i < TOKENS * vocab; i++) {
    float value;
    memcpy(&value, stored->data + 4 * i, 4);
    largest = fmaxf(largest, fabsf(value));
    difference = fmaxf(difference, fabsf(value - logits[i]));
  }
  free(logits);
  print_message("largest difference of the logits: %g of %g\n", (double)difference, (double)largest);
  assert_true(difference < 1e-3f * largest); /* the expected ones are a float32 forward, 2.6e-4 from a float64 one */
  bpdq_checkpoint_close(&checkpoint);
  bpdq_safetensors_close(expected);
}

static void every_method_writes_a_checkpoint(void **unused) {
  (void)unused;
  char calibration[512];
  bpdq_quantize_options options = small_options(calibration);
  for (bpdq_quantize_method method = BPDQ_METHOD_BPDQ; method <= BPDQ_METHOD_RTN; method++) {
    options.method = method;
    options.planes = 2 + (int)method % 2;
    options.group = method == BPDQ_METHOD_GPTQ ? 96 : 32; /* 96: padded columns everywhere */
    const char *name = bpdq_quantize_method_name(method);
    quantize(name, &options);
    check_folder(name, options.planes, options.group);
  }
}

/* The report says what the summary says, and both what the index says. */
static void report_states_the_size(void **unused) {
  (void)unused;
  char calibration[512], path[512];
  bpdq_quantize_options options = small_options(calibration);
  options.head_bits = 4;
  bpdq_quantize_summary summary;
  bpdq_error error = {0};
  char source[512], destination[512];
  assert_int_equal(bpdq_quantize_folder(path_in("dense", source), path_in("sized", destination), &options, &summary, &error), BPDQ_OK);
  json_t *report = json_load_file(path_in("sized/quantize_report.json", path), 0, NULL),
         *index = json_load_file(path_in("sized/model.safetensors.index.json", path), 0, NULL);
  json_int_t size = json_integer_value(json_object_get(json_object_get(index, "metadata"), "total_size"));
  assert_true(size > 0);
  assert_int_equal(size, summary.written_bytes);
  assert_int_equal(size, json_integer_value(json_object_get(report, "written_bytes")));
  assert_true(summary.parts.forward > 0 && summary.parts.statistics > 0); /* also where the streams end before the head */
  json_decref(report);
  json_decref(index);
}

/* The greedy choice against all choices, on curves like those of layers: near the best, and never over the budget. */
static void budget_is_spent_well(void **unused) {
  (void)unused;
  enum { N = 6 };
  const double bits[BPDQ_BUDGET_PLANES] = {1.5, 2.75, 4, 5.25, 6.5};
  uint32_t state = 3;
  for (int trial = 0; trial < 50; trial++) {
    double divergence[N * BPDQ_BUDGET_PLANES], weights[N], all = 0;
    for (int i = 0; i < N; i++) {
      double value = exp(2 * (double)noise(&state));
      weights[i] = 1 + fabs((double)noise(&state)) * 3;
      all += weights[i];
      for (int k = 0; k < BPDQ_BUDGET_PLANES; k++, value *= 0.25 + 0.1 * fabs((double)noise(&state)))
        divergence[i * BPDQ_BUDGET_PLANES + k] = value;
    }
    const double budget = 3.4;
    uint8_t planes[N];
    double total, used = 0, best = INFINITY;
    assert_true(bpdq_budget_choose(N, divergence, bits, weights, budget, planes, &total));
    for (int i = 0; i < N; i++) used += weights[i] * bits[planes[i] - 1];
    assert_true(used <= budget * all * (1 + 1e-9));
    for (int code = 0; code < 4096; code++) { /* two to five planes each */
      double cost = 0, sum = 0;
      for (int i = 0; i < N; i++) {
        int k = 2 + (code >> (2 * i) & 3);
        cost += weights[i] * bits[k - 1];
        sum += divergence[i * BPDQ_BUDGET_PLANES + k - 1];
      }
      if (cost <= budget * all && sum < best) best = sum;
    }
    assert_true(total < 1.35 * best);
  }
  uint8_t planes[N];
  double total, flat[N * BPDQ_BUDGET_PLANES] = {0}, weights[N] = {1, 1, 1, 1, 1, 1};
  assert_false(bpdq_budget_choose(N, flat, bits, weights, 1.4, planes, &total));
}

static void bits_become_overrides(void **unused) {
  (void)unused;
  char calibration[512], path[512];
  bpdq_error error = {0};
  bpdq_quantize_options options = small_options(calibration);
  options.bits = 4.2;
  quantize("budget", &options);
  bpdq_checkpoint made;
  if (bpdq_checkpoint_open(path_in("budget", path), &made, NULL, &error) != BPDQ_OK) fail_msg("%s", error.message);
  double stored = 0, weights = 0;
  int least = 9, most = 0;
  for (int layer = 0; layer < LAYERS; layer++)
    for (int i = 0; i < BPDQ_LINEARS; i++) {
      const bpdq_linear_source *linear = bpdq_block_source(&made.layers[layer], i);
      int planes = 0, group = 0;
      assert_true(bpdq_config_module(&made.config, linear->name, &planes, &group));
      assert_int_equal(planes, linear->planes); /* the overrides say what the tensors are */
      least = planes < least ? planes : least;
      most = planes > most ? planes : most;
      stored += bpdq_linear_bits_per_weight(linear) * (double)(linear->rows * linear->columns);
      weights += (double)(linear->rows * linear->columns);
    }
  assert_true(stored / weights <= 4.2 && stored / weights > 3.6);
  assert_true(most > least);
  bpdq_checkpoint_close(&made);
  options.bits = 1.01;
  assert_int_equal(try_quantize("dense", "refused", &options, &error), BPDQ_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "bits"));
}

static void head_becomes_planes(void **unused) {
  (void)unused;
  char calibration[512], path[512];
  bpdq_error error = {0};
  bpdq_quantize_options options = small_options(calibration);
  static const int BITS[] = {8, 4};
  for (int i = 0; i < 2; i++) {
    options.head_bits = BITS[i];
    const char *name = i ? "head-4" : "head-8";
    quantize(name, &options);
    bpdq_checkpoint made;
    if (bpdq_checkpoint_open(path_in(name, path), &made, NULL, &error) != BPDQ_OK) fail_msg("%s", error.message);
    assert_true(made.config.quantization.lm_head);
    assert_int_equal(made.head.planes, BITS[i]);
    int planes, group;
    assert_true(bpdq_config_module(&made.config, "lm_head", &planes, &group));
    assert_int_equal(planes, BITS[i]);   /* the settings say so too */
    double error_square = 0, square = 0; /* of the head against the tied embedding it was made from */
    for (int64_t row = 0; row < VOCAB; row++) {
      float dense[HIDDEN];
      bpdq_stored_row_to_f32(made.embedding, row, HIDDEN, dense);
      for (int64_t j = 0; j < HIDDEN; j++) {
        double value = 0;
        for (int p = 0; p <= BITS[i]; p++) {
          uint16_t coefficient;
          uint32_t word = 1;
          memcpy(&coefficient, made.head.coefficients->data + 2 * ((j / 32 * (BITS[i] + 1) + p) * VOCAB + row), 2);
          if (p < BITS[i]) {
            memcpy(&word, made.head.bits->data + 4 * ((j / 32 * BITS[i] + p) * VOCAB + row), 4);
            word = word >> (j % 32) & 1;
          }
          if (word) value += (double)bpdq_bf16_to_float(coefficient);
        }
        error_square += (value - (double)dense[j]) * (value - (double)dense[j]);
        square += (double)dense[j] * (double)dense[j];
      }
    }
    print_message("head at %d bits: relative error %g\n", BITS[i], sqrt(error_square / square));
    assert_true(sqrt(error_square / square) < (i ? 0.3 : 0.02));
    bpdq_checkpoint_close(&made);
  }
}

/* Cancelled after the first block. */
typedef struct stopper {
  int after, seen;
} stopper;

static bool stop_later(void *user, double fraction) {
  stopper *s = user;
  assert_true(fraction >= 0 && fraction <= 1);
  return ++s->seen < s->after;
}

/* Changes the first weight of the source, or changes it back. */
static void touch_source(void) {
  char folder[512], path[600];
  uint8_t header[8], value;
  snprintf(path, sizeof path, "%s/model.safetensors", path_in("dense", folder));
  FILE *file = fopen(path, "r+b");
  assert_non_null(file);
  assert_int_equal(fread(header, 1, 8, file), 8);
  long first = 8 + header[0] + header[1] * 256L + header[2] * 65536L;
  assert_int_equal(fseek(file, first, SEEK_SET), 0);
  assert_int_equal(fread(&value, 1, 1, file), 1);
  value ^= 1;
  assert_int_equal(fseek(file, first, SEEK_SET), 0);
  assert_int_equal(fwrite(&value, 1, 1, file), 1);
  assert_int_equal(fclose(file), 0);
}

static void resuming_gives_the_same_files(void **unused) {
  (void)unused;
  char calibration[512];
  bpdq_error error = {0};
  bpdq_quantize_options options = small_options(calibration);
  quantize("whole", &options);
  static const int MOMENTS[] = {1, 5, 11, 12, 17, 21};
  for (size_t i = 0; i < sizeof MOMENTS / sizeof *MOMENTS; i++) {
    char name[32], block[64];
    sprintf(name, "resumed-%zu", i);
    sprintf(block, "%s.partial/block-00000.json", name);
    stopper stop = {MOMENTS[i], 0};
    options.progress = stop_later;
    options.progress_user = &stop;
    options.resume = false;
    assert_int_equal(try_quantize("dense", name, &options, &error), BPDQ_ERROR_CANCELLED);
    assert_false(exists(name));
    options.progress = NULL;
    if (MOMENTS[i] > 11) { /* a block is done: not thrown away without a word, nor continued with other settings */
      assert_int_equal(try_quantize("dense", name, &options, &error), BPDQ_ERROR_ARGUMENT);
      assert_non_null(strstr(error.message, "--resume"));
      options.resume = true;
      options.planes = 3;
      assert_int_equal(try_quantize("dense", name, &options, &error), BPDQ_ERROR_ARGUMENT);
      assert_non_null(strstr(error.message, "planes"));
      options.planes = 2;
      touch_source();
      assert_int_equal(try_quantize("dense", name, &options, &error), BPDQ_ERROR_ARGUMENT);
      assert_non_null(strstr(error.message, "source_weights"));
      touch_source();
      assert_true(exists(block)); /* a refusal costs nothing of what is done */
    }
    options.resume = true;
    quantize(name, &options);
    assert_same_folder("whole", name);
    char partial[64];
    sprintf(partial, "%s.partial", name);
    assert_false(exists(partial));
  }
}

static void threads_do_not_matter(void **unused) {
  (void)unused;
  char calibration[512];
  bpdq_quantize_options options = small_options(calibration);
  options.threads = 1;
  quantize("one-thread", &options);
  options.threads = 3;
  quantize("three-threads", &options);
  assert_same_folder("one-thread", "three-threads");
}

static void note_objective(void *user, const bpdq_layer_report *report) {
  double *objectives = user;
  objectives[report->layer_index] = report->objective_target;
}

/* Parts that share windows, tokens and rows: about the same model as one alone, and always the same one, also after an interruption. */
static void several_algebras_make_one_model(void **unused) {
  (void)unused;
  char calibration[512];
  bpdq_error error = {0};
  bpdq_quantize_options options = small_options(calibration);
  double one[LAYERS * BPDQ_LINEARS], several[LAYERS * BPDQ_LINEARS];
  options.layer_done = note_objective;
  options.layer_user = one;
  quantize("one", &options);
  options.layer_user = several;
  static const char *const NAMES[] = {"cpu+cpu", "cpu+cpu+cpu"};
  for (int i = 0; i < 2; i++) {
    options.algebra = NAMES[i];
    quantize(NAMES[i], &options);
    check_folder(NAMES[i], 2, 32);
    for (int j = 0; j < LAYERS * BPDQ_LINEARS; j++) assert_true(fabs(several[j] / one[j] - 1) < 0.01);
  }
  stopper stop = {17, 0};
  options.progress = stop_later;
  options.progress_user = &stop;
  assert_int_equal(try_quantize("dense", "interrupted", &options, &error), BPDQ_ERROR_CANCELLED);
  options.progress = NULL;
  options.resume = true;
  options.threads = 1;
  quantize("interrupted", &options);
  assert_same_folder("cpu+cpu+cpu", "interrupted");
  options.samples = 1; /* fewer windows than parts */
  options.head_bits = 4;
  options.resume = false;
  quantize("one-window", &options);
  check_folder("one-window", 2, 32);
}

static void existing_folders_are_safe(void **unused) {
  (void)unused;
  char calibration[512];
  bpdq_error error = {0};
  bpdq_quantize_options options = small_options(calibration);
  options.method = BPDQ_METHOD_RTN;
  quantize("existing", &options);
  assert_int_equal(try_quantize("dense", "existing", &options, &error), BPDQ_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "--overwrite"));
  assert_false(exists("existing.partial"));
  options.overwrite = true;
  options.planes = 4;
  quantize("existing", &options);
  check_folder("existing", 4, 32);
  char path[512];
  bpdq_file_lock *lock;
  assert_int_equal(bpdq_make_folder(path_in("busy.partial", path), NULL), BPDQ_OK);
  assert_int_equal(bpdq_lock_file(path_in("busy.partial/lock", path), &lock, NULL), BPDQ_OK);
  assert_int_equal(try_quantize("dense", "busy", &options, &error), BPDQ_ERROR_IO);
  assert_true(exists("busy.partial"));
  bpdq_unlock_file(lock);
  quantize("busy", &options);
}

/* Copies the model "dense" with config.json ending in `more`. */
static void copy_model(const char *name, const char *more) {
  char command[1300], file[128], path[512], *text = NULL, *brace = NULL;
  size_t size;
  sprintf(command, "cp -r '%s/dense' '%s/%s'", folder, folder, name);
  assert_int_equal(system(command), 0);
  snprintf(file, sizeof file, "%s/config.json", name);
  assert_int_equal(bpdq_read_file(path_in(file, path), 1 << 20, &text, &size, NULL), BPDQ_OK);
  brace = strrchr(text, '}');
  assert_non_null(brace);
  char config[2048];
  size = (size_t)snprintf(config, sizeof config, "%.*s%s}", (int)(brace - text), text, more);
  free(text);
  write_text(file, config, size);
}

static void null_settings_are_replaced(void **unused) {
  (void)unused;
  char calibration[512];
  bpdq_error error = {0};
  bpdq_quantize_options options = small_options(calibration);
  options.method = BPDQ_METHOD_RTN;
  copy_model("null", ", \"quantization_config\": null");
  if (try_quantize("null", "of-null", &options, &error) != BPDQ_OK) fail_msg("%s", error.message);
  check_folder("of-null", 2, 32);
}

/* Names of files are bytes; settings.json, where the source is noted, is UTF-8. */
static void any_path_is_a_source(void **unused) {
  (void)unused;
  char calibration[512];
  bpdq_error error = {0};
  bpdq_quantize_options options = small_options(calibration);
  options.method = BPDQ_METHOD_RTN;
  copy_model("caf\xe9", "");
  if (try_quantize("caf\xe9", "of-latin", &options, &error) != BPDQ_OK) fail_msg("%s", error.message);
  check_folder("of-latin", 2, 32);
}

/* A decoder saved on its own has no "model." before the names of its tensors: the checkpoint made of it has. */
static void bare_decoder_becomes_a_whole_model(void **unused) {
  (void)unused;
  char calibration[512], path[600];
  bpdq_error error = {0};
  bpdq_quantize_options options = small_options(calibration);
  bpdq_safetensors *file;
  copy_model("bare", "");
  quantize("of-whole", &options);
  assert_int_equal(bpdq_safetensors_open(path_in("dense/model.safetensors", path), &file, NULL), BPDQ_OK);
  size_t count = bpdq_safetensors_count(file);
  bpdq_tensor_to_write tensors[64];
  assert_true(count <= sizeof tensors / sizeof *tensors);
  for (size_t i = 0; i < count; i++) {
    const bpdq_stored_tensor *t = bpdq_safetensors_at(file, i);
    assert_int_equal(strncmp(t->name, "model.", 6), 0);
    tensors[i] = (bpdq_tensor_to_write){.name = t->name + 6, .type = t->type, .dimensions = t->dimensions, .data = t->data};
    memcpy(tensors[i].shape, t->shape, sizeof tensors[i].shape);
  }
  assert_int_equal(bpdq_safetensors_write(path_in("bare/model.safetensors", path), tensors, count, NULL, NULL), BPDQ_OK);
  bpdq_safetensors_close(file);
  if (try_quantize("bare", "of-bare", &options, &error) != BPDQ_OK) fail_msg("%s", error.message);
  check_folder("of-bare", 2, 32);
  assert_same_folder("of-whole", "of-bare");
}

/* Notes that someone puts under the output's name while the run lasts. */
static bool make_destination(void *user, double fraction) {
  (void)fraction;
  char path[512], file[128];
  if (exists(user)) return true;
  assert_int_equal(bpdq_make_folder(path_in(user, path), NULL), BPDQ_OK);
  snprintf(file, sizeof file, "%s/precious", (const char *)user);
  write_text(file, "x", 1);
  return true;
}

static void folders_made_meanwhile_are_safe(void **unused) {
  (void)unused;
  char calibration[512], command[600];
  bpdq_error error = {0};
  bpdq_quantize_options options = small_options(calibration);
  options.method = BPDQ_METHOD_RTN;
  options.progress = make_destination;
  options.progress_user = "meanwhile";
  for (int i = 0; i < 2; i++) { /* --overwrite is for model folders */
    options.overwrite = i;
    options.resume = i;
    assert_int_equal(try_quantize("dense", "meanwhile", &options, &error), BPDQ_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "meanwhile"));
    assert_true(exists("meanwhile/precious"));
    assert_true(exists("meanwhile.partial/block-00001.json"));
  }
  sprintf(command, "%s/meanwhile", folder);
  assert_int_equal(bpdq_remove_folder(command, NULL), BPDQ_OK);
  options.progress = NULL;
  options.resume = true;
  quantize("meanwhile", &options);
  check_folder("meanwhile", 2, 32);
}

/* The output never takes the source's place, whatever the options and however the two are written. */
static void sources_are_safe(void **unused) {
  (void)unused;
  char calibration[512], path[512], link[512], command[600];
  bpdq_error error = {0};
  bpdq_quantize_options options = small_options(calibration);
  options.method = BPDQ_METHOD_RTN;
  options.overwrite = true;
  copy_model("source", "");
  assert_int_equal(symlink(path_in("source", path), path_in("link", link)), 0);
  sprintf(command, "cp -r '%s/dense' '%s/source/inner'", folder, folder);
  assert_int_equal(system(command), 0);
  static const char *const PAIRS[][2] = {
      {"source", "source"}, {"source", "source/../source"}, {"link", "source"}, {"source", "link"}, {"source/inner", "source"}};
  for (size_t i = 0; i < sizeof PAIRS / sizeof *PAIRS; i++) {
    assert_int_equal(try_quantize(PAIRS[i][0], PAIRS[i][1], &options, &error), BPDQ_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "choose another"));
    assert_true(exists("source/model.safetensors"));
  }
  assert_int_equal(try_quantize("dense", "source/inner/.", &options, &error), BPDQ_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "source/inner/."));
  assert_false(exists("source/inner/..partial"));
  if (try_quantize("source", "source/inner", &options, &error) != BPDQ_OK) fail_msg("%s", error.message);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(forward_gives_the_expected_logits),
      cmocka_unit_test(every_method_writes_a_checkpoint),
      cmocka_unit_test(report_states_the_size),
      cmocka_unit_test(resuming_gives_the_same_files),
      cmocka_unit_test(threads_do_not_matter),
      cmocka_unit_test(several_algebras_make_one_model),
      cmocka_unit_test(budget_is_spent_well),
      cmocka_unit_test(bits_become_overrides),
      cmocka_unit_test(head_becomes_planes),
      cmocka_unit_test(existing_folders_are_safe),
      cmocka_unit_test(null_settings_are_replaced),
      cmocka_unit_test(any_path_is_a_source),
      cmocka_unit_test(bare_decoder_becomes_a_whole_model),
      cmocka_unit_test(folders_made_meanwhile_are_safe),
      cmocka_unit_test(sources_are_safe),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
