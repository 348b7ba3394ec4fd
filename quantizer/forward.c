/* Programs of the runtime's typed operations (backend/program.h), a few steps of one block each. */
#include "forward.h"

#include <math.h>
#include <stdlib.h>

#include "backend/registry.h"
#include "core/checked.h"
#include "core/platform.h"
#include "model/rope.h"

enum {
  ROWS = 2048, /* of a run: the CPU's caches hold what its products touch, and a GPU is busy */
  FEWEST_ROWS = 64,
  CONTEXT_STEP = 64 /* a multiple of what backends take of a cache at a time */
};

/* Tensors of the state: the readable activations, then those that only operations use. */
enum { TENSOR_QKV = BPDQ_ACTIVATIONS_READABLE, TENSOR_GATE_UP, TENSOR_ROPE, TENSOR_KEYS, TENSOR_VALUES, TENSORS };

static int64_t heads_width(const bpdq_config *c) { return c->heads * c->head_dim; }
static int64_t qkv_width(const bpdq_config *c) { return (c->heads + 2 * c->kv_heads) * c->head_dim; }

int64_t bpdq_forward_width(const bpdq_forward *forward, bpdq_activation activation) {
  const bpdq_config *c = forward->desc.config;
  switch (activation) {
    case BPDQ_HEADS:
      return heads_width(c);
    case BPDQ_GATED:
      return c->intermediate_size;
    case BPDQ_LOGITS:
      return c->vocab_size;
    default:
      return c->hidden_size;
  }
}

/* ---- the state ---- */

static int64_t head_rows(const bpdq_forward *f) { return f->rows < BPDQ_FORWARD_HEAD_ROWS ? f->rows : BPDQ_FORWARD_HEAD_ROWS; }

static void describe_tensors(const bpdq_forward *f, bpdq_kv_type kv_type, bpdq_tensor_desc *tensors) {
  const bpdq_config *c = f->desc.config;
  for (int i = 0; i < BPDQ_ACTIVATIONS_READABLE; i++)
    tensors[i] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_F32, .rows = f->rows, .columns = bpdq_forward_width(f, (bpdq_activation)i)};
  tensors[BPDQ_LOGITS].rows = head_rows(f);
  if (!f->desc.head) tensors[BPDQ_LOGITS].rows = tensors[BPDQ_LOGITS].columns = 1;
  tensors[TENSOR_QKV] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_F32, .rows = f->rows, .columns = qkv_width(c)};
  tensors[TENSOR_GATE_UP] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_F32, .rows = f->rows, .columns = 2 * c->intermediate_size};
  tensors[TENSOR_ROPE] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_F32, .rows = f->context, .columns = c->head_dim};
  tensors[TENSOR_KEYS] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_KV,
                                            .rows = BPDQ_FORWARD_STREAMS * f->windows * f->context,
                                            .columns = c->kv_heads * c->head_dim,
                                            .kv_type = kv_type,
                                            .head_dim = c->head_dim};
  tensors[TENSOR_VALUES] = tensors[TENSOR_KEYS];
}

static bpdq_status write_rope(bpdq_forward *f, bpdq_error *error) {
  const bpdq_config *c = f->desc.config;
  size_t count;
  float *table = NULL;
  if (!__builtin_mul_overflow((size_t)f->context, (size_t)c->head_dim, &count)) table = bpdq_alloc_array(count, sizeof *table);
  if (!table) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory for %lld positions", (long long)f->desc.length);
  bpdq_rope_table(&c->rope, c->head_dim, c->context_length, f->context, table);
  bpdq_status status = f->backend->tensor_write(f->state, TENSOR_ROPE, 0, (int64_t)count, table, error);
  free(table);
  return status;
}

/* Keys of some models are hundreds of times their differences: caches round nothing where the backend can. */
static bpdq_status create_state(bpdq_forward *f, bpdq_error *error) {
  bpdq_tensor_desc tensors[TENSORS];
  describe_tensors(f, BPDQ_KV_F32, tensors);
  bpdq_status status = f->backend->state_create(f->backend, tensors, TENSORS, &f->state, error);
  if (status == BPDQ_ERROR_UNSUPPORTED) {
    describe_tensors(f, BPDQ_KV_F16, tensors);
    status = f->backend->state_create(f->backend, tensors, TENSORS, &f->state, error);
  }
  BPDQ_TRY(status);
  return write_rope(f, error);
}

