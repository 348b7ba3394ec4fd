/* Programs: checked once, their kernels loaded, captured once as a CUDA graph, replayed per run. The scalars of a run (tokens, positions,
 * sequences) lie in mapped host memory; the graph's first kernel copies them to where the others read them, with a write that waits for the
 * run (state.c). */
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "internal.h"

#define MAX_TOKENS ((int64_t)1 << 15)
#define HEADER ((int64_t)(sizeof(bpdq_cuda_run_header) / sizeof(int32_t))) /* scalars before the positions */

/* ---- checks ---- */

static bpdq_status refuse(bpdq_error *error, const bpdq_op *op, const char *why) {
  return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "cuda: operation %s: %s", op->name ? op->name : "?", why);
}

static const cuda_tensor *tensor_of(const bpdq_state *state, bpdq_tensor tensor, bpdq_tensor_kind kind) {
  if (tensor < 0 || (size_t)tensor >= state->count || state->tensors[tensor].desc.kind != kind) return NULL;
  return &state->tensors[tensor];
}

static bool has_shape(const cuda_tensor *tensor, int64_t rows, int64_t columns) {
  return tensor && tensor->desc.rows >= rows && tensor->desc.columns == columns;
}

static bool transform_fits(const bpdq_state *state, const bpdq_transform *transform, bpdq_tensor input, int64_t rows, int64_t width) {
  const cuda_tensor *x = tensor_of(state, input, BPDQ_TENSOR_F32);
  if (!has_shape(x, rows, transform->kind == BPDQ_TRANSFORM_SILU_GATE ? 2 * width : width)) return false;
  if (transform->kind != BPDQ_TRANSFORM_RMS_NORM) return true;
  return transform->norm && transform->norm->kind == BPDQ_WEIGHT_VECTOR && transform->norm->rows == width;
}

static bpdq_status check_linear(const bpdq_state *state, const bpdq_op *op, int64_t max_tokens, bpdq_error *error) {
  const bpdq_op_linear *l = &op->linear;
  if (!l->weight || l->weight->kind == BPDQ_WEIGHT_VECTOR) return refuse(error, op, "the weight is no matrix");
  if (!transform_fits(state, &l->transform, l->input, max_tokens, l->weight->columns)) return refuse(error, op, "the input does not fit");
  if (l->bias && (l->bias->kind != BPDQ_WEIGHT_VECTOR || l->bias->rows != l->weight->rows))
    return refuse(error, op, "the bias does not fit");
  const cuda_tensor *y = tensor_of(state, l->output, BPDQ_TENSOR_F32);
  int64_t rows = l->rows == BPDQ_ROWS_LAST ? 1 : max_tokens;
  bool fits = y && y->desc.rows >= rows && l->offset >= 0 && l->offset <= y->desc.columns - l->weight->rows && l->input != l->output;
  return fits ? BPDQ_OK : refuse(error, op, "the output does not fit");
}

static bpdq_status check_heads(const bpdq_state *state, const bpdq_op *op, bpdq_tensor qkv, bpdq_tensor keys, bpdq_tensor values,
                               int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t context, int64_t max_tokens, bpdq_error *error) {
  if (heads < 1 || kv_heads < 1 || heads > 4096 || heads % kv_heads || head_dim < 2 || head_dim % 2 || head_dim > 256)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "cuda: operation %s: %lld heads over %lld of %lld (even, at most 256)", op->name,
                     (long long)heads, (long long)kv_heads, (long long)head_dim);
  if (!has_shape(tensor_of(state, qkv, BPDQ_TENSOR_F32), max_tokens, (heads + 2 * kv_heads) * head_dim))
    return refuse(error, op, "q, k and v do not fit");
  const cuda_tensor *k = tensor_of(state, keys, BPDQ_TENSOR_KV), *v = tensor_of(state, values, BPDQ_TENSOR_KV);
  return bpdq_check_caches(op->name, k ? &k->desc : NULL, v ? &v->desc : NULL, kv_heads, head_dim, context, error);
}

