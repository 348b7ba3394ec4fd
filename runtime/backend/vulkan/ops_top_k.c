/* The largest logits of a row, in levels of segments. */
#include "backend/vulkan/builder.h"
#include "core/checked.h"

#define THREADS 256
#define MANY_THREADS 1024 /* one comparison per thread and step of the sort */
#define SEGMENT 2048      /* half as many where shared memory is short */

typedef struct level {
  uint32_t number, count, segments, first_segments; /* first_segments: of level 0 */
  uint32_t threads, segment;                        /* of all levels: of a work group, and elements that it takes */
  bool final;
} level;

/* The work groups of all levels. */
static level start_levels(const vulkan_context *context, const bpdq_op_top_k *op) {
  bool many = op->k > 1 && context->limits.group_threads >= MANY_THREADS && !context->is_cpu;
  level at = {.count = (uint32_t)op->vocab, .threads = many ? MANY_THREADS : THREADS};
  uint32_t declared = SEGMENT * 8 + at.threads * 4 + (op->k == 1 ? at.threads : 1) * 8; /* by top_k.comp: items, sums, winners */
  at.segment = declared <= context->limits.shared_bytes ? SEGMENT : SEGMENT / 2;
  at.first_segments = (uint32_t)bpdq_ceil_div(at.count, at.segment);
  return at;
}

static bpdq_status add_level(vulkan_builder *builder, const bpdq_op_top_k *op, const level *at, const vulkan_tensor *logits,
                             const vulkan_tensor *values, const vulkan_tensor *ids, bpdq_error *error) {
  uint64_t rows = op->rows == BPDQ_ROWS_LAST ? 1 : (uint64_t)builder->program->max_tokens;
  vulkan_scratch from = at->number % 2 ? VULKAN_SCRATCH_CANDIDATES_A : VULKAN_SCRATCH_CANDIDATES_B;
  vulkan_scratch to = at->number % 2 ? VULKAN_SCRATCH_CANDIDATES_B : VULKAN_SCRATCH_CANDIDATES_A;
  vulkan_dispatch dispatch;
  const vulkan_context *context = &builder->vulkan->context;
  const uint32_t constants[] = {at->threads, at->segment, op->k == 1};
  BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, context->features.subgroup ? "top_k_subgroup" : "top_k", constants, 3, error));
  bpdq_vulkan_read_scratch(&dispatch, 0, VULKAN_SCRATCH_RUN);
  bpdq_vulkan_read(&dispatch, 1, bpdq_vulkan_whole(&logits->buffer));
  /* Unused bindings of the shader still need memory: the logits. */
  bpdq_vulkan_read(&dispatch, 2, bpdq_vulkan_whole(&logits->buffer));
  if (at->number) bpdq_vulkan_read_scratch(&dispatch, 2, from);
  bpdq_vulkan_write_scratch(builder, &dispatch, 3, to, rows * at->segments * (uint64_t)op->k * 8);
  bpdq_vulkan_write_scratch(builder, &dispatch, 4, VULKAN_SCRATCH_STATISTICS, rows * at->first_segments * 8);
  bpdq_vulkan_write(&dispatch, 5, bpdq_vulkan_whole(&values->buffer));
  bpdq_vulkan_write(&dispatch, 6, bpdq_vulkan_whole(&ids->buffer));
  bpdq_vulkan_push(&dispatch, at->count);
  bpdq_vulkan_push(&dispatch, (uint32_t)op->k);
  bpdq_vulkan_push(&dispatch, at->number);
  bpdq_vulkan_push(&dispatch, at->first_segments);
  bpdq_vulkan_push(&dispatch, at->final);
  bpdq_vulkan_push(&dispatch, (uint32_t)logits->desc.columns);
  bpdq_vulkan_push(&dispatch, (uint32_t)values->desc.columns);
  bpdq_vulkan_push(&dispatch, (uint32_t)ids->desc.columns);
  dispatch.grid[0] = at->segments;
  if (op->rows == BPDQ_ROWS_ALL) dispatch.extent[1] = VULKAN_EXTENT_TOKENS;
  return bpdq_vulkan_dispatch_add(builder, &dispatch, error);
}

bpdq_status bpdq_vulkan_add_top_k(vulkan_builder *builder, const bpdq_op_top_k *op, bpdq_error *error) {
  int64_t rows = op->rows == BPDQ_ROWS_LAST ? 1 : builder->program->max_tokens;
  const vulkan_tensor *logits, *values, *ids;
  if (op->k < 1 || op->k > 128 || op->vocab < 1 || op->vocab > INT32_MAX / 2)
    return bpdq_vulkan_unsupported(builder, "k must be 1 to 128", error);
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->logits, BPDQ_TENSOR_F32, rows, op->vocab, &logits, error));
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->values, BPDQ_TENSOR_F32, rows, op->k + 1, &values, error));
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->ids, BPDQ_TENSOR_I32, rows, op->k, &ids, error));
  level at = start_levels(&builder->vulkan->context, op);
  do {
    at.segments = (uint32_t)bpdq_ceil_div(at.count, at.segment);
    at.final = at.segments == 1;
    BPDQ_TRY(add_level(builder, op, &at, logits, values, ids, error));
    at.count = at.segments * (uint32_t)op->k;
    at.number++;
  } while (!at.final);
  return BPDQ_OK;
}
