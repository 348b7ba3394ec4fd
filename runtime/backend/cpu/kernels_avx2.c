/* AVX2 with FMA and F16C (Haswell, Zen and newer). */
#include <immintrin.h>

#include "backend/cpu/cpu_kernels.h"

#define KERNEL_LANES 8
#define KERNEL_ROW_VECTORS 2
#define KERNEL_TOKEN_BLOCK 6
#define KERNEL_VALUE_VECTORS 2
#include "backend/cpu/kernels_vector.h"

static inline vf load_f16(const uint8_t *data) { return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)data)); }

static inline vf load_int8(const uint8_t *data) {
  return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)data)));
}

static inline void store_f16_vector(uint16_t *out, vf value) {
  _mm_storeu_si128((__m128i *)(void *)out, _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* Four rows of 32 bytes to 32 words: bytes are paired, then pairs. */
static inline void load_words(const uint8_t *chunk, uint32_t *words) {
  const __m256i *bytes = (const __m256i *)(const void *)chunk;
  __m256i low = _mm256_unpacklo_epi8(bytes[0], bytes[1]), high = _mm256_unpackhi_epi8(bytes[0], bytes[1]);
  __m256i low2 = _mm256_unpacklo_epi8(bytes[2], bytes[3]), high2 = _mm256_unpackhi_epi8(bytes[2], bytes[3]);
  __m256i quarters[4] = {_mm256_unpacklo_epi16(low, low2), _mm256_unpackhi_epi16(low, low2), _mm256_unpacklo_epi16(high, high2),
                         _mm256_unpackhi_epi16(high, high2)};
  for (int i = 0; i < 4; i++) { /* each holds rows 4 i ... and 16 + 4 i ... */
    _mm_storeu_si128((__m128i *)(void *)(words + 4 * i), _mm256_castsi256_si128(quarters[i]));
    _mm_storeu_si128((__m128i *)(void *)(words + 16 + 4 * i), _mm256_extracti128_si256(quarters[i], 1));
  }
}

#include "backend/cpu/kernels_common.h"

enum { PREFETCH = 8192 }; /* bytes ahead in the tile's stream */

/* vpshufb looks the nibbles of 32 rows up; bytes are added in 16 bits, even and odd rows apart. */
static inline __attribute__((always_inline)) void look_up(const uint8_t *bits, const uint8_t *tables, int chunks, int digits,
                                                          uint16_t (*sums)[CPU_TILE]) {
  const __m256i nibble = _mm256_set1_epi8(15), low_byte = _mm256_set1_epi16(255);
  __m256i even[4], odd[4];
  UNROLL(4) for (int d = 0; d < digits; d++) even[d] = odd[d] = _mm256_setzero_si256();
  for (int c = 0; c < chunks; c++, bits += CPU_CHUNK_BYTES, tables += 128 * digits) {
    _mm_prefetch((const char *)bits + PREFETCH, _MM_HINT_T0);
    _mm_prefetch((const char *)bits + PREFETCH + 64, _MM_HINT_T0);
    UNROLL(4) for (int j = 0; j < 4; j++) {
      __m256i bytes = _mm256_load_si256((const __m256i *)(const void *)(bits + j * CPU_TILE));
      UNROLL(2) for (int h = 0; h < 2; h++) {
        __m256i index = _mm256_and_si256(h ? _mm256_srli_epi16(bytes, 4) : bytes, nibble);
        UNROLL(4) for (int d = 0; d < digits; d++) {
          const __m128i *table = (const __m128i *)(const void *)(tables + (h * digits + d) * 64 + j * 16);
          __m256i found = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_load_si128(table)), index);
          even[d] = _mm256_add_epi16(even[d], _mm256_and_si256(found, low_byte));
          odd[d] = _mm256_add_epi16(odd[d], _mm256_srli_epi16(found, 8));
        }
      }
    }
  }
  UNROLL(4) for (int d = 0; d < digits; d++) { /* back into row order */
    __m256i first = _mm256_unpacklo_epi16(even[d], odd[d]), second = _mm256_unpackhi_epi16(even[d], odd[d]);
    _mm256_store_si256((__m256i *)(void *)sums[d], _mm256_permute2x128_si256(first, second, 0x20));
    _mm256_store_si256((__m256i *)(void *)(sums[d] + 16), _mm256_permute2x128_si256(first, second, 0x31));
  }
}

/* The lowest byte of 16 words. */
static inline void store_low_bytes(uint8_t *out, const vu *words) {
  const __m256i byte = _mm256_set1_epi32(255);
  __m256i first = _mm256_and_si256((__m256i)words[0], byte), second = _mm256_and_si256((__m256i)words[1], byte);
  __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(first, second), 0xD8);
  _mm_store_si128((__m128i *)(void *)out, _mm_packus_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
}

#include "backend/cpu/kernels_byte_planar.h"

const cpu_kernels cpu_kernels_avx2 = {
    .name = "avx2", .byte_planar = true, .tabulate = tabulate, .planes_product = planes_product, COMMON_KERNELS};
