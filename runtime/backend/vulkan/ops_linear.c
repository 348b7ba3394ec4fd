/* Products: which kernel takes which weight and how many tokens. */
#include "backend/vulkan/product.h"
#include "core/checked.h"

#define VECTOR_THREADS 256
#define LUT_ROWS 64
#define DENSE_LANES 32
#define DENSE_REPEAT 2  /* rows per thread */
#define DENSE_CHUNK 256 /* 16-byte words of a row per step, half as many where shared memory is short */
#define HEAD_REPEAT 8   /* of matrices with so many rows that work groups need not be many */
#define HEAD_ROWS 32768
#define INT8_HEAD_REPEAT 2 /* linear_head.comp */
#define INT8_HEAD_THREADS 512
#define INT8_HEAD_GROUPS 2 /* on a multiprocessor at once */
#define INT8_HEAD_BATCH 8  /* linear_head_batch.comp */
#define INT8_HEAD_BATCH_REPEAT 4
#define TILE 64 /* rows and tokens of linear_tile.comp */
#define TILE_DEPTH 32
#define TILE_PADDING 4
#define MATRIX_TILE 128     /* rows and tokens of linear_matrix.comp */
#define MATRIX_FEW 16       /* tokens of its other build */
#define MATRIX_FEW_GROUPS 2 /* on a multiprocessor at once */
#define MATRIX_DEPTH 64
#define MATRIX_THREADS 256
#define MATRIX_LEAST_STEPS 8  /* of a work group */
#define BITS_LEAST_TOKENS 2   /* rows that are faster as bits than each as a product of its own (docs/benchmarks/log.md) */
#define HEAD_LEAST_TOKENS 5   /* the same of an 8-bit head */
#define MATRIX_LEAST_TOKENS 5 /* the same of linear_matrix.comp */
#define VECTOR_TOKENS 8       /* the same without cooperative matrices */
#define HEAD_TOKENS 16        /* up to this many rows, an 8-bit head is read once for every INT8_HEAD_BATCH of them */

enum { FLAG_ACCUMULATE = 1, FLAG_BIAS = 2, FLAG_LAST = 4, FLAG_ONE = 8 }; /* linear.glsl */

static bpdq_status check(vulkan_builder *builder, const bpdq_op_linear *op, vulkan_product *p, bpdq_error *error) {
  const bpdq_weight *weight = op->weight;
  if (!weight || weight->kind == BPDQ_WEIGHT_VECTOR)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "vulkan: operation %s has no matrix", builder->op->name);
  if (op->bias && (op->bias->kind != BPDQ_WEIGHT_VECTOR || op->bias->rows < weight->rows))
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "vulkan: operation %s: the bias is short", builder->op->name);
  if (op->input == op->output || op->offset < 0)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "vulkan: operation %s: input and output must differ", builder->op->name);
  *p = (vulkan_product){.op = op,
                        .weight = weight,
                        .transform = op->transform.kind,
                        .last = op->rows == BPDQ_ROWS_LAST,
                        .one = builder->program->max_tokens == 1};
  BPDQ_TRY(bpdq_vulkan_transform_input(builder, &op->transform, op->input, weight->columns, &p->input, error));
  BPDQ_TRY(bpdq_vulkan_operand(builder, op->output, BPDQ_TENSOR_F32, p->last ? 1 : builder->program->max_tokens, op->offset + weight->rows,
                               &p->output, error));
  p->norm = bpdq_vulkan_whole(op->transform.norm ? &op->transform.norm->vector : &p->input->buffer);
  return BPDQ_OK;
}

void bpdq_vulkan_bind_product(vulkan_dispatch *dispatch, const vulkan_product *p, const vulkan_piece *piece, int64_t x_stride) {
  const bpdq_op_linear *op = p->op;
  const bpdq_weight *weight = p->weight;
  bool planes = weight->kind == BPDQ_WEIGHT_PLANES;
  bpdq_vulkan_read_scratch(dispatch, 0, VULKAN_SCRATCH_RUN);
  bpdq_vulkan_read(dispatch, 1, bpdq_vulkan_whole(&piece->matrix));
  bpdq_vulkan_read(dispatch, 2, bpdq_vulkan_whole(piece->coefficients.block ? &piece->coefficients : &piece->matrix));
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
  bpdq_vulkan_push(dispatch, (op->accumulate ? FLAG_ACCUMULATE : 0u) | (op->bias ? FLAG_BIAS : 0u) | (p->last ? FLAG_LAST : 0u) |
                                 (p->one ? FLAG_ONE : 0u));
  bpdq_vulkan_push_float(dispatch, op->transform.epsilon);
}

