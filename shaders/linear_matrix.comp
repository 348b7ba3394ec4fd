#version 460
// Several tokens times bit-planes on cooperative matrices: a tile of weights is dequantized to f16 in shared memory, the activations are
// f16 already (transform_half.comp), the sums are f32. In every 32 columns, columns i and i + 16 form a pair in both operands: two bits
// of a plane word then become two f16 numbers with one mask and two multiplications, and a dot product has no order.
// The work is all column steps of all tiles, one tile after another; each work group takes an equal share of consecutive steps, so that
// all finish together however few tiles there are (stream-K, arXiv 2301.03598). What a group has of a tile that it shares goes to memory,
// and the group that finishes last adds such sums up in the order of the columns.
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
layout(set = 0, binding = 4) coherent buffer Partial { vec4 partial[]; }; // sums of shared tiles [work groups][2][TILE * TOKENS]
layout(set = 0, binding = 5) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 6) buffer Output { float y[]; };
layout(set = 0, binding = 7) coherent buffer Finished { uint finished[]; }; // steps of each tile
#include "linear.glsl"
#include "planes.glsl"
// 64 columns per step beat two buffers of 32, and two row tiles per subgroup beat four (docs/benchmarks/log.md). FEW: for up to 16 tokens.
#define TILE 128 // rows of a work group
#ifdef FEW
#define TOKENS 16       // of a work group
#define TOKEN_TILES 1   // of a subgroup, 16 tokens each
#define SUBGROUP_ROWS 1 // 16-row tiles of a subgroup
#else
#define TOKENS 128
#define TOKEN_TILES 4
#define SUBGROUP_ROWS 2
#endif
#define SUBGROUPS 8 // of a work group
#define DEPTH 64    // columns per step
#define THREADS (SUBGROUPS * 32)
#define ROW_PARTS (TILE / (16 * SUBGROUP_ROWS)) // subgroups for all rows
#define SUMS (TOKEN_TILES * SUBGROUP_ROWS)
#define STRIDE (DEPTH / 8 + 1)                         // in 16-byte words; the padding spreads rows over the banks
#define INPUT_WORDS (TOKENS * DEPTH / 8)               // 16-byte words of a step
#define INPUTS ((INPUT_WORDS + THREADS - 1) / THREADS) // of them, that a thread fetches
#define SHARERS (THREADS / TILE)                       // threads of a row: each has a plane word per step
#define PAIRS 16                                       // pairs of columns in a plane word
#define MOST_PLANES 8
#define TILE_QUADS (TILE * TOKENS / 4)
shared uvec4 inputs[TOKENS * STRIDE];
shared uvec4 weights[TILE * STRIDE]; // and 16 x 16 results per subgroup on their way out
shared bool is_last;
coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> sums[SUMS];
uint thread = gl_LocalInvocationIndex;
uint first_row, first_token; // of the tile
uint token_part = gl_SubgroupID / ROW_PARTS * (16 * TOKEN_TILES), row_part = gl_SubgroupID % ROW_PARTS * (16 * SUBGROUP_ROWS);

// What one thread fetches for a step before the step before it is computed.
uvec4 next_inputs[INPUTS];
uint next_words[MOST_PLANES];
uint next_coefficients[MOST_PLANES + 1];
uint next_row; // within its tile of the matrix

void fetch(uint tile_row, uint tile_token, uint step) {
  [[unroll]] for (uint i = 0; i < INPUTS; i++) {
    uint at = INPUT_WORDS % THREADS == 0 ? thread + i * THREADS : min(thread + i * THREADS, INPUT_WORDS - 1);
    next_inputs[i] = x[(tile_token + at / (DEPTH / 8)) * push.x_stride + step * (DEPTH / 8) + at % (DEPTH / 8)];
  }
  uint row = min(tile_row + thread / SHARERS, push.rows - 1), word = step * SHARERS + thread % SHARERS;
  uint tile = row >> 3, slot = tile * push.groups + word / GROUP_WORDS;
  next_row = row & 7;
  [[unroll]] for (uint p = 0; p < MOST_PLANES; p++)
    if (p < PLANES) next_words[p] = matrix[(((tile * push.blocks + word / 4) * PLANES + p) * 8 + next_row) * 4 + word % 4];
  [[unroll]] for (uint c = 0; c <= MOST_PLANES; c++)
    if (c < COEFFICIENT_WORDS) next_coefficients[c] = coefficient_word(slot, c, next_row);
}

f16vec2 scale_of(uint plane) { return f16vec2(float16_t(coefficient_value(next_coefficients[word_of(plane)], plane, next_row))); }

// Bits i and i + 16 of a word as two halves, 0 or 1: brought to the exponent of 1.0 by a multiplication, from where they are or 6 below.
f16vec2 bit_pair(uint word, uint i) {
  return unpackFloat2x16(i <= 10 ? (word & 0x00010001u << i) * (0x3c00u >> i) : (word >> 6 & 0x00010001u << i - 6) * (0x3c00u >> i - 6));
}

void put() {
  [[unroll]] for (uint i = 0; i < INPUTS; i++) {
    uint at = thread + i * THREADS;
    if (INPUT_WORDS % THREADS == 0 || at < INPUT_WORDS) inputs[at / (DEPTH / 8) * STRIDE + at % (DEPTH / 8)] = next_inputs[i];
  }
  uint to = thread / SHARERS * STRIDE + thread % SHARERS * (PAIRS / 4);
  [[unroll]] for (uint q = 0; q < PAIRS / 4; q++) {
    uvec4 packed_pairs;
    [[unroll]] for (uint i = 0; i < 4; i++) {
      f16vec2 pair = scale_of(PLANES);
      [[unroll]] for (uint p = 0; p < MOST_PLANES; p++)
        if (p < PLANES) pair = fma(bit_pair(next_words[p], 4 * q + i), scale_of(p), pair);
      packed_pairs[i] = packFloat2x16(pair);
    }
    weights[to + q] = packed_pairs;
  }
}

