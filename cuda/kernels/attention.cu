/* Attention over the cache, flash style, for prefills, and more query heads per kv head than attention_decode.cu takes.
 *
 * A tile is 16 rows = (token, query head) pairs that read the same kv head: one token's grouped heads, or several tokens' in a prefill. The
 * four warps of a block, and the blocks of a split, share the positions in blocks of 32, each with its own running maximum and sum;
 * the block merges its warps in shared memory, and the last block of a tile to finish merges the splits in a fixed order.
 *
 * Both products run on the tensor cores (m16n8k16, f16 operands, f32 sums). The operands' columns are taken in an order in which each
 * lane's share is 16 consecutive bytes of the cache: dims 8q .. 8q + 7 of each 32 for the scores, positions 8q .. 8q + 7 for the
 * values (layout.h). Queries and probabilities enter as the sum of two f16 numbers, so that only the cache's own precision counts. */
#include "kernels/attention.cuh"

#define WARPS 4
#define MAX_SPLITS 64

/* One warp: the factors that merge `count` splits of a row. `parts` is the first split's (maximum, denominator). */
__device__ __forceinline__ static void split_factors(const float *parts, int count, int pitch, float factors[MAX_SPLITS]) {
  float2 own[MAX_SPLITS / 32];
  float largest = -INFINITY, total = 0;
#pragma unroll
  for (int i = 0; i < MAX_SPLITS / 32; i++) {
    int split = i * 32 + (threadIdx.x & 31);
    own[i] = split < count ? __ldcg((const float2 *)(parts + (int64_t)split * pitch)) : make_float2(-INFINITY, 0);
    largest = fmaxf(largest, own[i].x);
  }
  largest = warp_max(largest);
  float shift = largest == -INFINITY ? 0 : largest;
#pragma unroll
  for (int i = 0; i < MAX_SPLITS / 32; i++) {
    own[i].x = exp2f(own[i].x - shift);
    total = fmaf(own[i].x, own[i].y, total);
  }
  total = warp_sum(total);
#pragma unroll
  for (int i = 0; i < MAX_SPLITS / 32; i++) factors[i * 32 + (threadIdx.x & 31)] = own[i].x / total;
}

typedef struct attention_arguments {
  bpdq_cuda_heads heads;
  const float *qkv;
  float scale; /* of the scores, times log2(e) */
  bpdq_cuda_cache cache;
  int tokens_per_tile, heads_per_tile, head_tiles, splits;
  int32_t *arrivals; /* [tiles], zero between runs */
  float *partial;    /* [tiles, splits, 16, width + 2]: sums, then maximum and denominator */
  float *output;
} attention_arguments;

/* Eight consecutive cache values, as four f16 pairs. */
template <bool Q8>
__device__ __forceinline__ static uint4 load_eight(const void *data, int64_t index) {
  if (!Q8) return *(const uint4 *)((const __half *)data + index);
  uint2 bytes = *(const uint2 *)((const int8_t *)data + index);
  uint2 low = expand_int8(bytes.x), high = expand_int8(bytes.y);
  return make_uint4(low.x, low.y, high.x, high.y);
}

/* The state of one warp: 16 rows; a lane (r, q) holds rows r and r + 8. */
template <int UNITS>
struct warp_state {
  uint32_t q_high[UNITS][2][4], q_low[UNITS][2][4]; /* query fragments: 32 dims are two k-steps */
  float sums[UNITS * 4][4];                         /* 8 dims each: (r, 2q), (r, 2q + 1), (r + 8, ..) */
  float maximum[2], denominator[2];
  int64_t first[2], last[2]; /* cache rows that each of the two rows may see; last < first: none */
};

