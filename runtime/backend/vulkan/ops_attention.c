/* Rotary embedding with cache writes, and attention over the caches. */
#include "backend/vulkan/builder.h"
#include "core/checked.h"

#define ROPE_THREADS 64
#define ATTENTION_THREADS 512 /* where the device has them: short contexts are bound by the instructions of a thread */
#define ATTENTION_LEAST_THREADS 128
#define MAX_HEADS 4         /* query heads per work group: more would leave a large device idle in short contexts */
#define SHALLOW_THREADS 256 /* the same two up to VULKAN_DEEP (docs/benchmarks/log.md) */
#define SHALLOW_HEADS 2
#define MATRIX_THREADS 256 /* on cooperative matrices, whose tiles have columns for all heads of most models */
#define MATRIX_HEADS 8
#define MATRIX_POSITIONS 128
#define MATRIX_SHARED_BYTES 48640 /* at most */
#define MATRIX_TURNS 4            /* of all multiprocessors, where one would leave many idle */
#define SPLIT_TOKENS 16           /* up to this many rows the context is split, to fill the device */
#define SPLIT_POSITIONS 64        /* what a work group takes at a time */
#define CPU_SPLIT_POSITIONS 512
#define MAX_SPLITS 64        /* attention.comp merges no more */
#define ATTENTION_BINDINGS 9 /* of attention.comp */
#define MATRIX_BINDINGS 11   /* on cooperative matrices, the only shader with so many */
#define ATTENTION_CONSTANTS 8
#define TILE_THREADS 128
#define TILE_UNITS 16 /* of 8 dimensions, and rows, of attention_tile.comp on cooperative matrices */
#define TILE_MATRIX_ROWS 64
#define TILE_PLAIN_ROWS 32 /* at most, halved down to the next where shared memory is short */
#define TILE_PLAIN_LEAST_ROWS 8
#define TILE_PLAIN_POSITIONS 32
#define TILE_GROUPS 256 /* tiles are smaller where there would be fewer work groups, too few to fill a large device */
#define LOG2_E 1.44269504088896341f

/* The shape that both operations share. */
static bpdq_status check_shape(const vulkan_builder *builder, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t context,
                               bpdq_error *error) {
  if (heads < 1 || kv_heads < 1 || heads % kv_heads || heads > 65535 || context > INT32_MAX)
    return bpdq_vulkan_unsupported(builder, "impossible head counts or context", error);
  if (head_dim < 8 || head_dim > 256 || head_dim % 8)
    return bpdq_vulkan_unsupported(builder, "head_dim must be a multiple of 8 and at most 256", error);
  return BPDQ_OK;
}

static bpdq_status find_caches(const vulkan_builder *builder, bpdq_tensor k, bpdq_tensor v, int64_t kv_heads, int64_t head_dim,
                               int64_t context, const vulkan_tensor **keys, const vulkan_tensor **values, bpdq_error *error) {
  BPDQ_TRY(bpdq_vulkan_operand(builder, k, BPDQ_TENSOR_KV, context, kv_heads * head_dim, keys, error));
  BPDQ_TRY(bpdq_vulkan_operand(builder, v, BPDQ_TENSOR_KV, context, kv_heads * head_dim, values, error));
  return bpdq_check_caches(builder->op->name, &(*keys)->desc, &(*values)->desc, kv_heads, head_dim, context, error);
}

/* Words before the scales of a q8 cache. */
static uint32_t scales_offset(const vulkan_tensor *cache) { return (uint32_t)(cache->desc.rows * cache->desc.columns / 4); }

static bpdq_status find_table(const vulkan_builder *builder, const bpdq_op_rope_cache *op, const vulkan_tensor **table, bpdq_error *error) {
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->rope_table, BPDQ_TENSOR_F32, op->context, op->head_dim, table, error));
  return (*table)->desc.columns == op->head_dim ? BPDQ_OK : bpdq_vulkan_unsupported(builder, "the rope table has another width", error);
}

