/* Products: which kernel takes which weight and how many tokens. */
#include "backend/vulkan/builder.h"

#include <string.h>

#include "core/checked.h"

#define VECTOR_THREADS 256
#define LUT_ROWS 64
#define DOT_ROWS 8
#define DENSE_LANES 32
#define DENSE_REPEAT 2
#define TILE 64         /* rows and tokens of linear_tile.comp */
#define VECTOR_TOKENS 8 /* up to this many rows, each is a product of its own */

enum { FLAG_ACCUMULATE = 1, FLAG_BIAS = 2, FLAG_LAST = 4 }; /* linear.glsl */

/* One linear operation, checked. */
typedef struct product {
  const bpdq_op_linear *op;
  const bpdq_weight *weight;
  const vulkan_tensor *input, *output;
  bpdq_transform_kind transform; /* left to the kernel; NONE where it was done before */
  vulkan_binding norm;
  bool last;
} product;

static bpdq_status check(vulkan_builder *builder, const bpdq_op_linear *op, product *p, bpdq_error *error) {
  const bpdq_weight *weight = op->weight;
  if (!weight || weight->kind == BPDQ_WEIGHT_VECTOR)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "vulkan: operation %s has no matrix", builder->op->name);
  if (op->bias && (op->bias->kind != BPDQ_WEIGHT_VECTOR || op->bias->rows < weight->rows))
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "vulkan: operation %s: the bias is short", builder->op->name);
  if (op->input == op->output || op->offset < 0)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "vulkan: operation %s: input and output must differ", builder->op->name);
  *p = (product){.op = op, .weight = weight, .transform = op->transform.kind, .last = op->rows == BPDQ_ROWS_LAST};
  BPDQ_TRY(bpdq_vulkan_transform_input(builder, &op->transform, op->input, weight->columns, &p->input, error));
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->output, BPDQ_TENSOR_F32, p->last ? 1 : builder->program->max_tokens, op->offset + weight->rows,
                               &p->output, error));
  p->norm = bpdq_vulkan_whole(op->transform.norm ? &op->transform.norm->vector : &p->input->buffer);
  return BPDQ_OK;
}

/* What linear.glsl declares: the output, the bias and the constants. `x_stride` is in elements of the input that the kernel reads. */
static void bind_common(vulkan_dispatch *dispatch, const product *p, const vulkan_piece *piece, int64_t x_stride) {
  const bpdq_op_linear *op = p->op;
  const bpdq_weight *weight = p->weight;
  bool planes = weight->kind == BPDQ_WEIGHT_PLANES;
  bpdq_vulkan_read_scratch(dispatch, 0, VULKAN_SCRATCH_RUN);
  bpdq_vulkan_read(dispatch, 1, bpdq_vulkan_whole(&piece->matrix));
  if (planes) bpdq_vulkan_read(dispatch, 2, bpdq_vulkan_whole(&piece->coefficients));
  bpdq_vulkan_read(dispatch, 5, bpdq_vulkan_whole(op->bias ? &op->bias->vector : &piece->matrix));
  bpdq_vulkan_write(dispatch, 6, bpdq_vulkan_whole(&p->output->buffer));
  bpdq_vulkan_push(dispatch, (uint32_t)piece->rows);
  bpdq_vulkan_push(dispatch, (uint32_t)piece->first_row);
  bpdq_vulkan_push(dispatch, (uint32_t)weight->columns);
  bpdq_vulkan_push(dispatch, (uint32_t)(planes ? weight->blocks : weight->row_bytes / 16));
  bpdq_vulkan_push(dispatch, (uint32_t)weight->groups);
  bpdq_vulkan_push(dispatch, (uint32_t)x_stride);
  bpdq_vulkan_push(dispatch, (uint32_t)p->output->desc.columns);
  bpdq_vulkan_push(dispatch, (uint32_t)op->offset);
  bpdq_vulkan_push(dispatch, (op->accumulate ? FLAG_ACCUMULATE : 0u) | (op->bias ? FLAG_BIAS : 0u) | (p->last ? FLAG_LAST : 0u));
  bpdq_vulkan_push_float(dispatch, op->transform.epsilon);
}

/* Grid of `rows_per_group` rows by tokens. */
static void set_grid(vulkan_dispatch *dispatch, const product *p, const vulkan_piece *piece, uint32_t rows_per_group,
                     uint32_t tokens_per_group) {
  dispatch->grid[0] = (uint32_t)bpdq_ceil_div((uint64_t)piece->rows, rows_per_group);
  dispatch->per = tokens_per_group;
  if (!p->last) dispatch->extent[1] = VULKAN_EXTENT_TOKENS;
}

/* ---- one token at a time ---- */

static bpdq_status add_lut(vulkan_builder *builder, const product *p, bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  const uint32_t constants[] = {VECTOR_THREADS, LUT_ROWS, (uint32_t)weight->planes, (uint32_t)weight->group, weight->number, p->transform};
  for (int i = 0; i < weight->piece_count; i++) {
    vulkan_dispatch dispatch;
    BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, "linear_lut", constants, 6, error));
    bind_common(&dispatch, p, &weight->pieces[i], p->input->desc.columns);
    bpdq_vulkan_read(&dispatch, 3, bpdq_vulkan_whole(&p->input->buffer));
    bpdq_vulkan_read(&dispatch, 4, p->norm);
    set_grid(&dispatch, p, &weight->pieces[i], LUT_ROWS, 1);
    BPDQ_TRY(bpdq_vulkan_dispatch_add(builder, &dispatch, error));
  }
  return BPDQ_OK;
}

