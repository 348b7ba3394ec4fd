/* config.json: the published styles, the defaults of transformers for absent keys, and what must be refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/config.h"
#include "unit/scratch.h"

#define SIZES "\"vocab_size\":1000,\"hidden_size\":256,\"intermediate_size\":512,\"num_hidden_layers\":4,\"num_attention_heads\":8"
#define BPDQ "\"quant_method\":\"bpdq\""

/* A config of that model type with further keys (", "key": value ..."), read without complaint. The caller frees it. */
static bpdq_config read_config(const char *type, const char *more) {
  char text[8192];
  snprintf(text, sizeof text, "{\"model_type\":\"%s\"," SIZES "%s}", type, more);
  bpdq_config config;
  bpdq_error error = {0};
  if (bpdq_config_parse(text, strlen(text), &config, NULL, &error) != BPDQ_OK) fail_msg("%s: %s", text, error.message);
  return config;
}

static void expect_failure(const char *text, bpdq_status status, const char *message) {
  bpdq_config config;
  bpdq_error error = {0};
  bpdq_status got = bpdq_config_parse(text, strlen(text), &config, NULL, &error);
  if (got != status) fail_msg("%s: status %d, not %d: %s", text, got, status, error.message);
  assert_contains(error.message, message);
  assert_null(config.quantization.dynamic);
}

static void expect_refused(const char *type, const char *more, bpdq_status status, const char *message) {
  char text[8192];
  snprintf(text, sizeof text, "{\"model_type\":\"%s\"," SIZES "%s}", type, more);
  expect_failure(text, status, message);
}

static void absent_keys_mean_what_transformers_says(void **state) {
  (void)state;
  bpdq_config llama = read_config("llama", "");
  assert_int_equal(llama.architecture, BPDQ_LLAMA);
  assert_int_equal(llama.kv_heads, 8);
  assert_int_equal(llama.head_dim, 32);
  assert_int_equal(llama.context_length, 2048);
  assert_true(llama.norm_epsilon == 1e-6);
  assert_true(llama.rope.theta == 10000);
  assert_int_equal(llama.rope.kind, BPDQ_ROPE_DEFAULT);
  assert_false(llama.tied_head || llama.attention_bias || llama.output_bias || llama.mlp_bias || llama.qk_norm);
  assert_false(llama.quantization.present);
  assert_string_equal(llama.dtype, "");

  bpdq_config mistral = read_config("mistral", ",\"sliding_window\":null");
  assert_int_equal(mistral.kv_heads, 8);
  assert_int_equal(mistral.context_length, 131072);
  bpdq_config qwen2 = read_config("qwen2", ",\"num_key_value_heads\":null");
  assert_int_equal(qwen2.kv_heads, 8);
  assert_int_equal(qwen2.context_length, 32768);
  assert_true(qwen2.attention_bias);
  assert_false(qwen2.output_bias);
  bpdq_config qwen3 = read_config("qwen3", ",\"num_key_value_heads\":2");
  assert_int_equal(qwen3.head_dim, 128);
  assert_true(qwen3.qk_norm);
  assert_false(qwen3.attention_bias);
}

