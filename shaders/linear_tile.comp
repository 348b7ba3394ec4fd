#version 460
// Several tokens times a matrix in f32: a tile of weights is dequantized into shared memory, a tile of activations beside it, and each
// of 256 threads keeps 4 x 4 results. Needs no optional feature.
#extension GL_GOOGLE_include_directive : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256;
layout(constant_id = 1) const uint PLANES = 2;
layout(constant_id = 2) const uint GROUP = 64;
layout(constant_id = 3) const uint NUMBER = 2;
layout(constant_id = 4) const uint PADDING = 4; // spreads a column's stores over the banks; 0 where shared memory is short
#include "run.glsl"
#ifdef WEIGHT_PLANES
layout(set = 0, binding = 1) readonly buffer Matrix { uint matrix[]; };
#else
layout(set = 0, binding = 1) readonly buffer Matrix { uvec4 matrix[]; };
#endif
layout(set = 0, binding = 2) readonly buffer Coefficients { uint coefficients[]; };
layout(set = 0, binding = 3) readonly buffer Input { float x[]; };
layout(set = 0, binding = 5) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 6) buffer Output { float y[]; };
#include "linear.glsl"
#include "planes.glsl"
const uint TILE = 64;  // rows and tokens
const uint DEPTH = 32; // columns per step
const uint STRIDE = TILE + PADDING;
shared float weights[DEPTH * STRIDE];
shared float inputs[DEPTH * STRIDE];

// Eight columns (part 0..3) of one row at column step `depth` of 32 columns.
#ifdef WEIGHT_PLANES
void load_weights(uint first_row, uint depth) {
  uint local = gl_LocalInvocationIndex % TILE, part = gl_LocalInvocationIndex / TILE, row = min(first_row + local, push.rows - 1);
  uint tile = row >> 3, r = row & 7, slot = tile * push.groups + depth / GROUP_WORDS;
  float values[8];
  float offset = coefficient(slot, PLANES, r);
  for (uint i = 0; i < 8; i++) values[i] = offset;
  for (uint p = 0; p < PLANES; p++) {
    uint word = matrix[(((tile * push.blocks + depth / 4) * PLANES + p) * 8 + r) * 4 + depth % 4] >> (8 * part);
    float scale = coefficient(slot, p, r);
    for (uint i = 0; i < 8; i++) values[i] += (word & (1u << i)) != 0 ? scale : 0.0;
  }
  for (uint i = 0; i < 8; i++) weights[(part * 8 + i) * STRIDE + local] = values[i];
}
#else
vec2 pair(uint word) {
  return NUMBER == NUMBER_BF16 ? vec2(uintBitsToFloat(word << 16), uintBitsToFloat(word & 0xffff0000u)) : unpackHalf2x16(word);
}

void load_weights(uint first_row, uint depth) {
  uint local = gl_LocalInvocationIndex % TILE, part = gl_LocalInvocationIndex / TILE, row = min(first_row + local, push.rows - 1);
  float values[8];
  if (NUMBER == NUMBER_INT8) {
    uint at = depth * 2 + part / 2, two = coefficients[row * push.groups + depth / 2];
    float scale = uintBitsToFloat(depth % 2 != 0 ? two & 0xffff0000u : two << 16);
    uvec4 words = at < push.blocks ? matrix[row * push.blocks + at] : uvec4(0);
    for (uint i = 0; i < 8; i++) values[i] = scale * float(bitfieldExtract(int(words[part % 2 * 2 + i / 4]), int(i % 4 * 8), 8));
  } else if (NUMBER == NUMBER_F32) {
    for (uint h = 0; h < 2; h++) {
      uint at = depth * 8 + part * 2 + h;
      vec4 quad = at < push.blocks ? uintBitsToFloat(matrix[row * push.blocks + at]) : vec4(0);
      for (uint i = 0; i < 4; i++) values[4 * h + i] = quad[i];
    }
  } else {
    uint at = depth * 4 + part;
    uvec4 words = at < push.blocks ? matrix[row * push.blocks + at] : uvec4(0);
    for (uint i = 0; i < 4; i++) {
      vec2 two = pair(words[i]);
      values[2 * i] = two.x;
      values[2 * i + 1] = two.y;
    }
  }
  for (uint i = 0; i < 8; i++) weights[(part * 8 + i) * STRIDE + local] = values[i];
}
#endif

void load_inputs(uint first_token, uint count, uint depth) {
  for (uint i = gl_LocalInvocationIndex; i < TILE * DEPTH; i += THREADS) {
    uint local = i / DEPTH, j = i % DEPTH, column = depth * DEPTH + j;
    bool inside = local < count && column < push.columns;
    inputs[j * STRIDE + local] = inside ? x[input_row(first_token + local) * push.x_stride + column] : 0.0;
  }
}

void main() {
  uint thread = gl_LocalInvocationIndex, row_part = thread % 16, token_part = thread / 16;
  uint first_row = gl_WorkGroupID.x * TILE, first_token = gl_WorkGroupID.y * TILE;
  uint count = min(TILE, output_rows() - first_token);
  float results[16];
  for (uint i = 0; i < 16; i++) results[i] = 0.0;
  for (uint depth = 0; depth < (push.columns + DEPTH - 1) / DEPTH; depth++) {
    load_weights(first_row, depth);
    load_inputs(first_token, count, depth);
    barrier();
    for (uint k = 0; k < DEPTH; k++) {
      float w[4], v[4];
      for (uint i = 0; i < 4; i++) {
        w[i] = weights[k * STRIDE + row_part + 16 * i];
        v[i] = inputs[k * STRIDE + token_part * 4 + i];
      }
      for (uint i = 0; i < 4; i++)
        for (uint j = 0; j < 4; j++) results[i * 4 + j] += w[i] * v[j];
    }
    barrier();
  }
  for (uint i = 0; i < 4; i++)
    for (uint j = 0; j < 4; j++) {
      uint row = first_row + row_part + 16 * i, local = token_part * 4 + j;
      if (row < push.rows && local < count) store(first_token + local, row, results[i * 4 + j]);
    }
}
