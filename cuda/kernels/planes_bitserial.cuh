/* The bit-serial tensor-core product of one row of activations: y = W' x for bit-plane weights.
 *
 * The row is quantized per group to integers of 8 * SLICES bits (two's complement). The eight bits of one slice are the eight columns
 * of the mma's B operand, and a plane of 16 rows x 256 columns is the A operand as stored (layout.h), so one instruction gives
 * popcount(plane row AND bit row) for 16 rows and 8 bits. In the accumulator fragment a lane (r, q) holds bits 2q and 2q + 1 of rows r
 * and r + 8; the weights 4^q are applied once, at the end of a row. The top bit counts negative.
 *
 * A block computes 16 outputs: one row tile, whose column tiles its warps share. Weights go straight to registers, DEPTH tiles of a warp at
 * once, and are requested before the kernel waits for its predecessor; with few column tiles the whole row tile is then on its way while
 * the activations are still being made. Nothing is staged in shared memory: a block meets each activation once, and the blocks of a
 * multiprocessor share them through the L1 cache. */
#ifndef BPDQ_CUDA_PLANES_BITSERIAL_CUH
#define BPDQ_CUDA_PLANES_BITSERIAL_CUH

#include "kernels/device.cuh"

#define BITSERIAL_MAX_WARPS 16

typedef struct bitserial_arguments {
  const uint32_t *words;
  const uint16_t *coefficients;
  bpdq_cuda_bits input;
  float inverse_width;                   /* 1 / K */
  int row_tiles, column_tiles, rows;     /* rows: N */
  int64_t words_step, coefficients_step; /* bytes from a block's row tile to its next, in the stream over row tiles */
  bool bf16;
  bpdq_cuda_output output;
} bitserial_arguments;

template <int PLANES, int GROUP, int SLICES>
struct bitserial {
  static constexpr int GROUPS = 256 / GROUP;          /* of a column tile */
  static constexpr int SLOTS = GROUPS * (PLANES + 1); /* coefficients per row of a tile */

  /* Counts of one group, plane and slice for rows r and r + 8. */
  __device__ static int2 count(const uint4 &plane, uint2 b, int group, int q, int odd_weight) {
    int d[4];
    if (GROUP == 256) {
      mma_b1_k256(d, plane, b);
    } else {
      bool upper = group >= GROUPS / 2;
      uint32_t column = upper ? b.y : b.x;
      if (GROUP == 64) column = (q >> 1) == (group & 1) ? column : 0; /* the other half of the 128 columns is another group's */
      mma_b1_k128(d, upper ? plane.z : plane.x, upper ? plane.w : plane.y, column);
    }
    return make_int2(d[0] + d[1] * odd_weight, d[2] + d[3] * odd_weight);
  }

  /* One group of one tile for one activation row: adds to the sums of rows r and r + 8. */
  __device__ static float2 group_sum(const uint4 *planes, const float2 *c, const uint2 *b, float2 scale, int group, int q, int top_weight,
                                     float2 sum) {
    float2 total = make_float2(0, 0);
#pragma unroll
    for (int p = 0; p < PLANES; p++) {
      int2 n = count(planes[p], b[0], group, q, SLICES == 1 ? top_weight : 2);
      if (SLICES == 2) {
        int2 high = count(planes[p], b[SLICES - 1], group, q, top_weight);
        n.x += high.x * 256;
        n.y += high.y * 256;
      }
      total.x = fmaf(c[p].x, (float)n.x, total.x);
      total.y = fmaf(c[p].y, (float)n.y, total.y);
    }
    float offset = q == 0 ? scale.y : 0; /* lane q is weighted by 4^q at the end: the bias counts once, in lane 0 */
    sum.x = fmaf(scale.x, total.x, fmaf(c[PLANES].x, offset, sum.x));
    sum.y = fmaf(scale.x, total.y, fmaf(c[PLANES].y, offset, sum.y));
    return sum;
  }

