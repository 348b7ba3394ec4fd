/* The bit-serial tensor-core product of two to eight rows of activations (of one row: planes_row.cuh): y = W' x for bit-plane weights.
 *
 * An activation row is quantized per group to an integer of 8 * SLICES bits (two's complement). Its eight bits of one slice are the eight
 * columns of the mma's B operand, and a plane of 16 rows x 256 columns is the A operand as stored (layout.h), so one instruction gives
 * popcount(plane row AND bit row) for 16 rows and 8 bits. In the accumulator fragment a lane (r, q) holds bits 2q and 2q + 1 of rows r
 * and r + 8; the weights 4^q are applied once, at the end of a row. The top bit counts negative.
 *
 * A block owns a run of row tiles and its warps share the flat list of their (row tile, column tile) pairs, so that no block-wide
 * barrier is needed until the end. Weights stream through a ring in shared memory, private to each warp: the first stages are on
 * their way before the kernel waits for its predecessor, and the memory stays busy across kernel boundaries.
 */
#ifndef BPDQ_CUDA_PLANES_BITSERIAL_CUH
#define BPDQ_CUDA_PLANES_BITSERIAL_CUH

#include "kernels/device.cuh"

typedef struct bitserial_arguments {
  const uint32_t *words;
  const uint16_t *coefficients;
  const uint32_t *bits;
  const float2 *scales;
  int row_tiles, column_tiles, rows; /* rows: N */
  int stages;
  bool bf16;
  bpdq_cuda_output output;
} bitserial_arguments;

/* Accumulator start values: the even bit starts at the pattern of 1.5 * 2^23, so that even + 2 * odd, reinterpreted, is that number plus
 * the count, and one subtraction makes it a float. Counts stay below 2^22 in magnitude. */
#define COUNT_BASE_BITS 0x4B400000
#define COUNT_BASE 12582912.0f

template <int PLANES, int GROUP, int SLICES, int ROWS>
struct bitserial {
  static constexpr int GROUPS = 256 / GROUP;          /* of a column tile */
  static constexpr int SLOTS = GROUPS * (PLANES + 1); /* coefficients per row of a tile */
  static constexpr int PLANE_BYTES = 512;             /* 16 x 256 bits */
  static constexpr int TILE_BYTES = PLANES * PLANE_BYTES + SLOTS * 32;
  static constexpr int CHUNKS = SLOTS * 2;        /* 16-byte pieces of the tile's coefficients */
  static constexpr int BITS_BYTES = SLICES * 256; /* activation bits of one row and column tile */

  /* A tile's weights on their way into one stage of the warp's ring. */
  __device__ static void request(char *stage, const bitserial_arguments &a, int64_t tile, int lane) {
    const char *words = (const char *)a.words + tile * (PLANES * PLANE_BYTES);
    const char *coefficients = (const char *)a.coefficients + tile * (SLOTS * 32);
#pragma unroll
    for (int p = 0; p < PLANES; p++) copy_async_16(stage + p * PLANE_BYTES + lane * 16, words + p * PLANE_BYTES + lane * 16);
#pragma unroll
    for (int i = 0; i < CHUNKS; i += 32)
      if (i + lane < CHUNKS) copy_async_16(stage + PLANES * PLANE_BYTES + (i + lane) * 16, coefficients + (i + lane) * 16);
  }

  /* Counts of one group, plane and slice for rows r and r + 8, as integers whose even bit started at `base`. */
  __device__ static int2 count(const uint4 &plane, uint2 b, int group, int q, int base, int odd_weight) {
    int d[4];
    if (GROUP == 256) {
      mma_b1_k256(d, plane, b, base, 0);
    } else {
      bool upper = group >= GROUPS / 2;
      uint32_t column = upper ? b.y : b.x;
      if (GROUP == 64) column = (q >> 1) == (group & 1) ? column : 0; /* the other half of the 128 columns is another group's */
      mma_b1_k128(d, upper ? plane.z : plane.x, upper ? plane.w : plane.y, column, base, 0);
    }
    return make_int2(d[0] + d[1] * odd_weight, d[2] + d[3] * odd_weight);
  }

