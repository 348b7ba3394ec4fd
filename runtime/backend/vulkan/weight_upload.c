/* A weight's contents: streamed through the staging ring and repacked on the device, or made there from a hash. */
#include <string.h>

#include "backend/vulkan/weight.h"
#include "core/checked.h"
#include "core/half.h"

static uint32_t groups_of(uint64_t items) { return (uint32_t)bpdq_ceil_div(items, 64); } /* repacking shaders have 64 threads */

static int64_t at_most(int64_t value, int64_t limit) { return value < limit ? value : limit; }

/* ---- host side: rows of the stacked parts into staging memory ---- */

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

/* The exponent of a value that is not finite is all ones. Written so that compilers turn the loops into vector code. */
static bool all_finite(const void *values, vulkan_number number, int64_t count) {
  const uint8_t *bytes = values;
  uint32_t bad = 0;
  if (number == VULKAN_NUMBER_F32) {
    for (int64_t i = 0; i < count; i++) {
      uint32_t bits;
      memcpy(&bits, bytes + 4 * i, 4);
      bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
  } else {
    uint16_t mask = number == VULKAN_NUMBER_F16 ? 0x7c00u : 0x7f80u;
    for (int64_t i = 0; i < count; i++) {
      uint16_t bits;
      memcpy(&bits, bytes + 2 * i, 2);
      bad |= (bits & mask) == mask;
    }
  }
  return !bad;
}

typedef struct row_range {
  int64_t first, rows; /* of the whole stacked matrix */
} row_range;

/* Copies values [line, part rows in range] of every part, where each part stores its lines with `rows` values; converts to f32 when
 * `number` differs from the part's type. Returns the number of bytes written. */
static int64_t copy_line(const bpdq_weight_desc *desc, bool coefficients, int64_t line, row_range range, vulkan_number number,
                         uint8_t *target) {
  int64_t part_first = 0, written = 0, size = number == VULKAN_NUMBER_F32 ? 4 : 2;
  for (int i = 0; i < desc->part_count; i++) {
    const bpdq_weight_part *part = &desc->parts[i];
    int64_t begin = range.first > part_first ? range.first : part_first;
    int64_t end = at_most(range.first + range.rows, part_first + part->rows);
    if (begin < end) {
      bpdq_dtype type = coefficients ? part->coefficient_dtype : part->dtype;
      int64_t type_size = coefficients ? (int64_t)bpdq_dtype_size(type) : 4;
      const uint8_t *source =
          (const uint8_t *)(coefficients ? part->coefficients : part->data) + (line * part->rows + begin - part_first) * type_size;
      if (coefficients && type_size != size)
        to_float(source, type, end - begin, (float *)(void *)(target + written));
      else
        memcpy(target + written, source, (size_t)((end - begin) * size));
      written += (end - begin) * size;
    }
    part_first += part->rows;
  }
  return written;
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
      int64_t stride = (int64_t)bpdq_round_up((uint64_t)rows, VULKAN_TILE_ROWS), lines = at_most(blocks * 4, words - block * 4);
      vulkan_upload_slot *slot;
      BPDQ_TRY(bpdq_vulkan_upload_begin(uploader, &slot, error));
      uint8_t *target = slot->staging.mapped;
      for (int64_t line = 0; line < lines * planes; line++, target += stride * 4) {
        int64_t written =
            copy_line(desc, false, block * 4 * planes + line, (row_range){piece->first_row + row, rows}, VULKAN_NUMBER_F32, target);
        memset(target + written, 0, (size_t)(stride * 4 - written));
      }
      const vulkan_binding bindings[VULKAN_BINDINGS] = {bpdq_vulkan_whole(&slot->staging), bpdq_vulkan_whole(&piece->matrix)};
      const uint32_t push[] = {(uint32_t)stride, (uint32_t)row,    (uint32_t)block,
                               (uint32_t)lines,  (uint32_t)planes, (uint32_t)weight->blocks};
      const uint32_t grid[3] = {groups_of((uint64_t)stride), (uint32_t)planes, (uint32_t)blocks};
      BPDQ_TRY(bpdq_vulkan_upload_dispatch(uploader, slot, "repack_planes", bindings, push, 6, grid, error));
      BPDQ_TRY(bpdq_vulkan_upload_end(uploader, slot, error));
    }
  return BPDQ_OK;
}