static bool is_norm(const bpdq_weight *weight, int64_t width) {
  return !weight || (weight->kind == BPDQ_WEIGHT_VECTOR && weight->rows == width);
}

static bpdq_status check_op(const bpdq_state *state, const bpdq_op *op, int64_t max_tokens, bpdq_error *error) {
  switch (op->kind) {
    case BPDQ_OP_TRANSFORM: {
      const bpdq_op_transform *t = &op->transform;
      bool fits = transform_fits(state, &t->transform, t->input, max_tokens, t->width) &&
                  has_shape(tensor_of(state, t->output, BPDQ_TENSOR_F32), max_tokens, t->width) && t->input != t->output;
      return fits ? BPDQ_OK : refuse(error, op, "the tensors do not fit");
    }
    case BPDQ_OP_LINEAR:
      return check_linear(state, op, max_tokens, error);
    case BPDQ_OP_ROPE_CACHE: {
      const bpdq_op_rope_cache *r = &op->rope_cache;
      BPDQ_TRY(check_heads(state, op, r->qkv, r->k_cache, r->v_cache, r->heads, r->kv_heads, r->head_dim, r->context, max_tokens, error));
      bool fits = has_shape(tensor_of(state, r->rope_table, BPDQ_TENSOR_F32), r->context, r->head_dim) && is_norm(r->q_norm, r->head_dim) &&
                  is_norm(r->k_norm, r->head_dim);
      return fits ? BPDQ_OK : refuse(error, op, "the table or the norms do not fit");
    }
    case BPDQ_OP_ATTENTION: {
      const bpdq_op_attention *a = &op->attention;
      BPDQ_TRY(check_heads(state, op, a->qkv, a->k_cache, a->v_cache, a->heads, a->kv_heads, a->head_dim, a->context, max_tokens, error));
      bool fits = has_shape(tensor_of(state, a->output, BPDQ_TENSOR_F32), max_tokens, a->heads * a->head_dim) && a->output != a->qkv;
      return fits ? BPDQ_OK : refuse(error, op, "the output does not fit");
    }
    case BPDQ_OP_TOP_K: {
      const bpdq_op_top_k *t = &op->top_k;
      int64_t rows = t->rows == BPDQ_ROWS_LAST ? 1 : max_tokens;
      const cuda_tensor *x = tensor_of(state, t->logits, BPDQ_TENSOR_F32);
      if (t->k < 1 || t->k > 128 || t->vocab < t->k) return refuse(error, op, "k must be 1 to 128 and within the vocabulary");
      bool fits = x && x->desc.rows >= rows && x->desc.columns >= t->vocab &&
                  has_shape(tensor_of(state, t->values, BPDQ_TENSOR_F32), rows, t->k + 1) &&
                  has_shape(tensor_of(state, t->ids, BPDQ_TENSOR_I32), rows, t->k);
      return fits ? BPDQ_OK : refuse(error, op, "the tensors do not fit");
    }
  }
  return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "cuda: operation %s is of unknown kind %d", op->name, (int)op->kind);
}

/* ---- work memory ---- */

static bpdq_cuda_heads heads_of(const bpdq_executable *e, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t context) {
  return (bpdq_cuda_heads){(int)heads, (int)kv_heads, (int)head_dim, context, e->max_tokens, e->run};
}

/* Whether operations i and i + 1 are a rotation and the attention over what it wrote, in a form that one kernel does. */
static bool rope_fuses(const bpdq_executable *e, size_t i) {
  if (i + 1 >= e->op_count || e->ops[i].kind != BPDQ_OP_ROPE_CACHE || e->ops[i + 1].kind != BPDQ_OP_ATTENTION) return false;
  const bpdq_op_rope_cache *r = &e->ops[i].rope_cache;
  const bpdq_op_attention *a = &e->ops[i + 1].attention;
  bpdq_cuda_heads heads = heads_of(e, r->heads, r->kv_heads, r->head_dim, r->context);
  return bpdq_cuda_attention_decodes(&heads) && r->qkv == a->qkv && r->k_cache == a->k_cache && r->v_cache == a->v_cache &&
         r->heads == a->heads && r->kv_heads == a->kv_heads && r->head_dim == a->head_dim && r->context == a->context;
}

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

