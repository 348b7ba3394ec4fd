/* The bit-serial tensor-core product of one row of activations: y = W' x for bit-plane weights.
 *
 * The row is quantized per group to integers of 8 * SLICES bits (two's complement). The eight bits of one slice are the eight columns
 * of an mma's B operand, and a plane of 16 rows x 256 columns is the A operand as stored (layout.h), so one instruction gives
 * popcount(plane row AND bit row) for 16 rows and 8 bits. A lane (r, q) has the counts of bits 2q and 2q + 1 for rows r and r + 8: as pairs
 * of 16 bits they are, as they lie, the A operand of a second mma, on f16, where an integer n in the low bits is n * 2^-24. It weights the
 * bits (the top one counts negative) and adds them up, exactly. The column of its B operand that has the weights chooses the lane that gets
 * the sum: lane q gets those of group q, two planes at a time, and needs that group's coefficients and scale only.
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

/* What a lane adds up for rows r and r + 8. */
typedef struct row_sums {
  float2 products; /* in units of 2^24 */
  float2 biases;
} row_sums;

/* A tile of 16 rows x 256 columns on its way, and the activations that it meets. */
template <int PLANES, int GROUP, int SLICES>
struct row_tile {
  static constexpr int GROUPS = 256 / GROUP; /* of a column tile */
  static constexpr int PAIRS = (PLANES + 1) / 2;
  static constexpr int COEFFICIENT_WORDS = GROUPS * (PLANES + 1) * 8; /* of a tile */

  uint4 planes[PLANES];
  uint32_t coefficients[PLANES + 1]; /* of rows r and r + 8; of the lane's group: lanes from GROUPS on have none */
  uint2 bits[SLICES];
  float2 scale; /* of the lane's group: its scale, and scale * sum of its integers */

  __device__ static const uint4 *words_of(const bitserial_arguments &a, int64_t tile, int lane) {
    return (const uint4 *)a.words + tile * (PLANES * 32) + lane;
  }
  __device__ static const uint32_t *coefficients_of(const bitserial_arguments &a, int64_t tile, int lane) {
    return (const uint32_t *)a.coefficients + tile * COEFFICIENT_WORDS + (lane & 3) * ((PLANES + 1) * 8) + (lane >> 2);
  }

  /* Lanes without a group multiply zeros. */
  __device__ void clear_coefficients() {
#pragma unroll
    for (int p = 0; p <= PLANES; p++) coefficients[p] = 0;
  }

  __device__ void request_weights(const bitserial_arguments &a, int64_t tile, int lane) {
    request_weights(words_of(a, tile, lane), coefficients_of(a, tile, lane), lane);
  }
  __device__ void request_weights(const uint4 *words, const uint32_t *from, int lane) {
#pragma unroll
    for (int p = 0; p < PLANES; p++) planes[p] = __ldcs(words + p * 32);
    if ((lane & 3) < GROUPS)
#pragma unroll
      for (int p = 0; p <= PLANES; p++) coefficients[p] = __ldcs(from + p * 8);
  }

  __device__ void request_activations(const bitserial_arguments &a, int column_tile, int lane) {
#pragma unroll
    for (int s = 0; s < SLICES; s++) bits[s] = ((const uint2 *)a.input.bits)[(column_tile * SLICES + s) * 32 + lane];
    scale = a.input.scales[column_tile * GROUPS + (lane & 3) % GROUPS];
  }

  /* Counts of one group, plane and slice: two operand registers, of rows r and r + 8. */
  __device__ uint2 count(int plane, int slice, int group, int q) const {
    int d[4];
    const uint4 &a = planes[plane];
    if (GROUP == 256) {
      mma_b1_k256(d, a, bits[slice]);
    } else {
      bool upper = group >= GROUPS / 2;
      uint32_t column = upper ? bits[slice].y : bits[slice].x;
      if (GROUP == 64) column = (q >> 1) == (group & 1) ? column : 0; /* the other half of the 128 columns is another group's */
      mma_b1_k128(d, upper ? a.z : a.x, upper ? a.w : a.y, column);
    }
    return make_uint2(__byte_perm(d[0], d[1], 0x5410), __byte_perm(d[2], d[3], 0x5410));
  }

  template <bool BF16>
  __device__ void multiply(int lane, row_sums *sums) const {
    int q = lane & 3, column = lane >> 2;
    float counts[PAIRS][4] = {}; /* planes 2i and 2i + 1 of the lane's group: rows r, r, r + 8, r + 8 */
#pragma unroll
    for (int s = 0; s < SLICES; s++) {
      uint32_t weights = bpdq_cuda_bit_weights(s, SLICES, q);
#pragma unroll
      for (int g = 0; g < GROUPS; g++) {
        uint32_t even = column == 2 * g ? weights : 0, odd = column == 2 * g + 1 ? weights : 0;
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
          uint2 first = count(2 * i, s, g, q);
          if (2 * i + 1 < PLANES) {
            uint2 second = count(2 * i + 1, s, g, q);
            const uint32_t operand[4] = {first.x, first.y, second.x, second.y};
            mma_f16(counts[i], operand, even, odd);
          } else {
            mma_f16_k8(counts[i], first.x, first.y, even);
          }
        }
      }
    }
    float2 total = make_float2(0, 0);
#pragma unroll
    for (int p = 0; p < PLANES; p++) {
      float2 c = pair_to_floats<BF16>(coefficients[p]);
      total.x = fmaf(c.x, counts[p / 2][p % 2], total.x);
      total.y = fmaf(c.y, counts[p / 2][p % 2 + 2], total.y);
    }
    float2 bias = pair_to_floats<BF16>(coefficients[PLANES]);
    sums->products.x = fmaf(scale.x, total.x, sums->products.x);
    sums->products.y = fmaf(scale.x, total.y, sums->products.y);
    sums->biases.x = fmaf(scale.y, bias.x, sums->biases.x);
    sums->biases.y = fmaf(scale.y, bias.y, sums->biases.y);
  }
};

