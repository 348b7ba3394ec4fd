/* The product of up to 16 rows of activations with bit-plane weights on 8-bit integer tensor cores: batches of sequences and speculative
 * checks.
 *
 * A group of k planes has 2^k different weights in a row, its levels. They become signed bytes with one scale per row and 128 columns, in
 * one or two registers; the planes' bits, put side by side in nibbles, are selectors of the byte permutation instruction, which looks up
 * four weights at once. Shifts, masks and permutations come to 0.65 instructions per weight for two planes, where f16 weights take 2.5.
 * Activations are bytes with one scale per row and 128 columns, so that the sums of 128 columns are exact.
 *
 * A warp keeps the activations of one or two column tiles in registers and goes through row tiles, whose weights it requests as soon as it
 * has used those of the one before; the warps of a block share the columns and add up their sums every other row tile. Long rows are
 * divided between several blocks: each leaves its sums in memory, and the last one adds them in the order of the columns, so that a run
 * gives the same numbers as the one before. */
#include "kernels/device.cuh"

#define MAX_WARPS 16
#define DENSE_WARPS 14 /* of a block of which two fit a multiprocessor, with 72 registers to a thread */
#define MAX_SPLITS 64
#define MAX_ROWS 16 /* of activations */
#define PITCH 20    /* floats from one row of activations to the next in sums of 16 outputs: each lane of a warp has its own bank */

typedef struct levels_arguments {
  bpdq_cuda_planes planes;
  bpdq_cuda_bytes input; /* layout.h; scales [eights, column_tiles, 2 (half), 8 (row)] */
  float inverse_width;   /* 1 / K */
  int row_tiles;
  int group_shift;                       /* groups of 32 << group_shift columns; -1: no power of two */
  int64_t words_step, coefficients_step; /* bytes from a block's row tile to its next */
  int32_t *arrivals;                     /* [gridDim.x], zero between runs */
  float *sums;                           /* [row_tiles, splits, EIGHTS * 8, 16] */
  bpdq_cuda_output output;
} levels_arguments;

/* 1.5 * 2^23: a sum with it holds a rounded integer in its low bits. */
#define SUM_BASE 12582912.0f

/* selectors[u], nibble i: the level of column 4 i + u of the word. */
template <int PLANES>
__device__ __forceinline__ static void make_selectors(const uint32_t words[PLANES], uint32_t selectors[4]) {
  if (PLANES == 1) {
#pragma unroll
    for (int u = 0; u < 4; u++) selectors[u] = words[0] >> u & 0x11111111u;
  } else if (PLANES == 2) {
    uint32_t even = choose_bits(words[0], words[PLANES - 1] << 1, 0x55555555u);
    uint32_t odd = choose_bits(words[0] >> 1, words[PLANES - 1], 0x55555555u);
    selectors[0] = even & 0x33333333u;
    selectors[1] = odd & 0x33333333u;
    selectors[2] = even >> 2 & 0x33333333u;
    selectors[3] = odd >> 2 & 0x33333333u;
  } else {
#pragma unroll
    for (int u = 0; u < 4; u++) {
      uint32_t second = u ? words[1] >> (u - 1) : words[1] << 1,
               third = u > 1 ? words[PLANES - 1] >> (u - 2) : words[PLANES - 1] << (2 - u);
      selectors[u] = (words[0] >> u & 0x11111111u) | (second & 0x22222222u) | (third & 0x44444444u);
    }
  }
}

/* The levels of one row in 128 columns, as bytes. */
struct level_table {
  uint32_t low, high; /* high: levels 4 .. 7 of three planes */

  /* Of the selector's lower four nibbles. */
  __device__ __forceinline__ uint32_t look_up(uint32_t selector) const { return permute_bytes(low, high, selector); }
};

