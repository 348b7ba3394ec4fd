/* Attention of few tokens over a long cache, with the rotation of their heads and the cache writes: split positions, flash style.
 *
 * A block takes one token, one kv head with all its query heads, and a share of the positions. Its warps go through that share on their
 * own, 32 positions at a time, each with a ring of blocks of the cache in shared memory that it fills ahead with asynchronous copies; the
 * first ones are requested before the kernel waits for its predecessor. Up to eight query heads are the upper eight rows of m16n8k16
 * operands, what they lose in f16 the lower eight; so are the probabilities: only the cache's own precision counts. At the end the warps of
 * a block, and the blocks of a kv head, merge their sums in a fixed order.
 *
 * Keys and values of this run's own tokens are not in the cache when the copies are made. A block rotates those that it needs itself and
 * puts them into its copies. */
#include "kernels/attention.cuh"

#define MAX_WARPS 8
#define STAGES 3    /* of a warp's ring: keys or values of 32 positions each */
#define LEAST 2     /* blocks of 32 positions for each warp before another block takes part */
#define HEADS 8     /* query heads of a kv head, at most */
#define MAX_ROWS 16 /* tokens of a run */

typedef struct decode_arguments {
  rope_arguments rope;
  float scale;       /* of the scores, times log2(e) */
  int splits, least; /* splits at most; a split has at least `least` blocks of 32 positions */
  int32_t *arrivals; /* [tokens, kv_heads], zero between runs */
  float *partial;    /* [tokens, kv_heads, splits, group, width + 4]: sums, then maximum and denominator */
  float *output;     /* [tokens, heads * head_dim] */
} decode_arguments;

template <int WIDTH, bool Q8>
struct decode_stage {
  static constexpr int ELEMENT = Q8 ? 1 : 2, ROW = WIDTH * ELEMENT, DATA = 32 * ROW;
  static constexpr int BYTES = DATA + (Q8 ? 128 : 0); /* 8 bits: the scales of the positions follow */

  /* Keys' rows as they are would meet in the same banks: 16-byte chunk `chunk` of a row lies at this one. */
  __device__ __forceinline__ static int key_chunk(int row, int chunk) {
    if (!Q8 && WIDTH % 64 == 0) return chunk ^ (row & 1) << 2;
    if (Q8 && WIDTH % 128 == 0) return chunk ^ ((row & 1) << 1 | (row >> 3 & 1) << 2);
    return chunk;
  }

  __device__ __forceinline__ static void request(const bpdq_cuda_cache &c, int head, int64_t block, bool values, char *stage, int lane) {
    int64_t index = head * (c.rows >> 5) + block;
    const char *from = (const char *)(values ? c.values : c.keys) + index * DATA;
#pragma unroll
    for (int i = 0; i < DATA / 512; i++) {
      int chunk = lane + 32 * i, row = chunk / (ROW / 16), target = values ? chunk : key_chunk(row, chunk % (ROW / 16)) + row * (ROW / 16);
      copy_async_16(stage + target * 16, from + chunk * 16);
    }
    if (Q8 && lane < 8) copy_async_16(stage + DATA + lane * 16, (values ? c.value_scales : c.key_scales) + index * 32 + lane * 4);
  }

  __device__ __forceinline__ static uint4 expand(const char *from) {
    if (!Q8) return *(const uint4 *)from;
    uint2 bytes = *(const uint2 *)from, low = expand_int8(bytes.x), high = expand_int8(bytes.y);
    return make_uint4(low.x, low.y, high.x, high.y);
  }
  /* Dims 32u + 8q .. + 7 of the key in row `row`; positions 8q .. 8q + 7 of the values of dim `dim`. */
  __device__ __forceinline__ static uint4 key(const char *stage, int row, int u, int q) {
    int byte = u * 32 * ELEMENT + q * 8 * ELEMENT;
    return expand(stage + row * ROW + key_chunk(row, byte >> 4) * 16 + (byte & 15));
  }
  __device__ __forceinline__ static uint4 value(const char *stage, int dim, int q) { return expand(stage + (dim * 32 + q * 8) * ELEMENT); }
  __device__ __forceinline__ static const float *scales(const char *stage) { return (const float *)(stage + DATA); }