static void choose_windows(bpdq_forward *f, int64_t rows) {
  f->windows = rows / f->desc.length > 1 ? rows / f->desc.length : 1;
  f->rows = f->windows * f->desc.length < rows ? f->windows * f->desc.length : rows;
}

static bool allocate_host(bpdq_forward *f) {
  const bpdq_config *c = f->desc.config;
  int64_t widest = c->intermediate_size > qkv_width(c) ? c->intermediate_size : qkv_width(c);
  if (widest < c->hidden_size) widest = c->hidden_size;
  f->positions = bpdq_alloc_array((size_t)f->rows, sizeof *f->positions);
  f->sequences = bpdq_alloc_array((size_t)f->rows, sizeof *f->sequences);
  f->zeros = calloc((size_t)widest, sizeof *f->zeros);
  return f->positions && f->sequences && f->zeros;
}

/* Half as many rows, and no state; false where they are few already. */
static bool halve(bpdq_forward *f) {
  if (f->rows <= FEWEST_ROWS) return false;
  choose_windows(f, f->rows / 2);
  f->backend->state_destroy(f->backend, f->state);
  f->state = NULL;
  return true;
}

static bpdq_status fit_state(bpdq_forward *f, bpdq_error *error) {
  bpdq_status status;
  while ((status = create_state(f, error)) == BPDQ_ERROR_MEMORY && halve(f)) continue;
  return status;
}

bpdq_status bpdq_forward_shrink(bpdq_forward *f, bpdq_error *error) { return halve(f) ? fit_state(f, error) : BPDQ_ERROR_MEMORY; }

static bpdq_status start(bpdq_forward *f, bpdq_error *error) {
  const bpdq_forward_desc *desc = &f->desc;
  char *cache = bpdq_cache_folder();
  bpdq_backend_options options = {.device = desc->device, .threads = desc->threads, .memory_cap = desc->memory_cap, .cache_folder = cache};
  if (desc->log) options.log = *desc->log;
  /* The default is the same everywhere, whatever the environment names for running models. */
  if (!desc->backend) options.device = 0;
  bpdq_status status =
      bpdq_backend_choose(desc->backend ? desc->backend : "cpu", 0, &options, &f->backend, f->choice, sizeof f->choice, error);
  free(cache);
  BPDQ_TRY(status);
  f->context = (int64_t)bpdq_round_up((uint64_t)desc->length, CONTEXT_STEP);
  choose_windows(f, desc->most_tokens < ROWS ? desc->most_tokens : ROWS);
  if (!allocate_host(f)) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory for a forward pass");
  return fit_state(f, error);
}

bpdq_status bpdq_forward_create(const bpdq_forward_desc *desc, bpdq_forward *forward, bpdq_error *error) {
  *forward = (bpdq_forward){.desc = *desc};
  bpdq_status status = start(forward, error);
  if (status != BPDQ_OK) bpdq_forward_free(forward);
  return status;
}

void bpdq_forward_free(bpdq_forward *f) {
  if (f->backend) {
    f->backend->state_destroy(f->backend, f->state);
    f->backend->destroy(f->backend);
  }
  free(f->positions);
  free(f->sequences);
  free(f->zeros);
  *f = (bpdq_forward){0};
}

bpdq_status bpdq_forward_write(const bpdq_forward *f, bpdq_activation activation, int64_t rows, const float *values, bpdq_error *error) {
  return f->backend->tensor_write(f->state, (bpdq_tensor)activation, 0, rows * bpdq_forward_width(f, activation), values, error);
}

bpdq_status bpdq_forward_read(const bpdq_forward *f, bpdq_activation activation, int64_t rows, float *values, bpdq_error *error) {
  return f->backend->tensor_read(f->state, (bpdq_tensor)activation, 0, rows * bpdq_forward_width(f, activation), values, error);
}

/* ---- weights of a program ---- */

static bpdq_status add_weight(bpdq_forward_program *p, bpdq_weight_kind kind, const char *name, int64_t columns,
                              const bpdq_weight_part *parts, int count, const bpdq_weight **weight, bpdq_error *error) {
  bpdq_backend *backend = p->forward->backend;
  bpdq_weight_desc desc = {
      .kind = kind, .name = name, .columns = columns, .parts = parts, .part_count = count, .data_outlives_weight = true};
  BPDQ_TRY(backend->weight_create(backend, &desc, &p->weights[p->weight_count], error));
  *weight = p->weights[p->weight_count++];
  return BPDQ_OK;
}

