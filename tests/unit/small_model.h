/* A small Qwen2-like model with random weights as the folder "dense", token ids to calibrate with, and what quantizing tests do with them.
 * Include after cmocka.h; set_up and tear_down go into cmocka_run_group_tests. */
#ifndef BPDQ_TESTS_UNIT_SMALL_MODEL_H
#define BPDQ_TESTS_UNIT_SMALL_MODEL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../temporary.h"
#include "bpdq_quantizer.h"
#include "core/platform.h"
#include "format/checkpoint.h"
#include "quantizer/block.h"

enum { LAYERS = 2, HIDDEN = 64, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 16, INNER = 160, VOCAB = 300, CALIBRATION_IDS = 900 };

static char folder[192]; /* short enough for the paths and commands that tests build */

static inline char *path_in(const char *name, char *path) {
  sprintf(path, "%s/%s", folder, name);
  return path;
}

static inline void write_text(const char *name, const char *text, size_t size) {
  char path[512];
  FILE *file = fopen(path_in(name, path), "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(text, 1, size, file), size);
  assert_int_equal(fclose(file), 0);
}

static inline float noise(uint32_t *state) {
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

static inline void add_tensor(made_model *m, const char *name, int64_t rows, int64_t columns, float center, float spread) {
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

static inline void add_linear(made_model *m, int layer, const char *name, int64_t rows, int64_t columns, bool bias) {
  char full[128];
  snprintf(full, sizeof full, "model.layers.%d.%s.weight", layer, name);
  add_tensor(m, full, rows, columns, 0, 0.2f);
  snprintf(full, sizeof full, "model.layers.%d.%s.bias", layer, name);
  if (bias) add_tensor(m, full, 1, rows, 0, 0.1f);
}

static inline void make_model(const char *name) {
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

static inline void make_calibration(void) {
  char text[CALIBRATION_IDS * 5];
  size_t n = 0;
  uint32_t state = 7;
  for (int i = 0; i < CALIBRATION_IDS; i++) {
    state = state * 1664525u + 1013904223u;
    n += (size_t)sprintf(text + n, "%u ", (state >> 16) % VOCAB);
  }
  write_text("calibration.ids", text, n);
}

static inline bpdq_quantize_options small_options(char *calibration) {
  bpdq_quantize_options options = bpdq_quantize_default_options();
  options.group = 32;
  options.sequence_length = 100;
  options.samples = 0;
  options.iterations = 3;
  options.calibration_path = path_in("calibration.ids", calibration);
  return options;
}

static inline void quantize(const char *destination, const bpdq_quantize_options *options) {
  char source[512], path[512];
  bpdq_error error = {0};
  bpdq_quantize_summary summary;
  if (bpdq_quantize_folder(path_in("dense", source), path_in(destination, path), options, &summary, &error) != BPDQ_OK)
    fail_msg("%s", error.message);
  assert_int_equal(summary.linears, LAYERS * BPDQ_LINEARS);
}

static inline bpdq_status try_quantize(const char *source_name, const char *destination, const bpdq_quantize_options *options,
                                       bpdq_error *error) {
  char source[512], path[512];
  return bpdq_quantize_folder(path_in(source_name, source), path_in(destination, path), options, NULL, error);
}

static inline bool exists(const char *name) {
  char path[512];
  return bpdq_path_exists(path_in(name, path));
}

/* All files equal but the report, which holds times. */
static inline void assert_same_folder(const char *a, const char *b) {
  char command[1300];
  sprintf(command, "diff -r -x quantize_report.json '%s/%s' '%s/%s' >&2", folder, a, folder, b);
  assert_int_equal(system(command), 0);
}

/* The folder opens as a checkpoint with the planes and group asked for, and holds everything else unchanged. */
static inline void check_folder(const char *name, int planes, int group) {
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

/* ---- the folder that holds the model and the calibration ---- */

static inline int set_up(void **unused) {
  (void)unused;
  if (!temporary_folder(folder, sizeof folder, "bpdq-test-folder")) return -1;
  make_model("dense");
  make_calibration();
  return 0;
}

static inline int tear_down(void **unused) {
  (void)unused;
  return bpdq_remove_folder(folder, NULL) == BPDQ_OK ? 0 : -1;
}

#endif
