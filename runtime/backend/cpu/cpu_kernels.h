/* The inner loops of the CPU backend: one table of functions per instruction set, chosen at run time, and the layouts that they read.
 *
 * Planes are kept in tiles of 32 rows with the rows across the vector lanes, so that coefficients apply to whole vectors and nothing is
 * summed across lanes. A tile is one contiguous stream in the order in which a product reads it:
 *
 *     for each group:  for each plane:  for each 32 columns:  128 bytes of bits
 *                      for each plane, then the bias:         32 coefficients (bf16, f16 or f32)
 *
 * The 128 bytes are the 32 rows' words of checkpoint plane B (bit i is column i), either as words in row order, or, for instruction sets
 * whose byte shuffle knows only one table of 16 entries (AVX2, NEON), byte-planar: byte j of all 32 rows, j = 0..3. Rows past the last
 * one are zero. Nothing is ever dequantized outside a block that stays in the cache.
 *
 * One token is multiplied by table look-up. The sums of all 16 subsets of 4 neighbouring activations are tabulated as unsigned integers
 * of 1, 2 or 4 bytes (activations 8, 16, f32), each byte ("digit") in a table of its own for the byte shuffle; the look-ups of a group
 * are added exactly in integers, and scale, offset and coefficients are applied once per row, plane and group in f32. An integer subset
 * sum carries the rounding of one sum rather than of four activations, so a byte is as good as int8 activations, two bytes as int16, and
 * four bytes (31 bits) are beyond f32 rounding.
 */
#ifndef BPDQ_BACKEND_CPU_KERNELS_H
#define BPDQ_BACKEND_CPU_KERNELS_H

#include <stddef.h>

#include "backend/backend.h"

enum {
  CPU_TILE = 32,         /* rows of a tile */
  CPU_CHUNK_BYTES = 128, /* one plane of 32 rows and 32 columns */
  CPU_TABLE_BYTES = 512, /* the tables of 32 columns at 4 digits */
  CPU_TABLE_TOKENS = 6,  /* up to this many rows go through tables, more are multiplied in dequantized blocks */
  CPU_BLOCK = 64,        /* cache positions of a KV block, the unit of attention */
  CPU_QUERIES = 4,       /* query rows that attention handles together */
  CPU_PANEL_COLUMNS = 256,
  CPU_HEAD_BLOCK = 64 /* columns that share a scale in an 8-bit head */
};

/* A bit-plane matrix in tiles. */
typedef struct cpu_planes {
  int planes, group;
  int64_t groups, tile_count;
  bpdq_dtype coefficient_type;
  uint64_t group_bytes, tile_bytes;
  uint8_t *tiles; /* [tile_count][tile_bytes], 64-byte aligned */
} cpu_planes;

/* The tabulated activations of one token, for groups of one size. For a plane's look-ups summed to D, the plane sum is
 *     sum_j bit_j x_j = scale * (D - offset),  with D - offset = (d0 + 256 d1 - offset[0]) + 65536 (d2 + 256 d3 - offset[1]). */
typedef struct cpu_tables {
  int digits;      /* 1, 2 or 4 */
  uint8_t *bytes;  /* [columns / 32][2: low, high nibble][digits][4: byte of the word][16]; plain C: f32 [columns / 4][16] */
  float *scale;    /* [groups] */
  int32_t *offset; /* [groups][2] */
  float *sum;      /* [groups], sum of x: what the bias is multiplied by */
} cpu_tables;

/* Up to CPU_QUERIES query rows that read the same KV head, with their running softmax. */
typedef struct cpu_queries {
  int count;
  int64_t head_dim, padded_dim;                 /* padded to a multiple of 16 */
  const float *query[CPU_QUERIES];              /* [head_dim], times the softmax scale */
  int64_t first[CPU_QUERIES], end[CPU_QUERIES]; /* cache rows that this query sees, counted over the whole cache */
  float largest[CPU_QUERIES], sum[CPU_QUERIES];
  float *accumulator[CPU_QUERIES]; /* [padded_dim]: sum of exp(score - largest) * v */
} cpu_queries;

