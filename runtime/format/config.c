/* config.json: the architecture and its sizes, with the defaults of Hugging Face transformers for absent keys. */
#include "format/config.h"

#include <stdio.h>
#include <string.h>

#include "core/platform.h"
#include "format/config_internal.h"

#define MAX_CONFIG_BYTES (16u << 20)

/* What an absent key means. kv_heads 0: as many as heads (null always means that); head_dim 0: hidden_size / heads. */
typedef struct architecture_defaults {
  const char *model_type, *class_name, *base_class_name;
  int64_t kv_heads, head_dim, context_length;
} architecture_defaults;

static const architecture_defaults architectures[] = {
    [BPDQ_LLAMA] = {"llama", "LlamaForCausalLM", "LlamaModel", 0, 0, 2048},
    [BPDQ_MISTRAL] = {"mistral", "MistralForCausalLM", "MistralModel", 8, 0, 131072},
    [BPDQ_QWEN2] = {"qwen2", "Qwen2ForCausalLM", "Qwen2Model", 32, 0, 32768},
    [BPDQ_QWEN3] = {"qwen3", "Qwen3ForCausalLM", "Qwen3Model", 32, 128, 32768},
};
#define ARCHITECTURE_COUNT (sizeof architectures / sizeof *architectures)

static bool is_class_of(const architecture_defaults *architecture, const char *name) {
  return strcmp(name, architecture->class_name) == 0 || strcmp(name, architecture->base_class_name) == 0;
}

static bpdq_status read_architecture(const json_t *root, bpdq_config *config, bpdq_error *error) {
  const char *type = NULL;
  BPDQ_TRY(bpdq_json_get_string(root, "model_type", &type, error));
  const json_t *classes = bpdq_json_member(root, "architectures");
  const char *class_name = json_string_value(json_array_get(classes, 0));
  if (!type && !class_name) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "has neither model_type nor architectures");
  for (size_t i = 0; i < ARCHITECTURE_COUNT; i++) {
    const architecture_defaults *known = &architectures[i];
    if (type ? strcmp(type, known->model_type) != 0 : !is_class_of(known, class_name)) continue;
    if (class_name && !is_class_of(known, class_name))
      return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "architecture '%.64s' is not supported (%s is)", class_name, known->class_name);
    config->architecture = (bpdq_architecture)i;
    snprintf(config->model_type, sizeof config->model_type, "%s", known->model_type);
    return BPDQ_OK;
  }
  return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "model type '%.64s' is not supported (llama, mistral, qwen2 and qwen3 are)",
                   type ? type : class_name);
}

static bpdq_status read_required_size(const json_t *root, const char *key, int64_t maximum, int64_t *value, bpdq_error *error) {
  if (!bpdq_json_member(root, key)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s is missing", key);
  return bpdq_json_get_integer(root, key, 1, maximum, value, error);
}

static bpdq_status read_heads(const json_t *root, bpdq_config *config, bpdq_error *error) {
  const architecture_defaults *defaults = &architectures[config->architecture];
  BPDQ_TRY(read_required_size(root, "num_attention_heads", 4096, &config->heads, error));
  bool null_kv_heads = json_is_null(json_object_get(root, "num_key_value_heads"));
  config->kv_heads = defaults->kv_heads && !null_kv_heads ? defaults->kv_heads : config->heads;
  BPDQ_TRY(bpdq_json_get_integer(root, "num_key_value_heads", 1, 4096, &config->kv_heads, error));
  if (config->heads % config->kv_heads != 0)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "num_attention_heads %lld is not a multiple of num_key_value_heads %lld",
                     (long long)config->heads, (long long)config->kv_heads);
  if (defaults->head_dim || bpdq_json_member(root, "head_dim")) {
    config->head_dim = defaults->head_dim;
    BPDQ_TRY(bpdq_json_get_integer(root, "head_dim", 2, 1024, &config->head_dim, error));
  } else {
    config->head_dim = config->hidden_size / config->heads;
    if (config->hidden_size % config->heads != 0)
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "hidden_size %lld is not a multiple of num_attention_heads %lld and there is no head_dim",
                       (long long)config->hidden_size, (long long)config->heads);
  }
  if (config->head_dim % 2 != 0 || config->head_dim < 2 || config->head_dim > 1024)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "head_dim %lld is not supported (even numbers from 2 to 1024 are)",
                     (long long)config->head_dim);
  return BPDQ_OK;
}