static void given_keys_are_read(void **state) {
  (void)state;
  bpdq_config config = read_config("llama",
                                   ",\"num_key_value_heads\":2,\"head_dim\":64,\"max_position_embeddings\":4096,\"rms_norm_eps\":1e-05,"
                                   "\"tie_word_embeddings\":true,\"attention_bias\":true,\"mlp_bias\":true,\"torch_dtype\":\"bfloat16\","
                                   "\"rope_theta\":500000,\"eos_token_id\":[7,9,7],\"hidden_act\":\"silu\",\"unknown\":[{}]");
  assert_int_equal(config.vocab_size, 1000);
  assert_int_equal(config.hidden_size, 256);
  assert_int_equal(config.intermediate_size, 512);
  assert_int_equal(config.layers, 4);
  assert_int_equal(config.heads, 8);
  assert_int_equal(config.kv_heads, 2);
  assert_int_equal(config.head_dim, 64);
  assert_int_equal(config.context_length, 4096);
  assert_true(config.norm_epsilon == 1e-5);
  assert_true(config.tied_head && config.attention_bias && config.output_bias && config.mlp_bias);
  assert_string_equal(config.dtype, "bfloat16");
  assert_true(config.rope.theta == 500000);
  assert_int_equal(config.end_token_count, 2);
  assert_int_equal(config.end_tokens[0], 7);
  assert_int_equal(config.end_tokens[1], 9);
  bpdq_config qwen3 = read_config("qwen3", ",\"num_key_value_heads\":2,\"attention_bias\":true,\"eos_token_id\":3");
  assert_true(qwen3.attention_bias && qwen3.output_bias);
  assert_int_equal(qwen3.end_tokens[0], 3);
  bpdq_config mistral = read_config("mistral", ",\"attention_bias\":true,\"sliding_window\":131072");
  assert_false(mistral.attention_bias);
  const char *by_class = "{\"architectures\":[\"Qwen2ForCausalLM\"],\"num_key_value_heads\":8," SIZES "}";
  bpdq_config named;
  assert_int_equal(bpdq_config_parse(by_class, strlen(by_class), &named, NULL, NULL), BPDQ_OK);
  assert_int_equal(named.architecture, BPDQ_QWEN2);
}

static void both_rope_styles_are_read(void **state) {
  (void)state;
#define LLAMA3 "\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192"
  static const char *const llama3[] = {
      ",\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\"," LLAMA3 "}",
      ",\"rope_theta\":500000.0,\"rope_scaling\":{\"type\":\"llama3\"," LLAMA3 "}",
      ",\"rope_parameters\":{\"rope_theta\":500000.0,\"rope_type\":\"llama3\"," LLAMA3 "}",
      ",\"rope_scaling\":{},\"rope_parameters\":{\"full_attention\":{\"rope_theta\":500000.0,\"rope_type\":\"llama3\"," LLAMA3 "}}",
  };
  for (size_t i = 0; i < sizeof llama3 / sizeof *llama3; i++) {
    bpdq_rope_config rope = read_config("llama", llama3[i]).rope;
    assert_int_equal(rope.kind, BPDQ_ROPE_LLAMA3);
    assert_true(rope.theta == 500000 && rope.factor == 8 && rope.low_freq_factor == 1 && rope.high_freq_factor == 4);
    assert_true(rope.original_context == 8192);
  }
  bpdq_rope_config linear = read_config("llama", ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}").rope;
  assert_int_equal(linear.kind, BPDQ_ROPE_LINEAR);
  assert_true(linear.factor == 2 && linear.theta == 10000);
  bpdq_rope_config plain = read_config("llama", ",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":12345.5}").rope;
  assert_int_equal(plain.kind, BPDQ_ROPE_DEFAULT);
  assert_true(plain.theta == 12345.5);
}

static void yarn_has_its_defaults(void **state) {
  (void)state;
  bpdq_rope_config rope = read_config("llama", ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0}").rope;
  assert_int_equal(rope.kind, BPDQ_ROPE_YARN);
  assert_true(rope.factor == 4 && rope.original_context == 2048 && rope.beta_fast == 32 && rope.beta_slow == 1);
  assert_true(rope.attention_factor == 0 && rope.mscale == 0 && rope.mscale_all_dim == 0 && rope.truncate);
  rope = read_config("llama",
                     ",\"max_position_embeddings\":4096,\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":1e6,\"factor\":null,"
                     "\"original_max_position_embeddings\":1024,\"beta_fast\":16,\"beta_slow\":2,\"attention_factor\":1.5,"
                     "\"mscale\":0.7,\"mscale_all_dim\":0.5,\"truncate\":false}")
             .rope;
  assert_true(rope.factor == 4 && rope.original_context == 1024 && rope.beta_fast == 16 && rope.beta_slow == 2);
  assert_true(rope.attention_factor == 1.5 && rope.mscale == 0.7 && rope.mscale_all_dim == 0.5 && !rope.truncate);
}

