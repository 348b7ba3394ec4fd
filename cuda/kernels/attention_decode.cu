/* Attention of one token, with the rotation of its heads and the cache writes.
 *
 * A layer's decode kernels are short: here latency counts, and with it the size of the code, which each layer fetches anew. A block takes
 * one kv head, all its query heads, and a share of the positions. Scores are plain dot products (16 bytes of a key to a lane); values are
 * read in blocks of 32 positions, a dim to a thread. The last block of a kv head to finish merges the splits in a fixed order. While
 * contexts are short enough to leave multiprocessors idle, several blocks divide the query heads of a kv head between them. */
#include "kernels/attention.cuh"

#define WARPS 16 /* positions of a short context are one block's then, and nothing has to be merged */
#define THREADS (WARPS * 32)
#define MAX_GROUP 8 /* query heads of a kv head */
#define SLICE_HEADS 2

template <int WIDTH>
struct decode_shared {
  static constexpr int CHUNK = 32 * THREADS / WIDTH; /* positions at once */
  float query[MAX_GROUP][WIDTH];
  float score[MAX_GROUP][CHUNK];
  float maximum[MAX_GROUP], denominator[MAX_GROUP], rescale[MAX_GROUP];
  float sums[THREADS / WIDTH][MAX_GROUP][WIDTH];
  float factors[MAX_GROUP][MAX_SPLITS];
  bool last_block;
};

/* Eight consecutive cache values as floats, 8-bit ones times `scale`. Each is read once, so the L1 cache is left alone. */
template <bool Q8>
__device__ __forceinline__ static void load_values(const void *data, int64_t index, float scale, float v[8]) {
  if (Q8) {
    uint2 packed = __ldcg((const uint2 *)((const int8_t *)data + index));
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = (float)(int8_t)((i < 4 ? packed.x : packed.y) >> (i & 3) * 8) * scale;
  } else {
    uint4 packed = __ldcg((const uint4 *)((const __half *)data + index));
    const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float2 pair = pair_to_floats<false>(words[i]);
      v[2 * i] = pair.x, v[2 * i + 1] = pair.y;
    }
  }
}

/* The block's share, in blocks of 32 cache rows. */
typedef struct decode_share {
  int64_t start, end; /* first and last cache row of the sequence's positions */
  int64_t from, to;   /* this block's: blocks from .. to - 1 */
  int active;         /* splits that have any */
  int first, heads;   /* of the kv head's query heads, this block's */
} decode_share;

template <int WIDTH>
__device__ static decode_share find_share(const decode_arguments &a) {
  constexpr int STEP = decode_shared<WIDTH>::CHUNK / 32;
  const bpdq_cuda_heads &h = a.rope.heads;
  decode_share s;
  s.start = (int64_t)__ldcg(h.run.sequences) * h.context;
  s.end = s.start + __ldcg(h.run.positions);
  int blocks = (int)((s.end >> 5) - (s.start >> 5)) + 1, share = (blocks + a.splits - 1) / a.splits;
  share = (share + STEP - 1) / STEP * STEP;
  s.from = (s.start >> 5) + (int64_t)blockIdx.x * share;
  s.to = min((s.end >> 5) + 1, s.from + share);
  s.active = (blocks + share - 1) / share;
  int group = h.heads / h.kv_heads;
  bool sliced = gridDim.z > 1 && s.active * (int)(gridDim.y * gridDim.z) <= a.sliced_blocks;
  s.first = sliced ? (int)blockIdx.z * SLICE_HEADS : 0;
  s.heads = sliced ? min(SLICE_HEADS, group - s.first) : blockIdx.z ? 0 : group;
  return s;
}

/* Rotates this block's queries into shared memory; the block with the newest position writes its key and value to the cache. */
template <int WIDTH>
__device__ static void rotate_heads(const decode_arguments &a, const decode_share &s, decode_shared<WIDTH> &shared) {
  const bpdq_cuda_heads &h = a.rope.heads;
  int position = (int)(s.end - s.start), head = blockIdx.y, count = (int)blockIdx.x == s.active - 1 ? s.heads + 2 : s.heads;
  int first = head * (h.heads / h.kv_heads) + s.first;
  for (int i = threadIdx.x >> 5; i < count; i += WARPS) {
    int unit = i < s.heads ? first + i : i == s.heads ? h.heads + head : h.heads + h.kv_heads + head;
    rope_head(a.rope, 0, unit, position, s.end, i < s.heads ? shared.query[i] : NULL);
  }
}

