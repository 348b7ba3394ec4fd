#include "block.h"

#include <string.h>

#include "core/checked.h"

const bpdq_linear_source *bpdq_block_source(const bpdq_layer_source *layer, int linear) {
  const bpdq_linear_source *const sources[BPDQ_LINEARS] = {&layer->q,    &layer->k,  &layer->v,   &layer->o,
                                                           &layer->gate, &layer->up, &layer->down};
  return sources[linear];
}

static bpdq_status load_tensor(const bpdq_checkpoint *checkpoint, const bpdq_stored_tensor *tensor, int64_t rows, int64_t columns,
                               float **out, bpdq_error *error) {
  *out = NULL;
  if (!tensor) return BPDQ_OK;
  size_t count;
  if (!__builtin_mul_overflow((size_t)rows, (size_t)columns, &count)) *out = bpdq_alloc_array(count, sizeof(float));
  if (!*out) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", tensor->name);
  for (int64_t row = 0; row < rows; row++) {
    float *values = *out + row * columns, check = 0;
    bpdq_stored_row_to_f32(tensor, row, columns, values);
    for (int64_t j = 0; j < columns; j++) check += values[j] * 0; /* NaN unless all are finite */
    if (check != 0)
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: tensor '%s' has a value that is not finite in row %lld",
                       bpdq_safetensors_path(checkpoint->tensors, tensor->file), tensor->name, (long long)row);
  }
  bpdq_safetensors_release(checkpoint->tensors, tensor);
  return BPDQ_OK;
}

static bpdq_status load_block(const bpdq_checkpoint *checkpoint, const bpdq_layer_source *layer, bpdq_block *block, bpdq_error *error) {
  int64_t hidden = checkpoint->config.hidden_size, head_dim = checkpoint->config.head_dim;
  BPDQ_TRY(load_tensor(checkpoint, layer->attention_norm, 1, hidden, &block->attention_norm, error));
  BPDQ_TRY(load_tensor(checkpoint, layer->mlp_norm, 1, hidden, &block->mlp_norm, error));
  BPDQ_TRY(load_tensor(checkpoint, layer->q_norm, 1, head_dim, &block->q_norm, error));
  BPDQ_TRY(load_tensor(checkpoint, layer->k_norm, 1, head_dim, &block->k_norm, error));
  for (int i = 0; i < BPDQ_LINEARS; i++) {
    const bpdq_linear_source *source = bpdq_block_source(layer, i);
    bpdq_block_linear *linear = &block->linears[i];
    *linear = (bpdq_block_linear){.name = source->name, .rows = source->rows, .columns = source->columns};
    BPDQ_TRY(load_tensor(checkpoint, source->weight, source->rows, source->columns, &linear->weight, error));
    BPDQ_TRY(load_tensor(checkpoint, source->bias, 1, source->rows, &linear->bias, error));
  }
  return BPDQ_OK;
}

bpdq_status bpdq_block_load(const bpdq_checkpoint *checkpoint, int64_t layer, bpdq_block *block, bpdq_error *error) {
  *block = (bpdq_block){0};
  bpdq_status status = load_block(checkpoint, &checkpoint->layers[layer], block, error);
  if (status != BPDQ_OK) bpdq_block_free(block);
  return status;
}

static bool copy_values(const float *from, int64_t count, float **to) {
  *to = NULL;
  if (!from) return true;
  *to = bpdq_alloc_array((size_t)count, sizeof **to);
  if (*to) memcpy(*to, from, (size_t)count * sizeof **to);
  return *to != NULL;
}

bpdq_status bpdq_block_copy(const bpdq_config *config, const bpdq_block *from, bpdq_block *to, bpdq_error *error) {
  *to = (bpdq_block){0};
  bool copied = copy_values(from->attention_norm, config->hidden_size, &to->attention_norm) &&
                copy_values(from->mlp_norm, config->hidden_size, &to->mlp_norm) &&
                copy_values(from->q_norm, config->head_dim, &to->q_norm) && copy_values(from->k_norm, config->head_dim, &to->k_norm);
  for (int i = 0; i < BPDQ_LINEARS && copied; i++) {
    to->linears[i] = from->linears[i];
    to->linears[i].weight = to->linears[i].bias = NULL;
    copied = copy_values(from->linears[i].weight, from->linears[i].rows * from->linears[i].columns, &to->linears[i].weight) &&
             copy_values(from->linears[i].bias, from->linears[i].rows, &to->linears[i].bias);
  }
  if (copied) return BPDQ_OK;
  bpdq_block_free(to);
  return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory for a second copy of a decoder block");
}

void bpdq_block_free(bpdq_block *block) {
  free(block->attention_norm);
  free(block->mlp_norm);
  free(block->q_norm);
  free(block->k_norm);
  for (int i = 0; i < BPDQ_LINEARS; i++) {
    free(block->linears[i].weight);
    free(block->linears[i].bias);
  }
  *block = (bpdq_block){0};
}