static void measure_work(bpdq_executable *e, const bpdq_program *program) {
  for (size_t i = 0; i < program->count; i++) {
    const bpdq_op *op = &program->ops[i];
    if (op->kind == BPDQ_OP_LINEAR) {
      e->work.prepared_bytes = larger(e->work.prepared_bytes, cuda_linear_work(&op->linear, e->max_tokens, program->activations));
      e->work.gemm_bytes = larger(e->work.gemm_bytes, cuda_linear_scratch(e, &op->linear));
    }
    if (op->kind == BPDQ_OP_ATTENTION) {
      const bpdq_op_attention *a = &op->attention;
      bpdq_cuda_heads heads = heads_of(e, a->heads, a->kv_heads, a->head_dim, a->context);
      int type = e->state->tensors[a->k_cache].cache.type;
      if (i > 0 && rope_fuses(e, i - 1))
        e->work.sums_bytes = larger(e->work.sums_bytes, bpdq_cuda_attention_decode_scratch(&e->backend->queue, &heads, type));
      else
        e->work.attention_bytes = larger(e->work.attention_bytes, bpdq_cuda_attention_scratch(&e->backend->queue, &heads));
    }
    if (op->kind == BPDQ_OP_TOP_K) {
      int64_t rows = op->top_k.rows == BPDQ_ROWS_LAST ? 1 : e->max_tokens;
      e->work.top_k_bytes = larger(e->work.top_k_bytes, bpdq_cuda_top_k_scratch(op->top_k.vocab, op->top_k.k, rows));
    }
  }
}

/* Caches bound the positions that a run may have. */
static void note_cache(bpdq_executable *e, bpdq_tensor cache, int64_t context) {
  int64_t rows = e->state->tensors[cache].desc.rows;
  if (context < e->context) e->context = context;
  if (rows < e->cache_rows) e->cache_rows = rows;
}

/* What is mostly written before a run: the rows of the first operation's input. */
static size_t bytes_taken(const bpdq_executable *e, const bpdq_program *program) {
  if (!program->count || program->ops[0].kind != BPDQ_OP_LINEAR) return 0;
  uint64_t bytes = (uint64_t)e->max_tokens * (uint64_t)e->state->tensors[program->ops[0].linear.input].desc.columns * sizeof(float);
  return bytes <= CUDA_PENDING_BYTES ? (size_t)bytes : 0;
}

static bpdq_status allocate_work(bpdq_executable *e, const bpdq_program *program, bpdq_error *error) {
  uint64_t scalars = bpdq_round_up((uint64_t)(HEADER + 2 * e->max_tokens) * 4, 256);
  measure_work(e, program);
  e->taken_bytes = bytes_taken(e, program);
  uint64_t prepared = bpdq_round_up(e->work.prepared_bytes, 256), gemm = bpdq_round_up(e->work.gemm_bytes, 256);
  uint64_t attention = bpdq_round_up(e->work.attention_bytes, 256), sums = bpdq_round_up(e->work.sums_bytes, 256);
  uint64_t total = scalars + prepared + gemm + attention + sums + e->work.top_k_bytes;
  BPDQ_TRY(cuda_allocate(e->backend, total, "work memory", &e->memory, &e->charged, error));
  BPDQ_TRY(cuda_check(cudaMemsetAsync(e->memory, 0, total, e->state->stream), error, "clearing work memory"));
  BPDQ_TRY(cuda_check(cudaHostAlloc((void **)&e->host_run, scalars, cudaHostAllocMapped), error, "allocating mapped host memory"));
  char *at = e->memory;
  e->run = (bpdq_cuda_run){(int32_t *)at, (int32_t *)at + HEADER, (int32_t *)at + HEADER + e->max_tokens};
  e->work.prepared = at + scalars;
  e->work.gemm = e->work.prepared + prepared;
  e->work.attention = e->work.gemm + gemm;
  e->work.sums = e->work.attention + attention;
  e->work.top_k = e->work.sums + sums;
  return BPDQ_OK;
}

