/* A model folder as a whole: which tensors are found, what their shapes imply, and what must be refused. Small checkpoints are
 * written here, one deviation each. */
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

#include "core/half.h"
#include "format/checkpoint.h"
#include "unit/scratch.h"

enum { VOCAB = 10, HIDDEN = 64, INNER = 80, MAX_TENSORS = 64 };

/* The tensors of a model before they are written; every one has the same (zero) bytes. */
typedef struct draft {
  bpdq_tensor_to_write tensors[MAX_TENSORS];
  char names[MAX_TENSORS][96];
  size_t count;
} draft;

static const uint8_t zeros[1 << 20];

static void add(draft *model, const char *name, bpdq_stored_type type, int dimensions, int64_t a, int64_t b, int64_t c) {
  assert_true(model->count < MAX_TENSORS);
  snprintf(model->names[model->count], sizeof model->names[0], "%s", name);
  model->tensors[model->count] =
      (bpdq_tensor_to_write){.name = model->names[model->count], .type = type, .dimensions = dimensions, .shape = {a, b, c}, .data = zeros};
  model->count++;
}

static void add_planes(draft *model, const char *module, int64_t rows, int64_t columns, int planes, int group) {
  int64_t groups = (columns + group - 1) / group;
  char name[96];
  snprintf(name, sizeof name, "%s.B", module);
  add(model, name, BPDQ_STORED_I32, 3, groups * group / 32, planes, rows);
  snprintf(name, sizeof name, "%s.c", module);
  add(model, name, BPDQ_STORED_BF16, 3, groups, planes + 1, rows);
}

/* One Llama layer, k=2 g=32, untied head: 2 heads of 32, 1 key/value head. */
static draft small_model(void) {
  draft model = {0};
  add(&model, "model.embed_tokens.weight", BPDQ_STORED_BF16, 2, VOCAB, HIDDEN, 0);
  add(&model, "model.norm.weight", BPDQ_STORED_BF16, 1, HIDDEN, 0, 0);
  add(&model, "lm_head.weight", BPDQ_STORED_F16, 2, VOCAB, HIDDEN, 0);
  add(&model, "model.layers.0.input_layernorm.weight", BPDQ_STORED_F32, 1, HIDDEN, 0, 0);
  add(&model, "model.layers.0.post_attention_layernorm.weight", BPDQ_STORED_BF16, 1, HIDDEN, 0, 0);
  add_planes(&model, "model.layers.0.self_attn.q_proj", HIDDEN, HIDDEN, 2, 32);
  add_planes(&model, "model.layers.0.self_attn.k_proj", 32, HIDDEN, 2, 32);
  add_planes(&model, "model.layers.0.self_attn.v_proj", 32, HIDDEN, 2, 32);
  add_planes(&model, "model.layers.0.self_attn.o_proj", HIDDEN, HIDDEN, 2, 32);
  add_planes(&model, "model.layers.0.mlp.gate_proj", INNER, HIDDEN, 2, 32);
  add_planes(&model, "model.layers.0.mlp.up_proj", INNER, HIDDEN, 2, 32);
  add_planes(&model, "model.layers.0.mlp.down_proj", HIDDEN, INNER, 2, 32);
  return model;
}

static bpdq_tensor_to_write *tensor_named(draft *model, const char *name) {
  for (size_t i = 0; i < model->count; i++)
    if (strcmp(model->names[i], name) == 0) return &model->tensors[i];
  fail_msg("no tensor %s in the draft", name);
  return NULL;
}

static void remove_tensor(draft *model, const char *name) {
  bpdq_tensor_to_write *tensor = tensor_named(model, name);
  size_t index = (size_t)(tensor - model->tensors);
  model->count--;
  memcpy(model->names[index], model->names[model->count], sizeof model->names[0]);
  model->tensors[index] = model->tensors[model->count];
  model->tensors[index].name = model->names[index];
}

static void remove_planes(draft *model, const char *module) {
  char name[96];
  snprintf(name, sizeof name, "%s.B", module);
  remove_tensor(model, name);
  snprintf(name, sizeof name, "%s.c", module);
  remove_tensor(model, name);
}

typedef struct log_record {
  int warnings;
  char last[1024];
} log_record;

static void record(void *user, bpdq_log_level level, const char *line) {
  log_record *log = user;
  if (level == BPDQ_LOG_WARNING) log->warnings++;
  snprintf(log->last, sizeof log->last, "%s", line);
}

