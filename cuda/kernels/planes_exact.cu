/* The product of bit-plane weights with exact f32 activations: every number of planes, every group, every coefficient type, any number of
 * rows. Per 32-column word the sums S_p of the activations under each plane's bits are built by masked adds, then
 * y += sum_p c_p S_p + bias * sum(x). The yardstick for the quantized products, and the way for formats that they leave out. */
#include "kernels/device.cuh"

#define WARPS 8
#define CHUNK 4 /* activation rows per block */
#define WORD_PITCH \
  33 /* floats between the 32-column words of a row in shared memory: the four words that a warp reads at once differ in bank */

typedef struct exact_arguments {
  bpdq_cuda_planes planes;
  const float *x;
  bpdq_cuda_output output;
} exact_arguments;

__device__ static float2 coefficient_pair(const bpdq_cuda_planes &planes, int64_t index) {
  if (planes.coefficient_type == BPDQ_CUDA_F32) return ((const float2 *)planes.coefficients)[index];
  uint32_t pair = ((const uint32_t *)planes.coefficients)[index];
  return planes.coefficient_type == BPDQ_CUDA_BF16 ? pair_to_floats<true>(pair) : pair_to_floats<false>(pair);
}

/* Masked sums of one word: sums[p][row] over the 32 activations of `x` (row pitch in floats). */
template <int MAX_PLANES>
__device__ static void word_sums(const uint32_t *bits, int planes, const float *x, int pitch, float sums[MAX_PLANES][CHUNK],
                                 float whole[CHUNK]) {
#pragma unroll
  for (int t = 0; t < CHUNK; t++) {
    whole[t] = 0;
#pragma unroll
    for (int p = 0; p < MAX_PLANES; p++) sums[p][t] = 0;
  }
#pragma unroll 4
  for (int i = 0; i < 32; i++) {
    float value[CHUNK];
#pragma unroll
    for (int t = 0; t < CHUNK; t++) whole[t] += value[t] = x[t * pitch + i];
#pragma unroll
    for (int p = 0; p < MAX_PLANES; p++)
      if (p < planes) {
        bool set = (bits[p] >> i) & 1;
#pragma unroll
        for (int t = 0; t < CHUNK; t++) sums[p][t] += set ? value[t] : 0.0f;
      }
  }
}

template <int MAX_PLANES>
__global__ void __launch_bounds__(WARPS * 32) exact_kernel(exact_arguments a) {
  __shared__ float x_tile[WARPS][CHUNK * 8 * WORD_PITCH];
  __shared__ float partial[WARPS][CHUNK][16];
  let_dependents_launch();
  wait_for_predecessors();
  int rows = row_count(a.output.run, a.output.last), first_row = blockIdx.y * CHUNK;
  if (first_row >= rows) return;
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, q = lane & 3, r = lane >> 2;
  const int planes = a.planes.planes, column_tiles = (int)a.planes.column_tiles;
  const int64_t stride = (int64_t)column_tiles * 256;
  float *tile = x_tile[warp];
  float y[2][CHUNK] = {};
  for (int kt = warp; kt < column_tiles; kt += WARPS) {
    __syncwarp();
    for (int t = 0; t < CHUNK; t++)
      for (int w = 0; w < 8; w++) {
        int row = first_row + t;
        tile[(t * 8 + w) * WORD_PITCH + lane] = row < rows ? a.x[row * stride + kt * 256 + w * 32 + lane] : 0.0f;
      }
    __syncwarp();
    const uint32_t *words = a.planes.words + ((int64_t)blockIdx.x * column_tiles + kt) * planes * BPDQ_CUDA_TILE_WORDS + lane * 4;
    for (int half = 0; half < 2; half++)
      for (int s = 0; s < 2; s++) {
        int word = q + 4 * half;
        uint32_t bits[MAX_PLANES];
#pragma unroll
        for (int p = 0; p < MAX_PLANES; p++) bits[p] = p < planes ? words[p * BPDQ_CUDA_TILE_WORDS + half * 2 + s] : 0;
        float sums[MAX_PLANES][CHUNK], whole[CHUNK];
        word_sums<MAX_PLANES>(bits, planes, tile + word * WORD_PITCH, 8 * WORD_PITCH, sums, whole);
        int64_t group = (kt * 256 + word * 32) / a.planes.group;
        int64_t pair = ((int64_t)blockIdx.x * a.planes.groups + group) * (planes + 1) * 8 + r;
        for (int p = 0; p <= planes; p++) {
          float2 c = coefficient_pair(a.planes, pair + p * 8);
          float factor = s ? c.y : c.x;
#pragma unroll
          for (int t = 0; t < CHUNK; t++) {
            float sum = whole[t];
#pragma unroll
            for (int i = 0; i < MAX_PLANES; i++)
              if (i == p && p < planes) sum = sums[i][t];
            y[s][t] = fmaf(factor, sum, y[s][t]);
          }
        }
      }
  }
#pragma unroll
  for (int s = 0; s < 2; s++)
#pragma unroll
    for (int t = 0; t < CHUNK; t++) {
      float sum = y[s][t];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      if (q == 0) partial[warp][t][r + 8 * s] = sum;
    }
  __syncthreads();
  for (int i = threadIdx.x; i < CHUNK * 16; i += WARPS * 32) {
    int t = i / 16, row = first_row + t;
    int64_t n = (int64_t)blockIdx.x * 16 + i % 16;
    if (row >= rows || n >= a.planes.rows) continue;
    float sum = 0;
    for (int w = 0; w < WARPS; w++) sum += partial[w][t][i % 16];
    if (a.output.bias) sum += a.output.bias[n];
    float *out = a.output.data + row * a.output.stride + n;
    *out = a.output.accumulate ? *out + sum : sum;
  }
}

cudaError_t bpdq_cuda_planes_exact(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, const float *x,
                                   const bpdq_cuda_output *output) {
  exact_arguments arguments = {*planes, x, *output};
  void *pointers[] = {&arguments};
  const void *kernel = planes->planes <= 2   ? (const void *)exact_kernel<2>
                       : planes->planes <= 4 ? (const void *)exact_kernel<4>
                                             : (const void *)exact_kernel<8>;
  return launch(queue, kernel, dim3(blocks_for(planes->rows, 16), blocks_for(output->max_rows, CHUNK)), WARPS * 32, 0, pointers);
}