/* Levels of one group from its coefficients; returns the largest magnitude. */
template <int PLANES>
__device__ __forceinline__ static float make_levels(const float c[PLANES + 1], float levels[1 << PLANES]) {
  levels[0] = c[PLANES];
  float largest = fabsf(levels[0]);
#pragma unroll
  for (int p = 0; p < PLANES; p++)
#pragma unroll
    for (int i = 0; i < 1 << p; i++) {
      levels[i + (1 << p)] = levels[i] + c[p];
      largest = fmaxf(largest, fabsf(levels[i + (1 << p)]));
    }
  return largest;
}

template <int PLANES>
__device__ __forceinline__ static level_table round_levels(const float levels[1 << PLANES], float inverse) {
  uint32_t n[8];
#pragma unroll
  for (int i = 0; i < 8; i++) n[i] = __float_as_uint(fmaf(levels[i & ((1 << PLANES) - 1)], inverse, SUM_BASE));
  level_table table;
  table.low = __byte_perm(__byte_perm(n[0], n[1], 0x0040), __byte_perm(n[2], n[3], 0x0040), 0x5410);
  table.high = PLANES < 3 ? table.low : __byte_perm(__byte_perm(n[4], n[5], 0x0040), __byte_perm(n[6], n[7], 0x0040), 0x5410);
  return table;
}

template <bool BF16>
__device__ __forceinline__ static float to_float(uint16_t bits) {
  return BF16 ? __uint_as_float((uint32_t)bits << 16) : __half2float(__ushort_as_half(bits));
}

/* Where a lane finds its share of a column tile, in one row tile of the block after the other. */
typedef struct weight_stream {
  const uint4 *words;
  const uint16_t *coefficients; /* of the group of the first half */
  int second;                   /* numbers from there to the second half's */
} weight_stream;

/* A lane's share of one tile, as stored. WIDE: groups of 128 or 256 columns, so that the four lanes of two rows have the same levels: each
 * makes those of one row and half. */
template <int PLANES, bool WIDE>
struct level_tile {
  uint4 planes[PLANES];
  uint32_t coefficients[WIDE ? 1 : 2][PLANES + 1]; /* WIDE: of row r + 8 (q & 1) and half q >> 1; else pairs of rows r, r + 8 per half */

  static constexpr int GROUP = (PLANES + 1) * 16; /* coefficients of a row tile's group */

  __device__ __forceinline__ static int group_of(const levels_arguments &a, int word) {
    return WIDE || a.group_shift >= 0 ? word >> a.group_shift : word * 32 / a.planes.group;
  }
  __device__ __forceinline__ static weight_stream start(const levels_arguments &a, int64_t row_tile, int column_tile, int lane) {
    int q = lane & 3, word = column_tile * 8 + (WIDE ? (q >> 1) * 4 : q), group = group_of(a, word); /* word: 32 columns */
    weight_stream stream;
    stream.words = (const uint4 *)a.planes.words + (row_tile * a.planes.column_tiles + column_tile) * (PLANES * 32) + lane;
    stream.coefficients =
        (const uint16_t *)a.planes.coefficients + (row_tile * a.planes.groups + group) * GROUP + (lane >> 2) * 2 + (WIDE ? q & 1 : 0);
    stream.second = WIDE ? 0 : (group_of(a, word + 4) - group) * GROUP;
    return stream;
  }

  /* Requests the tile and goes on to the one gridDim.x row tiles further. */
  __device__ __forceinline__ void request(const levels_arguments &a, weight_stream &stream) {
#pragma unroll
    for (int p = 0; p < PLANES; p++) planes[p] = __ldcs(stream.words + p * 32);
#pragma unroll
    for (int half = 0; half < (WIDE ? 1 : 2); half++) {
      const uint16_t *from = stream.coefficients + half * stream.second;
#pragma unroll
      for (int p = 0; p <= PLANES; p++) coefficients[half][p] = WIDE ? __ldg(from + p * 16) : __ldg((const uint32_t *)(from + p * 16));
    }
    stream.words = further(stream.words, a.words_step);
    stream.coefficients = further(stream.coefficients, a.coefficients_step);
  }

