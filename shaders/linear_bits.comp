#version 460
// Up to 8 TOKEN_TILES tokens times bit-planes on cooperative matrices, a plane at a time: the bits themselves are the f16 numbers of one
// operand, where they stand in their words, so that one instruction makes two of them; the activations (prepare_bits.comp) undo what the
// places weigh. A run's sums are multiplied by its coefficients afterwards. Nothing passes through shared memory but the sums of the
// subgroups that share rows.
// For that a thread must know which elements of the matrices it holds. What NVIDIA's drivers do (580.159): thread (r, q) has, of A, columns
// 2q, 2q + 1, 2q + 8, 2q + 9 of row r, then of row r + 8; of B, the same rows of column r; of the sums, columns 2q, 2q + 1 of row r, then of
// row r + 8. Where it is not so, the known-answer check (probe.c) notices, and other kernels are used.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_cooperative_matrix : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256; // a multiple of 32 SLICES
layout(constant_id = 1) const uint SLICES = 4;    // subgroups that share rows
layout(constant_id = 2) const uint PLANES = 2;
layout(constant_id = 3) const uint GROUP = 64;
layout(constant_id = 4) const uint NUMBER = 2;
#include "run.glsl"
struct Item { // bits.glsl
  uvec4 halves[4][32];
  vec2 sums[4][4]; // of runs; of tokens 2q, 2q + 1
};
layout(set = 0, binding = 1) readonly restrict buffer Matrix { uint matrix[]; };
layout(set = 0, binding = 2) readonly restrict buffer Coefficients { uint coefficients[]; };
layout(set = 0, binding = 3) readonly restrict buffer Input { Item x[]; };
layout(set = 0, binding = 5) readonly restrict buffer Bias { float bias[]; };
layout(set = 0, binding = 6) restrict buffer Output { float y[]; };
#include "linear.glsl"
#include "planes.glsl"
#include "bits.glsl"
const uint TOKENS = 8 * TOKEN_TILES;
const uint AHEAD = 2;                                        // blocks of a subgroup under way
const uint TILES = 2, SUBGROUP_ROWS = 16;                    // tiles of 8 rows, as in memory: the two halves of a matrix
const uint ROWS = THREADS / 32 / SLICES * SUBGROUP_ROWS;     // of the work group
const uint STRIDE = TOKENS + 1;                              // spreads rows over the banks
shared float partial[THREADS / 32 * SUBGROUP_ROWS * STRIDE]; // [subgroups][SUBGROUP_ROWS][STRIDE]
uint lane = gl_LocalInvocationIndex % 32, r = lane / 4, q = lane % 4;

// ---- weights ----

const uint WORDS = PLANES * RUNS, RUN_COEFFICIENTS = RUNS * COEFFICIENT_WORDS;
// Of blocks on their way, and where the next one is: in `matrix`; by 32 columns, its groups behind those of the tiles before.
uint words[AHEAD * TILES * WORDS], block_coefficients[AHEAD * TILES * RUN_COEFFICIENTS]; // row r of each tile
uint words_at[TILES], columns_at[TILES];

void fetch(uint place) {
  [[unroll]] for (uint n = 0; n < TILES; n++) {
    [[unroll]] for (uint p = 0; p < PLANES; p++)
      [[unroll]] for (uint run = 0; run < RUNS; run++)
        words[(place * TILES + n) * WORDS + p * RUNS + run] = matrix[words_at[n] + p * 32 + run * RUN_WORDS];
    [[unroll]] for (uint run = 0; run < RUNS; run++)
      [[unroll]] for (uint c = 0; c < COEFFICIENT_WORDS; c++)
        block_coefficients[(place * TILES + n) * RUN_COEFFICIENTS + run * COEFFICIENT_WORDS + c] =
            coefficient_word((columns_at[n] + run * RUN_WORDS) / GROUP_WORDS, c, r);
    words_at[n] += SLICES * PLANES * 32;
    columns_at[n] += SLICES * 4;
  }
}

float block_coefficient(uint place, uint n, uint run, uint plane) {
  return coefficient_value(block_coefficients[(place * TILES + n) * RUN_COEFFICIENTS + run * COEFFICIENT_WORDS + word_of(plane)], plane, r);
}

// Bits `pair` and 16 further of the thread's share, as halves.
f16vec2 bits_of(uint word, uint pair) {
  int shift = shift_of(pair);
  return unpackFloat2x16((shift > 0 ? word << shift : word >> -shift) & 0x00010001u << place_of_pair(pair));
}

// ---- the product ----

// Rows 8n + r and tokens 8t + 2q + e, times UNIT: [TILES][TOKEN_TILES][2].
float results[TILES * TOKEN_TILES * 2];
coopmat<float16_t, gl_ScopeSubgroup, 16, 8, gl_MatrixUseB> inputs[TOKEN_TILES * 8]; // of the block
vec2 run_sums[TOKEN_TILES * RUNS];

