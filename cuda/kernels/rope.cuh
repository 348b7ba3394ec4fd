/* Rotary embedding, optional RMS norm of a head, and the writes to the caches: one warp per head and token. */
#ifndef BPDQ_CUDA_ROPE_CUH
#define BPDQ_CUDA_ROPE_CUH

#include "kernels/device.cuh"

typedef struct rope_arguments {
  bpdq_cuda_heads heads;
  bpdq_cuda_rope rope;
  bpdq_cuda_cache cache;
} rope_arguments;

__device__ static __half saturated_half(float value) { return __float2half(fminf(fmaxf(value, -65504.0f), 65504.0f)); }

__device__ static int8_t rounded_int8(float value) { return (int8_t)max(-127, min(127, __float2int_rn(value))); }

/* What rotations of this position read besides the heads, brought into the L2 cache by the block's threads. */
__device__ __forceinline__ static void prefetch_rotation(const rope_arguments &a, int position) {
  int at = threadIdx.x * 32; /* floats of a cache line */
  if (at >= a.heads.head_dim) return;
  prefetch_l2(a.rope.table + (int64_t)position * a.heads.head_dim + at);
  if (a.rope.q_norm) prefetch_l2(a.rope.q_norm + at);
  if (a.rope.k_norm) prefetch_l2(a.rope.k_norm + at);
}

/* A head's vector: a lane has the dims lane + 32 i (low) and half + lane + 32 i (high), i < PAIRS. head_dim <= 64 PAIRS. */
template <int PAIRS>
struct head_vector {
  float low[PAIRS], high[PAIRS];
  float cosines[PAIRS], sines[PAIRS], norm_low[PAIRS], norm_high[PAIRS]; /* queries and keys */

  /* Requests all that there is to read of head `unit` of q | k | v. */
  __device__ __forceinline__ void load(const rope_arguments &a, int token, int unit, int position) {
    const bpdq_cuda_heads &h = a.heads;
    int half = h.head_dim / 2;
    bool rotates = unit < h.heads + h.kv_heads;
    const float *x = a.rope.qkv + ((int64_t)token * (h.heads + 2 * h.kv_heads) + unit) * h.head_dim;
    const float *table = a.rope.table + (int64_t)position * h.head_dim, *norm = unit < h.heads ? a.rope.q_norm : a.rope.k_norm;
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
      int d = (threadIdx.x & 31) + 32 * i;
      bool there = d < half;
      low[i] = there ? __ldcg(x + d) : 0;
      high[i] = there ? __ldcg(x + half + d) : 0;
      cosines[i] = there && rotates ? table[d] : 0;
      sines[i] = there && rotates ? table[half + d] : 0;
      norm_low[i] = there && rotates && norm ? norm[d] : 1;
      norm_high[i] = there && rotates && norm ? norm[half + d] : 1;
    }
  }

  /* Norms, where there is one, and rotates. */
  __device__ __forceinline__ void rotate(const rope_arguments &a, bool is_key) {
    if (is_key ? a.rope.k_norm : a.rope.q_norm) {
      float squares = 0;
#pragma unroll
      for (int i = 0; i < PAIRS; i++) squares = fmaf(low[i], low[i], fmaf(high[i], high[i], squares));
      float factor = 1.0f / sqrtf(warp_sum(squares) / (float)a.heads.head_dim + a.rope.epsilon);
#pragma unroll
      for (int i = 0; i < PAIRS; i++) low[i] *= factor * norm_low[i], high[i] *= factor * norm_high[i];
    }
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
      float first = low[i], second = high[i];
      low[i] = first * cosines[i] - second * sines[i];
      high[i] = second * cosines[i] + first * sines[i];
    }
  }

  __device__ __forceinline__ void put(float *target, int half) const {
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
      int d = (threadIdx.x & 31) + 32 * i;
      if (d < half) target[d] = low[i], target[half + d] = high[i];
    }
  }

  /* The scale of an 8-bit cache for this vector, and 1 / scale or 0. */
  __device__ __forceinline__ void byte_scale(float *scale, float *inverse) const {
    float largest = 0;
#pragma unroll
    for (int i = 0; i < PAIRS; i++) largest = fmaxf(largest, fmaxf(fabsf(low[i]), fabsf(high[i])));
    largest = warp_max(largest);
    *scale = largest / 127.0f;
    *inverse = largest > 0 ? 127.0f / largest : 0;
  }

  /* To the cache of keys or values, at cache row `row` of kv head `head`. */
  __device__ __forceinline__ void store(const rope_arguments &a, bool key, int head, int64_t row) const {
    int lane = threadIdx.x & 31, half = a.heads.head_dim / 2;
    const bpdq_cuda_cache &c = a.cache;
    float scale, inverse = 1;
    if (c.type == BPDQ_CUDA_Q8) {
      byte_scale(&scale, &inverse);
      if (lane == 0) (key ? c.key_scales : c.value_scales)[head * c.rows + row] = scale;
    }
    int64_t index = key ? bpdq_cuda_key_index(head, row, c.rows, c.width) : bpdq_cuda_value_index(head, row, 0, c.rows, c.width);
    int step = key ? 1 : 32; /* from one dim to the next */
#pragma unroll
    for (int i = 0; i < PAIRS; i++)
#pragma unroll
      for (int upper = 0; upper < 2; upper++) {
        int d = lane + 32 * i;
        if (d >= half) continue;
        float value = upper ? high[i] : low[i];
        int64_t at = index + (d + upper * half) * step;
        if (c.type == BPDQ_CUDA_Q8)
          ((int8_t *)(key ? c.keys : c.values))[at] = rounded_int8(value * inverse);
        else
          ((__half *)(key ? c.keys : c.values))[at] = saturated_half(value);
      }
  }
};

#endif
