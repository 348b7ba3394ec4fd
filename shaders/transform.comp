#version 460
// output[token, 0:width] = transform(input[token]); one work group per row. With HALF the output is f16 for linear_matrix.comp: uint
// [tokens][y_stride], word 16 b + i holding columns 32 b + i (low half) and 32 b + i + 16, zeros past the width.
#extension GL_GOOGLE_include_directive : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 64; // a power of two
layout(constant_id = 1) const uint TRANSFORM = 0;
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Input { float x[]; };
layout(set = 0, binding = 2) readonly buffer Norm { float norm[]; };
#ifdef HALF
layout(set = 0, binding = 3) writeonly buffer Output { uint y[]; };
#else
layout(set = 0, binding = 3) writeonly buffer Output { float y[]; };
#endif
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
#ifdef HALF
  for (uint j = gl_LocalInvocationIndex; j < push.y_stride; j += THREADS) {
    uint column = j / 16 * 32 + j % 16;
    vec2 pair = vec2(transformed(base, push.width, column), transformed(base, push.width, column + 16));
    y[row * push.y_stride + j] = packHalf2x16(clamp(pair, -65504.0, 65504.0));
  }
#else
  for (uint j = gl_LocalInvocationIndex; j < push.width; j += THREADS) y[row * push.y_stride + j] = transformed(base, push.width, j);
#endif
}
