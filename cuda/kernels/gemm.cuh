/* Tensor-core product for many rows of activations: y[token, n] = sum_k x[token, k] W[n, k], f16 or bf16 operands, f32 sums.
 *
 * A block computes 128 outputs x 128 tokens, with groups of four warps that share K: each warp 32 outputs x all tokens, so that a weight is
 * expanded once per 128 tokens, in the registers of the warp that uses it. The weights are the mma's A operand and come from a provider
 * (bit-planes or dense rows); the activations are its B operand and stream through a ring in shared memory, 64 columns of 128 tokens to a
 * stage.
 *
 * K is taken in units of 32 columns = two k-steps. In a unit, lane q's share of an activation row is 16 consecutive bytes: its
 * (b0, b1) of the first step, then of the second. A provider expands its weights in the same order of columns. */
#ifndef BPDQ_CUDA_GEMM_CUH
#define BPDQ_CUDA_GEMM_CUH

#include "kernels/device.cuh"

#define GEMM_WARPS 4
#define GEMM_OUTPUTS (GEMM_WARPS * 32)
#define GEMM_TOKENS 128
#define GEMM_STAGES 3
#define GEMM_STAGE_BYTES (GEMM_TOKENS * 128) /* 64 columns of 2 bytes */

typedef struct gemm_operand {
  const void *activations[2]; /* [rows, stride] 16-bit numbers; the second is used where the provider asks for two */
  int64_t stride;
  const float *row_scale; /* [rows] or NULL */
  float scale;            /* of all outputs */
  int64_t outputs;        /* N */
  bpdq_cuda_output output;
} gemm_operand;

/* Sixteen bytes `chunk` (0..7) of a token's 128-byte row lie at chunk ^ 4 in odd rows, so that the eight lanes of two tokens that read
 * together meet eight different groups of banks. */
__device__ __forceinline__ static int staged_offset(int token, int chunk) { return token * 128 + (chunk ^ (token & 1) * 4) * 16; }

/* All threads of a group of warps. */
__device__ __forceinline__ static void group_barrier(int group) {
  asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(GEMM_WARPS * 32) : "memory");
}

__device__ static void request_activations(char *stage, const void *activations, int64_t stride, int first_token, int rows,
                                           int64_t column) {
  for (int i = threadIdx.x % (GEMM_WARPS * 32); i < GEMM_TOKENS * 8; i += GEMM_WARPS * 32) {
    int token = i >> 3, chunk = i & 7;
    bool valid = first_token + token < rows;
    const char *from = (const char *)activations + ((valid ? first_token + token : 0) * stride + column + chunk * 8) * 2;
    copy_async_16_or_zero(stage + staged_offset(token, chunk), from, valid);
  }
}

template <bool BF16>
__device__ __forceinline__ static void multiply(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  if (BF16)
    mma_bf16(d, a, b0, b1);
  else
    mma_f16(d, a, b0, b1);
}

__device__ static void store_tile(const gemm_operand &g, const float acc[2][16][4], int64_t first_output, int first_token, int rows) {
  int lane = threadIdx.x & 31, q = lane & 3, r = lane >> 2;
#pragma unroll
  for (int j = 0; j < 16; j++)
#pragma unroll
    for (int odd = 0; odd < 2; odd++) {
      int token = first_token + j * 8 + 2 * q + odd;
      if (token >= rows) continue;
      float scale = g.row_scale ? g.row_scale[token] * g.scale : g.scale;
#pragma unroll
      for (int m = 0; m < 2; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          int64_t n = first_output + m * 16 + half * 8 + r;
          if (n >= g.outputs) continue;
          float value = acc[m][j][half * 2 + odd] * scale;
          if (g.output.bias) value += g.output.bias[n];
          float *y = g.output.data + token * g.output.stride + n;
          *y = g.output.accumulate ? *y + value : value;
        }
    }
}

/* One unit of 32 columns: two eights of tokens at a time, so that no mma follows one that it depends on. */
template <bool BF16>
__device__ __forceinline__ static void multiply_unit(float acc[2][16][4], const uint32_t a[2][2][4], const char *stage, int unit, int n,
                                                     int q) {
#pragma unroll
  for (int first = 0; first < 16; first += 2) {
    uint4 b[2];
#pragma unroll
    for (int j = 0; j < 2; j++) b[j] = *(const uint4 *)(stage + staged_offset((first + j) * 8 + n, unit * 4 + q));
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
      for (int m = 0; m < 2; m++) multiply<BF16>(acc[m][first + j], a[m][0], b[j].x, b[j].y);
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
      for (int m = 0; m < 2; m++) multiply<BF16>(acc[m][first + j], a[m][1], b[j].z, b[j].w);
  }
}