static bpdq_status add_dense_vector(vulkan_builder *builder, const product *p, bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  const uint32_t constants[] = {VECTOR_THREADS, DENSE_LANES, DENSE_REPEAT, weight->number, p->transform};
  for (int i = 0; i < weight->piece_count; i++) {
    vulkan_dispatch dispatch;
    BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, "linear_dense", constants, 5, error));
    bind_common(&dispatch, p, &weight->pieces[i], p->input->desc.columns);
    bpdq_vulkan_read(&dispatch, 3, bpdq_vulkan_whole(&p->input->buffer));
    bpdq_vulkan_read(&dispatch, 4, p->norm);
    set_grid(&dispatch, p, &weight->pieces[i], VECTOR_THREADS / DENSE_LANES * DENSE_REPEAT, 1);
    BPDQ_TRY(bpdq_vulkan_dispatch_add(builder, &dispatch, error));
  }
  return BPDQ_OK;
}

/* Transform and quantization of the input to the integers that linear_dot.comp multiplies. */
static bpdq_status add_quantize(vulkan_builder *builder, const product *p, bool wide, bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  uint64_t tokens = (uint64_t)builder->program->max_tokens;
  const uint32_t constants[] = {64, (uint32_t)weight->group, p->transform, wide};
  vulkan_dispatch dispatch;
  BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, "quantize", constants, 4, error));
  bpdq_vulkan_read_scratch(&dispatch, 0, VULKAN_SCRATCH_RUN);
  bpdq_vulkan_read(&dispatch, 1, bpdq_vulkan_whole(&p->input->buffer));
  bpdq_vulkan_read(&dispatch, 2, p->norm);
  bpdq_vulkan_write_scratch(builder, &dispatch, 3, VULKAN_SCRATCH_QUANTIZED, tokens * (uint64_t)weight->blocks * (wide ? 256 : 128));
  bpdq_vulkan_write_scratch(builder, &dispatch, 4, VULKAN_SCRATCH_SCALES, tokens * (uint64_t)weight->groups * 8);
  bpdq_vulkan_push(&dispatch, (uint32_t)weight->columns);
  bpdq_vulkan_push(&dispatch, (uint32_t)weight->blocks);
  bpdq_vulkan_push(&dispatch, (uint32_t)weight->groups);
  bpdq_vulkan_push(&dispatch, (uint32_t)p->input->desc.columns);
  bpdq_vulkan_push(&dispatch, p->last);
  bpdq_vulkan_push_float(&dispatch, p->op->transform.epsilon);
  dispatch.grid[0] = (uint32_t)weight->groups;
  if (!p->last) dispatch.extent[1] = VULKAN_EXTENT_TOKENS;
  return bpdq_vulkan_dispatch_add(builder, &dispatch, error);
}

static bpdq_status add_dot(vulkan_builder *builder, const product *p, bool wide, bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  const uint32_t constants[] = {VECTOR_THREADS, DOT_ROWS, (uint32_t)weight->planes, (uint32_t)weight->group, weight->number};
  BPDQ_TRY(add_quantize(builder, p, wide, error));
  for (int i = 0; i < weight->piece_count; i++) {
    vulkan_dispatch dispatch;
    BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, wide ? "linear_dot16" : "linear_dot8", constants, 5, error));
    bind_common(&dispatch, p, &weight->pieces[i], 0);
    bpdq_vulkan_read_scratch(&dispatch, 3, VULKAN_SCRATCH_QUANTIZED);
    bpdq_vulkan_read_scratch(&dispatch, 4, VULKAN_SCRATCH_SCALES);
    set_grid(&dispatch, p, &weight->pieces[i], DOT_ROWS, 1);
    BPDQ_TRY(bpdq_vulkan_dispatch_add(builder, &dispatch, error));
  }
  return BPDQ_OK;
}

/* ---- many tokens ---- */

static bpdq_status add_tile(vulkan_builder *builder, const product *p, bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  bool planes = weight->kind == BPDQ_WEIGHT_PLANES, transformed = p->transform != BPDQ_TRANSFORM_NONE;
  if (transformed) BPDQ_TRY(bpdq_vulkan_add_transform_of(builder, &p->op->transform, p->op->input, weight->columns, NULL, error));
  const uint32_t constants[] = {TILE * 4, planes ? (uint32_t)weight->planes : 1, planes ? (uint32_t)weight->group : 64, weight->number};
  for (int i = 0; i < weight->piece_count; i++) {
    vulkan_dispatch dispatch;
    BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, planes ? "tile_planes" : "tile_dense", constants, 4, error));
    bind_common(&dispatch, p, &weight->pieces[i], transformed ? weight->columns : p->input->desc.columns);
    if (!planes) bpdq_vulkan_read(&dispatch, 2, bpdq_vulkan_whole(&weight->pieces[i].matrix));
    if (transformed)
      bpdq_vulkan_read_scratch(&dispatch, 3, VULKAN_SCRATCH_TRANSFORMED);
    else
      bpdq_vulkan_read(&dispatch, 3, bpdq_vulkan_whole(&p->input->buffer));
    set_grid(&dispatch, p, &weight->pieces[i], TILE, TILE);
    BPDQ_TRY(bpdq_vulkan_dispatch_add(builder, &dispatch, error));
  }
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_add_linear(vulkan_builder *builder, const bpdq_op_linear *op, bpdq_error *error) {
  product p;
  BPDQ_TRY(check(builder, op, &p, error));
  bpdq_activations activations = builder->program->activations;
  if (!p.last && builder->program->max_tokens > VECTOR_TOKENS) return add_tile(builder, &p, error);
  if (p.weight->kind == BPDQ_WEIGHT_DENSE) return add_dense_vector(builder, &p, error);
  if (activations != BPDQ_ACTIVATIONS_F32 && builder->vulkan->context.features.integer_dot)
    return add_dot(builder, &p, activations == BPDQ_ACTIVATIONS_16, error);
  return add_lut(builder, &p, error);
}