/* Adds up each of four values over LANES lanes. The lanes divide the values between them on the way, a quarter to each: *which is the value
 * whose sum this lane has. */
template <int LANES>
__device__ __forceinline__ static float sum_lanes(const float values[4], int part, int *which) {
  bool upper = part & (LANES / 2), odd = part & (LANES / 4);
  float first = upper ? values[2] : values[0], second = upper ? values[3] : values[1];
  first += __shfl_xor_sync(~0u, upper ? values[0] : values[2], LANES / 2);
  second += __shfl_xor_sync(~0u, upper ? values[1] : values[3], LANES / 2);
  float sum = odd ? second : first;
  sum += __shfl_xor_sync(~0u, odd ? first : second, LANES / 4);
#pragma unroll
  for (int distance = LANES / 8; distance; distance >>= 1) sum += __shfl_xor_sync(~0u, sum, distance);
  *which = upper * 2 + odd;
  return sum;
}

/* Asks for the keys and values of the block's first chunk: all but the newest were written by earlier runs. */
template <int WIDTH, bool Q8>
__device__ static void prefetch_chunk(const decode_arguments &a, const decode_share &s) {
  constexpr int ELEMENT = Q8 ? 1 : 2, BYTES = decode_shared<WIDTH>::CHUNK * WIDTH * ELEMENT;
  const bpdq_cuda_cache &c = a.rope.cache;
  int64_t row = s.from * 32, rows = min((s.to - s.from) * 32, (int64_t)decode_shared<WIDTH>::CHUNK);
  const char *keys = (const char *)c.keys + bpdq_cuda_key_index(blockIdx.y, row, c.rows, WIDTH) * ELEMENT;
  const char *values = (const char *)c.values + bpdq_cuda_value_index(blockIdx.y, row, 0, c.rows, WIDTH) * ELEMENT;
  for (int i = threadIdx.x * 128; i < BYTES && i < rows * WIDTH * ELEMENT; i += THREADS * 128) {
    prefetch_l2(keys + i);
    prefetch_l2(values + i);
  }
}

/* score[h][i] of the positions of one chunk; -inf where there is none. */
template <int WIDTH, bool Q8>
__device__ static void chunk_scores(const decode_arguments &a, const decode_share &s, int64_t first_row, int group,
                                    decode_shared<WIDTH> &shared) {
  constexpr int LANES = WIDTH / 8, ROWS = 32 / LANES, STEPS = 4;
  static_assert(decode_shared<WIDTH>::CHUNK == STEPS * WARPS * ROWS, "each warp scores four times ROWS positions");
  const bpdq_cuda_cache &c = a.rope.cache;
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, part = lane % LANES;
  float keys[STEPS][8];
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    int64_t row = min(first_row + (step * WARPS + warp) * ROWS + lane / LANES, s.end);
    load_values<Q8>(c.keys, bpdq_cuda_key_index(blockIdx.y, row, c.rows, WIDTH) + part * 8,
                    Q8 ? __ldcg(c.key_scales + blockIdx.y * c.rows + row) : 1.0f, keys[step]);
  }
#pragma unroll 2
  for (int h = 0; h < group; h++) {
    float4 low = *(const float4 *)&shared.query[h][part * 8], high = *(const float4 *)&shared.query[h][part * 8 + 4];
    float dots[STEPS];
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      const float *k = keys[step];
      dots[step] =
          k[0] * low.x + k[1] * low.y + k[2] * low.z + k[3] * low.w + k[4] * high.x + k[5] * high.y + k[6] * high.z + k[7] * high.w;
    }
    int step;
    float dot = sum_lanes<LANES>(dots, part, &step);
    int i = (step * WARPS + warp) * ROWS + lane / LANES;
    bool valid = first_row + i >= s.start && first_row + i <= s.end;
    if (part % (LANES / 4) == 0) shared.score[h][i] = valid ? dot * a.scale : -INFINITY;
  }
}

/* A warp per head: scores become probabilities relative to the running maximum. */
template <int WIDTH>
__device__ static void chunk_softmax(int group, decode_shared<WIDTH> &shared) {
  constexpr int EACH = decode_shared<WIDTH>::CHUNK / 32;
  int h = threadIdx.x >> 5, lane = threadIdx.x & 31;
  if (h >= group) return;
  float p[EACH], largest = shared.maximum[h], sum = 0;
#pragma unroll
  for (int i = 0; i < EACH; i++) largest = fmaxf(largest, p[i] = shared.score[h][i * 32 + lane]);
  largest = warp_max(largest);
  float shift = largest == -INFINITY ? 0 : largest;
#pragma unroll
  for (int i = 0; i < EACH; i++) sum += shared.score[h][i * 32 + lane] = exp2f(p[i] - shift);
  sum = warp_sum(sum);
  __syncwarp();
  if (lane == 0) {
    float rescale = exp2f(shared.maximum[h] - shift);
    shared.rescale[h] = rescale;
    shared.denominator[h] = shared.denominator[h] * rescale + sum;
    shared.maximum[h] = largest;
  }
}