  /* Puts a vector that is not in the cache yet into row `row` of a stage, rounded as store_head does. */
  __device__ static void patch(char *stage, bool values, int row, const float *vector, int lane) {
    float largest = 0;
    if (Q8) {
      for (int d = lane; d < WIDTH; d += 32) largest = fmaxf(largest, fabsf(vector[d]));
      largest = warp_max(largest);
      if (lane == 0) ((float *)(stage + DATA))[row] = largest / 127.0f;
    }
    float inverse = largest > 0 ? 127.0f / largest : 0;
    for (int d = lane; d < WIDTH; d += 32) {
      int byte = d * ELEMENT;
      char *at = stage + (values ? (d * 32 + row) * ELEMENT : row * ROW + key_chunk(row, byte >> 4) * 16 + (byte & 15));
      if (Q8)
        *(int8_t *)at = (int8_t)max(-127, min(127, __float2int_rn(vector[d] * inverse)));
      else
        *(__half *)at = saturated_half(vector[d]);
    }
  }
};

template <int WIDTH>
struct decode_shared {
  float query[HEADS][WIDTH];
  float factors[HEADS][MAX_SPLITS];
  bool is_last;
};

/* What a block is there for; positions in blocks of 32 cache rows. */
typedef struct decode_share {
  int64_t start, end; /* first and last cache row of the token's sequence */
  int64_t from, to;   /* blocks from .. to - 1 */
  int active;         /* splits that have any */
  int token, head, first_head, group;
  int first_new;             /* this run's tokens first_new .. token are of one sequence */
  int64_t first_fresh_block; /* where the position of the first of them lies */
} decode_share;

/* The cache row of one of this run's tokens of the sequence. */
__device__ __forceinline__ static int64_t new_row(const decode_arguments &a, const decode_share &s, int token) {
  return s.start + __ldcg(a.rope.heads.run.positions + token);
}

__device__ static decode_share find_share(const decode_arguments &a) {
  const bpdq_cuda_heads &h = a.rope.heads;
  decode_share s;
  s.token = blockIdx.z;
  s.head = blockIdx.y;
  s.group = h.heads / h.kv_heads;
  s.first_head = s.head * s.group;
  int sequence = __ldcg(h.run.sequences + s.token);
  s.start = sequence * h.context;
  s.end = s.start + __ldcg(h.run.positions + s.token);
  int blocks = (int)((s.end >> 5) - (s.start >> 5)) + 1, share = max(a.least, (blocks + a.splits - 1) / a.splits);
  s.from = (s.start >> 5) + (int64_t)blockIdx.x * share;
  s.to = min((s.end >> 5) + 1, s.from + share);
  s.active = (blocks + share - 1) / share;
  s.first_new = s.token;
  while (s.first_new > 0 && __ldcg(h.run.sequences + s.first_new - 1) == sequence) s.first_new--;
  s.first_fresh_block = new_row(a, s, s.first_new) >> 5;
  return s;
}

/* Rotates the queries into shared memory, and this run's keys and values in the block's share into `fresh`, [tokens][2][WIDTH]. The
 * block that has the token's own position writes its key and value to the cache. */
template <int WIDTH>
__device__ static void rotate_heads(const decode_arguments &a, const decode_share &s, float query[HEADS][WIDTH], float *fresh) {
  const bpdq_cuda_heads &h = a.rope.heads;
  int half = h.head_dim / 2, units = s.group + s.token - s.first_new + 1;
  for (int i = threadIdx.x >> 5; i < units; i += blockDim.x >> 5) {
    float low[ROPE_PAIRS], high[ROPE_PAIRS], value_low[ROPE_PAIRS], value_high[ROPE_PAIRS];
    if (i < s.group) {
      rotate_head(a.rope, s.token, s.first_head + i, (int)(s.end - s.start), low, high);
      put_head(query[i], half, low, high);
      continue;
    }
    int token = s.token - (i - s.group);
    int64_t row = new_row(a, s, token);
    if (row >> 5 < s.from || row >> 5 >= s.to) continue;
    load_head(a.rope, token, h.heads + h.kv_heads + s.head, value_low, value_high);
    rotate_head(a.rope, token, h.heads + s.head, (int)(row - s.start), low, high);
    float *key = fresh + (token - s.first_new) * 2 * WIDTH;
    put_head(key, half, low, high);
    put_head(key + WIDTH, half, value_low, value_high);
    if (token != s.token) continue;
    store_head(a.rope, true, s.head, row, low, high);
    store_head(a.rope, false, s.head, row, value_low, value_high);
  }
}

