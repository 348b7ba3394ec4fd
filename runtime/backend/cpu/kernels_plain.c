/* Kernels in plain C: no instruction set is assumed beyond what the compiler targets. The tables of a product are exact f32 sums, so the
 * three precisions of activations are the same here. */
#define KERNEL_LANES 4
#define KERNEL_ROW_VECTORS 2
#define KERNEL_TOKEN_BLOCK 4
#define KERNEL_VALUE_VECTORS 2
#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/kernels_vector.h"
#include "core/half.h"

static inline vf load_f16(const uint8_t *data) {
  uint16_t halves[KERNEL_LANES];
  vf value;
  memcpy(halves, data, sizeof halves);
  for (int i = 0; i < KERNEL_LANES; i++) value[i] = bpdq_f16_to_float(halves[i]);
  return value;
}

static inline vf load_int8(const uint8_t *data) {
  vf value;
  for (int i = 0; i < KERNEL_LANES; i++) value[i] = (float)(int8_t)data[i];
  return value;
}

static inline void store_f16_vector(uint16_t *out, vf value) {
  for (int i = 0; i < KERNEL_LANES; i++) out[i] = bpdq_float_to_f16(value[i]);
}

static inline void load_words(const uint8_t *chunk, uint32_t *words) { memcpy(words, chunk, CPU_CHUNK_BYTES); }

#include "backend/cpu/kernels_common.h"

/* bytes: f32 [columns / 4][16], entry e = sum of x[4 i + b] over the bits b of e. */
static void tabulate(const float *x, int group, int64_t first, int64_t count, cpu_tables *tables) {
  float(*entries)[16] = (void *)tables->bytes;
  for (int64_t q = first; q < first + count; q++) {
    float sum = 0;
    for (int64_t i = q * group / 4; i < (q + 1) * group / 4; i++) {
      entries[i][0] = 0;
      for (int b = 0; b < 4; b++)
        for (int e = 0; e < 1 << b; e++) entries[i][(1 << b) + e] = entries[i][e] + x[4 * i + b];
      sum += entries[i][15];
    }
    tables->sum[q] = sum;
  }
}

static void planes_product(const cpu_planes *planes, const uint8_t *tile, const cpu_tables *tables, float *y) {
  const float(*entries)[16] = (const void *)tables->bytes;
  int chunks = planes->group / 32;
  uint64_t coefficient_bytes = CPU_TILE * bpdq_dtype_size(planes->coefficient_type);
  float coefficients[CPU_TILE];
  memset(y, 0, CPU_TILE * sizeof *y);
  for (int64_t q = 0; q < planes->groups; q++, tile += planes->group_bytes) {
    const uint8_t *stored = tile + (uint64_t)planes->planes * (uint64_t)chunks * CPU_CHUNK_BYTES;
    for (int p = 0; p < planes->planes; p++, stored += coefficient_bytes) {
      float sums[CPU_TILE] = {0};
      for (int c = 0; c < chunks; c++) {
        uint32_t words[CPU_TILE];
        const float(*table)[16] = entries + (q * chunks + c) * 8;
        memcpy(words, tile + (p * chunks + c) * CPU_CHUNK_BYTES, sizeof words);
        for (int r = 0; r < CPU_TILE; r++) {
          float sum = 0;
          for (int i = 0; i < 8; i++) sum += table[i][words[r] >> (4 * i) & 15];
          sums[r] += sum;
        }
      }
      load_coefficients(stored, planes->coefficient_type, coefficients);
      for (int r = 0; r < CPU_TILE; r++) y[r] += coefficients[r] * sums[r];
    }
    load_coefficients(stored, planes->coefficient_type, coefficients);
    for (int r = 0; r < CPU_TILE; r++) y[r] += coefficients[r] * tables->sum[q];
  }
}

const cpu_kernels cpu_kernels_plain = {.name = "plain", .tabulate = tabulate, .planes_product = planes_product, COMMON_KERNELS};