  /* Adds up the four lanes of a row with their weights 4^q; lanes with q = 0 have the results of rows r and r + 8. */
  __device__ static float2 add_lanes(float2 sum, int lane) {
    float weight = (float)(1 << (2 * (lane & 3)));
    sum.x *= weight;
    sum.y *= weight;
    sum.x += __shfl_xor_sync(~0u, sum.x, 1);
    sum.y += __shfl_xor_sync(~0u, sum.y, 1);
    sum.x += __shfl_xor_sync(~0u, sum.x, 2);
    sum.y += __shfl_xor_sync(~0u, sum.y, 2);
    return sum;
  }
};

template <int PLANES, int GROUP, int SLICES>
struct row_tile {
  typedef bitserial<PLANES, GROUP, SLICES> product;
  static constexpr int SLOTS = product::SLOTS, GROUPS = product::GROUPS;
  static constexpr int PAIRS = (SLOTS + 3) / 4; /* the four lanes of a row share its coefficients: lane q holds slots q, q + 4, .. */

  uint4 planes[PLANES];
  uint32_t pairs[PAIRS];
  uint2 bits[SLICES];
  float2 scales[GROUPS];

  __device__ static const uint4 *words_of(const bitserial_arguments &a, int64_t tile, int lane) {
    return (const uint4 *)a.words + tile * (PLANES * 32) + lane;
  }
  __device__ static const uint32_t *coefficients_of(const bitserial_arguments &a, int64_t tile, int lane) {
    return (const uint32_t *)a.coefficients + tile * (SLOTS * 8) + (lane & 3) * 8 + (lane >> 2);
  }

  __device__ void request_weights(const bitserial_arguments &a, int64_t tile, int lane) {
    request_weights(words_of(a, tile, lane), coefficients_of(a, tile, lane), lane);
  }
  __device__ void request_weights(const uint4 *words, const uint32_t *coefficients, int lane) {
#pragma unroll
    for (int p = 0; p < PLANES; p++) planes[p] = __ldcs(words + p * 32);
#pragma unroll
    for (int i = 0; i < PAIRS; i++)
      if (i * 4 + 3 < SLOTS || i * 4 + (lane & 3) < SLOTS) pairs[i] = __ldcs(coefficients + i * 32);
  }

  __device__ void request_activations(const bitserial_arguments &a, int column_tile, int lane) {
    int q = lane & 3, r = lane >> 2;
#pragma unroll
    for (int s = 0; s < SLICES; s++) bits[s] = ((const uint2 *)a.input.bits)[(column_tile * SLICES + s) * 32 + r * 4 + q];
#pragma unroll
    for (int g = 0; g < GROUPS; g++) scales[g] = a.input.scales[column_tile * GROUPS + g];
  }

  template <bool BF16>
  __device__ float2 slot(int i) const {
    return pair_to_floats<BF16>(__shfl_sync(~0u, pairs[i >> 2], i & 3, 4));
  }

  template <bool BF16>
  __device__ float2 multiply(int lane, float2 sum) const {
    int q = lane & 3, top_weight = q == 3 ? -2 : 2;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
      float2 c[PLANES + 1];
#pragma unroll
      for (int p = 0; p <= PLANES; p++) c[p] = slot<BF16>(g * (PLANES + 1) + p);
      sum = product::group_sum(planes, c, bits, scales[g], g, q, top_weight, sum);
    }
    return sum;
  }
};

/* The factor of the norm, made by one warp; 1 where there is none. */
__device__ __forceinline__ static float norm_factor(const bitserial_arguments &a, int lane) {
  if (!a.input.squares) return 1;
  float sum = 0;
  for (int tile = lane; tile < a.column_tiles; tile += 32) sum += __ldcg(a.input.squares + tile);
  return rsqrtf(fmaf(warp_sum(sum), a.inverse_width, a.input.epsilon));
}

