/* Rotary embedding with cache writes, and attention over the caches. */
#include "backend/vulkan/builder.h"
#include "core/checked.h"

#define ROPE_THREADS 64
#define ATTENTION_THREADS 128
#define MAX_HEADS 8     /* query heads per work group */
#define SPLIT_TOKENS 16 /* up to this many rows the context is split, to fill the device */
#define MIN_SPLIT_POSITIONS 256
#define MAX_SPLITS 64

/* The shape that both operations share. */
static bpdq_status check_shape(const vulkan_builder *builder, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t context,
                               bpdq_error *error) {
  if (heads < 1 || kv_heads < 1 || heads % kv_heads || heads > 65535 || context < 1 || context > INT32_MAX)
    return bpdq_vulkan_unsupported(builder, "impossible head counts or context", error);
  if (head_dim < 8 || head_dim > 256 || head_dim % 8)
    return bpdq_vulkan_unsupported(builder, "head_dim must be a multiple of 8 and at most 256", error);
  return BPDQ_OK;
}

static bpdq_status find_cache(const vulkan_builder *builder, bpdq_tensor index, int64_t kv_heads, int64_t head_dim, int64_t context,
                              const vulkan_tensor **cache, bpdq_error *error) {
  BPDQ_TRY(bpdq_vulkan_operand(builder, index, BPDQ_TENSOR_KV, context, kv_heads * head_dim, cache, error));
  if ((*cache)->desc.columns != kv_heads * head_dim || (*cache)->desc.head_dim != head_dim)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "vulkan: operation %s: the cache has another shape", builder->op->name);
  return BPDQ_OK;
}

/* Words before the scales of a q8 cache. */
static uint32_t scales_offset(const vulkan_tensor *cache) { return (uint32_t)(cache->desc.rows * cache->desc.columns / 4); }

bpdq_status bpdq_vulkan_add_rope_cache(vulkan_builder *builder, const bpdq_op_rope_cache *op, bpdq_error *error) {
  int64_t width = (op->heads + 2 * op->kv_heads) * op->head_dim, tokens = builder->program->max_tokens;
  const vulkan_tensor *qkv, *table, *keys, *values;
  BPDQ_TRY(check_shape(builder, op->heads, op->kv_heads, op->head_dim, op->context, error));
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->qkv, BPDQ_TENSOR_F32, tokens, width, &qkv, error));
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->rope_table, BPDQ_TENSOR_F32, op->context, op->head_dim, &table, error));
  BPDQ_TRY(find_cache(builder, op->k_cache, op->kv_heads, op->head_dim, op->context, &keys, error));
  BPDQ_TRY(find_cache(builder, op->v_cache, op->kv_heads, op->head_dim, op->context, &values, error));
  if (table->desc.columns != op->head_dim || !op->q_norm != !op->k_norm)
    return bpdq_vulkan_unsupported(builder, "a rope table of another width, or one of q_norm and k_norm alone", error);
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

static bpdq_status add_merge(vulkan_builder *builder, const bpdq_op_attention *op, const vulkan_tensor *output, bpdq_error *error) {
  vulkan_dispatch dispatch;
  const uint32_t constants[] = {64, (uint32_t)op->head_dim};
  BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, "attention_merge", constants, 2, error));
  bpdq_vulkan_read_scratch(&dispatch, 0, VULKAN_SCRATCH_RUN);
  bpdq_vulkan_read_scratch(&dispatch, 1, VULKAN_SCRATCH_PARTIAL);
  bpdq_vulkan_write(&dispatch, 2, bpdq_vulkan_whole(&output->buffer));
  bpdq_vulkan_push(&dispatch, (uint32_t)op->heads);
  bpdq_vulkan_push(&dispatch, (uint32_t)output->desc.columns);
  dispatch.grid[0] = (uint32_t)op->heads;
  dispatch.extent[1] = VULKAN_EXTENT_TOKENS;
  return bpdq_vulkan_dispatch_add(builder, &dispatch, error);
}

