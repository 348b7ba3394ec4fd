/* `quantize` on whole models: the forward pass against expected logits, the written folder, interruption and resumption, refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cblas.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bpdq_quantizer.h"
#include "core/half.h"
#include "format/checkpoint.h"
#include "quantizer/budget.h"
#include "quantizer/cpu/forward.h"

enum { LAYERS = 2, HIDDEN = 64, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 16, INNER = 160, VOCAB = 300, CALIBRATION_IDS = 900 };

static char folder[] = "/tmp/bpdq-test-folder-XXXXXX";

static char *path_in(const char *name, char *path) {
  sprintf(path, "%s/%s", folder, name);
  return path;
}

static void write_text(const char *name, const char *text, size_t size) {
  char path[512];
  FILE *file = fopen(path_in(name, path), "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(text, 1, size, file), size);
  assert_int_equal(fclose(file), 0);
}

static float noise(uint32_t *state) {
  float sum = 0;
  for (int i = 0; i < 4; i++) {
    *state = *state * 1664525u + 1013904223u;
    sum += (float)(*state >> 8) / (float)(1 << 24) - 0.5f;
  }
  return sum;
}

/* ---- a small Qwen2-like model with random weights ---- */

typedef struct made_model {
  bpdq_tensor_to_write tensors[64];
  char names[64][80];
  size_t count;
  uint32_t seed;
} made_model;

static void add_tensor(made_model *m, const char *name, int64_t rows, int64_t columns, float center, float spread) {
  bpdq_tensor_to_write *to = &m->tensors[m->count];
  float *values = malloc((size_t)(rows * columns) * sizeof *values);
  assert_non_null(values);
  for (int64_t i = 0; i < rows * columns; i++) values[i] = center + spread * noise(&m->seed);
  snprintf(m->names[m->count], sizeof m->names[0], "%s", name);
  *to = (bpdq_tensor_to_write){.name = m->names[m->count], .type = BPDQ_STORED_F32, .dimensions = rows > 1 ? 2 : 1, .data = values};
  to->shape[0] = rows > 1 ? rows : columns;
  to->shape[1] = rows > 1 ? columns : 0;
  m->count++;
}

static void add_linear(made_model *m, int layer, const char *name, int64_t rows, int64_t columns, bool bias) {
  char full[128];
  snprintf(full, sizeof full, "model.layers.%d.%s.weight", layer, name);
  add_tensor(m, full, rows, columns, 0, 0.2f);
  snprintf(full, sizeof full, "model.layers.%d.%s.bias", layer, name);
  if (bias) add_tensor(m, full, 1, rows, 0, 0.1f);
}

