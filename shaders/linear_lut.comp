#version 460
// One token times bit-planes by table lookup, with exact f32 activations and no optional feature: every 4 activations give a table of
// their 16 partial sums, and each 4 bits of a plane are one lookup. Tables are shared by the rows of the work group; its threads split K
// into slices of one block each, so that neighbouring threads look into the same table (16 banks, no conflict).
#extension GL_GOOGLE_include_directive : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256; // a power of two
layout(constant_id = 1) const uint ROWS = 64;     // of a work group; a multiple of 8 that divides THREADS
layout(constant_id = 2) const uint PLANES = 2;
layout(constant_id = 3) const uint GROUP = 64;
layout(constant_id = 4) const uint NUMBER = 2;
layout(constant_id = 5) const uint TRANSFORM = 0;
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Matrix { uvec4 matrix[]; };
layout(set = 0, binding = 2) readonly buffer Coefficients { uint coefficients[]; };
layout(set = 0, binding = 3) readonly buffer Input { float x[]; };
layout(set = 0, binding = 4) readonly buffer Norm { float norm[]; };
layout(set = 0, binding = 5) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 6) buffer Output { float y[]; };
const uint SLICES = THREADS / ROWS;
shared float reduction[THREADS];
shared float table[SLICES * 32 * 16]; // [block in step][4 columns][16 sums]
shared float sums[SLICES * 4];        // of 32 activations
#include "linear.glsl"
#include "planes.glsl"
#include "transform.glsl"

// Tables of the blocks first .. first + SLICES - 1; two threads make one.
void make_tables(uint base, uint first) {
  for (uint i = gl_LocalInvocationIndex; i < SLICES * 64; i += THREADS) {
    uint quad = i >> 1, column = first * 128 + quad * 4, at = quad * 16 + (i & 1) * 8;
    float a = transformed(base, push.columns, column), b = transformed(base, push.columns, column + 1);
    float c = transformed(base, push.columns, column + 2), d = transformed(base, push.columns, column + 3);
    float start = (i & 1) != 0 ? d : 0.0;
    table[at] = start;
    table[at + 1] = start + a;
    table[at + 2] = start + b;
    table[at + 3] = start + a + b;
    table[at + 4] = start + c;
    table[at + 5] = start + a + c;
    table[at + 6] = start + b + c;
    table[at + 7] = start + a + b + c;
  }
  barrier();
  for (uint i = gl_LocalInvocationIndex; i < SLICES * 4; i += THREADS) {
    float sum = 0.0;
    for (uint j = 0; j < 8; j++) sum += table[(i * 8 + j) * 16 + 15];
    sums[i] = sum;
  }
  barrier();
}

// The product of one block of a row.
float block_product(uint tile, uint r, uint block, uint slice) {
  float result = 0.0;
  for (uint p = 0; p < PLANES; p++) {
    uvec4 words = matrix[((tile * push.blocks + block) * PLANES + p) * 8 + r];
    float sum = 0.0;
    for (uint j = 0; j < 4; j++) {
      uint word = words[j], at = (slice * 4 + j) * 128;
      for (uint i = 0; i < 8; i++) sum += table[at + i * 16 + bitfieldExtract(word, int(4 * i), 4)];
      if ((j + 1) % RUN_WORDS == 0) {
        result += coefficient(tile * push.groups + (block * 4 + j) / GROUP_WORDS, p, r) * sum;
        sum = 0.0;
      }
    }
  }
  for (uint j = 0; j < 4; j++) result += coefficient(tile * push.groups + (block * 4 + j) / GROUP_WORDS, PLANES, r) * sums[slice * 4 + j];
  return result;
}

void main() {
  uint thread = gl_LocalInvocationIndex, slice = thread / ROWS, row = gl_WorkGroupID.x * ROWS + thread % ROWS;
  uint tile = min(row, push.rows - 1) >> 3, base = input_row(gl_WorkGroupID.y) * push.x_stride;
  transform_start(base, push.columns, push.epsilon);
  float result = 0.0;
  for (uint first = 0; first < push.blocks; first += SLICES) {
    make_tables(base, first);
    if (first + slice < push.blocks) result += block_product(tile, row & 7, first + slice, slice);
    barrier();
  }
  reduction[thread] = result;
  barrier();
  if (slice == 0 && row < push.rows) {
    for (uint i = 1; i < SLICES; i++) result += reduction[thread + i * ROWS];
    store(gl_WorkGroupID.y, row, result);
  }
}