static bpdq_status add_vector(bpdq_forward_program *p, const char *name, const float *values, int64_t count, const bpdq_weight **weight,
                              bpdq_error *error) {
  *weight = NULL;
  if (!values) return BPDQ_OK;
  return add_weight(p, BPDQ_WEIGHT_VECTOR, name, 1, &(bpdq_weight_part){.rows = count, .data = values, .dtype = BPDQ_F32}, 1, weight,
                    error);
}

static bpdq_status norm_transform(bpdq_forward_program *p, const float *norm, bpdq_transform *transform, bpdq_error *error) {
  const bpdq_config *c = p->forward->desc.config;
  *transform = (bpdq_transform){.kind = BPDQ_TRANSFORM_RMS_NORM, .epsilon = (float)c->norm_epsilon};
  return add_vector(p, "a norm", norm, c->hidden_size, &transform->norm, error);
}

enum { MOST_STACKED = 3 };

/* Linears that read the same input, stacked to one product. */
static bpdq_status add_linear(bpdq_forward_program *p, const bpdq_block_linear *linears, int count, bool with_bias, bpdq_op_linear op,
                              bpdq_error *error) {
  bpdq_weight_part matrices[MOST_STACKED] = {0}, biases[MOST_STACKED] = {0};
  bool biased = false;
  for (int i = 0; i < count; i++) {
    const float *bias = linears[i].bias ? linears[i].bias : p->forward->zeros;
    matrices[i] = (bpdq_weight_part){.rows = linears[i].rows, .data = linears[i].weight, .dtype = BPDQ_F32};
    biases[i] = (bpdq_weight_part){.rows = linears[i].rows, .data = bias, .dtype = BPDQ_F32};
    biased = biased || (with_bias && linears[i].bias);
  }
  BPDQ_TRY(add_weight(p, BPDQ_WEIGHT_DENSE, linears->name, linears->columns, matrices, count, &op.weight, error));
  if (biased) BPDQ_TRY(add_weight(p, BPDQ_WEIGHT_VECTOR, linears->name, 1, biases, count, &op.bias, error));
  p->ops[p->op_count++] = (bpdq_op){.kind = BPDQ_OP_LINEAR, .name = linears->name, .linear = op};
  return BPDQ_OK;
}

/* ---- steps ---- */

bpdq_status bpdq_forward_add_norm(bpdq_forward_program *p, const float *norm, bpdq_error *error) {
  bpdq_op_transform op = {.input = BPDQ_HIDDEN, .output = BPDQ_NORMED, .width = p->forward->desc.config->hidden_size};
  BPDQ_TRY(norm_transform(p, norm, &op.transform, error));
  p->ops[p->op_count++] = (bpdq_op){.kind = BPDQ_OP_TRANSFORM, .name = "norm", .transform = op};
  return BPDQ_OK;
}

bpdq_status bpdq_forward_add_attention(bpdq_forward_program *p, const bpdq_block *block, bpdq_error *error) {
  const bpdq_config *c = p->forward->desc.config;
  bpdq_op_linear qkv = {.input = BPDQ_HIDDEN, .output = TENSOR_QKV};
  BPDQ_TRY(norm_transform(p, block->attention_norm, &qkv.transform, error));
  BPDQ_TRY(add_linear(p, &block->linears[BPDQ_Q], 3, true, qkv, error));
  bpdq_op_rope_cache rope = {.qkv = TENSOR_QKV,
                             .rope_table = TENSOR_ROPE,
                             .k_cache = TENSOR_KEYS,
                             .v_cache = TENSOR_VALUES,
                             .heads = c->heads,
                             .kv_heads = c->kv_heads,
                             .head_dim = c->head_dim,
                             .context = p->forward->context,
                             .norm_epsilon = (float)c->norm_epsilon};
  BPDQ_TRY(add_vector(p, "q_norm", block->q_norm, c->head_dim, &rope.q_norm, error));
  BPDQ_TRY(add_vector(p, "k_norm", block->k_norm, c->head_dim, &rope.k_norm, error));
  p->ops[p->op_count++] = (bpdq_op){.kind = BPDQ_OP_ROPE_CACHE, .name = "rope", .rope_cache = rope};
  bpdq_op_attention attention = {.qkv = TENSOR_QKV,
                                 .output = BPDQ_HEADS,
                                 .k_cache = TENSOR_KEYS,
                                 .v_cache = TENSOR_VALUES,
                                 .heads = c->heads,
                                 .kv_heads = c->kv_heads,
                                 .head_dim = c->head_dim,
                                 .context = p->forward->context,
                                 .scale = 1 / sqrtf((float)c->head_dim)};
  p->ops[p->op_count++] = (bpdq_op){.kind = BPDQ_OP_ATTENTION, .name = "attention", .attention = attention};
  return BPDQ_OK;
}