bpdq_status bpdq_vulkan_add_rope_cache(vulkan_builder *builder, const bpdq_op_rope_cache *op, bpdq_error *error) {
  int64_t width = (op->heads + 2 * op->kv_heads) * op->head_dim, tokens = builder->program->max_tokens;
  const vulkan_tensor *qkv, *table, *keys, *values;
  BPDQ_TRY(check_shape(builder, op->heads, op->kv_heads, op->head_dim, op->context, error));
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->qkv, BPDQ_TENSOR_F32, tokens, width, &qkv, error));
  BPDQ_TRY(find_table(builder, op, &table, error));
  BPDQ_TRY(find_caches(builder, op->k_cache, op->v_cache, op->kv_heads, op->head_dim, op->context, &keys, &values, error));
  if (!op->q_norm != !op->k_norm) return bpdq_vulkan_unsupported(builder, "one of q_norm and k_norm alone", error);
  vulkan_dispatch dispatch;
  const uint32_t constants[] = {ROPE_THREADS, (uint32_t)op->head_dim, keys->desc.kv_type == BPDQ_KV_Q8, op->q_norm != NULL};
  BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, "rope_cache", constants, 4, error));
  bpdq_vulkan_read_scratch(&dispatch, 0, VULKAN_SCRATCH_RUN);
  bpdq_vulkan_write(&dispatch, 1, bpdq_vulkan_whole(&qkv->buffer));
  bpdq_vulkan_read(&dispatch, 2, bpdq_vulkan_whole(&table->buffer));
  bpdq_vulkan_write(&dispatch, 3, bpdq_vulkan_whole(&keys->buffer));
  bpdq_vulkan_write(&dispatch, 4, bpdq_vulkan_whole(&values->buffer));
  bpdq_vulkan_read(&dispatch, 5, bpdq_vulkan_whole(op->q_norm ? &op->q_norm->vector : &table->buffer));
  bpdq_vulkan_read(&dispatch, 6, bpdq_vulkan_whole(op->k_norm ? &op->k_norm->vector : &table->buffer));
  bpdq_vulkan_push(&dispatch, (uint32_t)op->heads);
  bpdq_vulkan_push(&dispatch, (uint32_t)op->kv_heads);
  bpdq_vulkan_push(&dispatch, (uint32_t)qkv->desc.columns);
  bpdq_vulkan_push(&dispatch, (uint32_t)op->context);
  bpdq_vulkan_push(&dispatch, (uint32_t)tokens);
  bpdq_vulkan_push(&dispatch, scales_offset(keys));
  bpdq_vulkan_push_float(&dispatch, op->norm_epsilon);
  dispatch.grid[0] = (uint32_t)(op->heads + 2 * op->kv_heads);
  dispatch.extent[1] = VULKAN_EXTENT_TOKENS;
  return bpdq_vulkan_dispatch_add(builder, &dispatch, error);
}

/* The operands of one attention, checked, and how its work is cut. */
typedef struct attention_plan {
  const vulkan_tensor *qkv, *output, *keys, *values;
  vulkan_attention_cut cut;
  bool matrix;     /* on cooperative matrices, which round queries and probabilities to f16 */
  uint32_t splits; /* parts of the context at most, 0: it is not cut */
} attention_plan;

/* Bytes of shared memory that attention.comp declares. */
static uint32_t shared_bytes(const vulkan_attention_cut *cut, uint32_t head_dim, bool subgroup) {
  uint32_t own = 3 * head_dim + 2; /* ROPE: the row's own key and value, packed and before */
  uint32_t lanes = subgroup ? 0 : 16 * cut->heads + cut->threads;
  return 16 * cut->merge * cut->threads + 4 * (cut->heads * (head_dim + cut->threads + 3) + own + lanes) + 64;
}

/* Fewer threads come before fewer heads: a head that is left to another work group reads the keys and values once more. */
static bool fits(const vulkan_limits *limits, bool subgroup, uint32_t most_threads, uint32_t head_dim, vulkan_attention_cut *cut) {
  for (cut->threads = most_threads; cut->threads >= ATTENTION_LEAST_THREADS; cut->threads /= 2)
    if (shared_bytes(cut, head_dim, subgroup) <= limits->shared_bytes) return true;
  cut->threads = ATTENTION_LEAST_THREADS;
  return false;
}

