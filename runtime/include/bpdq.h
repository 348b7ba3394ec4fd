/* bpdq: run 2-4-bit bit-plane quantized language models on any GPU, or on none.
 *
 * This is the only public header of the runtime. Two opaque handles do the work: a bpdq_model (weights on
 * one device, read-only after loading, usable by many threads) and a bpdq_session (one KV cache with its
 * scratch memory, used by one thread at a time).
 *
 * Errors are values: a function that can fail returns a bpdq_status and, when `error` is not NULL, writes a
 * one-line message that names the file, tensor, device or argument and what to do. The library never prints,
 * exits or keeps process-wide state that two models or two threads would share.
 */
#ifndef BPDQ_H
#define BPDQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define BPDQ_API
#else
#define BPDQ_API __attribute__((visibility("default")))
#endif

#define BPDQ_VERSION "0.1.0"

/* ---- errors ------------------------------------------------------------------------------------------ */

typedef enum bpdq_status {
  BPDQ_OK = 0,
  BPDQ_ERROR_ARGUMENT,     /* the caller passed something that no call can accept (token id out of range) */
  BPDQ_ERROR_IO,           /* a file cannot be opened, read, mapped or written */
  BPDQ_ERROR_FORMAT,       /* a file's bytes are not what its format demands */
  BPDQ_ERROR_UNSUPPORTED,  /* valid input that this runtime refuses by name (a sliding window, a rotation) */
  BPDQ_ERROR_MEMORY,       /* host or device memory is exhausted or over the cap */
  BPDQ_ERROR_DEVICE,       /* no such device, device lost, driver failure */
  BPDQ_ERROR_CONTEXT_FULL, /* the tokens do not fit into the session's context */
  BPDQ_ERROR_CANCELLED,    /* a callback or bpdq_session_cancel() asked to stop */
  BPDQ_ERROR_INTERNAL      /* a broken invariant: a bug in bpdq */
} bpdq_status;

typedef struct bpdq_error {
  bpdq_status status;
  char message[1024]; /* NUL-terminated UTF-8, one line, no trailing newline */
} bpdq_error;

/* The version of the library that is linked, as "major.minor.patch". */
BPDQ_API const char *bpdq_version(void);

/* ---- log --------------------------------------------------------------------------------------------- */

typedef enum bpdq_log_level { BPDQ_LOG_INFO = 0, BPDQ_LOG_WARNING = 1 } bpdq_log_level;

/* Receives one line (no newline). May be called from any thread that is inside a call on the same model. */
typedef void (*bpdq_log_callback)(void *user, bpdq_log_level level, const char *line);

/* ---- devices ----------------------------------------------------------------------------------------- */

typedef struct bpdq_device_info {
  char backend[16];      /* "cpu", "vulkan" or "cuda" */
  int index;             /* what --device takes, counted per backend */
  char name[256];        /* the vendor's name of the device */
  char driver[256];      /* driver name and version */
  char kind[16];         /* "discrete", "integrated", "virtual", "cpu" */
  uint64_t memory_total; /* bytes of device memory (host memory for "cpu") */
  uint64_t memory_free;  /* bytes free now, or memory_total where the driver does not say */
  char features[256];    /* optional paths in use, separated by blanks: "avx512-vnni", "integer-dot" ... */
  char unusable[256];    /* empty, or why this device cannot run models */
} bpdq_device_info;

/* Lists every device of every backend into `devices` (at most `capacity`). Returns how many there are. A backend
 * that cannot start (no driver) lists nothing and is named in one log line. */
BPDQ_API size_t bpdq_devices(bpdq_device_info *devices, size_t capacity, bpdq_log_callback log, void *user);

/* ---- models ------------------------------------------------------------------------------------------ */

typedef struct bpdq_model bpdq_model;

/* Precision of activations inside the bit-plane products. */
typedef enum bpdq_activations {
  BPDQ_ACTIVATIONS_DEFAULT = 0, /* the fastest whose mean KL against F32 on classics-28m is <= 1e-3 */
  BPDQ_ACTIVATIONS_F32 = 32,
  BPDQ_ACTIVATIONS_16 = 16,
  BPDQ_ACTIVATIONS_8 = 8
} bpdq_activations;