/* Writes the draft (as it is in this stack frame) with `more` config keys and opens it. */
static bpdq_status open_draft(draft *model, const char *more, bpdq_checkpoint *checkpoint, log_record *log, bpdq_error *error) {
  for (size_t i = 0; i < model->count; i++) model->tensors[i].name = model->names[i];
  scratch_folder("draft");
  char config[2048];
  snprintf(config, sizeof config,
           "{\"model_type\":\"llama\",\"vocab_size\":%d,\"hidden_size\":%d,\"intermediate_size\":%d,\"num_hidden_layers\":1,"
           "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"quantization_config\":{\"quant_method\":\"bpdq\",\"group_size\":32,"
           "\"msbits\":2}%s}",
           VOCAB, HIDDEN, INNER, more);
  scratch_write_text("draft/config.json", config);
  char *path = scratch_path("draft/model.safetensors");
  assert_int_equal(bpdq_safetensors_write(path, model->tensors, model->count, NULL, NULL), BPDQ_OK);
  free(path);
  *log = (log_record){0};
  const bpdq_log sink = {record, log};
  char *folder = scratch_path("draft");
  bpdq_status status = bpdq_checkpoint_open(folder, checkpoint, &sink, error);
  free(folder);
  return status;
}

static bpdq_checkpoint open_good(draft *model, const char *more, log_record *log) {
  bpdq_checkpoint checkpoint;
  bpdq_error error = {0};
  if (open_draft(model, more, &checkpoint, log, &error) != BPDQ_OK) fail_msg("%s", error.message);
  return checkpoint;
}

static void expect_refused(draft *model, const char *more, const char *message) {
  bpdq_checkpoint checkpoint;
  bpdq_error error = {0};
  log_record log;
  assert_int_equal(open_draft(model, more, &checkpoint, &log, &error), BPDQ_ERROR_FORMAT);
  assert_contains(error.message, message);
  assert_null(checkpoint.folder);
  assert_null(checkpoint.layers);
  bpdq_checkpoint_close(&checkpoint);
}

static void a_small_model_is_found_whole(void **state) {
  (void)state;
  draft model = small_model();
  log_record log;
  bpdq_checkpoint checkpoint = open_good(&model, "", &log);
  assert_int_equal(log.warnings, 0);
  const bpdq_layer_source *layer = &checkpoint.layers[0];
  assert_string_equal(layer->down.name, "model.layers.0.mlp.down_proj");
  assert_int_equal(layer->down.rows, HIDDEN);
  assert_int_equal(layer->down.columns, INNER);
  assert_int_equal(layer->k.rows, 32);
  assert_int_equal(layer->q.planes, 2);
  assert_int_equal(layer->q.group, 32);
  assert_null(layer->q.weight);
  assert_null(layer->q.bias);
  assert_null(layer->q_norm);
  assert_string_equal(layer->attention_norm->name, "model.layers.0.input_layernorm.weight");
  assert_string_equal(layer->mlp_norm->name, "model.layers.0.post_attention_layernorm.weight");
  assert_string_equal(checkpoint.head.weight->name, "lm_head.weight");
  assert_int_equal(checkpoint.head.planes, 0);
  uint64_t bytes = 0;
  for (size_t i = 0; i < bpdq_safetensors_count(checkpoint.tensors); i++) bytes += bpdq_safetensors_at(checkpoint.tensors, i)->bytes;
  assert_int_equal(checkpoint.weight_bytes, bytes);
  /* K = 80 in groups of 32 is padded to 96: 96 columns of 2 bits and 3 groups of 3 coefficients of 16 bits per row. */
  assert_true(fabs(bpdq_linear_bits_per_weight(&layer->down) - (96 * 2 + 3 * 3 * 16) / 80.0) < 1e-12);
  assert_true(bpdq_linear_bits_per_weight(&layer->q) == 2 + 3 * 16 / 32.0);
  bpdq_checkpoint_close(&checkpoint);
  bpdq_checkpoint_close(&checkpoint);
}

static void planes_and_groups_come_from_the_shapes(void **state) {
  (void)state;
  for (int planes = 1; planes <= 8; planes++) {
    for (int group = 32; group <= 256; group += 32) {
      draft model = small_model();
      remove_planes(&model, "model.layers.0.mlp.down_proj");
      add_planes(&model, "model.layers.0.mlp.down_proj", HIDDEN, INNER, planes, group);
      log_record log;
      bpdq_checkpoint checkpoint = open_good(&model, "", &log);
      assert_int_equal(checkpoint.layers[0].down.planes, planes);
      assert_int_equal(checkpoint.layers[0].down.group, group);
      bool as_configured = planes == 2 && group == 32;
      assert_int_equal(log.warnings, !as_configured);
      if (!as_configured) assert_contains(log.last, "1 linear layers are not as quantization_config says");
      bpdq_checkpoint_close(&checkpoint);
    }
  }
}

