/* From a model folder to weights on a backend. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/registry.h"
#include "core/checked.h"
#include "core/half.h"
#include "model/model.h"

#define SCRATCH_ESTIMATE (512ull << 20) /* activations and staging of one session, for the choice of a device */
#define DEFAULT_CONTEXT 4096

typedef struct loader {
  bpdq_model *model;
  bpdq_progress_callback progress;
  void *progress_user;
  uint64_t bytes_done;
  float *zeros; /* a bias for parts without one, as long as the widest linear */
} loader;

static bpdq_dtype dtype_of(const bpdq_stored_tensor *tensor) {
  switch (tensor->type) {
    case BPDQ_STORED_F16:
      return BPDQ_F16;
    case BPDQ_STORED_BF16:
      return BPDQ_BF16;
    case BPDQ_STORED_I32:
      return BPDQ_I32;
    default:
      return BPDQ_F32;
  }
}

static bpdq_status report(loader *l, const bpdq_stored_tensor *tensor, bpdq_error *error) {
  if (!tensor) return BPDQ_OK;
  l->bytes_done += tensor->bytes;
  double total = (double)l->model->checkpoint.weight_bytes, fraction = total > 0 ? (double)l->bytes_done / total : 1;
  if (l->progress && !l->progress(l->progress_user, fraction < 1 ? fraction : 1))
    return bpdq_fail(error, BPDQ_ERROR_CANCELLED, "loading %s was interrupted", l->model->checkpoint.folder);
  return BPDQ_OK;
}

static bpdq_status load_vector(loader *l, const char *name, const bpdq_stored_tensor *tensor, bpdq_weight **weight, bpdq_error *error) {
  if (!tensor) return BPDQ_OK;
  bpdq_weight_part part = {tensor->shape[0], tensor->data, dtype_of(tensor), NULL, BPDQ_F32};
  bpdq_weight_desc desc = {BPDQ_WEIGHT_VECTOR, name, 1, 0, 0, &part, 1, true, false};
  BPDQ_TRY(l->model->backend->weight_create(l->model->backend, &desc, weight, error));
  return report(l, tensor, error);
}

static bool stackable(const bpdq_linear_source *a, const bpdq_linear_source *b) {
  return a->columns == b->columns && a->planes == b->planes && a->group == b->group && !a->weight == !b->weight;
}

static bpdq_weight_part part_of(const bpdq_linear_source *source) {
  if (source->weight) return (bpdq_weight_part){source->rows, source->weight->data, dtype_of(source->weight), NULL, BPDQ_F32};
  return (bpdq_weight_part){source->rows, source->bits->data, BPDQ_I32, source->coefficients->data, dtype_of(source->coefficients)};
}

static void count_source(bpdq_model *model, const bpdq_linear_source *source) {
  uint64_t weights = (uint64_t)source->rows * (uint64_t)source->columns;
  model->parameters += weights + (source->bias ? (uint64_t)source->rows : 0);
  if (source->weight) return;
  model->quantized_weights += weights;
  model->quantized_bits += 8 * (source->bits->bytes + source->coefficients->bytes);
}

/* Uploads sources[first..last) as one weight, with their biases as one vector. */
static bpdq_status load_piece(loader *l, const bpdq_linear_source *const *sources, int first, int last, bool is_head, bpdq_weight **weight,
                              bpdq_weight **bias, bpdq_error *error) {
  bpdq_backend *backend = l->model->backend;
  bpdq_weight_part parts[3], biases[3];
  bool any_bias = false;
  for (int i = first; i < last; i++) {
    const bpdq_linear_source *source = sources[i];
    parts[i - first] = part_of(source);
    biases[i - first] = source->bias ? (bpdq_weight_part){source->rows, source->bias->data, dtype_of(source->bias), NULL, BPDQ_F32}
                                     : (bpdq_weight_part){source->rows, l->zeros, BPDQ_F32, NULL, BPDQ_F32};
    any_bias |= source->bias != NULL;
    count_source(l->model, source);
  }
  const bpdq_linear_source *source = sources[first];
  bpdq_weight_desc desc = {source->weight ? BPDQ_WEIGHT_DENSE : BPDQ_WEIGHT_PLANES,
                           source->name,
                           source->columns,
                           source->planes,
                           source->group,
                           parts,
                           last - first,
                           true,
                           is_head};
  BPDQ_TRY(backend->weight_create(backend, &desc, weight, error));
  if (any_bias) {
    bpdq_weight_desc bias_desc = {BPDQ_WEIGHT_VECTOR, source->name, 1, 0, 0, biases, last - first, false, false};
    BPDQ_TRY(backend->weight_create(backend, &bias_desc, bias, error));
  }
  for (int i = first; i < last; i++) {
    BPDQ_TRY(report(l, sources[i]->weight, error));
    BPDQ_TRY(report(l, sources[i]->bits, error));
    BPDQ_TRY(report(l, sources[i]->coefficients, error));
  }
  return BPDQ_OK;
}

