/* AVX-512 with VBMI and VNNI (Ice Lake, Zen 4 and newer). vpermb looks 64 nibbles up at once in four tables of 16 bytes: a 32-bit plane
 * word of a row is four bytes with a table each, so that words are used in checkpoint order, and vpdpbusd adds a row's four look-ups. */
#include <immintrin.h>

#include "backend/cpu/cpu_kernels.h"

#define KERNEL_LANES 16
#define KERNEL_ROW_VECTORS 2
#define KERNEL_TOKEN_BLOCK 12
#define KERNEL_VALUE_VECTORS 4
#include "backend/cpu/kernels_vector.h"

static inline vf load_f16(const uint8_t *data) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)data)); }

static inline vf load_int8(const uint8_t *data) {
  return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)data)));
}

static inline void store_f16_vector(uint16_t *out, vf value) {
  _mm256_storeu_si256((__m256i *)(void *)out, _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline void load_words(const uint8_t *chunk, uint32_t *words) { memcpy(words, chunk, CPU_CHUNK_BYTES); }

#include "backend/cpu/kernels_common.h"
#include "backend/cpu/kernels_tables.h"

/* The sums of each 4 neighbouring lanes, in all four of them. */
static inline __m512 quad_sums_f32(__m512 v) {
  v = _mm512_add_ps(v, _mm512_permute_ps(v, 0xB1));
  return _mm512_add_ps(v, _mm512_permute_ps(v, 0x4E));
}

static inline __m512i quad_sums_i32(__m512i v) {
  v = _mm512_add_epi32(v, _mm512_shuffle_epi32(v, _MM_PERM_CDAB));
  return _mm512_add_epi32(v, _mm512_shuffle_epi32(v, _MM_PERM_BADC));
}

/* Activations as integers, and per 4 of them the offset that makes every subset sum positive, in whole units of the digits kept. */
static inline void integers_and_offsets(const float *x, int group, const table_scale *scale, int32_t *values, int32_t *offsets) {
  __m512i unit = _mm512_set1_epi32((int32_t)((1u << scale->shift) - 1));
  for (int j = 0; j < group; j += 16) {
    __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + j), _mm512_set1_ps(scale->inverse)));
    __m512i negative = quad_sums_i32(_mm512_sub_epi32(_mm512_setzero_si512(), _mm512_min_epi32(v, _mm512_setzero_si512())));
    _mm512_storeu_si512(values + j, v);
    _mm512_storeu_si512(offsets + j, _mm512_andnot_si512(unit, _mm512_add_epi32(negative, unit)));
  }
}

static void tabulate_group(const float *x, int group, int64_t q, cpu_tables *tables) {
  int32_t values[256] __attribute__((aligned(64))), offsets[256] __attribute__((aligned(64)));
  __m512 largest_sum = _mm512_setzero_ps(), sum = _mm512_setzero_ps();
  for (int j = 0; j < group; j += 16) {
    __m512 v = _mm512_loadu_ps(x + j);
    largest_sum = _mm512_max_ps(largest_sum, quad_sums_f32(_mm512_abs_ps(v)));
    sum = _mm512_add_ps(sum, v);
  }
  tables->sum[q] = _mm512_reduce_add_ps(sum);
  table_scale scale = table_scale_of(_mm512_reduce_max_ps(largest_sum), tables->sum[q], tables->digits);
  tables->scale[q] = scale.unit;
  integers_and_offsets(x, group, &scale, values, offsets);
  uint32_t low = 0, high = 0;
  uint8_t *out = tables->bytes + (uint64_t)q * (uint64_t)group / 32 * 128 * (uint64_t)tables->digits;
  __m512i half = _mm512_set1_epi32(scale.shift ? 1 << (scale.shift - 1) : 0);
  __m128i shift = _mm_cvtsi32_si128(scale.shift);
  for (int i = 0; i < group / 4; i++) {
    const int32_t *v = values + 4 * i;
    uint32_t offset = (uint32_t)offsets[4 * i] >> scale.shift;
    low += offset & 0xffff;
    high += offset >> 16;
    __m512i e = _mm512_add_epi32(half, _mm512_set1_epi32(offsets[4 * i]));
    e = _mm512_mask_add_epi32(e, 0xAAAA, e, _mm512_set1_epi32(v[0]));
    e = _mm512_mask_add_epi32(e, 0xCCCC, e, _mm512_set1_epi32(v[1]));
    e = _mm512_mask_add_epi32(e, 0xF0F0, e, _mm512_set1_epi32(v[2]));
    e = _mm512_mask_add_epi32(e, 0xFF00, e, _mm512_set1_epi32(v[3]));
    e = _mm512_srl_epi32(e, shift);
    uint8_t *at = out + table_position(i, tables->digits);
    for (int d = 0; d < tables->digits; d++) {
      _mm_store_si128((__m128i *)(void *)(at + 64 * d), _mm512_cvtepi32_epi8(e));
      e = _mm512_srli_epi32(e, 8);
    }
  }
  tables->offset[2 * q] = (int32_t)low;
  tables->offset[2 * q + 1] = (int32_t)high;
}

