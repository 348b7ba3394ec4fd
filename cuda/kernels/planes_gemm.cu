/* Bit-plane weights for the many-row product: a word of a plane becomes f16 weights in registers, two at a time.
 *
 * Bits i and i + 16 of a word are shifted to bit 14 (or 13) of the two halves of a register. As f16 such a half is 2^1 (or 2^-7) or zero,
 * so a fused multiply-add with coefficient / 2^1 (or / 2^-7) adds the coefficient where the bit is set: per plane and pair of weights
 * one AND and one HFMA2, and a shift for every four weights. */
#include "kernels/gemm.cuh"

template <int PLANES>
struct plane_provider {
  static constexpr int SLABS = 4, OPERANDS = 1;
  static constexpr bool BF16 = false;

  const bpdq_cuda_planes &w;
  int64_t row_tile[2];
  int lane, step;
  uint4 words[2][PLANES];
  /* Per row tile and row (r, r + 8): the bias, and each plane's coefficient for bits at 14 and at 13, twice in a register. */
  __half2 bias[2][2], high[2][2][PLANES], low[2][2][PLANES];

  __device__ plane_provider(const bpdq_cuda_planes &weights, int64_t first_output, int lane) : w(weights), lane(lane) {
    int64_t tiles = (w.rows + 15) / 16;
    for (int m = 0; m < 2; m++) row_tile[m] = min(first_output / 16 + m, tiles - 1);
  }
  __device__ int slabs() const { return (int)w.column_tiles * 4; }

  __device__ void load(int column_tile) {
    step = column_tile;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int p = 0; p < PLANES; p++)
        words[m][p] = __ldg((const uint4 *)w.words + ((row_tile[m] * w.column_tiles + column_tile) * PLANES + p) * 32 + lane);
  }

  /* The coefficients of this lane's word in half `half` of the tile. */
  __device__ void load_coefficients(int half) {
    int q = lane & 3, r = lane >> 2;
    int64_t group = ((int64_t)step * 256 + half * 128 + q * 32) / w.group;
#pragma unroll
    for (int m = 0; m < 2; m++) {
      const int64_t base = (row_tile[m] * w.groups + group) * (PLANES + 1) * 8 + r;
#pragma unroll
      for (int p = 0; p <= PLANES; p++) {
        float2 c;
        if (w.coefficient_type == BPDQ_CUDA_F32) {
          c = ((const float2 *)w.coefficients)[base + p * 8];
        } else {
          uint32_t pair = ((const uint32_t *)w.coefficients)[base + p * 8];
          c = w.coefficient_type == BPDQ_CUDA_BF16 ? pair_to_floats<true>(pair) : pair_to_floats<false>(pair);
        }
        c.x *= w.half_scale;
        c.y *= w.half_scale;
        if (p == PLANES) {
          bias[m][0] = __float2half2_rn(c.x);
          bias[m][1] = __float2half2_rn(c.y);
        } else {
          high[m][0][p] = __float2half2_rn(c.x * 0.5f);
          high[m][1][p] = __float2half2_rn(c.y * 0.5f);
          low[m][0][p] = __float2half2_rn(c.x * 128.0f);
          low[m][1][p] = __float2half2_rn(c.y * 128.0f);
        }
      }
    }
  }

  __device__ void fragments(int slab, int unit, uint32_t a[2][2][4]) {
    int half = slab >> 1, j = (slab & 1) * 2 + unit;
    if ((slab & 1) == 0 && unit == 0) load_coefficients(half);
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int row = 0; row < 2; row++)
#pragma unroll
        for (int k_step = 0; k_step < 2; k_step++) {
          __half2 first = bias[m][row], second = bias[m][row]; /* bits 4j + 2 k_step and the next one */
#pragma unroll
          for (int p = 0; p < PLANES; p++) {
            const uint4 &plane = words[m][p];
            uint32_t word = half ? (row ? plane.w : plane.z) : (row ? plane.y : plane.x);
            int shift = 13 - 4 * j - 2 * k_step;
            uint32_t moved = shift >= 0 ? word << (shift & 31) : word >> (-shift & 31);
            uint32_t even = moved & 0x20002000u, odd = moved & 0x40004000u;
            first = __hfma2(*reinterpret_cast<__half2 *>(&even), low[m][row][p], first);
            second = __hfma2(*reinterpret_cast<__half2 *>(&odd), high[m][row][p], second);
          }
          a[m][k_step][row] = *reinterpret_cast<uint32_t *>(&first);
          a[m][k_step][row + 2] = *reinterpret_cast<uint32_t *>(&second);
        }
  }
};

bool bpdq_cuda_planes_gemm_supports(const bpdq_cuda_planes *planes) { return planes->planes <= 4; }

cudaError_t bpdq_cuda_planes_gemm(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, const void *halves, const float *row_scale,
                                  const bpdq_cuda_output *output) {
  bpdq_cuda_planes weights = *planes;
  gemm_operand g = {{halves, NULL}, planes->column_tiles * 256, row_scale, 1.0f / planes->half_scale, planes->rows, *output};
  switch (planes->planes) {
    case 1:
      return launch_gemm<plane_provider<1>>(queue, &weights, &g);
    case 2:
      return launch_gemm<plane_provider<2>>(queue, &weights, &g);
    case 3:
      return launch_gemm<plane_provider<3>>(queue, &weights, &g);
    default:
      return launch_gemm<plane_provider<4>>(queue, &weights, &g);
  }
}