static void bad_planes_are_refused(void **state) {
  (void)state;
  static const struct {
    const char *name;
    bpdq_stored_type type;
    int dimensions;
    int64_t shape[3];
    const char *message;
  } cases[] = {
      {"q_proj.B", BPDQ_STORED_I64, 3, {2, 2, 64}, "must be I32"},
      {"q_proj.B", BPDQ_STORED_I32, 2, {2, 128, 0}, "3 dimensions"},
      {"q_proj.B", BPDQ_STORED_I32, 3, {2, 9, 64}, "1 to 8 bit-planes"},
      {"q_proj.B", BPDQ_STORED_I32, 3, {2, 0, 64}, "1 to 8 bit-planes"},
      {"q_proj.B", BPDQ_STORED_I32, 3, {2, 2, 63}, "the 64 rows"},
      {"q_proj.B", BPDQ_STORED_I32, 3, {0, 2, 64}, "does not hold the 64 columns"},
      {"q_proj.c", BPDQ_STORED_BF16, 3, {4, 3, 64}, "groups of 16"},
      {"q_proj.B", BPDQ_STORED_I32, 3, {4, 2, 64}, "but config.json asks for 64 columns"},
      {"q_proj.B", BPDQ_STORED_I32, 3, {1000, 2, 64}, "does not hold the 64 columns"},
      {"q_proj.c", BPDQ_STORED_I32, 3, {2, 3, 64}, "BF16, F16 or F32"},
      {"q_proj.c", BPDQ_STORED_BF16, 2, {2, 192, 0}, "3 dimensions"},
      {"q_proj.c", BPDQ_STORED_BF16, 3, {2, 2, 64}, "must have 3 coefficients"},
      {"q_proj.c", BPDQ_STORED_BF16, 3, {2, 4, 64}, "must have 3 coefficients"},
      {"q_proj.c", BPDQ_STORED_BF16, 3, {2, 3, 65}, "the 64 rows"},
      {"q_proj.c", BPDQ_STORED_BF16, 3, {0, 3, 64}, "does not divide"},
      {"q_proj.c", BPDQ_STORED_BF16, 3, {3, 3, 64}, "does not divide"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    draft model = small_model();
    char name[96];
    snprintf(name, sizeof name, "model.layers.0.self_attn.%s", cases[i].name);
    bpdq_tensor_to_write *tensor = tensor_named(&model, name);
    tensor->type = cases[i].type;
    tensor->dimensions = cases[i].dimensions;
    memcpy(tensor->shape, cases[i].shape, sizeof cases[i].shape);
    expect_refused(&model, "", cases[i].message);
    expect_refused(&model, "", cases[i].name);
  }
}

static void a_missing_tensor_is_named(void **state) {
  (void)state;
  draft whole = small_model();
  for (size_t i = 0; i < whole.count; i++) {
    draft model = small_model();
    const char *name = whole.names[i];
    remove_tensor(&model, name);
    expect_refused(&model, "", name);
    expect_refused(&model, "", "is missing");
  }
}

static void wrong_dense_tensors_are_refused(void **state) {
  (void)state;
  static const char *const names[] = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
                                      "model.layers.0.input_layernorm.weight"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    draft model = small_model();
    tensor_named(&model, names[i])->type = BPDQ_STORED_I16;
    expect_refused(&model, "", "must be F32, F16 or BF16");
    model = small_model();
    tensor_named(&model, names[i])->shape[0]++;
    expect_refused(&model, "", names[i]);
    tensor_named(&model, names[i])->shape[0] = 0;
    expect_refused(&model, "", "that config.json asks for");
    model = small_model();
    tensor_named(&model, names[i])->dimensions = 3;
    tensor_named(&model, names[i])->shape[2] = 1;
    expect_refused(&model, "", names[i]);
  }
}

