/* config.json of a Hugging Face model: architecture, RoPE and quantization settings, checked. */
#ifndef BPDQ_FORMAT_CONFIG_H
#define BPDQ_FORMAT_CONFIG_H

#include "core/log.h"
#include "core/status.h"

typedef enum bpdq_architecture { BPDQ_LLAMA, BPDQ_MISTRAL, BPDQ_QWEN2, BPDQ_QWEN3 } bpdq_architecture;
typedef enum bpdq_rope_kind { BPDQ_ROPE_DEFAULT, BPDQ_ROPE_LINEAR, BPDQ_ROPE_LLAMA3, BPDQ_ROPE_YARN } bpdq_rope_kind;

typedef struct bpdq_rope_config {
  bpdq_rope_kind kind;
  double theta;
  double factor;                                   /* LINEAR, LLAMA3, YARN */
  double low_freq_factor, high_freq_factor;        /* LLAMA3 */
  double original_context;                         /* LLAMA3, YARN: original_max_position_embeddings */
  double beta_fast, beta_slow;                     /* YARN (defaults 32, 1) */
  double attention_factor, mscale, mscale_all_dim; /* YARN; 0: not given */
  bool truncate;                                   /* YARN (default true) */
} bpdq_rope_config;

/* One entry of quantization_config.dynamic: a regular expression on module names to settings. */
typedef struct bpdq_dynamic_rule {
  char *pattern; /* without the "+:" or "-:" prefix */
  void *code;    /* the pattern compiled (pcre2_code), for bpdq_config_module */
  bool dense;    /* "-:" prefix: matching modules stay dense */
  int planes;    /* 0: not overridden */
  int group;     /* 0: not overridden */
} bpdq_dynamic_rule;

typedef struct bpdq_quantization_config {
  bool present;
  int planes;     /* meta.bpdq.msbits; 0: not given */
  int group;      /* group_size */
  int bits;       /* width of the initial integer code (8), not the number of planes */
  int iterations; /* meta.bpdq.n_iters; 0: not given */
  double alpha;   /* meta.bpdq.alpha */
  bool lm_head;   /* the head is quantized too */
  bpdq_dynamic_rule *dynamic;
  size_t dynamic_count;
} bpdq_quantization_config;

typedef struct bpdq_config {
  bpdq_architecture architecture;
  char model_type[64];
  int64_t vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, context_length;
  double norm_epsilon;
  bool tied_head;      /* tie_word_embeddings, with the default of the architecture */
  bool attention_bias; /* q, k, v carry a bias (Qwen2 always; else attention_bias) */
  bool output_bias;    /* o_proj carries a bias (Llama and Qwen3 with attention_bias) */
  bool mlp_bias;
  bool qk_norm; /* Qwen3 */
  bpdq_rope_config rope;
  bpdq_quantization_config quantization;
  char dtype[16];         /* torch_dtype or dtype; "" when absent */
  int32_t end_tokens[16]; /* eos_token_id of config.json and generation_config.json together */
  int end_token_count;
} bpdq_config;

/* Reads FOLDER/config.json and, where present, quantize_config.json (used when config.json has no quantization_config) and
 * generation_config.json. Both config styles (rope_theta + rope_scaling, rope_parameters). Refuses by name: unknown architectures and
 * activations, sliding windows that would take effect, unknown rope types, partial rotary factors, a quant_method other than "bpdq", a
 * non-null rotation. Sizes must be positive and within sane limits (vocab <= 2^24, hidden <= 2^20, layers <= 4096, heads <= 4096, context
 * <= 2^31-1 ...). */
bpdq_status bpdq_config_load(const char *folder, bpdq_config *config, const bpdq_log *log, bpdq_error *error);

/* The same from memory, for tests and the fuzz target: config.json's text alone. */
bpdq_status bpdq_config_parse(const char *text, size_t length, bpdq_config *config, const bpdq_log *log, bpdq_error *error);
void bpdq_config_free(bpdq_config *config); /* frees what config holds; the struct itself is the caller's */

/* Whether the module ("model.layers.0.mlp.up_proj") is to be quantized by the settings, and with which planes and group. */
bool bpdq_config_module(const bpdq_config *config, const char *module, int *planes, int *group);

#endif
