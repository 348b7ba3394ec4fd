/* From a model folder to weights on a backend. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/registry.h"
#include "core/checked.h"
#include "core/half.h"
#include "model/model.h"
#include "model/prefetch.h"

typedef struct loader {
  bpdq_model *model;
  const atomic_bool *stop; /* set where another thread has failed */
  bpdq_progress_callback progress;
  void *progress_user;
  float *zeros; /* a bias for parts without one, as long as the widest linear */
} loader;

static double seconds_since(uint64_t start) { return (double)(bpdq_monotonic_nanoseconds() - start) * 1e-9; }

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
  l->model->load_bytes += tensor->bytes;
  double total = (double)l->model->checkpoint.weight_bytes, fraction = total > 0 ? (double)l->model->load_bytes / total : 1;
  bool stop = atomic_load(l->stop) || (l->progress && !l->progress(l->progress_user, fraction < 1 ? fraction : 1));
  if (stop) return bpdq_fail(error, BPDQ_ERROR_CANCELLED, "loading %s was interrupted", l->model->checkpoint.folder);
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

/* "model.layers.3.mlp.gate_proj, up_proj": a message about one of them names them all. */
static void name_stack(const bpdq_linear_source *const *sources, int first, int last, char *name, size_t size) {
  size_t used = (size_t)snprintf(name, size, "%s", sources[first]->name);
  for (int i = first + 1; i < last && used < size; i++) {
    const char *dot = strrchr(sources[i]->name, '.');
    used += (size_t)snprintf(name + used, size - used, ", %s", dot ? dot + 1 : sources[i]->name);
  }
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
  char name[256];
  name_stack(sources, first, last, name, sizeof name);
  bpdq_weight_desc desc = {source->weight ? BPDQ_WEIGHT_DENSE : BPDQ_WEIGHT_PLANES,
                           name,
                           source->columns,
                           source->planes,
                           source->group,
                           parts,
                           last - first,
                           true,
                           is_head};
  BPDQ_TRY(backend->weight_create(backend, &desc, weight, error));
  if (any_bias) {
    bpdq_weight_desc bias_desc = {BPDQ_WEIGHT_VECTOR, name, 1, 0, 0, biases, last - first, false, false};
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

/* With a session of the default size: what sessions there will be is not known yet. */
static bpdq_status memory_needed(const bpdq_checkpoint *checkpoint, bpdq_activations activations, uint64_t *bytes, bpdq_error *error) {
  bpdq_inspection *inspection;
  BPDQ_TRY(bpdq_inspect_checkpoint(checkpoint, &inspection, error));
  *bytes = bpdq_estimate_memory(inspection, NULL, activations).total;
  bpdq_inspection_free(inspection);
  return BPDQ_OK;
}

/* The tokenizer's eos token ends a generation too, where the JSON files do not list it. */
static void add_end_token(bpdq_model *model) {
  if (!model->eos_token || model->config.end_token_count >= 16) return;
  int32_t id = bpdq_tokenizer_token_id(model->tokenizer, model->eos_token);
  if (id < 0 || bpdq_is_end_of_text(model, id)) return;
  model->config.end_tokens[model->config.end_token_count++] = id;
}

/* A chat template that nobody asked for must not keep the model from running: what is wrong with it goes to *warning, and chat says so. */
static bpdq_status load_template(bpdq_model *model, const char *text, bool asked_for, bpdq_error *warning, bpdq_error *error) {
  bpdq_status status = bpdq_template_parse(text, strlen(text), &model->chat_template, warning);
  if (status == BPDQ_OK || !asked_for) return BPDQ_OK;
  return bpdq_fail(error, status, "%s", warning->message);
}

/* The tokenizer and the chat template. *warning gets a message where something is wrong that need not stop anyone. */
static bpdq_status load_text(bpdq_model *model, const char *folder, const bpdq_model_options *options, bpdq_error *warning,
                             bpdq_error *error) {
  BPDQ_TRY(bpdq_tokenizer_load(folder, model->config.vocab_size, &model->tokenizer, error));
  char *text = NULL;
  BPDQ_TRY(bpdq_template_load(folder, &text, &model->bos_token, &model->eos_token, error));
  add_end_token(model);
  const char *chosen = options->chat_template ? options->chat_template : text;
  bpdq_status status = chosen ? load_template(model, chosen, options->chat_template != NULL, warning, error) : BPDQ_OK;
  free(text);
  return status;
}

/* A large vocabulary takes as long as starting the device, so a thread of its own reads it meanwhile. It calls nobody back. */
typedef struct text_loader {
  bpdq_model *model;
  const char *folder;
  const bpdq_model_options *options;
  bpdq_thread *thread;
  atomic_bool failed;
  bpdq_status status;
  bpdq_error error, warning;
  double seconds;
} text_loader;

static void run_text_loader(void *argument) {
  text_loader *text = argument;
  uint64_t start = bpdq_monotonic_nanoseconds();
  text->status = load_text(text->model, text->folder, text->options, &text->warning, &text->error);
  text->seconds = seconds_since(start);
  if (text->status != BPDQ_OK) atomic_store(&text->failed, true);
}

static void start_text_loader(text_loader *text) {
  text->thread = bpdq_thread_start(run_text_loader, text);
  if (!text->thread) run_text_loader(text);
}

/* Waits. What is wrong with the text comes before what is wrong with the weights. */
static bpdq_status finish_text_loader(text_loader *text, bpdq_status status, bpdq_error *error) {
  bpdq_thread_join(text->thread);
  if (text->warning.message[0] && text->status == BPDQ_OK)
    bpdq_log_warning(&text->model->log, "%s: %s", text->folder, text->warning.message);
  if (text->status == BPDQ_OK) return status;
  if (error) *error = text->error;
  return text->status;
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
  uint64_t needed;
  BPDQ_TRY(memory_needed(&model->checkpoint, options->activations, &needed, error));
  char *cache = options->cache_folder ? NULL : bpdq_cache_folder();
  bpdq_backend_options backend_options = {options->device,     options->threads,
                                          options->memory_cap, options->cache_folder ? options->cache_folder : cache,
                                          options->vulkan,     model->log};
  bpdq_status status =
      bpdq_backend_choose(options->backend, needed, &backend_options, &model->backend, model->choice, sizeof model->choice, error);
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
  bpdq_error warning = {0};
  if (status == BPDQ_OK) status = load_text(model, folder, options, &warning, error);
  if (status == BPDQ_OK && warning.message[0]) bpdq_log_warning(&model->log, "%s: %s", folder, warning.message);
  if (status == BPDQ_OK)
    *result = model;
  else
    bpdq_model_free(model);
  return status;
}

/* The device and the weights on it. *device_seconds: what the device took to start. */
static bpdq_status load_onto_device(loader *l, const bpdq_model_options *options, double *device_seconds, bpdq_error *error) {
  uint64_t start = bpdq_monotonic_nanoseconds();
  BPDQ_TRY(create_backend(l->model, l->model->checkpoint.folder, options, error));
  *device_seconds = seconds_since(start);
  start = bpdq_monotonic_nanoseconds();
  bpdq_status status = load_weights(l, error);
  l->model->load_weights_seconds = seconds_since(start);
  free(l->zeros);
  return status;
}

static void log_rate(const bpdq_model *model, double device_seconds, double text_seconds) {
  double gigabytes = (double)model->load_bytes * 1e-9;
  bpdq_log_info(&model->log, "loaded %.2f GB in %.2f s (%.1f GB/s): device %.2f s, then weights %.2f s (%.1f GB/s); text meanwhile %.2f s",
                gigabytes, model->load_seconds, gigabytes / model->load_seconds, device_seconds, model->load_weights_seconds,
                gigabytes / model->load_weights_seconds, text_seconds);
}

/* All of bpdq_model_load, into a zeroed model that the caller frees on failure. */
static bpdq_status load_all(bpdq_model *model, const char *folder, const bpdq_model_options *options, bpdq_error *error) {
  uint64_t start = bpdq_monotonic_nanoseconds();
  double device_seconds = 0;
  BPDQ_TRY(bpdq_check_activations(options->activations, error));
  BPDQ_TRY(bpdq_checkpoint_open(folder, &model->checkpoint, &model->log, error));
  model->config = model->checkpoint.config;
  model->weight_bytes = model->checkpoint.weight_bytes;
  text_loader text = {.model = model, .folder = folder, .options = options};
  loader l = {model, &text.failed, options->progress, options->progress_user, NULL};
  bpdq_prefetch prefetch;
  bpdq_prefetch_start(&prefetch, &model->checkpoint);
  start_text_loader(&text);
  bpdq_status status = load_onto_device(&l, options, &device_seconds, error);
  bpdq_prefetch_stop(&prefetch);
  BPDQ_TRY(finish_text_loader(&text, status, error));
  model->load_seconds = seconds_since(start);
  log_rate(model, device_seconds, text.seconds);
  bpdq_model_finish_counts(model);
  return BPDQ_OK;
}

bpdq_status bpdq_model_load(const char *folder, const bpdq_model_options *options, bpdq_model **result, bpdq_error *error) {
  bpdq_model_options defaults = bpdq_model_default_options();
  *result = NULL;
  bpdq_model *model = calloc(1, sizeof *model);
  if (!model) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  if (!options) options = &defaults;
  model->log = (bpdq_log){options->log, options->log_user};
  bpdq_status status = load_all(model, folder, options, error);
  if (status == BPDQ_OK)
    *result = model;
  else
    bpdq_model_free(model);
  return status;
}
