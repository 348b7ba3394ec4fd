/* A weight's contents: streamed through the staging ring and repacked on the device, or made there from a hash. */
#include <string.h>

#include "backend/vulkan/weight.h"
#include "core/checked.h"
#include "core/half.h"

static uint32_t groups_of(uint64_t items) { return (uint32_t)bpdq_ceil_div(items, 64); } /* repacking shaders have 64 threads */

static int64_t at_most(int64_t value, int64_t limit) { return value < limit ? value : limit; }

/* ---- host side: rows of the stacked parts into staging memory, which is written and never read: it may be uncached ---- */

/* Converts `count` values of a checkpoint's type to f32. `source` may be unaligned. */
static void to_float(const void *source, bpdq_dtype type, int64_t count, float *target) {
  const uint8_t *bytes = source;
  if (type == BPDQ_F32) {
    memcpy(target, source, (size_t)count * 4);
    return;
  }
  for (int64_t i = 0; i < count; i++) {
    uint16_t half;
    memcpy(&half, bytes + 2 * i, 2);
    target[i] = type == BPDQ_F16 ? bpdq_f16_to_float(half) : bpdq_bf16_to_float(half);
  }
}

typedef struct row_range {
  int64_t first, rows; /* of the whole stacked matrix */
} row_range;

/* Lines of the checkpoint, each of the values of all rows: [line, row]. What is stored beyond `count` is zero. */
typedef struct line_range {
  int64_t first, count; /* of the stored lines */
  int64_t padded;       /* lines to be written */
} line_range;

/* Values [line, rows of the range] of all parts, packed to lines of `stride` values of `size` bytes (padded with zeros); converted to f32
 * where the part's type has another size. */
static void copy_lines(const vulkan_uploader *uploader, const bpdq_weight_desc *desc, bool coefficients, line_range lines, row_range range,
                       int64_t stride, int64_t size, uint8_t *target) {
  int64_t part_first = 0, written = 0; /* bytes of a line */
  for (int i = 0; i < desc->part_count; part_first += desc->parts[i++].rows) {
    const bpdq_weight_part *part = &desc->parts[i];
    int64_t begin = range.first > part_first ? range.first : part_first;
    int64_t end = at_most(range.first + range.rows, part_first + part->rows);
    if (begin >= end) continue;
    bpdq_dtype type = coefficients ? part->coefficient_dtype : part->dtype;
    int64_t type_size = (int64_t)bpdq_dtype_size(type), pitch = part->rows * type_size;
    const uint8_t *source =
        (const uint8_t *)(coefficients ? part->coefficients : part->data) + lines.first * pitch + (begin - part_first) * type_size;
    if (type_size == size)
      bpdq_copy_rows(uploader->threads, &(bpdq_row_copy){target + written, source, (size_t)(stride * size), (size_t)pitch,
                                                         (size_t)((end - begin) * size), (size_t)lines.count});
    else
      for (int64_t line = 0; line < lines.count; line++)
        to_float(source + line * pitch, type, end - begin, (float *)(void *)(target + line * stride * size + written));
    written += (end - begin) * size;
  }
  for (int64_t line = 0; line < lines.count && written < stride * size; line++)
    memset(target + line * stride * size + written, 0, (size_t)(stride * size - written));
  memset(target + lines.count * stride * size, 0, (size_t)((lines.padded - lines.count) * stride * size));
}

/* ---- bit-planes ---- */