/* `fraction` goes from 0 to 1. Return false to stop: the call then fails with BPDQ_ERROR_CANCELLED. */
typedef bool (*bpdq_progress_callback)(void *user, double fraction);

/* An existing Vulkan device to run on, so that a game or a viewer needs no second one. The caller keeps
 * ownership and outlives the model. Handles are passed as the Vulkan handles cast to void *. */
typedef struct bpdq_vulkan_import {
  void *get_instance_proc_addr; /* PFN_vkGetInstanceProcAddr of the caller's loader */
  void *instance;               /* VkInstance, API version 1.2 or newer */
  void *physical_device;        /* VkPhysicalDevice */
  void *device;                 /* VkDevice */
  void *queue;                  /* VkQueue with compute support, of queue_family */
  uint32_t queue_family;
  uint32_t api_version;          /* what the instance was created with */
  const char *const *extensions; /* device extensions that were enabled on `device` */
  size_t extension_count;
  /* The VkPhysicalDeviceFeatures2 chain that `device` was created with, or NULL for none: optional paths are used only for features found
   * enabled here. Those that make a difference: shaderIntegerDotProduct; pipelineRobustness (VK_EXT_pipeline_robustness, without which
   * NVIDIA's driver checks every access); subgroupSizeControl with computeFullSubgroups; and cooperativeMatrix with shaderFloat16,
   * storageBuffer16BitAccess and vulkanMemoryModel. */
  const void *enabled_features;
  void (*lock_queue)(void *user); /* called around every use of the queue; may be NULL when nobody else uses it */
  void (*unlock_queue)(void *user);
  void *user;
} bpdq_vulkan_import;

/* Start from bpdq_model_default_options(): in a zeroed struct `device` is 0, the first device, whether it is the best or not and whatever
 * BPDQ_DEVICE says. All other zeros are the defaults. */
typedef struct bpdq_model_options {
  const char *backend; /* "cpu", "vulkan", "cuda"; NULL: BPDQ_BACKEND from the environment, else the best */
  int device;          /* index within the backend; -1: BPDQ_DEVICE from the environment, else the best */
  int threads;         /* CPU threads; 0: one per core */
  bpdq_activations activations;
  uint64_t memory_cap;              /* bytes of device memory that may be allocated; 0: what the device has */
  const char *chat_template;        /* Jinja text that replaces the model's own chat template; NULL: the model's */
  const char *cache_folder;         /* pipeline cache and autotune results; NULL: the user's cache folder */
  const bpdq_vulkan_import *vulkan; /* NULL: create a device */
  bpdq_progress_callback progress;
  void *progress_user;
  bpdq_log_callback log;
  void *log_user;
} bpdq_model_options;

/* Defaults: best device, all cores, no cap, no callbacks. */
BPDQ_API bpdq_model_options bpdq_model_default_options(void);

/* Loads a model folder (a BPDQ checkpoint or a dense Hugging Face model). On success *model is owned by the
 * caller; on failure it is NULL and nothing is held. `options` may be NULL. Blocks until the weights are on
 * the device. */
BPDQ_API bpdq_status bpdq_model_load(const char *folder, const bpdq_model_options *options, bpdq_model **model, bpdq_error *error);

/* Loads the tokenizer and the chat template alone: no weights, no device. What needs those fails with BPDQ_ERROR_ARGUMENT. */
BPDQ_API bpdq_status bpdq_model_load_text(const char *folder, const bpdq_model_options *options, bpdq_model **model, bpdq_error *error);

/* A model of a known shape ("qwen2.5-0.5b", "qwen2.5-1.5b", "llama-3.2-1b", "qwen2.5-7b", "qwen2.5-72b"; "tiny" for tests) with random
 * weights made in place, for benchmarks: no file, no tokenizer. planes 1..8, group 32..256 (multiple of 32). */
BPDQ_API bpdq_status bpdq_model_random(const char *shape, int planes, int group, const bpdq_model_options *options, bpdq_model **model,
                                       bpdq_error *error);

/* Frees the model. All its sessions must have been freed. NULL is allowed. */
BPDQ_API void bpdq_model_free(bpdq_model *model);

