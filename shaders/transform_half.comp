#version 460
// output[token, 0:width] = transform(input[token]) as f16 for linear_matrix.comp: uint [tokens][y_stride], word 16 b + i holding columns
// 32 b + i (low half) and 32 b + i + 16, zeros past the width. Work groups: tokens, and (without a norm, which needs the whole row) shares
// of a row. A thread reads twice four columns and writes 16 bytes.
#extension GL_GOOGLE_include_directive : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256; // a power of two
layout(constant_id = 1) const uint TRANSFORM = 0;
layout(constant_id = 2) const uint QUADS = 1; // width and strides are multiples of four
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Input { float x[]; };
layout(set = 0, binding = 1) readonly buffer Input4 { vec4 x4[]; };
layout(set = 0, binding = 2) readonly buffer Norm { float norm[]; };
layout(set = 0, binding = 3) writeonly buffer Output { uvec4 y[]; };
layout(push_constant) uniform Push {
  uint width;
  uint x_stride, y_stride;
  float epsilon;
} push;
shared float reduction[THREADS];
#include "transform.glsl"

vec4 four(uint base, uint column) {
  if (QUADS != 0) {
    if (column >= push.width) return vec4(0);
    vec4 value = x4[(base + column) / 4];
    if (TRANSFORM == 1) value *= row_factor * vec4(norm[column], norm[column + 1], norm[column + 2], norm[column + 3]);
    if (TRANSFORM == 2) value = value / (1.0 + exp(-value)) * x4[(base + push.width + column) / 4];
    return value;
  }
  return vec4(transformed(base, push.width, column), transformed(base, push.width, column + 1), transformed(base, push.width, column + 2),
              transformed(base, push.width, column + 3));
}

uint halves(float low, float high) { return packHalf2x16(clamp(vec2(low, high), -65504.0, 65504.0)); }

void main() {
  uint row = gl_WorkGroupID.x, base = row * push.x_stride, count = push.y_stride / 4;
  transform_start(base, push.width, push.epsilon);
  for (uint i = gl_WorkGroupID.y * THREADS + gl_LocalInvocationIndex; i < count; i += gl_NumWorkGroups.y * THREADS) {
    uint column = i / 4 * 32 + i % 4 * 4;
    vec4 low = four(base, column), high = four(base, column + 16);
    y[row * count + i] = uvec4(halves(low.x, high.x), halves(low.y, high.y), halves(low.z, high.z), halves(low.w, high.w));
  }
}
