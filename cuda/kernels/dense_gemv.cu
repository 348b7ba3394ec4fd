/* Dense matrix times a few rows of f32 activations: a warp computes several outputs, its lanes share K in 16-byte pieces. */
#include "kernels/device.cuh"

#define WARPS 8

typedef struct dense_arguments {
  bpdq_cuda_dense dense;
  const float *x;
  bpdq_cuda_output output;
} dense_arguments;

/* Sixteen bytes of a matrix row as floats. */
template <int TYPE>
struct piece;
template <>
struct piece<BPDQ_CUDA_F32> {
  static constexpr int COUNT = 4, BYTES = 4;
  __device__ static void expand(const uint4 &v, float *w) {
    w[0] = __uint_as_float(v.x), w[1] = __uint_as_float(v.y), w[2] = __uint_as_float(v.z), w[3] = __uint_as_float(v.w);
  }
};
template <bool BF16>
struct piece_16 {
  static constexpr int COUNT = 8, BYTES = 2;
  __device__ static void expand(const uint4 &v, float *w) {
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float2 pair = pair_to_floats<BF16>(words[i]);
      w[2 * i] = pair.x, w[2 * i + 1] = pair.y;
    }
  }
};
template <>
struct piece<BPDQ_CUDA_F16> : piece_16<false> {};
template <>
struct piece<BPDQ_CUDA_BF16> : piece_16<true> {};
template <int TYPE, int OUTPUTS, int ROWS>
__global__ void __launch_bounds__(WARPS * 32) dense_gemv_kernel(dense_arguments a) {
  typedef piece<TYPE> format;
  constexpr int COUNT = format::COUNT;
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  int64_t first = ((int64_t)blockIdx.x * WARPS + warp) * OUTPUTS;
  let_dependents_launch();
  wait_for_predecessors();
  int first_row = blockIdx.y * ROWS, rows = row_count(a.output.run, a.output.last) - first_row;
  if (rows <= 0 || first >= a.dense.rows) return;
  const char *weights[OUTPUTS];
#pragma unroll
  for (int o = 0; o < OUTPUTS; o++) {
    int64_t n = first + o < a.dense.rows ? first + o : a.dense.rows - 1;
    weights[o] = (const char *)a.dense.data + n * a.dense.stride * format::BYTES;
  }
  const float *x = a.x + first_row * a.dense.stride;
  float sum[OUTPUTS][ROWS] = {};
#pragma unroll 2
  for (int64_t k = lane * COUNT; k < a.dense.stride; k += 32 * COUNT) {
    uint4 packed[OUTPUTS];
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) packed[o] = __ldcs((const uint4 *)(weights[o] + k * format::BYTES));
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) {
      float w[COUNT];
      format::expand(packed[o], w);
#pragma unroll
      for (int t = 0; t < ROWS; t++)
        if (ROWS == 1 || t < rows) {
          float part = 0;
#pragma unroll
          for (int i = 0; i < COUNT; i += 4) {
            float4 v = *(const float4 *)(x + t * a.dense.stride + k + i);
            part = fmaf(w[i], v.x, fmaf(w[i + 1], v.y, fmaf(w[i + 2], v.z, fmaf(w[i + 3], v.w, part))));
          }
          sum[o][t] += part;
        }
    }
  }
#pragma unroll
  for (int o = 0; o < OUTPUTS; o++)
#pragma unroll
    for (int t = 0; t < ROWS; t++) {
      float value = warp_sum(sum[o][t]);
      if (lane == 0 && t < rows && first + o < a.dense.rows) {
        if (a.output.bias) value += a.output.bias[first + o];
        float *y = a.output.data + (first_row + t) * a.output.stride + first + o;
        *y = a.output.accumulate ? *y + value : value;
      }
    }
}

template <int TYPE>
static cudaError_t launch_gemv(const bpdq_cuda_queue *queue, dense_arguments *arguments) {
  void *pointers[] = {arguments};
  int64_t rows = arguments->output.max_rows, outputs = arguments->dense.rows;
  const void *kernel = rows == 1   ? (const void *)dense_gemv_kernel<TYPE, 4, 1>
                       : rows <= 2 ? (const void *)dense_gemv_kernel<TYPE, 4, 2>
                       : rows <= 4 ? (const void *)dense_gemv_kernel<TYPE, 4, 4>
                                   : (const void *)dense_gemv_kernel<TYPE, 2, 8>;
  int per_warp = rows <= 4 ? 4 : 2, per_block_rows = rows == 1 ? 1 : rows <= 2 ? 2 : rows <= 4 ? 4 : 8;
  return launch(queue, kernel, dim3(blocks_for(outputs, WARPS * per_warp), blocks_for(rows, per_block_rows)), WARPS * 32, 0, pointers);
}

cudaError_t bpdq_cuda_dense_gemv(const bpdq_cuda_queue *queue, const bpdq_cuda_dense *dense, const float *x,
                                 const bpdq_cuda_output *output) {
  dense_arguments arguments = {*dense, x, *output};
  switch (dense->type) {
    case BPDQ_CUDA_F32:
      return launch_gemv<BPDQ_CUDA_F32>(queue, &arguments);
    case BPDQ_CUDA_F16:
      return launch_gemv<BPDQ_CUDA_F16>(queue, &arguments);
    default:
      return launch_gemv<BPDQ_CUDA_BF16>(queue, &arguments);
  }
}
