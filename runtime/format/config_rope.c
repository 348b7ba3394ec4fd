/* Rotary position embedding and attention windows of config.json, with the meaning that Hugging Face transformers 5 gives them. */
#include <string.h>

#include "format/config_internal.h"

#define MAX_FACTOR 1e6
#define MIN_FACTOR 1e-6

/* The object with the RoPE settings: rope_scaling (transformers 4) where it is not empty, else rope_parameters (5), which may hold one
 * object per kind of layer. NULL where there is none. */
static bpdq_status find_settings(const json_t *root, const json_t **settings, bpdq_error *error) {
  *settings = NULL;
  for (int i = 0; i < 2 && !*settings; i++) {
    const char *key = i == 0 ? "rope_scaling" : "rope_parameters";
    const json_t *found = bpdq_json_member(root, key);
    if (found && !json_is_object(found)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s is not an object", key);
    if (json_object_size(found) > 0) *settings = found;
  }
  const json_t *nested = bpdq_json_member(*settings, "full_attention");
  if (nested && !json_is_object(nested)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "rope_parameters.full_attention is not an object");
  if (nested) *settings = nested;
  return BPDQ_OK;
}

static bpdq_status read_kind(const json_t *settings, bpdq_rope_kind *kind, bpdq_error *error) {
  static const char *const names[] = {
      [BPDQ_ROPE_DEFAULT] = "default", [BPDQ_ROPE_LINEAR] = "linear", [BPDQ_ROPE_LLAMA3] = "llama3", [BPDQ_ROPE_YARN] = "yarn"};
  const char *name = NULL;
  BPDQ_TRY(bpdq_json_get_string(settings, "type", &name, error));
  BPDQ_TRY(bpdq_json_get_string(settings, "rope_type", &name, error));
  if (!name) {
    if (bpdq_json_member(settings, "factor"))
      return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "RoPE settings have a factor but no rope_type; add one");
    name = "default";
  }
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(name, names[i]) == 0) {
      *kind = (bpdq_rope_kind)i;
      return BPDQ_OK;
    }
  return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "rope_type '%.64s' is not supported (default, linear, llama3 and yarn are)", name);
}

static bpdq_status check_whole_head_rotates(const json_t *root, const json_t *settings, bpdq_error *error) {
  double part = 1;
  BPDQ_TRY(bpdq_json_get_number(root, "partial_rotary_factor", 0, 1, &part, error));
  BPDQ_TRY(bpdq_json_get_number(settings, "partial_rotary_factor", 0, 1, &part, error));
  if (part != 1) return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "partial_rotary_factor %g is not supported (1 is)", part);
  if (bpdq_json_member(settings, "mrope_section"))
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "multimodal RoPE (mrope_section) is not supported");
  return BPDQ_OK;
}

static bpdq_status read_required_factor(const json_t *settings, const char *key, double *value, bpdq_error *error) {
  if (!bpdq_json_member(settings, key)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "RoPE settings lack %s", key);
  return bpdq_json_get_number(settings, key, MIN_FACTOR, MAX_FACTOR, value, error);
}

/* A top-level value comes before one in the RoPE settings, and the context length stands in where there is neither. */
static bpdq_status read_original_context(const json_t *root, const json_t *settings, const bpdq_config *config, double *value,
                                         bpdq_error *error) {
  int64_t context = config->context_length;
  BPDQ_TRY(bpdq_json_get_integer(settings, "original_max_position_embeddings", 1, INT32_MAX, &context, error));
  BPDQ_TRY(bpdq_json_get_integer(root, "original_max_position_embeddings", 1, INT32_MAX, &context, error));
  *value = (double)context;
  return BPDQ_OK;
}

static bpdq_status read_llama3(const json_t *settings, bpdq_rope_config *rope, bpdq_error *error) {
  BPDQ_TRY(read_required_factor(settings, "factor", &rope->factor, error));
  BPDQ_TRY(read_required_factor(settings, "low_freq_factor", &rope->low_freq_factor, error));
  BPDQ_TRY(read_required_factor(settings, "high_freq_factor", &rope->high_freq_factor, error));
  if (rope->high_freq_factor <= rope->low_freq_factor)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "high_freq_factor %g is not above low_freq_factor %g", rope->high_freq_factor,
                     rope->low_freq_factor);
  return BPDQ_OK;
}