typedef struct bpdq_model_info {
  char architecture[64]; /* "qwen2", "llama" ... (model_type of the config) */
  int64_t layers, hidden_size, intermediate_size, vocab_size, heads, kv_heads, head_dim;
  int64_t context_length; /* max_position_embeddings */
  bool quantized;         /* at least one linear is stored as bit-planes */
  bool tied_head;
  uint64_t parameters;          /* weights in all tensors */
  uint64_t quantized_weights;   /* weights stored as bit-planes */
  double bits_per_weight;       /* of the bit-plane linears, exact, with coefficients and padding; 0 when dense */
  uint64_t weight_bytes;        /* of all weights in the checkpoint */
  uint64_t bytes_per_token;     /* weight bytes that one decoded token reads on this device */
  uint64_t load_bytes;          /* of the checkpoint that went to the device; 0 where the weights are random or none */
  double load_seconds;          /* of bpdq_model_load, from the first file to the last weight's arrival */
  double load_weights_seconds;  /* of these, for the weights alone, once the device was ready */
  bpdq_activations activations; /* the precision in use */
  bpdq_device_info device;
  char choice[256]; /* which backend was chosen and why */
} bpdq_model_info;

BPDQ_API void bpdq_model_get_info(const bpdq_model *model, bpdq_model_info *info);

/* Device memory in use now, and the peak since loading, both in bytes as the backend allocated them. */
BPDQ_API void bpdq_model_memory(const bpdq_model *model, uint64_t *current, uint64_t *peak);

/* Measures the device's read bandwidth in bytes/s (a second at most; its buffers are given back and do not count in the peak). */
BPDQ_API bpdq_status bpdq_model_measure_bandwidth(const bpdq_model *model, double *bytes_per_second, bpdq_error *error);

/* ---- model folders, without loading them ---------------------------------------------------------------- */

typedef struct bpdq_linear_info {
  char name[160];         /* "model.layers.3.mlp.down_proj"; "lm_head" comes last */
  int64_t rows, columns;  /* N, K */
  int planes, group;      /* 0 where the linear is dense */
  double bits_per_weight; /* as stored, exact: planes, coefficients and padding, or the width of the dense type */
  uint64_t bytes;         /* as stored, without the bias */
} bpdq_linear_info;

typedef struct bpdq_inspection {
  char architecture[64];
  int64_t layers, hidden_size, intermediate_size, vocab_size, heads, kv_heads, head_dim, context_length;
  bool quantized, tied_head;
  uint64_t parameters, quantized_weights;
  double bits_per_weight;    /* of the bit-plane linears together; 0 when dense */
  uint64_t weight_bytes;     /* of all weights in the checkpoint */
  bpdq_linear_info *linears; /* [linear_count], in the order of the model */
  size_t linear_count;
} bpdq_inspection;

/* Checks a model folder and says what is in it. No weight is read and no device is touched. On success the caller owns *inspection. */
BPDQ_API bpdq_status bpdq_inspect(const char *folder, bpdq_log_callback log, void *user, bpdq_inspection **inspection, bpdq_error *error);
BPDQ_API void bpdq_inspection_free(bpdq_inspection *inspection); /* NULL is allowed */

/* ---- text -------------------------------------------------------------------------------------------- */

/* UTF-8 text to token ids, as the Python library's encode() makes them. `special`: the post-processor runs too. Added tokens that are
 * written in the text (`<|im_end|>`) become their ids either way: mind that in text of others. *ids is malloc'ed; free with
 * bpdq_free. */
BPDQ_API bpdq_status bpdq_tokenize(const bpdq_model *model, const char *text, size_t length, bool special, int32_t **ids, size_t *count,
                                   bpdq_error *error);

/* Token ids to UTF-8 text, NUL-terminated, malloc'ed. Invalid byte sequences become U+FFFD. */
BPDQ_API bpdq_status bpdq_detokenize(const bpdq_model *model, const int32_t *ids, size_t count, bool skip_special, char **text,
                                     size_t *length, bpdq_error *error);

