#version 460
// An input row, after its transform, as integers with one scale per group: one work group per group and row.
//   int8:  value = scale * q,                q in -127..127
//   int16: value = scale * (256 hi + lo),    hi and lo signed bytes
// Bytes are packed for products with masked plane words: uint b of a word's 8 holds columns b, b + 8, b + 16, b + 24. The order is
// uvec4 [8 (then 8 for lo)][blocks], component and index giving word and b: neighbouring blocks lie side by side.
#extension GL_GOOGLE_include_directive : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 64; // a power of two, at least a quarter of the largest group
layout(constant_id = 1) const uint GROUP = 64;
layout(constant_id = 2) const uint TRANSFORM = 0;
layout(constant_id = 3) const uint WIDE = 0; // 1: 16 bits
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Input { float x[]; };
layout(set = 0, binding = 2) readonly buffer Norm { float norm[]; };
layout(set = 0, binding = 3) writeonly buffer Packed { uint packed_bytes[]; };
layout(set = 0, binding = 4) writeonly buffer Scales { vec2 scales[]; }; // [rows][groups]: scale, sum of the group's dequantized values
layout(push_constant) uniform Push {
  uint columns, blocks, groups, x_stride;
  uint last; // 1: only the run's last row
  float epsilon;
} push;
shared float reduction[THREADS];
shared float values[GROUP];
shared int integers[GROUP];
#include "transform.glsl"

uint pack(uint first, bool low) {
  uint word = 0;
  for (uint i = 0; i < 4; i++) {
    int value = integers[first + 8 * i];
    int lo = bitfieldExtract(value, 0, 8);
    if (WIDE != 0) value = low ? lo : (value - lo) / 256;
    word |= uint(value & 255) << (8 * i);
  }
  return word;
}

void main() {
  uint thread = gl_LocalInvocationIndex, group = gl_WorkGroupID.x, token = gl_WorkGroupID.y;
  uint base = (push.last != 0 ? run.tokens - 1 : token) * push.x_stride;
  transform_start(base, push.columns, push.epsilon);
  float largest = 0.0;
  for (uint j = thread; j < GROUP; j += THREADS) {
    values[j] = transformed(base, push.columns, group * GROUP + j);
    largest = max(largest, abs(values[j]));
  }
  reduction[thread] = largest;
  barrier();
  for (uint step = THREADS / 2; step > 0; step >>= 1) {
    if (thread < step) reduction[thread] = max(reduction[thread], reduction[thread + step]);
    barrier();
  }
  float range = WIDE != 0 ? 32512.0 : 127.0; // 127 * 256: the high byte stays in -127..127
  float scale = reduction[0] / range, inverse = reduction[0] > 0.0 ? range / reduction[0] : 0.0;
  barrier();
  float sum = 0.0;
  for (uint j = thread; j < GROUP; j += THREADS) {
    integers[j] = int(clamp(roundEven(values[j] * inverse), -range, range));
    sum += float(integers[j]);
  }
  reduction[thread] = sum;
  barrier();
  for (uint step = THREADS / 2; step > 0; step >>= 1) {
    if (thread < step) reduction[thread] += reduction[thread + step];
    barrier();
  }
  if (thread == 0) scales[token * push.groups + group] = vec2(scale, scale * reduction[0]);
  uint word = group * (GROUP / 32) + thread / 8, b = thread % 8;
  if (thread >= GROUP / 4 || word >= push.blocks * 4) return;
  uint row_words = push.blocks * (WIDE != 0 ? 64 : 32), index = 2 * (word % 4) + b / 4;
  uint at = token * row_words + (index * push.blocks + word / 4) * 4 + b % 4;
  packed_bytes[at] = pack(thread / 8 * 32 + b, false);
  if (WIDE != 0) packed_bytes[at + push.blocks * 32] = pack(thread / 8 * 32 + b, true);
}
