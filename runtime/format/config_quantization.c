/* quantization_config: the settings a BPDQ checkpoint was made with, and the per-module rules of `dynamic`. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "format/config_internal.h"

#define MAX_RULES 65536u
#define MAX_PATTERN_BYTES 4096u
/* Steps that a hostile pattern may take on one module name; published patterns need some tens. */
#define MAX_MATCH_STEPS 100000u

/* The number of planes kept: "msbits" beside the other settings, or below "bpdq" or "meta"."bpdq". */
static bpdq_status read_planes(const json_t *object, int *planes, bpdq_error *error) {
  const json_t *places[] = {object, bpdq_json_member(object, "bpdq"), bpdq_json_member(bpdq_json_member(object, "meta"), "bpdq")};
  int64_t value = *planes;
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    BPDQ_TRY(bpdq_json_get_integer(places[i], "planes", 1, 8, &value, error));
    BPDQ_TRY(bpdq_json_get_integer(places[i], "msbits", 1, 8, &value, error));
  }
  *planes = (int)value;
  return BPDQ_OK;
}

static bpdq_status read_small_integer(const json_t *object, const char *key, int minimum, int maximum, int *value, bpdq_error *error) {
  int64_t wide = *value;
  BPDQ_TRY(bpdq_json_get_integer(object, key, minimum, maximum, &wide, error));
  *value = (int)wide;
  return BPDQ_OK;
}

static bpdq_status compile_pattern(bpdq_dynamic_rule *rule, bpdq_error *error) {
  int code;
  PCRE2_SIZE offset;
  rule->code = pcre2_compile((PCRE2_SPTR)rule->pattern, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED | PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &code,
                             &offset, NULL);
  if (rule->code) return BPDQ_OK;
  PCRE2_UCHAR message[128] = "";
  pcre2_get_error_message(code, message, sizeof message);
  return bpdq_fail(error, BPDQ_ERROR_FORMAT, "dynamic: '%.200s' is not a valid regular expression: %s at character %zu", rule->pattern,
                   (const char *)message, (size_t)offset);
}

static bpdq_status read_rule(const char *key, const json_t *settings, bpdq_dynamic_rule *rule, bpdq_error *error) {
  const char *pattern = key;
  rule->dense = strncmp(key, "-:", 2) == 0;
  if (rule->dense || strncmp(key, "+:", 2) == 0) pattern += 2;
  if (strlen(pattern) > MAX_PATTERN_BYTES)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "dynamic: a pattern is longer than %u bytes", MAX_PATTERN_BYTES);
  rule->pattern = strdup(pattern);
  if (!rule->pattern) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory");
  BPDQ_TRY(compile_pattern(rule, error));
  if (rule->dense) return BPDQ_OK;
  if (!json_is_object(settings)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "dynamic: the settings of '%.200s' are not an object", key);
  bpdq_status status = read_planes(settings, &rule->planes, error);
  if (status == BPDQ_OK) status = read_small_integer(settings, "group_size", 1, 65536, &rule->group, error);
  if (status != BPDQ_OK) return bpdq_fail_context(error, status, "dynamic: '%.200s'", key);
  return BPDQ_OK;
}

static bpdq_status read_rules(const json_t *object, bpdq_quantization_config *quantization, bpdq_error *error) {
  const json_t *dynamic = bpdq_json_member(object, "dynamic");
  if (!dynamic) return BPDQ_OK;
  if (!json_is_object(dynamic)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "dynamic is not an object");
  size_t count = json_object_size(dynamic);
  if (count == 0) return BPDQ_OK;
  if (count > MAX_RULES) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "dynamic has %zu rules, more than %u", count, MAX_RULES);
  quantization->dynamic = calloc(count, sizeof *quantization->dynamic);
  if (!quantization->dynamic) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for %zu dynamic rules", count);
  const char *key;
  const json_t *settings;
  json_object_foreach((json_t *)dynamic, key, settings) {
    BPDQ_TRY(read_rule(key, settings, &quantization->dynamic[quantization->dynamic_count++], error));
  }
  return BPDQ_OK;
}

static bpdq_status check_name(const json_t *object, const char *key, const char *expected, bool *found, bpdq_error *error) {
  const char *value = NULL;
  BPDQ_TRY(bpdq_json_get_string(object, key, &value, error));
  if (!value) return BPDQ_OK;
  if (strcmp(value, expected) != 0)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "%s '%.64s' is not supported (%s is)", key, value, expected);
  *found = true;
  return BPDQ_OK;
}