static bpdq_status upload_planes(vulkan_uploader *uploader, const bpdq_weight_desc *desc, const bpdq_weight *weight,
                                 const vulkan_piece *piece, bpdq_error *error) {
  int64_t planes = weight->planes, row_step = at_most((int64_t)bpdq_round_up((uint64_t)piece->rows, VULKAN_TILE_ROWS),
                                                      (int64_t)(VULKAN_UPLOAD_SLOT_BYTES / (uint64_t)(planes * 16)) / 8 * 8);
  int64_t block_step = (int64_t)VULKAN_UPLOAD_SLOT_BYTES / (row_step * planes * 16);
  int64_t words = (int64_t)bpdq_ceil_div((uint64_t)desc->columns, (uint64_t)weight->group) * weight->group / 32; /* T of the checkpoint */
  block_step = at_most(block_step, 65535);
  for (int64_t row = 0; row < piece->rows; row += row_step)
    for (int64_t block = 0; block < weight->blocks; block += block_step) {
      int64_t rows = at_most(row_step, piece->rows - row), blocks = at_most(block_step, weight->blocks - block);
      int64_t stride = (int64_t)bpdq_round_up((uint64_t)rows, VULKAN_TILE_ROWS), stored = at_most(blocks * 4, words - block * 4);
      vulkan_upload_slot *slot;
      BPDQ_TRY(bpdq_vulkan_upload_begin(uploader, &slot, error));
      line_range lines = {block * 4 * planes, stored * planes, stored * planes};
      copy_lines(uploader, desc, false, lines, (row_range){piece->first_row + row, rows}, stride, 4, slot->staging.mapped);
      bpdq_vulkan_upload_copy(uploader, slot, &slot->device, 0, (uint64_t)(lines.padded * stride * 4));
      const vulkan_binding bindings[VULKAN_BINDINGS] = {bpdq_vulkan_whole(&slot->device), bpdq_vulkan_whole(&piece->matrix)};
      const uint32_t push[] = {(uint32_t)stride, (uint32_t)row,    (uint32_t)block,
                               (uint32_t)stored, (uint32_t)planes, (uint32_t)weight->blocks};
      const uint32_t grid[3] = {groups_of((uint64_t)stride), (uint32_t)planes, (uint32_t)blocks};
      BPDQ_TRY(bpdq_vulkan_upload_dispatch(uploader, slot, "repack_planes", bindings, push, 6, grid, error));
      BPDQ_TRY(bpdq_vulkan_upload_end(uploader, slot, error));
    }
  return BPDQ_OK;
}

static bpdq_status upload_coefficients(vulkan_uploader *uploader, const bpdq_weight_desc *desc, const bpdq_weight *weight,
                                       const vulkan_piece *piece, bpdq_error *error) {
  int64_t size = weight->number == VULKAN_NUMBER_F32 ? 4 : 2, slots = weight->planes + 1; /* lines per group */
  int64_t row_step =
      at_most((int64_t)bpdq_round_up((uint64_t)piece->rows, VULKAN_TILE_ROWS), (int64_t)VULKAN_UPLOAD_SLOT_BYTES / (slots * size) / 8 * 8);
  int64_t group_step = at_most((int64_t)VULKAN_UPLOAD_SLOT_BYTES / (row_step * slots * size), 65535);
  int64_t stored = (int64_t)bpdq_ceil_div((uint64_t)desc->columns, (uint64_t)weight->group); /* groups of the checkpoint */
  for (int64_t row = 0; row < piece->rows; row += row_step)
    for (int64_t group = 0; group < weight->groups; group += group_step) {
      int64_t rows = at_most(row_step, piece->rows - row), groups = at_most(group_step, weight->groups - group);
      int64_t stride = (int64_t)bpdq_round_up((uint64_t)rows, VULKAN_TILE_ROWS), there = at_most(groups, stored - group);
      vulkan_upload_slot *slot;
      BPDQ_TRY(bpdq_vulkan_upload_begin(uploader, &slot, error));
      line_range lines = {group * slots, (there > 0 ? there : 0) * slots, groups * slots};
      copy_lines(uploader, desc, true, lines, (row_range){piece->first_row + row, rows}, stride, size, slot->staging.mapped);
      bpdq_vulkan_upload_copy(uploader, slot, &slot->device, 0, (uint64_t)(lines.padded * stride * size));
      const vulkan_binding bindings[VULKAN_BINDINGS] = {bpdq_vulkan_whole(&slot->device), bpdq_vulkan_whole(&piece->coefficients)};
      const uint32_t push[] = {(uint32_t)stride,         (uint32_t)row,           (uint32_t)group, (uint32_t)weight->planes,
                               (uint32_t)weight->groups, (uint32_t)weight->number};
      const uint32_t grid[3] = {groups_of((uint64_t)stride), (uint32_t)groups, 1};
      BPDQ_TRY(bpdq_vulkan_upload_dispatch(uploader, slot, "repack_coefficients", bindings, push, 6, grid, error));
      BPDQ_TRY(bpdq_vulkan_upload_end(uploader, slot, error));
    }
  return BPDQ_OK;
}

/* ---- dense matrices and vectors: plain copies ---- */

