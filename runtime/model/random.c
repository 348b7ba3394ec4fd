/* Models of a known shape with random weights made in place: benchmarks at sizes that nobody wants to download. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/registry.h"
#include "core/checked.h"
#include "model/model.h"

typedef struct model_shape {
  const char *name;
  bpdq_architecture architecture;
  const char *model_type;
  int64_t layers, hidden, intermediate, vocab, heads, kv_heads, head_dim;
  bool tied;
} model_shape;

static const model_shape shapes[] = {
    {"qwen2.5-0.5b", BPDQ_QWEN2, "qwen2", 24, 896, 4864, 151936, 14, 2, 64, true},
    {"qwen2.5-1.5b", BPDQ_QWEN2, "qwen2", 28, 1536, 8960, 151936, 12, 2, 128, true},
    {"llama-3.2-1b", BPDQ_LLAMA, "llama", 16, 2048, 8192, 128256, 32, 8, 64, true},
    {"qwen2.5-7b", BPDQ_QWEN2, "qwen2", 28, 3584, 18944, 152064, 28, 4, 128, false},
    {"qwen2.5-72b", BPDQ_QWEN2, "qwen2", 80, 8192, 29568, 152064, 64, 8, 128, false},
};

static const model_shape *find_shape(const char *name) {
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    if (!strcmp(shapes[i].name, name)) return &shapes[i];
  return NULL;
}

static bpdq_status shape_unknown(const char *name, bpdq_error *error) {
  char known[256] = "";
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    size_t used = strlen(known);
    snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", shapes[i].name);
  }
  return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "unknown shape \"%s\"; there are %s", name, known);
}

static void fill_random(void *memory, size_t bytes, uint64_t *state) {
  for (size_t i = 0; i < bytes; i += 8) {
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    *state = x;
    memcpy((char *)memory + i, &x, bytes - i < 8 ? bytes - i : 8);
  }
}

/* bf16 values of magnitude below 2^-5: the upper bits of the exponent are fixed, the rest is random. */
static void fill_small_bf16(uint16_t *values, size_t count, uint64_t *state) {
  fill_random(values, count * 2, state);
  for (size_t i = 0; i < count; i++) values[i] = (uint16_t)((values[i] & 0x80ffu) | 0x3c00u);
}

typedef struct maker {
  bpdq_model *model;
  int planes, group;
  uint64_t seed;
  bpdq_progress_callback progress;
  void *progress_user;
} maker;

/* For backends without weight_random: host buffers in checkpoint layout. */
static bpdq_status create_from_host(maker *m, bpdq_weight_desc *desc, bpdq_weight_part *part, bpdq_weight **weight, bpdq_error *error) {
  bpdq_backend *backend = m->model->backend;
  int64_t groups = (int64_t)bpdq_ceil_div((uint64_t)desc->columns, (uint64_t)(desc->group ? desc->group : 1));
  bool planes = desc->kind == BPDQ_WEIGHT_PLANES;
  size_t data_count = planes ? (size_t)(groups * desc->group / 32 * desc->planes * part->rows) : (size_t)(part->rows * desc->columns);
  size_t coefficient_count = planes ? (size_t)(groups * (desc->planes + 1) * part->rows) : 0;
  void *data = bpdq_alloc_array(data_count, planes ? 4 : 2), *coefficients = bpdq_alloc_array(coefficient_count, 2);
  bpdq_status status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory for random weights");
  if (data && coefficients) {
    if (planes)
      fill_random(data, data_count * 4, &m->seed);
    else
      fill_small_bf16(data, data_count, &m->seed);
    fill_small_bf16(coefficients, coefficient_count, &m->seed);
    part->data = data;
    part->dtype = planes ? BPDQ_I32 : BPDQ_BF16;
    part->coefficients = coefficients;
    part->coefficient_dtype = BPDQ_BF16;
    status = backend->weight_create(backend, desc, weight, error);
    if (status == BPDQ_OK) status = backend->weights_flush(backend, error);
  }
  free(data);
  free(coefficients);
  return status;
}

static bpdq_status make_linear(maker *m, const char *name, bool planes, int64_t rows, int64_t columns, model_linear *linear,
                               bpdq_error *error) {
  bpdq_backend *backend = m->model->backend;
  bpdq_weight_part part = {.rows = rows, .dtype = planes ? BPDQ_I32 : BPDQ_BF16, .coefficient_dtype = BPDQ_BF16};
  bpdq_weight_desc desc = {planes ? BPDQ_WEIGHT_PLANES : BPDQ_WEIGHT_DENSE,
                           name,
                           columns,
                           planes ? m->planes : 0,
                           planes ? m->group : 0,
                           &part,
                           1,
                           false,
                           !planes};
  m->seed = m->seed * 6364136223846793005u + 1442695040888963407u;
  linear->count = 1;
  if (backend->weight_random)
    BPDQ_TRY(backend->weight_random(backend, &desc, m->seed, &linear->pieces[0].weight, error));
  else
    BPDQ_TRY(create_from_host(m, &desc, &part, &linear->pieces[0].weight, error));
  m->model->parameters += (uint64_t)rows * (uint64_t)columns;
  if (planes) {
    uint64_t groups = bpdq_ceil_div((uint64_t)columns, (uint64_t)m->group);
    m->model->quantized_weights += (uint64_t)rows * (uint64_t)columns;
    m->model->quantized_bits += (uint64_t)rows * groups * (uint64_t)(m->group * m->planes + 16 * (m->planes + 1));
  }
  return BPDQ_OK;
}