/* Adds the chunk's values: thread t has dim t % WIDTH and positions 32 (t / WIDTH) .. + 31. */
template <int WIDTH, bool Q8>
__device__ static void chunk_values(const decode_arguments &a, const decode_share &s, int64_t first_row, int group,
                                    const decode_shared<WIDTH> &shared, float sums[MAX_GROUP]) {
  const bpdq_cuda_cache &c = a.rope.cache;
  int dim = threadIdx.x % WIDTH, local = threadIdx.x / WIDTH * 32;
  int64_t row = first_row + local;
#pragma unroll
  for (int h = 0; h < MAX_GROUP; h++)
    if (h < group) sums[h] *= shared.rescale[h];
  if (row > s.end) return;
#pragma unroll
  for (int part = 0; part < 4; part++) {
    float v[8];
    load_values<Q8>(c.values, bpdq_cuda_value_index(blockIdx.y, row, dim, c.rows, WIDTH) + part * 8, 1.0f, v);
    if (Q8) {
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] *= __ldcg(c.value_scales + blockIdx.y * c.rows + row + part * 8 + i);
    }
#pragma unroll
    for (int h = 0; h < MAX_GROUP; h++) {
      if (h >= group) break;
      float4 low = *(const float4 *)&shared.score[h][local + part * 8], high = *(const float4 *)&shared.score[h][local + part * 8 + 4];
      sums[h] += v[0] * low.x + v[1] * low.y + v[2] * low.z + v[3] * low.w + v[4] * high.x + v[5] * high.y + v[6] * high.z + v[7] * high.w;
    }
  }
}

/* The block's own result: to the output where it is the only split, else to `partial`. */
template <int WIDTH>
__device__ static void store_split(const decode_arguments &a, const decode_share &s, const decode_shared<WIDTH> &shared) {
  const bpdq_cuda_heads &h = a.rope.heads;
  int group = h.heads / h.kv_heads;
  float *part = a.partial + (((int64_t)blockIdx.y * a.splits + blockIdx.x) * group + s.first) * (WIDTH + 2);
  for (int i = threadIdx.x; i < s.heads * WIDTH; i += THREADS) {
    int head = i / WIDTH, dim = i % WIDTH;
    float sum = 0;
#pragma unroll
    for (int p = 0; p < THREADS / WIDTH; p++) sum += shared.sums[p][head][dim];
    if (s.active > 1)
      part[head * (WIDTH + 2) + dim] = sum;
    else if (dim < h.head_dim)
      a.output[((int64_t)blockIdx.y * group + s.first + head) * h.head_dim + dim] = sum / shared.denominator[head];
  }
  if (s.active > 1 && (int)threadIdx.x < s.heads) {
    part[threadIdx.x * (WIDTH + 2) + WIDTH] = shared.maximum[threadIdx.x];
    part[threadIdx.x * (WIDTH + 2) + WIDTH + 1] = shared.denominator[threadIdx.x];
  }
}

/* True in the block that finds all splits of its kv head finished; it sees what they wrote. */
__device__ static bool is_last(const decode_arguments &a, int active, bool *shared_flag) {
  if (active == 1) return true;
  int slot = blockIdx.y * gridDim.z + blockIdx.z;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    *shared_flag = atomicAdd(a.arrivals + slot, 1) == active - 1;
    if (*shared_flag) a.arrivals[slot] = 0;
  }
  __syncthreads();
  __threadfence();
  return *shared_flag;
}

