/* One decoder block as float32 matrices in host memory, and its forward pass in the steps between which calibration looks at the inputs of
 * the linears. A window is one text of up to `positions` tokens; its activations are f32, row-major, one row per token. */
#ifndef BPDQ_QUANTIZER_FORWARD_H
#define BPDQ_QUANTIZER_FORWARD_H

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

/* Reads block `layer` of a dense checkpoint. Fails with BPDQ_ERROR_FORMAT naming the tensor where a value is not finite. */
bpdq_status bpdq_block_load(const bpdq_checkpoint *checkpoint, int64_t layer, bpdq_block *block, bpdq_error *error);
bpdq_status bpdq_block_copy(const bpdq_config *config, const bpdq_block *from, bpdq_block *to, bpdq_error *error);
void bpdq_block_free(bpdq_block *block); /* safe on a zeroed struct */

const bpdq_linear_source *bpdq_block_source(const bpdq_layer_source *layer, int linear);

/* What the blocks of a model share. */
typedef struct bpdq_forward {
  const bpdq_config *config;
  int64_t positions; /* longest window */
  float *rope;       /* [positions, head_dim] (model/rope.h) */
} bpdq_forward;

bpdq_status bpdq_forward_create(const bpdq_config *config, int64_t positions, bpdq_forward *forward, bpdq_error *error);
void bpdq_forward_free(bpdq_forward *forward);

/* Scratch that one thread needs, in floats. */
int64_t bpdq_forward_scratch(const bpdq_forward *forward);

/* out [tokens, hidden] = rms_norm(x) * norm */
void bpdq_forward_norm(const bpdq_forward *forward, const float *norm, const float *x, int64_t tokens, float *out);
/* The input of o_proj, [tokens, heads * head_dim], from the residual stream x [tokens, hidden]. */
void bpdq_forward_attention(const bpdq_forward *forward, const bpdq_block *block, const float *x, int64_t tokens, float *out,
                            float *scratch);
/* The input of down_proj, [tokens, intermediate], from the residual stream. */
void bpdq_forward_gate(const bpdq_forward *forward, const bpdq_block *block, const float *x, int64_t tokens, float *out, float *scratch);
/* x [tokens, N] += input [tokens, K] W^T + bias, for o_proj and down_proj. */
void bpdq_forward_add(const bpdq_block_linear *linear, const float *input, int64_t tokens, float *x);

/* e^x in place for x <= 88. */
void bpdq_exponentials(float *values, int64_t count);

#endif
