/* Bit-planes as f16 weights in registers, two at a time.
 *
 * Bits i and i + 16 of a word are shifted to bit 14 (or 13) of the two halves of a register. As f16 such a half is 2^1 (or 2^-7) or zero,
 * so a fused multiply-add with coefficient / 2^1 (or / 2^-7) adds the coefficient where the bit is set: per plane and pair of weights
 * one AND and one HFMA2, and a shift for every four weights. */
#ifndef BPDQ_CUDA_PLANES_HALF_CUH
#define BPDQ_CUDA_PLANES_HALF_CUH

#include "kernels/device.cuh"

/* A lane's coefficients for 128 columns: the bias, and each plane's for bits at 14, each twice in a register; rows r, r + 8. Those for bits
 * at 13 are 2^8 times as large, and made where they are used: registers are short. */
template <int PLANES>
struct half_coefficients {
  __half2 bias[2], high[2][PLANES];

  __device__ void set(int slot, float2 c) {
    if (slot == PLANES) {
      bias[0] = __float2half2_rn(c.x);
      bias[1] = __float2half2_rn(c.y);
    } else {
      high[0][slot] = __float2half2_rn(c.x * 0.5f);
      high[1][slot] = __float2half2_rn(c.y * 0.5f);
    }
  }
  __device__ void load(const uint32_t pairs[PLANES + 1], bool bf16, float scale) {
#pragma unroll
    for (int p = 0; p <= PLANES; p++) {
      float2 c = bf16 ? pair_to_floats<true>(pairs[p]) : pair_to_floats<false>(pairs[p]);
      set(p, make_float2(c.x * scale, c.y * scale));
    }
  }
};

/* Weights of rows r and r + 8 for k-steps 2j and 2j + 1 of 128 columns, in the order of bpdq_cuda_half_position: the mma's A operands.
 * words: per plane, this lane's words of the two rows. */
template <int PLANES>
__device__ __forceinline__ static void expand_words(const half_coefficients<PLANES> &c, const uint32_t words[2][PLANES], int j,
                                                    uint32_t a[2][4]) {
#pragma unroll
  for (int row = 0; row < 2; row++) {
    __half2 low[PLANES];
#pragma unroll
    for (int p = 0; p < PLANES; p++) low[p] = __hmul2(c.high[row][p], __floats2half2_rn(256, 256));
#pragma unroll
    for (int k_step = 0; k_step < 2; k_step++) {
      __half2 first = c.bias[row], second = c.bias[row]; /* bits 4j + 2 k_step and the next one */
      int shift = 13 - 4 * j - 2 * k_step;
#pragma unroll
      for (int p = 0; p < PLANES; p++) {
        uint32_t word = words[row][p], moved = shift >= 0 ? word << (shift & 31) : word >> (-shift & 31);
        uint32_t even = moved & 0x20002000u, odd = moved & 0x40004000u;
        first = __hfma2(*reinterpret_cast<__half2 *>(&even), low[p], first);
        second = __hfma2(*reinterpret_cast<__half2 *>(&odd), c.high[row][p], second);
      }
      a[k_step][row] = *reinterpret_cast<uint32_t *>(&first);
      a[k_step][row + 2] = *reinterpret_cast<uint32_t *>(&second);
    }
  }
}

/* A lane's share of one tile, as loaded. 16-bit coefficients. */
template <int PLANES>
struct half_tile {
  uint4 planes[PLANES];
  uint32_t pairs[2][PLANES + 1]; /* [half of the tile] */

  __device__ void request(const bpdq_cuda_planes &w, int64_t row_tile, int column_tile, int lane) {
    const uint4 *words = (const uint4 *)w.words + (row_tile * w.column_tiles + column_tile) * (PLANES * 32) + lane;
#pragma unroll
    for (int p = 0; p < PLANES; p++) planes[p] = __ldcs(words + p * 32);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int group = (column_tile * 256 + half * 128 + (lane & 3) * 32) / w.group;
      const uint32_t *from = (const uint32_t *)w.coefficients + (row_tile * w.groups + group) * ((PLANES + 1) * 8) + (lane >> 2);
#pragma unroll
      for (int p = 0; p <= PLANES; p++) pairs[half][p] = __ldg(from + p * 8);
    }
  }

  __device__ void expand(const half_coefficients<PLANES> &c, int half, int j, uint32_t a[2][4]) const {
    uint32_t words[2][PLANES];
#pragma unroll
    for (int p = 0; p < PLANES; p++) {
      words[0][p] = half ? planes[p].z : planes[p].x;
      words[1][p] = half ? planes[p].w : planes[p].y;
    }
    expand_words<PLANES>(c, words, j, a);
  }
};

#endif