static bpdq_status read_sizes(const json_t *root, bpdq_config *config, bpdq_error *error) {
  BPDQ_TRY(read_required_size(root, "vocab_size", 1 << 24, &config->vocab_size, error));
  BPDQ_TRY(read_required_size(root, "hidden_size", 1 << 20, &config->hidden_size, error));
  BPDQ_TRY(read_required_size(root, "intermediate_size", 1 << 22, &config->intermediate_size, error));
  BPDQ_TRY(read_required_size(root, "num_hidden_layers", 4096, &config->layers, error));
  config->context_length = architectures[config->architecture].context_length;
  BPDQ_TRY(bpdq_json_get_integer(root, "max_position_embeddings", 1, INT32_MAX, &config->context_length, error));
  config->norm_epsilon = 1e-6;
  BPDQ_TRY(bpdq_json_get_number(root, "rms_norm_eps", 1e-30, 1, &config->norm_epsilon, error));
  return read_heads(root, config, error);
}

static bpdq_status read_variants(const json_t *root, bpdq_config *config, bpdq_error *error) {
  const char *activation = "silu";
  BPDQ_TRY(bpdq_json_get_string(root, "hidden_act", &activation, error));
  if (strcmp(activation, "silu") != 0)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "hidden_act '%.64s' is not supported (silu is)", activation);
  BPDQ_TRY(bpdq_json_get_bool(root, "tie_word_embeddings", &config->tied_head, error));

  /* Mistral has no biases and Qwen2 has them on q, k and v, whatever the keys say. */
  bool attention_bias = false;
  if (config->architecture == BPDQ_LLAMA || config->architecture == BPDQ_QWEN3)
    BPDQ_TRY(bpdq_json_get_bool(root, "attention_bias", &attention_bias, error));
  config->attention_bias = attention_bias || config->architecture == BPDQ_QWEN2;
  config->output_bias = attention_bias;
  if (config->architecture == BPDQ_LLAMA) BPDQ_TRY(bpdq_json_get_bool(root, "mlp_bias", &config->mlp_bias, error));
  config->qk_norm = config->architecture == BPDQ_QWEN3;

  const char *dtype = "";
  BPDQ_TRY(bpdq_json_get_string(root, "torch_dtype", &dtype, error));
  BPDQ_TRY(bpdq_json_get_string(root, "dtype", &dtype, error));
  snprintf(config->dtype, sizeof config->dtype, "%s", dtype);
  return BPDQ_OK;
}

static bpdq_status add_end_token(const json_t *id, bpdq_config *config, const bpdq_log *log, bpdq_error *error) {
  if (!json_is_integer(id)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "eos_token_id is not an integer or a list of integers");
  int64_t token = json_integer_value(id);
  if (token < 0 || token >= config->vocab_size) {
    bpdq_log_warning(log, "eos_token_id %lld is outside the vocabulary of %lld; it is ignored", (long long)token,
                     (long long)config->vocab_size);
    return BPDQ_OK;
  }
  for (int i = 0; i < config->end_token_count; i++)
    if (config->end_tokens[i] == token) return BPDQ_OK;
  int capacity = (int)(sizeof config->end_tokens / sizeof *config->end_tokens);
  if (config->end_token_count == capacity) return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "more than %d eos_token_id values", capacity);
  config->end_tokens[config->end_token_count++] = (int32_t)token;
  return BPDQ_OK;
}

static bpdq_status read_end_tokens(const json_t *root, bpdq_config *config, const bpdq_log *log, bpdq_error *error) {
  const json_t *ids = bpdq_json_member(root, "eos_token_id");
  if (!ids) return BPDQ_OK;
  if (!json_is_array(ids)) return add_end_token(ids, config, log, error);
  if (json_array_size(ids) > 1024) return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "eos_token_id lists more than 1024 values");
  for (size_t i = 0; i < json_array_size(ids); i++) BPDQ_TRY(add_end_token(json_array_get(ids, i), config, log, error));
  return BPDQ_OK;
}