void load_input(uint block) {
  [[unroll]] for (uint t = 0; t < TOKEN_TILES; t++) {
    uint item = t * push.blocks + block;
    [[unroll]] for (uint i = 0; i < 8; i++) {
      uvec2 pairs = i % 2 == 0 ? x[item].halves[i / 2][lane].xy : x[item].halves[i / 2][lane].zw;
      [[unroll]] for (uint j = 0; j < 2; j++) {
        f16vec2 pair = unpackFloat2x16(pairs[j]);
        inputs[t * 8 + i][2 * j] = pair.x;
        inputs[t * 8 + i][2 * j + 1] = pair.y;
      }
    }
    [[unroll]] for (uint run = 0; run < RUNS; run++) run_sums[t * RUNS + run] = x[item].sums[run][q];
  }
}

void add_plane(uint place, uint run, uint p) {
  uint from = place * TILES * WORDS + p * RUNS + run, upper = words[from] >> first_pair(q), lower = words[from + WORDS] >> first_pair(q);
  coopmat<float, gl_ScopeSubgroup, 16, 8, gl_MatrixUseAccumulator> sums[TOKEN_TILES];
  [[unroll]] for (uint t = 0; t < TOKEN_TILES; t++) sums[t] = coopmat<float, gl_ScopeSubgroup, 16, 8, gl_MatrixUseAccumulator>(0.0);
  [[unroll]] for (uint i = 0; i < MATRICES; i++) {
    coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> bits;
    [[unroll]] for (uint j = 0; j < 2; j++) {
      f16vec2 of_upper = bits_of(upper, 2 * i + j), of_lower = bits_of(lower, 2 * i + j);
      bits[2 * j] = of_upper.x;
      bits[2 * j + 1] = of_upper.y;
      bits[4 + 2 * j] = of_lower.x;
      bits[5 + 2 * j] = of_lower.y;
    }
    [[unroll]] for (uint t = 0; t < TOKEN_TILES; t++) sums[t] = coopMatMulAdd(bits, inputs[t * 8 + run * MATRICES + i], sums[t]);
  }
  [[unroll]] for (uint n = 0; n < TILES; n++) {
    float coefficient = block_coefficient(place, n, run, p);
    [[unroll]] for (uint t = 0; t < TOKEN_TILES; t++)
      [[unroll]] for (uint e = 0; e < 2; e++) results[(n * TOKEN_TILES + t) * 2 + e] += coefficient * sums[t][2 * n + e];
  }
}

void add_block(uint place, uint block) {
  load_input(block);
  [[unroll]] for (uint run = 0; run < RUNS; run++) {
    [[unroll]] for (uint p = 0; p < PLANES; p++) add_plane(place, run, p);
    [[unroll]] for (uint n = 0; n < TILES; n++) {
      float shift = block_coefficient(place, n, run, PLANES);
      [[unroll]] for (uint t = 0; t < TOKEN_TILES; t++)
        [[unroll]] for (uint e = 0; e < 2; e++) results[(n * TOKEN_TILES + t) * 2 + e] += shift * run_sums[t * RUNS + run][e];
    }
  }
}

// ---- results ----

void put_partial() {
  uint from = gl_SubgroupID * SUBGROUP_ROWS;
  [[unroll]] for (uint n = 0; n < TILES; n++)
    [[unroll]] for (uint t = 0; t < TOKEN_TILES; t++)
      [[unroll]] for (uint e = 0; e < 2; e++)
        partial[(from + n * 8 + r) * STRIDE + t * 8 + 2 * q + e] = results[(n * TOKEN_TILES + t) * 2 + e];
}

void write_results(uint count) {
  for (uint i = gl_LocalInvocationIndex; i < ROWS * TOKENS; i += THREADS) {
    uint own = i % ROWS, token = i / ROWS, row = gl_WorkGroupID.x * ROWS + own;
    if (token >= count || row >= push.rows) continue;
    uint from = own / SUBGROUP_ROWS * SLICES * SUBGROUP_ROWS + own % SUBGROUP_ROWS;
    float sum = 0.0;
    [[unroll]] for (uint s = 0; s < SLICES; s++) sum += partial[(from + s * SUBGROUP_ROWS) * STRIDE + token];
    store(token, row, sum / UNIT);
  }
}

void main() {
  uint slice = gl_SubgroupID % SLICES, first = gl_WorkGroupID.x * (ROWS / 8) + gl_SubgroupID / SLICES * TILES;
  [[unroll]] for (uint n = 0; n < TILES; n++) {
    uint tile = min(first + n, (push.rows - 1) / 8); // rows past the end are the last ones once more
    words_at[n] = (tile * push.blocks + slice) * PLANES * 32 + r * 4 + word_of_run(0, q);
    columns_at[n] = tile * push.groups * GROUP_WORDS + slice * 4;
  }
  [[unroll]] for (uint i = 0; i < TILES * TOKEN_TILES * 2; i++) results[i] = 0.0;
  [[unroll]] for (uint i = 0; i < AHEAD; i++)
    if (slice + i * SLICES < push.blocks) fetch(i);
  [[dont_unroll]] for (uint step = slice; step < push.blocks; step += SLICES * AHEAD)
    [[unroll]] for (uint i = 0; i < AHEAD; i++) {
      uint block = step + i * SLICES;
      if (block < push.blocks) {
        add_block(i, block);
        if (block + SLICES * AHEAD < push.blocks) fetch(i);
      }
    }
  put_partial();
  barrier();
  write_results(output_rows());
}