static void windows_are_refused_only_where_a_layer_would_slide(void **state) {
  (void)state;
  read_config("mistral", ",\"sliding_window\":null");
  read_config("mistral", ",\"sliding_window\":4096,\"max_position_embeddings\":4096");
  read_config("llama", ",\"sliding_window\":16");
#define QWEN ",\"num_key_value_heads\":8"
  read_config("qwen2", QWEN ",\"sliding_window\":131072,\"use_sliding_window\":false,\"max_window_layers\":2");
  read_config("qwen2", QWEN ",\"sliding_window\":16,\"use_sliding_window\":true,\"max_window_layers\":4");
  read_config("qwen2", QWEN ",\"sliding_window\":16,\"use_sliding_window\":true");
  read_config("qwen3", QWEN ",\"sliding_window\":null,\"use_sliding_window\":true,\"max_window_layers\":0");
  read_config("qwen2", QWEN
              ",\"sliding_window\":16,\"use_sliding_window\":true,\"max_window_layers\":0,"
              "\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\"]");
  const bpdq_status refused = BPDQ_ERROR_UNSUPPORTED;
  expect_refused("mistral", ",\"sliding_window\":4096,\"max_position_embeddings\":32768", refused, "sliding_window 4096");
  expect_refused("mistral", "", refused, "sliding_window 4096 (the default");
  expect_refused("qwen2", QWEN ",\"sliding_window\":16,\"use_sliding_window\":true,\"max_window_layers\":3", refused, "sliding_window 16");
  expect_refused("qwen3", QWEN ",\"use_sliding_window\":true,\"max_window_layers\":0", refused, "sliding_window 4096");
  expect_refused("qwen2", QWEN ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]", refused, "layer 1 is 'sliding_attention'");
  expect_refused("llama", ",\"layer_types\":[\"linear_attention\"]", refused, "linear_attention");
  expect_refused("llama", ",\"layer_types\":\"x\"", BPDQ_ERROR_FORMAT, "layer_types");
}

static void what_is_not_computed_is_refused_by_name(void **state) {
  (void)state;
  const bpdq_status refused = BPDQ_ERROR_UNSUPPORTED;
  expect_refused("gemma2", "", refused, "gemma2");
  expect_refused("qwen3_moe", "", refused, "qwen3_moe");
  expect_refused("llama", ",\"architectures\":[\"LlamaForSequenceClassification\"]", refused, "LlamaForSequenceClassification");
  expect_refused("llama", ",\"hidden_act\":\"gelu\"", refused, "gelu");
  expect_refused("llama", ",\"partial_rotary_factor\":0.5", refused, "partial_rotary_factor 0.5");
  expect_refused("llama", ",\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.25}", refused, "0.25");
  expect_refused("llama", ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}", refused, "'dynamic'");
  expect_refused("llama", ",\"rope_scaling\":{\"rope_type\":\"longrope\"}", refused, "'longrope'");
  expect_refused("llama", ",\"rope_scaling\":{\"factor\":2}", refused, "no rope_type");
  expect_refused("llama", ",\"rope_scaling\":{\"type\":\"default\",\"mrope_section\":[1]}", refused, "mrope_section");
  expect_refused("llama", ",\"quantization_config\":{\"quant_method\":\"gptq\"}", refused, "quant_method 'gptq'");
  expect_refused("llama", ",\"quantization_config\":{}", refused, "quant_method");
  expect_refused("llama", ",\"quantization_config\":{" BPDQ ",\"checkpoint_format\":\"marlin\"}", refused, "checkpoint_format 'marlin'");
  expect_refused("llama", ",\"quantization_config\":{" BPDQ ",\"rotation\":\"hadamard\"}", refused, "rotation 'hadamard'");
  expect_refused("llama", ",\"quantization_config\":{" BPDQ ",\"pack_dtype\":\"int64\"}", refused, "pack_dtype 'int64'");
  expect_refused("llama", ",\"quantization_config\":{" BPDQ ",\"desc_act\":true}", refused, "desc_act");
}

