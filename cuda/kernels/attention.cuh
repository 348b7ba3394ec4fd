/* What the attention kernels share: their f16 operands. */
#ifndef BPDQ_CUDA_ATTENTION_CUH
#define BPDQ_CUDA_ATTENTION_CUH

#include "kernels/rope.cuh"

#define LOG2_E 1.44269504f
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

#endif
