/* The k largest logits of a row and log(sum(exp)). Each warp of a block sorts 128 logits in registers, the block merges its warps' lists,
 * and the last block of a row to finish merges the blocks' winners. A logit and its id form one 64-bit key, so that the order (ties:
 * lower id first) is the order of integers. */
#include "kernels/device.cuh"

#define THREADS 512
#define WARPS (THREADS / 32)
#define LIST 128 /* k is at most this */
#define CHUNK (WARPS * LIST)

typedef unsigned long long key;

typedef struct top_k_arguments {
  bpdq_cuda_top_k top;
  int chunks;
  int32_t *arrivals; /* [max_rows], zero between runs */
  float2 *sums;      /* [max_rows, chunks]: largest, sum of exp relative to it */
  key *candidates;   /* [max_rows, chunks, k] */
} top_k_arguments;

/* 0 for what cannot be chosen: NaN and the infinities. */
__device__ static key make_key(float logit, int64_t id) {
  if (!isfinite(logit)) return 0;
  uint32_t bits = __float_as_uint(logit + 0.0f); /* -0 equals +0 */
  bits = bits >> 31 ? ~bits : bits | 0x80000000u;
  return (key)bits << 32 | (uint32_t) ~(uint32_t)id;
}
__device__ static float key_logit(key k) {
  uint32_t bits = (uint32_t)(k >> 32);
  return __uint_as_float(bits >> 31 ? bits & 0x7fffffffu : ~bits);
}
__device__ static int32_t key_id(key k) { return (int32_t) ~(uint32_t)k; }

/* A warp's list: LIST keys, the largest first; key e lies in register e / 32 of lane e % 32. */
typedef struct key_list {
  key keys[LIST / 32];
} key_list;

/* One step of a bitonic network over blocks of `size`: keys `step` apart change places where their order is not the block's. */
template <int SIZE, int STEP>
__device__ __forceinline__ static void exchange(key_list &list) {
  int lane = threadIdx.x & 31;
#pragma unroll
  for (int i = 0; i < LIST / 32; i++) {
    bool descending = SIZE >= 32 ? !(i * 32 & SIZE) : !(lane & SIZE);
    if (STEP >= 32) {
      int partner = i ^ (STEP / 32);
      if (partner < i) continue;
      key a = list.keys[i], b = list.keys[partner];
      if ((a < b) == descending) list.keys[i] = b, list.keys[partner] = a;
    } else {
      key own = list.keys[i], other = __shfl_xor_sync(~0u, own, STEP);
      bool first = !(lane & STEP);
      list.keys[i] = (own < other) == (first == descending) ? other : own;
    }
  }
}
template <int SIZE, int STEP>
__device__ __forceinline__ static void exchange_all(key_list &list) {
  exchange<SIZE, STEP>(list);
  if constexpr (STEP > 1) exchange_all<SIZE, STEP / 2>(list);
}
template <int SIZE>
__device__ __forceinline__ static void sort_list(key_list &list) {
  if constexpr (SIZE > 2) sort_list<SIZE / 2>(list);
  exchange_all<SIZE, SIZE / 2>(list);
}

/* The largest LIST keys of two lists. */
__device__ static void merge_lists(key_list &list, const key_list &other) {
#pragma unroll
  for (int i = 0; i < LIST / 32; i++) { /* against the other in reverse: a bitonic sequence of the larger ones */
    key opposite = __shfl_xor_sync(~0u, other.keys[LIST / 32 - 1 - i], 31);
    if (opposite > list.keys[i]) list.keys[i] = opposite;
  }
  exchange_all<LIST, LIST / 2>(list);
}

/* Leaves the largest keys of all the block's lists, in order, in shared[0 .. LIST-1]. */
__device__ static void merge_block(key_list list, key *shared) {
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
#pragma unroll
  for (int i = 0; i < LIST / 32; i++) shared[warp * LIST + i * 32 + lane] = list.keys[i];
  __syncthreads();
  for (int distance = 1; distance < WARPS; distance *= 2) {
    if (warp % (2 * distance) == 0) {
      key_list other;
#pragma unroll
      for (int i = 0; i < LIST / 32; i++) other.keys[i] = shared[(warp + distance) * LIST + i * 32 + lane];
      merge_lists(list, other);
#pragma unroll
      for (int i = 0; i < LIST / 32; i++) shared[warp * LIST + i * 32 + lane] = list.keys[i];
    }
    __syncthreads();
  }
}

/* The largest of the block's keys into shared[0]. */
__device__ static void best_of_block(key own, key *shared) {
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
#pragma unroll
  for (int step = 16; step; step >>= 1) {
    key other = __shfl_xor_sync(~0u, own, step);
    if (other > own) own = other;
  }
  if (lane == 0) shared[warp] = own;
  __syncthreads();
  if (warp == 0) {
    own = lane < WARPS ? shared[lane] : 0;
#pragma unroll
    for (int step = 16; step; step >>= 1) {
      key other = __shfl_xor_sync(~0u, own, step);
      if (other > own) own = other;
    }
    if (lane == 0) shared[0] = own;
  }
  __syncthreads();
}

/* Largest and sum of exp relative to it, over the block's threads. */
__device__ static float2 block_log_sum(float largest, float sum) {
  __shared__ float2 parts[THREADS / 32];
  float top = warp_max(largest);
  sum = warp_sum(top == -INFINITY ? 0 : sum * expf(largest - top));
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = make_float2(top, sum);
  __syncthreads();
  float2 all = make_float2(-INFINITY, 0);
  for (int i = 0; i < THREADS / 32; i++) all.x = fmaxf(all.x, parts[i].x);
  if (all.x > -INFINITY)
    for (int i = 0; i < THREADS / 32; i++) all.y += parts[i].y * expf(parts[i].x - all.x);
  __syncthreads();
  return all;
}

