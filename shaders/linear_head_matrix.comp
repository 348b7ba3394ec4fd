#version 460
// Up to 8 TOKEN_TILES tokens times a dense matrix of 8-bit weights (repack_head.comp) on cooperative matrices, with each weight read once.
// A weight w becomes the f16 number 1152 + w, by one instruction for two of them; the sums of the input (prepare_bits.comp with HEAD) take
// the 1152 away again. Two of the four threads that share a row have one group of columns, two another: each matrix is multiplied twice, by an
// input without the one or the other. What a thread holds of the matrices is as in linear_bits.comp.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_KHR_cooperative_matrix : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 64; // a multiple of 32
layout(constant_id = 1) const uint ITEMS = 1;    // of 64 columns, of a row
#include "run.glsl"
struct Item { // head_matrix.glsl
  uvec4 halves[2][32];
  vec2 sums[2][4]; // of groups; of tokens 2q, 2q + 1
};
layout(set = 0, binding = 1) readonly restrict buffer Matrix { uvec4 matrix[]; }; // [rows][ITEMS][4]
layout(set = 0, binding = 2) readonly restrict buffer Scales { uint scales[]; };  // [rows][ITEMS]
layout(set = 0, binding = 3) readonly restrict buffer Input { Item x[]; };
layout(set = 0, binding = 5) readonly restrict buffer Bias { float bias[]; };
layout(set = 0, binding = 6) restrict buffer Output { float y[]; };
#include "linear.glsl"
const uint EIGHTS = 4, SUBGROUP_ROWS = 8 * EIGHTS; // of a subgroup: a matrix has two times 8 rows
const uint AHEAD = 2;                              // items of a subgroup under way
uint lane = gl_LocalInvocationIndex % 32, r = lane / 4, q = lane % 4;
uint first_row = (gl_WorkGroupID.x * (THREADS / 32) + gl_LocalInvocationIndex / 32) * SUBGROUP_ROWS + r;

uvec4 words[AHEAD * EIGHTS]; // rows 8n + r
uint pairs_of_scales[EIGHTS]; // of four items, one to each thread of a row

void fetch(uint place, uint item) {
  [[unroll]] for (uint n = 0; n < EIGHTS; n++)
    words[place * EIGHTS + n] = matrix[(min(first_row + 8 * n, push.rows - 1) * ITEMS + item) * 4 + q];
}

void fetch_scales(uint item) {
  [[unroll]] for (uint n = 0; n < EIGHTS; n++)
    pairs_of_scales[n] = scales[min(first_row + 8 * n, push.rows - 1) * ITEMS + min(item + q, ITEMS - 1)];
}

// h = 0: bytes 0 and 2 of a word, h = 1: bytes 1 and 3.
f16vec2 weights_of(uint word, uint h) { return unpackFloat2x16(((h == 0 ? word : word >> 8) & 0x00ff00ffu) ^ 0x64806480u); }

float results[EIGHTS * TOKEN_TILES * 2]; // rows 8n + r, tokens 8t + 2q + e

void add_item(uint place, uint item, uint scales_of[EIGHTS]) {
  coopmat<float16_t, gl_ScopeSubgroup, 16, 8, gl_MatrixUseB> inputs[2 * TOKEN_TILES * 4]; // [groups][TOKEN_TILES][4]
  vec2 input_sums[2 * TOKEN_TILES];
  [[unroll]] for (uint t = 0; t < TOKEN_TILES; t++) {
    [[unroll]] for (uint i = 0; i < 4; i++) {
      uvec2 pairs = i % 2 == 0 ? x[t * ITEMS + item].halves[i / 2][lane].xy : x[t * ITEMS + item].halves[i / 2][lane].zw;
      [[unroll]] for (uint g = 0; g < 2; g++)
        [[unroll]] for (uint j = 0; j < 2; j++) {
          f16vec2 pair = unpackFloat2x16(q / 2 == g ? pairs[j] : 0);
          inputs[(g * TOKEN_TILES + t) * 4 + i][2 * j] = pair.x;
          inputs[(g * TOKEN_TILES + t) * 4 + i][2 * j + 1] = pair.y;
        }
    }
    [[unroll]] for (uint g = 0; g < 2; g++) input_sums[g * TOKEN_TILES + t] = x[t * ITEMS + item].sums[g][q];
  }
  [[unroll]] for (uint m = 0; m < EIGHTS / 2; m++) {
    coopmat<float, gl_ScopeSubgroup, 16, 8, gl_MatrixUseAccumulator> sums[2 * TOKEN_TILES];
    [[unroll]] for (uint t = 0; t < 2 * TOKEN_TILES; t++) sums[t] = coopmat<float, gl_ScopeSubgroup, 16, 8, gl_MatrixUseAccumulator>(0.0);
    [[unroll]] for (uint i = 0; i < 4; i++) {
      coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> weights;
      [[unroll]] for (uint n = 0; n < 2; n++)
        [[unroll]] for (uint h = 0; h < 2; h++) {
          f16vec2 pair = weights_of(words[place * EIGHTS + 2 * m + n][i], h);
          weights[n * 4 + h * 2] = pair.x;
          weights[n * 4 + h * 2 + 1] = pair.y;
        }
      [[unroll]] for (uint t = 0; t < 2 * TOKEN_TILES; t++) sums[t] = coopMatMulAdd(weights, inputs[t * 4 + i], sums[t]);
    }
    [[unroll]] for (uint n = 0; n < 2; n++)
      [[unroll]] for (uint g = 0; g < 2; g++) {
        float scale = uintBitsToFloat(g == 0 ? scales_of[2 * m + n] << 16 : scales_of[2 * m + n] & 0xffff0000u);
        [[unroll]] for (uint t = 0; t < TOKEN_TILES; t++)
          [[unroll]] for (uint e = 0; e < 2; e++)
            results[((2 * m + n) * TOKEN_TILES + t) * 2 + e] +=
                scale * (sums[g * TOKEN_TILES + t][2 * n + e] - 1152.0 * input_sums[g * TOKEN_TILES + t][e]);
      }
  }
}

void main() {
  uint count = output_rows();
  [[unroll]] for (uint i = 0; i < EIGHTS * TOKEN_TILES * 2; i++) results[i] = 0.0;
  [[unroll]] for (uint i = 0; i < AHEAD; i++)
    if (i < ITEMS) fetch(i, i);
  fetch_scales(0);
  [[dont_unroll]] for (uint step = 0; step < ITEMS; step += 4) {
    uint now[EIGHTS];
    [[unroll]] for (uint n = 0; n < EIGHTS; n++) now[n] = pairs_of_scales[n];
    fetch_scales(min(step + 4, ITEMS - 1));
    [[unroll]] for (uint i = 0; i < 4; i++)
      if (step + i < ITEMS) {
        uint scales_of[EIGHTS];
        [[unroll]] for (uint n = 0; n < EIGHTS; n++) scales_of[n] = subgroupShuffle(now[n], r * 4 + i);
        add_item(i % AHEAD, step + i, scales_of);
        if (step + i + AHEAD < ITEMS) fetch(i % AHEAD, step + i + AHEAD);
      }
  }
  [[unroll]] for (uint n = 0; n < EIGHTS; n++)
    [[unroll]] for (uint t = 0; t < TOKEN_TILES; t++)
      [[unroll]] for (uint e = 0; e < 2; e++) {
        uint token = 8 * t + 2 * q + e, row = first_row + 8 * n;
        if (token < count && row < push.rows) store(token, row, results[(n * TOKEN_TILES + t) * 2 + e]);
      }
}
