/* Models of a known shape with random weights made in place: benchmarks at sizes that nobody wants to download. */
#include <stdlib.h>

#include "backend/registry.h"
#include "core/checked.h"
#include "model/random.h"

typedef struct maker {
  bpdq_model *model;
  int planes, group;
  uint64_t seed;
  bpdq_progress_callback progress;
  void *progress_user;
} maker;

static bpdq_status make_linear(maker *m, const char *name, bool planes, int64_t rows, int64_t columns, model_linear *linear,
                               bpdq_error *error) {
  linear->count = 1;
  m->seed = m->seed * 6364136223846793005u + 1442695040888963407u;
  BPDQ_TRY(bpdq_random_matrix(m->model->backend, name, rows, columns, planes ? m->planes : 0, m->group, m->seed, &linear->pieces[0].weight,
                              error));
  m->model->parameters += (uint64_t)rows * (uint64_t)columns;
  if (planes) {
    uint64_t groups = bpdq_ceil_div((uint64_t)columns, (uint64_t)m->group);
    m->model->quantized_weights += (uint64_t)rows * (uint64_t)columns;
    m->model->quantized_bits += (uint64_t)rows * groups * (uint64_t)(m->group * m->planes + 16 * (m->planes + 1));
  }
  return BPDQ_OK;
}

static bpdq_status make_layer(maker *m, model_layer *layer, bpdq_error *error) {
  const bpdq_config *c = &m->model->config;
  int64_t q_width = c->heads * c->head_dim, qkv_width = q_width + 2 * c->kv_heads * c->head_dim;
  BPDQ_TRY(bpdq_constant_vector(m->model->backend, c->hidden_size, 1, &layer->attention_norm, error));
  BPDQ_TRY(bpdq_constant_vector(m->model->backend, c->hidden_size, 1, &layer->mlp_norm, error));
  BPDQ_TRY(make_linear(m, "qkv", true, qkv_width, c->hidden_size, &layer->qkv, error));
  if (c->attention_bias) BPDQ_TRY(bpdq_constant_vector(m->model->backend, qkv_width, 0, &layer->qkv.pieces[0].bias, error));
  BPDQ_TRY(make_linear(m, "output", true, c->hidden_size, q_width, &layer->output, error));
  BPDQ_TRY(make_linear(m, "gate_up", true, 2 * c->intermediate_size, c->hidden_size, &layer->gate_up, error));
  return make_linear(m, "down", true, c->hidden_size, c->intermediate_size, &layer->down, error);
}

/* Numbers that embedding rows are slices of, stored as a table would be: a benchmark spends on a row what a model does. */
static bpdq_status make_embedding(maker *m, bpdq_error *error) {
  size_t count = (size_t)m->model->config.hidden_size + MODEL_RANDOM_ROWS;
  m->model->random_rows = bpdq_alloc_array(count, sizeof *m->model->random_rows);
  if (!m->model->random_rows) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  uint64_t state = m->seed;
  for (size_t i = 0; i < count; i++) { /* bf16 of 2^-6 to 2^-4, of either sign */
    state = state * 6364136223846793005u + 1442695040888963407u;
    m->model->random_rows[i] = (uint16_t)((state >> 48 & 0x8000) | (0x3c80 + (state >> 32 & 0xff)));
  }
  return BPDQ_OK;
}

static bpdq_status make_weights(maker *m, bpdq_error *error) {
  bpdq_model *model = m->model;
  const bpdq_config *c = &model->config;
  model->layers = calloc((size_t)c->layers, sizeof *model->layers);
  if (!model->layers) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  BPDQ_TRY(make_embedding(m, error));
  for (int64_t i = 0; i < c->layers; i++) {
    BPDQ_TRY(make_layer(m, &model->layers[i], error));
    if (m->progress && !m->progress(m->progress_user, (double)(i + 1) / (double)(c->layers + 1)))
      return bpdq_fail(error, BPDQ_ERROR_CANCELLED, "making random weights was interrupted");
  }
  BPDQ_TRY(bpdq_constant_vector(m->model->backend, c->hidden_size, 1, &model->final_norm, error));
  BPDQ_TRY(make_linear(m, "head", false, c->vocab_size, c->hidden_size, &model->head, error));
  return model->backend->weights_flush(model->backend, error);
}

bpdq_status bpdq_model_random(const char *name, int planes, int group, const bpdq_model_options *options, bpdq_model **result,
                              bpdq_error *error) {
  bpdq_model_options defaults = bpdq_model_default_options();
  if (!options) options = &defaults;
  *result = NULL;
  bpdq_config config;
  BPDQ_TRY(bpdq_random_config(name, &config, error));
  BPDQ_TRY(bpdq_random_check(planes, group, error));
  BPDQ_TRY(bpdq_check_activations(options->activations, error));
  bpdq_model *model = calloc(1, sizeof *model);
  if (!model) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  model->log = (bpdq_log){options->log, options->log_user};
  model->config = config;
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
