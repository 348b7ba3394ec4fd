#version 460
// One token times bit-planes by integer dot products: a plane word masked to one bit per byte times 4 packed activations. The masks of
// w and w >> 4 leave the bits at places 0..3 of their bytes, so that four accumulators need no further shift until a group ends.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_integer_dot_product : require
#extension GL_EXT_control_flow_attributes : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256;
layout(constant_id = 1) const uint ROWS = 8; // of a work group; a multiple of 8 that divides THREADS
layout(constant_id = 2) const uint PLANES = 2;
layout(constant_id = 3) const uint GROUP = 64;
layout(constant_id = 4) const uint NUMBER = 2;
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Matrix { uvec4 matrix[]; };
layout(set = 0, binding = 2) readonly buffer Coefficients { uint coefficients[]; };
layout(set = 0, binding = 3) readonly buffer Input { uvec4 x[]; }; // quantize.comp
layout(set = 0, binding = 4) readonly buffer Scales { vec2 scales[]; };
layout(set = 0, binding = 5) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 6) buffer Output { float y[]; };
const uint SLICES = THREADS / ROWS;
#ifdef ACTIVATION_16
const uint BYTES = 2;
#else
const uint BYTES = 1;
#endif
shared float reduction[THREADS];
#include "linear.glsl"
#include "planes.glsl"

float block_product(uint tile, uint r, uint block, uint token) {
  uvec4 words[PLANES];
  [[unroll]] for (uint p = 0; p < PLANES; p++) words[p] = matrix[((tile * push.blocks + block) * PLANES + p) * 8 + r];
  ivec4 sums[PLANES * BYTES];
  [[unroll]] for (uint p = 0; p < PLANES * BYTES; p++) sums[p] = ivec4(0);
  float result = 0.0;
  uint row = token * push.blocks * 8 * BYTES;
  [[unroll]] for (uint j = 0; j < 4; j++) {
    [[unroll]] for (uint h = 0; h < 2; h++)
      [[unroll]] for (uint part = 0; part < BYTES; part++) {
        uvec4 packed_x = x[row + (part * 8 + 2 * j + h) * push.blocks + block];
        [[unroll]] for (uint p = 0; p < PLANES; p++) {
          uint word = words[p][j] >> (4 * h);
          ivec4 masked = ivec4(word & 0x01010101u, word & 0x02020202u, word & 0x04040404u, word & 0x08080808u);
          [[unroll]] for (uint b = 0; b < 4; b++) sums[p * BYTES + part][b] += dotPacked4x8EXT(int(packed_x[b]), masked[b]);
        }
      }
    if ((j + 1) % RUN_WORDS == 0) {
      uint word = block * 4 + j, slot = tile * push.groups + word / GROUP_WORDS;
      vec2 scale = scales[token * push.groups + word / GROUP_WORDS];
      float total = 0.0;
      [[unroll]] for (uint p = 0; p < PLANES; p++) {
        ivec4 s = sums[p * BYTES];
        int value = s.x + (s.y >> 1) + (s.z >> 2) + (s.w >> 3);
#ifdef ACTIVATION_16
        ivec4 low = sums[p * BYTES + 1];
        value = value * 256 + low.x + (low.y >> 1) + (low.z >> 2) + (low.w >> 3);
        sums[p * BYTES + 1] = ivec4(0);
#endif
        sums[p * BYTES] = ivec4(0);
        total += coefficient(slot, p, r) * float(value);
      }
      result += scale.x * total;
      // The group's sum of activations enters once, with the group's last word of this matrix.
      if (word % GROUP_WORDS == GROUP_WORDS - 1) result += coefficient(slot, PLANES, r) * scale.y;
    }
  }
  return result;
}

void main() {
  uint thread = gl_LocalInvocationIndex, slice = thread / ROWS, row = gl_WorkGroupID.x * ROWS + thread % ROWS;
  uint tile = min(row, push.rows - 1) >> 3;
  float result = 0.0;
  for (uint block = slice; block < push.blocks; block += SLICES) result += block_product(tile, row & 7, block, gl_WorkGroupID.y);
  reduction[thread] = result;
  barrier();
  if (slice == 0 && row < push.rows) {
    for (uint i = 1; i < SLICES; i++) result += reduction[thread + i * ROWS];
    store(gl_WorkGroupID.y, row, result);
  }
}
