/* Products of bit-planes by integer dot products: inputs as integers, made by whoever made the input or by a dispatch of their own; how
 * linear_dot.comp is set up; what a product does for the one behind it. */
#include "backend/vulkan/early.h"
#include "backend/vulkan/product.h"
#include "core/checked.h"

#define DOT_BATCH 8
#define DOT_BATCH_PLANES 16 /* rows x planes x bytes */
#define DOT_CONSTANTS 11
#define EARLY_GROUPS 2 /* on a multiprocessor at least */
#define QUANTIZE_THREADS 64

/* ---- inputs as integers (prepared.glsl) ---- */

static uint64_t prepared_bytes(int64_t blocks, bool wide) { return (uint64_t)blocks * (wide ? 304 : 176); }

/* Of the two memories for prepared inputs, the one that does not hold the latest. */
static vulkan_scratch other_prepared(const vulkan_builder *builder) {
  return builder->prepared.scratch == VULKAN_SCRATCH_PREPARED_A ? VULKAN_SCRATCH_PREPARED_B : VULKAN_SCRATCH_PREPARED_A;
}

static void note_prepared(vulkan_builder *builder, const bpdq_op_linear *consumer, vulkan_scratch scratch) {
  builder->prepared = (vulkan_prepared){.tensor = consumer->input,
                                        .kind = consumer->transform.kind,
                                        .norm = consumer->transform.norm,
                                        .blocks = consumer->weight->blocks,
                                        .scratch = scratch,
                                        .valid = true};
}

static bool is_prepared(const vulkan_builder *builder, const vulkan_product *p) {
  const vulkan_prepared *prepared = &builder->prepared;
  if (p->last && !p->one) return false; /* all rows are prepared or none */
  return prepared->valid && prepared->tensor == p->op->input && prepared->kind == p->transform && prepared->norm == p->op->transform.norm &&
         prepared->blocks == p->weight->blocks;
}

bpdq_status bpdq_vulkan_add_quantize(vulkan_builder *builder, const vulkan_product *p, const char *shader, int64_t blocks, bool wide,
                                     bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  vulkan_scratch scratch = other_prepared(builder);
  const uint32_t constants[] = {QUANTIZE_THREADS, p->transform, wide ? 2 : 1};
  vulkan_dispatch dispatch;
  BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, shader, constants, 3, error));
  bpdq_vulkan_read_scratch(&dispatch, 0, VULKAN_SCRATCH_RUN);
  bpdq_vulkan_read(&dispatch, 1, bpdq_vulkan_whole(&p->input->buffer));
  bpdq_vulkan_read(&dispatch, 2, p->norm);
  bpdq_vulkan_write_scratch(builder, &dispatch, 3, scratch, (uint64_t)builder->program->max_tokens * prepared_bytes(blocks, wide));
  bpdq_vulkan_push(&dispatch, (uint32_t)weight->columns);
  bpdq_vulkan_push(&dispatch, (uint32_t)blocks);
  bpdq_vulkan_push(&dispatch, (uint32_t)p->input->desc.columns);
  bpdq_vulkan_push(&dispatch, p->last);
  dispatch.grid[0] = (uint32_t)bpdq_ceil_div((uint64_t)blocks * (VULKAN_BLOCK_COLUMNS / 4), QUANTIZE_THREADS);
  if (!p->last) dispatch.extent[1] = VULKAN_EXTENT_TOKENS;
  BPDQ_TRY(bpdq_vulkan_dispatch_add(builder, &dispatch, error));
  note_prepared(builder, p->op, scratch);
  builder->prepared.valid = !p->last; /* of all rows, or for this product alone */
  return BPDQ_OK;
}

vulkan_tuning_key bpdq_vulkan_tuning_key(const bpdq_op_linear *op, bool wide) {
  const bpdq_weight *weight = op->weight;
  return (vulkan_tuning_key){.rows = (uint32_t)weight->rows,
                             .columns = (uint32_t)weight->columns,
                             .planes = (uint32_t)weight->planes,
                             .group = (uint32_t)weight->group,
                             .number = weight->number,
                             .transform = op->transform.kind,
                             .wide = wide};
}

/* How linear_dot.comp is set up for a product. */
typedef struct dot_plan {
  vulkan_dot_variant variant;
  uint32_t batch;
  bool copied, wide, suits; /* copied: each work group copies the input to its shared memory */
} dot_plan;

/* The product of planes behind operation `op` that takes its output, in a program of one row; else NULL. */
static const bpdq_op_linear *next_planes_product(const vulkan_builder *builder, const bpdq_op *op, bpdq_tensor output) {
  const bpdq_program *program = builder->program;
  size_t index = (size_t)(op - program->ops) + 1;
  if (program->max_tokens != 1 || index >= program->count || program->ops[index].kind != BPDQ_OP_LINEAR) return NULL;
  const bpdq_op_linear *next = &program->ops[index].linear;
  return next->input == output && next->weight && next->weight->kind == BPDQ_WEIGHT_PLANES ? next : NULL;
}