void bpdq_vulkan_grid_product(vulkan_dispatch *dispatch, const vulkan_product *p, const vulkan_piece *piece, uint32_t rows_per_group,
                              uint32_t tokens_per_group) {
  dispatch->grid[0] = (uint32_t)bpdq_ceil_div((uint64_t)piece->rows, rows_per_group);
  dispatch->per = tokens_per_group;
  if (!p->last) dispatch->extent[1] = VULKAN_EXTENT_TOKENS;
}

/* ---- one token at a time ---- */

static bpdq_status add_lut(vulkan_builder *builder, const vulkan_product *p, bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  const uint32_t constants[] = {VECTOR_THREADS, LUT_ROWS, (uint32_t)weight->planes, (uint32_t)weight->group, weight->number, p->transform};
  for (int i = 0; i < weight->piece_count; i++) {
    vulkan_dispatch dispatch;
    BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, "linear_lut", constants, 6, error));
    bpdq_vulkan_bind_product(&dispatch, p, &weight->pieces[i], p->input->desc.columns);
    bpdq_vulkan_read(&dispatch, 3, bpdq_vulkan_whole(&p->input->buffer));
    bpdq_vulkan_read(&dispatch, 4, p->norm);
    bpdq_vulkan_grid_product(&dispatch, p, &weight->pieces[i], LUT_ROWS, 1);
    BPDQ_TRY(bpdq_vulkan_dispatch_add(builder, &dispatch, error));
  }
  return BPDQ_OK;
}

/* What linear_dense.comp declares beside its sums is a vec4 for each four inputs of a step. */
static uint32_t dense_chunk(const vulkan_limits *limits, uint32_t number, uint32_t repeat) {
  uint32_t quads = number == VULKAN_NUMBER_INT8 ? 4 : number == VULKAN_NUMBER_F32 ? 1 : 2;
  bool fits = VECTOR_THREADS * repeat * 4 + DENSE_CHUNK * quads * 16 <= limits->shared_bytes;
  return fits ? DENSE_CHUNK : DENSE_CHUNK / 2;
}

static bpdq_status add_dense_vector(vulkan_builder *builder, const vulkan_product *p, bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  uint32_t repeat = weight->rows >= HEAD_ROWS ? HEAD_REPEAT : DENSE_REPEAT;
  uint32_t chunk = dense_chunk(&builder->vulkan->context.limits, weight->number, repeat);
  const uint32_t constants[] = {VECTOR_THREADS, DENSE_LANES, repeat, weight->number, p->transform, chunk};
  for (int i = 0; i < weight->piece_count; i++) {
    vulkan_dispatch dispatch;
    BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, "linear_dense", constants, 6, error));
    bpdq_vulkan_bind_product(&dispatch, p, &weight->pieces[i], p->input->desc.columns);
    bpdq_vulkan_read(&dispatch, 3, bpdq_vulkan_whole(&p->input->buffer));
    bpdq_vulkan_read(&dispatch, 4, p->norm);
    bpdq_vulkan_grid_product(&dispatch, p, &weight->pieces[i], VECTOR_THREADS / DENSE_LANES * repeat, 1);
    BPDQ_TRY(bpdq_vulkan_dispatch_add(builder, &dispatch, error));
  }
  return BPDQ_OK;
}

/* The 8-bit head by integer dot products, one row at a time. False where the row does not fit into shared memory. */
static bool head_fits(const vulkan_builder *builder, const bpdq_weight *weight) {
  const vulkan_context *context = &builder->vulkan->context;
  uint64_t words = (uint64_t)weight->row_bytes / 16, shared = words * (32 + 2) + INT8_HEAD_THREADS * 5 + 64;
  return shared <= context->limits.shared_bytes;
}

