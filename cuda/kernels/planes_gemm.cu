/* Bit-plane weights for the many-row product: a word of a plane becomes f16 weights in registers (planes_half.cuh). */
#include "kernels/gemm.cuh"
#include "kernels/planes_half.cuh"

template <int PLANES>
struct plane_provider {
  static constexpr int SLABS = 4, OPERANDS = 1, GROUPS = 2;
  static constexpr bool BF16 = false;

  const bpdq_cuda_planes &w;
  int64_t row_tile[2];
  int lane, step;
  uint4 words[2][PLANES];
  half_coefficients<PLANES> coefficients[2];

  __device__ plane_provider(const bpdq_cuda_planes &weights, int64_t first_output, int lane, int) : w(weights), lane(lane) {
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
    int64_t group = ((int64_t)step * 256 + half * 128 + (lane & 3) * 32) / w.group;
#pragma unroll
    for (int m = 0; m < 2; m++) {
      const int64_t base = (row_tile[m] * w.groups + group) * (PLANES + 1) * 8 + (lane >> 2);
#pragma unroll
      for (int p = 0; p <= PLANES; p++) {
        float2 c;
        if (w.coefficient_type == BPDQ_CUDA_F32) {
          c = ((const float2 *)w.coefficients)[base + p * 8];
        } else {
          uint32_t pair = ((const uint32_t *)w.coefficients)[base + p * 8];
          c = w.coefficient_type == BPDQ_CUDA_BF16 ? pair_to_floats<true>(pair) : pair_to_floats<false>(pair);
        }
        coefficients[m].set(p, make_float2(c.x * w.half_scale, c.y * w.half_scale));
      }
    }
  }

  __device__ void fragments(int slab, int unit, uint32_t a[2][2][4]) {
    int half = slab >> 1, j = (slab & 1) * 2 + unit;
    if ((slab & 1) == 0 && unit == 0) load_coefficients(half);
#pragma unroll
    for (int m = 0; m < 2; m++) {
      uint32_t rows[2][PLANES];
#pragma unroll
      for (int p = 0; p < PLANES; p++) {
        rows[0][p] = half ? words[m][p].z : words[m][p].x;
        rows[1][p] = half ? words[m][p].w : words[m][p].y;
      }
      expand_words<PLANES>(coefficients[m], rows, j, a[m]);
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