/* Bytes of shared memory that linear_dot.comp declares. */
static uint64_t shared_bytes(const vulkan_builder *builder, const vulkan_product *p, const vulkan_dot_variant *variant, bool copied,
                             bool wide) {
  const bpdq_op_linear *next = next_planes_product(builder, builder->op, p->op->output);
  uint64_t rows = next && next->transform.kind == BPDQ_TRANSFORM_SILU_GATE ? 2 : 1, covered = variant->threads / variant->slices;
  uint64_t parts = variant->slices;
  if (builder->vulkan->context.features.subgroup) parts = parts % 4 == 0 ? parts / 4 : parts == 2 ? 1 : parts;
  uint64_t block = (wide ? 288 : 160) + (p->transform == BPDQ_TRANSFORM_RMS_NORM ? 16 : 0);
  return rows * parts * (covered + 8) * 4 + (copied ? (uint64_t)p->weight->blocks * block : 16);
}

/* `variant` for a product; it does not suit where the device does not allow it. */
static dot_plan try_variant(const vulkan_builder *builder, const vulkan_product *p, bool wide, const vulkan_dot_variant *variant) {
  const vulkan_context *context = &builder->vulkan->context;
  const bpdq_weight *weight = p->weight;
  int64_t tokens = p->last ? 1 : builder->program->max_tokens;
  dot_plan plan = {.variant = *variant, .batch = 1, .copied = variant->copied && tokens == 1, .wide = wide};
  plan.suits = variant->threads <= context->limits.group_threads &&
               shared_bytes(builder, p, variant, plan.copied, wide) <= context->limits.shared_bytes &&
               (variant->slices == 1 || variant->slices <= weight->blocks);
  /* Rows that share a reading of the weights multiply the code, which must stay small enough for the instruction cache. */
  uint32_t most = context->is_cpu ? 1 : DOT_BATCH_PLANES / (uint32_t)(weight->planes * (wide ? 2 : 1));
  while (plan.batch < tokens && plan.batch < DOT_BATCH && plan.batch * 2 <= most) plan.batch *= 2;
  return plan;
}

vulkan_dot_variant bpdq_vulkan_usual_for(const bpdq_vulkan *vulkan, const bpdq_op_linear *op, int64_t tokens) {
  const vulkan_context *context = &vulkan->context;
  return bpdq_vulkan_usual_variant(&(vulkan_dot_shape){op->weight->rows, op->weight->blocks, tokens, op->transform.kind,
                                                       context->limits.group_threads, context->is_cpu});
}

/* What was measured to be faster than the usual variant, or that one. */
static vulkan_dot_variant suitable_variant(bpdq_vulkan *vulkan, const bpdq_op_linear *op, bool wide, int64_t tokens) {
  vulkan_tuning_key key = bpdq_vulkan_tuning_key(op, wide);
  vulkan_dot_variant variant;
  if (bpdq_vulkan_forced_variant(&variant)) return variant;
  if (tokens == 1 && bpdq_vulkan_tuning_find(&vulkan->tuning, &key, &variant) && variant.threads) return variant;
  return bpdq_vulkan_usual_for(vulkan, op, tokens);
}

static dot_plan plan_dot(vulkan_builder *builder, const vulkan_product *p, bool wide) {
  int64_t tokens = p->last ? 1 : builder->program->max_tokens;
  vulkan_dot_variant variant = builder->variant ? *builder->variant : suitable_variant(builder->vulkan, p->op, wide, tokens);
  dot_plan plan = try_variant(builder, p, wide, &variant);
  if (plan.suits) return plan;
  builder->refused = true;
  variant = bpdq_vulkan_usual_for(builder->vulkan, p->op, tokens);
  plan = try_variant(builder, p, wide, &variant);
  if (plan.suits) return plan;
  variant.copied = false; /* a long row may not fit into shared memory */
  plan = try_variant(builder, p, wide, &variant);
  if (plan.suits) return plan;
  return try_variant(builder, p, wide, &(vulkan_dot_variant){.threads = 128, .slices = 1, .ahead = 1});
}

