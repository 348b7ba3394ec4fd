/* What the kernels for many rows of activations share: their arguments, a lane's weights, and what becomes of the sums. */
#ifndef BPDQ_CUDA_PLANES_ROWS_CUH
#define BPDQ_CUDA_PLANES_ROWS_CUH

#include "kernels/planes_half.cuh"

typedef struct rows_arguments {
  bpdq_cuda_planes planes;
  const char *halves; /* [rows, stride] f16 in the order of layout.h */
  int64_t stride;     /* numbers */
  const float *row_scale;
  bpdq_cuda_output output;
} rows_arguments;

/* The words and coefficients of a lane's 32 columns in one half of a column tile, as stored, but for f32 coefficients: those are f16 times
 * half_scale from the start. */
template <int PLANES>
struct half_weights {
  uint2 words[PLANES]; /* rows r, r + 8 */
  uint32_t pairs[PLANES + 1];

  __device__ __forceinline__ void load(const bpdq_cuda_planes &w, int64_t row_tile, int half_tile, int lane) {
    const uint2 *from =
        (const uint2 *)w.words + (row_tile * w.column_tiles + (half_tile >> 1)) * (PLANES * 64) + lane * 2 + (half_tile & 1);
#pragma unroll
    for (int p = 0; p < PLANES; p++) words[p] = __ldg(from + p * 64);
    int group = (half_tile * 128 + (lane & 3) * 32) / w.group;
    int64_t base = (row_tile * w.groups + group) * (PLANES + 1) * 8 + (lane >> 2);
#pragma unroll
    for (int p = 0; p <= PLANES; p++) {
      if (w.coefficient_type == BPDQ_CUDA_F32) {
        float2 c = __ldg((const float2 *)w.coefficients + base + p * 8);
        __half2 pair = __floats2half2_rn(c.x * w.half_scale, c.y * w.half_scale);
        pairs[p] = *reinterpret_cast<uint32_t *>(&pair);
      } else {
        pairs[p] = __ldg((const uint32_t *)w.coefficients + base + p * 8);
      }
    }
  }
  __device__ __forceinline__ void expand(const bpdq_cuda_planes &w, half_coefficients<PLANES> &c, uint32_t rows[2][PLANES]) const {
    c.load(pairs, w.coefficient_type == BPDQ_CUDA_BF16, w.coefficient_type == BPDQ_CUDA_F32 ? 1.0f : w.half_scale);
#pragma unroll
    for (int p = 0; p < PLANES; p++) {
      rows[0][p] = words[p].x;
      rows[1][p] = words[p].y;
    }
  }
};

/* sums[j]: outputs r, r + 8 of the warp's row tile, tokens 8j + 2q, 8j + 2q + 1, as the mma leaves them. */
template <int TOKENS>
__device__ static void store_sums(const rows_arguments &a, const float sums[TOKENS / 8][4], int64_t first_output, int first_token, int rows,
                                  int lane) {
  int q = lane & 3, r = lane >> 2;
  float inverse = 1.0f / a.planes.half_scale;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int64_t n = first_output + half * 8 + r;
    if (n >= a.planes.rows) continue;
    float bias = a.output.bias ? __ldg(a.output.bias + n) : 0;
#pragma unroll
    for (int j = 0; j < TOKENS / 8; j++)
#pragma unroll
      for (int odd = 0; odd < 2; odd++) {
        int token = first_token + j * 8 + 2 * q + odd;
        if (token >= rows) continue;
        float *y = a.output.data + token * a.output.stride + n;
        float value = fmaf(sums[j][half * 2 + odd], __ldcg(a.row_scale + token) * inverse, bias);
        *y = a.output.accumulate ? __ldcg(y) + value : value;
      }
  }
}

#endif
