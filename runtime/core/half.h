/* bfloat16 and IEEE half precision: bit patterns to float and back, round to nearest even. */
#ifndef BPDQ_CORE_HALF_H
#define BPDQ_CORE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float bpdq_float_from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t bpdq_bits_from_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float bpdq_bf16_to_float(uint16_t bits) { return bpdq_float_from_bits((uint32_t)bits << 16); }

static inline uint16_t bpdq_float_to_bf16(float value) {
  uint32_t bits = bpdq_bits_from_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u); /* keep NaN a NaN */
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return (uint16_t)(bits >> 16);
}

static inline float bpdq_f16_to_float(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
  uint32_t magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) return bpdq_float_from_bits(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  if (magnitude >= 0x0400u) return bpdq_float_from_bits(sign | ((magnitude << 13) + 0x38000000u));
  float subnormal = (float)magnitude * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

static inline uint16_t bpdq_float_to_f16(float value) {
  uint32_t bits = bpdq_bits_from_float(value);
  uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
  if (magnitude < 0x38800000u) {
    /* Subnormal result: adding 0.5 aligns the value so that the float rounding is the half rounding. */
    float aligned = bpdq_float_from_bits(magnitude) + 0.5f;
    return (uint16_t)(sign | (uint16_t)(bpdq_bits_from_float(aligned) - 0x3f000000u));
  }
  uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return (uint16_t)(sign | (uint16_t)((rounded - 0x38000000u) >> 13));
}

#endif