/* ---- capture ---- */

/* Results of sampling also go to mapped host memory, unless the tensor is large. Before the capture, which forbids allocations. */
static void mirror_results(bpdq_executable *e, const bpdq_op_top_k *t) {
  const bpdq_tensor results[2] = {t->values, t->ids};
  for (int i = 0; i < 2; i++) {
    bpdq_error ignored;
    bool small = e->state->tensors[results[i]].bytes <= 1u << 16;
    if (small && cuda_tensor_mirror(e->state, results[i], &ignored) == BPDQ_OK) e->mirrored[e->mirrored_count++] = results[i];
  }
}

static cudaError_t launch_top_k(const bpdq_cuda_queue *queue, bpdq_executable *e, const bpdq_op_top_k *t) {
  const cuda_tensor *logits = &e->state->tensors[t->logits];
  bool last = t->rows == BPDQ_ROWS_LAST;
  bpdq_cuda_top_k top = {.logits = logits->data,
                         .vocab = t->vocab,
                         .stride = logits->desc.columns,
                         .k = t->k,
                         .values = e->state->tensors[t->values].data,
                         .ids = e->state->tensors[t->ids].data,
                         .last = last,
                         .max_rows = last ? 1 : e->max_tokens,
                         .run = e->run};
  top.host_values = e->state->tensors[t->values].mirror;
  top.host_ids = e->state->tensors[t->ids].mirror;
  return bpdq_cuda_top_k_launch(queue, &top, e->work.top_k);
}

static bpdq_cuda_cache cache_of(const bpdq_state *state, bpdq_tensor keys, bpdq_tensor values) {
  bpdq_cuda_cache cache = state->tensors[keys].cache;
  cache.values = state->tensors[values].cache.values;
  cache.value_scales = state->tensors[values].cache.value_scales;
  return cache;
}

static bpdq_cuda_rope rope_of(const bpdq_state *state, const bpdq_op_rope_cache *r) {
  return (bpdq_cuda_rope){.qkv = state->tensors[r->qkv].data,
                          .table = state->tensors[r->rope_table].data,
                          .q_norm = r->q_norm ? r->q_norm->memory : NULL,
                          .k_norm = r->k_norm ? r->k_norm->memory : NULL,
                          .epsilon = r->norm_epsilon};
}

static cudaError_t launch_op(const bpdq_cuda_queue *queue, bpdq_executable *e, const bpdq_op *op) {
  const bpdq_state *state = e->state;
  switch (op->kind) {
    case BPDQ_OP_TRANSFORM: {
      bpdq_cuda_prepare prepare = cuda_prepare_of(e, op->transform.input, &op->transform.transform, op->transform.width, false);
      return bpdq_cuda_prepare_f32(queue, &prepare, state->tensors[op->transform.output].data, op->transform.width);
    }
    case BPDQ_OP_LINEAR:
      return cuda_linear_launch(queue, e, &op->linear, NULL);
    case BPDQ_OP_ROPE_CACHE: {
      const bpdq_op_rope_cache *r = &op->rope_cache;
      bpdq_cuda_heads heads = heads_of(e, r->heads, r->kv_heads, r->head_dim, r->context);
      bpdq_cuda_cache cache = cache_of(state, r->k_cache, r->v_cache);
      bpdq_cuda_rope rope = rope_of(state, r);
      return bpdq_cuda_rope_cache(queue, &heads, &rope, &cache);
    }
    case BPDQ_OP_ATTENTION: {
      const bpdq_op_attention *a = &op->attention;
      bpdq_cuda_heads heads = heads_of(e, a->heads, a->kv_heads, a->head_dim, a->context);
      bpdq_cuda_cache cache = cache_of(state, a->k_cache, a->v_cache);
      return bpdq_cuda_attention(queue, &heads, state->tensors[a->qkv].data, a->scale, &cache, e->work.attention,
                                 state->tensors[a->output].data);
    }
    case BPDQ_OP_TOP_K:
      return launch_top_k(queue, e, &op->top_k);
  }
  return cudaErrorInvalidValue;
}

