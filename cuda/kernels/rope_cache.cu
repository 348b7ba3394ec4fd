/* Rotary embedding of q and k, optional RMS norm of each head, and the writes to the caches. One warp per head and token. */
#include "kernels/device.cuh"

#define WARPS 4
#define PAIRS 4 /* (i, i + head_dim / 2) pairs per lane: head_dim <= 256 */

typedef struct rope_arguments {
  bpdq_cuda_heads heads;
  float *qkv;
  const float *table, *q_norm, *k_norm;
  float epsilon;
  bpdq_cuda_cache cache;
} rope_arguments;

__device__ static __half saturated_half(float value) { return __float2half(fminf(fmaxf(value, -65504.0f), 65504.0f)); }

/* Stores one head's vector at cache row `row`; lane holds dims lane + 32 i (low) and half + lane + 32 i (high). */
__device__ static void store(const rope_arguments &a, bool key, int head, int64_t row, const float low[PAIRS], const float high[PAIRS]) {
  int lane = threadIdx.x & 31, half = a.heads.head_dim / 2;
  const bpdq_cuda_cache &c = a.cache;
  float scale = 1, inverse = 1;
  if (c.type == BPDQ_CUDA_Q8) {
    float largest = 0;
#pragma unroll
    for (int i = 0; i < PAIRS; i++) largest = fmaxf(largest, fmaxf(fabsf(low[i]), fabsf(high[i])));
    largest = warp_max(largest);
    scale = largest / 127.0f;
    inverse = largest > 0 ? 127.0f / largest : 0;
    if (lane == 0) (key ? c.key_scales : c.value_scales)[head * c.rows + row] = scale;
  }
#pragma unroll
  for (int i = 0; i < PAIRS; i++) {
    int d = lane + 32 * i;
    if (d >= half) continue;
    for (int upper = 0; upper < 2; upper++) {
      int dim = d + upper * half;
      float value = upper ? high[i] : low[i];
      int64_t index = key ? bpdq_cuda_key_index(head, row, c.rows, c.width) + dim : bpdq_cuda_value_index(head, row, dim, c.rows, c.width);
      if (c.type == BPDQ_CUDA_Q8)
        ((int8_t *)(key ? c.keys : c.values))[index] = (int8_t)max(-127, min(127, __float2int_rn(value * inverse)));
      else
        ((__half *)(key ? c.keys : c.values))[index] = saturated_half(value);
    }
  }
}

__global__ void __launch_bounds__(WARPS * 32) rope_cache_kernel(rope_arguments a) {
  let_dependents_launch();
  wait_for_predecessors();
  const bpdq_cuda_heads &h = a.heads;
  int token = blockIdx.y, unit = blockIdx.x * WARPS + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  if (token >= *h.run.tokens || unit >= h.heads + 2 * h.kv_heads) return;
  int half = h.head_dim / 2, position = h.run.positions[token];
  float *x = a.qkv + ((int64_t)token * (h.heads + 2 * h.kv_heads) + unit) * h.head_dim;
  bool query = unit < h.heads, value = unit >= h.heads + h.kv_heads;
  const float *norm = query ? a.q_norm : value ? NULL : a.k_norm;
  float low[PAIRS], high[PAIRS], squares = 0;
#pragma unroll
  for (int i = 0; i < PAIRS; i++) {
    int d = lane + 32 * i;
    low[i] = d < half ? x[d] : 0;
    high[i] = d < half ? x[half + d] : 0;
    squares = fmaf(low[i], low[i], fmaf(high[i], high[i], squares));
  }
  float factor = norm ? 1.0f / sqrtf(warp_sum(squares) / (float)h.head_dim + a.epsilon) : 1.0f;
  const float *table = a.table + (int64_t)position * h.head_dim;
#pragma unroll
  for (int i = 0; i < PAIRS; i++) {
    int d = lane + 32 * i;
    if (d >= half || value) continue;
    float first = norm ? low[i] * factor * norm[d] : low[i], second = norm ? high[i] * factor * norm[half + d] : high[i];
    float c = table[d], s = table[half + d];
    low[i] = first * c - second * s;
    high[i] = second * c + first * s;
    if (query) x[d] = low[i], x[half + d] = high[i];
  }
  if (query) return;
  int64_t row = h.run.sequences[token] * h.context + position;
  store(a, !value, value ? unit - h.heads - h.kv_heads : unit - h.heads, row, low, high);
}

cudaError_t bpdq_cuda_rope_cache(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, float *qkv, const float *rope_table,
                                 const float *q_norm, const float *k_norm, float epsilon, const bpdq_cuda_cache *cache) {
  rope_arguments arguments = {*heads, qkv, rope_table, q_norm, k_norm, epsilon, *cache};
  void *pointers[] = {&arguments};
  return launch(queue, (const void *)rope_cache_kernel,
                dim3(blocks_for(heads->heads + 2 * heads->kv_heads, WARPS), (unsigned)heads->max_tokens), WARPS * 32, 0, pointers);
}
