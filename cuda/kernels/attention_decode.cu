/* Attention of few tokens over a cache of any length, with the rotation of their heads and the cache writes: split positions, flash style.
 *
 * A block takes one token, one kv head with all its query heads, and a share of the positions, in chunks of 32 cache rows for each of its
 * warps, the latest ones first. A warp makes the scores and probabilities of its own rows; then each warp adds up all the chunk's
 * values for its own share of the dims, so that warps exchange probabilities and no sums. Up to eight query heads are the upper eight rows
 * of m16n8k16 operands, what they lose in f16 the lower eight; so are the probabilities: only the cache's own precision counts. Each block
 * leaves its sums in memory (bpdq_cuda_attention_sums), and whoever reads the result merges them: a kernel whose blocks had to wait for
 * each other would take longer than that.
 *
 * The cache comes by asynchronous copies, whose first ones are requested before the kernel waits for its predecessor. Keys and values of
 * this run's own tokens are not in it then: the block of the latest positions rotates them itself and puts them into its copies.
 *
 * At short contexts all of this is one chain of dependent instructions, some six cycles each, on a few multiprocessors. That is why there
 * are many warps with little to do, and why what one warp has made is handed to the others as the operand that they need. */
#include "kernels/attention.cuh"
#include "kernels/attention_sums.cuh"

#define HEADS 8     /* query heads of a kv head, at most */
#define MAX_ROWS 16 /* tokens of a run */

typedef struct decode_arguments {
  rope_arguments rope;
  float scale; /* of the scores, times log2(e) */
  bpdq_cuda_attention_sums sums;
} decode_arguments;

/* A chunk of the cache in shared memory: keys [ROWS][WIDTH], values [WARPS][WIDTH][32], and their scales [ROWS] where it has 8 bits. */
template <int WIDTH, bool Q8, int WARPS>
struct decode_chunk {
  static constexpr int ELEMENT = Q8 ? 1 : 2, ROW = WIDTH * ELEMENT, ROWS = WARPS * 32, PIECES = ROW / 16; /* of 16 bytes */
  static constexpr int DATA = ROWS * ROW, BYTES = DATA + (Q8 ? ROWS * 4 : 0);
  static constexpr int RING = Q8 ? 2 : 1; /* chunks on their way; as many bytes for either type */

  /* Keys' rows as they are would meet in the same banks: 16-byte piece `piece` of a row lies at this one. */
  __device__ __forceinline__ static int key_piece(int row, int piece) {
    if (!Q8 && WIDTH % 64 == 0) return piece ^ (row & 1) << 2;
    if (Q8 && WIDTH % 128 == 0) return piece ^ ((row & 1) << 1 | (row >> 3 & 1) << 2);
    return piece;
  }

  /* One warp's rows, from cache row `row` of the head on, to its place in the chunk; with both scales, since a warp needs those of its
   * values for its probabilities, before it has met the other warps. */
  __device__ __forceinline__ static void request_keys(const bpdq_cuda_cache &c, int64_t row, char *keys, char *values, int warp, int lane) {
    const char *from = (const char *)c.keys + row * ROW + lane * 16;
    char *to = keys + warp * 32 * ROW;
#pragma unroll 4
    for (int i = 0; i < PIECES; i++) {
      int piece = i * 32 + lane, r = piece / PIECES;
      copy_async_16(to + (r * PIECES + key_piece(r, piece % PIECES)) * 16, from + i * 512);
    }
    int four = (lane & 7) * 4;
    if (Q8 && lane < 16)
      copy_async_16((lane < 8 ? keys : values) + DATA + (warp * 32 + four) * 4, (lane < 8 ? c.key_scales : c.value_scales) + row + four);
  }
  /* All warps: the rows of the warps first_warp .., from cache row `row` of the head on. */
  __device__ __forceinline__ static void request_values(const bpdq_cuda_cache &c, int64_t row, char *values, int first_warp) {
    const char *from = (const char *)c.values + row * ROW;
    char *to = values + first_warp * 32 * ROW;
    int bytes = (WARPS - first_warp) * 32 * ROW;
#pragma unroll 4
    for (int at = threadIdx.x * 16; at < bytes; at += WARPS * 512) copy_async_16(to + at, from + at);
  }

