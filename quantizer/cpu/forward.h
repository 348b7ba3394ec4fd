/* The forward pass of a decoder block on the CPU, in the steps between which calibration looks at the inputs of the linears. A window is
 * one text of up to `positions` tokens; its activations are f32, row-major, one row per token. */
#ifndef BPDQ_QUANTIZER_CPU_FORWARD_H
#define BPDQ_QUANTIZER_CPU_FORWARD_H

#include "../block.h" /* tests have no include path into this folder */

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