/* The state of one warp: a lane (r, q) has query head r. */
template <int WIDTH>
struct decode_state {
  uint32_t query[WIDTH / 16][4]; /* rows r: high parts, r + 8: low parts */
  float sums[WIDTH / 8][4];      /* dims 8d + 2q, 8d + 2q + 1 from the high parts, then from the low */
  float maximum, denominator;    /* the denominator is this lane's own */

  __device__ void load_query(const decode_arguments &a, const decode_share &s, const float from[HEADS][WIDTH], int lane) {
    int q = lane & 3, r = lane >> 2;
#pragma unroll
    for (int pair = 0; pair < WIDTH / 8; pair++) { /* four pairs of dims 32u + 8q .. are two steps of the mma */
      float2 v = r < s.group ? *(const float2 *)(from[r] + (pair >> 2) * 32 + q * 8 + (pair & 3) * 2) : make_float2(0, 0);
      v.x *= a.scale, v.y *= a.scale;
      uint32_t high = pack_halves(v.x, v.y);
      query[pair >> 1][(pair & 1) * 2] = high;
      query[pair >> 1][(pair & 1) * 2 + 1] = pack_rest(v.x, v.y, high);
    }
    maximum = -INFINITY;
    denominator = 0;
#pragma unroll
    for (int d = 0; d < WIDTH / 8; d++) sums[d][0] = sums[d][1] = sums[d][2] = sums[d][3] = 0;
  }
};

/* scores[2j + i]: position 8q + 2j + i of the block. */
template <int WIDTH, bool Q8>
__device__ __forceinline__ static void block_scores(const decode_state<WIDTH> &state, const decode_share &s, int64_t block,
                                                    const char *stage, int lane, float scores[8]) {
  int q = lane & 3, n = lane >> 2;
  float parts[4][4];
#pragma unroll
  for (int j = 0; j < 4; j++) parts[j][0] = parts[j][1] = parts[j][2] = parts[j][3] = 0;
#pragma unroll
  for (int u = 0; u < WIDTH / 32; u++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      uint4 k = decode_stage<WIDTH, Q8>::key(stage, 8 * (n >> 1) + 2 * j + (n & 1), u, q);
      mma_f16(parts[j], state.query[2 * u], k.x, k.y);
      mma_f16(parts[j], state.query[2 * u + 1], k.z, k.w);
    }
  bool whole = block * 32 >= s.start && block * 32 + 31 <= s.end;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    scores[i] = parts[i >> 1][i & 1] + parts[i >> 1][2 + (i & 1)];
    if (Q8) scores[i] *= decode_stage<WIDTH, Q8>::scales(stage)[8 * q + i];
    int64_t row = block * 32 + 8 * q + i;
    if (!whole && (row < s.start || row > s.end)) scores[i] = -INFINITY;
  }
}

/* Scores become probabilities relative to the new running maximum; what was summed so far is rescaled to it. */
template <int WIDTH>
__device__ __forceinline__ static void update_softmax(decode_state<WIDTH> &state, float scores[8]) {
  float largest = scores[0];
#pragma unroll
  for (int i = 1; i < 8; i++) largest = fmaxf(largest, scores[i]);
  largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
  if (__any_sync(~0u, largest > state.maximum)) {
    float maximum = fmaxf(largest, state.maximum), rescale = exp2f(state.maximum - (maximum == -INFINITY ? 0 : maximum));
    state.maximum = maximum;
    state.denominator *= rescale;
#pragma unroll
    for (int d = 0; d < WIDTH / 8; d++)
#pragma unroll
      for (int i = 0; i < 4; i++) state.sums[d][i] *= rescale;
  }
  float shift = state.maximum == -INFINITY ? 0 : state.maximum;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    scores[i] = exp2f(scores[i] - shift);
    state.denominator += scores[i];
  }
}

