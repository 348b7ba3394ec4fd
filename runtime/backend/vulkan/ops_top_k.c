/* The largest logits of a row. */
#include "backend/vulkan/builder.h"
#include "core/checked.h"

#define GROUPS 8 /* of a segment, whose largest elements are noted; one where k is 1 */
#define LEAST_GROUP 32
#define SEGMENT 1024 /* where k is 1 */
#define MOST_K 128
#define THREADS 256
#define LIST 1024         /* elements in shared memory: THREADS + MOST_K at least; twice the groups of a row */
#define MANY_THREADS 1024 /* of the work group that has a row to itself */
#define LONG_LIST 2048
#define BUCKETS 256

/* How top_k.comp is set up. */
typedef struct top_k_cut {
  uint32_t threads, list; /* of the second dispatch */
  uint32_t group, groups; /* elements of a group, groups of a segment */
  uint32_t segments;      /* of a row */
} top_k_cut;

/* Bytes of shared memory that top_k.comp declares where k is more than 1. */
static uint32_t shared_bytes(uint32_t threads, uint32_t list) { return list * 8 + threads * 12 + BUCKETS * 4 + BUCKETS / 4 + 64; }

static top_k_cut cut_row(const vulkan_context *context, const bpdq_op_top_k *op) {
  top_k_cut cut = {.threads = THREADS, .list = LIST, .group = LEAST_GROUP, .groups = GROUPS};
  if (op->k == 1) return (top_k_cut){THREADS, LIST, SEGMENT, 1, (uint32_t)bpdq_ceil_div((uint64_t)op->vocab, SEGMENT)};
  if (!context->is_cpu && context->limits.group_threads >= MANY_THREADS &&
      shared_bytes(MANY_THREADS, LONG_LIST) <= context->limits.shared_bytes) {
    cut.threads = MANY_THREADS;
    cut.list = LONG_LIST;
  }
  while (bpdq_ceil_div((uint64_t)op->vocab, GROUPS * cut.group) * GROUPS > cut.list / 2) cut.group *= 2;
  cut.segments = (uint32_t)bpdq_ceil_div((uint64_t)op->vocab, GROUPS * cut.group);
  return cut;
}

typedef struct top_k_operands {
  const vulkan_tensor *logits, *values, *ids;
} top_k_operands;

static bpdq_status add_dispatch(vulkan_builder *builder, const bpdq_op_top_k *op, const top_k_operands *of, const top_k_cut *cut,
                                bool second, bpdq_error *error) {
  uint64_t rows = op->rows == BPDQ_ROWS_LAST ? 1 : (uint64_t)builder->program->max_tokens;
  const uint32_t constants[] = {second ? cut->threads : THREADS, second ? cut->list : LIST, cut->group, op->k == 1, cut->groups, second};
  const char *shader = builder->vulkan->context.features.subgroup ? "top_k_subgroup" : "top_k";
  vulkan_dispatch dispatch;
  BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, shader, constants, 6, error));
  bpdq_vulkan_read_scratch(&dispatch, 0, VULKAN_SCRATCH_RUN);
  bpdq_vulkan_read(&dispatch, 1, bpdq_vulkan_whole(&of->logits->buffer));
  bpdq_vulkan_write_scratch(builder, &dispatch, 2, VULKAN_SCRATCH_LARGEST, rows * cut->segments * cut->groups * 8);
  bpdq_vulkan_write_scratch(builder, &dispatch, 3, VULKAN_SCRATCH_STATISTICS, rows * cut->segments * 8);
  bpdq_vulkan_write(&dispatch, 4, bpdq_vulkan_whole(&of->values->buffer));
  bpdq_vulkan_write(&dispatch, 5, bpdq_vulkan_whole(&of->ids->buffer));
  bpdq_vulkan_push(&dispatch, (uint32_t)op->vocab);
  bpdq_vulkan_push(&dispatch, (uint32_t)op->k);
  bpdq_vulkan_push(&dispatch, cut->segments);
  bpdq_vulkan_push(&dispatch, (uint32_t)of->logits->desc.columns);
  bpdq_vulkan_push(&dispatch, (uint32_t)of->values->desc.columns);
  bpdq_vulkan_push(&dispatch, (uint32_t)of->ids->desc.columns);
  dispatch.grid[0] = second ? 1 : cut->segments;
  if (op->rows == BPDQ_ROWS_ALL) dispatch.extent[1] = VULKAN_EXTENT_TOKENS;
  return bpdq_vulkan_dispatch_add(builder, &dispatch, error);
}

bpdq_status bpdq_vulkan_add_top_k(vulkan_builder *builder, const bpdq_op_top_k *op, bpdq_error *error) {
  int64_t rows = op->rows == BPDQ_ROWS_LAST ? 1 : builder->program->max_tokens;
  top_k_operands of;
  if (op->k < 1 || op->k > MOST_K || op->vocab < 1 || op->vocab > INT32_MAX / 2)
    return bpdq_vulkan_unsupported(builder, "k must be 1 to 128", error);
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->logits, BPDQ_TENSOR_F32, rows, op->vocab, &of.logits, error));
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->values, BPDQ_TENSOR_F32, rows, op->k + 1, &of.values, error));
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->ids, BPDQ_TENSOR_I32, rows, op->k, &of.ids, error));
  top_k_cut cut = cut_row(&builder->vulkan->context, op);
  BPDQ_TRY(add_dispatch(builder, op, &of, &cut, false, error));
  return add_dispatch(builder, op, &of, &cut, true, error);
}