static void bad_values_are_errors(void **state) {
  (void)state;
  const bpdq_status bad = BPDQ_ERROR_FORMAT;
  expect_failure("", bad, "invalid JSON");
  expect_failure("[]", bad, "not an object");
  expect_failure("{}", bad, "model_type");
  expect_failure("{\"model_type\":\"llama\",\"a\":NaN}", bad, "invalid JSON");
  expect_failure("{\"model_type\":\"llama\",\"model_type\":\"qwen2\"}", bad, "duplicate");
  expect_failure("{\"model_type\":3}", bad, "model_type is not a string");
  expect_failure("{\"model_type\":\"llama\"}", bad, "vocab_size is missing");
  static const struct {
    const char *more, *message;
  } cases[] = {
      {",\"num_key_value_heads\":0", "num_key_value_heads is 0"},
      {",\"num_key_value_heads\":3", "not a multiple"},
      {",\"num_key_value_heads\":16", "not a multiple"},
      {",\"num_key_value_heads\":-1", "num_key_value_heads is -1"},
      {",\"head_dim\":0", "head_dim is 0"},
      {",\"head_dim\":99999999999", "head_dim"},
      {",\"head_dim\":\"64\"", "head_dim is not an integer"},
      {",\"max_position_embeddings\":4294967296", "max_position_embeddings"},
      {",\"max_position_embeddings\":0", "max_position_embeddings"},
      {",\"max_position_embeddings\":1e3", "max_position_embeddings is not an integer"},
      {",\"rms_norm_eps\":0", "rms_norm_eps"},
      {",\"rms_norm_eps\":-1e-6", "rms_norm_eps"},
      {",\"rms_norm_eps\":\"x\"", "rms_norm_eps"},
      {",\"rms_norm_eps\":1e999", "invalid JSON"},
      {",\"rope_theta\":Infinity", "invalid JSON"},
      {",\"rope_theta\":0", "rope_theta"},
      {",\"rope_theta\":-10000", "rope_theta"},
      {",\"rope_scaling\":7", "rope_scaling is not an object"},
      {",\"rope_scaling\":{\"type\":\"linear\"}", "lack factor"},
      {",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}", "factor is 0"},
      {",\"rope_scaling\":{\"type\":\"linear\",\"factor\":1e300}", "factor is 1e+300"},
      {",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8}", "lack low_freq_factor"},
      {",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4}", "not above"},
      {",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"original_max_position_embeddings\":0}", "original_max_position_embeddings"},
      {",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"attention_factor\":-1}", "attention_factor"},
      {",\"tie_word_embeddings\":1", "tie_word_embeddings is not true or false"},
      {",\"eos_token_id\":\"a\"", "eos_token_id"},
      {",\"eos_token_id\":[1,2.5]", "eos_token_id"},
      {",\"quantization_config\":[]", "quantization_config is not an object"},
      {",\"quantization_config\":{" BPDQ ",\"group_size\":0}", "group_size"},
      {",\"quantization_config\":{" BPDQ ",\"group_size\":-1}", "group_size"},
      {",\"quantization_config\":{" BPDQ ",\"meta\":{\"bpdq\":{\"msbits\":9}}}", "msbits is 9"},
      {",\"quantization_config\":{" BPDQ ",\"dynamic\":[]}", "dynamic is not an object"},
      {",\"quantization_config\":{" BPDQ ",\"dynamic\":{\"a\":1}}", "settings of 'a'"},
      {",\"quantization_config\":{" BPDQ ",\"dynamic\":{\"-:(\":{}}}", "regular expression"},
      {",\"quantization_config\":{" BPDQ ",\"dynamic\":{\"ok\":{},\"+:b\":{\"group_size\":0}}}", "'+:b'"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) expect_refused("llama", cases[i].more, bad, cases[i].message);
}

static void every_size_has_limits(void **state) {
  (void)state;
  static const char *const keys[] = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"};
  static const char *const values[] = {"0", "-5", "9223372036854775807", "2147483648", "1.5", "\"8\"", "null", "true"};
  for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
    for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
      char text[1024];
      int length = snprintf(text, sizeof text, "{\"model_type\":\"llama\"");
      for (size_t other = 0; other < sizeof keys / sizeof *keys; other++)
        length += snprintf(text + length, sizeof text - (size_t)length, ",\"%s\":%s", keys[other], other == k ? values[v] : "8");
      snprintf(text + length, sizeof text - (size_t)length, "}");
      expect_failure(text, BPDQ_ERROR_FORMAT, keys[k]);
    }
  }
}

