/* Times each operation of a model's decoder on its own, at a named shape with random weights. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/registry.h"
#include "core/checked.h"
#include "model/random.h"

#define MAX_COPIES 64
#define REPEATS 9
#define CACHE_DEFEATING_BYTES (800ull << 20) /* copies of a weight together exceed every last-level cache several times */
#define CACHE_DEFEATING_BYTES_CPU (160ull << 20)

/* One operation, repeated over copies of its weight so that each repeat reads from memory. */
typedef struct bench {
  bpdq_backend *backend;
  bpdq_activations activations;
  int64_t tokens;
  bpdq_weight *weights[MAX_COPIES];
  bpdq_op ops[MAX_COPIES];
  int copies;
} bench;

static int by_value(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

/* Median seconds of one operation: whole runs are timed and divided by the number of copies. */
static bpdq_status time_ops(bench *b, bpdq_executable *executable, int32_t first_position, double *seconds, bpdq_error *error) {
  int32_t *positions = bpdq_alloc_array((size_t)b->tokens, sizeof *positions), *sequences = calloc((size_t)b->tokens, sizeof *sequences);
  double times[REPEATS];
  bpdq_status status = BPDQ_OK;
  if (!positions || !sequences) status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  for (int64_t t = 0; t < b->tokens && status == BPDQ_OK; t++) positions[t] = first_position + (int32_t)t;
  bpdq_run run = {b->tokens, positions, sequences};
  for (int i = -2; i < REPEATS && status == BPDQ_OK; i++) { /* two warm-up runs */
    uint64_t start = bpdq_monotonic_nanoseconds();
    status = b->backend->run(executable, &run, error);
    if (i >= 0) times[i] = (double)(bpdq_monotonic_nanoseconds() - start) * 1e-9 / b->copies;
  }
  if (status == BPDQ_OK) {
    qsort(times, REPEATS, sizeof *times, by_value);
    *seconds = times[REPEATS / 2];
  }
  free(positions);
  free(sequences);
  return status;
}

static bpdq_status compile_and_time(bench *b, const bpdq_tensor_desc *tensors, size_t count, int32_t first_position, double *seconds,
                                    bpdq_error *error) {
  bpdq_state *state = NULL;
  bpdq_executable *executable = NULL;
  bpdq_program program = {b->ops, (size_t)b->copies, b->tokens, b->activations};
  bpdq_status status = b->backend->state_create(b->backend, tensors, count, &state, error);
  if (status == BPDQ_OK) status = b->backend->compile(b->backend, state, &program, &executable, error);
  if (status == BPDQ_OK) status = time_ops(b, executable, first_position, seconds, error);
  b->backend->executable_destroy(b->backend, executable);
  b->backend->state_destroy(b->backend, state);
  return status;
}

typedef struct linear_shape {
  const char *name;
  int64_t rows, columns;
  bool planes;
  bpdq_transform_kind transform;
  bool accumulate;
} linear_shape;

static bpdq_status make_copies(bench *b, const linear_shape *shape, int planes, int group, bpdq_error *error) {
  uint64_t target = strcmp(b->backend->info.kind, "cpu") ? CACHE_DEFEATING_BYTES : CACHE_DEFEATING_BYTES_CPU, bytes = 0;
  for (b->copies = 0; b->copies < MAX_COPIES && (b->copies < 2 || bytes < target); b->copies++) {
    BPDQ_TRY(bpdq_random_matrix(b->backend, shape->name, shape->rows, shape->columns, shape->planes ? planes : 0, group,
                                77 + (uint64_t)b->copies, &b->weights[b->copies], error));
    bytes += b->backend->weight_bytes(b->weights[b->copies]);
  }
  return b->backend->weights_flush(b->backend, error);
}

static void free_copies(bench *b) {
  for (int i = 0; i < MAX_COPIES; i++) b->backend->weight_destroy(b->backend, b->weights[i]);
  memset(b->weights, 0, sizeof b->weights);
}

static bpdq_status bench_linear(bench *b, const linear_shape *shape, int planes, int group, bpdq_op_timing *timing, bpdq_error *error) {
  bpdq_weight *norm = NULL;
  bpdq_status status = make_copies(b, shape, planes, group, error);
  if (status == BPDQ_OK && shape->transform == BPDQ_TRANSFORM_RMS_NORM)
    status = bpdq_constant_vector(b->backend, shape->columns, 1, &norm, error);
  int64_t width = shape->columns * (shape->transform == BPDQ_TRANSFORM_SILU_GATE ? 2 : 1);
  bpdq_tensor_desc tensors[2] = {{BPDQ_TENSOR_F32, b->tokens, width, 0, 0}, {BPDQ_TENSOR_F32, b->tokens, shape->rows, 0, 0}};
  if (status == BPDQ_OK) {
    for (int i = 0; i < b->copies; i++) {
      b->ops[i] = (bpdq_op){.kind = BPDQ_OP_LINEAR, .name = shape->name};
      b->ops[i].linear = (bpdq_op_linear){0, 1, {shape->transform, norm, 1e-6f}, b->weights[i], NULL, 0, shape->accumulate, BPDQ_ROWS_ALL};
    }
    timing->bytes = b->backend->weight_bytes(b->weights[0]);
    status = compile_and_time(b, tensors, 2, 0, &timing->seconds, error);
  }
  free_copies(b);
  b->backend->weight_destroy(b->backend, norm);
  snprintf(timing->name, sizeof timing->name, "%s", shape->name);
  timing->rows = shape->rows;
  timing->columns = shape->columns;
  timing->planes = shape->planes ? planes : 0;
  timing->group = shape->planes ? group : 0;
  return status;
}

/* Rotary embedding with the cache write, and attention, at a depth of `depth` cached tokens. */
static bpdq_status bench_attention(bench *b, const bpdq_config *c, int64_t depth, bool rope, bpdq_op_timing *timing, bpdq_error *error) {
  int64_t context = depth + b->tokens, q_width = c->heads * c->head_dim, kv_width = c->kv_heads * c->head_dim;
  bpdq_tensor_desc tensors[5] = {{BPDQ_TENSOR_F32, b->tokens, q_width + 2 * kv_width, 0, 0},
                                 {BPDQ_TENSOR_F32, b->tokens, q_width, 0, 0},
                                 {BPDQ_TENSOR_F32, context, c->head_dim, 0, 0},
                                 {BPDQ_TENSOR_KV, context, kv_width, BPDQ_KV_F16, c->head_dim},
                                 {BPDQ_TENSOR_KV, context, kv_width, BPDQ_KV_F16, c->head_dim}};
  b->copies = 16;
  for (int i = 0; i < b->copies; i++) {
    b->ops[i] = (bpdq_op){.kind = rope ? BPDQ_OP_ROPE_CACHE : BPDQ_OP_ATTENTION, .name = rope ? "rope" : "attention"};
    if (rope)
      b->ops[i].rope_cache = (bpdq_op_rope_cache){0, 2, 3, 4, c->heads, c->kv_heads, c->head_dim, context, NULL, NULL, 0};
    else
      b->ops[i].attention = (bpdq_op_attention){0, 1, 3, 4, c->heads, c->kv_heads, c->head_dim, context, 0.1f};
  }
  snprintf(timing->name, sizeof timing->name, "%s", rope ? "rope" : "attention");
  timing->rows = rope ? b->tokens : context;
  timing->columns = kv_width;
  timing->bytes = (uint64_t)(rope ? b->tokens : context) * (uint64_t)kv_width * 2 * 2;
  return compile_and_time(b, tensors, 5, (int32_t)depth, &timing->seconds, error);
}

static bpdq_status bench_top_k(bench *b, const bpdq_config *c, int k, bpdq_op_timing *timing, bpdq_error *error) {
  bpdq_tensor_desc tensors[3] = {
      {BPDQ_TENSOR_F32, 1, c->vocab_size, 0, 0}, {BPDQ_TENSOR_F32, 1, k + 1, 0, 0}, {BPDQ_TENSOR_I32, 1, k, 0, 0}};
  b->copies = 16;
  for (int i = 0; i < b->copies; i++)
    b->ops[i] = (bpdq_op){.kind = BPDQ_OP_TOP_K, .name = "top_k", .top_k = {0, 1, 2, c->vocab_size, k, BPDQ_ROWS_LAST}};
  snprintf(timing->name, sizeof timing->name, "top_k %d", k);
  timing->rows = 1;
  timing->columns = c->vocab_size;
  timing->bytes = (uint64_t)c->vocab_size * 4;
  return compile_and_time(b, tensors, 3, 0, &timing->seconds, error);
}

static bpdq_status bench_all(bench *b, const bpdq_config *c, int planes, int group, int64_t depth, bpdq_op_timing_callback callback,
                             void *user, bpdq_error *error) {
  int64_t q_width = c->heads * c->head_dim, qkv_width = q_width + 2 * c->kv_heads * c->head_dim;
  const linear_shape linears[] = {{"qkv", qkv_width, c->hidden_size, true, BPDQ_TRANSFORM_RMS_NORM, false},
                                  {"output", c->hidden_size, q_width, true, BPDQ_TRANSFORM_NONE, true},
                                  {"gate_up", 2 * c->intermediate_size, c->hidden_size, true, BPDQ_TRANSFORM_RMS_NORM, false},
                                  {"down", c->hidden_size, c->intermediate_size, true, BPDQ_TRANSFORM_SILU_GATE, true},
                                  {"head", c->vocab_size, c->hidden_size, false, BPDQ_TRANSFORM_RMS_NORM, false}};
  for (int i = 0; i < 9; i++) {
    bpdq_op_timing timing = {.tokens = i < 7 ? b->tokens : 1};
    if (i < 5)
      BPDQ_TRY(bench_linear(b, &linears[i], planes, group, &timing, error));
    else if (i < 7)
      BPDQ_TRY(bench_attention(b, c, depth, i == 5, &timing, error));
    else
      BPDQ_TRY(bench_top_k(b, c, i == 7 ? 1 : BPDQ_MAX_CANDIDATES, &timing, error));
    if (!callback(user, &timing)) return bpdq_fail(error, BPDQ_ERROR_CANCELLED, "interrupted");
  }
  return BPDQ_OK;
}

bpdq_status bpdq_benchmark_ops(const char *shape, int planes, int group, int64_t tokens, int64_t depth, const bpdq_model_options *options,
                               bpdq_op_timing_callback callback, void *user, bpdq_device_info *device, double *bandwidth,
                               bpdq_error *error) {
  bpdq_model_options defaults = bpdq_model_default_options();
  if (!options) options = &defaults;
  bpdq_config config;
  BPDQ_TRY(bpdq_random_config(shape, &config, error));
  BPDQ_TRY(bpdq_random_check(planes, group, error));
  if (tokens < 1 || tokens > 4096) return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "tokens must be 1 to 4096, not %lld", (long long)tokens);
  if (depth < 0 || depth > config.context_length)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "depth must be 0 to %lld, not %lld", (long long)config.context_length, (long long)depth);
  bench b = {.tokens = tokens};
  char choice[256];
  bpdq_backend_options backend_options = {options->device,       options->threads, options->memory_cap,
                                          options->cache_folder, options->vulkan,  {options->log, options->log_user}};
  BPDQ_TRY(bpdq_backend_choose(options->backend, 0, &backend_options, &b.backend, choice, sizeof choice, error));
  b.activations = options->activations ? options->activations : b.backend->default_activations;
  *device = b.backend->info;
  bpdq_status status = b.backend->measure_bandwidth(b.backend, bandwidth, error);
  if (status == BPDQ_OK) status = bench_all(&b, &config, planes, group, depth, callback, user, error);
  b.backend->destroy(b.backend);
  return status;
}