bpdq_status bpdq_forward_add_gate(bpdq_forward_program *p, const bpdq_block *block, bpdq_error *error) {
  bpdq_op_linear gate_up = {.input = BPDQ_HIDDEN, .output = TENSOR_GATE_UP};
  BPDQ_TRY(norm_transform(p, block->mlp_norm, &gate_up.transform, error));
  BPDQ_TRY(add_linear(p, &block->linears[BPDQ_GATE], 2, true, gate_up, error));
  bpdq_op_transform gate = {.input = TENSOR_GATE_UP,
                            .output = BPDQ_GATED,
                            .transform.kind = BPDQ_TRANSFORM_SILU_GATE,
                            .width = p->forward->desc.config->intermediate_size};
  p->ops[p->op_count++] = (bpdq_op){.kind = BPDQ_OP_TRANSFORM, .name = "gate", .transform = gate};
  return BPDQ_OK;
}

bpdq_status bpdq_forward_add_residual(bpdq_forward_program *p, const bpdq_block_linear *linear, bpdq_activation input, bpdq_error *error) {
  bpdq_op_linear op = {.input = (bpdq_tensor)input, .output = BPDQ_HIDDEN, .accumulate = true};
  return add_linear(p, linear, 1, true, op, error);
}

bpdq_status bpdq_forward_add_product(bpdq_forward_program *p, const bpdq_block_linear *linear, bpdq_activation input, bpdq_error *error) {
  return add_linear(p, linear, 1, false, (bpdq_op_linear){.input = (bpdq_tensor)input, .output = BPDQ_OUTPUT}, error);
}

bpdq_status bpdq_forward_add_head(bpdq_forward_program *p, const float *norm, const bpdq_block_linear *head, bpdq_error *error) {
  bpdq_op_linear op = {.input = BPDQ_HIDDEN, .output = BPDQ_LOGITS};
  p->rows = head_rows(p->forward);
  BPDQ_TRY(norm_transform(p, norm, &op.transform, error));
  return add_linear(p, head, 1, true, op, error);
}

bpdq_status bpdq_forward_compile(bpdq_forward_program *p, bpdq_error *error) {
  bpdq_forward *f = p->forward;
  bpdq_program program = {p->ops, (size_t)p->op_count, p->rows, BPDQ_ACTIVATIONS_F32};
  BPDQ_TRY(f->backend->weights_flush(f->backend, error));
  return f->backend->compile(f->backend, f->state, &program, &p->executable, error);
}

void bpdq_forward_program_free(bpdq_forward_program *p) {
  if (!p->forward) return;
  bpdq_backend *backend = p->forward->backend;
  backend->executable_destroy(backend, p->executable);
  for (int i = 0; i < p->weight_count; i++) backend->weight_destroy(backend, p->weights[i]);
  *p = (bpdq_forward_program){0};
}

int64_t bpdq_forward_batch(const bpdq_forward *f, int64_t first, int64_t tokens) {
  int64_t whole = f->windows * f->desc.length, left = whole - first % whole;
  if (left > tokens - first) left = tokens - first;
  return left < f->rows ? left : f->rows;
}

bpdq_status bpdq_forward_run(const bpdq_forward_program *p, int stream, int64_t first, int64_t rows, bpdq_error *error) {
  bpdq_forward *f = p->forward;
  for (int64_t i = 0; i < rows; i++) {
    f->positions[i] = (int32_t)((first + i) % f->desc.length);
    f->sequences[i] = (int32_t)((first + i) / f->desc.length % f->windows + stream * f->windows);
  }
  return f->backend->run(p->executable, &(bpdq_run){rows, f->positions, f->sequences}, error);
}
