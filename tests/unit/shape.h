/* What bpdq_inspect would say of a checkpoint in a named shape (bpdq_model_random). Include after cmocka.h. */
#ifndef BPDQ_TEST_SHAPE_H
#define BPDQ_TEST_SHAPE_H

#include <stdlib.h>
#include <string.h>

#include "model/random.h"

static inline void add_linear_of(bpdq_inspection *shape, int64_t rows, int64_t columns, int planes, int group) {
  bpdq_linear_info *linear = &shape->linears[shape->linear_count++];
  int64_t groups = planes ? (columns + group - 1) / group : 0;
  *linear = (bpdq_linear_info){.rows = rows, .columns = columns, .planes = planes, .group = planes ? group : 0};
  linear->bytes = planes ? (uint64_t)(rows * groups) * (uint64_t)(group * planes / 8 + 2 * (planes + 1)) : (uint64_t)(rows * columns * 2);
  linear->bits_per_weight = 8 * (double)linear->bytes / ((double)rows * (double)columns);
}

/* The caller frees it with bpdq_inspection_free. */
static inline bpdq_inspection *inspection_of_shape(const char *name, int planes, int group) {
  bpdq_config config;
  bpdq_error error = {0};
  if (bpdq_random_config(name, &config, &error) != BPDQ_OK) fail_msg("%s", error.message);
  bpdq_inspection *shape = calloc(1, sizeof *shape);
  assert_non_null(shape);
  shape->linears = calloc((size_t)config.layers * 7 + 1, sizeof *shape->linears);
  assert_non_null(shape->linears);
  shape->layers = config.layers;
  shape->hidden_size = config.hidden_size;
  shape->intermediate_size = config.intermediate_size;
  shape->vocab_size = config.vocab_size;
  shape->heads = config.heads;
  shape->kv_heads = config.kv_heads;
  shape->head_dim = config.head_dim;
  shape->context_length = config.context_length;
  int64_t hidden = config.hidden_size, inner = config.intermediate_size;
  int64_t q = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  const int64_t linears[7][2] = {{q, hidden}, {kv, hidden}, {kv, hidden}, {hidden, q}, {inner, hidden}, {inner, hidden}, {hidden, inner}};
  for (int64_t layer = 0; layer < config.layers; layer++)
    for (int i = 0; i < 7; i++) add_linear_of(shape, linears[i][0], linears[i][1], planes, group);
  add_linear_of(shape, config.vocab_size, hidden, 0, 0);
  return shape;
}

#endif