/* Everything in config.json. On failure the quantization rules may be held: the caller frees the config. */
static bpdq_status read_config(const json_t *root, bpdq_config *config, const bpdq_log *log, bpdq_error *error) {
  BPDQ_TRY(read_architecture(root, config, error));
  BPDQ_TRY(read_sizes(root, config, error));
  BPDQ_TRY(read_variants(root, config, error));
  BPDQ_TRY(bpdq_config_read_rope(root, config, error));
  BPDQ_TRY(bpdq_config_check_windows(root, config, error));
  BPDQ_TRY(read_end_tokens(root, config, log, error));
  const json_t *quantization = bpdq_json_member(root, "quantization_config");
  return quantization ? bpdq_config_read_quantization(quantization, &config->quantization, error) : BPDQ_OK;
}

static bpdq_status parse_named(const char *text, size_t length, const char *name, bpdq_config *config, const bpdq_log *log,
                               bpdq_error *error) {
  json_t *root;
  BPDQ_TRY(bpdq_json_parse(text, length, name, &root, error));
  bpdq_status status = read_config(root, config, log, error);
  json_decref(root);
  if (status != BPDQ_OK) return bpdq_fail_context(error, status, "%s", name);
  return BPDQ_OK;
}

bpdq_status bpdq_config_parse(const char *text, size_t length, bpdq_config *config, const bpdq_log *log, bpdq_error *error) {
  *config = (bpdq_config){0};
  bpdq_status status = parse_named(text, length, "config.json", config, log, error);
  if (status != BPDQ_OK) bpdq_config_free(config);
  return status;
}

/* Without a config.json the folder is most likely another one, or the name of a model that was never downloaded. */
static bpdq_status read_main(const char *path, char **text, size_t *length, bpdq_error *error) {
  bpdq_error reason = {0};
  bpdq_status status = bpdq_read_file(path, MAX_CONFIG_BYTES, text, length, &reason);
  if (status == BPDQ_OK) return BPDQ_OK;
  const char *hint = "; a model is a folder with config.json and safetensors files, and bpdq downloads nothing";
  return bpdq_fail(error, status, "%.800s%s", reason.message, bpdq_path_exists(path) ? "" : hint);
}

static bpdq_status load_main(const char *path, bpdq_config *config, const bpdq_log *log, bpdq_error *error) {
  char *text;
  size_t length;
  BPDQ_TRY(read_main(path, &text, &length, error));
  bpdq_status status = parse_named(text, length, path, config, log, error);
  free(text);
  return status;
}

static bpdq_status load_quantize_config(const char *path, bpdq_config *config, bpdq_error *error) {
  if (config->quantization.present || !bpdq_path_exists(path)) return BPDQ_OK;
  json_t *root;
  BPDQ_TRY(bpdq_json_load(path, MAX_CONFIG_BYTES, &root, error));
  bpdq_status status = bpdq_config_read_quantization(root, &config->quantization, error);
  json_decref(root);
  if (status != BPDQ_OK) return bpdq_fail_context(error, status, "%s", path);
  return BPDQ_OK;
}

static bpdq_status load_generation_config(const char *path, bpdq_config *config, const bpdq_log *log, bpdq_error *error) {
  if (!bpdq_path_exists(path)) return BPDQ_OK;
  json_t *root;
  BPDQ_TRY(bpdq_json_load(path, MAX_CONFIG_BYTES, &root, error));
  bpdq_status status = read_end_tokens(root, config, log, error);
  json_decref(root);
  if (status != BPDQ_OK) return bpdq_fail_context(error, status, "%s", path);
  return BPDQ_OK;
}

bpdq_status bpdq_config_load(const char *folder, bpdq_config *config, const bpdq_log *log, bpdq_error *error) {
  *config = (bpdq_config){0};
  char *main_path = bpdq_path_join(folder, "config.json");
  char *quantize_path = bpdq_path_join(folder, "quantize_config.json");
  char *generation_path = bpdq_path_join(folder, "generation_config.json");
  bpdq_status status;
  if (!main_path || !quantize_path || !generation_path) {
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of memory", folder);
  } else {
    status = load_main(main_path, config, log, error);
    if (status == BPDQ_OK) status = load_quantize_config(quantize_path, config, error);
    if (status == BPDQ_OK) status = load_generation_config(generation_path, config, log, error);
  }
  free(main_path);
  free(quantize_path);
  free(generation_path);
  if (status != BPDQ_OK) bpdq_config_free(config);
  return status;
}

void bpdq_config_free(bpdq_config *config) {
  bpdq_config_free_quantization(&config->quantization);
  *config = (bpdq_config){0};
}