static void tabulate(const float *x, int group, int64_t first, int64_t count, cpu_tables *tables) {
  for (int64_t q = first; q < first + count; q++) tabulate_group(x + q * group, group, q, tables);
}

enum { PREFETCH = 8192 }; /* bytes ahead in the tile's stream: on a Sapphire Rapids core 12.0 GB/s, with 2048 9.8 GB/s */

/* Adds one plane of a group: look-ups of `chunks` x 32 columns for 32 rows, summed per digit and 16 rows. */
static inline __attribute__((always_inline)) void look_up(const uint8_t *bits, const uint8_t *tables, int chunks, int digits,
                                                          __m512i (*sums)[2]) {
  const __m512i nibble = _mm512_set1_epi8(15), select = _mm512_set1_epi32(0x30201000), ones = _mm512_set1_epi8(1);
  UNROLL(4) for (int d = 0; d < digits; d++) sums[d][0] = sums[d][1] = _mm512_setzero_si512();
  for (int c = 0; c < chunks; c++, bits += CPU_CHUNK_BYTES) {
    __m512i words[2] = {_mm512_load_si512(bits), _mm512_load_si512(bits + 64)};
    _mm_prefetch((const char *)bits + PREFETCH, _MM_HINT_T0);
    _mm_prefetch((const char *)bits + PREFETCH + 64, _MM_HINT_T0);
    UNROLL(2) for (int h = 0; h < 2; h++) {
      __m512i index[2];
      UNROLL(2)
      for (int r = 0; r < 2; r++) /* (word >> 4 h & 15) | 16 * byte */
        index[r] = _mm512_ternarylogic_epi32(h ? _mm512_srli_epi32(words[r], 4) : words[r], nibble, select, 0xEA);
      UNROLL(4) for (int d = 0; d < digits; d++, tables += 64) {
        __m512i table = _mm512_load_si512(tables);
        UNROLL(2) for (int r = 0; r < 2; r++) sums[d][r] = _mm512_dpbusd_epi32(sums[d][r], _mm512_permutexvar_epi8(index[r], table), ones);
      }
    }
  }
}

static inline __attribute__((always_inline)) __m512 combine_digits(__m512i (*sums)[2], int r, int digits, const int32_t *offset) {
  __m512i low = digits == 1 ? sums[0][r] : _mm512_add_epi32(sums[0][r], _mm512_slli_epi32(sums[1][r], 8));
  __m512 result = _mm512_cvtepi32_ps(_mm512_sub_epi32(low, _mm512_set1_epi32(offset[0])));
  if (digits < 4) return result;
  __m512i high = _mm512_add_epi32(sums[2][r], _mm512_slli_epi32(sums[3][r], 8));
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(high, _mm512_set1_epi32(offset[1]))), _mm512_set1_ps(65536.0f), result);
}

static inline __attribute__((always_inline)) void product(const cpu_planes *planes, const uint8_t *tile, const cpu_tables *tables,
                                                          int digits, bpdq_dtype type, float *y) {
  int chunks = planes->group / 32, size = (int)bpdq_dtype_size(type), plane_bytes = chunks * CPU_CHUNK_BYTES;
  const uint8_t *table = tables->bytes;
  __m512 total[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (int64_t q = 0; q < planes->groups; q++, table += chunks * 128 * digits) {
    const uint8_t *coefficients = tile + planes->planes * plane_bytes;
    __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int p = 0; p < planes->planes; p++, coefficients += CPU_TILE * size) {
      __m512i sums[4][2];
      look_up(tile + p * plane_bytes, table, chunks, digits, sums);
      UNROLL(2)
      for (int r = 0; r < 2; r++)
        sum[r] = _mm512_fmadd_ps((__m512)load_values(coefficients + r * 16 * size, type),
                                 combine_digits(sums, r, digits, tables->offset + 2 * q), sum[r]);
    }
    UNROLL(2) for (int r = 0; r < 2; r++) {
      total[r] = _mm512_fmadd_ps(sum[r], _mm512_set1_ps(tables->scale[q]), total[r]);
      total[r] = _mm512_fmadd_ps((__m512)load_values(coefficients + r * 16 * size, type), _mm512_set1_ps(tables->sum[q]), total[r]);
    }
    tile += planes->group_bytes;
  }
  _mm512_storeu_ps(y, total[0]);
  _mm512_storeu_ps(y + 16, total[1]);
}

static void planes_product(const cpu_planes *planes, const uint8_t *tile, const cpu_tables *tables, float *y) {
  TABLE_PRODUCT_BY_TYPE(product, planes, tile, tables, y);
}

const cpu_kernels cpu_kernels_avx512 = {.name = "avx512", .tabulate = tabulate, .planes_product = planes_product, COMMON_KERNELS};