  /* tables and scales of [half][row r, r + 8] */
  template <bool BF16>
  __device__ __forceinline__ void levels(level_table tables[2][2], float scales[2][2]) const {
    if (WIDE) {
      float c[PLANES + 1], values[1 << PLANES];
#pragma unroll
      for (int p = 0; p <= PLANES; p++) c[p] = to_float<BF16>((uint16_t)coefficients[0][p]);
      float largest = fmaxf(make_levels<PLANES>(c, values), 1e-30f), scale = largest * (1.0f / 127);
      level_table own = round_levels<PLANES>(values, 127.0f * approximate_inverse(largest));
#pragma unroll
      for (int i = 0; i < 4; i++) {
        tables[i >> 1][i & 1].low = __shfl_sync(~0u, own.low, i, 4);
        tables[i >> 1][i & 1].high = PLANES < 3 ? tables[i >> 1][i & 1].low : __shfl_sync(~0u, own.high, i, 4);
        scales[i >> 1][i & 1] = __shfl_sync(~0u, scale, i, 4);
      }
    } else {
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int row = 0; row < 2; row++) {
          float c[PLANES + 1], values[1 << PLANES];
#pragma unroll
          for (int p = 0; p <= PLANES; p++) c[p] = to_float<BF16>((uint16_t)(coefficients[WIDE ? 0 : half][p] >> row * 16));
          float largest = fmaxf(make_levels<PLANES>(c, values), 1e-30f);
          largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1)); /* the four lanes' columns are summed together */
          largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
          scales[half][row] = largest * (1.0f / 127);
          tables[half][row] = round_levels<PLANES>(values, 127.0f * approximate_inverse(largest));
        }
    }
  }
};

/* The activations of one column tile: the mma's B operands, and the scales of rows 2q and 2q + 1. Rows that are not there hold anything;
 * nobody looks at their sums. */
template <int EIGHTS>
struct tile_activations {
  uint4 bytes[EIGHTS][4];
  float2 scales[EIGHTS][2];

  __device__ __forceinline__ void request(const levels_arguments &a, int column_tile, int lane) {
#pragma unroll
    for (int e = 0; e < EIGHTS; e++) {
      int64_t tile = (int64_t)e * a.planes.column_tiles + column_tile;
#pragma unroll
      for (int i = 0; i < 4; i++) bytes[e][i] = __ldcg((const uint4 *)a.input.bytes + (tile * 4 + i) * 32 + lane);
#pragma unroll
      for (int half = 0; half < 2; half++) scales[e][half] = __ldcg((const float2 *)a.input.scales + (tile * 2 + half) * 4 + (lane & 3));
    }
  }
};

/* sums[e][i] is output r (i < 2) or r + 8 and row 8e + 2q + (i & 1). */
template <int PLANES, bool WIDE, bool BF16, int EIGHTS>
__device__ __forceinline__ static void multiply_tile(const level_tile<PLANES, WIDE> &tile, const tile_activations<EIGHTS> &x,
                                                     float sums[EIGHTS][4]) {
  level_table tables[2][2];
  float scales[2][2];
  tile.template levels<BF16>(tables, scales);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    uint32_t selectors[2][4];
#pragma unroll
    for (int row = 0; row < 2; row++) {
      uint32_t words[PLANES];
#pragma unroll
      for (int p = 0; p < PLANES; p++)
        words[p] = half ? row ? tile.planes[p].w : tile.planes[p].z : row ? tile.planes[p].y : tile.planes[p].x;
      make_selectors<PLANES>(words, selectors[row]);
    }
    int part[EIGHTS][4] = {};
#pragma unroll
    for (int u = 0; u < 4; u++) {
      uint32_t w[4];
#pragma unroll
      for (int i = 0; i < 4; i++) w[i] = tables[half][i & 1].look_up(i < 2 ? selectors[i & 1][u] : selectors[i & 1][u] >> 16);
#pragma unroll
      for (int e = 0; e < EIGHTS; e++) {
        uint4 b = x.bytes[e][half * 2 + (u >> 1)];
        mma_s8(part[e], w, u & 1 ? b.z : b.x, u & 1 ? b.w : b.y);
      }
    }
#pragma unroll
    for (int e = 0; e < EIGHTS; e++) {
      float2 own = x.scales[e][half];
#pragma unroll
      for (int i = 0; i < 4; i++) sums[e][i] = fmaf((float)part[e][i], scales[half][i >> 1] * (i & 1 ? own.y : own.x), sums[e][i]);
    }
  }
}

