#include "block.h"

#include <stdatomic.h>
#include <string.h>

#include "core/checked.h"
#include "parallel.h"

const bpdq_linear_source *bpdq_block_source(const bpdq_layer_source *layer, int linear) {
  const bpdq_linear_source *const sources[BPDQ_LINEARS] = {&layer->q,    &layer->k,  &layer->v,   &layer->o,
                                                           &layer->gate, &layer->up, &layer->down};
  return sources[linear];
}

/* ---- reading ---- */

enum { TASK_VALUES = 1 << 18 }; /* of a task: 1 MiB of float32 */

typedef struct tensor_read {
  const bpdq_stored_tensor *tensor;
  int64_t rows, columns, task_rows;
  float *out;
  _Atomic int64_t bad_row; /* the first that has a value that is not finite; `rows` where all are */
} tensor_read;

static void read_rows(void *context, int64_t index, int thread) {
  (void)thread;
  tensor_read *r = context;
  int64_t end = (index + 1) * r->task_rows < r->rows ? (index + 1) * r->task_rows : r->rows;
  for (int64_t row = index * r->task_rows; row < end; row++) {
    float *values = r->out + row * r->columns, check = 0;
    bpdq_stored_row_to_f32(r->tensor, row, r->columns, values);
    for (int64_t j = 0; j < r->columns; j++) check += values[j] * 0; /* NaN unless all are finite */
    if (check == 0) continue;
    int64_t first = atomic_load(&r->bad_row);
    while (row < first && !atomic_compare_exchange_weak(&r->bad_row, &first, row)) continue;
    return;
  }
}

static bpdq_status load_tensor(const bpdq_checkpoint *checkpoint, const bpdq_stored_tensor *tensor, int64_t rows, int64_t columns,
                               bpdq_pool *pool, float **out, bpdq_error *error) {
  *out = NULL;
  if (!tensor) return BPDQ_OK;
  size_t count;
  if (!__builtin_mul_overflow((size_t)rows, (size_t)columns, &count)) *out = bpdq_alloc_array(count, sizeof(float));
  if (!*out) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", tensor->name);
  tensor_read read = {.tensor = tensor, .rows = rows, .columns = columns, .task_rows = TASK_VALUES / columns + 1, .out = *out};
  atomic_init(&read.bad_row, rows);
  bpdq_run_tasks(pool, (int64_t)bpdq_ceil_div((uint64_t)rows, (uint64_t)read.task_rows), read_rows, &read);
  int64_t bad_row = atomic_load(&read.bad_row);
  if (bad_row < rows)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: tensor '%s' has a value that is not finite in row %lld",
                     bpdq_safetensors_path(checkpoint->tensors, tensor->file), tensor->name, (long long)bad_row);
  bpdq_safetensors_release(checkpoint->tensors, tensor);
  return BPDQ_OK;
}

static bpdq_status load_block(const bpdq_checkpoint *checkpoint, const bpdq_layer_source *layer, bpdq_pool *pool, bpdq_block *block,
                              bpdq_error *error) {
  int64_t hidden = checkpoint->config.hidden_size, head_dim = checkpoint->config.head_dim;
  BPDQ_TRY(load_tensor(checkpoint, layer->attention_norm, 1, hidden, pool, &block->attention_norm, error));
  BPDQ_TRY(load_tensor(checkpoint, layer->mlp_norm, 1, hidden, pool, &block->mlp_norm, error));
  BPDQ_TRY(load_tensor(checkpoint, layer->q_norm, 1, head_dim, pool, &block->q_norm, error));
  BPDQ_TRY(load_tensor(checkpoint, layer->k_norm, 1, head_dim, pool, &block->k_norm, error));
  for (int i = 0; i < BPDQ_LINEARS; i++) {
    const bpdq_linear_source *source = bpdq_block_source(layer, i);
    bpdq_block_linear *linear = &block->linears[i];
    *linear = (bpdq_block_linear){.name = source->name, .rows = source->rows, .columns = source->columns};
    BPDQ_TRY(load_tensor(checkpoint, source->weight, source->rows, source->columns, pool, &linear->weight, error));
    BPDQ_TRY(load_tensor(checkpoint, source->bias, 1, source->rows, pool, &linear->bias, error));
  }
  return BPDQ_OK;
}

bpdq_status bpdq_block_load(const bpdq_checkpoint *checkpoint, int64_t layer, bpdq_pool *pool, bpdq_block *block, bpdq_error *error) {
  *block = (bpdq_block){0};
  bpdq_status status = load_block(checkpoint, &checkpoint->layers[layer], pool, block, error);
  if (status != BPDQ_OK) bpdq_block_free(block);
  return status;
}

/* ---- copying ---- */

typedef struct values_copy {
  const float *from;
  float *to;
  int64_t count;
} values_copy;

static void copy_task(void *context, int64_t index, int thread) {
  (void)thread;
  const values_copy *c = context;
  int64_t first = index * TASK_VALUES, count = c->count - first < TASK_VALUES ? c->count - first : TASK_VALUES;
  memcpy(c->to + first, c->from + first, (size_t)count * sizeof *c->to);
}

static bool copy_values(const float *from, int64_t count, bpdq_pool *pool, float **to) {
  *to = NULL;
  if (!from) return true;
  *to = bpdq_alloc_array((size_t)count, sizeof **to);
  values_copy copy = {from, *to, count};
  if (*to) bpdq_run_tasks(pool, (int64_t)bpdq_ceil_div((uint64_t)count, TASK_VALUES), copy_task, &copy);
  return *to != NULL;
}

bpdq_status bpdq_block_copy(const bpdq_config *config, const bpdq_block *from, bpdq_pool *pool, bpdq_block *to, bpdq_error *error) {
  *to = (bpdq_block){0};
  bool copied = copy_values(from->attention_norm, config->hidden_size, pool, &to->attention_norm) &&
                copy_values(from->mlp_norm, config->hidden_size, pool, &to->mlp_norm) &&
                copy_values(from->q_norm, config->head_dim, pool, &to->q_norm) &&
                copy_values(from->k_norm, config->head_dim, pool, &to->k_norm);
  for (int i = 0; i < BPDQ_LINEARS && copied; i++) {
    const bpdq_block_linear *linear = &from->linears[i];
    to->linears[i] = *linear;
    to->linears[i].weight = to->linears[i].bias = NULL;
    copied = copy_values(linear->weight, linear->rows * linear->columns, pool, &to->linears[i].weight) &&
             copy_values(linear->bias, linear->rows, pool, &to->linears[i].bias);
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