__device__ static void write_result(const bpdq_cuda_top_k &top, int row, const key *keys, float log_sum) {
  for (int i = threadIdx.x; i <= top.k; i += THREADS) {
    float value = i == top.k ? log_sum : keys[i] ? key_logit(keys[i]) : -INFINITY;
    top.values[(int64_t)row * (top.k + 1) + i] = value;
    if (top.host_values) top.host_values[(int64_t)row * (top.k + 1) + i] = value;
    if (i == top.k) continue;
    int32_t id = keys[i] ? key_id(keys[i]) : -1;
    top.ids[(int64_t)row * top.k + i] = id;
    if (top.host_ids) top.host_ids[(int64_t)row * top.k + i] = id;
  }
}

/* Merges the chunks' winners. */
__device__ static void merge_row(const top_k_arguments &a, int row, key *keys) {
  int k = a.top.k, lane = threadIdx.x & 31;
  const key *candidates = a.candidates + (int64_t)row * a.chunks * k;
  if (k == 1) {
    key best = 0;
    for (int i = threadIdx.x; i < a.chunks; i += THREADS) best = max(best, __ldcg(candidates + i));
    best_of_block(best, keys);
  } else {
    key_list list = {};
    for (int chunk = threadIdx.x >> 5; chunk < a.chunks; chunk += WARPS) {
      key_list next;
#pragma unroll
      for (int i = 0; i < LIST / 32; i++) next.keys[i] = i * 32 + lane < k ? __ldcg(candidates + chunk * k + i * 32 + lane) : 0;
      merge_lists(list, next);
    }
    merge_block(list, keys);
  }
  float largest = -INFINITY, sum = 0;
  for (int i = threadIdx.x; i < a.chunks; i += THREADS) {
    float2 part = __ldcg(a.sums + (int64_t)row * a.chunks + i);
    float top = fmaxf(largest, part.x);
    if (top > -INFINITY) sum = sum * expf(largest - top) + part.y * expf(part.x - top);
    largest = top;
  }
  float2 all = block_log_sum(largest, sum);
  write_result(a.top, row, keys, all.x + logf(all.y));
}

__global__ void __launch_bounds__(THREADS) top_k_kernel(top_k_arguments a) {
  __shared__ key keys[CHUNK];
  __shared__ bool last_block;
  let_dependents_launch();
  int row = blockIdx.y, chunk = blockIdx.x, k = a.top.k;
  if (row >= row_count(a.top.run, a.top.last)) return;
  wait_for_predecessors();
  const float *logits = a.top.logits + row * a.top.stride;
  float largest = -INFINITY, sum = 0, values[LIST / 32];
  key_list list;
#pragma unroll
  for (int i = 0; i < LIST / 32; i++) {
    int64_t id = (int64_t)chunk * CHUNK + (threadIdx.x >> 5) * LIST + i * 32 + (threadIdx.x & 31);
    values[i] = id < a.top.vocab ? logits[id] : -INFINITY;
    list.keys[i] = make_key(values[i], id);
    if (isfinite(values[i])) largest = fmaxf(largest, values[i]);
  }
#pragma unroll
  for (int i = 0; i < LIST / 32; i++)
    if (isfinite(values[i])) sum += expf(values[i] - largest);
  float2 all = block_log_sum(largest, sum);
  if (k == 1) {
    best_of_block(max(max(list.keys[0], list.keys[1]), max(list.keys[2], list.keys[3])), keys);
  } else {
    sort_list<LIST>(list);
    merge_block(list, keys);
  }
  if (threadIdx.x == 0) a.sums[(int64_t)row * a.chunks + chunk] = all;
  for (int i = threadIdx.x; i < k; i += THREADS) a.candidates[((int64_t)row * a.chunks + chunk) * k + i] = keys[i];

  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last_block = atomicAdd(a.arrivals + row, 1) == a.chunks - 1;
    if (last_block) a.arrivals[row] = 0;
  }
  __syncthreads();
  if (!last_block) return;
  __threadfence();
  merge_row(a, row, keys);
}

static int64_t chunks_of(int64_t vocab) { return (vocab + CHUNK - 1) / CHUNK; }
static uint64_t counter_bytes(int64_t max_rows) { return ((uint64_t)max_rows * 4 + 255) / 256 * 256; }

uint64_t bpdq_cuda_top_k_scratch(int64_t vocab, int k, int64_t max_rows) {
  return counter_bytes(max_rows) + (uint64_t)max_rows * chunks_of(vocab) * (sizeof(float2) + k * sizeof(key));
}

cudaError_t bpdq_cuda_top_k_launch(const bpdq_cuda_queue *queue, const bpdq_cuda_top_k *top_k, void *scratch) {
  top_k_arguments a = {};
  a.top = *top_k;
  a.chunks = (int)chunks_of(top_k->vocab);
  a.arrivals = (int32_t *)scratch;
  a.sums = (float2 *)((char *)scratch + counter_bytes(top_k->max_rows));
  a.candidates = (key *)(a.sums + top_k->max_rows * a.chunks);
  void *pointers[] = {&a};
  return launch(queue, (const void *)top_k_kernel, dim3((unsigned)a.chunks, (unsigned)top_k->max_rows), THREADS, 0, pointers);
}