static void dense_layers_may_stand_beside_quantized_ones(void **state) {
  (void)state;
  draft model = small_model();
  remove_planes(&model, "model.layers.0.mlp.down_proj");
  add(&model, "model.layers.0.mlp.down_proj.weight", BPDQ_STORED_BF16, 2, HIDDEN, INNER, 0);
  log_record log;
  bpdq_checkpoint checkpoint = open_good(&model, "", &log);
  assert_int_equal(log.warnings, 1);
  assert_contains(log.last, "model.layers.0.mlp.down_proj is stored as dense, the settings say 2 planes, group 32");
  assert_non_null(checkpoint.layers[0].down.weight);
  assert_int_equal(checkpoint.layers[0].down.planes, 0);
  assert_true(bpdq_linear_bits_per_weight(&checkpoint.layers[0].down) == 0);
  bpdq_checkpoint_close(&checkpoint);

  add_planes(&model, "model.layers.0.mlp.down_proj", HIDDEN, INNER, 2, 32);
  expect_refused(&model, "", "both dense");
}

static void biases_are_required_where_the_config_says_so(void **state) {
  (void)state;
  static const char *const attention[] = {"q_proj", "k_proj", "v_proj", "o_proj"};
  draft model = small_model();
  expect_refused(&model, ",\"attention_bias\":true", "q_proj.bias' is missing");
  expect_refused(&model, ",\"mlp_bias\":true", "gate_proj.bias' is missing");
  for (size_t i = 0; i < 4; i++) {
    char name[96];
    snprintf(name, sizeof name, "model.layers.0.self_attn.%s.bias", attention[i]);
    add(&model, name, BPDQ_STORED_F32, 1, i == 0 || i == 3 ? HIDDEN : 32, 0, 0);
  }
  log_record log;
  bpdq_checkpoint checkpoint = open_good(&model, ",\"attention_bias\":true", &log);
  assert_int_equal(log.warnings, 0);
  assert_non_null(checkpoint.layers[0].o.bias);
  assert_null(checkpoint.layers[0].gate.bias);
  bpdq_checkpoint_close(&checkpoint);
  checkpoint = open_good(&model, "", &log);
  assert_int_equal(log.warnings, 1);
  assert_contains(log.last, "4 biases that config.json does not mention");
  assert_non_null(checkpoint.layers[0].q.bias);
  bpdq_checkpoint_close(&checkpoint);
  tensor_named(&model, "model.layers.0.self_attn.k_proj.bias")->shape[0] = 31;
  expect_refused(&model, ",\"attention_bias\":true", "k_proj.bias");
}

static void heads_are_tied_as_in_transformers(void **state) {
  (void)state;
  log_record log;
  draft model = small_model();
  bpdq_checkpoint checkpoint = open_good(&model, ",\"tie_word_embeddings\":true", &log);
  assert_ptr_equal(checkpoint.head.weight, checkpoint.embedding);
  assert_true(checkpoint.config.tied_head);
  assert_contains(log.last, "1 tensors are not used");
  assert_contains(log.last, "lm_head.weight");
  bpdq_checkpoint_close(&checkpoint);
  remove_tensor(&model, "lm_head.weight");
  expect_refused(&model, "", "'lm_head.weight' is missing and tie_word_embeddings is false");
  add_planes(&model, "lm_head", VOCAB, HIDDEN, 4, 64);
  for (int tied = 0; tied < 2; tied++) {
    checkpoint = open_good(&model, tied ? ",\"tie_word_embeddings\":true" : "", &log);
    assert_false(checkpoint.config.tied_head);
    assert_null(checkpoint.head.weight);
    assert_int_equal(checkpoint.head.planes, 4);
    assert_int_equal(checkpoint.head.group, 64);
    bpdq_checkpoint_close(&checkpoint);
  }
}

static void names_without_the_prefix_are_found_unless_ambiguous(void **state) {
  (void)state;
  draft model = small_model();
  remove_tensor(&model, "lm_head.weight");
  for (size_t i = 0; i < model.count; i++) memmove(model.names[i], model.names[i] + 6, strlen(model.names[i] + 6) + 1);
  log_record log;
  bpdq_checkpoint checkpoint = open_good(&model, ",\"tie_word_embeddings\":true", &log);
  assert_int_equal(log.warnings, 0);
  assert_string_equal(checkpoint.layers[0].q.name, "model.layers.0.self_attn.q_proj");
  assert_string_equal(checkpoint.layers[0].q.bits->name, "layers.0.self_attn.q_proj.B");
  bpdq_checkpoint_close(&checkpoint);
  add(&model, "model.embed_tokens.weight", BPDQ_STORED_BF16, 2, VOCAB, HIDDEN, 0);
  expect_refused(&model, ",\"tie_word_embeddings\":true", "both 'model.embed_tokens.weight' and");
}

