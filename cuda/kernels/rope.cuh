/* Rotary embedding, optional RMS norm of a head, and the writes to the caches: one warp per head and token. */
#ifndef BPDQ_CUDA_ROPE_CUH
#define BPDQ_CUDA_ROPE_CUH

#include "kernels/device.cuh"

#define ROPE_PAIRS 4 /* (i, i + head_dim / 2) pairs per lane: head_dim <= 256 */

typedef struct rope_arguments {
  bpdq_cuda_heads heads;
  bpdq_cuda_rope rope;
  bpdq_cuda_cache cache;
} rope_arguments;

__device__ static __half saturated_half(float value) { return __float2half(fminf(fmaxf(value, -65504.0f), 65504.0f)); }

/* Stores one head's vector at cache row `row`; lane holds dims lane + 32 i (low) and half + lane + 32 i (high). */
__device__ static void store_head(const rope_arguments &a, bool key, int head, int64_t row, const float low[ROPE_PAIRS],
                                  const float high[ROPE_PAIRS]) {
  int lane = threadIdx.x & 31, half = a.heads.head_dim / 2;
  const bpdq_cuda_cache &c = a.cache;
  float scale = 1, inverse = 1;
  if (c.type == BPDQ_CUDA_Q8) {
    float largest = 0;
#pragma unroll
    for (int i = 0; i < ROPE_PAIRS; i++) largest = fmaxf(largest, fmaxf(fabsf(low[i]), fabsf(high[i])));
    largest = warp_max(largest);
    scale = largest / 127.0f;
    inverse = largest > 0 ? 127.0f / largest : 0;
    if (lane == 0) (key ? c.key_scales : c.value_scales)[head * c.rows + row] = scale;
  }
#pragma unroll
  for (int i = 0; i < ROPE_PAIRS; i++) {
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

/* Head `unit` of q | k | v of one token: a lane's dims lane + 32 i (low) and half + lane + 32 i (high). */
__device__ __forceinline__ static void load_head(const rope_arguments &a, int token, int unit, float low[ROPE_PAIRS],
                                                 float high[ROPE_PAIRS]) {
  const bpdq_cuda_heads &h = a.heads;
  int half = h.head_dim / 2;
  const float *x = a.rope.qkv + ((int64_t)token * (h.heads + 2 * h.kv_heads) + unit) * h.head_dim;
#pragma unroll
  for (int i = 0; i < ROPE_PAIRS; i++) {
    int d = (threadIdx.x & 31) + 32 * i;
    low[i] = d < half ? x[d] : 0;
    high[i] = d < half ? x[half + d] : 0;
  }
}

/* A query's or key's head, normed and rotated. All that it reads is requested at once. */
__device__ __forceinline__ static void rotate_head(const rope_arguments &a, int token, int unit, int position, float low[ROPE_PAIRS],
                                                   float high[ROPE_PAIRS]) {
  const bpdq_cuda_heads &h = a.heads;
  int lane = threadIdx.x & 31, half = h.head_dim / 2;
  const float *norm = unit < h.heads ? a.rope.q_norm : a.rope.k_norm, *table = a.rope.table + (int64_t)position * h.head_dim;
  float cosines[ROPE_PAIRS], sines[ROPE_PAIRS], squares = 0;
#pragma unroll
  for (int i = 0; i < ROPE_PAIRS; i++) {
    int d = lane + 32 * i;
    cosines[i] = d < half ? table[d] : 0;
    sines[i] = d < half ? table[half + d] : 0;
  }
  load_head(a, token, unit, low, high);
  if (norm) {
#pragma unroll
    for (int i = 0; i < ROPE_PAIRS; i++) squares = fmaf(low[i], low[i], fmaf(high[i], high[i], squares));
    float factor = 1.0f / sqrtf(warp_sum(squares) / (float)h.head_dim + a.rope.epsilon);
#pragma unroll
    for (int i = 0; i < ROPE_PAIRS; i++) {
      int d = lane + 32 * i;
      if (d < half) low[i] *= factor * norm[d], high[i] *= factor * norm[half + d];
    }
  }
#pragma unroll
  for (int i = 0; i < ROPE_PAIRS; i++) {
    float first = low[i], second = high[i];
    low[i] = first * cosines[i] - second * sines[i];
    high[i] = second * cosines[i] + first * sines[i];
  }
}

__device__ static void put_head(float *target, int half, const float low[ROPE_PAIRS], const float high[ROPE_PAIRS]) {
#pragma unroll
  for (int i = 0; i < ROPE_PAIRS; i++) {
    int d = (threadIdx.x & 31) + 32 * i;
    if (d < half) target[d] = low[i], target[half + d] = high[i];
  }
}

#endif