  __device__ __forceinline__ static uint4 expand(const char *from) {
    if (!Q8) return *(const uint4 *)from;
    uint2 bytes = *(const uint2 *)from, low = expand_int8(bytes.x), high = expand_int8(bytes.y);
    return make_uint4(low.x, low.y, high.x, high.y);
  }
  /* Dims 32u + 8q .. + 7 of the key in row `row`; positions 8q .. 8q + 7 of the values of dim `dim` of a warp. */
  __device__ __forceinline__ static uint4 key(const char *keys, int row, int u, int q) {
    int byte = u * 32 * ELEMENT + q * 8 * ELEMENT;
    return expand(keys + row * ROW + key_piece(row, byte >> 4) * 16 + (byte & 15));
  }
  __device__ __forceinline__ static uint4 value(const char *values, int warp, int dim, int q) {
    return expand(values + ((warp * WIDTH + dim) * 32 + q * 8) * ELEMENT);
  }
  __device__ __forceinline__ static const float *scales(const char *part) { return (const float *)(part + DATA); }

  /* Number `dim` of a row that is not in the cache yet. */
  __device__ __forceinline__ static void put(char *part, bool is_value, int row, int dim, typename cache_row_writer<Q8>::element rounded) {
    int byte = dim * ELEMENT;
    *(typename cache_row_writer<Q8>::element *)(part + (is_value ? (((row >> 5) * WIDTH + dim) * 32 + (row & 31)) * ELEMENT
                                                                 : row * ROW + key_piece(row, byte >> 4) * 16 + (byte & 15))) = rounded;
  }
};

template <int WIDTH, int WARPS>
struct decode_shared {
  static constexpr int PITCH = WIDTH + 8;
  __half query[2][HEADS][PITCH];     /* rounded to f16, and what that lost */
  uint4 probabilities[WARPS][2][32]; /* of a warp's rows: two operands of m16n8k16, lane by lane */
  float2 statistics[WARPS][HEADS];   /* maximum and sum of a warp's rows */
};

/* What a block is there for: chunks number 0, 1, .., the latest ones first, of cache rows (of the head) below `top`, a multiple of 32. */
typedef struct decode_share {
  int64_t start, end; /* first and last cache row of the token's sequence */
  int64_t top;
  int chunks;
  int token, head, first_head, group;
  int first_new; /* this run's tokens first_new .. token are of one sequence */
} decode_share;

__device__ __forceinline__ static decode_share find_share(const decode_arguments &a) {
  const bpdq_cuda_heads &h = a.rope.heads;
  decode_share s;
  s.token = blockIdx.z;
  s.head = blockIdx.y;
  s.group = h.heads / h.kv_heads;
  s.first_head = s.head * s.group;
  int sequence = __ldcg(h.run.sequences + s.token), position = __ldcg(h.run.positions + s.token);
  split_positions positions = split_of(a.sums, sequence, position);
  s.start = sequence * h.context;
  s.end = s.start + position;
  s.chunks = min(positions.share, positions.chunks - (int)blockIdx.x * positions.share); /* not positive: nothing to do */
  s.top = (s.end | 31) + 1 - (int64_t)blockIdx.x * positions.share * a.sums.chunk;
  s.first_new = s.token;
  while (s.first_new > 0 && __ldcg(h.run.sequences + s.first_new - 1) == sequence) s.first_new--;
  return s;
}

/* The first warp that has rows of the chunk below cache row `top`. */
template <int WARPS>
__device__ __forceinline__ static int first_warp_of(const decode_share &s, int64_t top) {
  return max(0, WARPS - (int)((top - (s.start & ~(int64_t)31)) >> 5));
}

