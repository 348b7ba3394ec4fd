/* Tables and products for instruction sets whose byte shuffle looks all bytes up in one table (AVX2, NEON). Bits are byte-planar: the
 * bytes of a shuffle are the same columns of 32 rows. The including file supplies
 *   look_up(bits, tables, chunks, digits, sums)   adds up one plane of a group: sums[digit][row], at most 64 look-ups of 255 each
 *   store_low_bytes(out, words)                   16 words, in vectors, to 16 bytes */
#include "backend/cpu/kernels_tables.h"

/* Activations as integers, and per 4 of them the offset that makes every subset sum positive, in whole units of the digits kept. */
static void integers_and_offsets(const float *x, int group, const table_scale *scale, int32_t *values, uint32_t *offsets) {
  uint32_t unit = (1u << scale->shift) - 1;
  const vf shift = broadcast(12582912.0f), exact = broadcast(4194304.0f); /* from 2^22 on the trick does not hold, nor is it needed */
  for (int j = 0; j < group; j += KERNEL_LANES) {
    vf value = load_f32(x + j) * scale->inverse;
    vi small = (value < exact) & (value > -exact);
    vi rounded = __builtin_convertvector(choose(small, (value + shift) - shift, value), vi);
    memcpy(values + j, &rounded, sizeof rounded);
  }
  for (int i = 0; i < group / 4; i++) {
    uint32_t negative = 0;
    for (int b = 0; b < 4; b++) negative += values[4 * i + b] < 0 ? 0u - (uint32_t)values[4 * i + b] : 0;
    offsets[i] = (negative + unit) & ~unit;
  }
}

enum { ENTRY_VECTORS = 16 / KERNEL_LANES };

/* sums[e] = (start + the values at the bits of e) >> shift, e = 0..15 */
static inline void subset_sums(const int32_t *values, uint32_t start, int shift, vu *sums) {
  static const uint32_t bits[4][16] = {{0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u},
                                       {0, 0, ~0u, ~0u, 0, 0, ~0u, ~0u, 0, 0, ~0u, ~0u, 0, 0, ~0u, ~0u},
                                       {0, 0, 0, 0, ~0u, ~0u, ~0u, ~0u, 0, 0, 0, 0, ~0u, ~0u, ~0u, ~0u},
                                       {0, 0, 0, 0, 0, 0, 0, 0, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u}};
  UNROLL(4) for (int v = 0; v < ENTRY_VECTORS; v++) {
    vu sum = (vu){0} + start;
    UNROLL(4) for (int b = 0; b < 4; b++) sum += load_u32(bits[b] + v * KERNEL_LANES) & (uint32_t)values[b];
    sums[v] = sum >> (uint32_t)shift;
  }
}

static void tabulate_group(const float *x, int group, int64_t q, cpu_tables *tables) {
  int32_t values[256];
  uint32_t offsets[64], low = 0, high = 0;
  float largest_sum = 0, sum[4] = {0};
  for (int i = 0; i < group; i += 4) {
    float quad = fabsf(x[i]) + fabsf(x[i + 1]) + fabsf(x[i + 2]) + fabsf(x[i + 3]);
    largest_sum = quad > largest_sum ? quad : largest_sum;
    for (int b = 0; b < 4; b++) sum[b] += x[i + b];
  }
  tables->sum[q] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  table_scale scale = table_scale_of(largest_sum, tables->sum[q], tables->digits);
  tables->scale[q] = scale.unit;
  integers_and_offsets(x, group, &scale, values, offsets);
  uint8_t *out = tables->bytes + (uint64_t)q * (uint64_t)group / 32 * 128 * (uint64_t)tables->digits;
  uint32_t half = scale.shift ? 1u << (scale.shift - 1) : 0;
  for (int i = 0; i < group / 4; i++) {
    low += offsets[i] >> scale.shift & 0xffff;
    high += offsets[i] >> scale.shift >> 16;
    vu sums[ENTRY_VECTORS];
    subset_sums(values + 4 * i, offsets[i] + half, scale.shift, sums);
    uint8_t *at = out + table_position(i, tables->digits);
    for (int d = 0; d < tables->digits; d++) {
      store_low_bytes(at + 64 * d, sums);
      UNROLL(4) for (int v = 0; v < ENTRY_VECTORS; v++) sums[v] >>= 8;
    }
  }
  tables->offset[2 * q] = (int32_t)low;
  tables->offset[2 * q + 1] = (int32_t)high;
}

static void tabulate(const float *x, int group, int64_t first, int64_t count, cpu_tables *tables) {
  if (group > 256) return; /* the compiler's proof that the arrays of tabulate_group suffice */
  for (int64_t q = first; q < first + count; q++) tabulate_group(x + q * group, group, q, tables);
}

static inline vi load_sums(const uint16_t *sums) {
  vh halves;
  memcpy(&halves, sums, sizeof halves);
  return (vi) __builtin_convertvector(halves, vu);
}

/* scale-free plane sums of KERNEL_LANES rows from `row`: D - offset. */
static inline __attribute__((always_inline)) vf combine_digits(uint16_t (*sums)[CPU_TILE], int row, int digits, const int32_t *offset) {
  vi low = load_sums(sums[0] + row);
  if (digits > 1) low += load_sums(sums[1] + row) << 8;
  vf result = __builtin_convertvector(low - offset[0], vf);
  if (digits < 4) return result;
  vi high = load_sums(sums[2] + row) + (load_sums(sums[3] + row) << 8);
  return __builtin_convertvector(high - offset[1], vf) * 65536.0f + result;
}

static inline __attribute__((always_inline)) void product(const cpu_planes *planes, const uint8_t *tile, const cpu_tables *tables,
                                                          int digits, bpdq_dtype type, float *y) {
  enum { VECTORS = CPU_TILE / KERNEL_LANES };
  int chunks = planes->group / 32, size = (int)bpdq_dtype_size(type), plane_bytes = chunks * CPU_CHUNK_BYTES;
  const uint8_t *table = tables->bytes;
  memset(y, 0, CPU_TILE * sizeof *y);
  for (int64_t q = 0; q < planes->groups; q++, table += chunks * 128 * digits) {
    const uint8_t *coefficients = tile + planes->planes * plane_bytes;
    vf sum[VECTORS];
    UNROLL(8) for (int v = 0; v < VECTORS; v++) sum[v] = (vf){0};
    for (int p = 0; p < planes->planes; p++, coefficients += CPU_TILE * size) {
      uint16_t sums[4][CPU_TILE] __attribute__((aligned(64)));
      look_up(tile + p * plane_bytes, table, chunks, digits, sums);
      UNROLL(8)
      for (int v = 0; v < VECTORS; v++)
        sum[v] += load_values(coefficients + v * KERNEL_LANES * size, type) *
                  combine_digits(sums, v * KERNEL_LANES, digits, tables->offset + 2 * q);
    }
    UNROLL(8) for (int v = 0; v < VECTORS; v++) {
      vf total = load_f32(y + v * KERNEL_LANES) + sum[v] * tables->scale[q];
      store_f32(y + v * KERNEL_LANES, total + load_values(coefficients + v * KERNEL_LANES * size, type) * tables->sum[q]);
    }
    tile += planes->group_bytes;
  }
}

static void planes_product(const cpu_planes *planes, const uint8_t *tile, const cpu_tables *tables, float *y) {
  TABLE_PRODUCT_BY_TYPE(product, planes, tile, tables, y);
}