static bpdq_status upload_coefficients(vulkan_uploader *uploader, const bpdq_weight_desc *desc, const bpdq_weight *weight,
                                       const vulkan_piece *piece, bpdq_error *error) {
  int64_t size = weight->number == VULKAN_NUMBER_F32 ? 4 : 2, lines = weight->planes + 1; /* per group */
  int64_t row_step =
      at_most((int64_t)bpdq_round_up((uint64_t)piece->rows, VULKAN_TILE_ROWS), (int64_t)VULKAN_UPLOAD_SLOT_BYTES / (lines * size) / 8 * 8);
  int64_t group_step = at_most((int64_t)VULKAN_UPLOAD_SLOT_BYTES / (row_step * lines * size), 65535);
  int64_t stored = (int64_t)bpdq_ceil_div((uint64_t)desc->columns, (uint64_t)weight->group); /* groups of the checkpoint */
  for (int64_t row = 0; row < piece->rows; row += row_step)
    for (int64_t group = 0; group < weight->groups; group += group_step) {
      int64_t rows = at_most(row_step, piece->rows - row), groups = at_most(group_step, weight->groups - group);
      int64_t stride = (int64_t)bpdq_round_up((uint64_t)rows, VULKAN_TILE_ROWS);
      vulkan_upload_slot *slot;
      BPDQ_TRY(bpdq_vulkan_upload_begin(uploader, &slot, error));
      uint8_t *target = slot->staging.mapped;
      for (int64_t line = 0; line < groups * lines; line++, target += stride * size) {
        int64_t written = 0;
        if (group + line / lines < stored)
          written = copy_line(desc, true, group * lines + line, (row_range){piece->first_row + row, rows}, weight->number, target);
        memset(target + written, 0, (size_t)(stride * size - written));
        if (!all_finite(target, weight->number, stride))
          return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: a coefficient of group %lld is not finite; the file is damaged", desc->name,
                           (long long)(group + line / lines));
      }
      const vulkan_binding bindings[VULKAN_BINDINGS] = {bpdq_vulkan_whole(&slot->staging), bpdq_vulkan_whole(&piece->coefficients)};
      const uint32_t push[] = {(uint32_t)stride,         (uint32_t)row,           (uint32_t)group, (uint32_t)weight->planes,
                               (uint32_t)weight->groups, (uint32_t)weight->number};
      const uint32_t grid[3] = {groups_of((uint64_t)stride), (uint32_t)groups, 1};
      BPDQ_TRY(bpdq_vulkan_upload_dispatch(uploader, slot, "repack_coefficients", bindings, push, 6, grid, error));
      BPDQ_TRY(bpdq_vulkan_upload_end(uploader, slot, error));
    }
  return BPDQ_OK;
}

/* ---- dense matrices and vectors: plain copies ---- */

static void copy_to_buffer(vulkan_uploader *uploader, vulkan_upload_slot *slot, const vulkan_buffer *buffer, uint64_t offset,
                           uint64_t bytes) {
  VkBufferCopy copy = {slot->staging.offset, buffer->offset + offset, bytes};
  uploader->context->vk.CmdCopyBuffer(slot->commands.buffer, slot->staging.buffer, buffer->buffer, 1, &copy);
}

/* Row `row` of the stacked matrix in the type `number`, padded with zeros to `row_bytes`. */
static void copy_dense_row(const bpdq_weight_desc *desc, vulkan_number number, int64_t row_bytes, int64_t row, uint8_t *target) {
  int part = 0;
  while (row >= desc->parts[part].rows) row -= desc->parts[part++].rows;
  bpdq_dtype type = desc->parts[part].dtype;
  const uint8_t *source = (const uint8_t *)desc->parts[part].data + row * desc->columns * (int64_t)bpdq_dtype_size(type);
  int64_t size = number == VULKAN_NUMBER_F32 ? 4 : 2, bytes = desc->columns * size;
  if ((int64_t)bpdq_dtype_size(type) != size)
    to_float(source, type, desc->columns, (float *)(void *)target);
  else
    memcpy(target, source, (size_t)bytes);
  memset(target + bytes, 0, (size_t)(row_bytes - bytes));
}

static bpdq_status upload_dense(vulkan_uploader *uploader, const bpdq_weight_desc *desc, const bpdq_weight *weight,
                                const vulkan_piece *piece, bpdq_error *error) {
  int64_t step = (int64_t)VULKAN_UPLOAD_SLOT_BYTES / weight->row_bytes;
  for (int64_t first = 0; first < piece->rows; first += step) {
    int64_t rows = at_most(step, piece->rows - first);
    vulkan_upload_slot *slot;
    BPDQ_TRY(bpdq_vulkan_upload_begin(uploader, &slot, error));
    for (int64_t row = 0; row < rows; row++)
      copy_dense_row(desc, weight->number, weight->row_bytes, piece->first_row + first + row,
                     slot->staging.mapped + row * weight->row_bytes);
    copy_to_buffer(uploader, slot, &piece->matrix, (uint64_t)(first * weight->row_bytes), (uint64_t)(rows * weight->row_bytes));
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
    for (int64_t row = 0; row < rows; row++)
      copy_dense_row(desc, number, source_bytes, piece->first_row + first + row, slot->staging.mapped + row * source_bytes);
    const vulkan_binding bindings[VULKAN_BINDINGS] = {bpdq_vulkan_whole(&slot->staging), bpdq_vulkan_whole(&piece->matrix),
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
      copy_to_buffer(uploader, slot, &weight->vector, (uint64_t)(first + done) * 4, (uint64_t)count * 4);
      BPDQ_TRY(bpdq_vulkan_upload_end(uploader, slot, error));
    }
    first += part->rows;
  }
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_weight_upload(vulkan_uploader *uploader, const bpdq_weight_desc *desc, bpdq_weight *weight, bpdq_error *error) {
  if (weight->kind == BPDQ_WEIGHT_VECTOR) return upload_vector(uploader, desc, weight, error);
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