vulkan_attention_cut bpdq_vulkan_cut_attention(const vulkan_limits *limits, bool is_cpu, bool subgroup, bool shallow, uint32_t group,
                                               uint32_t head_dim) {
  uint32_t most_threads = is_cpu ? ATTENTION_LEAST_THREADS : shallow ? SHALLOW_THREADS : ATTENTION_THREADS;
  uint32_t most_heads = shallow && !is_cpu ? SHALLOW_HEADS : MAX_HEADS; /* a CPU is full anyway */
  while (most_threads > limits->group_threads && most_threads > ATTENTION_LEAST_THREADS) most_threads /= 2;
  vulkan_attention_cut cut = {.merge = 1};
  for (uint32_t most = most_heads; most > 0; most--) {
    uint32_t chunks = (group + most - 1) / most;
    cut.heads = (group + chunks - 1) / chunks;
    cut.chunks = (group + cut.heads - 1) / cut.heads;
    if (fits(limits, subgroup, most_threads, head_dim, &cut)) break;
  }
  for (; cut.merge < cut.heads; cut.merge++) {
    vulkan_attention_cut more = cut;
    more.merge++;
    if (shared_bytes(&more, head_dim, subgroup) > limits->shared_bytes) break;
  }
  return cut;
}

/* Whether long contexts are for cooperative matrices. */
static bool suits_matrix(const vulkan_builder *builder, const bpdq_op_attention *op) {
  const vulkan_context *context = &builder->vulkan->context;
  return builder->program->activations != BPDQ_ACTIVATIONS_F32 && context->features.narrow_matrix && context->features.subgroup &&
         op->head_dim % 16 == 0 && op->head_dim <= TILE_UNITS * 8 && op->heads / op->kv_heads <= MATRIX_HEADS &&
         context->limits.bindings >= MATRIX_BINDINGS && context->limits.group_threads >= MATRIX_THREADS &&
         context->limits.shared_bytes >= MATRIX_SHARED_BYTES;
}

uint32_t bpdq_vulkan_matrix_parts(uint32_t multiprocessors, uint32_t kv_heads) {
  uint64_t parts = multiprocessors / kv_heads;
  if (parts * kv_heads * 8 < (uint64_t)multiprocessors * 7) parts = bpdq_ceil_div((uint64_t)multiprocessors * MATRIX_TURNS, kv_heads);
  return parts < MAX_SPLITS ? (uint32_t)parts : MAX_SPLITS;
}

/* Whether few rows of a long context go there. */
static bool takes_matrix(const vulkan_builder *builder, const bpdq_op_attention *op) {
  return builder->program->max_tokens <= SPLIT_TOKENS && op->context > VULKAN_DEEP && builder->deep && suits_matrix(builder, op);
}

bool bpdq_vulkan_attention_reads_early(const vulkan_builder *builder, const bpdq_op_attention *op) { return takes_matrix(builder, op); }

/* Cuts the work of few rows, which share the context among work groups; programs for long contexts come once for each depth. On matrices
 * each work group has a multiprocessor to itself. */
static void cut_rows(vulkan_builder *builder, const bpdq_op_attention *op, attention_plan *plan) {
  const vulkan_context *context = &builder->vulkan->context;
  uint32_t group = (uint32_t)(op->heads / op->kv_heads);
  uint64_t positions = (uint64_t)op->context, step = context->is_cpu ? CPU_SPLIT_POSITIONS : SPLIT_POSITIONS, most = MAX_SPLITS;
  bool few = builder->program->max_tokens <= SPLIT_TOKENS, long_context = few && positions > VULKAN_DEEP;
  if (long_context) builder->minds_depth = true;
  plan->matrix = takes_matrix(builder, op);
  if (plan->matrix) {
    plan->cut = (vulkan_attention_cut){MATRIX_THREADS, group, 1, 1};
    step = MATRIX_POSITIONS;
    most = bpdq_vulkan_matrix_parts(context->limits.multiprocessors, (uint32_t)op->kv_heads);
  } else {
    if (long_context && !builder->deep) positions = VULKAN_DEEP;
    plan->cut = bpdq_vulkan_cut_attention(&context->limits, context->is_cpu, context->features.subgroup, positions <= VULKAN_DEEP, group,
                                          (uint32_t)op->head_dim);
  }
  uint64_t splits = bpdq_ceil_div(positions, step);
  if (splits > most) splits = most;
  plan->splits = few && splits >= 2 ? (uint32_t)splits : 0;
}