/* Launches operations i (the rotation) and i + 1 (attention) as one kernel; *next is the operation behind what was launched. Where that
 * is a product that can merge the sums, it is launched too. */
static cudaError_t launch_decode(const bpdq_cuda_queue *queue, bpdq_executable *e, size_t i, size_t *next) {
  const bpdq_op_attention *a = &e->ops[i + 1].attention;
  bpdq_cuda_heads heads = heads_of(e, a->heads, a->kv_heads, a->head_dim, a->context);
  bpdq_cuda_cache cache = cache_of(e->state, a->k_cache, a->v_cache);
  bpdq_cuda_rope rope = rope_of(e->state, &e->ops[i].rope_cache);
  cudaError_t result = bpdq_cuda_attention_decode(queue, &heads, &rope, a->scale, &cache, e->work.sums);
  bpdq_cuda_attention_sums sums = bpdq_cuda_attention_sums_of(queue, &heads, cache.type, e->work.sums);
  *next = i + 2;
  if (result != cudaSuccess) return result;
  const bpdq_op *behind = *next < e->op_count ? &e->ops[*next] : NULL;
  if (!behind || behind->kind != BPDQ_OP_LINEAR || behind->linear.input != a->output || !cuda_linear_merges(e, &behind->linear, &sums))
    return bpdq_cuda_attention_merge(queue, &sums, e->max_tokens, e->state->tensors[a->output].data);
  (*next)++;
  return cuda_linear_launch(queue, e, &behind->linear, &sums);
}

/* Puts the whole program on the queue. On failure `failed` is the operation that could not be launched. */
static cudaError_t enqueue(bpdq_executable *e, const bpdq_cuda_queue *queue, const char **failed) {
  *failed = "the scalars of a run";
  cudaError_t result =
      bpdq_cuda_start_run(queue, e->host_run, e->memory, HEADER + 2 * e->max_tokens, e->state->pinned, (int64_t)e->taken_bytes);
  for (size_t i = 0, next; i < e->op_count && result == cudaSuccess; i = next) {
    *failed = e->ops[i].name;
    next = i + 1;
    result = rope_fuses(e, i) ? launch_decode(queue, e, i, &next) : launch_op(queue, e, &e->ops[i]);
  }
  return result;
}

static bpdq_cuda_queue queue_of(bpdq_executable *e, bool dependent_launch, bool load_only, bpdq_cuda_failure *failure) {
  bpdq_cuda_queue queue = e->backend->queue;
  queue.stream = e->state->stream;
  queue.dependent_launch = dependent_launch;
  queue.load_only = load_only;
  queue.one_row = e->max_tokens == 1;
  queue.failure = failure;
  return queue;
}

/* The mode is relaxed: a driver that loads code lazily may have to allocate while it captures, and nothing here depends on that. */
static cudaError_t capture(bpdq_executable *e, bool dependent_launch, bpdq_cuda_failure *failure, const char **failed) {
  cudaStream_t stream = e->state->stream;
  bpdq_cuda_queue queue = queue_of(e, dependent_launch, false, failure);
  *failed = "capture";
  cudaError_t result = cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed);
  if (result != cudaSuccess) return result;
  result = enqueue(e, &queue, failed);
  cudaGraph_t graph = NULL;
  cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  if (result == cudaSuccess && ended != cudaSuccess) {
    *failed = "the end of the capture";
    result = ended;
  }
  if (result == cudaSuccess) {
    *failed = "graph instantiation";
    result = cudaGraphInstantiate(&e->graph, graph, 0);
  }
  if (graph) cudaGraphDestroy(graph);
  return result;
}