static bpdq_status read_yarn(const json_t *settings, int64_t context, bpdq_rope_config *rope, bpdq_error *error) {
  rope->factor = (double)context / rope->original_context;
  rope->truncate = true;
  BPDQ_TRY(bpdq_json_get_number(settings, "factor", MIN_FACTOR, MAX_FACTOR, &rope->factor, error));
  BPDQ_TRY(bpdq_json_get_number(settings, "attention_factor", MIN_FACTOR, MAX_FACTOR, &rope->attention_factor, error));
  BPDQ_TRY(bpdq_json_get_number(settings, "mscale", 0, MAX_FACTOR, &rope->mscale, error));
  BPDQ_TRY(bpdq_json_get_number(settings, "mscale_all_dim", 0, MAX_FACTOR, &rope->mscale_all_dim, error));
  BPDQ_TRY(bpdq_json_get_number(settings, "beta_fast", 0, MAX_FACTOR, &rope->beta_fast, error));
  BPDQ_TRY(bpdq_json_get_number(settings, "beta_slow", 0, MAX_FACTOR, &rope->beta_slow, error));
  BPDQ_TRY(bpdq_json_get_bool(settings, "truncate", &rope->truncate, error));
  if (rope->beta_fast == 0) rope->beta_fast = 32; /* 0 means absent, in transformers too */
  if (rope->beta_slow == 0) rope->beta_slow = 1;
  return BPDQ_OK;
}

bpdq_status bpdq_config_read_rope(const json_t *root, bpdq_config *config, bpdq_error *error) {
  bpdq_rope_config *rope = &config->rope;
  *rope = (bpdq_rope_config){.kind = BPDQ_ROPE_DEFAULT, .theta = 10000};
  const json_t *settings;
  BPDQ_TRY(find_settings(root, &settings, error));
  BPDQ_TRY(read_kind(settings, &rope->kind, error));
  BPDQ_TRY(check_whole_head_rotates(root, settings, error));
  BPDQ_TRY(bpdq_json_get_number(root, "rope_theta", 1.01, 1e15, &rope->theta, error));
  BPDQ_TRY(bpdq_json_get_number(settings, "rope_theta", 1.01, 1e15, &rope->theta, error));
  if (rope->kind == BPDQ_ROPE_DEFAULT) return BPDQ_OK;
  if (rope->kind == BPDQ_ROPE_LINEAR) return read_required_factor(settings, "factor", &rope->factor, error);
  BPDQ_TRY(read_original_context(root, settings, config, &rope->original_context, error));
  if (rope->kind == BPDQ_ROPE_LLAMA3) return read_llama3(settings, rope, error);
  return read_yarn(settings, config->context_length, rope, error);
}

static bpdq_status check_layer_types(const json_t *root, bool *given, bpdq_error *error) {
  const json_t *types = bpdq_json_member(root, "layer_types");
  *given = types != NULL;
  if (!types) return BPDQ_OK;
  if (!json_is_array(types)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "layer_types is not a list");
  for (size_t i = 0; i < json_array_size(types); i++) {
    const char *type = json_string_value(json_array_get(types, i));
    if (!type) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "layer_types holds something other than strings");
    if (strcmp(type, "full_attention") != 0)
      return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "layer_types: layer %zu is '%.64s'; only full_attention is supported", i, type);
  }
  return BPDQ_OK;
}

/* Both the Mistral and the Qwen configurations mean 4096 by an absent sliding_window; null switches it off. */
static bpdq_status read_window(const json_t *root, int64_t *window, bpdq_error *error) {
  *window = json_is_null(json_object_get(root, "sliding_window")) ? INT64_MAX : 4096;
  return bpdq_json_get_integer(root, "sliding_window", 1, INT64_MAX, window, error);
}

bpdq_status bpdq_config_check_windows(const json_t *root, const bpdq_config *config, bpdq_error *error) {
  bool layer_types_given;
  BPDQ_TRY(check_layer_types(root, &layer_types_given, error));
  if (config->architecture == BPDQ_LLAMA) return BPDQ_OK;
  int64_t window;
  if (config->architecture == BPDQ_MISTRAL) {
    BPDQ_TRY(read_window(root, &window, error));
  } else {
    bool slides = false;
    int64_t full_layers = 28;
    BPDQ_TRY(bpdq_json_get_bool(root, "use_sliding_window", &slides, error));
    BPDQ_TRY(bpdq_json_get_integer(root, "max_window_layers", 0, INT32_MAX, &full_layers, error));
    if (!slides || layer_types_given || full_layers >= config->layers) return BPDQ_OK;
    BPDQ_TRY(read_window(root, &window, error));
  }
  if (window >= config->context_length) return BPDQ_OK;
  const char *how = json_object_get(root, "sliding_window") ? "" : " (the default where the key is absent; null switches it off)";
  return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "sliding_window %lld%s is not supported; only attention to the whole context is",
                   (long long)window, how);
}
