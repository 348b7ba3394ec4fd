/* Products of a few tokens whose operands are put into cooperative matrices element by element: planes as bits (linear_bits.comp), the
 * 8-bit head as bytes (linear_head_matrix.comp). */
#include "backend/vulkan/product.h"
#include "core/checked.h"

#define TOKEN_TILE 8 /* columns of a matrix */
#define PREPARE_THREADS 256
#define ROW_TILE 16  /* rows of a matrix, and of a subgroup of linear_bits.comp */
#define MANY_TILES 8 /* of rows, for each multiprocessor */
#define FEW_TILES 3
#define BITS_ITEM_BYTES 2176 /* bits.glsl: 128 columns of 8 tokens */
#define BITS_ITEM_THREADS 32
#define HEAD_ITEM_BYTES 1088 /* head_matrix.glsl: 64 columns of 8 tokens */
#define HEAD_COLUMNS 64
#define HEAD_ITEM_THREADS 4
#define HEAD_THREADS 64
#define HEAD_ROWS 32 /* of a subgroup */

static int64_t token_tiles(const vulkan_builder *builder) {
  return (int64_t)bpdq_ceil_div((uint64_t)builder->program->max_tokens, TOKEN_TILE);
}

/* The input as `shader` prepares it: `items` of `item_bytes` for each eight tokens; `item_threads` make what a token has of one. */
static bpdq_status add_prepare(vulkan_builder *builder, const vulkan_product *p, const char *shader, int64_t items, int64_t item_bytes,
                               int64_t item_threads, bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  const uint32_t constants[] = {PREPARE_THREADS, p->transform, weight->kind == BPDQ_WEIGHT_PLANES ? (uint32_t)weight->group : 0};
  vulkan_dispatch dispatch;
  BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, shader, constants, 3, error));
  bpdq_vulkan_read_scratch(&dispatch, 0, VULKAN_SCRATCH_RUN);
  bpdq_vulkan_read(&dispatch, 1, bpdq_vulkan_whole(&p->input->buffer));
  bpdq_vulkan_read(&dispatch, 2, p->norm);
  bpdq_vulkan_write_scratch(builder, &dispatch, 3, VULKAN_SCRATCH_TRANSFORMED, (uint64_t)(token_tiles(builder) * items * item_bytes));
  bpdq_vulkan_push(&dispatch, (uint32_t)weight->columns);
  bpdq_vulkan_push(&dispatch, (uint32_t)items);
  bpdq_vulkan_push(&dispatch, (uint32_t)p->input->desc.columns);
  bpdq_vulkan_push_float(&dispatch, p->op->transform.epsilon);
  dispatch.grid[0] = (uint32_t)bpdq_ceil_div((uint64_t)(items * item_threads), PREPARE_THREADS);
  dispatch.extent[1] = VULKAN_EXTENT_TOKENS;
  return bpdq_vulkan_dispatch_add(builder, &dispatch, error);
}

/* Threads of a work group, and subgroups that share rows. */
typedef struct bits_cut {
  uint32_t threads, slices;
} bits_cut;

/* From sweeps on an H200 (docs/benchmarks/log.md). Many rows: eight subgroups share them by fours. Else a tile of rows has a work group to
 * itself, the larger the fewer tiles there are; each of its subgroups has two blocks at least, so that one is on its way. */
static bits_cut choose_cut(const vulkan_limits *limits, int64_t rows, int64_t blocks) {
  int64_t tiles = rows / ROW_TILE, multiprocessors = limits->multiprocessors;
  bits_cut cut = {256, 4};
  if (tiles >= MANY_TILES * multiprocessors && cut.threads <= limits->group_threads && blocks >= 2 * cut.slices) return cut;
  cut.slices = tiles <= FEW_TILES * multiprocessors ? 14 : 8;
  while (cut.slices > 1 && (cut.slices * 32 > limits->group_threads || cut.slices * 2 > blocks)) cut.slices--;
  cut.threads = cut.slices * 32;
  return cut;
}

bpdq_status bpdq_vulkan_add_bits(vulkan_builder *builder, const vulkan_product *p, bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  BPDQ_TRY(add_prepare(builder, p, "prepare_bits", weight->blocks, BITS_ITEM_BYTES, BITS_ITEM_THREADS, error));
  for (int i = 0; i < weight->piece_count; i++) {
    const vulkan_piece *piece = &weight->pieces[i];
    bits_cut cut = choose_cut(&builder->vulkan->context.limits, piece->rows, weight->blocks);
    const uint32_t constants[] = {cut.threads, cut.slices, (uint32_t)weight->planes, (uint32_t)weight->group, weight->number};
    vulkan_dispatch dispatch;
    BPDQ_TRY(bpdq_vulkan_dispatch_start(builder, &dispatch, token_tiles(builder) > 1 ? "bits_16" : "bits_8", constants, 5, error));
    bpdq_vulkan_bind_product(&dispatch, p, piece, 0);
    bpdq_vulkan_read_scratch(&dispatch, 3, VULKAN_SCRATCH_TRANSFORMED);
    dispatch.grid[0] = (uint32_t)bpdq_ceil_div((uint64_t)piece->rows, cut.threads / 32 / cut.slices * ROW_TILE);
    BPDQ_TRY(bpdq_vulkan_dispatch_add(builder, &dispatch, error));
  }
  if (builder->prepared.tensor == p->op->output) builder->prepared.valid = false;
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_add_head_matrix(vulkan_builder *builder, const vulkan_product *p, bpdq_error *error) {
  const bpdq_weight *weight = p->weight;
  int64_t items = weight->row_bytes / HEAD_COLUMNS;
  const uint32_t constants[] = {HEAD_THREADS, (uint32_t)items};
  BPDQ_TRY(add_prepare(builder, p, "prepare_head", items, HEAD_ITEM_BYTES, HEAD_ITEM_THREADS, error));
  for (int i = 0; i < weight->piece_count; i++) {
    const vulkan_piece *piece = &weight->pieces[i];
    vulkan_dispatch dispatch;
    BPDQ_TRY(
        bpdq_vulkan_dispatch_start(builder, &dispatch, token_tiles(builder) > 1 ? "head_matrix_16" : "head_matrix_8", constants, 2, error));
    bpdq_vulkan_bind_product(&dispatch, p, piece, 0);
    bpdq_vulkan_read_scratch(&dispatch, 3, VULKAN_SCRATCH_TRANSFORMED);
    dispatch.grid[0] = (uint32_t)bpdq_ceil_div((uint64_t)piece->rows, HEAD_THREADS / 32 * HEAD_ROWS);
    BPDQ_TRY(bpdq_vulkan_dispatch_add(builder, &dispatch, error));
  }
  return BPDQ_OK;
}