static void an_end_token_outside_the_vocabulary_is_skipped(void **state) {
  (void)state;
  bpdq_config config = read_config("llama", ",\"eos_token_id\":[-1,1000,999]");
  assert_int_equal(config.end_token_count, 1);
  assert_int_equal(config.end_tokens[0], 999);
}

static void expect_module(const bpdq_config *config, const char *module, bool quantized, int planes, int group) {
  int got_planes, got_group;
  assert_int_equal(bpdq_config_module(config, module, &got_planes, &got_group), quantized);
  if (!quantized) return;
  assert_int_equal(got_planes, planes);
  assert_int_equal(got_group, group);
}

static void dynamic_rules_match_like_re_match(void **state) {
  (void)state;
  bpdq_config config = read_config("llama",
                                   ",\"quantization_config\":{\"format\":\"bpdq\",\"bits\":8,\"group_size\":64,\"lm_head\":false,"
                                   "\"meta\":{\"bpdq\":{\"msbits\":2,\"n_iters\":7,\"alpha\":0.0001}},\"rotation\":null,\"dynamic\":{"
                                   "\"-:model\\\\.layers\\\\.0\\\\..*\":{},"
                                   "\"+:.*\\\\.down_proj\":{\"meta\":{\"bpdq\":{\"msbits\":4}}},"
                                   "\"layers\":{\"group_size\":32},"
                                   "\"model\\\\.layers\\\\.1\\\\.mlp\":{\"planes\":3,\"group_size\":128},"
                                   "\".*q_proj$\":{\"bpdq\":{\"msbits\":1}},"
                                   "\"(a|aa)+$\":{\"msbits\":8}}}");
  const bpdq_quantization_config *quantization = &config.quantization;
  assert_true(quantization->present && quantization->planes == 2 && quantization->group == 64 && quantization->bits == 8);
  assert_true(quantization->iterations == 7 && quantization->alpha == 0.0001 && quantization->dynamic_count == 6);
  assert_true(quantization->dynamic[0].dense && !quantization->dynamic[1].dense);
  assert_string_equal(quantization->dynamic[1].pattern, ".*\\.down_proj");
  expect_module(&config, "model.layers.0.mlp.down_proj", false, 0, 0);
  expect_module(&config, "model.layers.2.mlp.down_proj", true, 4, 64);
  expect_module(&config, "model.layers.2.mlp.up_proj", true, 2, 64); /* "layers" does not match at the start */
  expect_module(&config, "model.layers.1.mlp.up_proj", true, 3, 128);
  expect_module(&config, "model.layers.1.mlp.down_proj", true, 4, 64); /* the first rule that matches counts */
  expect_module(&config, "model.layers.3.self_attn.q_proj", true, 1, 64);
  expect_module(&config, "lm_head", false, 0, 0);
  /* Exponential backtracking ends at the step limit, as no match. */
  expect_module(&config, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", true, 2, 64);
  bpdq_config_free(&config);
  bpdq_config_free(&config);

  bpdq_config with_head = read_config("llama", ",\"quantization_config\":{" BPDQ ",\"lm_head\":true,\"msbits\":5,\"group_size\":96}");
  expect_module(&with_head, "lm_head", true, 5, 96);
  bpdq_config dense = read_config("llama", ",\"quantization_config\":null");
  expect_module(&dense, "model.layers.0.mlp.up_proj", false, 0, 0);
}

static void the_files_of_a_folder_are_combined(void **state) {
  (void)state;
  scratch_folder("model");
  char *folder = scratch_path("model");
  bpdq_config config;
  bpdq_error error = {0};
  assert_int_equal(bpdq_config_load(folder, &config, NULL, &error), BPDQ_ERROR_IO);
  assert_contains(error.message, "config.json");
  scratch_write_text("model/config.json", "{\"model_type\":\"llama\"," SIZES ",\"eos_token_id\":5}");
  assert_int_equal(bpdq_config_load(folder, &config, NULL, NULL), BPDQ_OK);
  assert_int_equal(config.end_token_count, 1);
  assert_false(config.quantization.present);
  scratch_write_text("model/generation_config.json", "{\"eos_token_id\":[5,6]}");
  scratch_write_text("model/quantize_config.json", "{" BPDQ ",\"group_size\":128,\"dynamic\":{\"-:lm_head\":{}}}");
  assert_int_equal(bpdq_config_load(folder, &config, NULL, NULL), BPDQ_OK);
  assert_int_equal(config.end_token_count, 2);
  assert_true(config.quantization.present && config.quantization.group == 128);
  bpdq_config_free(&config);
  scratch_write_text("model/config.json", "{\"model_type\":\"llama\"," SIZES ",\"quantization_config\":{" BPDQ ",\"group_size\":64}}");
  assert_int_equal(bpdq_config_load(folder, &config, NULL, NULL), BPDQ_OK);
  assert_int_equal(config.quantization.group, 64);
  scratch_write_text("model/generation_config.json", "{");
  assert_int_equal(bpdq_config_load(folder, &config, NULL, &error), BPDQ_ERROR_FORMAT);
  assert_contains(error.message, "generation_config.json");
  free(folder);
}

static void the_shared_checkpoints_are_read(void **state) {
  (void)state;
  static const struct {
    const char *folder;
    int64_t hidden, layers;
    int planes, group;
    bool tied;
  } cases[] = {
      {BPDQ_SHARED "/vectors/ckpt-llama-k3-g32-tied", 96, 3, 3, 32, true},
      {BPDQ_SHARED "/vectors/ckpt-qwen2-k2-g256-padded", 256, 2, 2, 256, false},
      {BPDQ_SHARED "/vectors/ckpt-qwen2-k2-g64", 128, 2, 2, 64, false},
      {BPDQ_SHARED "/models/classics-28m", 512, 8, 0, 0, true},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    bpdq_config config;
    bpdq_error error = {0};
    if (bpdq_config_load(cases[i].folder, &config, NULL, &error) != BPDQ_OK) fail_msg("%s", error.message);
    assert_int_equal(config.hidden_size, cases[i].hidden);
    assert_int_equal(config.layers, cases[i].layers);
    assert_int_equal(config.quantization.planes, cases[i].planes);
    assert_int_equal(config.quantization.group, cases[i].group);
    assert_int_equal(config.tied_head, cases[i].tied);
    bpdq_config_free(&config);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(absent_keys_mean_what_transformers_says),
      cmocka_unit_test(given_keys_are_read),
      cmocka_unit_test(both_rope_styles_are_read),
      cmocka_unit_test(yarn_has_its_defaults),
      cmocka_unit_test(windows_are_refused_only_where_a_layer_would_slide),
      cmocka_unit_test(what_is_not_computed_is_refused_by_name),
      cmocka_unit_test(bad_values_are_errors),
      cmocka_unit_test(every_size_has_limits),
      cmocka_unit_test(an_end_token_outside_the_vocabulary_is_skipped),
      cmocka_unit_test(dynamic_rules_match_like_re_match),
      cmocka_unit_test(the_files_of_a_folder_are_combined),
      cmocka_unit_test(the_shared_checkpoints_are_read),
  };
  return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
