/* Weights in the layout of the shaders.
 *
 * PLANES. Rows go in tiles of 8 and columns in blocks of 128 (zero rows and columns fill the last ones), so that neighbouring threads
 * read neighbouring 16 bytes, whether they take one row each or share a row:
 *   matrix        uvec4 [tiles][blocks][planes][8 rows]: component j, bit i is column 128 block + 32 j + i
 *   coefficients  [tiles][groups][...] with groups = ceil(128 blocks / group), the ones past the checkpoint's being zero:
 *     16 bits (bf16 or f16 as in the checkpoint): uint [pairs][8 rows] with planes 2i (low half) and 2i+1, the bias counting as plane
 *     `planes`; then, where planes is even, uint [4] with the biases of rows 2i (low half) and 2i+1. Nothing is wasted.
 *     32 bits: float [planes + 1][8 rows]
 * DENSE: row-major, rows padded with zeros to a multiple of 8 columns, in the checkpoint's type (f32 when parts differ).
 *   A large output head becomes 8 bits: bytes padded to a multiple of 64 columns, and coefficients uint [rows][columns / 64], two bf16
 *   scales of 32 columns each (repack_head.comp).
 * A matrix is cut along its rows into pieces that one descriptor can see. */
#ifndef BPDQ_VULKAN_WEIGHT_H
#define BPDQ_VULKAN_WEIGHT_H

#include "backend/vulkan/upload.h"

#define VULKAN_TILE_ROWS 8
#define VULKAN_BLOCK_COLUMNS 128

typedef enum vulkan_number {
  VULKAN_NUMBER_F32,
  VULKAN_NUMBER_F16,
  VULKAN_NUMBER_BF16,
  VULKAN_NUMBER_INT8
} vulkan_number; /* also in the shaders */

typedef struct vulkan_piece {
  int64_t first_row, rows;
  vulkan_buffer matrix, coefficients;
} vulkan_piece;

struct bpdq_weight {
  bpdq_weight_kind kind;
  int64_t rows, columns;
  int planes, group;
  int64_t blocks, groups; /* PLANES: as stored */
  int64_t row_bytes;      /* DENSE: of a padded row */
  vulkan_number number;   /* of coefficients or dense values */
  vulkan_piece *pieces;   /* matrices */
  int piece_count;
  vulkan_buffer vector; /* VECTOR: f32 [rows] */
  uint64_t bytes;       /* of device memory */
};

/* The type that all parts share, or f32: of the coefficients of planes, else of the values. */
vulkan_number bpdq_vulkan_common_number(const bpdq_weight_desc *desc);

/* backend.h: weight_create and weight_random */
bpdq_status bpdq_vulkan_weight_create(vulkan_uploader *uploader, const bpdq_weight_desc *desc, bpdq_weight **weight, bpdq_error *error);
bpdq_status bpdq_vulkan_weight_random(vulkan_uploader *uploader, const bpdq_weight_desc *desc, uint64_t seed, bpdq_weight **weight,
                                      bpdq_error *error);
void bpdq_vulkan_weight_destroy(vulkan_uploader *uploader, bpdq_weight *weight);

/* ---- weight_upload.c: a weight's contents, from host memory or from a hash ---- */

/* Streams the parts into the allocated weight. BPDQ_ERROR_FORMAT names desc->name where a coefficient is not finite. */
bpdq_status bpdq_vulkan_weight_upload(vulkan_uploader *uploader, const bpdq_weight_desc *desc, bpdq_weight *weight, bpdq_error *error);
bpdq_status bpdq_vulkan_weight_fill(vulkan_uploader *uploader, bpdq_weight *weight, uint64_t seed, bpdq_error *error);

#endif
