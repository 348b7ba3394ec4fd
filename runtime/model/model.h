/* Inside a bpdq_model: the decoder's weights on a backend, and what the sessions need beside them. */
#ifndef BPDQ_MODEL_MODEL_H
#define BPDQ_MODEL_MODEL_H

#include "backend/backend.h"
#include "core/platform.h"
#include "format/checkpoint.h"
#include "format/template/template.h"
#include "format/tokenizer.h"

/* Linears that read the same input, as one stacked weight where their formats agree (q, k and v mostly do), else as several pieces that
 * write neighbouring columns of one output. */
typedef struct model_linear {
  struct {
    bpdq_weight *weight; /* [N, K] */
    bpdq_weight *bias;   /* [N] or NULL */
    int64_t offset;      /* first output column */
  } pieces[3];
  int count;
} model_linear;

typedef struct model_layer {
  bpdq_weight *attention_norm, *mlp_norm; /* [hidden] */
  bpdq_weight *q_norm, *k_norm;           /* [head_dim] or NULL */
  model_linear qkv;                       /* [(heads + 2 kv_heads) * head_dim, hidden] */
  model_linear output;                    /* [hidden, heads * head_dim] */
  model_linear gate_up;                   /* [2 * intermediate, hidden] */
  model_linear down;                      /* [hidden, intermediate] */
} model_layer;

#define MODEL_RANDOM_ROWS 8192

struct bpdq_model {
  bpdq_backend *backend;
  bpdq_config config;           /* a copy of checkpoint.config's values; its pointers belong to the checkpoint */
  bpdq_checkpoint checkpoint;   /* stays mapped: embedding rows are read from it. Zeroed for a random model */
  bpdq_tokenizer *tokenizer;    /* NULL for a random model */
  bpdq_template *chat_template; /* NULL where the model has none */
  char *bos_token, *eos_token;
  uint16_t *random_rows;   /* of a random model: the embedding row of token t is bf16 [hidden] from number t % MODEL_RANDOM_ROWS on */
  model_layer *layers;     /* [config.layers] */
  bpdq_weight *final_norm; /* [hidden] */
  model_linear head;       /* [vocab, hidden] */
  bpdq_activations activations;
  bpdq_log log;
  char choice[256];
  uint64_t parameters, quantized_weights, quantized_bits, weight_bytes, bytes_per_token, load_bytes;
  double load_seconds, load_weights_seconds; /* bpdq_model_info */
};

/* The tensors of a session's state, in this order; then the key and value caches of each layer. */
enum {
  TENSOR_HIDDEN,     /* f32 [max_tokens, hidden]: the residual stream */
  TENSOR_QKV,        /* f32 [max_tokens, (heads + 2 kv_heads) * head_dim] */
  TENSOR_ATTENTION,  /* f32 [max_tokens, heads * head_dim] */
  TENSOR_GATE_UP,    /* f32 [max_tokens, 2 * intermediate] */
  TENSOR_ROPE,       /* f32 [context, head_dim] */
  TENSOR_LOGITS,     /* f32 [sequences, vocab] */
  TENSOR_BEST_VALUE, /* f32 [sequences, 2]: top-k with k = 1, for greedy decoding */
  TENSOR_BEST_ID,    /* i32 [sequences, 1] */
  TENSOR_VALUES,     /* f32 [sequences, candidates + 1]: top-k for sampling */
  TENSOR_IDS,        /* i32 [sequences, candidates] */
  TENSOR_FIRST_CACHE
};

static inline bpdq_tensor tensor_key_cache(int64_t layer) { return (bpdq_tensor)(TENSOR_FIRST_CACHE + 2 * layer); }
static inline bpdq_tensor tensor_value_cache(int64_t layer) { return (bpdq_tensor)(TENSOR_FIRST_CACHE + 2 * layer + 1); }

/* What a program computes beyond the layers. */
typedef enum model_head { HEAD_NONE, HEAD_LAST, HEAD_ALL } model_head;

#define BPDQ_MAX_CANDIDATES 64

/* How many logits per row a sampling program brings to the host: BPDQ_MAX_CANDIDATES, or the whole of a tiny vocabulary. */
int bpdq_model_candidates(const bpdq_model *model);

/* Embedding row of a token as f32 [hidden]. */
void bpdq_model_embed(const bpdq_model *model, int32_t token, float *out);

/* The decoder's operations for up to max_tokens rows; `candidates` > 0 appends a top-k of the logits
 * (1, or as many as bpdq_model_candidates). *ops is malloc'ed. NULL: out of
 * memory. */
bpdq_op *bpdq_decoder_ops(const bpdq_model *model, int64_t context, model_head head, int candidates, size_t *count);

/* Final norm and head alone: TENSOR 0 f32 [rows, hidden] to TENSOR 1 f32 [rows, vocab]. Writes one or more ops; returns how many (<= 3). */
size_t bpdq_decoder_head_ops(const bpdq_model *model, bpdq_tensor input, bpdq_tensor output, bpdq_row_selection rows, bpdq_op *ops);

/* The context of a session that asks for none; `limit` is the model's. */
static inline int64_t bpdq_default_context(int64_t limit) { return limit < 4096 ? limit : 4096; }

/* bpdq_inspect, of a checkpoint that is open. */
bpdq_status bpdq_inspect_checkpoint(const bpdq_checkpoint *checkpoint, bpdq_inspection **inspection, bpdq_error *error);

/* Of a bpdq_model_options; a precision that does not exist would otherwise be met by the first run alone. */
bpdq_status bpdq_check_activations(bpdq_activations activations, bpdq_error *error);

/* Loading, shared by load.c and random.c. */
void bpdq_model_count_linear(bpdq_model *model, const model_linear *linear);
void bpdq_model_finish_counts(bpdq_model *model);

#endif