static void make_model(const char *name) {
  char path[512], file[600], config[1024];
  assert_int_equal(bpdq_make_folder(path_in(name, path), NULL), BPDQ_OK);
  made_model *m = calloc(1, sizeof *m);
  assert_non_null(m);
  add_tensor(m, "model.embed_tokens.weight", VOCAB, HIDDEN, 0, 1);
  add_tensor(m, "model.norm.weight", 1, HIDDEN, 1, 0.1f);
  for (int layer = 0; layer < LAYERS; layer++) {
    char norm[128];
    snprintf(norm, sizeof norm, "model.layers.%d.input_layernorm.weight", layer);
    add_tensor(m, norm, 1, HIDDEN, 1, 0.1f);
    snprintf(norm, sizeof norm, "model.layers.%d.post_attention_layernorm.weight", layer);
    add_tensor(m, norm, 1, HIDDEN, 1, 0.1f);
    add_linear(m, layer, "self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN, true);
    add_linear(m, layer, "self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN, true);
    add_linear(m, layer, "self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN, true);
    add_linear(m, layer, "self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM, false);
    add_linear(m, layer, "mlp.gate_proj", INNER, HIDDEN, false);
    add_linear(m, layer, "mlp.up_proj", INNER, HIDDEN, false);
    add_linear(m, layer, "mlp.down_proj", HIDDEN, INNER, false);
  }
  sprintf(file, "%s/model.safetensors", path);
  assert_int_equal(bpdq_safetensors_write(file, m->tensors, m->count, NULL, NULL), BPDQ_OK);
  for (size_t i = 0; i < m->count; i++) free((void *)m->tensors[i].data);
  free(m);
  sprintf(
      config,
      "{\"architectures\": [\"Qwen2ForCausalLM\"], \"model_type\": \"qwen2\", \"hidden_act\": \"silu\", \"hidden_size\": %d, "
      "\"intermediate_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"vocab_size\": %d, "
      "\"max_position_embeddings\": 256, \"rms_norm_eps\": 1e-06, \"rope_theta\": 10000.0, \"tie_word_embeddings\": true}",
      HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, VOCAB);
  char relative[128];
  snprintf(relative, sizeof relative, "%s/config.json", name);
  write_text(relative, config, strlen(config));
  snprintf(relative, sizeof relative, "%s/tokenizer_config.json", name);
  write_text(relative, "{}", 2);
}

static void make_calibration(void) {
  char text[CALIBRATION_IDS * 5];
  size_t n = 0;
  uint32_t state = 7;
  for (int i = 0; i < CALIBRATION_IDS; i++) {
    state = state * 1664525u + 1013904223u;
    n += (size_t)sprintf(text + n, "%u ", (state >> 16) % VOCAB);
  }
  write_text("calibration.ids", text, n);
}

static bpdq_quantize_options small_options(char *calibration) {
  bpdq_quantize_options options = bpdq_quantize_default_options();
  options.group = 32;
  options.sequence_length = 100;
  options.samples = 0;
  options.iterations = 3;
  options.calibration_path = path_in("calibration.ids", calibration);
  return options;
}

static void quantize(const char *destination, const bpdq_quantize_options *options) {
  char source[512], path[512];
  bpdq_error error = {0};
  bpdq_quantize_summary summary;
  if (bpdq_quantize_folder(path_in("dense", source), path_in(destination, path), options, &summary, &error) != BPDQ_OK)
    fail_msg("%s", error.message);
  assert_int_equal(summary.linears, LAYERS * BPDQ_LINEARS);
}

static bpdq_status try_quantize(const char *source_name, const char *destination, const bpdq_quantize_options *options, bpdq_error *error) {
  char source[512], path[512];
  return bpdq_quantize_folder(path_in(source_name, source), path_in(destination, path), options, NULL, error);
}

static bool exists(const char *name) {
  char path[512];
  return bpdq_path_exists(path_in(name, path));
}

/* All files equal but the report, which holds times. */
static void assert_same_folder(const char *a, const char *b) {
  char command[1300];
  sprintf(command, "diff -r -x quantize_report.json '%s/%s' '%s/%s' >&2", folder, a, folder, b);
  assert_int_equal(system(command), 0);
}

/* ---- tests ---- */

static void run_model(const bpdq_checkpoint *c, const int32_t *ids, int64_t tokens, float *logits) {
  bpdq_forward forward;
  int64_t hidden = c->config.hidden_size, widest = c->config.intermediate_size;
  assert_int_equal(bpdq_forward_create(&c->config, tokens, &forward, NULL), BPDQ_OK);
  float *x = malloc((size_t)(tokens * hidden) * 4), *input = malloc((size_t)(tokens * widest) * 4), *norm = malloc((size_t)hidden * 4);
  float *scratch = malloc((size_t)bpdq_forward_scratch(&forward) * 4), *row = malloc((size_t)hidden * 4);
  for (int64_t t = 0; t < tokens; t++) bpdq_stored_row_to_f32(c->embedding, ids[t], hidden, x + t * hidden);
  for (int64_t layer = 0; layer < c->config.layers; layer++) {
    bpdq_block block;
    assert_int_equal(bpdq_block_load(c, layer, &block, NULL), BPDQ_OK);
    bpdq_forward_attention(&forward, &block, x, tokens, input, scratch);
    bpdq_forward_add(&block.linears[BPDQ_O], input, tokens, x);
    bpdq_forward_gate(&forward, &block, x, tokens, input, scratch);
    bpdq_forward_add(&block.linears[BPDQ_DOWN], input, tokens, x);
    bpdq_block_free(&block);
  }
  bpdq_stored_row_to_f32(c->final_norm, 0, hidden, norm);
  bpdq_forward_norm(&forward, norm, x, tokens, input);
  for (int64_t v = 0; v < c->config.vocab_size; v++) {
    bpdq_stored_row_to_f32(c->embedding, v, hidden, row);
    for (int64_t t = 0; t < tokens; t++) logits[t * c->config.vocab_size + v] = cblas_sdot((int)hidden, input + t * hidden, 1, row, 1);
  }
  free(x);
  free(input);
  free(norm);
  free(scratch);
  free(row);
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

/* The folder opens as a checkpoint with the planes and group asked for, and holds everything else unchanged. */
static void check_folder(const char *name, int planes, int group) {
  char path[512], source[512];
  bpdq_checkpoint made, dense;
  bpdq_error error = {0};
  if (bpdq_checkpoint_open(path_in(name, path), &made, NULL, &error) != BPDQ_OK) fail_msg("%s", error.message);
  assert_int_equal(bpdq_checkpoint_open(path_in("dense", source), &dense, NULL, &error), BPDQ_OK);
  assert_true(made.config.quantization.present);
  assert_int_equal(made.config.quantization.planes, planes);
  assert_int_equal(made.config.quantization.group, group);
  assert_int_equal(made.config.quantization.bits, 8);
  assert_memory_equal(made.embedding->data, dense.embedding->data, dense.embedding->bytes);
  for (int layer = 0; layer < LAYERS; layer++) {
    assert_memory_equal(made.layers[layer].mlp_norm->data, dense.layers[layer].mlp_norm->data, HIDDEN * 4);
    assert_memory_equal(made.layers[layer].q.bias->data, dense.layers[layer].q.bias->data, dense.layers[layer].q.bias->bytes);
    for (int i = 0; i < BPDQ_LINEARS; i++) {
      const bpdq_linear_source *linear = bpdq_block_source(&made.layers[layer], i);
      assert_int_equal(linear->planes, planes);
      assert_int_equal(linear->group, group);
      assert_int_equal(linear->coefficients->type, BPDQ_STORED_BF16);
    }
  }
  bpdq_checkpoint_close(&made);
  bpdq_checkpoint_close(&dense);
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

static void resuming_gives_the_same_files(void **unused) {
  (void)unused;
  char calibration[512];
  bpdq_error error = {0};
  bpdq_quantize_options options = small_options(calibration);
  quantize("whole", &options);
  static const int MOMENTS[] = {1, 5, 11, 12, 17, 21};
  for (size_t i = 0; i < sizeof MOMENTS / sizeof *MOMENTS; i++) {
    char name[32];
    sprintf(name, "resumed-%zu", i);
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

static bpdq_status with_calibration(const char *name, const char *text, size_t size, bpdq_error *error) {
  char path[512];
  write_text(name, text, size);
  bpdq_quantize_options options = small_options(path);
  options.calibration_path = path_in(name, path);
  bpdq_status status = try_quantize("dense", "refused", &options, error);
  assert_false(exists("refused"));
  assert_false(exists("refused.partial"));
  return status;
}

static void bad_input_is_refused(void **unused) {
  (void)unused;
  bpdq_error error = {0};
  assert_int_equal(with_calibration("empty.ids", "", 0, &error), BPDQ_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "empty"));
  assert_int_equal(with_calibration("short.ids", "1 2 3", 5, &error), BPDQ_ERROR_FORMAT);
  assert_int_equal(with_calibration("range.ids", "1 2 999999999999", 16, &error), BPDQ_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "vocabulary"));
  assert_int_equal(with_calibration("words.ids", "1 2 x", 5, &error), BPDQ_ERROR_FORMAT);
  char path[512];
  bpdq_quantize_options options = small_options(path);
  options.calibration_path = NULL;
  assert_int_equal(try_quantize("dense", "refused", &options, &error), BPDQ_ERROR_ARGUMENT);
  options.calibration_path = "/nonexistent/calibration.txt";
  assert_int_equal(try_quantize("dense", "refused", &options, &error), BPDQ_ERROR_IO);
  options = small_options(path);
  options.method = BPDQ_METHOD_RTN;
  quantize("quantized", &options);
  assert_int_equal(try_quantize("quantized", "refused", &options, &error), BPDQ_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "already"));
  assert_int_equal(try_quantize("nowhere", "refused", &options, &error), BPDQ_ERROR_IO);
  write_text("a-file", "x", 1);
  assert_int_not_equal(try_quantize("dense", "a-file/out", &options, &error), BPDQ_OK);
}

static int set_up(void **unused) {
  (void)unused;
  if (!mkdtemp(folder)) return -1;
  make_model("dense");
  make_calibration();
  return 0;
}

static int tear_down(void **unused) {
  (void)unused;
  return bpdq_remove_folder(folder, NULL) == BPDQ_OK ? 0 : -1;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(forward_gives_the_expected_logits),
      cmocka_unit_test(every_method_writes_a_checkpoint),
      cmocka_unit_test(resuming_gives_the_same_files),
      cmocka_unit_test(threads_do_not_matter),
      cmocka_unit_test(several_algebras_make_one_model),
      cmocka_unit_test(budget_is_spent_well),
      cmocka_unit_test(bits_become_overrides),
      cmocka_unit_test(head_becomes_planes),
      cmocka_unit_test(existing_folders_are_safe),
      cmocka_unit_test(bad_input_is_refused),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
