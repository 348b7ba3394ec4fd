/* aarch64 with its baseline Advanced SIMD. */
#include <arm_neon.h>

#include "backend/cpu/cpu_kernels.h"

#define KERNEL_LANES 4
#define KERNEL_ROW_VECTORS 4
#define KERNEL_TOKEN_BLOCK 5
#define KERNEL_VALUE_VECTORS 4
#include "backend/cpu/kernels_vector.h"

static inline vf load_f16(const uint8_t *data) {
  return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)(const void *)data)));
}

static inline vf load_int8(const uint8_t *data) {
  uint32_t bytes;
  memcpy(&bytes, data, sizeof bytes);
  int16x8_t halves = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(bytes)));
  return (vf)vcvtq_f32_s32(vmovl_s16(vget_low_s16(halves)));
}

static inline void store_f16_vector(uint16_t *out, vf value) { vst1_u16(out, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)value))); }

/* Four rows of 32 bytes to 32 words: vst4 interleaves. */
static inline void load_words(const uint8_t *chunk, uint32_t *words) {
  for (int half = 0; half < 2; half++) {
    uint8x16x4_t bytes = {{vld1q_u8(chunk + 16 * half), vld1q_u8(chunk + 32 + 16 * half), vld1q_u8(chunk + 64 + 16 * half),
                           vld1q_u8(chunk + 96 + 16 * half)}};
    vst4q_u8((uint8_t *)(words + 16 * half), bytes);
  }
}

#include "backend/cpu/kernels_common.h"

/* tbl looks the nibbles of 16 rows up; bytes are added in 16 bits. */
static inline __attribute__((always_inline)) void look_up(const uint8_t *bits, const uint8_t *tables, int chunks, int digits,
                                                          uint16_t (*sums)[CPU_TILE]) {
  uint16x8_t sum[4][4];
  UNROLL(4) for (int d = 0; d < digits; d++) UNROLL(4) for (int v = 0; v < 4; v++) sum[d][v] = vdupq_n_u16(0);
  for (int c = 0; c < chunks; c++, bits += CPU_CHUNK_BYTES, tables += 128 * digits) UNROLL(4) for (int j = 0; j < 4; j++) {
      uint8x16_t bytes[2] = {vld1q_u8(bits + j * CPU_TILE), vld1q_u8(bits + j * CPU_TILE + 16)};
      UNROLL(2) for (int h = 0; h < 2; h++) {
        uint8x16_t index[2];
        UNROLL(2) for (int r = 0; r < 2; r++) index[r] = h ? vshrq_n_u8(bytes[r], 4) : vandq_u8(bytes[r], vdupq_n_u8(15));
        UNROLL(4) for (int d = 0; d < digits; d++) {
          uint8x16_t table = vld1q_u8(tables + (h * digits + d) * 64 + j * 16);
          UNROLL(2) for (int r = 0; r < 2; r++) {
            uint8x16_t found = vqtbl1q_u8(table, index[r]);
            sum[d][2 * r] = vaddw_u8(sum[d][2 * r], vget_low_u8(found));
            sum[d][2 * r + 1] = vaddw_high_u8(sum[d][2 * r + 1], found);
          }
        }
      }
    }
  UNROLL(4) for (int d = 0; d < digits; d++) UNROLL(4) for (int v = 0; v < 4; v++) vst1q_u16(sums[d] + 8 * v, sum[d][v]);
}

/* The lowest byte of 16 words. */
static inline void store_low_bytes(uint8_t *out, const vu *words) {
  uint16x8_t first = vcombine_u16(vmovn_u32((uint32x4_t)words[0]), vmovn_u32((uint32x4_t)words[1]));
  uint16x8_t second = vcombine_u16(vmovn_u32((uint32x4_t)words[2]), vmovn_u32((uint32x4_t)words[3]));
  vst1q_u8(out, vcombine_u8(vmovn_u16(first), vmovn_u16(second)));
}

#include "backend/cpu/kernels_byte_planar.h"

const cpu_kernels cpu_kernels_neon = {
    .name = "neon", .byte_planar = true, .tabulate = tabulate, .planes_product = planes_product, COMMON_KERNELS};
