#version 460
// Rows of a batch times a dense matrix of 8-bit weights (repack_head.comp) by integer dot products: BATCH rows share one reading of the
// weights. Their 16-bit integers (prepared.glsl in plain order, the same as linear_head.comp makes for one row) come from quantize.comp,
// because shared memory has no room for those of 8 rows. Each 32 threads take 4 rows of the matrix, so that what they read of the input
// is no more than a few times what they read of the weights.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_integer_dot_product : require
#extension GL_EXT_control_flow_attributes : require
#ifdef SUBGROUP // of at least 32
#extension GL_KHR_shader_subgroup_shuffle : require
#define UNROLL [[unroll]]
#else
#define UNROLL
#endif
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256; // a power of two, at least 32
layout(constant_id = 1) const uint WORDS = 16;    // 16 columns each, of a row; a multiple of 4
layout(constant_id = 2) const uint TRANSFORM = 0;
layout(constant_id = 3) const uint BATCH = 8; // rows per work group
#include "run.glsl"
layout(set = 0, binding = 1) readonly restrict buffer Matrix { uvec4 matrix[]; };
layout(set = 0, binding = 2) readonly restrict buffer Scales { uint scales[]; };
layout(set = 0, binding = 3) readonly restrict buffer Prepared { uvec4 prepared[]; };
layout(set = 0, binding = 5) readonly restrict buffer Bias { float bias[]; };
layout(set = 0, binding = 6) restrict buffer Output { float y[]; };
#include "linear.glsl"
const uint REPEAT = 4;
const uint BYTES = 2;
const uint BLOCKS = (WORDS + 7) / 8; // of 128 columns
#define PLAIN_ORDER
#include "prepared.glsl"
#ifndef SUBGROUP
shared float reduction[THREADS];
#endif
#include "linear_head.glsl"

// 1 / rms of a row that begins at uvec4 `base`; in lane 0 at least. All threads of the work group must call it.
float prepared_factor(uint base, uint lane) {
  vec4 sums = vec4(0);
  for (uint i = lane; i < BLOCKS; i += LANES) sums += uintBitsToFloat(prepared[base + squares_at(BLOCKS) + i]);
  return inversesqrt(add_lanes(sums.x + sums.y + sums.z + sums.w) / float(push.columns) + push.epsilon);
}

// Of columns 16 j..16 j + 15.
float prepared_scale(uint base, uint j) {
  uvec4 pair = prepared[base + scales_at(BLOCKS) + j / 4]; // scales and sums of two words of 32 columns
  return uintBitsToFloat((j & 2) != 0 ? pair.z : pair.x);
}

void main() {
  uint thread = gl_LocalInvocationIndex, lane = thread % LANES;
  uint first = (gl_WorkGroupID.x * (THREADS / LANES) + thread / LANES) * REPEAT;
  uint first_token = gl_WorkGroupID.y * BATCH, count = output_rows();
  uint bases[BATCH];
  float factors[BATCH], results[REPEAT * BATCH];
  UNROLL for (uint t = 0; t < BATCH; t++) {
    bases[t] = min(first_token + t, count - 1) * prepared_row(BLOCKS);
    factors[t] = TRANSFORM == 1 ? prepared_factor(bases[t], lane) : 1.0;
    UNROLL for (uint i = 0; i < REPEAT; i++) results[i * BATCH + t] = 0.0;
  }
  for (uint j = lane; j < WORDS; j += LANES) {
    uvec4 weights[REPEAT];
    float weight_scales[REPEAT];
    UNROLL for (uint i = 0; i < REPEAT; i++) {
      uint row = min(first + i, push.rows - 1), pair = scales[row * (WORDS / 4) + j / 4];
      weights[i] = matrix[row * WORDS + j];
      weight_scales[i] = uintBitsToFloat((j & 2) != 0 ? pair & 0xffff0000u : pair << 16);
    }
    UNROLL for (uint t = 0; t < BATCH; t++) {
      uvec4 high = prepared[bases[t] + j], low = prepared[bases[t] + BLOCKS * 8 + j];
      float scale = prepared_scale(bases[t], j);
      UNROLL for (uint i = 0; i < REPEAT; i++) results[i * BATCH + t] += scale * weight_scales[i] * product(weights[i], high, low);
    }
  }
  UNROLL for (uint t = 0; t < BATCH; t++)
    UNROLL for (uint i = 0; i < REPEAT; i++) {
      float result = add_lanes(results[i * BATCH + t]);
      if (lane == 0 && first + i < push.rows && first_token + t < count) store(first_token + t, first + i, result * factors[t]);
    }
}