template <int WIDTH>
__device__ static void merge_splits(const decode_arguments &a, const decode_share &s, decode_shared<WIDTH> &shared) {
  const bpdq_cuda_heads &h = a.rope.heads;
  int warp = threadIdx.x >> 5, group = h.heads / h.kv_heads, pitch = group * (WIDTH + 2), active = s.active;
  const float *parts = a.partial + (int64_t)blockIdx.y * a.splits * pitch + s.first * (WIDTH + 2);
  if (warp < s.heads) split_factors(parts + warp * (WIDTH + 2) + WIDTH, active, pitch, shared.factors[warp]);
  __syncthreads();
  for (int i = threadIdx.x; i < s.heads * (WIDTH / 2); i += THREADS) {
    int head = i / (WIDTH / 2), dim = i % (WIDTH / 2) * 2;
    float2 sum = make_float2(0, 0);
#pragma unroll 8
    for (int split = 0; split < active; split++) {
      float2 part = __ldcg((const float2 *)(parts + (int64_t)split * pitch + head * (WIDTH + 2) + dim));
      sum.x = fmaf(shared.factors[head][split], part.x, sum.x);
      sum.y = fmaf(shared.factors[head][split], part.y, sum.y);
    }
    float *out = a.output + ((int64_t)blockIdx.y * group + s.first + head) * h.head_dim;
    if (dim < h.head_dim) *(float2 *)(out + dim) = sum; /* head_dim is even */
  }
}

template <int WIDTH, bool Q8>
__global__ void __launch_bounds__(THREADS, 2) attention_decode_kernel(decode_arguments a) {
  __shared__ __align__(16) decode_shared<WIDTH> shared;
  const bpdq_cuda_heads &h = a.rope.heads;
  let_dependents_launch();
  decode_share s = find_share<WIDTH>(a);
  if ((int)blockIdx.x >= s.active || s.heads == 0) return;
  if (threadIdx.x < MAX_GROUP) shared.maximum[threadIdx.x] = -INFINITY, shared.denominator[threadIdx.x] = 0;
  if (h.head_dim < WIDTH)
    for (int i = threadIdx.x; i < MAX_GROUP * WIDTH; i += THREADS) shared.query[i / WIDTH][i % WIDTH] = 0;
  prefetch_chunk<WIDTH, Q8>(a, s);
  __syncthreads();
  wait_for_predecessors();
  rotate_heads<WIDTH>(a, s, shared);
  __syncthreads();

  float sums[MAX_GROUP] = {};
  for (int64_t block = s.from; block < s.to; block += decode_shared<WIDTH>::CHUNK / 32) {
    chunk_scores<WIDTH, Q8>(a, s, block * 32, s.heads, shared);
    __syncthreads();
    chunk_softmax<WIDTH>(s.heads, shared);
    __syncthreads();
    chunk_values<WIDTH, Q8>(a, s, block * 32, s.heads, shared, sums);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < MAX_GROUP; i++) shared.sums[threadIdx.x / WIDTH][i][threadIdx.x % WIDTH] = sums[i];
  __syncthreads();
  store_split<WIDTH>(a, s, shared);
  if (!is_last(a, s.active, &shared.last_block)) return;
  if (s.active > 1) merge_splits<WIDTH>(a, s, shared);
  /* All blocks have read these queries: the rotated ones go back in place, as the operation promises. */
  float *queries = a.rope.rope.qkv + ((int64_t)blockIdx.y * (h.heads / h.kv_heads) + s.first) * h.head_dim;
  for (int i = threadIdx.x; i < s.heads * h.head_dim; i += THREADS) queries[i] = shared.query[i / h.head_dim][i % h.head_dim];
}

bool bpdq_cuda_attention_fuses_rope(const bpdq_cuda_heads *heads) {
  int width = heads->head_dim;
  return heads->max_tokens == 1 && heads->heads / heads->kv_heads <= MAX_GROUP && (width == 64 || width == 128 || width == 256);
}

cudaError_t launch_attention_decode(const bpdq_cuda_queue *queue, const decode_arguments *arguments) {
  const bpdq_cuda_cache *c = &arguments->rope.cache;
  bool q8 = c->type == BPDQ_CUDA_Q8;
  const void *kernel =
      c->width == 64    ? q8 ? (const void *)attention_decode_kernel<64, true> : (const void *)attention_decode_kernel<64, false>
         : c->width == 128 ? q8 ? (const void *)attention_decode_kernel<128, true> : (const void *)attention_decode_kernel<128, false>
         : q8 ? (const void *)attention_decode_kernel<256, true>
                        : (const void *)attention_decode_kernel<256, false>;
  void *pointers[] = {(void *)arguments};
  const bpdq_cuda_heads *h = &arguments->rope.heads;
  unsigned slices = blocks_for(h->heads / h->kv_heads, SLICE_HEADS);
  return launch(queue, kernel, dim3((unsigned)arguments->splits, (unsigned)h->kv_heads, slices), THREADS, 0, pointers);
}
