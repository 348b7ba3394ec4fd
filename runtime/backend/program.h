/* A program: what the model asks of a backend, as a flat list of typed operations over tensors.
 *
 * The model builds one program per shape (decode of up to n tokens, prefill of up to m); a backend compiles it once and runs
 * it many times with a few changed scalars. All activations are f32, row-major, one row per token; the rows of a run are
 * `run.tokens` <= program.max_tokens, and a backend must not touch rows beyond them.
 */
#ifndef BPDQ_BACKEND_PROGRAM_H
#define BPDQ_BACKEND_PROGRAM_H

#include "bpdq.h"

typedef struct bpdq_weight bpdq_weight; /* a weight on a backend, in that backend's own layout (backend.h) */

/* ---- tensors: the memory of one session ---- */

typedef enum bpdq_tensor_kind {
  BPDQ_TENSOR_F32, /* f32 [rows, columns]; readable and writable from the host */
  BPDQ_TENSOR_I32, /* i32 [rows, columns]; likewise */
  BPDQ_TENSOR_KV   /* a cache of `rows` = sequences x context positions, sequence-major, each `columns` = kv_heads * head_dim
                      values; the stored layout and type (f16, int8 with one scale per head and position, or
                      f32) are the backend's own, and the host never reads it */
} bpdq_tensor_kind;

/* A cache that rounds nothing, for the quantizer's forward passes: beside the types that sessions offer. A backend that has none answers
 * BPDQ_ERROR_UNSUPPORTED when the state is created. */
#define BPDQ_KV_F32 ((bpdq_kv_type)2)

typedef struct bpdq_tensor_desc {
  bpdq_tensor_kind kind;
  int64_t rows, columns;
  bpdq_kv_type kv_type; /* BPDQ_TENSOR_KV only */
  int64_t head_dim;     /* BPDQ_TENSOR_KV only */
  bool result;          /* small, and read by the host behind the run that wrote it: memory that is near the host suits it */
} bpdq_tensor_desc;

typedef int bpdq_tensor; /* index into the tensor list of a state; BPDQ_NO_TENSOR where optional */
#define BPDQ_NO_TENSOR (-1)

/* ---- operations ---- */

typedef enum bpdq_op_kind { BPDQ_OP_TRANSFORM, BPDQ_OP_LINEAR, BPDQ_OP_ROPE_CACHE, BPDQ_OP_ATTENTION, BPDQ_OP_TOP_K } bpdq_op_kind;

/* What happens to the rows of an input before a product. */
typedef enum bpdq_transform_kind {
  BPDQ_TRANSFORM_NONE,
  BPDQ_TRANSFORM_RMS_NORM, /* t = x / sqrt(mean(x^2) + epsilon) * norm                              x is [tokens, K] */
  BPDQ_TRANSFORM_SILU_GATE /* t = silu(x[:, 0:K]) * x[:, K:2K],  silu(v) = v / (1 + exp(-v))        x is [tokens, 2K] */
} bpdq_transform_kind;

typedef struct bpdq_transform {
  bpdq_transform_kind kind;
  const bpdq_weight *norm; /* RMS_NORM: vector [K] */
  float epsilon;           /* RMS_NORM */
} bpdq_transform;

typedef enum bpdq_row_selection {
  BPDQ_ROWS_ALL, /* output row i is input row i */
  BPDQ_ROWS_LAST /* one output row: input row tokens-1, written to output row 0 */
} bpdq_row_selection;

/* output[:, 0:K] = transform(input). Materializes a transform on its own (the quantizer captures activations so). */
typedef struct bpdq_op_transform {
  bpdq_tensor input, output;
  bpdq_transform transform;
  int64_t width; /* K */
} bpdq_op_transform;

/* output[:, offset : offset+N] = transform(input) . W^T + bias, or += when `accumulate`.  W is [N, K]: planes or dense. */
typedef struct bpdq_op_linear {
  bpdq_tensor input, output;
  bpdq_transform transform;
  const bpdq_weight *weight; /* matrix [N, K] */
  const bpdq_weight *bias;   /* vector [N] or NULL */
  int64_t offset;            /* first output column; the output tensor may be wider than N */
  bool accumulate;           /* add to what the output holds (residual). Input and output tensors differ. */
  bpdq_row_selection rows;
} bpdq_op_linear;