typedef struct bpdq_chat_message {
  const char *role;    /* "system", "user", "assistant" */
  const char *content; /* UTF-8 */
} bpdq_chat_message;

/* Renders the model's chat template. *text is malloc'ed, NUL-terminated. */
BPDQ_API bpdq_status bpdq_apply_chat_template(const bpdq_model *model, const bpdq_chat_message *messages, size_t count,
                                              bool add_generation_prompt, char **text, bpdq_error *error);

/* True where `token` ends a generation (eos ids of the generation config, config or tokenizer). */
BPDQ_API bool bpdq_is_end_of_text(const bpdq_model *model, int32_t token);

/* Frees memory that this library returned. NULL is allowed. */
BPDQ_API void bpdq_free(void *memory);

/* ---- sessions ---------------------------------------------------------------------------------------- */

typedef struct bpdq_session bpdq_session;

typedef enum bpdq_kv_type { BPDQ_KV_F16 = 0, BPDQ_KV_Q8 = 1 } bpdq_kv_type;

/* All zeros are the defaults too. */
typedef struct bpdq_session_options {
  int64_t context; /* tokens of KV cache per sequence; 0: min(context_length of the model, 4096) */
  bpdq_kv_type kv_type;
  int sequences; /* independent sequences that are evaluated together (batch), at most 64; default 1, which 0 means as well */
} bpdq_session_options;

BPDQ_API bpdq_session_options bpdq_session_default_options(void);

/* Creates a session: allocates its KV cache and scratch memory on the model's device. The model must outlive it.
 * Sessions of one model may be used from different threads at once. */
BPDQ_API bpdq_status bpdq_session_create(bpdq_model *model, const bpdq_session_options *options, bpdq_session **session, bpdq_error *error);
BPDQ_API void bpdq_session_free(bpdq_session *session);

/* In bytes. */
typedef struct bpdq_memory_estimate {
  uint64_t weights; /* without the embedding table, which stays in host memory; a large head in 8 bits unless activations are f32 */
  uint64_t cache;   /* keys and values */
  uint64_t work;    /* activations, logits and what kernels need beside them */
  uint64_t total;
  int64_t context; /* tokens of context that it is for */
} bpdq_memory_estimate;

/* About what a model and one session take of a GPU: the larger of what its backends take, with a few percent to spare. `session` may be
 * NULL: the defaults. A model is given a GPU by itself only where a session of the defaults fits. */
BPDQ_API bpdq_memory_estimate bpdq_estimate_memory(const bpdq_inspection *model, const bpdq_session_options *session,
                                                   bpdq_activations activations);

/* Tokens in the cache of sequence 0, and room in all. */
BPDQ_API int64_t bpdq_session_position(const bpdq_session *session);
BPDQ_API int64_t bpdq_session_context(const bpdq_session *session);

/* Forgets everything after the first `position` tokens of every sequence (0: start anew). */
BPDQ_API bpdq_status bpdq_session_rewind(bpdq_session *session, int64_t position, bpdq_error *error);

/* Appends `count` tokens to sequence 0 and computes the logits of the last one. */
BPDQ_API bpdq_status bpdq_evaluate(bpdq_session *session, const int32_t *tokens, size_t count, bpdq_error *error);

/* Like bpdq_evaluate, and writes the logits of every token: `logits` is f32 [count, vocab_size], row-major. */
BPDQ_API bpdq_status bpdq_evaluate_all(bpdq_session *session, const int32_t *tokens, size_t count, float *logits, bpdq_error *error);

/* Appends one token to each of the session's sequences (tokens[sequences]) and computes their logits. Each sequence has a
 * position of its own. */
BPDQ_API bpdq_status bpdq_evaluate_batch(bpdq_session *session, const int32_t *tokens, bpdq_error *error);

/* Copies the logits of the last evaluated token (of sequence `sequence`): f32 [vocab_size]. */
BPDQ_API bpdq_status bpdq_get_logits(bpdq_session *session, int sequence, float *logits, bpdq_error *error);

/* ---- benchmarks of single operations ------------------------------------------------------------------ */

