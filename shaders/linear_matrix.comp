#version 460
// Several tokens times bit-planes on cooperative matrices: a tile of weights is dequantized to f16 in shared memory, the activations are
// f16 already (transform.comp with HALF), the sums are f32. In every 32 columns, columns i and i + 16 form a pair in both operands: two bits
// of a plane word then become two f16 numbers with one shift, one mask and one multiplication, and a dot product has no order.
// A step is fetched into registers while the one before it is multiplied. Shared memory is declared in 16-byte words, so that the compiler
// can prove what the matrix loads of NVIDIA need. Sizes are macros: arrays sized by specialization constants made NVIDIA's compiler
// (580.159) crash.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_cooperative_matrix : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint GROUP_THREADS = 256; // THREADS
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
// 64 columns per step beat two buffers of 32, and two row tiles per subgroup beat four (docs/benchmarks/log.md).
#define TILE 128        // rows and tokens of a work group
#define SUBGROUPS 8     // of a work group
#define SUBGROUP_ROWS 2 // 16-row tiles of a subgroup, which has 64 tokens
#define DEPTH 64        // columns per step
#define THREADS (SUBGROUPS * 32)
#define TOKEN_TILES 4
#define STRIDE (DEPTH / 8 + 1)                   // in 16-byte words; the padding spreads rows over the banks
#define INPUTS (TILE * DEPTH / 8 / THREADS)      // 16-byte words that a thread fetches per step
#define SHARERS (THREADS / TILE)                 // threads of a row: each has a plane word per step
#define PAIRS 16                                 // pairs of columns in a plane word
#define MOST_PLANES 8
shared uvec4 inputs[TILE * STRIDE];
shared uvec4 weights[TILE * STRIDE];
shared float results[SUBGROUPS * 256]; // a 16 x 16 tile per subgroup on its way out

// What one thread fetches for a step before the step before it is computed.
uvec4 next_inputs[INPUTS];
uint next_words[MOST_PLANES];
uint next_coefficients[MOST_PLANES + 1];

void fetch(uint first_row, uint first_token, uint step) {
  uint thread = gl_LocalInvocationIndex;
  [[unroll]] for (uint i = 0; i < INPUTS; i++) {
    uint at = thread + i * THREADS;
    next_inputs[i] = x[(first_token + at / (DEPTH / 8)) * push.x_stride + step * (DEPTH / 8) + at % (DEPTH / 8)];
  }
  uint row = min(first_row + thread / SHARERS, push.rows - 1), word = step * SHARERS + thread % SHARERS;
  uint tile = row >> 3, r = row & 7, slot = tile * push.groups + word / GROUP_WORDS;
  [[unroll]] for (uint p = 0; p < MOST_PLANES; p++)
    if (p < PLANES) next_words[p] = matrix[(((tile * push.blocks + word / 4) * PLANES + p) * 8 + r) * 4 + word % 4];
  [[unroll]] for (uint c = 0; c <= MOST_PLANES; c++)
    if (c < COEFFICIENT_WORDS) next_coefficients[c] = coefficient_word(slot, c, r);
}

f16vec2 scale_of(uint plane, uint r) { return f16vec2(float16_t(coefficient_value(next_coefficients[word_of(plane)], plane, r))); }

void put(uint first_row) {
  uint thread = gl_LocalInvocationIndex;
  [[unroll]] for (uint i = 0; i < INPUTS; i++) {
    uint at = thread + i * THREADS;
    inputs[at / (DEPTH / 8) * STRIDE + at % (DEPTH / 8)] = next_inputs[i];
  }
  uint r = min(first_row + thread / SHARERS, push.rows - 1) & 7;
  uint to = thread / SHARERS * STRIDE + thread % SHARERS * (PAIRS / 4);
  [[unroll]] for (uint q = 0; q < PAIRS / 4; q++) {
    uvec4 packed_pairs;
    [[unroll]] for (uint i = 0; i < 4; i++) {
      f16vec2 pair = scale_of(PLANES, r);
      [[unroll]] for (uint p = 0; p < MOST_PLANES; p++)
        if (p < PLANES) pair = fma(unpackFloat2x16((next_words[p] >> (4 * q + i) & 0x00010001u) * 0x3c00u), scale_of(p, r), pair);
      packed_pairs[i] = packFloat2x16(pair);
    }
    weights[to + q] = packed_pairs;
  }
}

void main() {
  uint first_row = gl_WorkGroupID.x * TILE, first_token = gl_WorkGroupID.y * TILE;
  uint token_part = gl_SubgroupID / (SUBGROUPS / 2) * 64, row_part = gl_SubgroupID % (SUBGROUPS / 2) * (16 * SUBGROUP_ROWS);
  coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> sums[TOKEN_TILES * SUBGROUP_ROWS];
  [[unroll]] for (uint i = 0; i < TOKEN_TILES * SUBGROUP_ROWS; i++)
    sums[i] = coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>(0.0);

  uint steps = (push.columns + DEPTH - 1) / DEPTH;
  fetch(first_row, first_token, 0);
  for (uint step = 0; step < steps; step++) {
    put(first_row);
    barrier();
    if (step + 1 < steps) fetch(first_row, first_token, step + 1);
    [[unroll]] for (uint k = 0; k < DEPTH / 16; k++) {
      coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a[TOKEN_TILES];
      coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> b;
      [[unroll]] for (uint i = 0; i < TOKEN_TILES; i++)
        coopMatLoad(a[i], inputs, (token_part + 16 * i) * STRIDE + 2 * k, STRIDE, gl_CooperativeMatrixLayoutRowMajor);
      [[unroll]] for (uint j = 0; j < SUBGROUP_ROWS; j++) {
        coopMatLoad(b, weights, (row_part + 16 * j) * STRIDE + 2 * k, STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
        [[unroll]] for (uint i = 0; i < TOKEN_TILES; i++) sums[i * SUBGROUP_ROWS + j] = coopMatMulAdd(a[i], b, sums[i * SUBGROUP_ROWS + j]);
      }
    }
    barrier();
  }

  uint count = output_rows(), staging = gl_SubgroupID * 256;
  [[unroll]] for (uint i = 0; i < TOKEN_TILES; i++)
    [[unroll]] for (uint j = 0; j < SUBGROUP_ROWS; j++) {
      coopMatStore(sums[i * SUBGROUP_ROWS + j], results, staging, 16, gl_CooperativeMatrixLayoutRowMajor);
      subgroupBarrier();
      // Over 32 lanes. If this stayed a loop, the loops around it would too, and `sums`, indexed by them, would live in memory.
      [[unroll]] for (uint e = 0; e < 8; e++) {
        uint at = gl_SubgroupInvocationID + 32 * e;
        uint token = first_token + token_part + 16 * i + at / 16, row = first_row + row_part + 16 * j + at % 16;
        if (token < count && row < push.rows) store(token, row, results[staging + at]);
      }
      subgroupBarrier();
    }
}
