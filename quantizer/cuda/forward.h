/* The forward pass of a decoder block on the device, in the steps between which calibration looks at the inputs of the linears; the same
 * steps as ../forward.h. Products with weights run on the tensor cores in TF32 (inputs rounded to 11 bits, sums in float32), attention in
 * float32: keys of some models are hundreds times their differences. */
#ifndef BPDQ_QUANTIZER_CUDA_FORWARD_H
#define BPDQ_QUANTIZER_CUDA_FORWARD_H

#include "block.h"
#include "gpu_algebra.h"

typedef struct bpdq_gpu_forward {
  gpu_algebra *gpu;
  const bpdq_config *config;
  int64_t length; /* tokens of a window */
  float *rope;    /* device [length, head_dim] */
} bpdq_gpu_forward;

/* Device memory of one batch of windows between steps; NULL where a stage does not need it. */
typedef struct bpdq_gpu_scratch {
  float *normed;   /* [tokens, hidden] */
  float *wide;     /* q k v side by side, or up: [tokens, the wider of both] */
  float *heads;    /* the same with heads apart: as many floats as q k v */
  float *scores;   /* [windows * heads * queries, length] */
  int64_t queries; /* positions whose scores are held at a time */
} bpdq_gpu_scratch;

bpdq_status bpdq_gpu_forward_create(gpu_algebra *gpu, const bpdq_config *config, int64_t length, bpdq_gpu_forward *forward,
                                    bpdq_error *error);
void bpdq_gpu_forward_free(bpdq_gpu_forward *forward); /* safe on a zeroed struct */

/* A block in device memory: its norms, and linear i for each bit 1 << i of `linears`; the others' weights are NULL. NULL for `block` gives
 * an empty one. */
bpdq_status bpdq_gpu_block_load(gpu_algebra *gpu, const bpdq_config *config, const bpdq_block *block, unsigned linears, bpdq_block *out,
                                bpdq_error *error);
void bpdq_gpu_block_free(gpu_algebra *gpu, bpdq_block *block); /* safe on a zeroed struct */

/* For batches of up to `windows` windows. */
bpdq_status bpdq_gpu_scratch_create(const bpdq_gpu_forward *forward, int64_t windows, bool attention, bool gate, bpdq_gpu_scratch *scratch,
                                    bpdq_error *error);
void bpdq_gpu_scratch_free(gpu_algebra *gpu, bpdq_gpu_scratch *scratch); /* safe on a zeroed struct */
/* Bytes that it takes. */
uint64_t bpdq_gpu_scratch_bytes(const bpdq_gpu_forward *forward, int64_t windows, bool attention, bool gate);

/* All of them are ordered on the algebra's stream; blocks and activations are in device memory, `tokens` a whole number of windows where it
 * matters. */

/* out [tokens, hidden] = rms_norm(x) * norm */
bpdq_status bpdq_gpu_forward_norm(const bpdq_gpu_forward *forward, const float *norm, const float *x, int64_t tokens, float *out,
                                  bpdq_error *error);
/* The input of o_proj, [windows * length, heads * head_dim], from the residual stream x [windows * length, hidden]. */
bpdq_status bpdq_gpu_forward_attention(const bpdq_gpu_forward *forward, const bpdq_block *block, const float *x, int64_t windows,
                                       float *out, const bpdq_gpu_scratch *scratch, bpdq_error *error);
/* The input of down_proj, [tokens, intermediate], from the residual stream. */
bpdq_status bpdq_gpu_forward_gate(const bpdq_gpu_forward *forward, const bpdq_block *block, const float *x, int64_t tokens, float *out,
                                  const bpdq_gpu_scratch *scratch, bpdq_error *error);
/* x [tokens, N] += input [tokens, K] W^T + bias, for o_proj and down_proj. */
bpdq_status bpdq_gpu_forward_add(const bpdq_gpu_forward *forward, const bpdq_block_linear *linear, const float *input, int64_t tokens,
                                 float *x, bpdq_error *error);
/* out [tokens, N] = input [tokens, K] W^T */
bpdq_status bpdq_gpu_forward_product(const bpdq_gpu_forward *forward, const bpdq_block_linear *linear, const float *input, int64_t tokens,
                                     float *out, bpdq_error *error);

#endif