static bpdq_status load_linear(loader *l, const bpdq_linear_source *const *sources, int count, bool is_head, model_linear *linear,
                               bpdq_error *error) {
  int64_t offset = 0;
  for (int first = 0; first < count;) {
    int last = first + 1;
    while (last < count && stackable(sources[first], sources[last])) last++;
    int piece = linear->count++;
    linear->pieces[piece].offset = offset;
    BPDQ_TRY(load_piece(l, sources, first, last, is_head, &linear->pieces[piece].weight, &linear->pieces[piece].bias, error));
    for (; first < last; first++) offset += sources[first]->rows;
  }
  return BPDQ_OK;
}

static bpdq_status load_layer(loader *l, const bpdq_layer_source *source, model_layer *layer, bpdq_error *error) {
  BPDQ_TRY(load_vector(l, "input_layernorm", source->attention_norm, &layer->attention_norm, error));
  BPDQ_TRY(load_vector(l, "post_attention_layernorm", source->mlp_norm, &layer->mlp_norm, error));
  BPDQ_TRY(load_vector(l, "q_norm", source->q_norm, &layer->q_norm, error));
  BPDQ_TRY(load_vector(l, "k_norm", source->k_norm, &layer->k_norm, error));
  const bpdq_linear_source *qkv[] = {&source->q, &source->k, &source->v}, *gate_up[] = {&source->gate, &source->up};
  const bpdq_linear_source *output[] = {&source->o}, *down[] = {&source->down};
  BPDQ_TRY(load_linear(l, qkv, 3, false, &layer->qkv, error));
  BPDQ_TRY(load_linear(l, output, 1, false, &layer->output, error));
  BPDQ_TRY(load_linear(l, gate_up, 2, false, &layer->gate_up, error));
  return load_linear(l, down, 1, false, &layer->down, error);
}

static int64_t widest_linear(const bpdq_config *config) {
  int64_t widest = config->vocab_size;
  int64_t others[] = {config->intermediate_size, config->hidden_size, config->heads * config->head_dim,
                      config->kv_heads * config->head_dim};
  for (int i = 0; i < 4; i++)
    if (others[i] > widest) widest = others[i];
  return widest;
}

static bpdq_status load_weights(loader *l, bpdq_error *error) {
  bpdq_model *model = l->model;
  const bpdq_checkpoint *checkpoint = &model->checkpoint;
  model->layers = calloc((size_t)model->config.layers, sizeof *model->layers);
  l->zeros = calloc((size_t)widest_linear(&model->config), sizeof *l->zeros);
  if (!model->layers || !l->zeros) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory while loading %s", checkpoint->folder);
  for (int64_t i = 0; i < model->config.layers; i++) {
    bpdq_status status = load_layer(l, &checkpoint->layers[i], &model->layers[i], error);
    if (status != BPDQ_OK)
      return status == BPDQ_ERROR_CANCELLED ? status : bpdq_fail_context(error, status, "%s layer %lld", checkpoint->folder, (long long)i);
  }
  BPDQ_TRY(load_vector(l, "model.norm", checkpoint->final_norm, &model->final_norm, error));
  const bpdq_linear_source *head[] = {&checkpoint->head};
  /* f32 activations ask for exact products: the head then keeps its precision. */
  BPDQ_TRY(load_linear(l, head, 1, model->activations != BPDQ_ACTIVATIONS_F32, &model->head, error));
  if (!model->config.tied_head) model->parameters += (uint64_t)model->config.vocab_size * (uint64_t)model->config.hidden_size;
  return model->backend->weights_flush(model->backend, error);
}

static uint64_t memory_needed(const bpdq_checkpoint *checkpoint) {
  const bpdq_config *config = &checkpoint->config;
  uint64_t context = config->context_length < DEFAULT_CONTEXT ? (uint64_t)config->context_length : DEFAULT_CONTEXT;
  uint64_t cache = context * (uint64_t)(config->layers * config->kv_heads * config->head_dim) * 2 * 2;
  return checkpoint->weight_bytes + cache + SCRATCH_ESTIMATE;
}

/* The tokenizer's eos token ends a generation too, where the JSON files do not list it. */
static void add_end_token(bpdq_model *model) {
  if (!model->eos_token || model->config.end_token_count >= 16) return;
  int32_t id = bpdq_tokenizer_token_id(model->tokenizer, model->eos_token);
  if (id < 0 || bpdq_is_end_of_text(model, id)) return;
  model->config.end_tokens[model->config.end_token_count++] = id;
}

