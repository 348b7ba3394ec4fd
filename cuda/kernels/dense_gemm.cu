/* Dense f16 or bf16 rows for the many-row product. Activations come as the sum of two such numbers, so that nothing is lost. */
#include "kernels/gemm.cuh"

template <bool IS_BF16>
struct dense_provider {
  static constexpr int SLABS = 1, OPERANDS = 2, GROUPS = 1;
  static constexpr bool BF16 = IS_BF16;

  const bpdq_cuda_dense &w;
  const uint4 *rows[2][2]; /* of row tile m: this lane's rows r and r + 8 */
  int q;
  uint4 current[2][2][2], next[2][2][2]; /* [row tile][row][unit] */

  __device__ dense_provider(const bpdq_cuda_dense &weights, int64_t first_output, int lane, int first_step) : w(weights), q(lane & 3) {
    for (int m = 0; m < 2; m++)
      for (int row = 0; row < 2; row++) {
        int64_t n = first_output + m * 16 + row * 8 + (lane >> 2);
        rows[m][row] = (const uint4 *)w.data + (n < w.rows ? n : w.rows - 1) * (w.stride / 8);
      }
    fetch(first_step);
  }
  __device__ int slabs() const { return (int)(w.stride / 64); }

  __device__ void fetch(int slab) {
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int row = 0; row < 2; row++)
#pragma unroll
        for (int unit = 0; unit < 2; unit++) next[m][row][unit] = __ldg(rows[m][row] + slab * 8 + unit * 4 + q);
  }

  __device__ void load(int slab) {
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int row = 0; row < 2; row++)
#pragma unroll
        for (int unit = 0; unit < 2; unit++) current[m][row][unit] = next[m][row][unit];
    if (slab + 1 < slabs()) fetch(slab + 1);
  }

  __device__ void fragments(int, int unit, uint32_t a[2][2][4]) {
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int row = 0; row < 2; row++) {
        const uint4 &v = current[m][row][unit];
        a[m][0][row] = v.x;
        a[m][0][row + 2] = v.y;
        a[m][1][row] = v.z;
        a[m][1][row + 2] = v.w;
      }
  }
};

cudaError_t bpdq_cuda_dense_gemm(const bpdq_cuda_queue *queue, const bpdq_cuda_dense *dense, const void *high, const void *low,
                                 const bpdq_cuda_output *output) {
  bpdq_cuda_dense weights = *dense;
  gemm_operand g = {{high, low}, dense->stride, NULL, 1.0f, dense->rows, *output};
  return dense->type == BPDQ_CUDA_BF16 ? launch_gemm<dense_provider<true>>(queue, &weights, &g)
                                       : launch_gemm<dense_provider<false>>(queue, &weights, &g);
}