/* One row's query: dims 32u + 8q .. 32u + 8q + 7. Zeros where there is no query. */
template <int UNITS>
__device__ static void load_query(float v[UNITS][8], const float *query, int head_dim, int q) {
  bool whole = head_dim == UNITS * 32; /* then every row starts at a multiple of 16 bytes */
#pragma unroll
  for (int u = 0; u < UNITS; u++)
    if (whole) {
      const float4 *from = (const float4 *)(query + u * 32 + q * 8);
      float4 low = query ? from[0] : make_float4(0, 0, 0, 0), high = query ? from[1] : make_float4(0, 0, 0, 0);
      v[u][0] = low.x, v[u][1] = low.y, v[u][2] = low.z, v[u][3] = low.w;
      v[u][4] = high.x, v[u][5] = high.y, v[u][6] = high.z, v[u][7] = high.w;
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++) v[u][i] = query && u * 32 + q * 8 + i < head_dim ? query[u * 32 + q * 8 + i] : 0;
    }
}

template <int UNITS>
__device__ static void load_queries(warp_state<UNITS> &s, const attention_arguments &a, const float *const query[2], int q) {
#pragma unroll
  for (int row = 0; row < 2; row++) {
    float v[UNITS][8];
    load_query<UNITS>(v, query[row], a.heads.head_dim, q);
#pragma unroll
    for (int u = 0; u < UNITS; u++)
#pragma unroll
      for (int pair = 0; pair < 4; pair++) {
        float first = v[u][2 * pair] * a.scale, second = v[u][2 * pair + 1] * a.scale;
        uint32_t high = pack_halves(first, second);
        s.q_high[u][pair >> 1][row + 2 * (pair & 1)] = high;
        s.q_low[u][pair >> 1][row + 2 * (pair & 1)] = pack_rest(first, second, high);
      }
  }
}

/* scores[j][i]: position 8q + 2j + (i & 1) of the block, row r (i < 2) or r + 8. */
template <int UNITS, bool Q8>
__device__ static void block_scores(const warp_state<UNITS> &s, const attention_arguments &a, int head, int64_t block, int lane,
                                    float scores[4][4]) {
  int q = lane & 3, n = lane >> 2;
  int64_t base = block * 32;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    int64_t row = base + 8 * (n >> 1) + 2 * j + (n & 1);
    int64_t index = bpdq_cuda_key_index(head, row, a.cache.rows, a.cache.width) + q * 8;
    scores[j][0] = scores[j][1] = scores[j][2] = scores[j][3] = 0;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
      uint4 k = load_eight<Q8>(a.cache.keys, index + u * 32);
      mma_f16(scores[j], s.q_high[u][0], k.x, k.y);
      mma_f16(scores[j], s.q_high[u][1], k.z, k.w);
      mma_f16(scores[j], s.q_low[u][0], k.x, k.y);
      mma_f16(scores[j], s.q_low[u][1], k.z, k.w);
    }
  }
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int64_t row = base + 8 * q + 2 * j + (i & 1);
      if (Q8) scores[j][i] *= a.cache.key_scales[head * a.cache.rows + row];
      if (row < s.first[i >> 1] || row > s.last[i >> 1]) scores[j][i] = -INFINITY;
    }
}

/* Scores become probabilities relative to the new running maximum; sums and denominators so far are rescaled to it. */
template <int UNITS>
__device__ static void update_softmax(warp_state<UNITS> &s, float scores[4][4]) {
#pragma unroll
  for (int row = 0; row < 2; row++) {
    float largest = s.maximum[row];
#pragma unroll
    for (int j = 0; j < 4; j++) largest = fmaxf(largest, fmaxf(scores[j][2 * row], scores[j][2 * row + 1]));
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
    float shift = largest == -INFINITY ? 0 : largest, rescale = exp2f(s.maximum[row] - shift);
    s.maximum[row] = largest;
    s.denominator[row] *= rescale;
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int i = 2 * row; i < 2 * row + 2; i++) {
        scores[j][i] = exp2f(scores[j][i] - shift);
        s.denominator[row] += scores[j][i];
      }
#pragma unroll
    for (int d = 0; d < UNITS * 4; d++) {
      s.sums[d][2 * row] *= rescale;
      s.sums[d][2 * row + 1] *= rescale;
    }
  }
}