  /* One group of one tile for one activation row: adds to the sums of rows r and r + 8. */
  __device__ static float2 group_sum(const uint4 *planes, const float2 *c, const uint2 *b, float2 scale, int group, int q, int top_weight,
                                     float2 sum) {
    float2 total = make_float2(0, 0);
#pragma unroll
    for (int p = 0; p < PLANES; p++) {
      int2 n = count(planes[p], b[0], group, q, COUNT_BASE_BITS, SLICES == 1 ? top_weight : 2);
      if (SLICES == 2) {
        int2 high = count(planes[p], b[SLICES - 1], group, q, 0, top_weight);
        n.x += high.x * 256;
        n.y += high.y * 256;
      }
      total.x = fmaf(c[p].x, __int_as_float(n.x) - COUNT_BASE, total.x);
      total.y = fmaf(c[p].y, __int_as_float(n.y) - COUNT_BASE, total.y);
    }
    float offset = q == 0 ? scale.y : 0; /* lane q is weighted by 4^q at the end: the bias counts once, in lane 0 */
    sum.x = fmaf(scale.x, total.x, fmaf(c[PLANES].x, offset, sum.x));
    sum.y = fmaf(scale.x, total.y, fmaf(c[PLANES].y, offset, sum.y));
    return sum;
  }

  /* One tile of weights against all activation rows. `bits` and `scales` are those of row 0 and this column tile. */
  __device__ static void tile_sum(const char *stage, bool bf16, const uint32_t *bits, int64_t bits_stride, const float2 *scales,
                                  int64_t scales_stride, int rows, int lane, float2 sum[ROWS]) {
    int q = lane & 3, r = lane >> 2;
    uint4 planes[PLANES];
    float2 c[SLOTS];
#pragma unroll
    for (int p = 0; p < PLANES; p++) planes[p] = ((const uint4 *)(stage + p * PLANE_BYTES))[lane];
    const uint32_t *pairs = (const uint32_t *)(stage + PLANES * PLANE_BYTES) + r;
    if (bf16) {
#pragma unroll
      for (int i = 0; i < SLOTS; i++) c[i] = pair_to_floats<true>(pairs[i * 8]);
    } else {
#pragma unroll
      for (int i = 0; i < SLOTS; i++) c[i] = pair_to_floats<false>(pairs[i * 8]);
    }
    int top_weight = q == 3 ? -2 : 2;
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
      if (ROWS > 1 && row >= rows) break;
      uint2 b[SLICES];
#pragma unroll
      for (int s = 0; s < SLICES; s++) b[s] = ((const uint2 *)(bits + row * bits_stride + s * 64))[r * 4 + q];
#pragma unroll
      for (int g = 0; g < GROUPS; g++)
        sum[row] = group_sum(planes, c + g * (PLANES + 1), b, scales[row * scales_stride + g], g, q, top_weight, sum[row]);
    }
  }

  /* Adds up the four lanes of a row with their weights 4^q and leaves the result in partial[row][16]. */
  __device__ static void flush(float2 sum[ROWS], int lane, float *partial) {
    int q = lane & 3, r = lane >> 2;
    float weight = (float)(1 << (2 * q));
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
      float low = sum[row].x * weight, high = sum[row].y * weight;
      low += __shfl_xor_sync(~0u, low, 1);
      high += __shfl_xor_sync(~0u, high, 1);
      low += __shfl_xor_sync(~0u, low, 2);
      high += __shfl_xor_sync(~0u, high, 2);
      if (q == 0) {
        partial[row * 16 + r] = low;
        partial[row * 16 + r + 8] = high;
      }
      sum[row] = make_float2(0, 0);
    }
  }
};

/* Adds the warps' partial sums in a fixed order, so that results do not change between runs, and writes the outputs. */
template <int ROWS>
__device__ static void write_outputs(const bitserial_arguments &a, const float *partial, int first_tile, int tiles, int rows) {
  int warps = blockDim.x >> 5;
  for (int i = threadIdx.x; i < tiles * ROWS * 16; i += blockDim.x) {
    int tile = i / (ROWS * 16), row = i / 16 % ROWS, n = (first_tile + tile) * 16 + i % 16;
    if (row >= rows || n >= a.rows) continue;
    float sum = 0;
    for (int w = 0; w < warps; w++) sum += partial[((tile * warps + w) * ROWS + row) * 16 + i % 16];
    if (a.output.bias) sum += a.output.bias[n];
    float *y = a.output.data + row * a.output.stride + n;
    *y = a.output.accumulate ? *y + sum : sum;
  }
}