/* A rotated query head as f16 pairs. */
template <int WIDTH, int WARPS, int PAIRS>
__device__ __forceinline__ static void put_query(const decode_arguments &a, const head_vector<PAIRS> &vector, int head,
                                                 decode_shared<WIDTH, WARPS> &shared) {
  vector.for_each(a.rope.heads.head_dim / 2, [&](int dim, float value) {
    value *= a.scale;
    __half rounded = __float2half(value);
    shared.query[0][head][dim] = rounded;
    shared.query[1][head][dim] = __float2half(value - __half2float(rounded));
  });
}

/* A new key or value: to the first chunk, where it has row `row`, and, where `store` says so, to the cache at `cache_row`. */
template <int WIDTH, bool Q8, int WARPS, int PAIRS>
__device__ __forceinline__ static void put_new(const decode_arguments &a, const decode_share &s, const head_vector<PAIRS> &vector,
                                               bool is_value, int row, int64_t cache_row, bool store, char *part) {
  typedef decode_chunk<WIDTH, Q8, WARPS> layout;
  cache_row_writer<Q8> writer(a.rope, !is_value, s.head, cache_row);
  float inverse = 0;
  if (Q8) {
    float scale = vector.byte_scale(&inverse);
    if ((threadIdx.x & 31) == 0) {
      ((float *)(part + layout::DATA))[row] = scale;
      if (store) writer.put_scale(scale);
    }
  }
  vector.for_each(a.rope.heads.head_dim / 2, [&](int dim, float value) {
    typename cache_row_writer<Q8>::element rounded = cache_row_writer<Q8>::round(value, inverse);
    layout::put(part, is_value, row, dim, rounded);
    if (store) writer.put(dim, rounded);
  });
}

/* Rotates the queries, and in the block of the latest positions this run's keys and values. Units of work: query heads, then keys, then
 * values. */
template <int WIDTH, bool Q8, int WARPS>
__device__ __forceinline__ static void rotate_heads(const decode_arguments &a, const decode_share &s, decode_shared<WIDTH, WARPS> &shared,
                                                    char *keys, char *values) {
  constexpr int PAIRS = (WIDTH + 63) / 64, BATCH = 2; /* heads that a warp requests at once */
  const bpdq_cuda_heads &h = a.rope.heads;
  int fresh = blockIdx.x == 0 ? s.token - s.first_new + 1 : 0, units = s.group + 2 * fresh;
#pragma unroll 1
  for (int warp = threadIdx.x >> 5, base = warp; base == warp || base < units; base += BATCH * WARPS) {
    head_vector<PAIRS> vectors[BATCH];
    int tokens[BATCH], positions[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      int unit = base + i * WARPS, other = unit - s.group, of = s.first_head + unit;
      if (unit >= units) break;
      tokens[i] = other < 0 ? s.token : s.first_new + other % fresh;
      positions[i] = (int)(s.end - s.start) - (s.token - tokens[i]); /* rows of a sequence have consecutive positions */
      if (other >= 0) of = h.heads + (other >= fresh ? h.kv_heads : 0) + s.head;
      vectors[i].load(a.rope, tokens[i], of, positions[i]);
    }
    if (blockIdx.x == 0 && base == warp) { /* the copies that new rows go into must have arrived; by now they have */
      copy_async_wait<2 * decode_chunk<WIDTH, Q8, WARPS>::RING - 2>();
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      int unit = base + i * WARPS, other = unit - s.group;
      if (unit >= units) break;
      if (other < fresh) vectors[i].rotate(a.rope, other >= 0);
      if (other < 0) {
        put_query<WIDTH, WARPS, PAIRS>(a, vectors[i], unit, shared);
        continue;
      }
      bool is_value = other >= fresh;
      int64_t cache_row = s.start + positions[i];
      int row = WARPS * 32 - (int)(s.top - cache_row);
      put_new<WIDTH, Q8, WARPS, PAIRS>(a, s, vectors[i], is_value, row, cache_row, tokens[i] == s.token, is_value ? values : keys);
    }
  }
}