template <int UNITS, bool Q8>
__device__ static void add_values(warp_state<UNITS> &s, const attention_arguments &a, int head, int64_t block, int lane,
                                  float probability[4][4]) {
  int q = lane & 3, n = lane >> 2;
  uint32_t high[2][4], low[2][4];
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int row = 0; row < 2; row++) {
      float first = probability[j][2 * row], second = probability[j][2 * row + 1];
      if (Q8) {
        const float *scales = a.cache.value_scales + head * a.cache.rows + block * 32 + 8 * q + 2 * j;
        first *= scales[0] * VALUE_GAIN;
        second *= scales[1] * VALUE_GAIN;
      }
      uint32_t rounded = pack_halves(first, second);
      high[j >> 1][row + 2 * (j & 1)] = rounded;
      low[j >> 1][row + 2 * (j & 1)] = pack_rest(first, second, rounded);
    }
#pragma unroll
  for (int d = 0; d < UNITS * 4; d++) {
    uint4 v = load_eight<Q8>(a.cache.values, bpdq_cuda_value_index(head, block * 32, d * 8 + n, a.cache.rows, a.cache.width) + q * 8);
    mma_f16(s.sums[d], high[0], v.x, v.y);
    mma_f16(s.sums[d], high[1], v.z, v.w);
    mma_f16(s.sums[d], low[0], v.x, v.y);
    mma_f16(s.sums[d], low[1], v.z, v.w);
  }
}

/* Leaves sums, maximum and denominator of a warp's 16 rows in shared memory: [16][width + 2]. */
template <int UNITS>
__device__ static void store_warp(const warp_state<UNITS> &s, float *part, int lane, float gain) {
  constexpr int PITCH = UNITS * 32 + 2;
  int q = lane & 3, r = lane >> 2;
#pragma unroll
  for (int row = 0; row < 2; row++) {
    float *out = part + (r + 8 * row) * PITCH;
    float denominator = s.denominator[row];
    denominator += __shfl_xor_sync(~0u, denominator, 1);
    denominator += __shfl_xor_sync(~0u, denominator, 2);
#pragma unroll
    for (int d = 0; d < UNITS * 4; d++) {
      out[d * 8 + 2 * q] = s.sums[d][2 * row] * gain;
      out[d * 8 + 2 * q + 1] = s.sums[d][2 * row + 1] * gain;
    }
    if (q == 0) {
      out[UNITS * 32] = s.maximum[row];
      out[UNITS * 32 + 1] = denominator;
    }
  }
}

/* What tile row `row` is: its token, or -1, and its query head. */
__device__ static int tile_row(const attention_arguments &a, int row, int tokens, int *head) {
  int group = a.heads.heads / a.heads.kv_heads, kv_head = blockIdx.y / a.head_tiles;
  int local = blockIdx.y % a.head_tiles * 16 + row % a.heads_per_tile;
  int token = blockIdx.z * a.tokens_per_tile + row / a.heads_per_tile;
  *head = kv_head * group + local;
  return row < a.tokens_per_tile * a.heads_per_tile && local < group && token < tokens ? token : -1;
}

__device__ static void write_output(const attention_arguments &a, int row, int column, int tokens, float value) {
  int head, token = tile_row(a, row, tokens, &head);
  if (token >= 0 && column < a.heads.head_dim) a.output[((int64_t)token * a.heads.heads + head) * a.heads.head_dim + column] = value;
}

/* Which blocks of 32 cache rows this block takes of one sequence's share of the tile. */
typedef struct block_share {
  int64_t first_block;  /* of the sequence, in the cache */
  int from, to, active; /* from .. to - 1 are this block's; `active` splits have any */
} block_share;

