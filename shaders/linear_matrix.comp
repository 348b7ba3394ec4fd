#version 460
// Several tokens times bit-planes on cooperative matrices: a tile of weights is dequantized to f16 in shared memory, the activations are
// f16 already (transform.comp with HALF), the sums are f32. In every 32 columns, columns i and i + 16 form a pair in both operands: two bits
// of a plane word then become two f16 numbers with one shift, one mask and one multiplication, and a dot product has no order.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_cooperative_matrix : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256; // 8 subgroups of 32
layout(constant_id = 1) const uint PLANES = 2;
layout(constant_id = 2) const uint GROUP = 64;
layout(constant_id = 3) const uint NUMBER = 2;
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Matrix { uint matrix[]; };
layout(set = 0, binding = 2) readonly buffer Coefficients { uint coefficients[]; };
layout(set = 0, binding = 3) readonly buffer Input { uvec4 x[]; }; // f16 pairs [tokens][x_stride 16-byte words]
layout(set = 0, binding = 5) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 6) buffer Output { float y[]; };
#include "linear.glsl"
#include "planes.glsl"
const uint TILE = 128;              // rows and tokens of a work group
const uint DEPTH = 64;              // columns per step: two words per row, one for each of its two threads
const uint STRIDE = DEPTH / 4 + 2;  // in f16vec4; the padding spreads rows over the banks
const uint TOKEN_TILES = 4, ROW_TILES = 2; // 16 x 16 tiles of a subgroup: 64 tokens by 32 rows
shared f16vec4 inputs[TILE * STRIDE];
shared f16vec4 weights[TILE * STRIDE];
shared float results[8 * 256]; // a 16 x 16 tile per subgroup on its way out

f16vec4 pairs(uint first, uint second) { return f16vec4(unpackFloat2x16(first), unpackFloat2x16(second)); }

// What one thread fetches for a step before the step before it is computed.
struct Fetched {
  uvec4 x[4];
  uint words[PLANES];
  float16_t scales[PLANES + 1];
};

void fetch(uint first_row, uint first_token, uint step, out Fetched f) {
  uint thread = gl_LocalInvocationIndex;
  [[unroll]] for (uint i = 0; i < 4; i++) {
    uint at = thread + i * THREADS;
    f.x[i] = x[(first_token + at / 8) * push.x_stride + step * 8 + at % 8];
  }
  uint row = min(first_row + thread / 2, push.rows - 1), word = step * 2 + thread % 2;
  uint tile = row >> 3, r = row & 7, slot = tile * push.groups + word / GROUP_WORDS;
  [[unroll]] for (uint p = 0; p < PLANES; p++) f.words[p] = matrix[(((tile * push.blocks + word / 4) * PLANES + p) * 8 + r) * 4 + word % 4];
  [[unroll]] for (uint p = 0; p <= PLANES; p++) f.scales[p] = float16_t(coefficient(slot, p, r));
}

void put(Fetched f) {
  uint thread = gl_LocalInvocationIndex;
  [[unroll]] for (uint i = 0; i < 4; i++) {
    uint at = thread + i * THREADS, to = at / 8 * STRIDE + at % 8 * 2;
    inputs[to] = pairs(f.x[i].x, f.x[i].y);
    inputs[to + 1] = pairs(f.x[i].z, f.x[i].w);
  }
  uint to = thread / 2 * STRIDE + thread % 2 * 8;
  [[unroll]] for (uint i = 0; i < 8; i++) {
    f16vec2 a = f16vec2(f.scales[PLANES]), b = a;
    [[unroll]] for (uint p = 0; p < PLANES; p++) {
      a = fma(unpackFloat2x16((f.words[p] >> (2 * i) & 0x00010001u) * 0x3c00u), f16vec2(f.scales[p]), a);
      b = fma(unpackFloat2x16((f.words[p] >> (2 * i + 1) & 0x00010001u) * 0x3c00u), f16vec2(f.scales[p]), b);
    }
    weights[to + i] = f16vec4(a, b);
  }
}

void main() {
  uint first_row = gl_WorkGroupID.x * TILE, first_token = gl_WorkGroupID.y * TILE;
  uint token_part = gl_SubgroupID / 4 * 64, row_part = gl_SubgroupID % 4 * 32;
  coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> sums[TOKEN_TILES * ROW_TILES];
  [[unroll]] for (uint i = 0; i < TOKEN_TILES * ROW_TILES; i++)
    sums[i] = coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>(0.0);

  uint steps = (push.columns + DEPTH - 1) / DEPTH;
  Fetched next;
  fetch(first_row, first_token, 0, next);
  for (uint step = 0; step < steps; step++) {
    put(next);
    barrier();
    if (step + 1 < steps) fetch(first_row, first_token, step + 1, next);
    [[unroll]] for (uint k = 0; k < DEPTH / 16; k++) {
      coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a[TOKEN_TILES];
      coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> b;
      [[unroll]] for (uint i = 0; i < TOKEN_TILES; i++)
        coopMatLoad(a[i], inputs, (token_part + 16 * i) * STRIDE + 4 * k, STRIDE, gl_CooperativeMatrixLayoutRowMajor);
      [[unroll]] for (uint j = 0; j < ROW_TILES; j++) {
        coopMatLoad(b, weights, (row_part + 16 * j) * STRIDE + 4 * k, STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
        [[unroll]] for (uint i = 0; i < TOKEN_TILES; i++) sums[i * ROW_TILES + j] = coopMatMulAdd(a[i], b, sums[i * ROW_TILES + j]);
      }
    }
    barrier();
  }

  uint count = output_rows(), staging = gl_SubgroupID * 256;
  [[unroll]] for (uint i = 0; i < TOKEN_TILES; i++)
    [[unroll]] for (uint j = 0; j < ROW_TILES; j++) {
      coopMatStore(sums[i * ROW_TILES + j], results, staging, 16, gl_CooperativeMatrixLayoutRowMajor);
      subgroupBarrier();
      for (uint at = gl_SubgroupInvocationID; at < 256; at += gl_SubgroupSize) {
        uint token = first_token + token_part + 16 * i + at / 16, row = first_row + row_part + 16 * j + at % 16;
        if (token < count && row < push.rows) store(token, row, results[staging + at]);
      }
      subgroupBarrier();
    }
}