// A loop that stays one: with all columns' matrices requested at once it took a tenth longer (docs/benchmarks/log.md).
void multiply() {
  [[dont_unroll]] for (uint k = 0; k < DEPTH / 16; k++) {
    coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a[TOKEN_TILES];
    coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> b;
    [[unroll]] for (uint i = 0; i < TOKEN_TILES; i++)
      coopMatLoad(a[i], inputs, (token_part + 16 * i) * STRIDE + 2 * k, STRIDE, gl_CooperativeMatrixLayoutRowMajor);
    [[unroll]] for (uint j = 0; j < SUBGROUP_ROWS; j++) {
      coopMatLoad(b, weights, (row_part + 16 * j) * STRIDE + 2 * k, STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
      [[unroll]] for (uint i = 0; i < TOKEN_TILES; i++) sums[i * SUBGROUP_ROWS + j] = coopMatMulAdd(a[i], b, sums[i * SUBGROUP_ROWS + j]);
    }
  }
}

void clear() {
  [[unroll]] for (uint i = 0; i < SUMS; i++) sums[i] = coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>(0.0);
}

void write_results() {
  uint count = output_rows(), staging = gl_SubgroupID * 64;
  [[unroll]] for (uint i = 0; i < TOKEN_TILES; i++)
    [[unroll]] for (uint j = 0; j < SUBGROUP_ROWS; j++) {
      coopMatStore(sums[i * SUBGROUP_ROWS + j], weights, staging, 4, gl_CooperativeMatrixLayoutRowMajor);
      subgroupBarrier();
      // Over 32 lanes. If this stayed a loop, the loops around it would too, and `sums`, indexed by them, would live in memory.
      [[unroll]] for (uint e = 0; e < 2; e++) {
        uint at = gl_SubgroupInvocationID + 32 * e;
        vec4 quad = uintBitsToFloat(weights[staging + at]);
        uint token = first_token + token_part + 16 * i + at / 4, row = first_row + row_part + 16 * j + at % 4 * 4;
        [[unroll]] for (uint n = 0; n < 4; n++)
          if (token < count && row + n < push.rows) store(token, row + n, quad[n]);
      }
      subgroupBarrier();
    }
}

// A group shares at most the first and the last of its tiles: 2 group + 0 has the one that its share begins in.
uint slot_of(uint group, uint share, uint tile_begin) { return 2 * group + (group * share < tile_begin ? 1 : 0); }

// Leaves the sums of steps [begin, end) of a tile that has others too. True in the group that completes it, which then has all sums.
bool add_up(uint tile, uint steps, uint share, uint begin, uint end) {
  uint tile_begin = tile * steps, own = gl_SubgroupID * SUMS * 64, to = slot_of(gl_WorkGroupID.x, share, tile_begin) * TILE_QUADS + own;
  [[unroll]] for (uint i = 0; i < SUMS; i++) coopMatStore(sums[i], partial, to + i * 64, 4, gl_CooperativeMatrixLayoutRowMajor);
  memoryBarrierBuffer();
  barrier();
  if (thread == 0) {
    is_last = atomicAdd(finished[tile], end - begin) + end - begin == steps;
    if (is_last) finished[tile] = 0; // for the next run
  }
  barrier();
  if (!is_last) return false;
  memoryBarrierBuffer();
  clear();
  for (uint group = tile_begin / share; group <= (tile_begin + steps - 1) / share; group++) {
    uint from = slot_of(group, share, tile_begin) * TILE_QUADS + own;
    [[unroll]] for (uint i = 0; i < SUMS; i++) {
      coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> part;
      coopMatLoad(part, partial, from + i * 64, 4, gl_CooperativeMatrixLayoutRowMajor);
      sums[i] = sums[i] + part;
    }
  }
  return true;
}

void main() {
  uint token_tiles = (output_rows() + TOKENS - 1) / TOKENS, row_tiles = (push.rows + TILE - 1) / TILE;
  uint steps = (push.columns + DEPTH - 1) / DEPTH, all = token_tiles * row_tiles * steps;
  uint share = (all + gl_NumWorkGroups.x - 1) / gl_NumWorkGroups.x;
  uint at = gl_WorkGroupID.x * share, stop = min(at + share, all);
  if (at >= stop) return;
  uint tile = at / steps;
  first_row = tile / token_tiles * TILE, first_token = tile % token_tiles * TOKENS;
  fetch(first_row, first_token, at % steps);
  while (at < stop) {
    uint begin = at % steps, end = min(steps, begin + stop - at);
    clear();
    for (uint step = begin; step < end; step++) {
      put();
      barrier();
      if (step + 1 < end) fetch(first_row, first_token, step + 1);
      multiply();
      barrier();
    }
    at += end - begin;
    uint next = tile + 1;
    if (at < stop) fetch(next / token_tiles * TILE, next % token_tiles * TOKENS, 0);
    if (end - begin == steps || add_up(tile, steps, share, begin, end)) write_results();
    barrier();
    tile = next;
    first_row = tile / token_tiles * TILE, first_token = tile % token_tiles * TOKENS;
  }
}