static bpdq_status plan_attention(vulkan_builder *builder, const bpdq_op_attention *op, attention_plan *plan, bpdq_error *error) {
  int64_t tokens = builder->program->max_tokens;
  BPDQ_TRY(check_shape(builder, op->heads, op->kv_heads, op->head_dim, op->context, error));
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->qkv, BPDQ_TENSOR_F32, tokens, op->heads * op->head_dim, &plan->qkv, error));
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->output, BPDQ_TENSOR_F32, tokens, op->heads * op->head_dim, &plan->output, error));
  BPDQ_TRY(find_caches(builder, op->k_cache, op->v_cache, op->kv_heads, op->head_dim, op->context, &plan->keys, &plan->values, error));
  cut_rows(builder, op, plan);
  return BPDQ_OK;
}

/* With ATTENTION_BINDINGS storage buffers attention prepares the input of the product behind it. The few devices that have fewer get one
 * build without: v3dv's subgroups have 16 threads. */
static const char *attention_shader(const vulkan_context *context, bool matrix, bool rope) {
  if (matrix) return rope ? "attention_rope_matrix" : "attention_matrix";
  if (context->limits.bindings < ATTENTION_BINDINGS) return rope ? "attention_rope_alone" : "attention_alone";
  if (context->is_cpu) return rope ? "attention_rope" : "attention";
  if (context->features.subgroup) return rope ? "attention_rope_subgroup" : "attention_subgroup";
  return rope ? "attention_rope_unrolled" : "attention_unrolled";
}

/* The product behind the attention, where attention can prepare its input: work groups hold whole words of 32 columns. */
static const bpdq_op_linear *product_behind(const vulkan_builder *builder, const bpdq_op *op) {
  const bpdq_op_attention *attention = &op->attention;
  if (attention->head_dim % 32 || builder->vulkan->context.limits.bindings < ATTENTION_BINDINGS) return NULL;
  return bpdq_vulkan_plain_follower(builder, op, attention->output, attention->heads * attention->head_dim);
}