/* Rows of the stacked matrix in the type `number`, each padded with zeros to `row_bytes`. */
static void copy_dense_rows(const vulkan_uploader *uploader, const bpdq_weight_desc *desc, vulkan_number number, int64_t row_bytes,
                            row_range range, uint8_t *target) {
  int64_t part_first = 0, size = number == VULKAN_NUMBER_F32 ? 4 : 2, bytes = desc->columns * size;
  for (int i = 0; i < desc->part_count; part_first += desc->parts[i++].rows) {
    const bpdq_weight_part *part = &desc->parts[i];
    int64_t begin = range.first > part_first ? range.first : part_first;
    int64_t end = at_most(range.first + range.rows, part_first + part->rows);
    int64_t type_size = (int64_t)bpdq_dtype_size(part->dtype), pitch = desc->columns * type_size;
    if (begin >= end) continue;
    const uint8_t *source = (const uint8_t *)part->data + (begin - part_first) * pitch;
    uint8_t *to = target + (begin - range.first) * row_bytes;
    if (type_size == size)
      bpdq_copy_rows(uploader->threads,
                     &(bpdq_row_copy){to, source, (size_t)row_bytes, (size_t)pitch, (size_t)bytes, (size_t)(end - begin)});
    else
      for (int64_t row = begin; row < end; row++, source += pitch, to += row_bytes)
        to_float(source, part->dtype, desc->columns, (float *)(void *)to);
  }
  for (int64_t row = 0; row < range.rows && bytes < row_bytes; row++)
    memset(target + row * row_bytes + bytes, 0, (size_t)(row_bytes - bytes));
}

static bpdq_status upload_dense(vulkan_uploader *uploader, const bpdq_weight_desc *desc, const bpdq_weight *weight,
                                const vulkan_piece *piece, bpdq_error *error) {
  int64_t step = (int64_t)VULKAN_UPLOAD_SLOT_BYTES / weight->row_bytes;
  for (int64_t first = 0; first < piece->rows; first += step) {
    int64_t rows = at_most(step, piece->rows - first);
    vulkan_upload_slot *slot;
    BPDQ_TRY(bpdq_vulkan_upload_begin(uploader, &slot, error));
    row_range range = {piece->first_row + first, rows};
    copy_dense_rows(uploader, desc, weight->number, weight->row_bytes, range, slot->staging.mapped);
    bpdq_vulkan_upload_copy(uploader, slot, &piece->matrix, (uint64_t)(first * weight->row_bytes), (uint64_t)(rows * weight->row_bytes));
    BPDQ_TRY(bpdq_vulkan_upload_end(uploader, slot, error));
  }
  return BPDQ_OK;
}

/* A head that is stored in 8 bits: uploaded in its own type and quantized on the device. */
static bpdq_status upload_head(vulkan_uploader *uploader, const bpdq_weight_desc *desc, const bpdq_weight *weight,
                               const vulkan_piece *piece, bpdq_error *error) {
  vulkan_number number = bpdq_vulkan_common_number(desc);
  int64_t columns = weight->row_bytes, source_bytes = columns * (number == VULKAN_NUMBER_F32 ? 4 : 2);
  int64_t step = at_most((int64_t)VULKAN_UPLOAD_SLOT_BYTES / source_bytes, 65535);
  for (int64_t first = 0; first < piece->rows; first += step) {
    int64_t rows = at_most(step, piece->rows - first);
    vulkan_upload_slot *slot;
    BPDQ_TRY(bpdq_vulkan_upload_begin(uploader, &slot, error));
    copy_dense_rows(uploader, desc, number, source_bytes, (row_range){piece->first_row + first, rows}, slot->staging.mapped);
    bpdq_vulkan_upload_copy(uploader, slot, &slot->device, 0, (uint64_t)(rows * source_bytes));
    const vulkan_binding bindings[VULKAN_BINDINGS] = {bpdq_vulkan_whole(&slot->device), bpdq_vulkan_whole(&piece->matrix),
                                                      bpdq_vulkan_whole(&piece->coefficients)};
    const uint32_t push[] = {(uint32_t)rows, (uint32_t)first, (uint32_t)columns, (uint32_t)number};
    const uint32_t grid[3] = {groups_of((uint64_t)columns / 64), (uint32_t)rows, 1};
    BPDQ_TRY(bpdq_vulkan_upload_dispatch(uploader, slot, "repack_head", bindings, push, 4, grid, error));
    BPDQ_TRY(bpdq_vulkan_upload_end(uploader, slot, error));
  }
  return BPDQ_OK;
}