static bpdq_status make_vector(maker *m, int64_t rows, float value, bpdq_weight **weight, bpdq_error *error) {
  float *values = bpdq_alloc_array((size_t)rows, sizeof *values);
  if (!values) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory for random weights");
  for (int64_t i = 0; i < rows; i++) values[i] = value;
  bpdq_weight_part part = {rows, values, BPDQ_F32, NULL, BPDQ_F32};
  bpdq_weight_desc desc = {BPDQ_WEIGHT_VECTOR, "vector", 1, 0, 0, &part, 1, false, false};
  bpdq_status status = m->model->backend->weight_create(m->model->backend, &desc, weight, error);
  free(values);
  return status;
}

static bpdq_status make_layer(maker *m, model_layer *layer, bpdq_error *error) {
  const bpdq_config *c = &m->model->config;
  int64_t q_width = c->heads * c->head_dim, qkv_width = q_width + 2 * c->kv_heads * c->head_dim;
  BPDQ_TRY(make_vector(m, c->hidden_size, 1, &layer->attention_norm, error));
  BPDQ_TRY(make_vector(m, c->hidden_size, 1, &layer->mlp_norm, error));
  BPDQ_TRY(make_linear(m, "qkv", true, qkv_width, c->hidden_size, &layer->qkv, error));
  if (c->attention_bias) BPDQ_TRY(make_vector(m, qkv_width, 0, &layer->qkv.pieces[0].bias, error));
  BPDQ_TRY(make_linear(m, "output", true, c->hidden_size, q_width, &layer->output, error));
  BPDQ_TRY(make_linear(m, "gate_up", true, 2 * c->intermediate_size, c->hidden_size, &layer->gate_up, error));
  return make_linear(m, "down", true, c->hidden_size, c->intermediate_size, &layer->down, error);
}

static bpdq_status make_weights(maker *m, bpdq_error *error) {
  bpdq_model *model = m->model;
  const bpdq_config *c = &model->config;
  model->layers = calloc((size_t)c->layers, sizeof *model->layers);
  if (!model->layers) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  for (int64_t i = 0; i < c->layers; i++) {
    BPDQ_TRY(make_layer(m, &model->layers[i], error));
    if (m->progress && !m->progress(m->progress_user, (double)(i + 1) / (double)(c->layers + 1)))
      return bpdq_fail(error, BPDQ_ERROR_CANCELLED, "making random weights was interrupted");
  }
  BPDQ_TRY(make_vector(m, c->hidden_size, 1, &model->final_norm, error));
  BPDQ_TRY(make_linear(m, "head", false, c->vocab_size, c->hidden_size, &model->head, error));
  return model->backend->weights_flush(model->backend, error);
}

static void set_config(bpdq_config *config, const model_shape *shape) {
  config->architecture = shape->architecture;
  snprintf(config->model_type, sizeof config->model_type, "%s", shape->model_type);
  config->layers = shape->layers;
  config->hidden_size = shape->hidden;
  config->intermediate_size = shape->intermediate;
  config->vocab_size = shape->vocab;
  config->heads = shape->heads;
  config->kv_heads = shape->kv_heads;
  config->head_dim = shape->head_dim;
  config->context_length = 131072;
  config->norm_epsilon = 1e-6;
  config->tied_head = shape->tied;
  config->attention_bias = shape->architecture == BPDQ_QWEN2;
  config->rope = (bpdq_rope_config){.kind = BPDQ_ROPE_DEFAULT, .theta = 1e6, .factor = 1};
}

bpdq_status bpdq_model_random(const char *name, int planes, int group, const bpdq_model_options *options, bpdq_model **result,
                              bpdq_error *error) {
  bpdq_model_options defaults = bpdq_model_default_options();
  if (!options) options = &defaults;
  *result = NULL;
  const model_shape *shape = find_shape(name);
  if (!shape) return shape_unknown(name, error);
  if (planes < 1 || planes > 8) return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "planes must be 1 to 8, not %d", planes);
  if (group < 32 || group > 256 || group % 32)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "group must be a multiple of 32 from 32 to 256, not %d", group);
  bpdq_model *model = calloc(1, sizeof *model);
  if (!model) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  model->log = (bpdq_log){options->log, options->log_user};
  set_config(&model->config, shape);
  char *cache = options->cache_folder ? NULL : bpdq_cache_folder();
  bpdq_backend_options backend_options = {options->device,     options->threads,
                                          options->memory_cap, options->cache_folder ? options->cache_folder : cache,
                                          options->vulkan,     model->log};
  bpdq_status status =
      bpdq_backend_choose(options->backend, 0, &backend_options, &model->backend, model->choice, sizeof model->choice, error);
  free(cache);
  maker m = {model, planes, group, 0x9e3779b97f4a7c15u, options->progress, options->progress_user};
  if (status == BPDQ_OK) {
    model->activations = options->activations ? options->activations : model->backend->default_activations;
    status = make_weights(&m, error);
  }
  if (status != BPDQ_OK) {
    bpdq_model_free(model);
    return status;
  }
  bpdq_model_finish_counts(model);
  model->weight_bytes = model->bytes_per_token;
  *result = model;
  return BPDQ_OK;
}