static bpdq_status launch_error(bpdq_error *error, cudaError_t result, const bpdq_cuda_failure *failure, const char *failed) {
  cudaGetLastError();
  return bpdq_fail(error, BPDQ_ERROR_DEVICE, "cuda: operation %s, kernel %s: %s: %s", failed ? failed : "?",
                   failure->kernel ? failure->kernel : "?", failure->call ? failure->call : "capture", cudaGetErrorString(result));
}

/* Makes the graph, with dependent launch if that works, else without; a driver that captures neither way leaves none. */
static void make_graph(bpdq_executable *e) {
  for (int dependent = e->backend->queue.dependent_launch; dependent >= 0; dependent--) {
    bpdq_cuda_failure failure = {0};
    const char *failed;
    cudaError_t result = capture(e, dependent, &failure, &failed);
    if (result == cudaSuccess) return;
    cudaGetLastError();
    bpdq_log_warning(&e->backend->log, "cuda: %s cannot be captured%s (kernel %s, %s: %s)", failed ? failed : "?",
                     dependent ? " with programmatic dependent launch" : "; running without a graph", failure.kernel ? failure.kernel : "?",
                     failure.call ? failure.call : "capture", cudaGetErrorString(result));
  }
}

static bpdq_status build(bpdq_executable *e, const bpdq_program *program, bpdq_error *error) {
  for (size_t i = 0; i < program->count; i++) {
    const bpdq_op *op = &program->ops[i];
    BPDQ_TRY(check_op(e->state, op, e->max_tokens, error));
    if (op->kind == BPDQ_OP_ROPE_CACHE) note_cache(e, op->rope_cache.k_cache, op->rope_cache.context);
    if (op->kind == BPDQ_OP_ATTENTION) note_cache(e, op->attention.k_cache, op->attention.context);
    if (op->kind == BPDQ_OP_TOP_K) mirror_results(e, &op->top_k);
  }
  BPDQ_TRY(allocate_work(e, program, error));
  bpdq_cuda_failure failure = {0};
  const char *failed;
  bpdq_cuda_queue load = queue_of(e, false, true, &failure);
  cudaError_t result = enqueue(e, &load, &failed);
  if (result != cudaSuccess) return launch_error(error, result, &failure, failed);
  make_graph(e);
  if (e->graph) BPDQ_TRY(cuda_check(cudaGraphUpload(e->graph, e->state->stream), error, "uploading a graph"));
  return cuda_check(cudaStreamSynchronize(e->state->stream), error, "uploading a graph");
}

bpdq_status cuda_compile(bpdq_backend *base, bpdq_state *state, const bpdq_program *program, bpdq_executable **executable,
                         bpdq_error *error) {
  cuda_backend *backend = (cuda_backend *)base;
  *executable = NULL;
  if (program->max_tokens < 1 || program->max_tokens > MAX_TOKENS)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "cuda: a program for %lld tokens; at most %lld", (long long)program->max_tokens,
                     (long long)MAX_TOKENS);
  BPDQ_TRY(cuda_check(cudaSetDevice(backend->device), error, "selecting the device"));
  bpdq_executable *e = calloc(1, sizeof *e);
  if (e) e->mirrored = bpdq_alloc_array(2 * program->count + 1, sizeof *e->mirrored);
  if (e) e->ops = bpdq_alloc_array(program->count + 1, sizeof *e->ops);
  if (!e || !e->mirrored || !e->ops) {
    if (e) {
      free(e->mirrored);
      free(e->ops);
    }
    free(e);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "cuda: out of host memory for a program");
  }
  e->backend = backend;
  e->state = state;
  e->max_tokens = program->max_tokens;
  e->context = e->cache_rows = INT64_MAX;
  memcpy(e->ops, program->ops, program->count * sizeof *e->ops);
  e->op_count = program->count;
  e->activations = program->activations;
  bpdq_status status = build(e, program, error);
  if (status != BPDQ_OK) {
    cuda_executable_destroy(base, e);
    return status;
  }
  *executable = e;
  return BPDQ_OK;
}

