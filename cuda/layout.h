/* Where each bit and coefficient of a bit-plane weight lies in device memory, and each activation that meets it.
 *
 * Planes are stored as the A operand of mma.m16n8k256.b1 (PTX ISA, "Matrix fragments for mma.m16n8k256"): a lane (r, q) = (lane / 4,
 * lane % 4) holds, for a tile of 16 rows x 256 columns, four 32-bit words: rows r and r + 8, columns 32q.. and 128 + 32q.. . A word is
 * the checkpoint's word B[t, p, n] unchanged, so nothing is unpacked on the way to the tensor core.
 *
 *   planes        uint32 [row_tiles, column_tiles, planes, 32 lanes, 4]
 *   coefficients  16 bit [row_tiles, groups, planes + 1, 8 (r), 2 (row r, row r + 8)]; the slot `planes` is the group's bias
 *   bits of x     uint32 [tokens, column_tiles, slices, 8 (bit), 4 (q), 2 (half of the tile)]; slice s holds bits 8s .. 8s+7
 *   8-bit dense   int8 [row_tiles, column_tiles, 4 (64 columns), 2 (row r, row r + 8), 32 lanes, 16 columns]
 *   f16 of x      [tokens, column_tiles * 256], the columns of each 128 in the order of bpdq_cuda_half_position; for up to 16 tokens
 *                 [tokens / 8, column_tiles, 8 (32 positions), 8 (token) x 4 (q) lanes, 8 positions], what a warp loads being consecutive
 *   bytes of x    int8 [tokens / 8, column_tiles, 4, 8 (token) x 4 (q) lanes, 16], for up to 16 tokens: bpdq_cuda_byte_index
 *
 * Plain integer functions for host and device: tests/unit/test_cuda_layout.c replays the fragment rules on the CPU.
 */
#ifndef BPDQ_CUDA_LAYOUT_H
#define BPDQ_CUDA_LAYOUT_H

#include <stdint.h>

#ifdef __CUDACC__
#define BPDQ_HOST_DEVICE __host__ __device__
#else
#define BPDQ_HOST_DEVICE
#endif

#define BPDQ_CUDA_TILE_ROWS 16
#define BPDQ_CUDA_TILE_COLUMNS 256
#define BPDQ_CUDA_TILE_WORDS 128 /* uint32 per plane of a tile */

/* Index of checkpoint word B[t, plane, row] in the uint32 array of planes. */
BPDQ_HOST_DEVICE static inline int64_t bpdq_cuda_plane_word(int64_t row, int64_t t, int plane, int planes, int64_t column_tiles) {
  int64_t tile = (row >> 4) * column_tiles + (t >> 3);
  int r = (int)(row & 7), q = (int)(t & 3);
  int word = (int)((row >> 3) & 1) + 2 * (int)((t >> 2) & 1);
  return (tile * planes + plane) * BPDQ_CUDA_TILE_WORDS + (r * 4 + q) * 4 + word;
}

/* Index of coefficient c[group, slot, row]. `groups` counts the padding up to column_tiles * 256 columns. */
BPDQ_HOST_DEVICE static inline int64_t bpdq_cuda_coefficient(int64_t row, int64_t group, int slot, int planes, int64_t groups) {
  return (((row >> 4) * groups + group) * (planes + 1) + slot) * 16 + (row & 7) * 2 + ((row >> 3) & 1);
}

/* Index, within one slice of one column tile (64 words), of the word with bit `bit` of the columns 32 * word .. 32 * word + 31. */
BPDQ_HOST_DEVICE static inline int bpdq_cuda_bit_word(int bit, int word) { return bit * 8 + (word & 3) * 2 + (word >> 2); }

/* Weights of bits 2q and 2q + 1 of a slice of two's complement, as f16: of the product that adds up counts (planes_bitserial.cuh). */
BPDQ_HOST_DEVICE static inline uint32_t bpdq_cuda_bit_weights(int slice, int slices, int q) {
  uint32_t low = (uint32_t)(8 * slice + 2 * q + 15) << 10, high = low + (1u << 10);
  if (slice == slices - 1 && q == 3) high |= 0x8000;
  return high << 16 | low;
}

/* Index of element (row, column) of an 8-bit dense matrix: a lane (r, q) reads its 16 columns of a row at once, for two steps of
 * mma.m16n8k32, whose columns are taken in that order. */
BPDQ_HOST_DEVICE static inline int64_t bpdq_cuda_q8_index(int64_t row, int64_t column, int64_t column_tiles) {
  int64_t tile = (row >> 4) * column_tiles + (column >> 8);
  int part = (int)((column >> 6) & 3) * 2 + (int)((row >> 3) & 1), lane = (int)(row & 7) * 4 + (int)((column >> 4) & 3);
  return (tile * 8 + part) * 512 + lane * 16 + (column & 15);
}

/* Position, within a block of 128, of column `column` of an f16 activation row. A lane q of mma.m16n8k16 that holds the plane word of
 * columns 32q .. 32q + 31 takes bits 4j .. 4j + 3 and 4j + 16 .. 4j + 19 in the two k-steps 2j and 2j + 1, paired (i, i + 16); the
 * eight activations of those bits are made consecutive here, so that the B fragments of two steps are one 16-byte load. */
BPDQ_HOST_DEVICE static inline int bpdq_cuda_half_position(int column) {
  int q = column >> 5, high = (column >> 4) & 1, j = (column >> 2) & 3, u = column & 3;
  return j * 32 + q * 8 + u * 2 + high;
}

/* The same for the matrix unit of sm_90a (planes_wgmma.cu), which reads whole rows: k-step by k-step, in its own order. */
BPDQ_HOST_DEVICE static inline int bpdq_cuda_half_step_position(int column) {
  int q = column >> 5, high = (column >> 4) & 1, j = (column >> 2) & 3, u = column & 3;
  return j * 32 + u * 8 + q * 2 + high;
}

/* Index, within one column tile of eight rows, of the byte of `column` of `row`: lane q has the columns of its plane words, four apart in a
 * register, as the nibbles of a word are (planes_levels.cu); two registers are the B operand of an mma.m16n8k32. */
BPDQ_HOST_DEVICE static inline int bpdq_cuda_byte_index(int row, int column) {
  int half = column >> 7, q = (column >> 5) & 3, high = (column >> 4) & 1, i = (column >> 2) & 3, u = column & 3;
  return ((half * 2 + (u >> 1)) * 32 + row * 4 + q) * 16 + (u & 1) * 8 + high * 4 + i;
}

/* Caches. K is [kv_heads, rows, width] and V is [kv_heads, rows / 32, width, 32]: blocks of 32 cache rows with the rows innermost, so that
 * both products of attention read whole sectors. rows is rounded up to 32, width (head_dim) up to 32, 64, 96, 128
 * or 256; the padding is zero. */
BPDQ_HOST_DEVICE static inline int64_t bpdq_cuda_key_index(int64_t head, int64_t row, int64_t rows, int width) {
  return (head * rows + row) * width;
}
BPDQ_HOST_DEVICE static inline int64_t bpdq_cuda_value_index(int64_t head, int64_t row, int dim, int64_t rows, int width) {
  return ((head * (rows >> 5) + (row >> 5)) * width + dim) * 32 + (row & 31);
}

#endif