/* Shared memory: ring [warps][stages] tiles | partial [row tiles of the block][warps][ROWS][16]. */
template <int PLANES, int GROUP, int SLICES, int ROWS>
__global__ void __launch_bounds__(512) bitserial_kernel(bitserial_arguments a) {
  typedef bitserial<PLANES, GROUP, SLICES, ROWS> product;
  extern __shared__ __align__(16) char shared[];
  int warps = blockDim.x >> 5, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  int first_tile = (int)((int64_t)blockIdx.x * a.row_tiles / gridDim.x);
  int tiles = (int)((int64_t)(blockIdx.x + 1) * a.row_tiles / gridDim.x) - first_tile;
  int total = tiles * a.column_tiles;
  int64_t base = (int64_t)first_tile * a.column_tiles;
  char *ring = shared + warp * a.stages * product::TILE_BYTES;
  float *partial = (float *)(shared + warps * a.stages * product::TILE_BYTES);

  let_dependents_launch();
  for (int s = 0; s < a.stages; s++) {
    int next = warp + s * warps;
    if (next < total) product::request(ring + s * product::TILE_BYTES, a, base + next, lane);
    copy_async_commit();
  }
  for (int i = threadIdx.x; i < tiles * warps * ROWS * 16; i += blockDim.x) partial[i] = 0;
  wait_for_predecessors();

  int rows = row_count(a.output.run, a.output.last);
  if (rows > ROWS) rows = ROWS;
  __syncthreads();

  int64_t bits_stride = (int64_t)a.column_tiles * SLICES * 64, scales_stride = (int64_t)a.column_tiles * product::GROUPS;
  float2 sum[ROWS];
#pragma unroll
  for (int row = 0; row < ROWS; row++) sum[row] = make_float2(0, 0);
  int row_tile = 0, column_tile = warp, stage = 0;
  while (column_tile >= a.column_tiles) column_tile -= a.column_tiles, row_tile++;
  for (int i = warp; i < total; i += warps) {
    /* The oldest of `stages` requests has arrived when no more than stages - 1 are open; the count must be a constant, so wait by cases. */
    if (a.stages >= 8)
      copy_async_wait<7>();
    else if (a.stages >= 6)
      copy_async_wait<5>();
    else if (a.stages >= 4)
      copy_async_wait<3>();
    else
      copy_async_wait<1>();
    __syncwarp();
    char *slot = ring + stage * product::TILE_BYTES;
    product::tile_sum(slot, a.bf16, a.bits + column_tile * SLICES * 64, bits_stride, a.scales + column_tile * product::GROUPS,
                      scales_stride, rows, lane, sum);
    __syncwarp();
    int next = i + a.stages * warps;
    if (next < total) product::request(slot, a, base + next, lane);
    copy_async_commit();
    if (++stage == a.stages) stage = 0;
    int current = row_tile;
    column_tile += warps;
    while (column_tile >= a.column_tiles) column_tile -= a.column_tiles, row_tile++;
    if (row_tile != current) product::flush(sum, lane, partial + (current * warps + warp) * ROWS * 16);
  }
  /* A warp may end inside its last row tile. */
  if (row_tile < tiles) product::flush(sum, lane, partial + (row_tile * warps + warp) * ROWS * 16);
  copy_async_wait<0>();
  __syncthreads();
  write_outputs<ROWS>(a, partial, first_tile, tiles, rows);
}

template <int PLANES>
static const void *pick_bitserial_kernel(int group, int slices) {
  if (group == 64) return slices == 1 ? (const void *)bitserial_kernel<PLANES, 64, 1, 8> : (const void *)bitserial_kernel<PLANES, 64, 2, 8>;
  if (group == 128)
    return slices == 1 ? (const void *)bitserial_kernel<PLANES, 128, 1, 8> : (const void *)bitserial_kernel<PLANES, 128, 2, 8>;
  return slices == 1 ? (const void *)bitserial_kernel<PLANES, 256, 1, 8> : (const void *)bitserial_kernel<PLANES, 256, 2, 8>;
}

const void *bitserial_kernel_1(int group, int slices);
const void *bitserial_kernel_2(int group, int slices);
const void *bitserial_kernel_3(int group, int slices);
const void *bitserial_kernel_4(int group, int slices);

#endif