/* Where a lane leaves its first sum in a warp's piece of shared memory, [row of activations][output]. */
__device__ __forceinline__ static unsigned sums_address(const float *piece, int lane) {
  return kept_shared_address(piece + (lane & 3) * 2 * PITCH + (lane >> 2));
}

template <int EIGHTS>
__device__ __forceinline__ static void leave_sums(const float sums[EIGHTS][4], unsigned address) {
#pragma unroll
  for (int e = 0; e < EIGHTS; e++)
#pragma unroll
    for (int i = 0; i < 4; i++) store_shared(address + ((8 * e + (i & 1)) * PITCH + (i >> 1) * 8) * 4, sums[e][i]);
}

/* The norm's factors of the rows, 1 where there is no norm. */
__device__ __forceinline__ static void make_factors(const levels_arguments &a, int rows, float factors[MAX_ROWS]) {
  int lane = threadIdx.x & 31;
  for (int row = threadIdx.x >> 5; row < rows; row += blockDim.x >> 5) {
    float sum = 0;
    for (int64_t tile = lane; a.input.squares && tile < a.planes.column_tiles; tile += 32)
      sum += __ldcg(a.input.squares + row * a.planes.column_tiles + tile);
    sum = warp_sum(sum);
    if (lane == 0) factors[row] = a.input.squares ? rsqrtf(fmaf(sum, a.inverse_width, a.input.epsilon)) : 1.0f;
  }
}

/* value: row of activations * 16 + output of the row tile. */
__device__ __forceinline__ static void store_output(const levels_arguments &a, int row_tile, int value, int rows, float sum,
                                                    const float factors[MAX_ROWS]) {
  int row = value >> 4;
  int64_t n = (int64_t)row_tile * 16 + (value & 15);
  if (n >= a.planes.rows || row >= rows) return;
  sum *= factors[row];
  if (a.output.bias) sum += a.output.bias[n];
  float *y = a.output.data + row * a.output.stride + n;
  *y = a.output.accumulate ? *y + sum : sum;
}

/* Adds up the warps' sums of the block's `count` row tiles up to number k, which is `row_tile`. Threads begin at either end in
 * turns: where they are more than the sums, all warps have work. */
template <int EIGHTS>
__device__ __forceinline__ static void add_warps(const levels_arguments &a, const float *pieces, int k, int count, int row_tile, int rows,
                                                 const float factors[MAX_ROWS]) {
  constexpr int VALUES = EIGHTS * 128, PIECE = EIGHTS * 8 * PITCH, BATCH = 8;
  int first = k & 2 ? blockDim.x - 1 - threadIdx.x : threadIdx.x;
  for (int i = first; i < count * VALUES; i += blockDim.x) {
    int back = count - 1 - i / VALUES, value = i % VALUES, tile = row_tile - back * (int)gridDim.x;
    const float *own = pieces + (k - back & 3) * (MAX_WARPS * PIECE) + (value >> 4) * PITCH + (value & 15);
    float sum = 0;
#pragma unroll
    for (int base = 0; base < MAX_WARPS; base += BATCH) {
      float parts[BATCH];
#pragma unroll
      for (int w = 0; w < BATCH; w++) parts[w] = own[(base + w) * PIECE];
#pragma unroll
      for (int w = 0; w < BATCH; w++) sum += parts[w];
    }
    if (gridDim.y == 1)
      store_output(a, tile, value, rows, sum, factors);
    else
      __stcg(a.sums + ((int64_t)tile * gridDim.y + blockIdx.y) * VALUES + value, sum);
  }
}

