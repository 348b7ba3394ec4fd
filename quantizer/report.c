/* What quantize_report.json, settings.json and quantization_config say. */
#include "report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block.h"

static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

/* ---- where the time goes ---- */

typedef struct seconds_part {
  const char *name;
  size_t offset;
} seconds_part;

#define PART(name) \
  { #name, offsetof(bpdq_quantize_seconds, name) }
static const seconds_part PARTS[] = {PART(load),   PART(forward), PART(statistics), PART(factor), PART(target), PART(walk),
                                     PART(sweeps), PART(refits),  PART(objectives), PART(result), PART(write)};
enum { PART_COUNT = sizeof PARTS / sizeof *PARTS };
#undef PART

void bpdq_seconds_add(bpdq_quantize_seconds *total, const bpdq_quantize_seconds *seconds) {
  for (int i = 0; i < PART_COUNT; i++)
    *(double *)(void *)((char *)total + PARTS[i].offset) += *(const double *)(const void *)((const char *)seconds + PARTS[i].offset);
}

json_t *bpdq_seconds_json(const bpdq_quantize_seconds *seconds) {
  json_t *object = json_object();
  for (int i = 0; object && i < PART_COUNT; i++) {
    double value = *(const double *)(const void *)((const char *)seconds + PARTS[i].offset);
    if (value > 0) json_object_set_new(object, PARTS[i].name, number(value));
  }
  return object;
}

/* ---- reports ---- */

json_t *bpdq_layer_report_json(const bpdq_layer_report *r) {
  return json_pack("{ss sI sI si si so so so so so so so sI sI so so}", "name", r->name, "rows", (json_int_t)r->rows, "columns",
                   (json_int_t)r->columns, "planes", r->planes, "group", r->group, "bits_per_weight", number(r->bits_per_weight),
                   "objective", number(r->objective), "objective_target", number(r->objective_target), "objective_zero",
                   number(r->objective_zero), "objective_rtn", number(r->objective_rtn), "objective_gptq", number(r->objective_gptq),
                   "damping", number(r->damping), "dead_columns", (json_int_t)r->dead_columns, "calibration_tokens",
                   (json_int_t)r->calibration_tokens, "seconds", number(r->seconds), "parts", bpdq_seconds_json(&r->parts));
}

static double read_number(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  return json_is_number(value) ? json_number_value(value) : NAN;
}

void bpdq_layer_report_read(const json_t *object, bpdq_layer_report *r) {
  *r = (bpdq_layer_report){0};
  const char *name = json_string_value(json_object_get(object, "name"));
  snprintf(r->name, sizeof r->name, "%s", name ? name : "");
  r->rows = json_integer_value(json_object_get(object, "rows"));
  r->columns = json_integer_value(json_object_get(object, "columns"));
  r->planes = (int)json_integer_value(json_object_get(object, "planes"));
  r->group = (int)json_integer_value(json_object_get(object, "group"));
  r->dead_columns = json_integer_value(json_object_get(object, "dead_columns"));
  r->calibration_tokens = json_integer_value(json_object_get(object, "calibration_tokens"));
  r->bits_per_weight = read_number(object, "bits_per_weight");
  r->objective = read_number(object, "objective");
  r->objective_target = read_number(object, "objective_target");
  r->objective_zero = read_number(object, "objective_zero");
  r->objective_rtn = read_number(object, "objective_rtn");
  r->objective_gptq = read_number(object, "objective_gptq");
  r->damping = read_number(object, "damping");
  r->seconds = read_number(object, "seconds");
}

json_t *bpdq_report_json(const bpdq_quantize_options *options, const bpdq_quantize_summary *s, json_t *layers) {
  return json_pack("{ss sI sI so sI sI sI sI sI so so so so sI sO}", "method", bpdq_quantize_method_name(options->method), "linears",
                   (json_int_t)s->linears, "quantized_weights", (json_int_t)s->quantized_weights, "bits_per_weight",
                   number(s->bits_per_weight), "source_bytes", (json_int_t)s->source_bytes, "written_bytes", (json_int_t)s->written_bytes,
                   "calibration_tokens", (json_int_t)s->calibration_tokens, "peak_host_bytes", (json_int_t)s->peak_host_bytes,
                   "peak_device_bytes", (json_int_t)s->peak_device_bytes, "seconds", number(s->seconds), "forward_seconds",
                   number(s->forward_seconds), "algorithm_seconds", number(s->algorithm_seconds), "parts", bpdq_seconds_json(&s->parts),
                   "resumed_blocks", (json_int_t)s->resumed_blocks, "layers", layers);
}

/* FNV-1a. */
#define HASH_START 0xcbf29ce484222325u
static uint64_t hash_bytes(uint64_t hash, const void *data, size_t size) {
  const unsigned char *bytes = data;
  for (size_t i = 0; i < size; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return hash;
}

static json_t *recipe_json(const bpdq_recipe *r) {
  return json_pack("{sb sb sb sb sb sb si si si si sf}", "dense_target", r->dense_target, "residual_target", r->residual_target,
                   "best_per_row", r->best_per_row, "several_starts", r->several_starts, "coordinate_descent", r->coordinate_descent,
                   "joint_refit", r->joint_refit, "restarts", r->restarts, "rounds", r->rounds, "sweeps_per_round", r->sweeps_per_round,
                   "final_sweeps", r->final_sweeps, "target_damping", r->target_damping);
}

#define SAMPLE_BYTES 4096

/* The first bytes of every tensor of the decoder: another model of the same shape at the same path differs in them. */
static uint64_t hash_tensor(uint64_t hash, const bpdq_stored_tensor *tensor) {
  if (!tensor) return hash;
  return hash_bytes(hash, tensor->data, tensor->bytes < SAMPLE_BYTES ? (size_t)tensor->bytes : SAMPLE_BYTES);
}

static uint64_t hash_source(const bpdq_checkpoint *checkpoint) {
  uint64_t hash = hash_tensor(hash_tensor(HASH_START, checkpoint->embedding), checkpoint->final_norm);
  hash = hash_tensor(hash, checkpoint->head.weight);
  for (int64_t i = 0; i < checkpoint->config.layers; i++) {
    const bpdq_layer_source *layer = &checkpoint->layers[i];
    hash = hash_tensor(hash_tensor(hash, layer->attention_norm), layer->mlp_norm);
    hash = hash_tensor(hash_tensor(hash, layer->q_norm), layer->k_norm);
    for (int j = 0; j < BPDQ_LINEARS; j++) {
      const bpdq_linear_source *linear = bpdq_block_source(layer, j);
      hash = hash_tensor(hash_tensor(hash, linear->weight), linear->bias);
    }
  }
  return hash;
}

/* A path as text: where it is no UTF-8, which JSON's strings are, each byte beyond ASCII as \xNN. */
static json_t *path_json(const char *path) {
  json_t *text = json_string(path);
  char *escaped = text ? NULL : malloc(4 * strlen(path) + 1), *to = escaped;
  if (!escaped) return text;
  for (const unsigned char *at = (const unsigned char *)path; *at; at++) to += sprintf(to, *at < 0x80 ? "%c" : "\\x%02x", *at);
  text = json_string(escaped);
  free(escaped);
  return text;
}

json_t *bpdq_settings_json(const char *source, const bpdq_checkpoint *checkpoint, const bpdq_quantize_options *o,
                           const bpdq_calibration *calibration) {
  uint64_t hash = HASH_START, weights = hash_source(checkpoint);
  hash = hash_bytes(hash, calibration->ids, (size_t)(calibration->count * calibration->length) * sizeof *calibration->ids);
  char text[32], sample[32];
  snprintf(text, sizeof text, "%016llx", (unsigned long long)hash);
  snprintf(sample, sizeof sample, "%016llx", (unsigned long long)weights);
  return json_pack("{ss so sI ss si si sf si sI sI ss sf si sf so}", "version", BPDQ_VERSION, "source", path_json(source), "source_bytes",
                   (json_int_t)checkpoint->weight_bytes, "source_weights", sample, "planes", o->planes, "group", o->group, "bits", o->bits,
                   "head_bits", o->head_bits, "samples", (json_int_t)calibration->count, "sequence_length", (json_int_t)calibration->length,
                   "calibration", text, "damping", o->damping, "iterations", o->iterations, "alpha", o->alpha, "recipe",
                   json_pack("{ss so}", "method", bpdq_quantize_method_name(o->method), "steps", recipe_json(&o->recipe)));
}

/* "+:^model\.layers\.0\.mlp\.down_proj$" */
static void override_pattern(const char *module, char *pattern, size_t size) {
  size_t n = (size_t)snprintf(pattern, size, "+:^");
  for (; *module && n + 4 < size; module++) {
    if (*module == '.') pattern[n++] = '\\';
    pattern[n++] = *module;
  }
  snprintf(pattern + n, size - n, "$");
}

/* False where memory is short. */
static bool override(json_t *dynamic, const char *module, int planes) {
  char pattern[400];
  override_pattern(module, pattern, sizeof pattern);
  return json_object_set_new(dynamic, pattern, json_pack("{si}", "msbits", planes)) == 0;
}

static json_t *overrides(const bpdq_checkpoint *checkpoint, const bpdq_quantize_options *options, const uint8_t *planes) {
  json_t *dynamic = json_object();
  bool done = dynamic != NULL;
  for (int64_t i = 0; done && i < checkpoint->config.layers * BPDQ_LINEARS; i++)
    if (planes[i] != options->planes)
      done = override(dynamic, bpdq_block_source(&checkpoint->layers[i / BPDQ_LINEARS], (int)(i % BPDQ_LINEARS))->name, planes[i]);
  if (done && options->head_bits && options->head_bits != options->planes) done = override(dynamic, "lm_head", options->head_bits);
  if (done) return dynamic;
  json_decref(dynamic);
  return NULL;
}

json_t *bpdq_quantization_json(const bpdq_checkpoint *checkpoint, const bpdq_quantize_options *o, const uint8_t *planes, bool head) {
  json_t *meta = json_pack("{s[s] sf sb sb ss s{si si sf}}", "quantizer", "bpdq:" BPDQ_VERSION, "damp_percent", o->damping,
                           "true_sequential", 1, "act_group_aware", 1, "method", bpdq_quantize_method_name(o->method), "bpdq", "msbits",
                           o->planes, "n_iters", o->iterations, "alpha", o->alpha);
  json_t *config = json_pack("{si si sb sb sb ss ss ss so sn}", "bits", 8, "group_size", o->group, "desc_act", 0, "sym", 0, "lm_head", head,
                             "quant_method", "bpdq", "checkpoint_format", "bpdq", "pack_dtype", "int32", "meta", meta, "rotation");
  json_t *dynamic = overrides(checkpoint, o, planes);
  if (!config || !dynamic) {
    json_decref(config);
    json_decref(dynamic);
    return NULL;
  }
  if (json_object_size(dynamic) == 0)
    json_decref(dynamic);
  else if (json_object_set_new(config, "dynamic", dynamic)) {
    json_decref(config);
    return NULL;
  }
  return config;
}