static bpdq_status add_head(vulkan_builder *builder, const vulkan_product *p, bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  const vulkan_context *context = &builder->vulkan->context;
  bool subgroup = context->features.subgroup;
  uint32_t threads = context->limits.group_threads < INT8_HEAD_THREADS ? VECTOR_THREADS : INT8_HEAD_THREADS;
  uint32_t at_once = INT8_HEAD_GROUPS * context->limits.multiprocessors;
  const uint32_t constants[] = {threads, (uint32_t)(weight->row_bytes / 16), p->transform};
  for (int i = 0; i < weight->piece_count; i++) {
    vulkan_dispatch dispatch;
    BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, subgroup ? "linear_head_subgroup" : "linear_head", constants, 3, error));
    bpdq_vulkan_bind_product(&dispatch, p, &weight->pieces[i], p->input->desc.columns);
    bpdq_vulkan_read(&dispatch, 3, bpdq_vulkan_whole(&p->input->buffer));
    bpdq_vulkan_read(&dispatch, 4, p->norm);
    bpdq_vulkan_grid_product(&dispatch, p, &weight->pieces[i], threads / 32 * INT8_HEAD_REPEAT, 1);
    /* As many work groups as run at once, with the same number of steps each. */
    uint32_t steps = (dispatch.grid[0] + at_once - 1) / at_once;
    dispatch.grid[0] = (dispatch.grid[0] + steps - 1) / steps;
    BPDQ_TRY(bpdq_vulkan_dispatch_add(builder, &dispatch, error));
  }
  return BPDQ_OK;
}

/* The 8-bit head for the rows of a batch, which share a reading of the weights. */
static bpdq_status add_head_batch(vulkan_builder *builder, const vulkan_product *p, bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  bool subgroup = builder->vulkan->context.features.subgroup;
  int64_t blocks = (int64_t)bpdq_ceil_div((uint64_t)weight->row_bytes, VULKAN_BLOCK_COLUMNS);
  uint32_t batch = 2;
  while (batch < builder->program->max_tokens && batch < INT8_HEAD_BATCH) batch *= 2;
  const uint32_t constants[] = {VECTOR_THREADS, (uint32_t)(weight->row_bytes / 16), p->transform, batch};
  BPDQ_TRY(bpdq_vulkan_add_quantize(builder, p, "quantize_plain", blocks, true, error));
  builder->prepared.valid = false; /* other products want another order */
  for (int i = 0; i < weight->piece_count; i++) {
    vulkan_dispatch dispatch;
    BPDQ_TRY(
        bpdq_vulkan_dispatch_start(builder, &dispatch, subgroup ? "linear_head_batch_subgroup" : "linear_head_batch", constants, 4, error));
    bpdq_vulkan_bind_product(&dispatch, p, &weight->pieces[i], p->input->desc.columns);
    bpdq_vulkan_read_scratch(&dispatch, 3, builder->prepared.scratch);
    bpdq_vulkan_grid_product(&dispatch, p, &weight->pieces[i], VECTOR_THREADS / 32 * INT8_HEAD_BATCH_REPEAT, batch);
    BPDQ_TRY(bpdq_vulkan_dispatch_add(builder, &dispatch, error));
  }
  return BPDQ_OK;
}

/* ---- many tokens ---- */

static bpdq_status add_tile(vulkan_builder *builder, const vulkan_product *p, bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  bool planes = weight->kind == BPDQ_WEIGHT_PLANES, transformed = p->transform != BPDQ_TRANSFORM_NONE;
  if (transformed) BPDQ_TRY(bpdq_vulkan_add_transform_f32(builder, &p->op->transform, p->op->input, weight->columns, error));
  bool padded = 2 * TILE_DEPTH * (TILE + TILE_PADDING) * 4 <= builder->vulkan->context.limits.shared_bytes;
  const uint32_t constants[] = {TILE * 4, planes ? (uint32_t)weight->planes : 1, planes ? (uint32_t)weight->group : 64, weight->number,
                                padded ? TILE_PADDING : 0};
  for (int i = 0; i < weight->piece_count; i++) {
    vulkan_dispatch dispatch;
    BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, planes ? "tile_planes" : "tile_dense", constants, 5, error));
    bpdq_vulkan_bind_product(&dispatch, p, &weight->pieces[i], transformed ? weight->columns : p->input->desc.columns);
    if (transformed)
      bpdq_vulkan_read_scratch(&dispatch, 3, VULKAN_SCRATCH_TRANSFORMED);
    else
      bpdq_vulkan_read(&dispatch, 3, bpdq_vulkan_whole(&p->input->buffer));
    bpdq_vulkan_grid_product(&dispatch, p, &weight->pieces[i], TILE, TILE);
    BPDQ_TRY(bpdq_vulkan_dispatch_add(builder, &dispatch, error));
  }
  return BPDQ_OK;
}

