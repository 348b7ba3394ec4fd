#version 460
// Flash-style attention of many rows (FlashAttention, arXiv 2205.14135): a work group takes a few consecutive tokens with all query heads
// of one kv head, so that ROWS (token, head) pairs share what it reads of the caches. Keys, then values, of POSITIONS positions pass
// through shared memory as f16, with a running maximum and sum per row. Tokens of further sequences in the tile take passes of their own.
// The products are in attention_tile_matrix.glsl (MATRIX: cooperative matrices, f16 in and f32 out) or attention_tile_plain.glsl (f32).
// The KV caches are laid out as in rope_cache.comp.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef MATRIX
#extension GL_EXT_shader_explicit_arithmetic_types : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_KHR_cooperative_matrix : require
#endif
#ifdef UNROLLED
#define UNROLL [[unroll]]
#else
#define UNROLL // compilers for CPUs take minutes over what a GPU's needs to keep arrays in registers
#endif
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint GROUP_THREADS = 128; // THREADS
layout(constant_id = 1) const uint HEAD_DIM = 128;      // a multiple of 8, at most 256; MATRIX: of 16, at most 128
layout(constant_id = 2) const uint QUANTIZED = 0;
layout(constant_id = 3) const uint HEADS = 4;      // query heads per kv head
layout(constant_id = 4) const uint TOKENS = 8;     // of a tile: TOKENS * HEADS are at most ROWS
layout(constant_id = 5) const uint TILE_ROWS = 32; // ROWS where they are not fixed: 8, 16 or 32
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Qkv { vec4 qkv[]; };
layout(set = 0, binding = 2) writeonly buffer Output { vec4 y[]; };
layout(set = 0, binding = 3) readonly buffer KeyCache { uint key_cache[]; };
layout(set = 0, binding = 3) readonly buffer KeyCache2 { uvec2 key_cache2[]; };
layout(set = 0, binding = 3) readonly buffer KeyCache4 { uvec4 key_cache4[]; };
layout(set = 0, binding = 4) readonly buffer ValueCache { uint value_cache[]; };
layout(set = 0, binding = 4) readonly buffer ValueCache2 { uvec2 value_cache2[]; };
layout(set = 0, binding = 4) readonly buffer ValueCache4 { uvec4 value_cache4[]; };
layout(push_constant) uniform Push {
  uint kv_heads, context, max_tokens;
  uint qkv_stride, y_stride; // in vec4
  uint scales_offset;        // words before the scales of a q8 cache
  float scale;               // times log2(e), since devices compute powers of two
} push;
#define THREADS 128
const uint UNITS = HEAD_DIM / 8; // 8 values of a key or value
const uint QUADS = HEAD_DIM / 4;
const float NO_SCORE = -3.0e38;   // of a position that a row does not see
const float NO_MAXIMUM = -1.0e30; // before the first score: far above NO_SCORE, which thus has no weight even then

uint thread = gl_LocalInvocationIndex, kv_head = gl_WorkGroupID.x;
uint first_token;           // of the tile
uint pass_begin, pass_end;  // tokens of the sequence under way
uint cache_row;             // the cache row of its position 0
float maximum, sum, factor; // of the thread's row; factor: for what was added up before the last positions

// What the products need of the rest, and below: what they provide.
uint visible_to(uint row);
void load_query(uint row, uint unit, out vec4 low, out vec4 high);
void put_result(uint row, uint quad, vec4 value);
uint halves(vec2 pair);
#ifdef MATRIX
#include "attention_tile_matrix.glsl"
#else
#include "attention_tile_plain.glsl"
#endif

// The index in `qkv` and `y` of a row of the tile.
uint token_of(uint row) { return first_token + row / HEADS; }
uint head_of(uint row) { return kv_head * HEADS + row % HEADS; }
bool is_row(uint row) { return row < TOKENS * HEADS && token_of(row) < run.tokens; }

