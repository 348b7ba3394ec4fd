/* What the attention kernels share: their f16 operands, and merging the sums of several splits of the positions. */
#ifndef BPDQ_CUDA_ATTENTION_CUH
#define BPDQ_CUDA_ATTENTION_CUH

#include "kernels/rope.cuh"

#define MAX_SPLITS 64
#define VALUE_GAIN 256.0f /* keeps probability * scale of an 8-bit cache in the normal range of f16 */

__device__ __forceinline__ static uint32_t pack_halves(float a, float b) {
  __half2 pair = __floats2half2_rn(a, b);
  return *reinterpret_cast<uint32_t *>(&pair);
}
/* What is left of (a, b) after rounding to f16. */
__device__ __forceinline__ static uint32_t pack_rest(float a, float b, uint32_t rounded) {
  float2 used = pair_to_floats<false>(rounded);
  return pack_halves(a - used.x, b - used.y);
}

/* Four int8 to four f16: bytes offset by 128 below the exponent of 1024. */
__device__ __forceinline__ static uint2 expand_int8(uint32_t bytes) {
  uint32_t offset = bytes ^ 0x80808080u, low = __byte_perm(offset, 0x64646464u, 0x4140), high = __byte_perm(offset, 0x64646464u, 0x4342);
  const __half2 bias = __floats2half2_rn(1152.0f, 1152.0f);
  __half2 a = __hsub2(*reinterpret_cast<__half2 *>(&low), bias), b = __hsub2(*reinterpret_cast<__half2 *>(&high), bias);
  return make_uint2(*reinterpret_cast<uint32_t *>(&a), *reinterpret_cast<uint32_t *>(&b));
}

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

/* Few tokens, rotation and cache writes included (attention_decode.cu). `scale` is that of the scores, times log2(e). */
uint64_t attention_decode_scratch(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads);
cudaError_t launch_attention_decode(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, const bpdq_cuda_rope *rope, float scale,
                                    const bpdq_cuda_cache *cache, void *scratch, float *output);

#endif