/* This warp's scores become probabilities relative to their maxima, in shared memory. `first`: the cache row of its rows. */
template <int WIDTH, bool Q8, int WARPS>
__device__ __forceinline__ static void make_probabilities(const decode_share &s, const uint4 query[2][WIDTH / 32], int64_t first,
                                                          const char *keys, const char *values, decode_shared<WIDTH, WARPS> &shared,
                                                          int warp, int lane) {
  typedef decode_chunk<WIDTH, Q8, WARPS> layout;
  int q = lane & 3, n = lane >> 2;
  float parts[4][2][4] = {}, scores[8], largest = -INFINITY, sum = 0; /* scores[2j + i]: position 8q + 2j + i */
#pragma unroll
  for (int u = 0; u < WIDTH / 32; u++) {
    uint32_t low[4] = {query[0][u].x, query[1][u].x, query[0][u].y, query[1][u].y};
    uint32_t high[4] = {query[0][u].z, query[1][u].z, query[0][u].w, query[1][u].w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      uint4 k = layout::key(keys, warp * 32 + 8 * (n >> 1) + 2 * j + (n & 1), u, q);
      mma_f16(parts[j][0], low, k.x, k.y);
      mma_f16(parts[j][1], high, k.z, k.w);
    }
  }
  int from = (int)max(s.start - first, (int64_t)0), to = (int)min(s.end - first, (int64_t)31); /* rows that count */
#pragma unroll
  for (int i = 0; i < 8; i++) {
    int row = 8 * q + i;
    const float(*part)[4] = parts[i >> 1];
    scores[i] = (part[0][i & 1] + part[1][i & 1]) + (part[0][2 + (i & 1)] + part[1][2 + (i & 1)]);
    if (Q8) scores[i] *= layout::scales(keys)[warp * 32 + row];
    if (row < from || row > to) scores[i] = -INFINITY;
    largest = fmaxf(largest, scores[i]);
  }
  largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
  float shift = largest == -INFINITY ? 0 : largest;
  uint32_t operand[2][4];
#pragma unroll
  for (int j = 0; j < 4; j++) {
    float first_one = approximate_exp2(scores[2 * j] - shift), second = approximate_exp2(scores[2 * j + 1] - shift);
    sum += first_one + second;
    if (Q8) {
      float2 scales = *(const float2 *)(layout::scales(values) + warp * 32 + 8 * q + 2 * j);
      first_one *= scales.x * VALUE_GAIN, second *= scales.y * VALUE_GAIN;
    }
    uint32_t rounded = pack_halves(first_one, second);
    operand[j >> 1][(j & 1) * 2] = rounded;
    operand[j >> 1][(j & 1) * 2 + 1] = pack_rest(first_one, second, rounded);
  }
#pragma unroll
  for (int step = 0; step < 2; step++)
    shared.probabilities[warp][step][lane] = make_uint4(operand[step][0], operand[step][1], operand[step][2], operand[step][3]);
  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);
  if (q == 0) shared.statistics[warp][n] = make_float2(largest, sum);
}

/* What a warp has added up: a lane (r, q) has query head r. */
template <int WIDTH, int WARPS>
struct decode_sums {
  static constexpr int EIGHTS = WIDTH / 8, TILES = (EIGHTS + WARPS - 1) / WARPS; /* eights of dims: warp, warp + WARPS, .. */
  float2 sums[TILES];                                                            /* dims 8d + 2q, 8d + 2q + 1 */
  float maximum, denominator;
};