/* The second group's sums go to the first through shared memory. */
__device__ static void merge_groups(float acc[2][16][4], int group, float *shared) {
  float *own = shared + threadIdx.x % (GEMM_WARPS * 32);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 128; i++)
    if (group == 1) own[i * GEMM_WARPS * 32] = acc[i >> 6][i >> 2 & 15][i & 3];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 128; i++)
    if (group == 0) acc[i >> 6][i >> 2 & 15][i & 3] += own[i * GEMM_WARPS * 32];
}

/* A Provider has: SLABS, how many slabs of 64 columns one load() brings; OPERANDS, 1 or 2 activation arrays; GROUPS, 1 or 2; BF16; a
 * constructor that knows the first step; slabs(), a multiple of SLABS; load(step), before the slabs of that step; fragments(slab of
 * the step, unit of the slab, a[2 row tiles][2 k-steps][4]). */
template <class Provider, class Weights>
__global__ void __launch_bounds__(Provider::GROUPS *GEMM_WARPS * 32) gemm_kernel(Weights weights, gemm_operand g) {
  extern __shared__ __align__(128) char staged[];
  constexpr int OPERANDS = Provider::OPERANDS, GROUPS = Provider::GROUPS;
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5 & (GEMM_WARPS - 1), group = threadIdx.x / (GEMM_WARPS * 32), q = lane & 3,
      n = lane >> 2;
  int64_t first_output = (int64_t)blockIdx.x * GEMM_OUTPUTS + warp * 32;
  int first_token = blockIdx.y * GEMM_TOKENS;
  let_dependents_launch();
  int rows = row_count(g.output.run, g.output.last);
  if (first_token >= rows) return;
  wait_for_predecessors();
  int steps = (int)(g.stride / 64) / Provider::SLABS, from = group * ((steps + 1) / GROUPS),
      to = group + 1 < GROUPS ? (steps + 1) / GROUPS : steps;
  Provider provider(weights, first_output, lane, from);
  char *ring = staged + group * GEMM_STAGES * OPERANDS * GEMM_STAGE_BYTES;
  int end = to * Provider::SLABS;

  auto request = [&](int slab) {
    char *stage = ring + slab % GEMM_STAGES * OPERANDS * GEMM_STAGE_BYTES;
    if (slab < end)
#pragma unroll
      for (int o = 0; o < OPERANDS; o++)
        request_activations(stage + o * GEMM_STAGE_BYTES, g.activations[o], g.stride, first_token, rows, (int64_t)slab * 64);
    copy_async_commit();
  };
  for (int s = 0; s < GEMM_STAGES - 1; s++) request(from * Provider::SLABS + s);

  float acc[2][16][4] = {};
  for (int step = from; step < to; step++) {
    provider.load(step);
#pragma unroll
    for (int s = 0; s < Provider::SLABS; s++) {
      int slab = step * Provider::SLABS + s;
      copy_async_wait<GEMM_STAGES - 2>();
      group_barrier(group);
      request(slab + GEMM_STAGES - 1);
      const char *stage = ring + slab % GEMM_STAGES * OPERANDS * GEMM_STAGE_BYTES;
#pragma unroll
      for (int unit = 0; unit < 2; unit++) {
        uint32_t a[2][2][4];
        provider.fragments(s, unit, a);
#pragma unroll
        for (int o = 0; o < OPERANDS; o++) multiply_unit<Provider::BF16>(acc, a, stage + o * GEMM_STAGE_BYTES, unit, n, q);
      }
    }
  }
  copy_async_wait<0>();
  if (GROUPS == 2) merge_groups(acc, group, (float *)staged);
  if (group == 0) store_tile(g, acc, first_output, first_token, rows);
}

template <class Provider, class Weights>
static cudaError_t launch_gemm(const bpdq_cuda_queue *queue, Weights *weights, gemm_operand *g) {
  void *pointers[] = {weights, g};
  dim3 grid(blocks_for(g->outputs, GEMM_OUTPUTS), blocks_for(g->output.max_rows, GEMM_TOKENS));
  return launch(queue, (const void *)gemm_kernel<Provider, Weights>, grid, Provider::GROUPS * GEMM_WARPS * 32,
                (size_t)Provider::GROUPS * GEMM_STAGES * Provider::OPERANDS * GEMM_STAGE_BYTES, pointers);
}

#endif