static bpdq_status load_text(bpdq_model *model, const char *folder, const bpdq_model_options *options, bpdq_error *error) {
  BPDQ_TRY(bpdq_tokenizer_load(folder, model->config.vocab_size, &model->tokenizer, error));
  char *text = NULL;
  BPDQ_TRY(bpdq_template_load(folder, &text, &model->bos_token, &model->eos_token, error));
  add_end_token(model);
  const char *chosen = options->chat_template ? options->chat_template : text;
  bpdq_status status = BPDQ_OK;
  if (chosen) {
    bpdq_error template_error = {0};
    status = bpdq_template_parse(chosen, strlen(chosen), &model->chat_template, &template_error);
    if (status != BPDQ_OK && !options->chat_template) {
      /* A template that nobody asked for must not keep the model from running: chat alone needs it, and says so. */
      bpdq_log_warning(&model->log, "%s: %s", folder, template_error.message);
      status = BPDQ_OK;
    } else if (status != BPDQ_OK) {
      bpdq_fail(error, status, "%s", template_error.message);
    }
  }
  free(text);
  return status;
}

bpdq_model_options bpdq_model_default_options(void) { return (bpdq_model_options){.device = -1}; }

void bpdq_model_count_linear(bpdq_model *model, const model_linear *linear) {
  for (int i = 0; i < linear->count; i++) model->bytes_per_token += model->backend->weight_bytes(linear->pieces[i].weight);
}

void bpdq_model_finish_counts(bpdq_model *model) {
  for (int64_t i = 0; i < model->config.layers; i++) {
    const model_layer *layer = &model->layers[i];
    bpdq_model_count_linear(model, &layer->qkv);
    bpdq_model_count_linear(model, &layer->output);
    bpdq_model_count_linear(model, &layer->gate_up);
    bpdq_model_count_linear(model, &layer->down);
  }
  bpdq_model_count_linear(model, &model->head);
}

static bpdq_status create_backend(bpdq_model *model, const char *folder, const bpdq_model_options *options, bpdq_error *error) {
  char *cache = options->cache_folder ? NULL : bpdq_cache_folder();
  bpdq_backend_options backend_options = {options->device,     options->threads,
                                          options->memory_cap, options->cache_folder ? options->cache_folder : cache,
                                          options->vulkan,     model->log};
  bpdq_status status = bpdq_backend_choose(options->backend, memory_needed(&model->checkpoint), &backend_options, &model->backend,
                                           model->choice, sizeof model->choice, error);
  free(cache);
  if (status != BPDQ_OK) return status;
  model->activations = options->activations ? options->activations : model->backend->default_activations;
  bpdq_log_info(&model->log, "%s runs on %s", folder, model->choice);
  return BPDQ_OK;
}

bpdq_status bpdq_model_load_text(const char *folder, const bpdq_model_options *options, bpdq_model **result, bpdq_error *error) {
  bpdq_model_options defaults = bpdq_model_default_options();
  if (!options) options = &defaults;
  *result = NULL;
  bpdq_model *model = calloc(1, sizeof *model);
  if (!model) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  model->log = (bpdq_log){options->log, options->log_user};
  bpdq_status status = bpdq_config_load(folder, &model->checkpoint.config, &model->log, error);
  model->config = model->checkpoint.config;
  if (status == BPDQ_OK) status = load_text(model, folder, options, error);
  if (status == BPDQ_OK)
    *result = model;
  else
    bpdq_model_free(model);
  return status;
}

bpdq_status bpdq_model_load(const char *folder, const bpdq_model_options *options, bpdq_model **result, bpdq_error *error) {
  bpdq_model_options defaults = bpdq_model_default_options();
  if (!options) options = &defaults;
  *result = NULL;
  bpdq_model *model = calloc(1, sizeof *model);
  if (!model) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  model->log = (bpdq_log){options->log, options->log_user};
  loader l = {model, options->progress, options->progress_user, 0, NULL};
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_checkpoint_open(folder, &model->checkpoint, &model->log, error), failed);
  model->config = model->checkpoint.config;
  model->weight_bytes = model->checkpoint.weight_bytes;
  BPDQ_TRY_GOTO(load_text(model, folder, options, error), failed);
  BPDQ_TRY_GOTO(create_backend(model, folder, options, error), failed);
  BPDQ_TRY_GOTO(load_weights(&l, error), failed);
  free(l.zeros);
  bpdq_model_finish_counts(model);
  *result = model;
  return BPDQ_OK;
failed:
  free(l.zeros);
  bpdq_model_free(model);
  return status;
}
