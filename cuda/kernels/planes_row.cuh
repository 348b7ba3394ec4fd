/* The bit-serial product of one row of activations (planes_bitserial.cuh says how the numbers come about).
 *
 * A block computes 16 outputs: one row tile, whose column tiles its warps share. Weights go straight to registers, DEPTH tiles of a warp at
 * once, and are requested before the kernel waits for its predecessor; with few column tiles the whole row tile is then on its way while
 * the activations are still being made. Nothing is staged in shared memory: a block meets each activation once, and the blocks of a
 * multiprocessor share them through the L1 cache. */
#ifndef BPDQ_CUDA_PLANES_ROW_CUH
#define BPDQ_CUDA_PLANES_ROW_CUH

#include "kernels/planes_bitserial.cuh"

#define ROW_MAX_WARPS 16

template <int PLANES, int GROUP, int SLICES>
struct row_tile {
  typedef bitserial<PLANES, GROUP, SLICES, 1> product;
  static constexpr int SLOTS = product::SLOTS, GROUPS = product::GROUPS;
  static constexpr int PAIRS = (SLOTS + 3) / 4; /* the four lanes of a row share its coefficients: lane q holds slots q, q + 4, .. */

  uint4 planes[PLANES];
  uint32_t pairs[PAIRS];
  uint2 bits[SLICES];
  float2 scales[GROUPS];

  __device__ void request_weights(const bitserial_arguments &a, int64_t tile, int lane) {
    const uint4 *words = (const uint4 *)a.words + tile * (PLANES * 32) + lane;
    const uint32_t *coefficients = (const uint32_t *)a.coefficients + tile * (SLOTS * 8) + (lane & 3) * 8 + (lane >> 2);
#pragma unroll
    for (int p = 0; p < PLANES; p++) planes[p] = __ldcs(words + p * 32);
#pragma unroll
    for (int i = 0; i < PAIRS; i++)
      if (i * 4 + 3 < SLOTS || i * 4 + (lane & 3) < SLOTS) pairs[i] = __ldcs(coefficients + i * 32);
  }

  __device__ void request_activations(const bitserial_arguments &a, int column_tile, int lane) {
    int q = lane & 3, r = lane >> 2;
#pragma unroll
    for (int s = 0; s < SLICES; s++) bits[s] = ((const uint2 *)a.bits)[(column_tile * SLICES + s) * 32 + r * 4 + q];
#pragma unroll
    for (int g = 0; g < GROUPS; g++) scales[g] = a.scales[column_tile * GROUPS + g];
  }

  template <bool BF16>
  __device__ float2 slot(int i, int lane) const {
    return pair_to_floats<BF16>(__shfl_sync(~0u, pairs[i >> 2], (lane & ~3) | (i & 3)));
  }

  template <bool BF16>
  __device__ float2 multiply(int lane, float2 sum) const {
    int q = lane & 3, top_weight = q == 3 ? -2 : 2;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
      float2 c[PLANES + 1];
#pragma unroll
      for (int p = 0; p <= PLANES; p++) c[p] = slot<BF16>(g * (PLANES + 1) + p, lane);
      sum = product::group_sum(planes, c, bits, scales[g], g, q, top_weight, sum);
    }
    return sum;
  }
};

/* Sums of rows r and r + 8 over this warp's column tiles. */
template <bool BF16, int PLANES, int GROUP, int SLICES, int DEPTH>
__device__ __forceinline__ static float2 row_sum(const bitserial_arguments &a, row_tile<PLANES, GROUP, SLICES> stages[DEPTH], int64_t base,
                                                 int warp, int warps, int lane) {
  float2 sum = make_float2(0, 0);
  for (int first = warp; first < a.column_tiles; first += DEPTH * warps) {
#pragma unroll
    for (int s = 0; s < DEPTH; s++) {
      int tile = first + s * warps, next = tile + DEPTH * warps;
      if (tile >= a.column_tiles) break;
      sum = stages[s].template multiply<BF16>(lane, sum);
      if (next >= a.column_tiles) continue;
      stages[s].request_weights(a, base + next, lane);
      stages[s].request_activations(a, next, lane);
    }
  }
  return sum;
}

template <int PLANES, int GROUP, int SLICES, int DEPTH>
__global__ void __launch_bounds__(ROW_MAX_WARPS * 32) row_kernel(bitserial_arguments a) {
  __shared__ float partial[ROW_MAX_WARPS][16];
  int warps = blockDim.x >> 5, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  int64_t base = (int64_t)blockIdx.x * a.column_tiles;
  row_tile<PLANES, GROUP, SLICES> stages[DEPTH];
  let_dependents_launch();
#pragma unroll
  for (int s = 0; s < DEPTH; s++)
    if (warp + s * warps < a.column_tiles) stages[s].request_weights(a, base + warp + s * warps, lane);
  int n = blockIdx.x * 16 + (int)threadIdx.x;
  bool writes = threadIdx.x < 16 && n < a.rows;
  float start = writes && a.output.bias ? a.output.bias[n] : 0;
  wait_for_predecessors();
#pragma unroll
  for (int s = 0; s < DEPTH; s++)
    if (warp + s * warps < a.column_tiles) stages[s].request_activations(a, warp + s * warps, lane);
  if (writes && a.output.accumulate) start += a.output.data[n];

  float2 sum = a.bf16 ? row_sum<true, PLANES, GROUP, SLICES, DEPTH>(a, stages, base, warp, warps, lane)
                      : row_sum<false, PLANES, GROUP, SLICES, DEPTH>(a, stages, base, warp, warps, lane);
  bitserial<PLANES, GROUP, SLICES, 1>::flush(&sum, lane, partial[warp]);
  __syncthreads();
  if (!writes) return;
  float total = 0;
  for (int w = 0; w < warps; w++) total += partial[w][threadIdx.x];
  a.output.data[n] = start + total;
}

template <int PLANES, int GROUP, int SLICES>
static const void *pick_row_kernel(int depth) {
  if (depth == 1) return (const void *)row_kernel<PLANES, GROUP, SLICES, 1>;
  if (depth == 2) return (const void *)row_kernel<PLANES, GROUP, SLICES, 2>;
  return (const void *)row_kernel<PLANES, GROUP, SLICES, 4>;
}
template <int PLANES>
static const void *pick_row_kernel(int group, int slices, int depth) {
  if (group == 64) return slices == 1 ? pick_row_kernel<PLANES, 64, 1>(depth) : pick_row_kernel<PLANES, 64, 2>(depth);
  if (group == 128) return slices == 1 ? pick_row_kernel<PLANES, 128, 1>(depth) : pick_row_kernel<PLANES, 128, 2>(depth);
  return slices == 1 ? pick_row_kernel<PLANES, 256, 1>(depth) : pick_row_kernel<PLANES, 256, 2>(depth);
}

const void *row_kernel_1(int group, int slices, int depth);
const void *row_kernel_2(int group, int slices, int depth);
const void *row_kernel_3(int group, int slices, int depth);
const void *row_kernel_4(int group, int slices, int depth);

#endif