template <int WIDTH, bool Q8>
__device__ __forceinline__ static void add_values(decode_state<WIDTH> &state, const char *stage, int lane, const float probabilities[8]) {
  int q = lane & 3, n = lane >> 2;
  uint32_t p[2][4];
#pragma unroll
  for (int j = 0; j < 4; j++) {
    float first = probabilities[2 * j], second = probabilities[2 * j + 1];
    if (Q8) {
      float2 scales = *(const float2 *)(decode_stage<WIDTH, Q8>::scales(stage) + 8 * q + 2 * j);
      first *= scales.x * VALUE_GAIN;
      second *= scales.y * VALUE_GAIN;
    }
    uint32_t high = pack_halves(first, second);
    p[j >> 1][(j & 1) * 2] = high;
    p[j >> 1][(j & 1) * 2 + 1] = pack_rest(first, second, high);
  }
#pragma unroll
  for (int d = 0; d < WIDTH / 8; d++) {
    uint4 v = decode_stage<WIDTH, Q8>::value(stage, d * 8 + n, q);
    mma_f16(state.sums[d], p[0], v.x, v.y);
    mma_f16(state.sums[d], p[1], v.z, v.w);
  }
}

/* A warp's ring. Copies are counted in keys, values, keys, ..: unit 2i and 2i + 1 are the warp's i-th block. */
template <int WIDTH, bool Q8>
struct decode_ring {
  typedef decode_stage<WIDTH, Q8> stage_type;
  const bpdq_cuda_cache &cache;
  char *stages;
  int64_t first; /* block; the next ones are `warps` apart */
  int head, warps, count, lane;

  __device__ __forceinline__ char *stage(int unit) const { return stages + unit % STAGES * stage_type::BYTES; }
  __device__ __forceinline__ void request(int unit) const {
    if (unit < 2 * count) stage_type::request(cache, head, first + (int64_t)(unit >> 1) * warps, unit & 1, stage(unit), lane);
    copy_async_commit();
  }
  /* The unit's data, once all lanes' copies of it are there, with this run's rows of it. */
  __device__ __forceinline__ char *receive(const decode_arguments &a, const decode_share &s, int unit, const float *fresh) const {
    char *at = stage(unit);
    copy_async_wait<STAGES - 1>();
    __syncwarp();
    int64_t block = first + (int64_t)(unit >> 1) * warps;
    if (block >= s.first_fresh_block) {
      for (int token = s.first_new; token <= s.token; token++) {
        int64_t row = new_row(a, s, token);
        if (row >> 5 == block)
          stage_type::patch(at, unit & 1, (int)(row & 31), fresh + ((token - s.first_new) * 2 + (unit & 1)) * WIDTH, lane);
      }
      __syncwarp();
    }
    return at;
  }
};

/* Leaves a warp's sums in shared memory, [HEADS][WIDTH + 8], and the maximum and denominator of each head. */
template <int WIDTH, bool Q8>
__device__ static void store_warp(const decode_state<WIDTH> &state, float *sums, float2 *statistics, int lane) {
  constexpr float GAIN = Q8 ? 1.0f / VALUE_GAIN : 1.0f;
  int q = lane & 3, r = lane >> 2;
#pragma unroll
  for (int d = 0; d < WIDTH / 8; d++)
    *(float2 *)(sums + r * (WIDTH + 8) + d * 8 + 2 * q) =
        make_float2((state.sums[d][0] + state.sums[d][2]) * GAIN, (state.sums[d][1] + state.sums[d][3]) * GAIN);
  float denominator = state.denominator;
  denominator += __shfl_xor_sync(~0u, denominator, 1);
  denominator += __shfl_xor_sync(~0u, denominator, 2);
  if (q == 0) statistics[r] = make_float2(state.maximum, denominator);
}

