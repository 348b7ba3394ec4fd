/* The product of many rows of activations with bit-plane weights, on f16 tensor cores: y[token, n] = sum_k x[token, k] W[n, k].
 *
 * A block computes 128 outputs x TOKENS tokens, each of its eight warps one row tile of 16 outputs x all the tokens, so that no two warps
 * of a block expand the same weight. Weights go from memory to registers one column tile ahead and become f16 there (planes_half.cuh): the
 * mma's A operand. Activations, its B operand, stream through a ring in shared memory, 64 columns of all tokens to a stage.
 *
 * K is taken in units of 32 columns = two k-steps. In a unit, lane q's share of an activation row is 16 consecutive bytes: its (b0, b1) of
 * the first step, then of the second. Weights are expanded in the same order of columns. */
#include <stdlib.h>
#include <string.h>

#include "kernels/planes_rows.cuh"

#define WARPS 8
#define THREADS (WARPS * 32)
#define OUTPUTS (WARPS * 16)
#define STAGES 3

/* A thread's part of each stage: sixteen bytes `chunk` (0..7) of every 32nd token's 128-byte row. They lie at chunk ^ 4 in odd rows, so
 * that the eight lanes of two tokens that read together meet eight different groups of banks. */
struct stage_share {
  const char *from;    /* of the first of its tokens, column 0 */
  int64_t row_bytes32; /* of 32 tokens */
  int limit;           /* of the block's tokens from that one on */
  int target;          /* in the stage */

  __device__ stage_share(const rows_arguments &a, int first_token, int rows) {
    int token = threadIdx.x >> 3, chunk = threadIdx.x & 7;
    limit = rows - first_token - token;
    from = a.halves + ((int64_t)(limit > 0 ? first_token + token : 0) * a.stride + chunk * 8) * 2;
    row_bytes32 = a.stride * 64;
    target = token * 128 + (chunk ^ (token & 1) * 4) * 16;
  }
};

/* 64 columns of the block's tokens; zeros where there is no token. */
template <int TOKENS>
__device__ __forceinline__ static void request_activations(const stage_share &s, char *stage, int slab) {
#pragma unroll
  for (int i = 0; i < TOKENS / 32; i++) {
    bool valid = i * 32 < s.limit;
    copy_async_16_or_zero(stage + s.target + i * 4096, s.from + slab * 128 + (valid ? i * s.row_bytes32 : 0), valid);
  }
}

/* One unit of 32 columns: a few eights of tokens at a time, so that no mma follows one that it depends on. */
template <int TOKENS>
__device__ __forceinline__ static void multiply_unit(float sums[TOKENS / 8][4], const uint32_t a[2][4], const char *lane_share) {
  constexpr int AT_ONCE = 2;
#pragma unroll
  for (int first = 0; first < TOKENS / 8; first += AT_ONCE) {
    uint4 b[AT_ONCE];
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) b[j] = *(const uint4 *)(lane_share + (first + j) * 1024);
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) mma_f16(sums[first + j], a[0], b[j].x, b[j].y);
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) mma_f16(sums[first + j], a[1], b[j].z, b[j].w);
  }
}

template <int PLANES, int TOKENS>
__global__ void __launch_bounds__(THREADS, 2) planes_tile_kernel(rows_arguments a) {
  extern __shared__ __align__(128) char ring[];
  constexpr int STAGE_BYTES = TOKENS * 128;
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, slabs = (int)a.planes.column_tiles * 4, first_token = blockIdx.y * TOKENS;
  int64_t own_tile = (int64_t)blockIdx.x * WARPS + warp, row_tile = min(own_tile, (a.planes.rows + 15) / 16 - 1);
  let_dependents_launch();
  int rows = row_count(a.output.run, a.output.last);
  if (first_token >= rows) return;
  half_weights<PLANES> next;
  next.load(a.planes, row_tile, 0, lane);
  wait_for_predecessors();
  stage_share share(a, first_token, rows);
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    request_activations<TOKENS>(share, ring + s * STAGE_BYTES, s); /* there are four slabs at least */
    copy_async_commit();
  }

  float sums[TOKENS / 8][4] = {};
  int stage = 0, lane_offset = (lane >> 2) * 128 + ((lane & 3) ^ (lane >> 2 & 1) * 4) * 16;