/* The last of the blocks that share rows adds up what they left for the row tiles of all of them. */
template <int EIGHTS>
__device__ static void merge_splits(const levels_arguments &a, int rows, const float factors[MAX_ROWS]) {
  constexpr int VALUES = EIGHTS * 128, AT_ONCE = 8;
  __shared__ bool is_last;
  int splits = gridDim.y, count = (a.row_tiles - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence(); /* of the whole block's writes, which the barrier put before this one */
    is_last = atomicAdd(a.arrivals + blockIdx.x, 1) == splits - 1;
    if (is_last) a.arrivals[blockIdx.x] = 0;
    __threadfence();
  }
  __syncthreads();
  if (!is_last) return;
  for (int i = threadIdx.x; i < count * VALUES; i += blockDim.x) {
    int tile = (int)blockIdx.x + i / VALUES * (int)gridDim.x, value = i % VALUES;
    const float *from = a.sums + (int64_t)tile * splits * VALUES + value;
    float sum = 0;
    for (int first = 0; first < splits; first += AT_ONCE) {
      float parts[AT_ONCE];
#pragma unroll
      for (int s = 0; s < AT_ONCE; s++) parts[s] = first + s < splits ? __ldcg(from + (first + s) * VALUES) : 0;
#pragma unroll
      for (int s = 0; s < AT_ONCE; s++) sum += parts[s];
    }
    store_output(a, tile, value, rows, sum, factors);
  }
}

/* Zeros for the warps that the block does not have, so that sums can be added up without asking how many there are. */
template <int EIGHTS>
__device__ __forceinline__ static void clear_missing_warps(float *pieces) {
  constexpr int PIECE = EIGHTS * 8 * PITCH;
  for (int i = (blockDim.x >> 5) * PIECE + threadIdx.x; i < MAX_WARPS * PIECE; i += blockDim.x)
#pragma unroll
    for (int place = 0; place < 4; place++) pieces[place * (MAX_WARPS * PIECE) + i] = 0;
}

/* Goes through the block's row tiles. stages: this warp's column tiles of the first one, requested. */
template <int PLANES, bool WIDE, bool BF16, int EIGHTS, int TILES>
__device__ __forceinline__ static void stream_rows(const levels_arguments &a, level_tile<PLANES, WIDE> stages[TILES],
                                                   weight_stream streams[TILES], const tile_activations<EIGHTS> x[TILES], int columns,
                                                   int rows, float *pieces, const float factors[MAX_ROWS]) {
  int warps = blockDim.x >> 5, warp = threadIdx.x >> 5, row_tile = blockIdx.x;
  unsigned address = sums_address(pieces + warp * (EIGHTS * 8 * PITCH), threadIdx.x & 31);
#pragma unroll 1
  for (int k = 0; row_tile < a.row_tiles; k++) {
    int next = row_tile + (int)gridDim.x;
    float sums[EIGHTS][4] = {};
#pragma unroll
    for (int t = 0; t < TILES; t++) {
      if (warp + t * warps >= columns) break;
      multiply_tile<PLANES, WIDE, BF16, EIGHTS>(stages[t], x[t], sums);
      if (next < a.row_tiles) stages[t].request(a, streams[t]);
    }
    leave_sums<EIGHTS>(sums, address + (k & 3) * (MAX_WARPS * EIGHTS * 8 * PITCH * 4));
    if ((k & 1) || next >= a.row_tiles) {
      __syncthreads(); /* four places: those of the last two row tiles may still be read */
      add_warps<EIGHTS>(a, pieces, k, 1 + (k & 1), row_tile, rows, factors);
    }
    row_tile = next;
  }
}