__device__ __forceinline__ static void write_output(const decode_arguments &a, const decode_share &s, int head, int dim, float4 v) {
  const bpdq_cuda_heads &h = a.rope.heads;
  float *out = a.output + ((int64_t)s.token * h.heads + s.first_head + head) * h.head_dim + dim;
  if (dim < h.head_dim) *(float2 *)out = make_float2(v.x, v.y); /* head_dim is even */
  if (dim + 2 < h.head_dim) *(float2 *)(out + 2) = make_float2(v.z, v.w);
}

/* The block's own result: to the output where it is the only split, else to `partial`. */
template <int WIDTH>
__device__ static void merge_warps(const decode_arguments &a, const decode_share &s, const float *sums, const float2 *statistics,
                                   float *partial) {
  int warps = blockDim.x >> 5;
  for (int i = threadIdx.x; i < s.group * (WIDTH / 4); i += blockDim.x) {
    int head = i / (WIDTH / 4), dim = i % (WIDTH / 4) * 4;
    float largest = -INFINITY, denominator = 0;
    for (int w = 0; w < warps; w++) largest = fmaxf(largest, statistics[w * HEADS + head].x);
    float shift = largest == -INFINITY ? 0 : largest;
    float4 sum = make_float4(0, 0, 0, 0);
    for (int w = 0; w < warps; w++) {
      float2 own = statistics[w * HEADS + head];
      float4 v = *(const float4 *)(sums + (w * HEADS + head) * (WIDTH + 8) + dim);
      float factor = exp2f(own.x - shift);
      denominator = fmaf(factor, own.y, denominator);
      sum.x = fmaf(factor, v.x, sum.x), sum.y = fmaf(factor, v.y, sum.y);
      sum.z = fmaf(factor, v.z, sum.z), sum.w = fmaf(factor, v.w, sum.w);
    }
    if (s.active == 1) {
      float inverse = 1.0f / denominator;
      write_output(a, s, head, dim, make_float4(sum.x * inverse, sum.y * inverse, sum.z * inverse, sum.w * inverse));
    } else {
      float *part = partial + ((int64_t)blockIdx.x * s.group + head) * (WIDTH + 4);
      *(float4 *)(part + dim) = sum;
      if (dim == 0) *(float2 *)(part + WIDTH) = make_float2(largest, denominator);
    }
  }
}

/* True in the block that finds all splits finished; it sees what they wrote. */
__device__ static bool is_last(int32_t *arrivals, int active, bool *shared_flag) {
  if (active == 1) return true;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence(); /* of the whole block's writes, which the barrier put before this one */
    *shared_flag = atomicAdd(arrivals, 1) == active - 1;
    if (*shared_flag) *arrivals = 0;
    __threadfence();
  }
  __syncthreads();
  return *shared_flag;
}

/* A thread's four dims of as many splits as the largest devices have multiprocessors for a kv head of four are requested at once, before
 * the factors are there. */
template <int WIDTH>
__device__ static void merge_splits(const decode_arguments &a, const decode_share &s, const float *partial,
                                    float factors[HEADS][MAX_SPLITS]) {
  constexpr int AT_ONCE = 33;
  int pitch = s.group * (WIDTH + 4), values = s.group * (WIDTH / 4);
  float4 v[AT_ONCE];
  auto request = [&](int i, int first) {
    const float *from = partial + i / (WIDTH / 4) * (WIDTH + 4) + i % (WIDTH / 4) * 4;
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++)
      v[j] = first + j < s.active ? __ldcg((const float4 *)(from + (int64_t)(first + j) * pitch)) : make_float4(0, 0, 0, 0);
  };
  if ((int)threadIdx.x < values) request(threadIdx.x, 0);
  for (int head = threadIdx.x >> 5; head < s.group; head += blockDim.x >> 5)
    split_factors(partial + head * (WIDTH + 4) + WIDTH, s.active, pitch, factors[head]);
  __syncthreads();
  for (int i = threadIdx.x; i < values; i += blockDim.x) {
    float4 sum = make_float4(0, 0, 0, 0);
    for (int first = 0; first < s.active; first += AT_ONCE) {
      if (i >= (int)blockDim.x || first) request(i, first);
#pragma unroll
      for (int j = 0; j < AT_ONCE; j++) {
        if (first + j >= s.active) break;
        float factor = factors[i / (WIDTH / 4)][first + j];
        sum.x = fmaf(factor, v[j].x, sum.x), sum.y = fmaf(factor, v[j].y, sum.y);
        sum.z = fmaf(factor, v[j].z, sum.z), sum.w = fmaf(factor, v[j].w, sum.w);
      }
    }
    write_output(a, s, i / (WIDTH / 4), i % (WIDTH / 4) * 4, sum);
  }
}