template <int WIDTH, bool Q8, int WARPS>
__device__ __forceinline__ static void add_values(decode_sums<WIDTH, WARPS> &state, const char *values,
                                                  const decode_shared<WIDTH, WARPS> &shared, int first_warp, int warp, int lane) {
  typedef decode_chunk<WIDTH, Q8, WARPS> layout;
  typedef decode_sums<WIDTH, WARPS> sums_type;
  int q = lane & 3, n = lane >> 2;
  float largest = state.maximum;
#pragma unroll
  for (int w = 0; w < WARPS; w++) largest = w < first_warp ? largest : fmaxf(largest, shared.statistics[w][n].x);
  float shift = largest == -INFINITY ? 0 : largest, rescale = approximate_exp2(state.maximum - shift);
  state.maximum = largest;
  state.denominator *= rescale;
#pragma unroll
  for (int t = 0; t < sums_type::TILES; t++) state.sums[t].x *= rescale, state.sums[t].y *= rescale;
#pragma unroll(WIDTH <= 128 ? 4 : 1)
  for (int w = first_warp; w < WARPS; w++) {
    uint32_t operand[2][4];
#pragma unroll
    for (int step = 0; step < 2; step++) {
      uint4 p = shared.probabilities[w][step][lane];
      operand[step][0] = p.x, operand[step][1] = p.y, operand[step][2] = p.z, operand[step][3] = p.w;
    }
    float2 own = shared.statistics[w][n];
    float factor = approximate_exp2(own.x - shift);
    state.denominator = fmaf(factor, own.y, state.denominator);
#pragma unroll
    for (int t = 0; t < sums_type::TILES; t++) {
      if (sums_type::EIGHTS % WARPS != 0 && warp + t * WARPS >= sums_type::EIGHTS) break;
      float parts[4] = {};
      uint4 v = layout::value(values, w, (warp + t * WARPS) * 8 + n, q);
      mma_f16(parts, operand[0], v.x, v.y);
      mma_f16(parts, operand[1], v.z, v.w);
      state.sums[t].x = fmaf(factor, parts[0] + parts[2], state.sums[t].x);
      state.sums[t].y = fmaf(factor, parts[1] + parts[3], state.sums[t].y);
    }
  }
}

template <int WIDTH, bool Q8, int WARPS>
__device__ __forceinline__ static void leave_sums(const decode_arguments &a, const decode_share &s, const decode_sums<WIDTH, WARPS> &state,
                                                  int warp, int lane) {
  constexpr float GAIN = Q8 ? 1.0f / VALUE_GAIN : 1.0f;
  int q = lane & 3, r = lane >> 2;
  if (r >= s.group) return;
  int split = (s.token * a.sums.heads + s.first_head + r) * a.sums.splits + blockIdx.x;
#pragma unroll
  for (int t = 0; t < decode_sums<WIDTH, WARPS>::TILES; t++) {
    int dim = (warp + t * WARPS) * 8 + 2 * q;
    if (dim < WIDTH) *(float2 *)(a.sums.sums + (int64_t)split * WIDTH + dim) = make_float2(state.sums[t].x * GAIN, state.sums[t].y * GAIN);
  }
  if (warp == 0 && q == 0) a.sums.statistics[split] = make_float2(state.maximum, state.denominator);
}

