/* Times each operation of a model's decoder on its own, at a named shape with random weights. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/registry.h"
#include "core/checked.h"
#include "model/random.h"

#define MAX_COPIES 64 /* of a weight */
#define MAX_CACHES 256
#define OTHER_COPIES 16  /* of an operation that reads little, or computes more than it reads */
#define DECODE_TOKENS 16 /* up to this many rows a run is decoding: a batch, or a speculative check */
#define REPEATS 9
#define LONG_NANOSECONDS 4000000000u         /* runs that take longer together are not repeated, as on a Vulkan device that is a CPU */
#define CACHE_DEFEATING_BYTES (800ull << 20) /* copies together exceed every last-level cache several times */
#define CACHE_DEFEATING_BYTES_CPU (160ull << 20)
#define FIRST_CACHE 3 /* tensors before the caches of bench_attention */

typedef enum operation_kind { TIME_LINEAR, TIME_ATTENTION, TIME_TOP_K } operation_kind;

/* One row of the table. */
typedef struct operation {
  const char *name;
  operation_kind kind;
  /* linears */
  int64_t rows, columns;
  bool planes;
  bpdq_transform_kind transform;
  bool accumulate;
  /* attention: which of the two; the pair is what a backend may do as one kernel */
  bool rotates, attends;
  int candidates; /* top_k */
} operation;

/* One operation, repeated over copies of what it reads so that each repeat reads from memory. */
typedef struct bench {
  bpdq_backend *backend;
  bpdq_config config;
  bpdq_activations activations;
  bpdq_op_benchmark what; /* `context` resolved */
  uint64_t memory_cap;    /* 0: none */
  bpdq_weight *weights[MAX_COPIES];
  bpdq_tensor_desc tensors[FIRST_CACHE + 2 * MAX_CACHES];
  bpdq_op ops[2 * MAX_CACHES];
  size_t op_count; /* of all copies */
  int copies;
} bench;

static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* What the copies together should exceed. */
static uint64_t defeating_bytes(const bench *b) {
  return strcmp(b->backend->info.kind, "cpu") ? CACHE_DEFEATING_BYTES : CACHE_DEFEATING_BYTES_CPU;
}

