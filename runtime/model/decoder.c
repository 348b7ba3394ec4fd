/* The decoder, written once for all architectures and backends: pre-norm attention and gated feed-forward, as a list of operations. */
#include <math.h>
#include <stdlib.h>

#include "model/model.h"

typedef struct op_list {
  bpdq_op *ops;
  size_t count;
} op_list;

static void add_linear(op_list *list, const char *name, const model_linear *linear, bpdq_tensor input, bpdq_tensor output,
                       bpdq_transform transform, bool accumulate, bpdq_row_selection rows) {
  for (int i = 0; i < linear->count; i++) {
    bpdq_op *op = &list->ops[list->count++];
    *op = (bpdq_op){.kind = BPDQ_OP_LINEAR, .name = name};
    op->linear = (bpdq_op_linear){input,      output, transform, linear->pieces[i].weight, linear->pieces[i].bias, linear->pieces[i].offset,
                                  accumulate, rows};
  }
}

static bpdq_transform norm_of(const bpdq_model *model, const bpdq_weight *weight) {
  return (bpdq_transform){BPDQ_TRANSFORM_RMS_NORM, weight, (float)model->config.norm_epsilon};
}

static void add_attention(op_list *list, const bpdq_model *model, int64_t index, int64_t context) {
  const bpdq_config *config = &model->config;
  const model_layer *layer = &model->layers[index];
  bpdq_tensor keys = tensor_key_cache(index), values = tensor_value_cache(index);
  add_linear(list, "qkv", &layer->qkv, TENSOR_HIDDEN, TENSOR_QKV, norm_of(model, layer->attention_norm), false, BPDQ_ROWS_ALL);
  bpdq_op *rope = &list->ops[list->count++];
  *rope = (bpdq_op){.kind = BPDQ_OP_ROPE_CACHE, .name = "rope"};
  rope->rope_cache = (bpdq_op_rope_cache){TENSOR_QKV,
                                          TENSOR_ROPE,
                                          keys,
                                          values,
                                          config->heads,
                                          config->kv_heads,
                                          config->head_dim,
                                          context,
                                          layer->q_norm,
                                          layer->k_norm,
                                          (float)config->norm_epsilon};
  bpdq_op *attention = &list->ops[list->count++];
  *attention = (bpdq_op){.kind = BPDQ_OP_ATTENTION, .name = "attention"};
  attention->attention = (bpdq_op_attention){TENSOR_QKV,       TENSOR_ATTENTION, keys,
                                             values,           config->heads,    config->kv_heads,
                                             config->head_dim, context,          1.0f / sqrtf((float)config->head_dim)};
  add_linear(list, "output", &layer->output, TENSOR_ATTENTION, TENSOR_HIDDEN, (bpdq_transform){0}, true, BPDQ_ROWS_ALL);
}

static void add_feed_forward(op_list *list, const bpdq_model *model, int64_t index) {
  const model_layer *layer = &model->layers[index];
  add_linear(list, "gate_up", &layer->gate_up, TENSOR_HIDDEN, TENSOR_GATE_UP, norm_of(model, layer->mlp_norm), false, BPDQ_ROWS_ALL);
  bpdq_transform gate = {BPDQ_TRANSFORM_SILU_GATE, NULL, 0};
  add_linear(list, "down", &layer->down, TENSOR_GATE_UP, TENSOR_HIDDEN, gate, true, BPDQ_ROWS_ALL);
}

size_t bpdq_decoder_head_ops(const bpdq_model *model, bpdq_tensor input, bpdq_tensor output, bpdq_row_selection rows, bpdq_op *ops) {
  op_list list = {ops, 0};
  add_linear(&list, "head", &model->head, input, output, norm_of(model, model->final_norm), false, rows);
  return list.count;
}

bpdq_op *bpdq_decoder_ops(const bpdq_model *model, int64_t context, model_head head, int candidates, size_t *count) {
  /* At most 3 + 1 + 1 + 1 + 2 + 1 operations a layer, 1 for the head and 1 for the candidates. */
  op_list list = {calloc((size_t)model->config.layers * 9 + 2, sizeof(bpdq_op)), 0};
  if (!list.ops) return NULL;
  for (int64_t i = 0; i < model->config.layers; i++) {
    add_attention(&list, model, i, context);
    add_feed_forward(&list, model, i);
  }
  bpdq_row_selection rows = head == HEAD_LAST ? BPDQ_ROWS_LAST : BPDQ_ROWS_ALL;
  if (head != HEAD_NONE) list.count += bpdq_decoder_head_ops(model, TENSOR_HIDDEN, TENSOR_LOGITS, rows, list.ops + list.count);
  if (head != HEAD_NONE && candidates > 0) {
    bpdq_op *top = &list.ops[list.count++];
    *top = (bpdq_op){.kind = BPDQ_OP_TOP_K, .name = "top_k"};
    bool best = candidates == 1;
    top->top_k = (bpdq_op_top_k){
        TENSOR_LOGITS, best ? TENSOR_BEST_VALUE : TENSOR_VALUES, best ? TENSOR_BEST_ID : TENSOR_IDS, model->config.vocab_size, candidates,
        rows};
  }
  *count = list.count;
  return list.ops;
}
