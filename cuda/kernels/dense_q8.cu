/* The product with an 8-bit dense matrix (the output head) on integer tensor cores, for any number of rows of activations.
 *
 * Activations are integers of 16 bits, as a high and a low signed byte: one mma.m16n8k32 each, whose eight columns are eight rows of
 * activations. Per 256 columns the sums are exact integers; then the scales of the weights' block and of the activations' block apply.
 * A block computes 16 outputs, its warps share the blocks of 256 columns. */
#include "kernels/device.cuh"

#define WARPS 8

typedef struct q8_arguments {
  bpdq_cuda_dense dense;
  const uint4 *bytes;  /* [rows, column_tiles, 2, 16] of 16 bytes */
  const float *scales; /* [rows, column_tiles] */
  bpdq_cuda_output output;
} q8_arguments;

/* A lane's share of 16 rows x 256 columns: of rows r and r + 8, columns 64 s + 16 q .. + 15. */
struct q8_tile {
  uint4 weights[4][2];
  float2 scales; /* rows r, r + 8 */

  __device__ void request(const bpdq_cuda_dense &w, int64_t tile, int lane) {
    const uint4 *from = (const uint4 *)w.data + tile * 256 + lane;
#pragma unroll
    for (int s = 0; s < 4; s++) {
      weights[s][0] = __ldcs(from + s * 64);
      weights[s][1] = __ldcs(from + s * 64 + 32);
    }
    scales = make_float2(__ldcs(w.scales + tile * 16 + (lane >> 2)), __ldcs(w.scales + tile * 16 + (lane >> 2) + 8));
  }
};

/* sums[i]: output r (i < 2) or r + 8, row 2q + (i & 1) of the eight. `first` is their first row. */
__device__ static void multiply_tile(const q8_arguments &a, const q8_tile &tile, int column_tile, int column_tiles, int first, int rows,
                                     int lane, float sums[4]) {
  int q = lane & 3, row = min(first + (lane >> 2), rows - 1); /* columns without a row repeat the last one; nobody looks at their sums */
  const uint4 *x = a.bytes + ((int64_t)row * column_tiles + column_tile) * 32 + q;
  int high[4] = {}, low[4] = {};
#pragma unroll
  for (int s = 0; s < 4; s++) {
    const uint4 &w = tile.weights[s][0], &v = tile.weights[s][1];
    uint4 h = x[s * 4], l = x[16 + s * 4];
    uint32_t first[4] = {w.x, v.x, w.y, v.y}, second[4] = {w.z, v.z, w.w, v.w};
    mma_s8(high, first, h.x, h.y);
    mma_s8(low, first, l.x, l.y);
    mma_s8(high, second, h.z, h.w);
    mma_s8(low, second, l.z, l.w);
  }
#pragma unroll
  for (int odd = 0; odd < 2; odd++) {
    int column = min(first + 2 * q + odd, rows - 1);
    float scale = a.scales[(int64_t)column * column_tiles + column_tile];
    sums[odd] = fmaf((float)(high[odd] * 256 + low[odd]), scale * tile.scales.x, sums[odd]);
    sums[2 + odd] = fmaf((float)(high[2 + odd] * 256 + low[2 + odd]), scale * tile.scales.y, sums[2 + odd]);
  }
}

/* Grid: row tiles x eights of rows. */
__global__ void __launch_bounds__(WARPS * 32) dense_q8_kernel(q8_arguments a) {
  __shared__ float partial[WARPS][8][17];
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, q = lane & 3, r = lane >> 2;
  int column_tiles = (int)(a.dense.stride >> 8), first = blockIdx.y * 8;
  let_dependents_launch();
  int rows = row_count(a.output.run, a.output.last);
  if (first >= rows) return;
  int64_t base = (int64_t)blockIdx.x * column_tiles;
  q8_tile tile;
  if (warp < column_tiles) tile.request(a.dense, base + warp, lane);
  wait_for_predecessors();
  float sums[4] = {};
  for (int t = warp; t < column_tiles; t += WARPS) {
    multiply_tile(a, tile, t, column_tiles, first, rows, lane, sums);
    if (t + WARPS < column_tiles) tile.request(a.dense, base + t + WARPS, lane);
  }
#pragma unroll
  for (int i = 0; i < 4; i++) partial[warp][2 * q + (i & 1)][r + (i >> 1) * 8] = sums[i];
  __syncthreads();
  int row = first + (int)threadIdx.x / 16;
  int64_t n = (int64_t)blockIdx.x * 16 + threadIdx.x % 16;
  if (threadIdx.x >= 128 || row >= rows || n >= a.dense.rows) return;
  float sum = a.output.bias ? a.output.bias[n] : 0;
#pragma unroll
  for (int w = 0; w < WARPS; w++) sum += partial[w][threadIdx.x / 16][threadIdx.x % 16];
  float *y = a.output.data + row * a.output.stride + n;
  *y = a.output.accumulate ? *y + sum : sum;
}

cudaError_t bpdq_cuda_dense_q8(const bpdq_cuda_queue *queue, const bpdq_cuda_dense *dense, const void *bytes, const float *scales,
                               const bpdq_cuda_output *output) {
  q8_arguments arguments = {*dense, (const uint4 *)bytes, scales, *output};
  void *pointers[] = {&arguments};
  return launch(queue, (const void *)dense_q8_kernel, dim3(blocks_for(dense->rows, 16), blocks_for(output->max_rows, 8)), WARPS * 32, 0,
                pointers);
}