static int by_value(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

/* Median seconds of one operation: whole runs are timed and divided by the number of copies. */
static bpdq_status time_ops(bench *b, bpdq_executable *executable, double *seconds, bpdq_error *error) {
  int32_t *positions = bpdq_alloc_array((size_t)b->what.tokens, sizeof *positions),
          *sequences = calloc((size_t)b->what.tokens, sizeof *sequences);
  double times[REPEATS];
  bpdq_status status = BPDQ_OK;
  if (!positions || !sequences) status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  for (int64_t t = 0; t < b->what.tokens && status == BPDQ_OK; t++) positions[t] = (int32_t)(b->what.depth + t);
  bpdq_run run = {b->what.tokens, positions, sequences};
  int count = 0, warm_up = 2;
  uint64_t begin = bpdq_monotonic_nanoseconds();
  while (count < REPEATS && status == BPDQ_OK) {
    uint64_t start = bpdq_monotonic_nanoseconds();
    status = b->backend->run(executable, &run, error);
    uint64_t end = bpdq_monotonic_nanoseconds();
    if (warm_up-- <= 0) times[count++] = (double)(end - start) * 1e-9 / b->copies;
    if (end - begin < LONG_NANOSECONDS) continue;
    if (count) break;
    warm_up = 0;
  }
  if (status == BPDQ_OK) {
    qsort(times, (size_t)count, sizeof *times, by_value);
    *seconds = times[count / 2];
  }
  free(positions);
  free(sequences);
  return status;
}

/* `first`: what tensor 0, of one row, holds; NULL: zeros. */
static bpdq_status compile_and_time(bench *b, const bpdq_tensor_desc *tensors, size_t count, const float *first, double *seconds,
                                    bpdq_error *error) {
  bpdq_state *state = NULL;
  bpdq_executable *executable = NULL;
  bpdq_program program = {b->ops, b->op_count, b->what.tokens, b->activations};
  bpdq_status status = b->backend->state_create(b->backend, tensors, count, &state, error);
  if (status == BPDQ_OK && first) status = b->backend->tensor_write(state, 0, 0, tensors[0].columns, first, error);
  if (status == BPDQ_OK) status = b->backend->compile(b->backend, state, &program, &executable, error);
  if (status == BPDQ_OK) status = time_ops(b, executable, seconds, error);
  b->backend->executable_destroy(b->backend, executable);
  b->backend->state_destroy(b->backend, state);
  return status;
}

static bpdq_status make_copies(bench *b, const operation *o, bpdq_error *error) {
  uint64_t target = defeating_bytes(b), bytes = 0;
  for (b->copies = 0; b->copies < MAX_COPIES && (b->copies < 2 || bytes < target); b->copies++) {
    BPDQ_TRY(bpdq_random_matrix(b->backend, o->name, o->rows, o->columns, o->planes ? b->what.planes : 0, b->what.group,
                                77 + (uint64_t)b->copies, &b->weights[b->copies], error));
    bytes += b->backend->weight_bytes(b->weights[b->copies]);
  }
  return b->backend->weights_flush(b->backend, error);
}

static void free_copies(bench *b) {
  for (int i = 0; i < MAX_COPIES; i++) b->backend->weight_destroy(b->backend, b->weights[i]);
  memset(b->weights, 0, sizeof b->weights);
}

static bpdq_status bench_linear(bench *b, const operation *o, bpdq_op_timing *timing, bpdq_error *error) {
  bpdq_weight *norm = NULL;
  bpdq_status status = make_copies(b, o, error);
  if (status == BPDQ_OK && o->transform == BPDQ_TRANSFORM_RMS_NORM) status = bpdq_constant_vector(b->backend, o->columns, 1, &norm, error);
  int64_t width = o->columns * (o->transform == BPDQ_TRANSFORM_SILU_GATE ? 2 : 1);
  bpdq_tensor_desc tensors[2] = {{.kind = BPDQ_TENSOR_F32, .rows = b->what.tokens, .columns = width},
                                 {.kind = BPDQ_TENSOR_F32, .rows = b->what.tokens, .columns = o->rows}};
  if (status == BPDQ_OK) {
    for (int i = 0; i < b->copies; i++) {
      b->ops[i] = (bpdq_op){.kind = BPDQ_OP_LINEAR, .name = o->name};
      b->ops[i].linear = (bpdq_op_linear){0, 1, {o->transform, norm, 1e-6f}, b->weights[i], NULL, 0, o->accumulate, BPDQ_ROWS_ALL};
    }
    b->op_count = (size_t)b->copies;
    timing->bytes = b->backend->weight_bytes(b->weights[0]);
    status = compile_and_time(b, tensors, 2, NULL, &timing->seconds, error);
  }
  free_copies(b);
  b->backend->weight_destroy(b->backend, norm);
  timing->rows = o->rows;
  timing->columns = o->columns;
  timing->planes = o->planes ? b->what.planes : 0;
  timing->group = o->planes ? b->what.group : 0;
  return status;
}

/* Keys and values of one position: as every backend stores them, 8-bit entries with one f32 scale per head. */
static uint64_t position_bytes(const bench *b) {
  uint64_t dim = (uint64_t)b->config.head_dim;
  return 2 * (uint64_t)b->config.kv_heads * (b->what.kv_type == BPDQ_KV_Q8 ? dim + 4 : 2 * dim);
}

/* Caches so many that what a run reads comes from memory, as in a model, where the weights of the layers pass between two uses of a cache;
 * together they take twice that at most, or half the cap. */
static int cache_copies(const bench *b) {
  if (b->what.tokens > DECODE_TOKENS) return OTHER_COPIES;
  uint64_t read = position_bytes(b) * (uint64_t)(b->what.depth + b->what.tokens), held = position_bytes(b) * (uint64_t)b->what.context;
  uint64_t room = 2 * defeating_bytes(b);
  if (b->memory_cap) room = smaller(room, b->memory_cap / 2);
  uint64_t copies = smaller(smaller(bpdq_ceil_div(defeating_bytes(b), read), room / held), MAX_CACHES);
  return copies < 2 ? 2 : (int)copies;
}

/* Rotary embedding with the cache write, attention, or both in sequence as a model has them, behind `depth` cached tokens. */
static bpdq_status bench_attention(bench *b, const operation *o, bpdq_op_timing *timing, bpdq_error *error) {
  const bpdq_config *c = &b->config;
  int64_t tokens = b->what.tokens, context = b->what.context, q_width = c->heads * c->head_dim, kv_width = c->kv_heads * c->head_dim;
  const bpdq_tensor_desc own[FIRST_CACHE] = {{.kind = BPDQ_TENSOR_F32, .rows = tokens, .columns = q_width + 2 * kv_width},
                                             {.kind = BPDQ_TENSOR_F32, .rows = tokens, .columns = q_width},
                                             {.kind = BPDQ_TENSOR_F32, .rows = context, .columns = c->head_dim}};
  memcpy(b->tensors, own, sizeof own);
  b->copies = cache_copies(b);
  b->op_count = 0;
  for (int i = 0; i < b->copies; i++) {
    bpdq_tensor keys = FIRST_CACHE + 2 * i, values = keys + 1;
    b->tensors[keys] = b->tensors[values] = (bpdq_tensor_desc){
        .kind = BPDQ_TENSOR_KV, .rows = context, .columns = kv_width, .kv_type = b->what.kv_type, .head_dim = c->head_dim};
    if (o->rotates) {
      bpdq_op *rope = &b->ops[b->op_count++];
      *rope = (bpdq_op){.kind = BPDQ_OP_ROPE_CACHE, .name = "rope"};
      rope->rope_cache = (bpdq_op_rope_cache){0, 2, keys, values, c->heads, c->kv_heads, c->head_dim, context, NULL, NULL, 0};
    }
    if (o->attends) {
      bpdq_op *attention = &b->ops[b->op_count++];
      *attention = (bpdq_op){.kind = BPDQ_OP_ATTENTION, .name = "attention"};
      attention->attention = (bpdq_op_attention){0, 1, keys, values, c->heads, c->kv_heads, c->head_dim, context, 0.1f};
    }
  }
  timing->rows = o->attends ? b->what.depth + tokens : tokens;
  timing->columns = kv_width;
  timing->bytes = o->attends ? position_bytes(b) * (uint64_t)timing->rows : (uint64_t)(tokens * (q_width + 2 * kv_width + c->head_dim) * 4);
  return compile_and_time(b, b->tensors, FIRST_CACHE + 2 * (size_t)b->copies, NULL, &timing->seconds, error);
}

/* Logits as a model may have them: a bell, since how they are spread decides what there is to do. */
static void make_logits(float *logits, int64_t count) {
  uint32_t number = 1;
  for (int64_t i = 0; i < count; i++) {
    logits[i] = 0;
    for (int j = 0; j < 6; j++) {
      number = number * 1664525u + 1013904223u;             /* Numerical Recipes' generator */
      logits[i] += (float)(number >> 8) * (1.0f / 4194304); /* up to 4 */
    }
  }
}

static bpdq_status bench_top_k(bench *b, const operation *o, bpdq_op_timing *timing, bpdq_error *error) {
  int64_t vocab = b->config.vocab_size;
  int k = o->candidates;
  bpdq_tensor_desc tensors[3] = {{.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = vocab},
                                 {.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = k + 1, .result = true},
                                 {.kind = BPDQ_TENSOR_I32, .rows = 1, .columns = k, .result = true}};
  b->copies = OTHER_COPIES;
  b->op_count = OTHER_COPIES;
  for (int i = 0; i < b->copies; i++)
    b->ops[i] = (bpdq_op){.kind = BPDQ_OP_TOP_K, .name = "top_k", .top_k = {0, 1, 2, vocab, k, BPDQ_ROWS_LAST}};
  timing->rows = 1;
  timing->columns = vocab;
  timing->bytes = (uint64_t)vocab * 4;
  float *logits = bpdq_alloc_array((size_t)vocab, sizeof *logits);
  if (!logits) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  make_logits(logits, vocab);
  bpdq_status status = compile_and_time(b, tensors, 3, logits, &timing->seconds, error);
  free(logits);
  return status;
}

#define MAX_OPERATIONS 10

/* The operations that a run of so many rows has. A prefill rotates and attends in two kernels on every backend, so that each has a row of
 * its own besides; candidates are of one row, whatever the run is. */
static size_t list_operations(const bench *b, operation *list) {
  const bpdq_config *c = &b->config;
  int64_t hidden = c->hidden_size, middle = c->intermediate_size, q_width = c->heads * c->head_dim;
  const operation linears[] = {
      {"qkv", TIME_LINEAR, q_width + 2 * c->kv_heads * c->head_dim, hidden, true, BPDQ_TRANSFORM_RMS_NORM, false, false, false, 0},
      {"output", TIME_LINEAR, hidden, q_width, true, BPDQ_TRANSFORM_NONE, true, false, false, 0},
      {"gate_up", TIME_LINEAR, 2 * middle, hidden, true, BPDQ_TRANSFORM_RMS_NORM, false, false, false, 0},
      {"down", TIME_LINEAR, hidden, middle, true, BPDQ_TRANSFORM_SILU_GATE, true, false, false, 0},
      {"head", TIME_LINEAR, c->vocab_size, hidden, false, BPDQ_TRANSFORM_RMS_NORM, false, false, false, 0}};
  size_t count = sizeof linears / sizeof *linears;
  memcpy(list, linears, sizeof linears);
  list[count++] = (operation){.name = "rope+attention", .kind = TIME_ATTENTION, .rotates = true, .attends = true};
  if (b->what.tokens > DECODE_TOKENS) {
    list[count++] = (operation){.name = "rope", .kind = TIME_ATTENTION, .rotates = true};
    list[count++] = (operation){.name = "attention", .kind = TIME_ATTENTION, .attends = true};
  }
  if (b->what.tokens == 1) {
    list[count++] = (operation){.name = "top_k 1", .kind = TIME_TOP_K, .candidates = 1};
    list[count++] = (operation){.name = "top_k 64", .kind = TIME_TOP_K, .candidates = BPDQ_MAX_CANDIDATES};
  }
  return count;
}

static bpdq_status bench_operation(bench *b, const operation *o, bpdq_op_timing *timing, bpdq_error *error) {
  *timing = (bpdq_op_timing){.tokens = b->what.tokens};
  snprintf(timing->name, sizeof timing->name, "%s", o->name);
  switch (o->kind) {
    case TIME_LINEAR:
      return bench_linear(b, o, timing, error);
    case TIME_ATTENTION:
      return bench_attention(b, o, timing, error);
    case TIME_TOP_K:
      return bench_top_k(b, o, timing, error);
  }
  return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "an operation of no kind");
}

