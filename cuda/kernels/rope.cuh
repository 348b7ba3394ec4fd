/* Rotary embedding, optional RMS norm of a head, and the writes to the caches: one warp per head and token. */
#ifndef BPDQ_CUDA_ROPE_CUH
#define BPDQ_CUDA_ROPE_CUH

#include "kernels/device.cuh"

#include <type_traits>

typedef struct rope_arguments {
  bpdq_cuda_heads heads;
  bpdq_cuda_rope rope;
  bpdq_cuda_cache cache;
} rope_arguments;

/* A row of the caches, as one warp writes it. */
template <bool Q8>
struct cache_row_writer {
  typedef typename std::conditional<Q8, int8_t, __half>::type element;
  element *first; /* of dim 0 */
  float *scale;
  int step; /* elements from one dim to the next */

  __device__ __forceinline__ cache_row_writer(const rope_arguments &a, bool key, int head, int64_t row) {
    const bpdq_cuda_cache &c = a.cache;
    first = (element *)(key ? c.keys : c.values) +
            (key ? bpdq_cuda_key_index(head, row, c.rows, c.width) : bpdq_cuda_value_index(head, row, 0, c.rows, c.width));
    scale = (key ? c.key_scales : c.value_scales) + head * c.rows + row;
    step = key ? 1 : 32;
  }
  __device__ __forceinline__ static element round(float value, float inverse) {
    if constexpr (Q8)
      return (int8_t)max(-127, min(127, __float2int_rn(value * inverse)));
    else
      return __float2half(fminf(fmaxf(value, -65504.0f), 65504.0f));
  }
  __device__ __forceinline__ void put(int dim, element rounded) const { first[dim * step] = rounded; }
  __device__ __forceinline__ void put_scale(float value) const { *scale = value; }
};

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

  /* action(dim, value) for each dim of the lane. */
  template <typename Action>
  __device__ __forceinline__ void for_each(int half, Action action) const {
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
      int d = (threadIdx.x & 31) + 32 * i;
      if (d < half) {
        action(d, low[i]);
        action(half + d, high[i]);
      }
    }
  }

  /* The scale of an 8-bit cache for this vector; *inverse is 1 / scale or 0. */
  __device__ __forceinline__ float byte_scale(float *inverse) const {
    float largest = 0;
#pragma unroll
    for (int i = 0; i < PAIRS; i++) largest = fmaxf(largest, fmaxf(fabsf(low[i]), fabsf(high[i])));
    largest = warp_max(largest);
    *inverse = largest > 0 ? 127.0f / largest : 0;
    return largest / 127.0f;
  }
};

#endif