/* A warp adds up what all warps left: lanes l and l + 16 have the sum of output l & 15. */
__device__ __forceinline__ static float add_warps(const float partial[][16], int warps, int lane) {
  float total = 0;
#pragma unroll
  for (int first = 0; first < BITSERIAL_MAX_WARPS; first += 8) {
    float parts[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int warp = first + 2 * i + (lane >> 4);
      parts[i] = warp < warps ? partial[warp][lane & 15] : 0;
    }
    total += (parts[0] + parts[1]) + (parts[2] + parts[3]);
  }
  return total + __shfl_xor_sync(~0u, total, 16);
}

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
__global__ void __launch_bounds__(BITSERIAL_MAX_WARPS * 32) bitserial_kernel(bitserial_arguments a) {
  __shared__ float partial[BITSERIAL_MAX_WARPS][16], factor;
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
  if (warp == warps - 1) factor = norm_factor(a, lane); /* it has the fewest tiles */

  float2 sum = a.bf16 ? row_sum<true, PLANES, GROUP, SLICES, DEPTH>(a, stages, base, warp, warps, lane)
                      : row_sum<false, PLANES, GROUP, SLICES, DEPTH>(a, stages, base, warp, warps, lane);
  sum = bitserial<PLANES, GROUP, SLICES>::add_lanes(sum, lane);
  if ((lane & 3) == 0) {
    partial[warp][lane >> 2] = sum.x;
    partial[warp][(lane >> 2) + 8] = sum.y;
  }
  __syncthreads();
  if (warp > 0) return;
  float total = add_warps(partial, warps, lane);
  if (writes) a.output.data[n] = fmaf(total, factor, start);
}

#define STREAM_PLACES 4 /* sums of two row tiles are read while those of the next two are written */

/* Short rows: a warp's two column tiles are the same in each row tile of its block, so that their activations stay in registers, and the
 * next row tile's weights are requested as soon as this one's are used: the memory is busy while sums are put together. That is done for
 * two row tiles at a time, by two warps in turns.
 *
 * Registers are so short that the compiler would make addresses again for each tile; hence the pointers, which go on by a step, and the
 * address in shared memory, which is kept. */
template <bool BF16, int PLANES, int GROUP, int SLICES>
__device__ __forceinline__ static void stream_rows(const bitserial_arguments &a, row_tile<PLANES, GROUP, SLICES> stages[2],
                                                   const uint4 *words, const uint32_t *coefficients,
                                                   float partial[STREAM_PLACES][BITSERIAL_MAX_WARPS][16], const float *factor) {
  constexpr int PLACE = BITSERIAL_MAX_WARPS * 16;
  int warps = blockDim.x >> 5, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  int adder = warp; /* 0 and 1 add up a pair of row tiles, the others come two nearer to their turn */
  bool second = warp + warps < a.column_tiles;
  unsigned address = kept_shared_address(&partial[0][warp][lane >> 2]);
#pragma unroll 1
  for (int unit = blockIdx.x, k = 0; unit < a.row_tiles; unit += gridDim.x, k++) {
    bool more = unit + (int)gridDim.x < a.row_tiles;
    words = further(words, a.words_step);
    coefficients = further(coefficients, a.coefficients_step);
    float2 sum = stages[0].template multiply<BF16>(lane, make_float2(0, 0));
    if (more) stages[0].request_weights(words, coefficients, lane);
    if (second) {
      sum = stages[1].template multiply<BF16>(lane, sum);
      if (more)
        stages[1].request_weights(words + (unsigned)warps * (PLANES * 32),
                                  coefficients + (unsigned)warps * (row_tile<PLANES, GROUP, SLICES>::SLOTS * 8), lane);
    }
    sum = bitserial<PLANES, GROUP, SLICES>::add_lanes(sum, lane);
    if ((lane & 3) == 0) {
      unsigned to = address + k % STREAM_PLACES * (PLACE * (int)sizeof(float));
      store_shared(to, sum.x);
      store_shared(to + 8 * (int)sizeof(float), sum.y);
    }
    if (more && !(k & 1)) continue;
    int back = (k & 1) - adder, n = (unit - back * (int)gridDim.x) * 16 + (lane & 15);
    bool adds = adder <= (k & 1), writes = adds && lane < 16 && n < a.rows;
    float start = writes && a.output.bias ? a.output.bias[n] : 0;
    if (writes && a.output.accumulate) start += a.output.data[n];
    __syncthreads();
    adder = adder >= 2 ? adder - 2 : adder - 2 + warps;
    if (!adds) continue;
    float total = add_warps(partial[(k - back) % STREAM_PLACES], warps, lane);
    if (writes) a.output.data[n] = fmaf(total, *factor, start);
  }
}