template <int WIDTH, bool Q8, int WARPS>
__global__ void __launch_bounds__(WARPS * 32) attention_decode_kernel(decode_arguments a) {
  typedef decode_chunk<WIDTH, Q8, WARPS> layout;
  extern __shared__ __align__(128) char dynamic[]; /* keys, values */
  __shared__ __align__(16) decode_shared<WIDTH, WARPS> shared;
  const bpdq_cuda_heads &h = a.rope.heads;
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  let_dependents_launch();
  if (gridDim.z > 1 && (int)blockIdx.z >= run_tokens(h.run)) return;
  decode_share s = find_share(a);
  if (s.chunks <= 0) return;
  int64_t of_head = s.head * a.rope.cache.rows; /* row 0 of the head in the cache */
  auto keys = [&](int chunk) { return dynamic + (chunk & (layout::RING - 1)) * layout::BYTES; };
  auto values = [&](int chunk) { return dynamic + (layout::RING + (chunk & (layout::RING - 1))) * layout::BYTES; };
  auto first_warp = [&](int chunk) { return chunk < s.chunks ? first_warp_of<WARPS>(s, s.top - chunk * layout::ROWS) : WARPS; };
  auto request_keys = [&](int chunk) {
    if (warp >= first_warp(chunk))
      layout::request_keys(a.rope.cache, of_head + s.top - chunk * layout::ROWS - (WARPS - warp) * 32, keys(chunk), values(chunk), warp,
                           lane);
    copy_async_commit();
  };
  auto request_values = [&](int chunk) {
    int first = first_warp(chunk);
    if (first < WARPS)
      layout::request_values(a.rope.cache, of_head + s.top - chunk * layout::ROWS - (WARPS - first) * 32, values(chunk), first);
    copy_async_commit();
  };
#pragma unroll 1
  for (int i = 0; i < layout::RING; i++) {
    request_keys(i);
    request_values(i);
  }
  prefetch_rotation(a.rope, (int)(s.end - s.start));
  if (h.head_dim < WIDTH) {
    for (int i = threadIdx.x; i < 2 * HEADS * decode_shared<WIDTH, WARPS>::PITCH; i += WARPS * 32)
      (&shared.query[0][0][0])[i] = __float2half(0);
    __syncthreads();
  }
  wait_for_predecessors();
  rotate_heads<WIDTH, Q8, WARPS>(a, s, shared, keys(0), values(0));
  __syncthreads();

  uint4 query[2][WIDTH / 32]; /* rows r .. of heads that are not there hold anything; nobody looks at their sums */
#pragma unroll
  for (int u = 0; u < WIDTH / 32; u++)
#pragma unroll
    for (int part = 0; part < 2; part++) query[part][u] = *(const uint4 *)&shared.query[part][lane >> 2][u * 32 + (lane & 3) * 8];
  decode_sums<WIDTH, WARPS> state = {};
  state.maximum = -INFINITY;
#pragma unroll 1
  for (int i = 0; i < s.chunks; i++) {
    copy_async_wait<2 * layout::RING - 1>();
    __syncwarp();
    if (warp >= first_warp(i))
      make_probabilities<WIDTH, Q8, WARPS>(s, query, s.top - i * layout::ROWS - (WARPS - warp) * 32, keys(i), values(i), shared, warp,
                                           lane);
    copy_async_wait<2 * layout::RING - 2>();
    __syncthreads();
    request_keys(i + layout::RING);
    add_values<WIDTH, Q8, WARPS>(state, values(i), shared, first_warp(i), warp, lane);
    if (i + 1 < s.chunks) __syncthreads(); /* values and probabilities may be overwritten */
    request_values(i + layout::RING);
  }
  leave_sums<WIDTH, Q8, WARPS>(a, s, state, warp, lane);
}

/* One block per query head and token. */
__global__ void __launch_bounds__(MERGE_WARPS * 32) merge_attention_kernel(bpdq_cuda_attention_sums sums, float *output) {
  __shared__ merge_shared shared;
  int head = blockIdx.x, token = blockIdx.y, dim = threadIdx.x;
  let_dependents_launch();
  if (token >= run_tokens(sums.run)) return;
  int active = split_of(sums, token).splits;
  wait_for_predecessors();
  merge_splits(sums, active, token, head, 0, (sums.head_dim + 3) / 4 * 4, shared);
  if (dim < sums.head_dim) output[((int64_t)token * sums.heads + head) * sums.head_dim + dim] = merged_number(shared, dim);
}

/* ---- host ---- */

bool bpdq_cuda_attention_decodes(const bpdq_cuda_heads *heads) {
  return heads->max_tokens <= MAX_ROWS && heads->heads / heads->kv_heads <= HEADS;
}

typedef struct decode_plan {
  const void *kernel;
  int width, warps, splits;
  unsigned shared; /* bytes */
} decode_plan;