template <int WIDTH, bool Q8>
__global__ void __launch_bounds__(MAX_WARPS * 32, 1) attention_decode_kernel(decode_arguments a) {
  typedef decode_stage<WIDTH, Q8> stage_type;
  extern __shared__ __align__(128) char dynamic[]; /* the warps' rings, later their sums; then `fresh` */
  __shared__ __align__(16) decode_shared<WIDTH> shared;
  const bpdq_cuda_heads &h = a.rope.heads;
  int warp = threadIdx.x >> 5, warps = blockDim.x >> 5, lane = threadIdx.x & 31;
  let_dependents_launch();
  if (gridDim.z > 1 && (int)blockIdx.z >= run_tokens(h.run)) return;
  decode_share s = find_share(a);
  if ((int)blockIdx.x >= s.active) return;
  float *fresh = (float *)(dynamic + warps * STAGES * stage_type::BYTES);
  int64_t own = s.to - s.from - warp;
  decode_ring<WIDTH, Q8> ring = {a.rope.cache, dynamic + warp * STAGES * stage_type::BYTES,    s.from + warp, s.head,
                                 warps,        own > 0 ? (int)((own + warps - 1) / warps) : 0, lane};
#pragma unroll
  for (int unit = 0; unit < STAGES; unit++) ring.request(unit);
  if (h.head_dim < WIDTH) {
    for (int i = threadIdx.x; i < HEADS * WIDTH; i += blockDim.x) shared.query[i / WIDTH][i % WIDTH] = 0;
    for (int i = threadIdx.x; i < (s.token - s.first_new + 1) * 2 * WIDTH; i += blockDim.x) fresh[i] = 0;
    __syncthreads();
  }
  wait_for_predecessors();
  rotate_heads<WIDTH>(a, s, shared.query, fresh);
  __syncthreads();

  decode_state<WIDTH> state;
  state.load_query(a, s, shared.query, lane);
#pragma unroll 1
  for (int i = 0; i < ring.count; i++) {
    float scores[8];
    block_scores<WIDTH, Q8>(state, s, ring.first + (int64_t)i * warps, ring.receive(a, s, 2 * i, fresh), lane, scores);
    __syncwarp();
    ring.request(2 * i + STAGES);
    update_softmax<WIDTH>(state, scores);
    add_values<WIDTH, Q8>(state, ring.receive(a, s, 2 * i + 1, fresh), lane, scores);
    __syncwarp();
    ring.request(2 * i + 1 + STAGES);
  }
  __syncthreads(); /* the rings are free */
  float *sums = (float *)dynamic;
  float2 *statistics = (float2 *)(sums + warps * HEADS * (WIDTH + 8));
  store_warp<WIDTH, Q8>(state, sums + warp * HEADS * (WIDTH + 8), statistics + warp * HEADS, lane);
  __syncthreads();
  int tile = s.token * h.kv_heads + s.head;
  float *partial = a.partial + (int64_t)tile * a.splits * s.group * (WIDTH + 4);
  merge_warps<WIDTH>(a, s, sums, statistics, partial);
  if (!is_last(a.arrivals + tile, s.active, &shared.is_last)) return;
  if (s.active > 1) merge_splits<WIDTH>(a, s, partial, shared.factors);
  /* All blocks have read these queries: the rotated ones go back in place, as the operation promises. */
  float *queries = a.rope.rope.qkv + ((int64_t)s.token * (h.heads + 2 * h.kv_heads) + s.first_head) * h.head_dim;
  for (int i = threadIdx.x; i < s.group * h.head_dim; i += blockDim.x) queries[i] = shared.query[i / h.head_dim][i % h.head_dim];
}