typedef struct bpdq_op_timing {
  char name[64];         /* "gate_up", "rope+attention" ... */
  int64_t rows, columns; /* N, K of a linear; positions that are read, kv width of attention */
  int planes, group;     /* 0 where the weight is dense or there is none */
  int64_t tokens;        /* rows of activations per run */
  double seconds;        /* median of one operation, launch or dispatch included */
  uint64_t bytes;        /* that it reads from device memory: weights, cache, logits */
} bpdq_op_timing;

/* What to time. */
typedef struct bpdq_op_benchmark {
  const char *shape; /* as of bpdq_model_random, and so are planes and group */
  int planes, group;
  int64_t tokens;  /* rows per run, of one sequence */
  int64_t depth;   /* cached tokens before them */
  int64_t context; /* room in the cache, as of a session; 0: depth + tokens */
  bpdq_kv_type kv_type;
  const char *operation; /* the one that is timed, by the name that a timing has; NULL: all */
} bpdq_op_benchmark;

/* Return false to stop. */
typedef bool (*bpdq_op_timing_callback)(void *user, const bpdq_op_timing *timing);

/* Times every operation of the decoder of a named shape on random weights. Rotation and attention are timed as the pair that they are in a
 * model ("rope+attention"), because a backend may do both in one kernel, and beyond 16 rows each alone besides; top_k only with one row.
 * *device and *bandwidth (bytes/s of a plain read, same run) are set before the first callback. */
BPDQ_API bpdq_status bpdq_benchmark_ops(const bpdq_op_benchmark *what, const bpdq_model_options *options, bpdq_op_timing_callback callback,
                                        void *user, bpdq_device_info *device, double *bandwidth, bpdq_error *error);

/* ---- sampling and generation ------------------------------------------------------------------------- */

/* The host draws from at most 64 candidates that the device has found; a penalty, or a top_k of 0 or above 64 unless the temperature is 0,
 * copies all logits to the host for every token, which is slower. */
typedef struct bpdq_sampling {
  float temperature;        /* 0: greedy */
  int top_k;                /* 0: off */
  float top_p;              /* 1: off */
  float min_p;              /* 0: off */
  float repetition_penalty; /* 1: off; applied to the tokens of the last 256 positions */
  uint64_t seed;            /* same seed, same model, same device: same text */
} bpdq_sampling;

/* temperature 0.7, top_k 40, top_p 0.95, min_p 0, no penalty, seed 0. */
BPDQ_API bpdq_sampling bpdq_sampling_default(void);

/* Chooses the next token of `sequence` from the last logits. The random state belongs to the session and is seeded
 * when `sampling->seed` differs from the last call's or the session was rewound to 0. */
BPDQ_API bpdq_status bpdq_sample(bpdq_session *session, int sequence, const bpdq_sampling *sampling, int32_t *token, bpdq_error *error);

/* Receives the text as it is generated: whole UTF-8 characters, `length` bytes, NUL-terminated. `token` is the id that
 * completed it. Return false to stop. */
typedef bool (*bpdq_text_callback)(void *user, int32_t token, const char *text, size_t length);

typedef struct bpdq_generation {
  size_t prompt_tokens, generated_tokens;
  double prompt_seconds, decode_seconds;
  bool end_of_text; /* stopped at an end-of-text token */
} bpdq_generation;

/* Evaluates `count` prompt tokens, then samples up to `max_tokens` (0: until the context is full), stopping at
 * an end-of-text token. `result` may be NULL. Stopping through the callback or bpdq_session_cancel() returns
 * BPDQ_ERROR_CANCELLED with `result` filled. */
BPDQ_API bpdq_status bpdq_generate(bpdq_session *session, const int32_t *prompt, size_t count, size_t max_tokens,
                                   const bpdq_sampling *sampling, bpdq_text_callback callback, void *user, bpdq_generation *result,
                                   bpdq_error *error);

/* Asks the running call of this session to stop soon, or the next one where none runs or the running one ends by itself
 * first. The only session function that any thread may call at any time; safe in a signal handler. The flag is cleared
 * when a call returns BPDQ_ERROR_CANCELLED, in bpdq_generate() also where the callback stopped it. */
BPDQ_API void bpdq_session_cancel(bpdq_session *session);

#ifdef __cplusplus
}
#endif
#endif