/* Takes qkv [tokens, (heads + 2 kv_heads) * head_dim] as q | k | v. Per head, optionally RMS-normalizes q and k (Qwen3), then
 * rotates them by the row `position` of rope_table: for i < head_dim/2, with c = table[i] and s = table[head_dim/2 + i],
 *     out[i] = x[i] c - x[i + head_dim/2] s,    out[i + head_dim/2] = x[i + head_dim/2] c + x[i] s       (the "rotate half" form)
 * q is written back in place; k and v go to the caches at (sequence, position). Where attention over the same q is the next operation, a
 * backend may do both at once and leave qkv as it was: nobody else reads it. */
typedef struct bpdq_op_rope_cache {
  bpdq_tensor qkv, rope_table /* f32 [context, head_dim] */, k_cache, v_cache;
  int64_t heads, kv_heads, head_dim, context;
  const bpdq_weight *q_norm, *k_norm; /* vectors [head_dim], or NULL */
  float norm_epsilon;
} bpdq_op_rope_cache;

/* output[t, h*head_dim ...] = sum_p softmax_p(scale * q_h . k_p) v_p over the cache positions 0..position(t) of the row's sequence;
 * query head h reads kv head h / (heads / kv_heads). q is the first heads*head_dim columns of `qkv`. */
typedef struct bpdq_op_attention {
  bpdq_tensor qkv, output /* [tokens, heads * head_dim] */, k_cache, v_cache;
  int64_t heads, kv_heads, head_dim, context;
  float scale;
} bpdq_op_attention;

/* Per row of logits [rows, vocab]: the k largest in descending order (ties: lower id first) with their ids, and log(sum(exp)) of the
 * whole row in values[row, k]. A row with no finite logit gives ids of -1. */
typedef struct bpdq_op_top_k {
  bpdq_tensor logits, values /* f32 [rows, k+1] */, ids /* i32 [rows, k] */;
  int64_t vocab;
  int k;                   /* 1..128 */
  bpdq_row_selection rows; /* LAST: `logits` holds one row, row 0, whatever run.tokens is */
} bpdq_op_top_k;

typedef struct bpdq_op {
  bpdq_op_kind kind;
  const char *name; /* for profiles and error messages: "layers.3.qkv"; outlives the program */
  union {
    bpdq_op_transform transform;
    bpdq_op_linear linear;
    bpdq_op_rope_cache rope_cache;
    bpdq_op_attention attention;
    bpdq_op_top_k top_k;
  };
} bpdq_op;

typedef struct bpdq_program {
  const bpdq_op *ops; /* run in order; each sees the results of the earlier ones */
  size_t count;
  int64_t max_tokens;
  bpdq_activations activations; /* F32, 16 or 8 (resolved, never DEFAULT): of the inputs of bit-plane products */
} bpdq_program;

/* What every backend asks of the caches of an operation when it compiles it: two, of whole sequences of `context` positions each, as many
 * in both, of one type, and with `kv_heads` heads of `head_dim` values. `keys` and `values` are NULL where there is no such cache.
 * BPDQ_ERROR_UNSUPPORTED names the operation. */
bpdq_status bpdq_check_caches(const char *operation, const bpdq_tensor_desc *keys, const bpdq_tensor_desc *values, int64_t kv_heads,
                              int64_t head_dim, int64_t context, bpdq_error *error);

/* The scalars of one run. Rows of one sequence are consecutive, and so are their positions. */
typedef struct bpdq_run {
  int64_t tokens;           /* 1..max_tokens */
  const int32_t *positions; /* [tokens], each below the context */
  const int32_t *sequences; /* [tokens], which sequence's cache a row uses; both may be NULL where a program has no caches */
} bpdq_run;

/* What every backend asks of a run before it touches memory: 1..max_tokens rows and, where the program has caches of `sequences` times
 * `context` rows (context 0: it has none), places inside them. BPDQ_ERROR_CONTEXT_FULL for a position, else BPDQ_ERROR_INTERNAL. */
bpdq_status bpdq_check_run(const bpdq_run *run, int64_t max_tokens, int64_t context, int64_t sequences, bpdq_error *error);

#endif