static bpdq_status bench_all(bench *b, const operation *list, size_t count, bpdq_op_timing_callback callback, void *user,
                             bpdq_error *error) {
  for (size_t i = 0; i < count; i++) {
    bpdq_op_timing timing;
    if (b->what.operation && strcmp(b->what.operation, list[i].name)) continue;
    BPDQ_TRY(bench_operation(b, &list[i], &timing, error));
    if (!callback(user, &timing)) return bpdq_fail(error, BPDQ_ERROR_CANCELLED, "interrupted");
  }
  return BPDQ_OK;
}

/* Refuses an operation that the list does not have, naming those that it has. */
static bpdq_status check_operation(const char *name, const operation *list, size_t count, bpdq_error *error) {
  char known[256] = "";
  for (size_t i = 0; i < count; i++) {
    size_t used = strlen(known);
    if (!name || !strcmp(name, list[i].name)) return BPDQ_OK;
    snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", list[i].name);
  }
  return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "no operation \"%s\" in a run of so many rows; there are %s", name, known);
}

static bpdq_status check_request(bench *b, bpdq_error *error) {
  bpdq_op_benchmark *what = &b->what;
  int64_t limit = b->config.context_length;
  BPDQ_TRY(bpdq_random_check(what->planes, what->group, error));
  if (what->tokens < 1 || what->tokens > 4096)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "tokens must be 1 to 4096, not %lld", (long long)what->tokens);
  if (what->depth < 0 || what->depth > limit - what->tokens)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "depth must be 0 to %lld, not %lld", (long long)(limit - what->tokens),
                     (long long)what->depth);
  int64_t needed = what->depth + what->tokens;
  if (!what->context) what->context = needed;
  if (what->context < needed || what->context > limit)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "context must be %lld (depth and tokens) to %lld, not %lld", (long long)needed,
                     (long long)limit, (long long)what->context);
  if (what->kv_type != BPDQ_KV_F16 && what->kv_type != BPDQ_KV_Q8)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "unknown kv_type %d", (int)what->kv_type);
  return BPDQ_OK;
}