static bpdq_status upload_vector(vulkan_uploader *uploader, const bpdq_weight_desc *desc, const bpdq_weight *weight, bpdq_error *error) {
  int64_t step = (int64_t)VULKAN_UPLOAD_SLOT_BYTES / 4, first = 0;
  for (int i = 0; i < desc->part_count; i++) {
    const bpdq_weight_part *part = &desc->parts[i];
    for (int64_t done = 0; done < part->rows; done += step) {
      int64_t count = at_most(step, part->rows - done);
      vulkan_upload_slot *slot;
      BPDQ_TRY(bpdq_vulkan_upload_begin(uploader, &slot, error));
      to_float((const uint8_t *)part->data + done * (int64_t)bpdq_dtype_size(part->dtype), part->dtype, count,
               (float *)(void *)slot->staging.mapped);
      bpdq_vulkan_upload_copy(uploader, slot, &weight->vector, (uint64_t)(first + done) * 4, (uint64_t)count * 4);
      BPDQ_TRY(bpdq_vulkan_upload_end(uploader, slot, error));
    }
    first += part->rows;
  }
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_weight_upload(vulkan_uploader *uploader, const bpdq_weight_desc *desc, bpdq_weight *weight, bpdq_error *error) {
  BPDQ_TRY(bpdq_vulkan_upload_start(uploader, error));
  if (weight->kind == BPDQ_WEIGHT_VECTOR) return upload_vector(uploader, desc, weight, error);
  float largest;
  if (weight->kind == BPDQ_WEIGHT_PLANES) BPDQ_TRY(bpdq_check_coefficients(uploader->threads, desc, &largest, error));
  for (int i = 0; i < weight->piece_count; i++) {
    const vulkan_piece *piece = &weight->pieces[i];
    if (weight->number == VULKAN_NUMBER_INT8) {
      BPDQ_TRY(upload_head(uploader, desc, weight, piece, error));
    } else if (weight->kind == BPDQ_WEIGHT_DENSE) {
      BPDQ_TRY(upload_dense(uploader, desc, weight, piece, error));
    } else {
      BPDQ_TRY(upload_coefficients(uploader, desc, weight, piece, error));
      BPDQ_TRY(upload_planes(uploader, desc, weight, piece, error));
    }
  }
  return BPDQ_OK;
}

/* ---- random weights ---- */

typedef enum fill_mode { FILL_BITS, FILL_HALVES, FILL_FLOATS, FILL_ONES } fill_mode; /* as in fill_random.comp */

static bpdq_status fill(vulkan_uploader *uploader, const vulkan_buffer *buffer, uint64_t seed, fill_mode mode, vulkan_number number,
                        bpdq_error *error) {
  vulkan_upload_slot *slot;
  BPDQ_TRY(bpdq_vulkan_upload_begin(uploader, &slot, error));
  const vulkan_binding bindings[VULKAN_BINDINGS] = {{0}, bpdq_vulkan_whole(buffer)};
  uint64_t words = buffer->size / 4;
  uint32_t groups = (uint32_t)at_most(groups_of(words), 16384);
  const uint32_t push[] = {(uint32_t)words, (uint32_t)(seed ^ seed >> 32), (uint32_t)mode, (uint32_t)number};
  const uint32_t grid[3] = {groups, 1, 1};
  BPDQ_TRY(bpdq_vulkan_upload_dispatch(uploader, slot, "fill_random", bindings, push, 4, grid, error));
  return bpdq_vulkan_upload_end(uploader, slot, error);
}

bpdq_status bpdq_vulkan_weight_fill(vulkan_uploader *uploader, bpdq_weight *weight, uint64_t seed, bpdq_error *error) {
  if (weight->kind == BPDQ_WEIGHT_VECTOR) return fill(uploader, &weight->vector, seed, FILL_ONES, VULKAN_NUMBER_F32, error);
  fill_mode values = weight->number == VULKAN_NUMBER_F32 ? FILL_FLOATS : FILL_HALVES;
  for (int i = 0; i < weight->piece_count; i++) {
    const vulkan_piece *piece = &weight->pieces[i];
    uint64_t piece_seed = (seed + 1) * 0x9e3779b97f4a7c15u + (uint64_t)i * 0xbf58476d1ce4e5b9u;
    bool scaled = piece->coefficients.block != NULL;
    vulkan_number number = weight->number == VULKAN_NUMBER_INT8 ? VULKAN_NUMBER_BF16 : weight->number;
    BPDQ_TRY(fill(uploader, &piece->matrix, piece_seed, scaled ? FILL_BITS : values, number, error));
    if (scaled) BPDQ_TRY(fill(uploader, &piece->coefficients, ~piece_seed, values, number, error));
  }
  return BPDQ_OK;
}