/* As many warps as have room for their rows of keys and values. */
template <int WIDTH, bool Q8>
static void plan_width(const bpdq_cuda_queue *queue, decode_plan *p) {
  constexpr int MOST = WIDTH <= 128 ? 8 : 4, LEAST = MOST / 2;
  typedef decode_chunk<WIDTH, Q8, MOST> large;
  typedef decode_chunk<WIDTH, Q8, LEAST> small;
  bool fits = 2 * large::RING * large::BYTES + (int)sizeof(decode_shared<WIDTH, MOST>) + 1024 <= queue->shared_per_block;
  p->width = WIDTH;
  p->warps = fits ? MOST : LEAST;
  p->shared = fits ? 2 * large::RING * large::BYTES : 2 * small::RING * small::BYTES;
  p->kernel = fits ? (const void *)attention_decode_kernel<WIDTH, Q8, MOST> : (const void *)attention_decode_kernel<WIDTH, Q8, LEAST>;
}
template <bool Q8>
static void plan_type(const bpdq_cuda_queue *queue, int head_dim, decode_plan *p) {
  if (head_dim <= 32)
    plan_width<32, Q8>(queue, p);
  else if (head_dim <= 64)
    plan_width<64, Q8>(queue, p);
  else if (head_dim <= 96)
    plan_width<96, Q8>(queue, p);
  else if (head_dim <= 128)
    plan_width<128, Q8>(queue, p);
  else
    plan_width<256, Q8>(queue, p);
}

static decode_plan plan_decode(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, int type) {
  decode_plan p = {};
  if (type == BPDQ_CUDA_Q8)
    plan_type<true>(queue, heads->head_dim, &p);
  else
    plan_type<false>(queue, heads->head_dim, &p);
  int64_t splits = queue->multiprocessors / (heads->max_tokens * heads->kv_heads), useful = (heads->context + 31) / (32 * p.warps) + 1;
  if (splits > useful) splits = useful;
  p.splits = (int)(splits < 1 ? 1 : splits > ATTENTION_MAX_SPLITS ? ATTENTION_MAX_SPLITS : splits);
  return p;
}

static uint64_t statistics_bytes(const bpdq_cuda_heads *heads, const decode_plan *p) {
  return (uint64_t)(heads->max_tokens * heads->heads * p->splits) * sizeof(float2);
}

uint64_t bpdq_cuda_attention_decode_scratch(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, int type) {
  decode_plan p = plan_decode(queue, heads, type);
  return statistics_bytes(heads, &p) * (uint64_t)(1 + p.width / 2);
}

bpdq_cuda_attention_sums bpdq_cuda_attention_sums_of(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, int type, void *scratch) {
  decode_plan p = plan_decode(queue, heads, type);
  float2 *statistics = (float2 *)((char *)scratch + statistics_bytes(heads, &p) * (uint64_t)(p.width / 2));
  return {(float *)scratch, statistics, heads->heads, heads->head_dim, p.width, p.splits, 32 * p.warps, heads->context, heads->run};
}

cudaError_t bpdq_cuda_attention_decode(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, const bpdq_cuda_rope *rope, float scale,
                                       const bpdq_cuda_cache *cache, void *scratch) {
  decode_plan p = plan_decode(queue, heads, cache->type);
  decode_arguments arguments = {{*heads, *rope, *cache}, scale * LOG2_E, bpdq_cuda_attention_sums_of(queue, heads, cache->type, scratch)};
  void *pointers[] = {&arguments};
  return launch(queue, p.kernel, dim3((unsigned)p.splits, (unsigned)heads->kv_heads, (unsigned)heads->max_tokens), (unsigned)p.warps * 32,
                p.shared, pointers);
}

cudaError_t bpdq_cuda_attention_merge(const bpdq_cuda_queue *queue, const bpdq_cuda_attention_sums *sums, int64_t max_tokens,
                                      float *output) {
  void *pointers[] = {(void *)sums, &output};
  return launch(queue, (const void *)merge_attention_kernel, dim3((unsigned)sums->heads, (unsigned)max_tokens), MERGE_WARPS * 32, 0,
                pointers);
}
