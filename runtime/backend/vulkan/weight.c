/* Checking a weight's description and allocating its pieces. */
#include "backend/vulkan/weight.h"

#include <stdlib.h>
#include <string.h>

#include "core/checked.h"

#define MAX_COLUMNS ((int64_t)1 << 20) /* shaders index with 32 bits, and a row must fit into a staging slot */
#define MAX_ROWS ((int64_t)1 << 28)

static bpdq_status check_desc(const bpdq_weight_desc *desc, int64_t *rows, bpdq_error *error) {
  int64_t columns = desc->kind == BPDQ_WEIGHT_VECTOR ? 1 : desc->columns;
  *rows = 0;
  if (columns < 1 || columns > MAX_COLUMNS || desc->part_count < 1)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "%s: %lld columns; the Vulkan backend takes 1 to %lld", desc->name, (long long)columns,
                     (long long)MAX_COLUMNS);
  for (int i = 0; i < desc->part_count; i++) {
    if (desc->parts[i].rows < 1 || desc->parts[i].rows > MAX_ROWS - *rows)
      return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "%s: part %d has %lld rows", desc->name, i, (long long)desc->parts[i].rows);
    *rows += desc->parts[i].rows;
  }
  if (desc->kind != BPDQ_WEIGHT_PLANES) return BPDQ_OK;
  if (desc->planes < 1 || desc->planes > 8 || desc->group < 32 || desc->group > 256 || desc->group % 32)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED,
                     "%s: %d planes in groups of %d; supported are 1-8 planes, groups 32-256 (multiples of 32)", desc->name, desc->planes,
                     desc->group);
  return BPDQ_OK;
}

static vulkan_number number_of(bpdq_dtype type) {
  return type == BPDQ_F16 ? VULKAN_NUMBER_F16 : type == BPDQ_BF16 ? VULKAN_NUMBER_BF16 : VULKAN_NUMBER_F32;
}

vulkan_number bpdq_vulkan_common_number(const bpdq_weight_desc *desc) {
  bool planes = desc->kind == BPDQ_WEIGHT_PLANES;
  vulkan_number first = number_of(planes ? desc->parts[0].coefficient_dtype : desc->parts[0].dtype);
  for (int i = 1; i < desc->part_count; i++)
    if (number_of(planes ? desc->parts[i].coefficient_dtype : desc->parts[i].dtype) != first) return VULKAN_NUMBER_F32;
  return first;
}

/* A large head is most of what a token reads beside the planes. In 8 bits with a scale per 32 columns
 * the head of classics-28m gives a mean KL of 3e-5 (errors of 0.2% of the logits); small heads, where a token gains little, stay exact. */
static bool wants_8_bits(const vulkan_uploader *uploader, const bpdq_weight_desc *desc, int64_t rows) {
  bool any =
      uploader->any_head || bpdq_vulkan_switch("BPDQ_VULKAN_SMALL_HEADS") == VULKAN_SWITCH_ON; /* tests have no large ones to spare */
  return desc->is_head && desc->kind == BPDQ_WEIGHT_DENSE && (any || rows >= BPDQ_HEAD_ELEMENTS / desc->columns);
}

/* Bytes per row of 8 (one tile) of the matrix and of the coefficients. */
static void tile_bytes(const bpdq_weight *weight, uint64_t *matrix, uint64_t *coefficients) {
  if (weight->kind == BPDQ_WEIGHT_DENSE) {
    *matrix = (uint64_t)weight->row_bytes * VULKAN_TILE_ROWS;
    *coefficients = weight->number == VULKAN_NUMBER_INT8 ? (uint64_t)weight->groups * 4 * VULKAN_TILE_ROWS : 0;
    return;
  }
  *matrix = (uint64_t)weight->blocks * (uint64_t)weight->planes * 16 * VULKAN_TILE_ROWS;
  *coefficients =
      (uint64_t)weight->groups * (uint64_t)(weight->planes + 1) * (weight->number == VULKAN_NUMBER_F32 ? 4 : 2) * VULKAN_TILE_ROWS;
}

