/* Device code that several kernels share: the levels of a group, the nearest of them, bf16 rounding, and launches by plane count. */
#ifndef BPDQ_QUANTIZER_CUDA_LEVELS_CUH
#define BPDQ_QUANTIZER_CUDA_LEVELS_CUH

#include "kernels.h"

enum { SUB_BLOCK = 16 }; /* columns whose values one thread holds in registers; divides every group */

static __device__ __forceinline__ float round_to_bf16(float value) {
  unsigned bits = __float_as_uint(value);
  return __uint_as_float((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

/* Value of a code; the same order of additions as load_levels, so that equal codes give equal bits. */
static __device__ __forceinline__ float level_value(const float *coefficients, int64_t stride, int planes, unsigned code) {
  float value = coefficients[planes * stride];
  for (int p = 0; p < planes; p++)
    if (code >> p & 1u) value += coefficients[p * stride];
  return value;
}

/* levels[code] from the coefficients of one row at distance `stride`. */
template <int PLANES>
static __device__ __forceinline__ void load_levels(const float *coefficients, int64_t stride, float (&levels)[1 << PLANES]) {
  levels[0] = coefficients[PLANES * stride];
#pragma unroll
  for (int p = 0; p < PLANES; p++) {
    float step = coefficients[p * stride];
#pragma unroll
    for (int code = 0; code < 1 << p; code++) levels[code + (1 << p)] = levels[code] + step;
  }
}

/* Takes the level nearest to `value` over from `nearest` where it is strictly closer. */
template <int PLANES>
static __device__ __forceinline__ void find_nearest(const float (&levels)[1 << PLANES], float value, float &nearest, int &code) {
  float distance = fabsf(value - nearest);
  constexpr int UNROLL = PLANES <= 4 ? 1 << PLANES : 1;
#pragma unroll UNROLL
  for (int level = 0; level < 1 << PLANES; level++) {
    float other = fabsf(value - levels[level]);
    bool closer = other < distance;
    code = closer ? level : code;
    nearest = closer ? levels[level] : nearest;
    distance = closer ? other : distance;
  }
}

/* Sixteen consecutive values; `row` is aligned to sixteen bytes. */
static __device__ __forceinline__ void load_sub_block(const float *row, float (&out)[SUB_BLOCK]) {
#pragma unroll
  for (int i = 0; i < SUB_BLOCK; i += 4) {
    float4 four = *(const float4 *)(row + i);
    out[i] = four.x;
    out[i + 1] = four.y;
    out[i + 2] = four.z;
    out[i + 3] = four.w;
  }
}

/* Runs `expression` with PLANES as a constant. */
#define BPDQ_GPU_FOR_PLANES(planes, expression) \
  switch (planes) {                             \
    case 1: {                                   \
      constexpr int PLANES = 1;                 \
      expression;                               \
      break;                                    \
    }                                           \
    case 2: {                                   \
      constexpr int PLANES = 2;                 \
      expression;                               \
      break;                                    \
    }                                           \
    case 3: {                                   \
      constexpr int PLANES = 3;                 \
      expression;                               \
      break;                                    \
    }                                           \
    case 4: {                                   \
      constexpr int PLANES = 4;                 \
      expression;                               \
      break;                                    \
    }                                           \
    case 5: {                                   \
      constexpr int PLANES = 5;                 \
      expression;                               \
      break;                                    \
    }                                           \
    case 6: {                                   \
      constexpr int PLANES = 6;                 \
      expression;                               \
      break;                                    \
    }                                           \
    case 7: {                                   \
      constexpr int PLANES = 7;                 \
      expression;                               \
      break;                                    \
    }                                           \
    case 8: {                                   \
      constexpr int PLANES = 8;                 \
      expression;                               \
      break;                                    \
    }                                           \
    default:                                    \
      return cudaErrorInvalidValue;             \
  }

#endif
