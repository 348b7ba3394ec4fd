#version 460
// output[token, 0:width] = transform(input[token]); one work group per row.
#extension GL_GOOGLE_include_directive : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 64; // a power of two
layout(constant_id = 1) const uint TRANSFORM = 0;
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Input { float x[]; };
layout(set = 0, binding = 2) readonly buffer Norm { float norm[]; };
layout(set = 0, binding = 3) writeonly buffer Output { float y[]; };
layout(push_constant) uniform Push {
  uint width;
  uint x_stride, y_stride;
  float epsilon;
} push;
shared float reduction[THREADS];
#include "transform.glsl"

void main() {
  uint row = gl_WorkGroupID.x, base = row * push.x_stride;
  transform_start(base, push.width, push.epsilon);
  for (uint j = gl_LocalInvocationIndex; j < push.width; j += THREADS) y[row * push.y_stride + j] = transformed(base, push.width, j);
}
