/* The k largest logits of a row and log(sum(exp)). Each block sorts a chunk in shared memory; the last block of a row to finish merges the
 * chunks' winners. A logit and its id form one 64-bit key, so that the order (ties: lower id first) is the order of integers. */
#include "kernels/device.cuh"

#define CHUNK 2048
#define THREADS 512

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

/* Bitonic sort of CHUNK keys in shared memory, largest first. */
__device__ static void sort_descending(key *keys) {
  for (int size = 2; size <= CHUNK; size *= 2)
    for (int step = size / 2; step; step /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < CHUNK / 2; i += THREADS) {
        int low = (i & ~(step - 1)) * 2 + (i & (step - 1)), high = low + step;
        bool descending = !(low & size);
        key a = keys[low], b = keys[high];
        if ((a < b) == descending) keys[low] = b, keys[high] = a;
      }
    }
  __syncthreads();
}

/* Moves the largest of the CHUNK keys to keys[0]. */
__device__ static void largest_first(key *keys) {
  for (int count = CHUNK / 2; count; count /= 2) {
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += THREADS)
      if (keys[i + count] > keys[i]) keys[i] = keys[i + count];
  }
  __syncthreads();
}

__device__ static void select(key *keys, int k) {
  if (k == 1)
    largest_first(keys);
  else
    sort_descending(keys);
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

/* Merges the chunks' winners: the best k so far stay in front, and the rest of the buffer is filled with the next candidates. */
__device__ static void merge_row(const top_k_arguments &a, int row, key *keys) {
  int k = a.top.k, total = a.chunks * k;
  const key *candidates = a.candidates + (int64_t)row * total;
  for (int i = threadIdx.x; i < k; i += THREADS) keys[i] = 0;
  for (int done = 0; done < total; done += CHUNK - k) {
    __syncthreads();
    for (int i = threadIdx.x; i < CHUNK - k; i += THREADS) keys[k + i] = done + i < total ? __ldcg(candidates + done + i) : 0;
    select(keys, k);
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
  wait_for_predecessors();
  int row = blockIdx.y, chunk = blockIdx.x, k = a.top.k;
  if (row >= row_count(a.top.run, a.top.last)) return;
  const float *logits = a.top.logits + row * a.top.stride;
  float largest = -INFINITY, sum = 0, values[CHUNK / THREADS];
#pragma unroll
  for (int i = 0; i < CHUNK / THREADS; i++) {
    int64_t id = (int64_t)chunk * CHUNK + i * THREADS + threadIdx.x;
    values[i] = id < a.top.vocab ? logits[id] : -INFINITY;
    keys[i * THREADS + threadIdx.x] = make_key(values[i], id);
    if (isfinite(values[i])) largest = fmaxf(largest, values[i]);
  }
#pragma unroll
  for (int i = 0; i < CHUNK / THREADS; i++)
    if (isfinite(values[i])) sum += expf(values[i] - largest);
  float2 all = block_log_sum(largest, sum);
  select(keys, k);
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
  top_k_arguments a = {*top_k};
  a.chunks = (int)chunks_of(top_k->vocab);
  a.arrivals = (int32_t *)scratch;
  a.sums = (float2 *)((char *)scratch + counter_bytes(top_k->max_rows));
  a.candidates = (key *)(a.sums + top_k->max_rows * a.chunks);
  void *pointers[] = {&a};
  return launch(queue, (const void *)top_k_kernel, dim3((unsigned)a.chunks, (unsigned)top_k->max_rows), THREADS, 0, pointers);
}