typedef struct cpu_kernels {
  const char *name;
  bool byte_planar; /* layout of a chunk, see above */
  int token_block;  /* tokens of a packed block for multiply */

  /* Bit-planes, one token. x is [groups * group], zero beyond K. Fills the tables of `count` groups from `first`. */
  void (*tabulate)(const float *x, int group, int64_t first, int64_t count, cpu_tables *tables);
  /* y[32] = tile . x */
  void (*planes_product)(const cpu_planes *planes, const uint8_t *tile, const cpu_tables *tables, float *y);
  /* panel[columns][32] = the tile's values; first_column is a multiple of 32, columns at most CPU_PANEL_COLUMNS, also a multiple of 32. */
  void (*planes_panel)(const cpu_planes *planes, const uint8_t *tile, int64_t first_column, int64_t columns, float *panel);

  /* Dense rows (unaligned). y[i] = rows[i] . x for count <= 4 rows of `columns` values. */
  void (*dense_product)(const uint8_t *const *rows, int count, bpdq_dtype dtype, const float *x, int64_t columns, float *y);
  /* values[columns] = one row's values from `first_column` */
  void (*dense_values)(const uint8_t *row, bpdq_dtype dtype, int64_t first_column, int64_t columns, float *values);
  /* Rows of an 8-bit head (cpu_head.c). y[i] = rows[i] . x for count <= 4 rows; x is zero-padded to padded_columns. */
  void (*head8_product)(const uint8_t *const *rows, int count, const float *x, int64_t padded_columns, float *y);

  /* c[token_block][32] (+)= x . panel, x packed [columns][token_block]; f32 sums over at most CPU_PANEL_COLUMNS columns, then added. */
  void (*multiply)(const float *panel, const float *x, int64_t columns, bool accumulate, float *c);

  float (*sum_squares)(const float *x, int64_t count);
  void (*scale_by)(const float *x, float factor, const float *weights, int64_t count, float *out); /* out = x * factor * weights */
  void (*silu_gate)(const float *gate, const float *up, int64_t count, float *out);

  /* Attention over one KV block of one head whose 64 rows start at cache row `block_row`.
   * F16: k is f16 [head_dim][64], v is f16 [64][padded_dim]. F32: the same in f32. Q8: in int8, each followed by f32 scales [64]. */
  void (*attend)(cpu_queries *queries, const uint8_t *k, const uint8_t *v, bpdq_kv_type type, int64_t block_row);
  void (*store_f16)(const float *x, int64_t count, uint16_t *out);

  float (*largest_magnitude)(const float *x, int64_t count);                    /* 0 for an empty one; NaN is passed over */
  void (*round_int8)(const float *x, float factor, int64_t count, int8_t *out); /* x * factor to the nearest of -127..127 */
  float (*largest)(const float *x, int64_t count);                  /* of the values that are not NaN; -inf where there is none */
  double (*sum_exp)(const float *x, int64_t count, float subtract); /* sum of exp(x - subtract), NaN skipped */
} cpu_kernels;

extern const cpu_kernels cpu_kernels_plain;
extern const cpu_kernels cpu_kernels_avx2;   /* x86-64: AVX2, FMA, F16C */
extern const cpu_kernels cpu_kernels_avx512; /* x86-64: AVX-512 F, BW, DQ, VL, VBMI, VNNI */
extern const cpu_kernels cpu_kernels_neon;   /* aarch64 */

/* The best kernels of this processor; BPDQ_CPU_KERNELS ("plain", "avx2", "avx512", "neon") asks for others. NULL, with *asked naming it,
 * where that variable names kernels that this processor cannot run. `features` describes the paths in use. */
const cpu_kernels *cpu_choose_kernels(char *features, size_t size, const char **asked);

/* Bytes of a row of an 8-bit head: int8 [padded_columns], then bf16 scales [padded_columns / CPU_HEAD_BLOCK]. */
static inline int64_t cpu_head8_row_bytes(int64_t padded_columns) { return padded_columns + padded_columns / CPU_HEAD_BLOCK * 2; }

static inline uint64_t cpu_padded_dim(int64_t head_dim) { return ((uint64_t)head_dim + 15) / 16 * 16; }
/* Bytes of one KV block of one head; blocks are ordered [cache rows / 64][kv head]. */
static inline uint64_t cpu_kv_block_bytes(int64_t head_dim, bpdq_kv_type type) {
  uint64_t values = CPU_BLOCK * cpu_padded_dim(head_dim);
  return type == BPDQ_KV_F32 ? values * 4 : type == BPDQ_KV_F16 ? values * 2 : values + CPU_BLOCK * sizeof(float);
}

#endif
