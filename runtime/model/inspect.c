/* What a model folder holds, without a device: sizes, formats, text alone. */
#include <stdlib.h>
#include <string.h>

#include "model/model.h"

static void describe_linear(const bpdq_linear_source *source, bpdq_linear_info *info) {
  uint64_t weights = (uint64_t)source->rows * (uint64_t)source->columns;
  memcpy(info->name, source->name, sizeof info->name);
  info->rows = source->rows;
  info->columns = source->columns;
  info->planes = source->planes;
  info->group = source->group;
  info->bytes = source->weight ? source->weight->bytes : source->bits->bytes + source->coefficients->bytes;
  info->bits_per_weight = 8 * (double)info->bytes / (double)weights;
}

/* Adds a linear to the list and to the sums; *bits counts what the bit-planes take. */
static void add_linear(const bpdq_linear_source *source, bpdq_inspection *result, uint64_t *bits) {
  bpdq_linear_info *info = &result->linears[result->linear_count++];
  describe_linear(source, info);
  uint64_t weights = (uint64_t)source->rows * (uint64_t)source->columns;
  result->parameters += weights + (source->bias ? (uint64_t)source->rows : 0);
  if (source->weight) return;
  result->quantized_weights += weights;
  *bits += 8 * info->bytes;
}

static void describe_weights(const bpdq_checkpoint *checkpoint, bpdq_inspection *result) {
  uint64_t bits = 0;
  for (int64_t i = 0; i < checkpoint->config.layers; i++) {
    const bpdq_layer_source *layer = &checkpoint->layers[i];
    const bpdq_linear_source *linears[] = {&layer->q, &layer->k, &layer->v, &layer->o, &layer->gate, &layer->up, &layer->down};
    for (int j = 0; j < 7; j++) add_linear(linears[j], result, &bits);
  }
  add_linear(&checkpoint->head, result, &bits);
  if (checkpoint->head.weight != checkpoint->embedding)
    result->parameters += (uint64_t)checkpoint->config.vocab_size * (uint64_t)checkpoint->config.hidden_size;
  result->weight_bytes = checkpoint->weight_bytes;
  result->quantized = result->quantized_weights > 0;
  result->bits_per_weight = result->quantized ? (double)bits / (double)result->quantized_weights : 0;
}

static void describe_config(const bpdq_config *c, bpdq_inspection *result) {
  memcpy(result->architecture, c->model_type, sizeof result->architecture);
  result->layers = c->layers;
  result->hidden_size = c->hidden_size;
  result->intermediate_size = c->intermediate_size;
  result->vocab_size = c->vocab_size;
  result->heads = c->heads;
  result->kv_heads = c->kv_heads;
  result->head_dim = c->head_dim;
  result->context_length = c->context_length;
  result->tied_head = c->tied_head;
}

bpdq_status bpdq_inspect_checkpoint(const bpdq_checkpoint *checkpoint, bpdq_inspection **inspection, bpdq_error *error) {
  *inspection = NULL;
  bpdq_inspection *result = calloc(1, sizeof *result);
  if (result) result->linears = calloc((size_t)checkpoint->config.layers * 7 + 1, sizeof *result->linears);
  if (!result || !result->linears) {
    bpdq_inspection_free(result);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", checkpoint->folder);
  }
  describe_config(&checkpoint->config, result);
  describe_weights(checkpoint, result);
  *inspection = result;
  return BPDQ_OK;
}

bpdq_status bpdq_inspect(const char *folder, bpdq_log_callback callback, void *user, bpdq_inspection **inspection, bpdq_error *error) {
  *inspection = NULL;
  bpdq_log log = {callback, user};
  bpdq_checkpoint checkpoint = {0};
  BPDQ_TRY(bpdq_checkpoint_open(folder, &checkpoint, &log, error));
  bpdq_status status = bpdq_inspect_checkpoint(&checkpoint, inspection, error);
  bpdq_checkpoint_close(&checkpoint);
  return status;
}

void bpdq_inspection_free(bpdq_inspection *inspection) {
  if (!inspection) return;
  free(inspection->linears);
  free(inspection);
}
