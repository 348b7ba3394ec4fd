/* The product of 2 to 16 rows of activations with bit-plane weights, on f16 tensor cores: batches of sequences and speculative checks with
 * activations of 16 bits or weights of four planes (else: planes_levels.cu), and single rows in formats that the bit-serial kernels leave
 * out.
 *
 * A block computes 16 outputs, its warps share the column tiles and request their weights before they wait for the predecessor, as in
 * planes_row.cuh; the words become f16 weights in registers, as in planes_gemm.cu. Eight rows of activations are the eight columns of the
 * mma, so that they cost as much as one. Each row and column tile has its own scale: a tile's sums are scaled when it is done. */
#include "kernels/planes_half.cuh"

#define WARPS 8
#define DEPTH 2 /* tiles of a warp on their way */

typedef struct batch_arguments {
  bpdq_cuda_planes planes;
  const uint4 *halves; /* layout.h: [eights, column_tiles, 8, 32 lanes] of eight f16 */
  const float *scales; /* [rows, column_tiles] */
  bpdq_cuda_output output;
} batch_arguments;

/* One tile against eight rows of activations per unit of EIGHTS: sums[e][i] is output r (i < 2) or r + 8 and row 8e + 2q + (i & 1). */
template <int PLANES, int EIGHTS>
__device__ static void multiply_tile(const batch_arguments &a, const half_tile<PLANES> &tile, int column_tile, int rows, int lane,
                                     float sums[EIGHTS][4]) {
  int q = lane & 3;
  float part[EIGHTS][4] = {};
  const uint4 *from[EIGHTS]; /* rows that are not there hold anything; nobody looks at their sums */
#pragma unroll
  for (int e = 0; e < EIGHTS; e++) from[e] = a.halves + ((int64_t)e * a.planes.column_tiles + column_tile) * 256 + lane;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    half_coefficients<PLANES> c;
    c.load(tile.pairs[half], a.planes.coefficient_type == BPDQ_CUDA_BF16, a.planes.half_scale);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      uint32_t w[2][4];
      tile.expand(c, half, j, w);
#pragma unroll
      for (int e = 0; e < EIGHTS; e++) {
        uint4 b = from[e][(half * 4 + j) * 32];
        mma_f16(part[e], w[0], b.x, b.y);
        mma_f16(part[e], w[1], b.z, b.w);
      }
    }
  }
#pragma unroll
  for (int e = 0; e < EIGHTS; e++)
#pragma unroll
    for (int odd = 0; odd < 2; odd++) {
      int row = min(8 * e + 2 * q + odd, rows - 1);
      float scale = a.scales[(int64_t)row * a.planes.column_tiles + column_tile];
      sums[e][odd] = fmaf(part[e][odd], scale, sums[e][odd]);
      sums[e][2 + odd] = fmaf(part[e][2 + odd], scale, sums[e][2 + odd]);
    }
}

template <int PLANES, int EIGHTS>
__global__ void __launch_bounds__(WARPS * 32) batch_kernel(batch_arguments a) {
  __shared__ float partial[WARPS][EIGHTS * 8][16];
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, q = lane & 3, r = lane >> 2, column_tiles = (int)a.planes.column_tiles;
  half_tile<PLANES> stages[DEPTH];
  let_dependents_launch();
#pragma unroll
  for (int s = 0; s < DEPTH; s++)
    if (warp + s * WARPS < column_tiles) stages[s].request(a.planes, blockIdx.x, warp + s * WARPS, lane);
  int rows = min(row_count(a.output.run, a.output.last), EIGHTS * 8);
  wait_for_predecessors();

  float sums[EIGHTS][4] = {};
  for (int first = warp; first < column_tiles; first += DEPTH * WARPS) {
#pragma unroll
    for (int s = 0; s < DEPTH; s++) {
      int tile = first + s * WARPS, next = tile + DEPTH * WARPS;
      if (tile >= column_tiles) break;
      multiply_tile<PLANES, EIGHTS>(a, stages[s], tile, rows, lane, sums);
      if (next < column_tiles) stages[s].request(a.planes, blockIdx.x, next, lane);
    }
  }
#pragma unroll
  for (int e = 0; e < EIGHTS; e++)
#pragma unroll
    for (int i = 0; i < 4; i++) partial[warp][e * 8 + 2 * q + (i & 1)][r + (i >> 1) * 8] = sums[e][i];
  __syncthreads();
  for (int i = threadIdx.x; i < rows * 16; i += WARPS * 32) {
    int64_t n = (int64_t)blockIdx.x * 16 + i % 16;
    if (n >= a.planes.rows) continue;
    float sum = 0;
    for (int w = 0; w < WARPS; w++) sum += partial[w][i / 16][i % 16];
    sum /= a.planes.half_scale;
    if (a.output.bias) sum += a.output.bias[n];
    float *y = a.output.data + i / 16 * a.output.stride + n;
    *y = a.output.accumulate ? *y + sum : sum;
  }
}

bool bpdq_cuda_planes_batch_supports(const bpdq_cuda_planes *planes, int64_t max_rows) {
  return planes->planes <= 4 && max_rows <= 16 && planes->coefficient_type != BPDQ_CUDA_F32;
}

template <int PLANES>
static const void *kernel_for(int64_t rows) {
  return rows <= 8 ? (const void *)batch_kernel<PLANES, 1> : (const void *)batch_kernel<PLANES, 2>;
}

cudaError_t bpdq_cuda_planes_batch(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, const void *halves, const float *scales,
                                   const bpdq_cuda_output *output) {
  batch_arguments arguments = {*planes, (const uint4 *)halves, scales, *output};
  void *pointers[] = {&arguments};
  const void *kernel = planes->planes == 1   ? kernel_for<1>(output->max_rows)
                       : planes->planes == 2 ? kernel_for<2>(output->max_rows)
                       : planes->planes == 3 ? kernel_for<3>(output->max_rows)
                                             : kernel_for<4>(output->max_rows);
  return launch(queue, kernel, dim3(blocks_for(planes->rows, 16)), WARPS * 32, 0, pointers);
}