bool bpdq_cuda_attention_fuses_rope(const bpdq_cuda_heads *heads) {
  return heads->max_tokens <= MAX_ROWS && heads->heads / heads->kv_heads <= HEADS;
}

typedef struct decode_plan {
  int width, warps, splits, least;
  uint64_t counters, partials, shared; /* bytes */
} decode_plan;

static decode_plan plan_decode(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, bool q8) {
  decode_plan p = {heads->head_dim <= 128 ? (heads->head_dim + 31) / 32 * 32 : 256, 0, 0, 0, 0, 0, 0};
  int group = heads->heads / heads->kv_heads;
  uint64_t tiles = (uint64_t)heads->max_tokens * (uint64_t)heads->kv_heads, fresh = (uint64_t)(heads->max_tokens * 2 * p.width * 4);
  uint64_t ring = STAGES * (uint64_t)(32 * p.width * (q8 ? 1 : 2) + (q8 ? 128 : 0)),
           merged = (uint64_t)(HEADS * (p.width + 8) * 4 + HEADS * 8);
  uint64_t each = ring > merged ? ring : merged, static_bytes = (uint64_t)(HEADS * (p.width + MAX_SPLITS) * 4 + 64);
  p.warps = (int)(((uint64_t)queue->shared_per_block - static_bytes - fresh) / each);
  if (p.warps > MAX_WARPS) p.warps = MAX_WARPS;
  if (p.warps < 1) p.warps = 1; /* one fits on every device that this is built for (sm_86: 99 KiB) */
  p.least = LEAST * p.warps;
  int64_t splits = queue->multiprocessors / (int64_t)tiles, useful = ((heads->context + 31) / 32 + p.least) / p.least;
  if (splits > useful) splits = useful;
  p.splits = (int)(splits < 1 ? 1 : splits > MAX_SPLITS ? MAX_SPLITS : splits);
  p.counters = (tiles * 4 + 255) / 256 * 256;
  p.partials = p.splits > 1 ? tiles * (uint64_t)(p.splits * group * (p.width + 4)) * 4 : 0;
  p.shared = (uint64_t)p.warps * each + fresh;
  return p;
}

uint64_t attention_decode_scratch(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads) {
  decode_plan f16 = plan_decode(queue, heads, false), q8 = plan_decode(queue, heads, true);
  uint64_t a = f16.counters + f16.partials, b = q8.counters + q8.partials;
  return a > b ? a : b;
}

template <bool Q8>
static const void *decode_for(int width) {
  switch (width) {
    case 32:
      return (const void *)attention_decode_kernel<32, Q8>;
    case 64:
      return (const void *)attention_decode_kernel<64, Q8>;
    case 96:
      return (const void *)attention_decode_kernel<96, Q8>;
    case 128:
      return (const void *)attention_decode_kernel<128, Q8>;
    default:
      return (const void *)attention_decode_kernel<256, Q8>;
  }
}

cudaError_t launch_attention_decode(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, const bpdq_cuda_rope *rope, float scale,
                                    const bpdq_cuda_cache *cache, void *scratch, float *output) {
  bool q8 = cache->type == BPDQ_CUDA_Q8;
  decode_plan p = plan_decode(queue, heads, q8);
  decode_arguments arguments = {
      {*heads, *rope, *cache}, scale, p.splits, p.least, (int32_t *)scratch, (float *)((char *)scratch + p.counters), output};
  void *pointers[] = {&arguments};
  return launch(queue, q8 ? decode_for<true>(p.width) : decode_for<false>(p.width),
                dim3((unsigned)p.splits, (unsigned)heads->kv_heads, (unsigned)heads->max_tokens), (unsigned)p.warps * 32, p.shared,
                pointers);
}