/* Two blocks fit a multiprocessor where a thread needs no more than 72 registers. */
template <int PLANES, int EIGHTS, int TILES>
constexpr bool is_dense = EIGHTS == 1 && TILES == 1 && PLANES <= 2;

template <int PLANES, bool WIDE, int EIGHTS, int TILES>
__global__ void __launch_bounds__((is_dense<PLANES, EIGHTS, TILES> ? DENSE_WARPS : MAX_WARPS) * 32, is_dense<PLANES, EIGHTS, TILES> ? 2 : 1)
    levels_kernel(levels_arguments a) {
  extern __shared__ float pieces[]; /* [4][MAX_WARPS][EIGHTS * 8][PITCH]: of a row tile in turns */
  __shared__ float factors[MAX_ROWS];
  int warps = blockDim.x >> 5, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  int first_tile = (int)(a.planes.column_tiles * blockIdx.y / gridDim.y);
  int columns = (int)(a.planes.column_tiles * (blockIdx.y + 1) / gridDim.y) - first_tile;
  level_tile<PLANES, WIDE> stages[TILES];
  weight_stream streams[TILES];
  tile_activations<EIGHTS> x[TILES];
  let_dependents_launch();
#pragma unroll
  for (int t = 0; t < TILES; t++)
    if (warp + t * warps < columns) {
      streams[t] = level_tile<PLANES, WIDE>::start(a, blockIdx.x, first_tile + warp + t * warps, lane);
      stages[t].request(a, streams[t]);
    }
  clear_missing_warps<EIGHTS>(pieces);
  int rows = min(row_count(a.output.run, a.output.last), EIGHTS * 8);
  wait_for_predecessors();
#pragma unroll
  for (int t = 0; t < TILES; t++)
    if (warp + t * warps < columns) x[t].request(a, first_tile + warp + t * warps, lane);
  make_factors(a, rows, factors);
  if (a.planes.coefficient_type == BPDQ_CUDA_BF16)
    stream_rows<PLANES, WIDE, true, EIGHTS, TILES>(a, stages, streams, x, columns, rows, pieces, factors);
  else
    stream_rows<PLANES, WIDE, false, EIGHTS, TILES>(a, stages, streams, x, columns, rows, pieces, factors);
  if (gridDim.y > 1) merge_splits<EIGHTS>(a, rows, factors);
}

#define MAX_COLUMN_TILES (MAX_SPLITS * DENSE_WARPS) /* 229,376 columns */

bool bpdq_cuda_planes_levels_supports(const bpdq_cuda_planes *planes, int64_t max_rows) {
  return planes->planes <= 3 && max_rows <= 16 && planes->coefficient_type != BPDQ_CUDA_F32 && planes->column_tiles <= MAX_COLUMN_TILES;
}

typedef struct levels_shape {
  int eights, tiles; /* of rows of activations; column tiles of a warp */
  int warps, splits, blocks;
} levels_shape;

/* The shape whose multiprocessors have the fewest tiles to do. From measurements on an H200: fewer than 26 tiles at once leave issue slots
 * idle, and to share rows costs as much as about eight tiles, and two for each part of a row tile. On few multiprocessors the parts of a
 * long row may have to come one after the other. */
