#version 460
// Merges attention over parts of the context: f32 [tokens][heads][splits][maximum, sum, HEAD_DIM weighted values] to y [tokens][heads * HEAD_DIM].
#extension GL_GOOGLE_include_directive : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint HEAD_DIM = 128;
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Partial { float partial[]; };
layout(set = 0, binding = 2) writeonly buffer Output { float y[]; };
layout(push_constant) uniform Push {
  uint heads, y_stride;
} push;

void main() {
  uint head = gl_WorkGroupID.x, token = gl_WorkGroupID.y, base = (token * push.heads + head) * run.splits * (HEAD_DIM + 2);
  float maximum = -3.0e38, sum = 0.0;
  for (uint i = 0; i < run.splits; i++)
    if (partial[base + i * (HEAD_DIM + 2) + 1] > 0.0) maximum = max(maximum, partial[base + i * (HEAD_DIM + 2)]);
  for (uint i = 0; i < run.splits; i++) {
    uint at = base + i * (HEAD_DIM + 2);
    if (partial[at + 1] > 0.0) sum += partial[at + 1] * exp(partial[at] - maximum);
  }
  for (uint d = gl_LocalInvocationIndex; d < HEAD_DIM; d += THREADS) {
    float total = 0.0;
    for (uint i = 0; i < run.splits; i++) {
      uint at = base + i * (HEAD_DIM + 2);
      if (partial[at + 1] > 0.0) total += partial[at + 2 + d] * exp(partial[at] - maximum);
    }
    y[token * push.y_stride + head * HEAD_DIM + d] = total / sum;
  }
}