#pragma unroll 1
  for (int slab = 0; slab < slabs; slab += 2) {
    half_coefficients<PLANES> coefficients;
    uint32_t words[2][PLANES];
    next.expand(a.planes, coefficients, words);
    next.load(a.planes, row_tile, min(slab + 2, slabs - 2) >> 1, lane);
#pragma unroll
    for (int part = 0; part < 2; part++) {
      copy_async_wait<STAGES - 2>();
      __syncthreads();
      int target = stage == 0 ? STAGES - 1 : stage - 1;
      if (slab + part + STAGES - 1 < slabs) request_activations<TOKENS>(share, ring + target * STAGE_BYTES, slab + part + STAGES - 1);
      copy_async_commit();
#pragma unroll
      for (int unit = 0; unit < 2; unit++) {
        uint32_t weights[2][4];
        expand_words<PLANES>(coefficients, words, part * 2 + unit, weights);
        multiply_unit<TOKENS>(sums, weights, ring + stage * STAGE_BYTES + (lane_offset ^ unit * 64));
      }
      stage = stage + 1 == STAGES ? 0 : stage + 1;
    }
  }
  store_sums<TOKENS>(a, sums, own_tile * 16, first_token, rows, lane);
}

template <int TOKENS>
static const void *kernel_for(int planes) {
  switch (planes) {
    case 1:
      return (const void *)planes_tile_kernel<1, TOKENS>;
    case 2:
      return (const void *)planes_tile_kernel<2, TOKENS>;
    case 3:
      return (const void *)planes_tile_kernel<3, TOKENS>;
    default:
      return (const void *)planes_tile_kernel<4, TOKENS>;
  }
}

bool bpdq_cuda_planes_gemm_supports(const bpdq_cuda_planes *planes) { return planes->planes <= 4; }

bool bpdq_cuda_uses_wgmma(void) {
#ifdef BPDQ_CUDA_WGMMA
  const char *set = getenv("BPDQ_CUDA_WGMMA");
  return !(set && !strcmp(set, "0")) && bpdq_cuda_planes_wgmma_loads();
#else
  return false;
#endif
}

uint64_t bpdq_cuda_planes_gemm_scratch(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, int64_t max_rows) {
#ifdef BPDQ_CUDA_WGMMA
  if (queue->wgmma) return bpdq_cuda_planes_wgmma_scratch(queue, planes, max_rows);
#endif
  (void)queue, (void)planes, (void)max_rows;
  return 0;
}

cudaError_t bpdq_cuda_planes_gemm(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, const void *halves, const float *row_scale,
                                  void *scratch, const bpdq_cuda_output *output) {
#ifdef BPDQ_CUDA_WGMMA
  if (queue->wgmma) return bpdq_cuda_planes_wgmma(queue, planes, halves, row_scale, scratch, output);
#endif
  (void)scratch;
  rows_arguments arguments = {*planes, (const char *)halves, planes->column_tiles * 256, row_scale, *output};
  void *pointers[] = {&arguments};
  /* Small tiles where large ones would leave multiprocessors idle. */
  unsigned blocks = blocks_for(planes->rows, OUTPUTS);
  int tokens = blocks * blocks_for(output->max_rows, 128) >= 4u * (unsigned)queue->multiprocessors ? 128 : 64;
  const void *kernel = tokens == 128 ? kernel_for<128>(planes->planes) : kernel_for<64>(planes->planes);
  return launch(queue, kernel, dim3(blocks, blocks_for(output->max_rows, tokens)), THREADS, (size_t)STAGES * tokens * 128, pointers);
}