/* The four lanes of a row added up: all of them have the results of rows r and r + 8. */
__device__ __forceinline__ static float2 add_lanes(const row_sums &sums) {
  const float unit = 16777216; /* 2^24 */
  float2 sum = make_float2(fmaf(sums.products.x, unit, sums.biases.x), fmaf(sums.products.y, unit, sums.biases.y));
  sum.x += __shfl_xor_sync(~0u, sum.x, 1);
  sum.y += __shfl_xor_sync(~0u, sum.y, 1);
  sum.x += __shfl_xor_sync(~0u, sum.x, 2);
  sum.y += __shfl_xor_sync(~0u, sum.y, 2);
  return sum;
}

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
__device__ __forceinline__ static row_sums row_sum(const bitserial_arguments &a, row_tile<PLANES, GROUP, SLICES> stages[DEPTH],
                                                   int64_t base, int warp, int warps, int lane) {
  row_sums sums = {};
  for (int first = warp; first < a.column_tiles; first += DEPTH * warps) {
#pragma unroll
    for (int s = 0; s < DEPTH; s++) {
      int tile = first + s * warps, next = tile + DEPTH * warps;
      if (tile >= a.column_tiles) break;
      stages[s].template multiply<BF16>(lane, &sums);
      if (next >= a.column_tiles) continue;
      stages[s].request_weights(a, base + next, lane);
      stages[s].request_activations(a, next, lane);
    }
  }
  return sums;
}

/* Whether 64 registers hold DEPTH tiles and their arithmetic, so that two of the largest blocks fit on a multiprocessor. */
constexpr bool fits_twice(int planes, int group, int slices, int depth) {
  return depth == 1 ? planes * (256 / group) * slices <= 24 : planes <= 2 && planes * (256 / group) * slices <= 8;
}

template <int PLANES, int GROUP, int SLICES, int DEPTH>
__global__ void __launch_bounds__(BITSERIAL_MAX_WARPS * 32, (fits_twice(PLANES, GROUP, SLICES, DEPTH) ? 2 : 1))
    bitserial_kernel(bitserial_arguments a) {
  __shared__ float partial[BITSERIAL_MAX_WARPS][16], factor;
  int warps = blockDim.x >> 5, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  int64_t base = (int64_t)blockIdx.x * a.column_tiles;
  row_tile<PLANES, GROUP, SLICES> stages[DEPTH];
  let_dependents_launch();
#pragma unroll
  for (int s = 0; s < DEPTH; s++) stages[s].clear_coefficients();
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

  float2 sum = add_lanes(a.bf16 ? row_sum<true, PLANES, GROUP, SLICES, DEPTH>(a, stages, base, warp, warps, lane)
                                : row_sum<false, PLANES, GROUP, SLICES, DEPTH>(a, stages, base, warp, warps, lane));
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
    row_sums sums = {};
    stages[0].template multiply<BF16>(lane, &sums);
    if (more) stages[0].request_weights(words, coefficients, lane);
    if (second) {
      stages[1].template multiply<BF16>(lane, &sums);
      if (more)
        stages[1].request_weights(words + (unsigned)warps * (PLANES * 32),
                                  coefficients + (unsigned)warps * row_tile<PLANES, GROUP, SLICES>::COEFFICIENT_WORDS, lane);
    }
    float2 sum = add_lanes(sums);
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
constexpr int stream_blocks(int planes, int group, int slices) { return planes * slices <= 2 && group >= 128 ? 2 : 1; }
constexpr int stream_threads(int planes, int group, int slices) { return stream_blocks(planes, group, slices) == 2 ? 1024 : 768; }

/* Others have too many numbers to a tile: four planes spill up to forty registers. */
constexpr bool can_stream(int planes, int group) { return planes < 4 && planes * (256 / group) <= 8; }

/* column_tiles / 2 warps, rounded up: two at least. */
template <int PLANES, int GROUP, int SLICES>
__global__ void __launch_bounds__(stream_threads(PLANES, GROUP, SLICES) / stream_blocks(PLANES, GROUP, SLICES),
                                  (stream_blocks(PLANES, GROUP, SLICES))) row_stream_kernel(bitserial_arguments a) {
  __shared__ float partial[STREAM_PLACES][BITSERIAL_MAX_WARPS][16];
  __shared__ float factor; /* of the norm */
  typedef row_tile<PLANES, GROUP, SLICES> tile_type;
  int warps = blockDim.x >> 5, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  int64_t first = (int64_t)blockIdx.x * a.column_tiles + warp;
  const uint4 *words = tile_type::words_of(a, first, lane);
  const uint32_t *coefficients = tile_type::coefficients_of(a, first, lane);
  tile_type stages[2];
  let_dependents_launch();
  stages[0].clear_coefficients();
  stages[1].clear_coefficients();
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