__device__ static block_share share_of(const attention_arguments &a, int first_token, int end_token, int64_t *start) {
  *start = (int64_t)__ldcg(a.heads.run.sequences + first_token) * a.heads.context;
  int64_t end = *start + __ldcg(a.heads.run.positions + end_token - 1);
  int blocks = (int)((end >> 5) - (*start >> 5)) + 1;
  int share = max(WARPS, (blocks + a.splits - 1) / a.splits);
  block_share s;
  s.first_block = *start >> 5;
  s.from = blockIdx.x * share;
  s.to = min(blocks, s.from + share);
  s.active = (blocks + share - 1) / share;
  return s;
}

/* Asks for the keys and values of the warp's first block: they were written by earlier runs, or are of this run and then near anyway. */
template <int UNITS, bool Q8>
__device__ static void prefetch_cache(const attention_arguments &a, const block_share &share) {
  constexpr int ELEMENT = Q8 ? 1 : 2, BYTES = 32 * UNITS * 32 * ELEMENT;
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, head = blockIdx.y / a.head_tiles;
  if (share.from + warp >= share.to) return;
  int64_t row = (share.first_block + share.from + warp) * 32;
  const char *keys = (const char *)a.cache.keys + bpdq_cuda_key_index(head, row, a.cache.rows, UNITS * 32) * ELEMENT;
  const char *values = (const char *)a.cache.values + bpdq_cuda_value_index(head, row, 0, a.cache.rows, UNITS * 32) * ELEMENT;
  for (int i = lane * 128; i < BYTES; i += 32 * 128) {
    prefetch_l2(keys + i);
    prefetch_l2(values + i);
  }
}

/* Processes one sequence's share of the tile: tokens first_token .. end_token - 1 have this sequence. Returns the number of active splits.
 */
template <int UNITS, bool Q8>
__device__ static int attend(warp_state<UNITS> &s, const attention_arguments &a, int first_token, int end_token, const int row_token[2]) {
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, head = blockIdx.y / a.head_tiles;
  int64_t start;
  block_share share = share_of(a, first_token, end_token, &start);
#pragma unroll
  for (int row = 0; row < 2; row++) {
    bool mine = row_token[row] >= first_token && row_token[row] < end_token;
    s.first[row] = start;
    s.last[row] = mine ? start + __ldcg(a.heads.run.positions + row_token[row]) : -1;
  }
  for (int block = share.from + warp; block < share.to; block += WARPS) {
    float scores[4][4];
    block_scores<UNITS, Q8>(s, a, head, share.first_block + block, lane, scores);
    update_softmax<UNITS>(s, scores);
    add_values<UNITS, Q8>(s, a, head, share.first_block + block, lane, scores);
  }
  return share.active;
}

/* Merges the splits of a tile once the last of its blocks is here. */
template <int UNITS>
__device__ static void finish_tile(const attention_arguments &a, int tile, int active, int tokens) {
  constexpr int WIDTH = UNITS * 32, PITCH = WIDTH + 2;
  __shared__ bool last_block;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last_block = atomicAdd(a.arrivals + tile, 1) == active - 1;
    if (last_block) a.arrivals[tile] = 0;
  }
  __syncthreads();
  if (!last_block) return;
  __threadfence();
  const float *parts = a.partial + (int64_t)tile * a.splits * 16 * PITCH;
  int used = a.tokens_per_tile * a.heads_per_tile;
  __shared__ float factors[16][MAX_SPLITS]; /* what a split's sums count for, over the row's denominator */
  for (int row = threadIdx.x >> 5; row < used; row += WARPS) split_factors(parts + row * PITCH + WIDTH, active, 16 * PITCH, factors[row]);
  __syncthreads();
  for (int i = threadIdx.x; i < used * (WIDTH / 2); i += WARPS * 32) {
    int row = i / (WIDTH / 2), column = i % (WIDTH / 2) * 2;
    float2 sum = make_float2(0, 0);
#pragma unroll 16
    for (int split = 0; split < active; split++) {
      float2 part = __ldcg((const float2 *)(parts + (int64_t)split * 16 * PITCH + row * PITCH + column));
      sum.x = fmaf(factors[row][split], part.x, sum.x);
      sum.y = fmaf(factors[row][split], part.y, sum.y);
    }
    write_output(a, row, column, tokens, sum.x);
    write_output(a, row, column + 1, tokens, sum.y);
  }
}

