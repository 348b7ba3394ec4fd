/* A model folder as checked structs: config plus every tensor of the decoder, located, typed and shape-checked. */
#ifndef BPDQ_FORMAT_CHECKPOINT_H
#define BPDQ_FORMAT_CHECKPOINT_H

#include "format/config.h"
#include "format/safetensors.h"

/* A linear layer [rows N, columns K], dense (weight set) or bit-planes (planes and coefficients set). */
typedef struct bpdq_linear_source {
  char name[160]; /* "model.layers.3.mlp.down_proj" */
  int64_t rows, columns;
  const bpdq_stored_tensor *weight;       /* dense: F32, F16 or BF16 [N, K]; else NULL */
  const bpdq_stored_tensor *bits;         /* P.B: I32 [T, planes, N] */
  const bpdq_stored_tensor *coefficients; /* P.c: BF16, F16 or F32 [groups, planes + 1, N] */
  const bpdq_stored_tensor *bias;         /* [N] or NULL */
  int planes, group;                      /* from the tensor shapes; 0 when dense */
} bpdq_linear_source;

typedef struct bpdq_layer_source {
  const bpdq_stored_tensor *attention_norm, *mlp_norm; /* [hidden] */
  const bpdq_stored_tensor *q_norm, *k_norm;           /* [head_dim] (Qwen3) or NULL */
  bpdq_linear_source q, k, v, o, gate, up, down;
} bpdq_layer_source;

typedef struct bpdq_checkpoint {
  char *folder;
  bpdq_config config;
  bpdq_safetensors *tensors;
  const bpdq_stored_tensor *embedding; /* [vocab, hidden] */
  const bpdq_stored_tensor *final_norm;
  bpdq_linear_source head;   /* tied: weight == embedding */
  bpdq_layer_source *layers; /* [config.layers] */
  uint64_t weight_bytes;     /* of all tensors used */
} bpdq_checkpoint;

/* Opens and checks. Group and plane counts come from the tensor shapes; where the JSON says otherwise a warning is logged (docs/format.md
 * section 2). Coefficient values are not read here (backends check that they are finite while repacking). Tensors that the decoder does not
 * use are ignored with one warning, rotary inverse-frequency buffers silently. */
bpdq_status bpdq_checkpoint_open(const char *folder, bpdq_checkpoint *checkpoint, const bpdq_log *log, bpdq_error *error);
void bpdq_checkpoint_close(bpdq_checkpoint *checkpoint); /* frees what it holds; safe on a zeroed struct */

/* Row `row` of a [rows, columns] F32, F16 or BF16 tensor as f32 into out[columns]. */
void bpdq_stored_row_to_f32(const bpdq_stored_tensor *tensor, int64_t row, int64_t columns, float *out);

/* Exact storage bits per weight of a bit-plane linear: planes, coefficients and padding over N*K weights. */
double bpdq_linear_bits_per_weight(const bpdq_linear_source *linear);

#endif