/* What changes the meaning of the stored bytes or of the forward pass is refused by name. */
static bpdq_status check_supported(const json_t *object, bpdq_error *error) {
  bool named = false, packed = false, by_activation = false;
  BPDQ_TRY(check_name(object, "quant_method", "bpdq", &named, error));
  BPDQ_TRY(check_name(object, "checkpoint_format", "bpdq", &named, error));
  BPDQ_TRY(check_name(object, "format", "bpdq", &named, error));
  if (!named) return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "quantization_config has no quant_method; bpdq is supported");
  BPDQ_TRY(check_name(object, "pack_dtype", "int32", &packed, error));
  BPDQ_TRY(bpdq_json_get_bool(object, "desc_act", &by_activation, error));
  if (by_activation) return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "desc_act true is not supported: columns must be in natural order");
  const json_t *rotation = bpdq_json_member(object, "rotation");
  if (rotation) {
    const char *name = json_is_string(rotation) ? json_string_value(rotation) : "(not a string)";
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "rotation '%.64s' is not supported; quantize the model without one", name);
  }
  return BPDQ_OK;
}

static bpdq_status read_settings(const json_t *object, bpdq_quantization_config *quantization, bpdq_error *error) {
  quantization->present = true;
  quantization->bits = 8;
  BPDQ_TRY(check_supported(object, error));
  BPDQ_TRY(read_planes(object, &quantization->planes, error));
  BPDQ_TRY(read_small_integer(object, "group_size", 1, 65536, &quantization->group, error));
  BPDQ_TRY(read_small_integer(object, "bits", 1, 16, &quantization->bits, error));
  BPDQ_TRY(bpdq_json_get_bool(object, "lm_head", &quantization->lm_head, error));
  const json_t *details = bpdq_json_member(bpdq_json_member(object, "meta"), "bpdq");
  BPDQ_TRY(read_small_integer(details, "n_iters", 0, 1000000, &quantization->iterations, error));
  BPDQ_TRY(bpdq_json_get_number(details, "alpha", 0, 1e9, &quantization->alpha, error));
  return read_rules(object, quantization, error);
}

bpdq_status bpdq_config_read_quantization(const json_t *object, bpdq_quantization_config *quantization, bpdq_error *error) {
  *quantization = (bpdq_quantization_config){0};
  if (!json_is_object(object)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "quantization_config is not an object");
  bpdq_status status = read_settings(object, quantization, error);
  if (status != BPDQ_OK) bpdq_config_free_quantization(quantization);
  return status;
}

void bpdq_config_free_quantization(bpdq_quantization_config *quantization) {
  for (size_t i = 0; i < quantization->dynamic_count; i++) {
    free(quantization->dynamic[i].pattern);
    pcre2_code_free(quantization->dynamic[i].code);
  }
  free(quantization->dynamic);
  *quantization = (bpdq_quantization_config){0};
}

/* The first rule whose pattern matches at the start of the name, as Python's re.match finds it. A pattern that runs into the step
 * limit counts as no match. */
static const bpdq_dynamic_rule *find_rule(const bpdq_quantization_config *quantization, const char *module) {
  if (quantization->dynamic_count == 0) return NULL;
  const bpdq_dynamic_rule *found = NULL;
  pcre2_match_data *match = pcre2_match_data_create(1, NULL);
  pcre2_match_context *context = pcre2_match_context_create(NULL);
  if (match && context) {
    pcre2_set_match_limit(context, MAX_MATCH_STEPS);
    for (size_t i = 0; i < quantization->dynamic_count && !found; i++) {
      const bpdq_dynamic_rule *rule = &quantization->dynamic[i];
      if (pcre2_match(rule->code, (PCRE2_SPTR)module, PCRE2_ZERO_TERMINATED, 0, 0, match, context) >= 0) found = rule;
    }
  }
  pcre2_match_context_free(context);
  pcre2_match_data_free(match);
  return found;
}

bool bpdq_config_module(const bpdq_config *config, const char *module, int *planes, int *group) {
  const bpdq_quantization_config *quantization = &config->quantization;
  *planes = quantization->planes;
  *group = quantization->group;
  if (!quantization->present || (strcmp(module, "lm_head") == 0 && !quantization->lm_head)) return false;
  const bpdq_dynamic_rule *rule = find_rule(quantization, module);
  if (!rule) return true;
  if (rule->dense) return false;
  if (rule->planes) *planes = rule->planes;
  if (rule->group) *group = rule->group;
  return true;
}