/* The same behind a product, where that one can prepare its results as the input. */
static const bpdq_op_linear *follower(const vulkan_builder *builder, const vulkan_product *p, const dot_plan *plan) {
  const bpdq_op_linear *next = next_planes_product(builder, builder->op, p->op->output);
  if (!next) return NULL;
  bool gate = next->transform.kind == BPDQ_TRANSFORM_SILU_GATE;
  int64_t columns = gate ? 2 * next->weight->columns : next->weight->columns, tiles = plan->variant.threads / (8 * plan->variant.slices);
  if (p->op->offset != 0 || columns != p->weight->rows || p->weight->piece_count != 1) return NULL;
  if (tiles % 4 != 0 || (gate && p->weight->rows % 16 != 0)) return NULL;
  if (!gate && (next->transform.kind != BPDQ_TRANSFORM_RMS_NORM || !next->transform.norm || next->transform.norm->rows < columns))
    return NULL;
  return next;
}

/* Work groups of a piece; with a product that follows they cover its columns. */
static uint32_t dot_groups(const vulkan_piece *piece, const bpdq_op_linear *next, const dot_plan *plan) {
  uint64_t rows = next ? (uint64_t)next->weight->blocks * VULKAN_BLOCK_COLUMNS : (uint64_t)piece->rows;
  return (uint32_t)bpdq_ceil_div(rows, plan->variant.threads / plan->variant.slices);
}

/* Only where several work groups share a multiprocessor: most of them end before the dispatch does, and do not hold it up by waiting for
 * what they have requested (docs/benchmarks/log.md). */
static bool may_read_early(const vulkan_builder *builder, uint32_t groups) {
  const vulkan_context *context = &builder->vulkan->context;
  bool trial = builder->variant != NULL; /* a variant is measured for itself */
  if (trial || builder->program->max_tokens != 1 || context->limits.bindings < VULKAN_EARLY_BINDINGS) return false;
  if (bpdq_vulkan_switch("BPDQ_VULKAN_EARLY") == VULKAN_SWITCH_ON) return true;
  return groups >= EARLY_GROUPS * context->limits.multiprocessors &&
         bpdq_vulkan_tuning_cache(&builder->vulkan->tuning) == VULKAN_CACHE_LARGE;
}

/* What is read of a product of planes that comes later, for a dispatch of `groups` work groups of `threads`. */
static vulkan_early plan_early_for(const vulkan_builder *builder, const bpdq_op_linear *behind, bool wide, uint32_t groups,
                                   uint32_t threads) {
  if (!behind->weight || behind->weight->kind != BPDQ_WEIGHT_PLANES) return (vulkan_early){0};
  vulkan_dot_variant variant = suitable_variant(builder->vulkan, behind, wide, 1);
  return bpdq_vulkan_plan_early(behind->weight, variant.slices, groups, threads);
}

/* What the product reads of the next one, however many operations of other kinds are between them. Nothing if attention is, which reads it
 * itself, and whose keys and values would take its place in the cache. */
static vulkan_early plan_early(const vulkan_builder *builder, const vulkan_product *p, const bpdq_op_linear *next, const dot_plan *plan) {
  const bpdq_program *program = builder->program;
  uint32_t groups = dot_groups(&p->weight->pieces[0], next, plan);
  size_t i = (size_t)(builder->op - program->ops) + 1;
  for (; i < program->count && program->ops[i].kind != BPDQ_OP_LINEAR; i++)
    if (program->ops[i].kind == BPDQ_OP_ATTENTION && bpdq_vulkan_attention_reads_early(builder, &program->ops[i].attention))
      return (vulkan_early){0};
  if (i == program->count || p->weight->piece_count != 1 || !may_read_early(builder, groups)) return (vulkan_early){0};
  return plan_early_for(builder, &program->ops[i].linear, plan->wide, groups, plan->variant.threads);
}

vulkan_early bpdq_vulkan_early_behind(const vulkan_builder *builder, const bpdq_op *op, uint32_t groups, uint32_t threads) {
  const bpdq_program *program = builder->program;
  size_t next = (size_t)(op - program->ops) + 1;
  if (next >= program->count || program->ops[next].kind != BPDQ_OP_LINEAR || program->max_tokens != 1 ||
      bpdq_vulkan_tuning_cache(&builder->vulkan->tuning) != VULKAN_CACHE_LARGE)
    return (vulkan_early){0};
  return plan_early_for(builder, &program->ops[next].linear, program->activations == BPDQ_ACTIVATIONS_16, groups, threads);
}