static bpdq_status start_backend(bench *b, const bpdq_model_options *options, bpdq_error *error) {
  char choice[256], *cache = options->cache_folder ? NULL : bpdq_cache_folder();
  bpdq_backend_options backend_options = {options->device,     options->threads,
                                          options->memory_cap, options->cache_folder ? options->cache_folder : cache,
                                          options->vulkan,     {options->log, options->log_user}};
  bpdq_status status = bpdq_backend_choose(options->backend, 0, &backend_options, &b->backend, choice, sizeof choice, error);
  free(cache);
  if (status != BPDQ_OK) return status;
  b->activations = options->activations ? options->activations : b->backend->default_activations;
  b->memory_cap = options->memory_cap;
  return BPDQ_OK;
}

bpdq_status bpdq_benchmark_ops(const bpdq_op_benchmark *what, const bpdq_model_options *options, bpdq_op_timing_callback callback,
                               void *user, bpdq_device_info *device, double *bandwidth, bpdq_error *error) {
  bpdq_model_options defaults = bpdq_model_default_options();
  if (!options) options = &defaults;
  operation list[MAX_OPERATIONS];
  bench *b = calloc(1, sizeof *b);
  if (!b) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  b->what = *what;
  bpdq_status status = bpdq_random_config(what->shape, &b->config, error);
  if (status == BPDQ_OK) status = check_request(b, error);
  if (status == BPDQ_OK) status = bpdq_check_activations(options->activations, error);
  size_t count = status == BPDQ_OK ? list_operations(b, list) : 0;
  if (status == BPDQ_OK) status = check_operation(what->operation, list, count, error);
  if (status == BPDQ_OK) status = start_backend(b, options, error);
  if (status == BPDQ_OK) {
    *device = b->backend->info;
    status = b->backend->measure_bandwidth(b->backend, bandwidth, error);
    if (status == BPDQ_OK) status = bench_all(b, list, count, callback, user, error);
    b->backend->destroy(b->backend);
  }
  free(b);
  return status;
}