static bpdq_status allocate_pieces(vulkan_uploader *uploader, const char *name, bpdq_weight *weight, bpdq_error *error) {
  const vulkan_limits *limits = &uploader->context->limits;
  uint64_t limit = limits->storage_range < limits->allocation ? limits->storage_range : limits->allocation;
  uint64_t matrix, coefficients;
  tile_bytes(weight, &matrix, &coefficients);
  uint64_t largest = matrix > coefficients ? matrix : coefficients;
  uint64_t piece_tiles = (limit - 512) / largest, tiles = bpdq_ceil_div((uint64_t)weight->rows, VULKAN_TILE_ROWS);
  if (!piece_tiles)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "%s: 8 rows need %llu bytes, the device's shaders see at most %llu at once", name,
                     (unsigned long long)largest, (unsigned long long)limit);
  weight->piece_count = (int)bpdq_ceil_div(tiles, piece_tiles);
  weight->pieces = calloc((size_t)weight->piece_count, sizeof *weight->pieces);
  if (!weight->pieces) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  for (int i = 0; i < weight->piece_count; i++) {
    vulkan_piece *piece = &weight->pieces[i];
    uint64_t first = (uint64_t)i * piece_tiles, count = tiles - first < piece_tiles ? tiles - first : piece_tiles;
    piece->first_row = (int64_t)first * VULKAN_TILE_ROWS;
    piece->rows = (int64_t)count * VULKAN_TILE_ROWS;
    if (piece->rows > weight->rows - piece->first_row) piece->rows = weight->rows - piece->first_row;
    BPDQ_TRY(bpdq_vulkan_allocate(uploader->memory, VULKAN_MEMORY_DEVICE, count * matrix, name, &piece->matrix, error));
    weight->bytes += count * (matrix + coefficients);
    if (coefficients)
      BPDQ_TRY(bpdq_vulkan_allocate(uploader->memory, VULKAN_MEMORY_DEVICE, count * coefficients, name, &piece->coefficients, error));
  }
  return BPDQ_OK;
}

/* An allocated weight with undefined contents. */
static bpdq_status allocate(vulkan_uploader *uploader, const bpdq_weight_desc *desc, vulkan_number number, bpdq_weight **result,
                            bpdq_error *error) {
  int64_t rows;
  *result = NULL;
  BPDQ_TRY(check_desc(desc, &rows, error));
  bpdq_weight *weight = calloc(1, sizeof *weight);
  if (!weight) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  weight->kind = desc->kind;
  weight->rows = rows;
  weight->columns = desc->kind == BPDQ_WEIGHT_VECTOR ? 1 : desc->columns;
  weight->number = number;
  bpdq_status status;
  if (desc->kind == BPDQ_WEIGHT_VECTOR) {
    weight->bytes = (uint64_t)rows * 4;
    status = bpdq_vulkan_allocate(uploader->memory, VULKAN_MEMORY_DEVICE, weight->bytes, desc->name, &weight->vector, error);
  } else {
    if (desc->kind == BPDQ_WEIGHT_PLANES) {
      weight->planes = desc->planes;
      weight->group = desc->group;
      int64_t padded = (int64_t)bpdq_round_up((uint64_t)desc->columns, (uint64_t)desc->group);
      weight->blocks = (int64_t)bpdq_ceil_div((uint64_t)padded, VULKAN_BLOCK_COLUMNS);
      weight->groups = (int64_t)bpdq_ceil_div((uint64_t)weight->blocks * VULKAN_BLOCK_COLUMNS, (uint64_t)desc->group);
    } else if (wants_8_bits(uploader, desc, rows)) {
      weight->number = VULKAN_NUMBER_INT8;
      weight->row_bytes = (int64_t)bpdq_round_up((uint64_t)desc->columns, 64);
      weight->groups = weight->row_bytes / 64;
    } else {
      weight->row_bytes = (int64_t)bpdq_round_up((uint64_t)desc->columns, 8) * (weight->number == VULKAN_NUMBER_F32 ? 4 : 2);
    }
    status = allocate_pieces(uploader, desc->name, weight, error);
  }
  if (status == BPDQ_OK)
    *result = weight;
  else
    bpdq_vulkan_weight_destroy(uploader, weight);
  return status;
}

bpdq_status bpdq_vulkan_weight_create(vulkan_uploader *uploader, const bpdq_weight_desc *desc, bpdq_weight **weight, bpdq_error *error) {
  if (desc->part_count < 1) return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "%s: no parts", desc->name);
  BPDQ_TRY(allocate(uploader, desc, bpdq_vulkan_common_number(desc), weight, error));
  bpdq_status status = bpdq_vulkan_weight_upload(uploader, desc, *weight, error);
  if (status != BPDQ_OK) {
    bpdq_vulkan_weight_destroy(uploader, *weight);
    *weight = NULL;
  }
  return status;
}

bpdq_status bpdq_vulkan_weight_random(vulkan_uploader *uploader, const bpdq_weight_desc *desc, uint64_t seed, bpdq_weight **weight,
                                      bpdq_error *error) {
  BPDQ_TRY(allocate(uploader, desc, VULKAN_NUMBER_BF16, weight, error));
  bpdq_status status = bpdq_vulkan_weight_fill(uploader, *weight, seed, error);
  if (status != BPDQ_OK) {
    bpdq_vulkan_weight_destroy(uploader, *weight);
    *weight = NULL;
  }
  return status;
}

void bpdq_vulkan_weight_destroy(vulkan_uploader *uploader, bpdq_weight *weight) {
  if (!weight) return;
  bpdq_vulkan_upload_flush(uploader, NULL); /* a copy into it may be under way */
  for (int i = 0; i < weight->piece_count && weight->pieces; i++) {
    bpdq_vulkan_release(uploader->memory, &weight->pieces[i].matrix);
    bpdq_vulkan_release(uploader->memory, &weight->pieces[i].coefficients);
  }
  bpdq_vulkan_release(uploader->memory, &weight->vector);
  free(weight->pieces);
  free(weight);
}