static levels_shape choose_shape(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, int64_t max_rows) {
  levels_shape best = {max_rows <= 8 ? 1 : 2, 0, 0, 0, 0};
  int columns = (int)planes->column_tiles, row_tiles = (int)((planes->rows + 15) / 16), all = queue->multiprocessors;
  double best_cost = 0;
  for (int tiles = 1; tiles <= (best.eights == 1 ? 2 : 1); tiles++) {
    bool dense = best.eights == 1 && tiles == 1 && planes->planes <= 2;
    int most = dense ? DENSE_WARPS : MAX_WARPS, resident_warps = dense ? 2 * DENSE_WARPS : MAX_WARPS;
    int least = (columns + most * tiles - 1) / (most * tiles);
    for (int splits = least; splits <= least + 4 && splits <= columns && splits <= MAX_SPLITS; splits++) {
      int each = (columns + splits - 1) / splits, warps = (each + tiles - 1) / tiles, resident = resident_warps / warps;
      int blocks = resident * all / splits, turns = blocks ? 1 : (splits + resident * all - 1) / (resident * all);
      if (blocks < 1) blocks = 1;
      if (blocks > row_tiles) blocks = row_tiles;
      if (splits > 1 && blocks > BPDQ_CUDA_SCRATCH_COUNTERS) continue;
      int at_once = resident * warps * tiles;
      double load = (double)turns * ((row_tiles + blocks - 1) / blocks) * (at_once < 26 ? 26 : at_once);
      double cost = load + (splits > 1 ? 8 + 2.0 * splits * row_tiles / all : 0);
      if (best.blocks && cost >= best_cost) continue;
      best_cost = cost;
      best = (levels_shape){best.eights, tiles, warps, splits, blocks};
    }
  }
  return best;
}

uint64_t bpdq_cuda_planes_levels_scratch(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, int64_t max_rows) {
  levels_shape s = choose_shape(queue, planes, max_rows);
  uint64_t sums = (uint64_t)((planes->rows + 15) / 16) * (uint64_t)(s.splits * s.eights) * 128 * sizeof(float);
  return s.splits == 1 ? 0 : BPDQ_CUDA_SCRATCH_COUNTERS * sizeof(int32_t) + sums;
}

template <int PLANES, bool WIDE>
static const void *kernel_for(const levels_shape *s) {
  if (s->eights == 2) return (const void *)levels_kernel<PLANES, WIDE, 2, 1>;
  return s->tiles == 1 ? (const void *)levels_kernel<PLANES, WIDE, 1, 1> : (const void *)levels_kernel<PLANES, WIDE, 1, 2>;
}
template <int PLANES>
static const void *kernel_for(const levels_shape *s, bool wide) {
  return wide ? kernel_for<PLANES, true>(s) : kernel_for<PLANES, false>(s);
}

cudaError_t bpdq_cuda_planes_levels(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, const bpdq_cuda_bytes *input,
                                    void *scratch, const bpdq_cuda_output *output) {
  levels_shape s = choose_shape(queue, planes, output->max_rows);
  levels_arguments arguments = {};
  arguments.planes = *planes;
  arguments.input = *input;
  arguments.inverse_width = 1.0f / (float)planes->columns;
  arguments.row_tiles = (int)((planes->rows + 15) / 16);
  arguments.group_shift = planes->group == 32 ? 0 : planes->group == 64 ? 1 : planes->group == 128 ? 2 : planes->group == 256 ? 3 : -1;
  arguments.words_step = s.blocks * planes->column_tiles * (planes->planes * 512);
  arguments.coefficients_step = s.blocks * planes->groups * ((planes->planes + 1) * 32);
  arguments.arrivals = (int32_t *)scratch;
  arguments.sums = (float *)((char *)scratch + BPDQ_CUDA_SCRATCH_COUNTERS * sizeof(int32_t));
  arguments.output = *output;
  void *pointers[] = {&arguments};
  bool wide = arguments.group_shift >= 2;
  const void *kernel = planes->planes == 1   ? kernel_for<1>(&s, wide)
                       : planes->planes == 2 ? kernel_for<2>(&s, wide)
                                             : kernel_for<3>(&s, wide);
  return launch(queue, kernel, dim3((unsigned)s.blocks, (unsigned)s.splits), (unsigned)s.warps * 32,
                (size_t)(4 * MAX_WARPS * s.eights * 8 * PITCH) * sizeof(float), pointers);
}