/* Of one row at a time, or few. `rope` NULL: the queries are rotated and the caches written already. */
static bpdq_status add_attention(vulkan_builder *builder, const bpdq_op *operation, const attention_plan *plan, const vulkan_tensor *rope,
                                 bpdq_error *error) {
  const bpdq_op_attention *op = &operation->attention;
  const bpdq_op_linear *next = product_behind(builder, operation);
  uint64_t tokens = (uint64_t)builder->program->max_tokens;
  uint32_t next_bytes = !next ? 0 : builder->program->activations == BPDQ_ACTIVATIONS_16 ? 2 : 1;
  uint32_t constants[ATTENTION_CONSTANTS + VULKAN_EARLY_CONSTANTS] = {
      plan->cut.threads, (uint32_t)op->head_dim, plan->cut.heads, plan->keys->desc.kv_type == BPDQ_KV_Q8,
      plan->splits,      plan->cut.merge,        next_bytes,      (uint32_t)(op->heads / op->kv_heads)};
  uint32_t across = (uint32_t)op->kv_heads * plan->cut.chunks;
  vulkan_early early = {0};
  if (plan->matrix && plan->splits) early = bpdq_vulkan_early_behind(builder, operation, across * plan->splits, plan->cut.threads);
  bpdq_vulkan_early_constants(&early, constants + ATTENTION_CONSTANTS);
  const char *name = attention_shader(&builder->vulkan->context, plan->matrix, rope != NULL);
  vulkan_dispatch dispatch;
  BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, name, constants,
                                      plan->matrix ? ATTENTION_CONSTANTS + VULKAN_EARLY_CONSTANTS : ATTENTION_CONSTANTS, error));
  dispatch.grid[0] = across;
  dispatch.extent[1] = VULKAN_EXTENT_TOKENS;
  if (plan->splits) dispatch.grid[2] = plan->splits;
  bpdq_vulkan_read_scratch(&dispatch, 0, VULKAN_SCRATCH_RUN);
  bpdq_vulkan_read(&dispatch, 1, bpdq_vulkan_whole(&plan->qkv->buffer));
  bpdq_vulkan_write(&dispatch, 2, bpdq_vulkan_whole(&plan->output->buffer));
  uint64_t partial = tokens * (uint64_t)op->heads * plan->splits * (uint64_t)(op->head_dim + 4) * 4;
  bpdq_vulkan_write_scratch(builder, &dispatch, 5, VULKAN_SCRATCH_PARTIAL, partial ? partial : 16);
  bpdq_vulkan_write_scratch(builder, &dispatch, 7, VULKAN_SCRATCH_COUNTERS, tokens * dispatch.grid[0] * 4);
  if (next)
    bpdq_vulkan_prepare_for(builder, &dispatch, 8, next);
  else if (builder->vulkan->context.limits.bindings >= ATTENTION_BINDINGS)
    bpdq_vulkan_write(&dispatch, 8, bpdq_vulkan_whole(&plan->output->buffer)); /* never used, but there must be something */
  if (plan->matrix) {
    bpdq_vulkan_read(&dispatch, 9, bpdq_vulkan_whole(early.piece ? &early.piece->matrix : &plan->output->buffer));
    bpdq_vulkan_read(&dispatch, 10, bpdq_vulkan_whole(early.piece ? &early.piece->coefficients : &plan->output->buffer));
  }
  if (rope) {
    bpdq_vulkan_write(&dispatch, 3, bpdq_vulkan_whole(&plan->keys->buffer));
    bpdq_vulkan_write(&dispatch, 4, bpdq_vulkan_whole(&plan->values->buffer));
    bpdq_vulkan_read(&dispatch, 6, bpdq_vulkan_whole(&rope->buffer));
  } else {
    bpdq_vulkan_read(&dispatch, 3, bpdq_vulkan_whole(&plan->keys->buffer));
    bpdq_vulkan_read(&dispatch, 4, bpdq_vulkan_whole(&plan->values->buffer));
  }
  bpdq_vulkan_push(&dispatch, (uint32_t)op->heads);
  bpdq_vulkan_push(&dispatch, (uint32_t)op->kv_heads);
  bpdq_vulkan_push(&dispatch, (uint32_t)plan->qkv->desc.columns);
  bpdq_vulkan_push(&dispatch, (uint32_t)plan->output->desc.columns);
  bpdq_vulkan_push(&dispatch, (uint32_t)op->context);
  bpdq_vulkan_push(&dispatch, (uint32_t)tokens);
  bpdq_vulkan_push(&dispatch, scales_offset(plan->keys));
  bpdq_vulkan_push_float(&dispatch, op->scale);
  bpdq_vulkan_push(&dispatch, next ? (uint32_t)next->weight->blocks : 0);
  bpdq_vulkan_push(&dispatch, 0);
  return bpdq_vulkan_dispatch_add(builder, &dispatch, error);
}

/* ---- many rows ---- */

/* Rows of attention_tile.comp, or 0 where it does not suit; *matrix: on cooperative matrices, which round the queries to f16. */
static uint32_t tile_rows(const vulkan_builder *builder, const bpdq_op_attention *op, const attention_plan *plan, bool *matrix) {
  const vulkan_context *context = &builder->vulkan->context;
  uint32_t group = (uint32_t)(op->heads / op->kv_heads), units = (uint32_t)op->head_dim / 8;
  *matrix = false;
  if (plan->qkv->desc.columns % 4 || plan->output->desc.columns % 4 || context->limits.group_threads < TILE_THREADS) return 0;
  if (builder->program->activations != BPDQ_ACTIVATIONS_F32 && context->features.cooperative_matrix && context->features.subgroup &&
      units % 2 == 0 && units <= TILE_UNITS && group <= TILE_MATRIX_ROWS) {
    *matrix = true;
    return TILE_MATRIX_ROWS;
  }
  for (uint32_t rows = TILE_PLAIN_ROWS; rows >= TILE_PLAIN_LEAST_ROWS && rows >= group; rows /= 2)
    if (rows * (units * 32 + (TILE_PLAIN_POSITIONS + 2) * 4) + TILE_PLAIN_POSITIONS * (units + 1) * 16 <= context->limits.shared_bytes)
      return rows;
  return 0;
}

