#version 460
// An input, after its transform, as integers for linear_dot.comp, or with PLAIN_ORDER for linear_head_batch.comp: a work group takes
// THREADS / 8 words of 32 columns of a row.
#extension GL_GOOGLE_include_directive : require
#define UNROLL
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 64; // a multiple of 8
layout(constant_id = 1) const uint TRANSFORM = 0;
layout(constant_id = 2) const uint BYTES = 1;
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Input { float x[]; };
layout(set = 0, binding = 2) readonly buffer Norm { float norm[]; };
layout(set = 0, binding = 3) writeonly buffer Next { uint next[]; };
layout(push_constant) uniform Push {
  uint columns, blocks, x_stride;
  uint last; // 1: only the run's last row
} push;
const float RANGE = BYTES == 2 ? 32512.0 : 127.0; // 127 * 256: the high byte stays in -127..127
shared float reduction[THREADS];
#include "transform.glsl"
#include "integers.glsl"
#include "prepared.glsl"
#include "put_prepared.glsl"

void main() {
  uint item = gl_WorkGroupID.x * THREADS + gl_LocalInvocationIndex, word = item / 8, b = item % 8, token = gl_WorkGroupID.y;
  uint base = (push.last != 0 ? run.tokens - 1 : token) * push.x_stride;
  float values[4], squares = 0.0;
  for (uint j = 0; j < 4; j++) {
    uint column = column_of(item, j);
    values[j] = transformed(base, push.columns, column); // row_factor is still 1
    if (TRANSFORM == 1 && column < push.columns) squares += x[base + column] * x[base + column];
  }
  Integers integers = to_integers(values);
  squares = cluster_sum(squares, 8);
  if (word >= push.blocks * 4) return;
  put_prepared(token * prepared_row(push.blocks), push.blocks, word, b, integers, squares);
}