template <int UNITS, bool Q8>
__global__ void __launch_bounds__(WARPS * 32) attention_kernel(attention_arguments a) {
  constexpr int WIDTH = UNITS * 32, PITCH = WIDTH + 2;
  extern __shared__ float merged[]; /* [WARPS][16][PITCH] */
  let_dependents_launch();
  int tokens = run_tokens(a.heads.run), lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int first_token = blockIdx.z * a.tokens_per_tile, end_token = min(tokens, first_token + a.tokens_per_tile);
  if (first_token >= tokens) return;
  int64_t start;
  block_share share = share_of(a, first_token, first_token + 1, &start);
  if (a.tokens_per_tile == 1 && (int)blockIdx.x >= share.active) return;
  prefetch_cache<UNITS, Q8>(a, share);
  wait_for_predecessors();

  warp_state<UNITS> s;
  const float *query[2];
  int row_token[2];
#pragma unroll
  for (int row = 0; row < 2; row++) {
    int head;
    row_token[row] = tile_row(a, (lane >> 2) + 8 * row, tokens, &head);
    int64_t offset = (int64_t)row_token[row] * (a.heads.heads + 2 * a.heads.kv_heads) + head;
    query[row] = row_token[row] >= 0 ? a.qkv + offset * a.heads.head_dim : NULL;
    s.maximum[row] = -INFINITY;
    s.denominator[row] = 0;
  }
  load_queries<UNITS>(s, a, query, lane & 3);
#pragma unroll
  for (int d = 0; d < UNITS * 4; d++) s.sums[d][0] = s.sums[d][1] = s.sums[d][2] = s.sums[d][3] = 0;

  int active = 1;
  for (int token = first_token; token < end_token;) { /* rows of one sequence are consecutive */
    int next = token + 1;
    while (next < end_token && __ldcg(a.heads.run.sequences + next) == __ldcg(a.heads.run.sequences + token)) next++;
    active = max(active, attend<UNITS, Q8>(s, a, token, next, row_token));
    token = next;
  }
  if ((int)blockIdx.x >= active) return;

  store_warp<UNITS>(s, merged + warp * 16 * PITCH, lane, Q8 ? 1.0f / VALUE_GAIN : 1.0f);
  __syncthreads();
  int tile = blockIdx.z * gridDim.y + blockIdx.y;
  float *part = a.partial + ((int64_t)tile * a.splits + blockIdx.x) * 16 * PITCH;
  int used = a.tokens_per_tile * a.heads_per_tile; /* rows of the tile that mean anything */
  for (int i = threadIdx.x; i < used * WIDTH; i += WARPS * 32) {
    int row = i / WIDTH, column = i % WIDTH;
    float largest = -INFINITY, sum = 0, denominator = 0;
    const float *rows = merged + row * PITCH;
    for (int w = 0; w < WARPS; w++) largest = fmaxf(largest, rows[w * 16 * PITCH + WIDTH]);
    float shift = largest == -INFINITY ? 0 : largest;
    for (int w = 0; w < WARPS; w++) {
      float factor = exp2f(rows[w * 16 * PITCH + WIDTH] - shift);
      sum = fmaf(factor, rows[w * 16 * PITCH + column], sum);
      denominator = fmaf(factor, rows[w * 16 * PITCH + WIDTH + 1], denominator);
    }
    if (active == 1) {
      write_output(a, row, column, tokens, sum / denominator);
    } else {
      part[row * PITCH + column] = sum;
      if (column == 0) {
        part[row * PITCH + WIDTH] = largest;
        part[row * PITCH + WIDTH + 1] = denominator;
      }
    }
  }
  if (active > 1) finish_tile<UNITS>(a, tile, active, tokens);
}

