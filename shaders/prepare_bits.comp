#version 460
// An input, after its transform, as linear_bits.comp takes it (bits.glsl), or with HEAD as linear_head_matrix.comp does (head_matrix.glsl).
// Work groups: shares of a row, tokens. For a norm each of them reads the whole row.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_shuffle : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256; // a power of two, 32 at least
layout(constant_id = 1) const uint TRANSFORM = 0;
layout(constant_id = 2) const uint GROUP = 128;
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Input { float x[]; };
layout(set = 0, binding = 2) readonly buffer Norm { float norm[]; };
layout(set = 0, binding = 3) writeonly buffer Halves { uint halves[]; };
layout(set = 0, binding = 3) writeonly buffer Sums { float sums[]; };
layout(push_constant) uniform Push {
  uint columns;
  uint items; // of a token tile
  uint x_stride;
  float epsilon;
} push;
shared float reduction[THREADS];
#include "transform.glsl"
#ifdef HEAD
#include "head_matrix.glsl"
#else
#include "block_runs.glsl"
#include "bits.glsl"
#endif

float sum_of(float value, uint threads) {
  [[unroll]] for (uint i = 1; i < threads; i <<= 1) value += subgroupShuffleXor(value, i);
  return value;
}

uint pack(vec2 values, float factor) { return packHalf2x16(clamp(values, -65504.0, 65504.0) * factor); }

#ifdef HEAD
// 2 threads have a group of 32 columns of a token, 16 columns each.
void prepare(uint base, uint token, uint thread) {
  uint item = thread / 4, q = thread % 4, to = (token / 8 * push.items + item) * ITEM;
  float sum = 0.0;
  [[unroll]] for (uint i = 0; i < 8; i++) {
    uint column = item * 64 + q * 16 + first_of_pair(i);
    uint pair = pack(vec2(transformed(base, push.columns, column), transformed(base, push.columns, column + 2)), 1.0);
    if (item < push.items) halves[(to + i / 4 * 32 + token % 8 * 4 + q) * 4 + i % 4] = pair;
    vec2 rounded = unpackHalf2x16(pair);
    sum += rounded.x + rounded.y;
  }
  sum = sum_of(sum, 2);
  if (q % 2 == 0 && item < push.items) sums[(to + 64 + q) * 4 + token % 8] = sum;
}
#else
// 32 threads have a block of a token, two pairs of columns each.
void prepare(uint base, uint token, uint thread) {
  uint item = thread / 32, run = thread % 32 / (32 / RUNS), q = thread % (32 / RUNS) / MATRICES, i = thread % MATRICES;
  uint matrix = run * MATRICES + i, to = (token / 8 * push.items + item) * ITEM;
  float sum = 0.0;
  [[unroll]] for (uint j = 0; j < 2; j++) {
    uint pair = 2 * i + j, column = item * 128 + word_of_run(run, q) * 32 + first_pair(q) + pair;
    vec2 values = vec2(transformed(base, push.columns, column), transformed(base, push.columns, column + 16));
    sum += values.x + values.y;
    if (item < push.items)
      halves[(to + matrix / 2 * 32 + token % 8 * 4 + q) * 4 + matrix % 2 * 2 + j] = pack(values, 1.0 / float(1 << place_of_pair(pair) - 5));
  }
  sum = sum_of(sum, 32 / RUNS);
  if (thread % (32 / RUNS) == 0 && item < push.items) sums[(to + 128 + run * 2) * 4 + token % 8] = sum * UNIT;
}
#endif

void main() {
  uint token = gl_WorkGroupID.y, base = token * push.x_stride;
  transform_start(base, push.columns, push.epsilon);
  prepare(base, token, gl_WorkGroupID.x * THREADS + gl_LocalInvocationIndex);
}