static void unused_tensors_give_one_warning(void **state) {
  (void)state;
  draft model = small_model();
  add(&model, "model.layers.0.self_attn.rotary_emb.inv_freq", BPDQ_STORED_F32, 1, 16, 0, 0);
  log_record log;
  bpdq_checkpoint checkpoint = open_good(&model, "", &log);
  assert_int_equal(log.warnings, 0);
  bpdq_checkpoint_close(&checkpoint);
  add(&model, "vision.b", BPDQ_STORED_F32, 1, 16, 0, 0);
  add(&model, "vision.a", BPDQ_STORED_OTHER - 1, 1, 16, 0, 0);
  checkpoint = open_good(&model, "", &log);
  assert_int_equal(log.warnings, 1);
  assert_contains(log.last, "2 tensors are not used");
  assert_contains(log.last, "vision.a");
  bpdq_checkpoint_close(&checkpoint);
}

static void rows_are_converted_to_floats(void **state) {
  (void)state;
  const float values[6] = {0.0f, -1.5f, 3.0e-5f, 65504.0f, -0.333251953125f, 1.0f};
  uint8_t bytes[1 + sizeof values]; /* one byte off, as data in a file may be */
  bpdq_stored_tensor tensor = {.dimensions = 2, .shape = {2, 3}, .data = bytes + 1};
  float row[3];
  memcpy(bytes + 1, values, sizeof values);
  tensor.type = BPDQ_STORED_F32;
  bpdq_stored_row_to_f32(&tensor, 1, 3, row);
  assert_memory_equal(row, values + 3, sizeof row);
  for (int half = 0; half < 2; half++) {
    tensor.type = half ? BPDQ_STORED_F16 : BPDQ_STORED_BF16;
    uint16_t bits[6];
    for (int i = 0; i < 6; i++) bits[i] = half ? bpdq_float_to_f16(values[i]) : bpdq_float_to_bf16(values[i]);
    memcpy(bytes + 1, bits, sizeof bits);
    bpdq_stored_row_to_f32(&tensor, 1, 3, row);
    for (int i = 0; i < 3; i++) assert_true(fabsf(row[i] - values[3 + i]) <= fabsf(values[3 + i]) * 0x1p-8f);
    if (half) assert_true(row[0] == 65504.0f && row[1] == -0.333251953125f);
  }
}

static void the_shared_checkpoints_open(void **state) {
  (void)state;
  static const struct {
    const char *folder;
    int planes, group;
    double bits_per_weight; /* of down_proj */
  } cases[] = {
      {BPDQ_SHARED "/vectors/ckpt-llama-k3-g32-tied", 3, 32, 5},
      {BPDQ_SHARED "/vectors/ckpt-qwen2-k2-g256-padded", 2, 256, 2.625}, /* 2.1875 over K = 640, padded to 768 */
      {BPDQ_SHARED "/vectors/ckpt-qwen2-k2-g64", 2, 64, 2.75},
      {BPDQ_SHARED "/models/classics-12m", 0, 0, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    bpdq_checkpoint checkpoint;
    bpdq_error error = {0};
    log_record log = {0};
    const bpdq_log sink = {record, &log};
    if (bpdq_checkpoint_open(cases[i].folder, &checkpoint, &sink, &error) != BPDQ_OK) fail_msg("%s", error.message);
    assert_int_equal(log.warnings, 0);
    const bpdq_linear_source *down = &checkpoint.layers[checkpoint.config.layers - 1].down;
    assert_int_equal(down->planes, cases[i].planes);
    assert_int_equal(down->group, cases[i].group);
    assert_true(bpdq_linear_bits_per_weight(down) == cases[i].bits_per_weight);
    bpdq_checkpoint_close(&checkpoint);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_small_model_is_found_whole),
      cmocka_unit_test(planes_and_groups_come_from_the_shapes),
      cmocka_unit_test(bad_planes_are_refused),
      cmocka_unit_test(a_missing_tensor_is_named),
      cmocka_unit_test(wrong_dense_tensors_are_refused),
      cmocka_unit_test(dense_layers_may_stand_beside_quantized_ones),
      cmocka_unit_test(biases_are_required_where_the_config_says_so),
      cmocka_unit_test(heads_are_tied_as_in_transformers),
      cmocka_unit_test(names_without_the_prefix_are_found_unless_ambiguous),
      cmocka_unit_test(unused_tensors_give_one_warning),
      cmocka_unit_test(rows_are_converted_to_floats),
      cmocka_unit_test(the_shared_checkpoints_open),
  };
  return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