typedef struct attention_plan {
  int tokens_per_tile, heads_per_tile, head_tiles, token_tiles, splits, width;
} attention_plan;

static attention_plan plan_attention(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads) {
  attention_plan plan;
  int group = heads->heads / heads->kv_heads;
  plan.heads_per_tile = group < 16 ? group : 16;
  plan.head_tiles = (group + 15) / 16;
  /* Batches of few rows are mostly one row per sequence: a tile each, as their caches differ. */
  plan.tokens_per_tile = heads->max_tokens <= 16 || group > 8 ? 1 : 16 / group;
  plan.token_tiles = (int)((heads->max_tokens + plan.tokens_per_tile - 1) / plan.tokens_per_tile);
  int64_t tiles = (int64_t)plan.token_tiles * heads->kv_heads * plan.head_tiles;
  int64_t splits = 2 * queue->multiprocessors / tiles, useful = (heads->context + 63) / 64;
  if (splits > useful) splits = useful;
  plan.splits = (int)(splits < 1 ? 1 : splits > MAX_SPLITS ? MAX_SPLITS : splits);
  plan.width = heads->head_dim <= 128 ? (heads->head_dim + 31) / 32 * 32 : 256;
  return plan;
}

static uint64_t counter_bytes(const attention_plan *plan, const bpdq_cuda_heads *heads) {
  return ((uint64_t)plan->token_tiles * heads->kv_heads * plan->head_tiles * 4 + 255) / 256 * 256;
}

uint64_t bpdq_cuda_attention_scratch(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads) {
  attention_plan plan = plan_attention(queue, heads);
  uint64_t tiles = (uint64_t)plan.token_tiles * heads->kv_heads * plan.head_tiles;
  return counter_bytes(&plan, heads) + (plan.splits > 1 ? tiles * plan.splits * 16 * (plan.width + 2) * 4 : 0);
}

template <bool Q8>
static const void *attention_for(int width) {
  switch (width) {
    case 32:
      return (const void *)attention_kernel<1, Q8>;
    case 64:
      return (const void *)attention_kernel<2, Q8>;
    case 96:
      return (const void *)attention_kernel<3, Q8>;
    case 128:
      return (const void *)attention_kernel<4, Q8>;
    default:
      return (const void *)attention_kernel<8, Q8>;
  }
}

cudaError_t bpdq_cuda_attention(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, const float *qkv, float scale,
                                const bpdq_cuda_cache *cache, void *scratch, float *output) {
  attention_plan plan = plan_attention(queue, heads);
  void *partial = (char *)scratch + counter_bytes(&plan, heads);
  attention_arguments a = {};
  a.heads = *heads;
  a.qkv = qkv;
  a.scale = scale * LOG2_E;
  a.cache = *cache;
  a.tokens_per_tile = plan.tokens_per_tile;
  a.heads_per_tile = plan.heads_per_tile;
  a.head_tiles = plan.head_tiles;
  a.splits = plan.splits;
  a.arrivals = (int32_t *)scratch;
  a.partial = (float *)partial;
  a.output = output;
  void *pointers[] = {&a};
  dim3 grid((unsigned)plan.splits, (unsigned)(heads->kv_heads * plan.head_tiles), (unsigned)plan.token_tiles);
  size_t shared = (size_t)WARPS * 16 * (plan.width + 2) * 4;
  return launch(queue, cache->type == BPDQ_CUDA_Q8 ? attention_for<true>(plan.width) : attention_for<false>(plan.width), grid, WARPS * 32,
                shared, pointers);
}
