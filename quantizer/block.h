/* One decoder block as float32 matrices in host memory. */
#ifndef BPDQ_QUANTIZER_BLOCK_H
#define BPDQ_QUANTIZER_BLOCK_H

#include "core/threads.h"
#include "format/checkpoint.h"

enum { BPDQ_Q, BPDQ_K, BPDQ_V, BPDQ_O, BPDQ_GATE, BPDQ_UP, BPDQ_DOWN, BPDQ_LINEARS };

typedef struct bpdq_block_linear {
  const char *name; /* "model.layers.3.mlp.down_proj"; belongs to the checkpoint */
  int64_t rows, columns;
  float *weight; /* f32 [N, K] */
  float *bias;   /* f32 [N] or NULL */
} bpdq_block_linear;

typedef struct bpdq_block {
  float *attention_norm, *mlp_norm; /* [hidden] */
  float *q_norm, *k_norm;           /* [head_dim] or NULL */
  bpdq_block_linear linears[BPDQ_LINEARS];
} bpdq_block;

/* Reads block `layer` of a dense checkpoint. Fails with BPDQ_ERROR_FORMAT naming the tensor where a value is not finite. `pool` may be
 * NULL, here and below. */
bpdq_status bpdq_block_load(const bpdq_checkpoint *checkpoint, int64_t layer, bpdq_pool *pool, bpdq_block *block, bpdq_error *error);
bpdq_status bpdq_block_copy(const bpdq_config *config, const bpdq_block *from, bpdq_pool *pool, bpdq_block *to, bpdq_error *error);
void bpdq_block_free(bpdq_block *block); /* safe on a zeroed struct */

const bpdq_linear_source *bpdq_block_source(const bpdq_layer_source *layer, int linear);

#endif
