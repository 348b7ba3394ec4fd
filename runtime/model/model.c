/* What callers ask of a loaded model: facts, memory, text in and out. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

#include "core/half.h"

static void free_linear(bpdq_model *model, model_linear *linear) {
  for (int i = 0; i < linear->count; i++) {
    model->backend->weight_destroy(model->backend, linear->pieces[i].weight);
    model->backend->weight_destroy(model->backend, linear->pieces[i].bias);
  }
}

static void free_weights(bpdq_model *model) {
  bpdq_backend *backend = model->backend;
  for (int64_t i = 0; model->layers && i < model->config.layers; i++) {
    model_layer *layer = &model->layers[i];
    backend->weight_destroy(backend, layer->attention_norm);
    backend->weight_destroy(backend, layer->mlp_norm);
    backend->weight_destroy(backend, layer->q_norm);
    backend->weight_destroy(backend, layer->k_norm);
    free_linear(model, &layer->qkv);
    free_linear(model, &layer->output);
    free_linear(model, &layer->gate_up);
    free_linear(model, &layer->down);
  }
  free_linear(model, &model->head);
  backend->weight_destroy(backend, model->final_norm);
}

void bpdq_model_free(bpdq_model *model) {
  if (!model) return;
  if (model->backend) {
    free_weights(model);
    model->backend->destroy(model->backend);
  }
  free(model->random_rows);
  free(model->layers);
  bpdq_tokenizer_free(model->tokenizer);
  bpdq_template_free(model->chat_template);
  free(model->bos_token);
  free(model->eos_token);
  bpdq_checkpoint_close(&model->checkpoint);
  free(model);
}

void bpdq_model_get_info(const bpdq_model *model, bpdq_model_info *info) {
  const bpdq_config *config = &model->config;
  memset(info, 0, sizeof *info);
  memcpy(info->architecture, config->model_type, sizeof info->architecture);
  info->layers = config->layers;
  info->hidden_size = config->hidden_size;
  info->intermediate_size = config->intermediate_size;
  info->vocab_size = config->vocab_size;
  info->heads = config->heads;
  info->kv_heads = config->kv_heads;
  info->head_dim = config->head_dim;
  info->context_length = config->context_length;
  info->quantized = model->quantized_weights > 0;
  info->tied_head = config->tied_head;
  info->parameters = model->parameters;
  info->quantized_weights = model->quantized_weights;
  info->bits_per_weight = info->quantized ? (double)model->quantized_bits / (double)model->quantized_weights : 0;
  info->weight_bytes = model->weight_bytes;
  info->bytes_per_token = model->bytes_per_token;
  info->load_bytes = model->load_bytes;
  info->load_seconds = model->load_seconds;
  info->load_weights_seconds = model->load_weights_seconds;
  info->activations = model->activations;
  if (model->backend) info->device = model->backend->info;
  memcpy(info->choice, model->choice, sizeof info->choice);
}

bpdq_status bpdq_check_activations(bpdq_activations activations, bpdq_error *error) {
  if (activations == BPDQ_ACTIVATIONS_DEFAULT || activations == BPDQ_ACTIVATIONS_F32 || activations == BPDQ_ACTIVATIONS_16 ||
      activations == BPDQ_ACTIVATIONS_8)
    return BPDQ_OK;
  return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "activations must be 32, 16, 8 or 0 (the default), not %d", (int)activations);
}

void bpdq_model_memory(const bpdq_model *model, uint64_t *current, uint64_t *peak) {
  *current = *peak = 0;
  if (model->backend) model->backend->memory(model->backend, current, peak);
}

bpdq_status bpdq_model_measure_bandwidth(const bpdq_model *model, double *bytes_per_second, bpdq_error *error) {
  if (!model->backend) return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "the model was loaded without its weights");
  return model->backend->measure_bandwidth(model->backend, bytes_per_second, error);
}

int bpdq_model_candidates(const bpdq_model *model) {
  return model->config.vocab_size < BPDQ_MAX_CANDIDATES ? (int)model->config.vocab_size : BPDQ_MAX_CANDIDATES;
}

void bpdq_model_embed(const bpdq_model *model, int32_t token, float *out) {
  if (model->checkpoint.embedding) {
    bpdq_stored_row_to_f32(model->checkpoint.embedding, token, model->config.hidden_size, out);
    return;
  }
  const uint16_t *row = model->random_rows + token % MODEL_RANDOM_ROWS;
  for (int64_t i = 0; i < model->config.hidden_size; i++) out[i] = bpdq_bf16_to_float(row[i]);
}

static bpdq_status need_tokenizer(const bpdq_model *model, bpdq_error *error) {
  if (model->tokenizer) return BPDQ_OK;
  return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "a model with random weights has no tokenizer");
}

bpdq_status bpdq_tokenize(const bpdq_model *model, const char *text, size_t length, bool special, int32_t **ids, size_t *count,
                          bpdq_error *error) {
  BPDQ_TRY(need_tokenizer(model, error));
  return bpdq_tokenizer_encode(model->tokenizer, text, length, special, ids, count, error);
}

bpdq_status bpdq_detokenize(const bpdq_model *model, const int32_t *ids, size_t count, bool skip_special, char **text, size_t *length,
                            bpdq_error *error) {
  BPDQ_TRY(need_tokenizer(model, error));
  return bpdq_tokenizer_decode(model->tokenizer, ids, count, skip_special, text, length, error);
}

bpdq_status bpdq_apply_chat_template(const bpdq_model *model, const bpdq_chat_message *messages, size_t count, bool add_generation_prompt,
                                     char **text, bpdq_error *error) {
  if (!model->chat_template)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the model has no chat template that can be used; pass one with chat --chat-template");
  bpdq_template_input input = {messages, count, add_generation_prompt, model->bos_token, model->eos_token};
  return bpdq_template_render(model->chat_template, &input, text, error);
}

bool bpdq_is_end_of_text(const bpdq_model *model, int32_t token) {
  for (int i = 0; i < model->config.end_token_count; i++)
    if (model->config.end_tokens[i] == token) return true;
  return false;
}

void bpdq_free(void *memory) { free(memory); }
