/* Checks programs before they run: every tensor, weight and shape that an operation uses, so that running needs no checks beyond the
 * run's own scalars. */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "core/checked.h"

enum { MAXIMUM_TOKENS = 1 << 20, MAXIMUM_TOP_K = 128, MAXIMUM_HEADS = 1 << 16 };

typedef struct checker {
  const bpdq_state *state;
  const bpdq_program *program;
  bpdq_executable *executable;
  const char *name; /* of the operation at hand */
  bpdq_error *error;
} checker;

static bpdq_status refuse(const checker *c, const char *why) {
  return bpdq_fail(c->error, BPDQ_ERROR_UNSUPPORTED, "operation %s: %s", c->name, why);
}

static const bpdq_tensor_desc *tensor_of(const checker *c, bpdq_tensor tensor, bpdq_tensor_kind kind) {
  if (tensor < 0 || (size_t)tensor >= c->state->count || c->state->tensors[tensor].desc.kind != kind) return NULL;
  return &c->state->tensors[tensor].desc;
}

/* A tensor of the kind that holds `rows` rows of at least `columns` values. */
static bool holds(const checker *c, bpdq_tensor tensor, bpdq_tensor_kind kind, int64_t rows, int64_t columns) {
  const bpdq_tensor_desc *desc = tensor_of(c, tensor, kind);
  return desc && columns > 0 && desc->rows >= rows && desc->columns >= columns;
}

static bool is_vector(const bpdq_weight *weight, int64_t count) {
  return weight && weight->kind == BPDQ_WEIGHT_VECTOR && weight->rows == count;
}

static bpdq_status check_transform(const checker *c, const bpdq_transform *transform, bpdq_tensor input, int64_t width) {
  int64_t columns = transform->kind == BPDQ_TRANSFORM_SILU_GATE ? 2 * width : width;
  if (transform->kind < BPDQ_TRANSFORM_NONE || transform->kind > BPDQ_TRANSFORM_SILU_GATE) return refuse(c, "unknown transform");
  if (!holds(c, input, BPDQ_TENSOR_F32, c->program->max_tokens, columns)) return refuse(c, "its input tensor is too small");
  if (transform->kind == BPDQ_TRANSFORM_RMS_NORM && !is_vector(transform->norm, width)) return refuse(c, "its norm has another width");
  return BPDQ_OK;
}

static bpdq_status check_linear(const checker *c, const bpdq_op_linear *op) {
  const bpdq_weight *weight = op->weight;
  int64_t rows = op->rows == BPDQ_ROWS_LAST ? 1 : c->program->max_tokens;
  if (!weight || weight->kind == BPDQ_WEIGHT_VECTOR) return refuse(c, "it needs a matrix");
  BPDQ_TRY(check_transform(c, &op->transform, op->input, weight->columns));
  if (op->bias && !is_vector(op->bias, weight->rows)) return refuse(c, "its bias has another width");
  if (op->offset < 0 || op->offset > INT32_MAX || !holds(c, op->output, BPDQ_TENSOR_F32, rows, op->offset + weight->rows))
    return refuse(c, "its output tensor is too small");
  if (op->input == op->output) return refuse(c, "it cannot write into its input");
  return BPDQ_OK;
}

static bool sane_heads(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  return kv_heads >= 1 && heads >= kv_heads && heads <= MAXIMUM_HEADS && heads % kv_heads == 0 && head_dim >= 2 && head_dim % 2 == 0 &&
         head_dim <= 1024;
}

/* Also remembers the limits that a run must respect. */
static bpdq_status check_caches(const checker *c, bpdq_tensor k, bpdq_tensor v, int64_t kv_heads, int64_t head_dim, int64_t context) {
  const bpdq_tensor_desc *keys = tensor_of(c, k, BPDQ_TENSOR_KV), *values = tensor_of(c, v, BPDQ_TENSOR_KV);
  BPDQ_TRY(bpdq_check_caches(c->name, keys, values, kv_heads, head_dim, context, c->error));
  int64_t sequences = keys->rows / context;
  bpdq_executable *e = c->executable;
  if (!e->context || context < e->context) e->context = context;
  if (!e->sequences || sequences < e->sequences) e->sequences = sequences;
  return BPDQ_OK;
}

