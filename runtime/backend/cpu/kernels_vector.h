/* Vectors of KERNEL_LANES f32 in the compilers' own vector types, so that most kernels are written once. Included by kernels_*.c after
 * KERNEL_LANES is defined; load_f16,
 * store_f16_vector and load_int8 come from the instruction set (compilers widen bytes badly). */
#include <stdint.h>
#include <string.h>

#if defined(__clang__)
#if __has_feature(undefined_behavior_sanitizer)
#define UNROLL(n) /* clang takes minutes over instrumented unrolled loops */
#else
#define UNROLL(n) _Pragma("clang loop unroll(full)")
#endif
#else
#define UNROLL_PRAGMA(text) _Pragma(#text)
#define UNROLL(n) UNROLL_PRAGMA(GCC unroll n)
#endif

typedef float vf __attribute__((vector_size(4 * KERNEL_LANES)));
typedef int32_t vi __attribute__((vector_size(4 * KERNEL_LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * KERNEL_LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * KERNEL_LANES)));

static inline vf load_f32(const float *data) {
  vf value;
  memcpy(&value, data, sizeof value);
  return value;
}

static inline void store_f32(float *data, vf value) { memcpy(data, &value, sizeof value); }

static inline vu load_u32(const uint32_t *data) {
  vu value;
  memcpy(&value, data, sizeof value);
  return value;
}

static inline vf broadcast(float value) { return value - (vf){0}; }

static inline vf load_bf16(const uint8_t *data) {
  vh halves;
  memcpy(&halves, data, sizeof halves);
  return (vf)(__builtin_convertvector(halves, vu) << 16);
}

static inline vf choose(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }

static inline float sum_lanes(vf value) {
  float lanes[KERNEL_LANES];
  memcpy(lanes, &value, sizeof lanes);
  for (int step = KERNEL_LANES / 2; step > 0; step /= 2)
    for (int i = 0; i < step; i++) lanes[i] += lanes[i + step];
  return lanes[0];
}

/* e^x to 2 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial for e^r (coefficients: Cephes expf), and n put into the exponent. Below
 * -87.3 exactly 0, above 88 about 1.6e38; NaN stays NaN. */
static inline vf exponential(vf x) {
  const vf shift = broadcast(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
  vf bounded = choose(x > broadcast(88.0f), broadcast(88.0f), x);
  vf shifted = bounded * 1.44269504f + shift;
  vf n = shifted - shift;
  vf r = bounded - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  vf scale = (vf)(((vu)shifted << 23) + 0x3f800000u); /* unsigned: far below -87.3 it wraps, and is not used */
  return choose(x < broadcast(-87.3f), (vf){0}, p * scale);
}