/* Positions per part of the context, or 0 where one part is enough. */
static uint32_t choose_split(const vulkan_builder *builder, int64_t context) {
  if (builder->program->max_tokens > SPLIT_TOKENS || context <= MIN_SPLIT_POSITIONS) return 0;
  uint64_t positions = bpdq_round_up(bpdq_ceil_div((uint64_t)context, MAX_SPLITS), 64);
  return positions < MIN_SPLIT_POSITIONS ? MIN_SPLIT_POSITIONS : (uint32_t)positions;
}

bpdq_status bpdq_vulkan_add_attention(vulkan_builder *builder, const bpdq_op_attention *op, bpdq_error *error) {
  int64_t tokens = builder->program->max_tokens;
  const vulkan_tensor *qkv, *output, *keys, *values;
  BPDQ_TRY(check_shape(builder, op->heads, op->kv_heads, op->head_dim, op->context, error));
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->qkv, BPDQ_TENSOR_F32, tokens, op->heads * op->head_dim, &qkv, error));
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->output, BPDQ_TENSOR_F32, tokens, op->heads * op->head_dim, &output, error));
  BPDQ_TRY(find_cache(builder, op->k_cache, op->kv_heads, op->head_dim, op->context, &keys, error));
  BPDQ_TRY(find_cache(builder, op->v_cache, op->kv_heads, op->head_dim, op->context, &values, error));
  uint32_t split = choose_split(builder, op->context), group = (uint32_t)(op->heads / op->kv_heads);
  if (split && builder->split_positions && builder->split_positions != split)
    return bpdq_vulkan_unsupported(builder, "all attentions of a program must have the same context", error);
  if (split) builder->split_positions = split;
  /* Chunks of heads as even as they come: 12 heads per kv head are 6 + 6. */
  uint32_t chunks = (group + MAX_HEADS - 1) / MAX_HEADS, heads = (group + chunks - 1) / chunks;
  chunks = (group + heads - 1) / heads;
  vulkan_dispatch dispatch;
  const uint32_t constants[] = {ATTENTION_THREADS, (uint32_t)op->head_dim, heads, keys->desc.kv_type == BPDQ_KV_Q8, split != 0};
  BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, "attention", constants, 5, error));
  bpdq_vulkan_read_scratch(&dispatch, 0, VULKAN_SCRATCH_RUN);
  bpdq_vulkan_read(&dispatch, 1, bpdq_vulkan_whole(&qkv->buffer));
  if (split)
    bpdq_vulkan_write_scratch(
        builder, &dispatch, 2, VULKAN_SCRATCH_PARTIAL,
        (uint64_t)tokens * (uint64_t)op->heads * bpdq_ceil_div((uint64_t)op->context, split) * (uint64_t)(op->head_dim + 2) * 4);
  else
    bpdq_vulkan_write(&dispatch, 2, bpdq_vulkan_whole(&output->buffer));
  bpdq_vulkan_read(&dispatch, 3, bpdq_vulkan_whole(&keys->buffer));
  bpdq_vulkan_read(&dispatch, 4, bpdq_vulkan_whole(&values->buffer));
  bpdq_vulkan_push(&dispatch, (uint32_t)op->heads);
  bpdq_vulkan_push(&dispatch, (uint32_t)op->kv_heads);
  bpdq_vulkan_push(&dispatch, (uint32_t)qkv->desc.columns);
  bpdq_vulkan_push(&dispatch, (uint32_t)output->desc.columns);
  bpdq_vulkan_push(&dispatch, (uint32_t)op->context);
  bpdq_vulkan_push(&dispatch, (uint32_t)tokens);
  bpdq_vulkan_push(&dispatch, scales_offset(keys));
  bpdq_vulkan_push(&dispatch, split);
  bpdq_vulkan_push_float(&dispatch, op->scale);
  dispatch.grid[0] = (uint32_t)op->kv_heads * chunks;
  dispatch.extent[1] = VULKAN_EXTENT_TOKENS;
  if (split) dispatch.extent[2] = VULKAN_EXTENT_SPLITS;
  BPDQ_TRY(bpdq_vulkan_dispatch_add(builder, &dispatch, error));
  return split ? add_merge(builder, op, output, error) : BPDQ_OK;
}