/* Work groups that share all steps of all tiles equally: as many as run at once, unless that leaves too little for each. */
static uint32_t matrix_groups(const vulkan_builder *builder, uint64_t tiles, uint64_t steps, bool few) {
  uint64_t at_once = (uint64_t)builder->vulkan->context.limits.multiprocessors * (few ? MATRIX_FEW_GROUPS : 1);
  uint64_t most = bpdq_ceil_div(tiles * steps, MATRIX_LEAST_STEPS);
  return (uint32_t)(most < at_once ? most : at_once);
}

/* Planes only: NVIDIA's compiler (580.159) crashes on the dense variant of the shader, and dense matrices are rare beside planes. */
static bpdq_status add_matrix(vulkan_builder *builder, const vulkan_product *p, bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  bool few = builder->program->max_tokens <= MATRIX_FEW;
  uint64_t tokens = few ? MATRIX_FEW : MATRIX_TILE, width = bpdq_round_up((uint64_t)weight->columns, MATRIX_DEPTH);
  uint64_t rows = bpdq_round_up((uint64_t)builder->program->max_tokens, tokens);
  BPDQ_TRY(bpdq_vulkan_add_transform_f16(builder, &p->op->transform, p->op->input, weight->columns, (int64_t)width, (int64_t)rows, error));
  const uint32_t constants[] = {MATRIX_THREADS, (uint32_t)weight->planes, (uint32_t)weight->group, weight->number};
  for (int i = 0; i < weight->piece_count; i++) {
    vulkan_dispatch dispatch;
    uint64_t tiles = bpdq_ceil_div((uint64_t)weight->pieces[i].rows, MATRIX_TILE) * (rows / tokens);
    BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, few ? "matrix_planes_few" : "matrix_planes", constants, 4, error));
    bpdq_vulkan_bind_product(&dispatch, p, &weight->pieces[i], (int64_t)width / 8);
    bpdq_vulkan_read_scratch(&dispatch, 3, VULKAN_SCRATCH_TRANSFORMED);
    dispatch.grid[0] = matrix_groups(builder, tiles, width / MATRIX_DEPTH, few);
    bpdq_vulkan_write_scratch(builder, &dispatch, 4, VULKAN_SCRATCH_PARTIAL, 2 * dispatch.grid[0] * MATRIX_TILE * tokens * 4);
    bpdq_vulkan_write_scratch(builder, &dispatch, 7, VULKAN_SCRATCH_COUNTERS, tiles * 4);
    BPDQ_TRY(bpdq_vulkan_dispatch_add(builder, &dispatch, error));
  }
  if (builder->prepared.tensor == p->op->output) builder->prepared.valid = false;
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_add_linear(vulkan_builder *builder, const bpdq_op_linear *op, bpdq_error *error) {
  vulkan_product p;
  BPDQ_TRY(check(builder, op, &p, error));
  if (p.weight->kind == BPDQ_WEIGHT_DENSE && builder->prepared.tensor == op->output) builder->prepared.valid = false;
  const vulkan_features *features = &builder->vulkan->context.features;
  bool planes = p.weight->kind == BPDQ_WEIGHT_PLANES, exact = builder->program->activations == BPDQ_ACTIVATIONS_F32;
  bool matrix = !exact && planes && features->cooperative_matrix, integers = !exact && features->integer_dot;
  bool head = integers && p.weight->number == VULKAN_NUMBER_INT8;
  int64_t tokens = p.last ? 1 : builder->program->max_tokens;
  if (!exact && features->known_matrix && tokens <= VULKAN_BITS_TOKENS) {
    if (planes && tokens >= BITS_LEAST_TOKENS) return bpdq_vulkan_add_bits(builder, &p, error);
    if (head && tokens >= HEAD_LEAST_TOKENS) return bpdq_vulkan_add_head_matrix(builder, &p, error);
  }
  if (matrix && tokens >= MATRIX_LEAST_TOKENS) return add_matrix(builder, &p, error);
  if (tokens > (head ? HEAD_TOKENS : VECTOR_TOKENS)) return add_tile(builder, &p, error);
  if (head && !p.last && !p.one) return add_head_batch(builder, &p, error);
  if (!planes) return head && head_fits(builder, p.weight) ? add_head(builder, &p, error) : add_dense_vector(builder, &p, error);
  if (integers) return bpdq_vulkan_add_dot(builder, &p, builder->program->activations == BPDQ_ACTIVATIONS_16, error);
  return add_lut(builder, &p, error);
}