void cuda_executable_destroy(bpdq_backend *base, bpdq_executable *executable) {
  if (!executable) return;
  cuda_backend *backend = (cuda_backend *)base;
  cudaSetDevice(backend->device);
  cudaStreamSynchronize(executable->state->stream);
  if (executable->graph) cudaGraphExecDestroy(executable->graph);
  cuda_release(backend, executable->memory, executable->charged);
  if (executable->host_run) cudaFreeHost(executable->host_run);
  free(executable->mirrored);
  free(executable->ops);
  free(executable);
}

/* ---- running ---- */

static bpdq_status check_run(const bpdq_executable *e, const bpdq_run *run, bpdq_error *error) {
  bool attends = e->context != INT64_MAX;
  int64_t context = attends ? e->context : 0, sequences = attends ? e->cache_rows / context : 0;
  BPDQ_TRY(bpdq_check_run(run, e->max_tokens, context, sequences, error));
  for (int64_t i = 1; attends && i < run->tokens; i++) {
    int64_t position = run->positions[i], sequence = run->sequences[i];
    if (sequence == run->sequences[i - 1] && position != (int64_t)run->positions[i - 1] + 1)
      return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "cuda: position %lld of sequence %lld does not follow %d", (long long)position,
                       (long long)sequence, (int)run->positions[i - 1]);
  }
  return BPDQ_OK;
}

static bpdq_status start(bpdq_executable *e, bpdq_error *error) {
  if (e->graph) return cuda_check(cudaGraphLaunch(e->graph, e->state->stream), error, "launching a graph");
  bpdq_cuda_failure failure = {0};
  const char *failed;
  bpdq_cuda_queue queue = queue_of(e, false, false, &failure);
  cudaError_t result = enqueue(e, &queue, &failed);
  return result == cudaSuccess ? BPDQ_OK : launch_error(error, result, &failure, failed);
}

bpdq_status cuda_run(bpdq_executable *executable, const bpdq_run *run, bpdq_error *error) {
  bpdq_state *state = executable->state;
  BPDQ_TRY(check_run(executable, run, error));
  BPDQ_TRY(cuda_check(cudaSetDevice(executable->backend->device), error, "selecting the device"));
  if (state->pending.bytes > executable->taken_bytes) BPDQ_TRY(cuda_flush_pending(state, error));
  bpdq_cuda_run_header header = {(int32_t)run->tokens, (int32_t)state->pending.bytes, state->pending.target};
  state->pending = (struct pending_write){0};
  int32_t *scalars = executable->host_run;
  memcpy(scalars, &header, sizeof header);
  if (run->positions) memcpy(scalars + HEADER, run->positions, (size_t)run->tokens * sizeof *scalars);
  if (run->sequences) memcpy(scalars + HEADER + executable->max_tokens, run->sequences, (size_t)run->tokens * sizeof *scalars);
  BPDQ_TRY(start(executable, error));
  cudaError_t result = cudaStreamSynchronize(state->stream);
  state->pinned_used = 0;
  for (size_t i = 0; i < state->count; i++) state->tensors[i].mirror_is_current = false;
  for (size_t i = 0; i < executable->mirrored_count; i++) state->tensors[executable->mirrored[i]].mirror_is_current = true;
  return cuda_check(result, error, "running a program");
}