/* Largest blocks on a multiprocessor, and threads that have registers for the stream there: 64 each, or 80. */
constexpr int stream_blocks(int planes, int group) { return planes <= 2 && group >= 128 ? 2 : 1; }
constexpr int stream_threads(int planes, int group) { return stream_blocks(planes, group) == 2 ? 1024 : 768; }

/* Others have too many numbers to a tile: four planes spill forty registers. */
constexpr bool can_stream(int planes, int group) { return planes < 4 && planes * (256 / group) <= 8; }

/* column_tiles / 2 warps, rounded up: two at least. */
template <int PLANES, int GROUP, int SLICES>
__global__ void __launch_bounds__(stream_threads(PLANES, GROUP) / stream_blocks(PLANES, GROUP), (stream_blocks(PLANES, GROUP)))
    row_stream_kernel(bitserial_arguments a) {
  __shared__ float partial[STREAM_PLACES][BITSERIAL_MAX_WARPS][16];
  __shared__ float factor; /* of the norm */
  typedef row_tile<PLANES, GROUP, SLICES> tile_type;
  int warps = blockDim.x >> 5, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  int64_t first = (int64_t)blockIdx.x * a.column_tiles + warp;
  const uint4 *words = tile_type::words_of(a, first, lane);
  const uint32_t *coefficients = tile_type::coefficients_of(a, first, lane);
  tile_type stages[2];
  let_dependents_launch();
  stages[0].request_weights(words, coefficients, lane);
  if (warp + warps < a.column_tiles) stages[1].request_weights(a, first + warps, lane);
  wait_for_predecessors();
  stages[0].request_activations(a, warp, lane);
  if (warp + warps < a.column_tiles) stages[1].request_activations(a, warp + warps, lane);
  if (warp == warps - 1) factor = norm_factor(a, lane);
  if (a.bf16)
    stream_rows<true, PLANES, GROUP, SLICES>(a, stages, words, coefficients, partial, &factor);
  else
    stream_rows<false, PLANES, GROUP, SLICES>(a, stages, words, coefficients, partial, &factor);
}

/* depth 0: the stream over row tiles. */
template <int PLANES, int GROUP, int SLICES>
static const void *pick_bitserial_kernel(int depth) {
  if constexpr (can_stream(PLANES, GROUP))
    if (depth == 0) return (const void *)row_stream_kernel<PLANES, GROUP, SLICES>;
  return depth == 1 ? (const void *)bitserial_kernel<PLANES, GROUP, SLICES, 1> : (const void *)bitserial_kernel<PLANES, GROUP, SLICES, 2>;
}
template <int PLANES>
static const void *pick_bitserial_kernel(int group, int slices, int depth) {
  if (group == 64) return slices == 1 ? pick_bitserial_kernel<PLANES, 64, 1>(depth) : pick_bitserial_kernel<PLANES, 64, 2>(depth);
  if (group == 128) return slices == 1 ? pick_bitserial_kernel<PLANES, 128, 1>(depth) : pick_bitserial_kernel<PLANES, 128, 2>(depth);
  return slices == 1 ? pick_bitserial_kernel<PLANES, 256, 1>(depth) : pick_bitserial_kernel<PLANES, 256, 2>(depth);
}

const void *bitserial_kernel_1(int group, int slices, int depth);
const void *bitserial_kernel_2(int group, int slices, int depth);
const void *bitserial_kernel_3(int group, int slices, int depth);
const void *bitserial_kernel_4(int group, int slices, int depth);

#endif