static bpdq_status start_dot(vulkan_builder *builder, const vulkan_product *p, const bpdq_op_linear *next, const dot_plan *plan,
                             const vulkan_early *early, vulkan_dispatch *dispatch, bpdq_error *error) {
  static const char *const names[2][2][2] = {
      {{"linear_dot8", "linear_dot8_early"}, {"linear_dot8_subgroup", "linear_dot8_subgroup_early"}},
      {{"linear_dot16", "linear_dot16_early"}, {"linear_dot16_subgroup", "linear_dot16_subgroup_early"}}};
  const bpdq_weight *weight = p->weight;
  uint32_t constants[DOT_CONSTANTS + VULKAN_EARLY_CONSTANTS] = {plan->variant.threads,
                                                                plan->variant.slices,
                                                                (uint32_t)weight->planes,
                                                                (uint32_t)weight->group,
                                                                weight->number,
                                                                p->transform,
                                                                plan->copied,
                                                                plan->copied ? (uint32_t)weight->blocks : 1,
                                                                plan->batch,
                                                                plan->variant.ahead,
                                                                next ? next->transform.kind : BPDQ_TRANSFORM_NONE};
  bpdq_vulkan_early_constants(early, constants + DOT_CONSTANTS);
  bool subgroup = builder->vulkan->context.features.subgroup, is_early = early->piece != NULL;
  return bpdq_vulkan_dispatch_start(builder, dispatch, names[plan->wide][subgroup][is_early], constants,
                                    is_early ? DOT_CONSTANTS + VULKAN_EARLY_CONSTANTS : DOT_CONSTANTS, error);
}

/* Binds what follows: the next product's input and its norm. */
static void bind_next(vulkan_builder *builder, vulkan_dispatch *dispatch, const bpdq_op_linear *next, bool wide) {
  if (next->transform.kind != BPDQ_TRANSFORM_SILU_GATE) bpdq_vulkan_read(dispatch, 4, bpdq_vulkan_whole(&next->transform.norm->vector));
  bpdq_vulkan_write_scratch(builder, dispatch, 7, other_prepared(builder), prepared_bytes(next->weight->blocks, wide));
}

bpdq_status bpdq_vulkan_add_dot(vulkan_builder *builder, const vulkan_product *p, bool wide, bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  dot_plan plan = plan_dot(builder, p, wide);
  const bpdq_op_linear *next = follower(builder, p, &plan);
  vulkan_early early = plan_early(builder, p, next, &plan);
  if (!is_prepared(builder, p)) BPDQ_TRY(bpdq_vulkan_add_quantize(builder, p, "quantize", weight->blocks, wide, error));
  for (int i = 0; i < weight->piece_count; i++) {
    const vulkan_piece *piece = &weight->pieces[i];
    vulkan_dispatch dispatch;
    BPDQ_TRY(start_dot(builder, p, next, &plan, &early, &dispatch, error));
    bpdq_vulkan_bind_product(&dispatch, p, piece, p->input->desc.columns);
    bpdq_vulkan_grid_product(&dispatch, p, piece, plan.variant.threads / plan.variant.slices, plan.batch);
    dispatch.grid[0] = dot_groups(piece, next, &plan);
    bpdq_vulkan_read_scratch(&dispatch, 3, builder->prepared.scratch);
    bpdq_vulkan_read(&dispatch, 4, p->norm); /* of the next product; never used without, but there must be something */
    if (next)
      bind_next(builder, &dispatch, next, wide);
    else
      bpdq_vulkan_write(&dispatch, 7, bpdq_vulkan_whole(&p->output->buffer));
    bpdq_vulkan_push(&dispatch, next ? (uint32_t)next->weight->blocks : 0);
    if (early.piece) {
      bpdq_vulkan_read(&dispatch, 8, bpdq_vulkan_whole(&early.piece->matrix));
      bpdq_vulkan_read(&dispatch, 9, bpdq_vulkan_whole(&early.piece->coefficients));
      bpdq_vulkan_push(&dispatch, 0);
    }
    BPDQ_TRY(bpdq_vulkan_dispatch_add(builder, &dispatch, error));
  }
  if (builder->prepared.tensor == p->op->output) builder->prepared.valid = false;
  if (next) note_prepared(builder, next, other_prepared(builder));
  return BPDQ_OK;
}

const bpdq_op_linear *bpdq_vulkan_plain_follower(const vulkan_builder *builder, const bpdq_op *op, bpdq_tensor output, int64_t columns) {
  if (builder->program->activations == BPDQ_ACTIVATIONS_F32 || !builder->vulkan->context.features.integer_dot) return NULL;
  const bpdq_op_linear *next = next_planes_product(builder, op, output);
  if (!next || next->transform.kind != BPDQ_TRANSFORM_NONE || next->weight->columns != columns) return NULL;
  /* Nobody would write zeros to columns that are only there to fill the last group. */
  return next->weight->blocks * VULKAN_BLOCK_COLUMNS == columns ? next : NULL;
}

void bpdq_vulkan_prepare_for(vulkan_builder *builder, vulkan_dispatch *dispatch, int slot, const bpdq_op_linear *next) {
  bool wide = builder->program->activations == BPDQ_ACTIVATIONS_16;
  vulkan_scratch scratch = other_prepared(builder);
  bpdq_vulkan_write_scratch(builder, dispatch, slot, scratch, prepared_bytes(next->weight->blocks, wide));
  note_prepared(builder, next, scratch);
}
