/* Transforms on their own. */
#include "backend/vulkan/builder.h"
#include "core/checked.h"

#define THREADS 256
#define THREAD_COLUMNS 16 /* of transform_half.comp, about, where work groups share a row */

static bpdq_status check_transform(const vulkan_builder *builder, const bpdq_transform *transform, int64_t width, bpdq_error *error) {
  if (transform->kind != BPDQ_TRANSFORM_RMS_NORM) return BPDQ_OK;
  if (!transform->norm || transform->norm->kind != BPDQ_WEIGHT_VECTOR || transform->norm->rows < width)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "vulkan: operation %s: the norm's weight is missing or short", builder->op->name);
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_transform_input(const vulkan_builder *builder, const bpdq_transform *transform, bpdq_tensor input, int64_t width,
                                        const vulkan_tensor **operand, bpdq_error *error) {
  BPDQ_TRY(check_transform(builder, transform, width, error));
  int64_t columns = transform->kind == BPDQ_TRANSFORM_SILU_GATE ? 2 * width : width;
  BPDQ_TRY(bpdq_vulkan_operand(builder, input, BPDQ_TENSOR_F32, builder->program->max_tokens, columns, operand, error));
  /* The gate is read beside the values, so that rows must be exactly that wide. */
  if (transform->kind == BPDQ_TRANSFORM_SILU_GATE && (*operand)->desc.columns < columns)
    return bpdq_vulkan_unsupported(builder, "the gated input is too narrow", error);
  return BPDQ_OK;
}

/* A dispatch of shader `name` over the input, complete but for its output and that one's stride. */
static bpdq_status start_transform(vulkan_builder *builder, vulkan_dispatch *dispatch, const char *name, const bpdq_transform *transform,
                                   bpdq_tensor input, int64_t width, int64_t output_stride, bpdq_error *error) {
  const vulkan_tensor *x;
  BPDQ_TRY(bpdq_vulkan_transform_input(builder, transform, input, width, &x, error));
  const uint32_t constants[] = {THREADS, (uint32_t)transform->kind, width % 4 == 0 && x->desc.columns % 4 == 0};
  BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, dispatch, name, constants, 3, error));
  bpdq_vulkan_read_scratch(dispatch, 0, VULKAN_SCRATCH_RUN);
  bpdq_vulkan_read(dispatch, 1, bpdq_vulkan_whole(&x->buffer));
  bpdq_vulkan_read(dispatch, 2, bpdq_vulkan_whole(transform->norm ? &transform->norm->vector : &x->buffer));
  bpdq_vulkan_push(dispatch, (uint32_t)width);
  bpdq_vulkan_push(dispatch, (uint32_t)x->desc.columns);
  bpdq_vulkan_push(dispatch, (uint32_t)output_stride);
  bpdq_vulkan_push_float(dispatch, transform->epsilon);
  dispatch->extent[0] = VULKAN_EXTENT_TOKENS;
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_add_transform_f32(vulkan_builder *builder, const bpdq_transform *transform, bpdq_tensor input, int64_t width,
                                          bpdq_error *error) {
  vulkan_dispatch dispatch;
  BPDQ_TRY(start_transform(builder, &dispatch, "transform", transform, input, width, width, error));
  bpdq_vulkan_write_scratch(builder, &dispatch, 3, VULKAN_SCRATCH_TRANSFORMED,
                            (uint64_t)builder->program->max_tokens * (uint64_t)width * 4);
  return bpdq_vulkan_dispatch_add(builder, &dispatch, error);
}

bpdq_status bpdq_vulkan_add_transform_f16(vulkan_builder *builder, const bpdq_transform *transform, bpdq_tensor input, int64_t width,
                                          int64_t padded_width, int64_t padded_rows, bpdq_error *error) {
  vulkan_dispatch dispatch;
  BPDQ_TRY(start_transform(builder, &dispatch, "transform_half", transform, input, width, padded_width / 2, error));
  if (transform->kind != BPDQ_TRANSFORM_RMS_NORM)
    dispatch.grid[1] = (uint32_t)bpdq_ceil_div((uint64_t)padded_width, THREADS * THREAD_COLUMNS);
  bpdq_vulkan_write_scratch(builder, &dispatch, 3, VULKAN_SCRATCH_TRANSFORMED, (uint64_t)padded_rows * (uint64_t)padded_width * 2);
  return bpdq_vulkan_dispatch_add(builder, &dispatch, error);
}

bpdq_status bpdq_vulkan_add_transform(vulkan_builder *builder, const bpdq_op_transform *op, bpdq_error *error) {
  const vulkan_tensor *output;
  vulkan_dispatch dispatch;
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->output, BPDQ_TENSOR_F32, builder->program->max_tokens, op->width, &output, error));
  BPDQ_TRY(start_transform(builder, &dispatch, "transform", &op->transform, op->input, op->width, output->desc.columns, error));
  bpdq_vulkan_write(&dispatch, 3, bpdq_vulkan_whole(&output->buffer));
  return bpdq_vulkan_dispatch_add(builder, &dispatch, error);
}