static bpdq_status add_tile(vulkan_builder *builder, const bpdq_op_attention *op, const attention_plan *plan, uint32_t rows, bool matrix,
                            bpdq_error *error) {
  const vulkan_context *context = &builder->vulkan->context;
  uint32_t group = (uint32_t)(op->heads / op->kv_heads), tokens = rows / group;
  uint64_t filling = (uint64_t)builder->program->max_tokens * (uint64_t)op->kv_heads / TILE_GROUPS;
  if (!context->is_cpu && filling < tokens) tokens = filling ? (uint32_t)filling : 1;
  const uint32_t constants[] = {TILE_THREADS, (uint32_t)op->head_dim, plan->keys->desc.kv_type == BPDQ_KV_Q8, group, tokens, rows};
  const char *name = matrix ? "attention_tile_matrix" : context->is_cpu ? "attention_tile" : "attention_tile_unrolled";
  vulkan_dispatch dispatch;
  BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, name, constants, 6, error));
  dispatch.grid[0] = (uint32_t)op->kv_heads;
  dispatch.extent[1] = VULKAN_EXTENT_TOKENS;
  dispatch.per = tokens;
  bpdq_vulkan_read_scratch(&dispatch, 0, VULKAN_SCRATCH_RUN);
  bpdq_vulkan_read(&dispatch, 1, bpdq_vulkan_whole(&plan->qkv->buffer));
  bpdq_vulkan_write(&dispatch, 2, bpdq_vulkan_whole(&plan->output->buffer));
  bpdq_vulkan_read(&dispatch, 3, bpdq_vulkan_whole(&plan->keys->buffer));
  bpdq_vulkan_read(&dispatch, 4, bpdq_vulkan_whole(&plan->values->buffer));
  bpdq_vulkan_push(&dispatch, (uint32_t)op->kv_heads);
  bpdq_vulkan_push(&dispatch, (uint32_t)op->context);
  bpdq_vulkan_push(&dispatch, (uint32_t)builder->program->max_tokens);
  bpdq_vulkan_push(&dispatch, (uint32_t)plan->qkv->desc.columns / 4);
  bpdq_vulkan_push(&dispatch, (uint32_t)plan->output->desc.columns / 4);
  bpdq_vulkan_push(&dispatch, scales_offset(plan->keys));
  bpdq_vulkan_push_float(&dispatch, op->scale * LOG2_E);
  return bpdq_vulkan_dispatch_add(builder, &dispatch, error);
}

bpdq_status bpdq_vulkan_add_attention(vulkan_builder *builder, const bpdq_op *operation, bpdq_error *error) {
  const bpdq_op_attention *op = &operation->attention;
  attention_plan plan;
  bool matrix;
  BPDQ_TRY(plan_attention(builder, op, &plan, error));
  uint32_t rows = builder->program->max_tokens > SPLIT_TOKENS ? tile_rows(builder, op, &plan, &matrix) : 0;
  return rows ? add_tile(builder, op, &plan, rows, matrix, error) : add_attention(builder, operation, &plan, NULL, error);
}

bool bpdq_vulkan_can_fuse_rope(const vulkan_builder *builder, const bpdq_op *first, const bpdq_op *second) {
  if (builder->program->max_tokens != 1 || first->kind != BPDQ_OP_ROPE_CACHE || second->kind != BPDQ_OP_ATTENTION) return false;
  const bpdq_op_rope_cache *rope = &first->rope_cache;
  const bpdq_op_attention *attention = &second->attention;
  return !rope->q_norm && !rope->k_norm && rope->qkv == attention->qkv && rope->k_cache == attention->k_cache &&
         rope->v_cache == attention->v_cache && rope->heads == attention->heads && rope->kv_heads == attention->kv_heads &&
         rope->head_dim == attention->head_dim && rope->context == attention->context;
}

bpdq_status bpdq_vulkan_add_rope_attention(vulkan_builder *builder, const bpdq_op *first, const bpdq_op *second, bpdq_error *error) {
  const bpdq_op_rope_cache *rope = &first->rope_cache;
  const vulkan_tensor *qkv, *table;
  attention_plan plan;
  BPDQ_TRY(plan_attention(builder, &second->attention, &plan, error));
  BPDQ_TRY(find_table(builder, rope, &table, error));
  BPDQ_TRY(bpdq_vulkan_operand(builder, rope->qkv, BPDQ_TENSOR_F32, 1, (rope->heads + 2 * rope->kv_heads) * rope->head_dim, &qkv, error));
  return add_attention(builder, second, &plan, table, error);
}