static bpdq_status check_rope_cache(const checker *c, const bpdq_op_rope_cache *op) {
  if (!sane_heads(op->heads, op->kv_heads, op->head_dim)) return refuse(c, "impossible head counts");
  if (!holds(c, op->qkv, BPDQ_TENSOR_F32, c->program->max_tokens, (op->heads + 2 * op->kv_heads) * op->head_dim))
    return refuse(c, "its input tensor is too small");
  if (!holds(c, op->rope_table, BPDQ_TENSOR_F32, op->context, op->head_dim)) return refuse(c, "its rope table is too small");
  if ((op->q_norm && !is_vector(op->q_norm, op->head_dim)) || (op->k_norm && !is_vector(op->k_norm, op->head_dim)))
    return refuse(c, "its head norm has another width");
  return check_caches(c, op->k_cache, op->v_cache, op->kv_heads, op->head_dim, op->context);
}

static bpdq_status check_attention(const checker *c, const bpdq_op_attention *op) {
  if (!sane_heads(op->heads, op->kv_heads, op->head_dim)) return refuse(c, "impossible head counts");
  if (!holds(c, op->qkv, BPDQ_TENSOR_F32, c->program->max_tokens, op->heads * op->head_dim) ||
      !holds(c, op->output, BPDQ_TENSOR_F32, c->program->max_tokens, op->heads * op->head_dim))
    return refuse(c, "its tensors are too small");
  if (op->qkv == op->output) return refuse(c, "it cannot write into its input");
  return check_caches(c, op->k_cache, op->v_cache, op->kv_heads, op->head_dim, op->context);
}

static bpdq_status check_top_k(const checker *c, const bpdq_op_top_k *op) {
  int64_t rows = op->rows == BPDQ_ROWS_LAST ? 1 : c->program->max_tokens;
  if (op->k < 1 || op->k > MAXIMUM_TOP_K || op->vocab < 1 || op->vocab > INT32_MAX) return refuse(c, "k must be 1..128");
  if (!holds(c, op->logits, BPDQ_TENSOR_F32, rows, op->vocab) || !holds(c, op->values, BPDQ_TENSOR_F32, rows, op->k + 1) ||
      !holds(c, op->ids, BPDQ_TENSOR_I32, rows, op->k))
    return refuse(c, "its tensors are too small");
  return BPDQ_OK;
}

static bpdq_status check_op(checker *c, const bpdq_op *op, cpu_needs *needs) {
  c->name = op->name ? op->name : "(unnamed)";
  switch (op->kind) {
    case BPDQ_OP_TRANSFORM:
      BPDQ_TRY(check_transform(c, &op->transform.transform, op->transform.input, op->transform.width));
      if (!holds(c, op->transform.output, BPDQ_TENSOR_F32, c->program->max_tokens, op->transform.width))
        return refuse(c, "its output tensor is too small");
      return BPDQ_OK;
    case BPDQ_OP_LINEAR:
      BPDQ_TRY(check_linear(c, &op->linear));
      cpu_linear_needs(c->executable->backend, &op->linear, c->program->max_tokens, needs);
      return BPDQ_OK;
    case BPDQ_OP_ROPE_CACHE:
      BPDQ_TRY(check_rope_cache(c, &op->rope_cache));
      cpu_rope_cache_needs(&op->rope_cache, needs);
      return BPDQ_OK;
    case BPDQ_OP_ATTENTION:
      BPDQ_TRY(check_attention(c, &op->attention));
      cpu_attention_needs(&op->attention, c->program->max_tokens, needs);
      return BPDQ_OK;
    case BPDQ_OP_TOP_K:
      BPDQ_TRY(check_top_k(c, &op->top_k));
      cpu_top_k_needs(c->executable->backend, &op->top_k, needs);
      return BPDQ_OK;
  }
  return refuse(c, "the CPU backend does not know this kind");
}