// How many positions of the sequence under way a row sees.
uint visible_to(uint row) {
  uint token = token_of(row);
  return row < TOKENS * HEADS && token >= pass_begin && token < pass_end ? uint(run.entries[token]) + 1 : 0;
}

// ---- from the caches to shared memory ----

uvec4 fetched[FETCHES];
float fetched_scales[FETCHES];

void fetch(bool keys, uint first, uint end) {
  UNROLL for (uint i = 0; i < FETCHES; i++) {
    uint at = thread + i * THREADS, position = first + at / UNITS;
    fetched[i] = uvec4(0);
    fetched_scales[i] = 0.0;
    if (at < POSITIONS * UNITS && position < end) {
      uint slot = (cache_row + position) * push.kv_heads + kv_head, unit = slot * UNITS + at % UNITS;
      if (QUANTIZED != 0) {
        fetched[i] = uvec4(keys ? key_cache2[unit] : value_cache2[unit], 0, 0);
        fetched_scales[i] = uintBitsToFloat(keys ? key_cache[push.scales_offset + slot] : value_cache[push.scales_offset + slot]);
      } else {
        fetched[i] = keys ? key_cache4[unit] : value_cache4[unit];
      }
    }
  }
}

uint halves(vec2 pair) { return packHalf2x16(clamp(pair, -65504.0, 65504.0)); }

// Four signed bytes as two pairs of halves.
uvec2 halves_of_bytes(uint word, float scale) {
  vec2 low = vec2(bitfieldExtract(int(word), 0, 8), bitfieldExtract(int(word), 8, 8));
  vec2 high = vec2(bitfieldExtract(int(word), 16, 8), bitfieldExtract(int(word), 24, 8));
  return uvec2(halves(low * scale), halves(high * scale));
}

void put() {
  UNROLL for (uint i = 0; i < FETCHES; i++) {
    uint at = thread + i * THREADS;
    if (at < POSITIONS * UNITS)
      tile[at / UNITS * TILE_STRIDE + at % UNITS] =
          QUANTIZED != 0 ? uvec4(halves_of_bytes(fetched[i].x, fetched_scales[i]), halves_of_bytes(fetched[i].y, fetched_scales[i]))
                         : fetched[i];
  }
}

// Eight values of a query; zeros for rows that the tile does not have.
void load_query(uint row, uint unit, out vec4 low, out vec4 high) {
  low = high = vec4(0);
  if (!is_row(row)) return;
  uint from = token_of(row) * push.qkv_stride + head_of(row) * QUADS + 2 * unit;
  low = qkv[from];
  high = qkv[from + 1];
}

void put_result(uint row, uint quad, vec4 value) {
  if (is_row(row)) y[token_of(row) * push.y_stride + head_of(row) * QUADS + quad] = value;
}

// ---- the tile ----

void pass() {
  uint end = uint(run.entries[pass_end - 1]) + 1; // positions rise
  cache_row = uint(run.entries[push.max_tokens + pass_begin]) * push.context;
  find_visible();
  fetch(true, 0, end);
  for (uint first = 0; first < end; first += POSITIONS) {
    barrier();
    put();
    barrier();
    fetch(false, first, end);
    compute_scores(first, end);
    barrier();
    put();
    soften(first);
    barrier();
    if (first + POSITIONS < end) fetch(true, first + POSITIONS, end);
    add_values(first, end);
  }
}

void main() {
  first_token = (gl_NumWorkGroups.y - 1 - gl_WorkGroupID.y) * TOKENS; // the later ones see more: they start first
  uint end = min(first_token + TOKENS, run.tokens);
  maximum = NO_MAXIMUM;
  sum = 0.0;
  start();
  for (pass_begin = first_token; pass_begin < end; pass_begin = pass_end) {
    int sequence = run.entries[push.max_tokens + pass_begin];
    pass_end = pass_begin + 1;
    while (pass_end < end && run.entries[push.max_tokens + pass_end] == sequence) pass_end++;
    pass();
  }
  write_results();
}