/* One allocation: rows | tables of each token | per-thread memory | partial results. */
static bpdq_status make_scratch(cpu_backend *backend, const cpu_needs *needs, bpdq_activations activations, cpu_scratch *scratch,
                                bpdq_error *error) {
  uint64_t groups = needs->table_columns / 32, table_bytes = needs->table_columns / 32 * CPU_TABLE_BYTES;
  uint64_t rows = bpdq_round_up(needs->rows_floats * 4, 64), partials = bpdq_round_up(needs->partial_floats * 4, 64);
  uint64_t table = table_bytes + bpdq_round_up(groups * 16, 64);
  scratch->per_thread_bytes = bpdq_round_up(needs->per_thread_bytes, 64);
  scratch->bytes = rows + partials + table * CPU_TABLE_TOKENS + scratch->per_thread_bytes * (uint64_t)bpdq_pool_threads(backend->pool);
  BPDQ_TRY(cpu_allocate(backend, scratch->bytes, "scratch memory of a program", &scratch->memory, error));
  uint8_t *at = scratch->memory;
  scratch->rows = (float *)(void *)at;
  at += rows;
  scratch->partials = (float *)(void *)at;
  at += partials;
  for (int t = 0; t < CPU_TABLE_TOKENS; t++, at += table) {
    float *numbers = (float *)(void *)(at + table_bytes);
    scratch->tables[t] = (cpu_tables){.digits = activations == BPDQ_ACTIVATIONS_F32  ? 4
                                                : activations == BPDQ_ACTIVATIONS_16 ? 2
                                                                                     : 1,
                                      .bytes = at,
                                      .scale = numbers,
                                      .sum = numbers + groups,
                                      .offset = (int32_t *)(void *)(numbers + 2 * groups)};
  }
  scratch->per_thread = at;
  return BPDQ_OK;
}

bpdq_status cpu_compile(bpdq_backend *base, bpdq_state *state, const bpdq_program *program, bpdq_executable **result, bpdq_error *error) {
  cpu_backend *backend = (cpu_backend *)base;
  *result = NULL;
  if (program->max_tokens < 1 || program->max_tokens > MAXIMUM_TOKENS || (program->count && !program->ops))
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "a program of %lld tokens cannot be compiled", (long long)program->max_tokens);
  if (program->activations != BPDQ_ACTIVATIONS_F32 && program->activations != BPDQ_ACTIVATIONS_16 &&
      program->activations != BPDQ_ACTIVATIONS_8)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "activations %d: f32, 16 or 8 must be chosen before compiling", (int)program->activations);
  bpdq_executable *executable = calloc(1, sizeof *executable);
  if (executable) executable->ops = bpdq_alloc_array(program->count, sizeof *executable->ops);
  if (!executable || !executable->ops) {
    free(executable);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for a program");
  }
  executable->backend = backend;
  executable->state = state;
  executable->count = program->count;
  executable->max_tokens = program->max_tokens;
  executable->activations = program->activations;
  if (program->count) memcpy(executable->ops, program->ops, program->count * sizeof *executable->ops);
  checker c = {state, program, executable, NULL, error};
  cpu_needs needs = {0};
  bpdq_status status = BPDQ_OK;
  for (size_t i = 0; i < program->count && status == BPDQ_OK; i++) status = check_op(&c, &executable->ops[i], &needs);
  if (status == BPDQ_OK) status = make_scratch(backend, &needs, program->activations, &executable->scratch, error);
  if (status != BPDQ_OK) {
    cpu_executable_destroy(base, executable);
    return status;
  }
  *result = executable;
  return BPDQ_OK;
}

void cpu_executable_destroy(bpdq_backend *base, bpdq_executable *executable) {
  if (!executable) return;
  cpu_release((cpu_backend *)base, executable->scratch.memory, executable->scratch.bytes);
  free(executable->ops);
  free(executable);
}
