#version 460
// Flash-style attention of one row: a work group takes the query heads that share a kv head (up to HEADS of them) over one part of the
// context, POSITIONS at a time, with a running maximum and sum. With SPLIT the last work group of a row and its heads to finish merges
// the parts; how long they are follows from the row's position, and work groups past its end have nothing to do. With ROPE (one row per
// run, no norms) it also does what rope_cache.comp does, but for the rotated queries, which stay here. The KV caches are laid out as in
// rope_cache.comp. With BYTES (one row per run) it also prepares its results as the input of the product behind it (prepared.glsl). ALONE: it
// never does, and needs 8 storage buffers instead of 9. MATRIX: work groups that have no more to do read what the product behind begins with
// (early.glsl); 11 storage buffers.
// What happens to keys and values is in attention_row_plain.glsl, or in attention_row_matrix.glsl (MATRIX: on cooperative matrices).
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef MATRIX
#define SUBGROUP
#extension GL_EXT_shader_explicit_arithmetic_types : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_cooperative_matrix : require
#endif
#ifdef SUBGROUP // of at least 32; MATRIX: of 32
#extension GL_KHR_shader_subgroup_shuffle : require
#define UNROLLED
#endif
#ifdef UNROLLED
#define UNROLL [[unroll]]
#else
#define UNROLL // compilers for CPUs take minutes over what a GPU's needs to keep arrays in registers
#endif
layout(local_size_x_id = 0) in;
#ifdef MATRIX
layout(constant_id = 0) const uint GROUP_THREADS = 256; // THREADS
#define THREADS 256
#else
layout(constant_id = 0) const uint THREADS = 128;   // a power of two, at least 128 and HEAD_DIM / 4
#endif
layout(constant_id = 1) const uint HEAD_DIM = 128;  // a multiple of 8; MATRIX: of 16, at most 128
layout(constant_id = 2) const uint HEADS = 4;       // query heads per work group, at most 4; MATRIX: 8
layout(constant_id = 3) const uint QUANTIZED = 0;
layout(constant_id = 4) const uint SPLIT = 0;       // parts of the context at most, up to MOST_PARTS; 0: one
layout(constant_id = 5) const uint MERGE_HEADS = 1; // heads whose results are added up at once; bounds shared memory
layout(constant_id = 6) const uint BYTES = 0;       // of the next product's integers, 0: it is not prepared; else HEAD_DIM % 32 == 0
layout(constant_id = 7) const uint GROUP = 4;       // query heads of a kv head
#include "run.glsl"
#ifdef ROPE
layout(set = 0, binding = 0) readonly buffer RunOfOne { uvec2 pairs[]; } run_of_one;
#endif
layout(set = 0, binding = 2) writeonly buffer Output { float y[]; };
layout(set = 0, binding = 1) readonly buffer Qkv { float qkv[]; };
#ifdef ROPE
layout(set = 0, binding = 6) readonly buffer RopeTable { float rope_table[]; };
layout(set = 0, binding = 3) writeonly buffer KeyCacheOut { uint key_cache_out[]; };
layout(set = 0, binding = 4) writeonly buffer ValueCacheOut { uint value_cache_out[]; };
#endif
// Nobody reads what is written here: the row's own key and value are not taken from the cache.
layout(set = 0, binding = 3) readonly buffer KeyCache { uint key_cache[]; };
layout(set = 0, binding = 3) readonly buffer KeyCache2 { uvec2 key_cache2[]; };
layout(set = 0, binding = 3) readonly buffer KeyCache4 { uvec4 key_cache4[]; };
layout(set = 0, binding = 4) readonly buffer ValueCache { uint value_cache[]; };
layout(set = 0, binding = 4) readonly buffer ValueCache2 { uvec2 value_cache2[]; };
// SPLIT: what the parts found, as attention_row_*.glsl say, and how many parts have finished, [rows][work groups per part].
#ifdef MATRIX
layout(set = 0, binding = 4) readonly buffer ValueCache4 { uvec4 value_cache4[]; };
layout(set = 0, binding = 5) coherent buffer PartialPairs { uvec2 partial_pairs[]; };
layout(set = 0, binding = 5) coherent buffer PartialUnits { uvec4 partial_units[]; };
layout(set = 0, binding = 5) coherent buffer PartialSums { vec2 partial_sums[]; };
#define EARLY_CONSTANT 8
#define EARLY_BINDING 9
#include "early.glsl"
#else
layout(set = 0, binding = 5) coherent buffer Partial { vec4 partial[]; };
#endif
layout(set = 0, binding = 7) coherent buffer Finished { uint finished[]; };
#ifndef ALONE
layout(set = 0, binding = 8) writeonly buffer Next { uint next[]; };
#endif
layout(push_constant) uniform Push {
  uint heads, kv_heads, qkv_stride, y_stride, context, max_tokens;
  uint scales_offset; // words before the scales of a q8 cache
  float scale;
  uint next_blocks; // of the next product's input
  uint zero;        // MATRIX
} push;
const uint UNITS = HEAD_DIM / 8; // 8 values of a key
const uint QUADS = HEAD_DIM / 4; // 4 values of a value row
const uint WORDS = QUANTIZED != 0 ? HEAD_DIM / 4 : HEAD_DIM / 2;
const uint PAIRS = HEAD_DIM / 2;
const uint MOST_PARTS = 64;
shared vec4 queries[HEADS * QUADS]; // BYTES: at the end the results
shared float head_sum[HEADS], head_maximum[HEADS + 1]; // the last is nobody's
shared bool is_last;
#ifndef ALONE
const float RANGE = BYTES == 2 ? 32512.0 : 127.0; // 127 * 256: the high byte stays in -127..127
#ifndef SUBGROUP
shared float reduction[BYTES != 0 ? THREADS : 1];
#endif
#include "integers.glsl"
#include "prepared.glsl"
#include "put_prepared.glsl"
#endif
uint thread = gl_LocalInvocationIndex;
uint token = gl_WorkGroupID.y, part = gl_WorkGroupID.z;
uint kv_head, first_head, live; // query heads first_head .. first_head + live - 1
uint first_row, own_position;   // the cache row of position 0; the row's own position

vec4 bytes_of(uint word) {
  return vec4(bitfieldExtract(int(word), 0, 8), bitfieldExtract(int(word), 8, 8), bitfieldExtract(int(word), 16, 8),
              bitfieldExtract(int(word), 24, 8));
}

uint cache_slot(uint position) { return (first_row + position) * push.kv_heads + kv_head; }

#ifdef ROPE
// The row's own key and value, as the cache will hold them: words, then the scale of a q8 cache. They are not read back from the cache:
// another work group may be writing them.
shared uint own_key[WORDS + 1], own_value[WORDS + 1];
shared vec4 own_values[2 * QUADS]; // before: the rotated key, the value

// What `own_values` makes of the key or the value, and the cache's copy of it.
void pack_own(bool writer) {
  uint slot = cache_slot(own_position);
  for (uint i = thread; i < 2 * (WORDS + 1); i += THREADS) {
    bool key = i <= WORDS;
    uint at = key ? i : i - WORDS - 1, first = key ? 0 : QUADS, word;
    if (QUANTIZED != 0) {
      vec4 most = vec4(0);
      for (uint j = 0; j < QUADS; j++) most = max(most, abs(own_values[first + j]));
      float largest = max(max(most.x, most.y), max(most.z, most.w)), inverse = largest > 0.0 ? 127.0 / largest : 0.0;
      ivec4 bytes = ivec4(roundEven(own_values[first + min(at, QUADS - 1)] * inverse)) & 255;
      word = at == WORDS ? floatBitsToUint(largest / 127.0) : uint(bytes.x | bytes.y << 8 | bytes.z << 16 | bytes.w << 24);
    } else {
      vec4 quad = own_values[first + min(at, WORDS - 1) / 2];
      word = packHalf2x16(at % 2 == 0 ? quad.xy : quad.zw);
    }
    if (key)
      own_key[at] = word;
    else
      own_value[at] = word;
    if (!writer || (at == WORDS && QUANTIZED == 0)) continue;
    uint to = at < WORDS ? slot * WORDS + at : push.scales_offset + slot;
    if (key)
      key_cache_out[to] = word;
    else
      value_cache_out[to] = word;
  }
  barrier();
}

// The row's pairs that a thread rotates, of the queries and, in the part that holds the row's own position, of its key and value; what
// they are rotated by. Multiprocessors get what they request in order: the row, which is near, before keys and values.
const uint KEY = HEADS, VALUE = HEADS + 1, STEPS = ((HEADS + 2) * PAIRS + THREADS - 1) / THREADS;
vec2 row_pairs[STEPS], row_turns[STEPS];

void request_row() {
  UNROLL for (uint i = 0; i < STEPS; i++) {
    uint item = thread + i * THREADS, h = min(item / PAIRS, VALUE), at = item % PAIRS, turn = own_position * HEAD_DIM + at;
    uint head = h < HEADS ? min(first_head + h, push.heads - 1) : push.heads + kv_head + (h == KEY ? 0 : push.kv_heads);
    row_pairs[i] = vec2(qkv[head * HEAD_DIM + at], qkv[head * HEAD_DIM + at + PAIRS]);
    row_turns[i] = vec2(rope_table[turn], rope_table[turn + PAIRS]);
  }
}

// Rotates them; one work group per kv head caches key and value.
void prepare(bool owner, bool writer) {
  UNROLL for (uint i = 0; i < STEPS; i++) {
    uint item = thread + i * THREADS, h = item / PAIRS, at = item % PAIRS;
    if (h < HEADS ? h >= live : !owner || h > VALUE) continue;
    vec2 pair = row_pairs[i], turn = row_turns[i];
    if (h != VALUE) pair = vec2(pair.x * turn.x - pair.y * turn.y, pair.y * turn.x + pair.x * turn.y);
    uint to = (h < HEADS ? h : h - HEADS) * HEAD_DIM + at, other = to + PAIRS;
    if (h < HEADS) {
      queries[to / 4][to % 4] = pair.x;
      queries[other / 4][other % 4] = pair.y;
    } else {
      own_values[to / 4][to % 4] = pair.x;
      own_values[other / 4][other % 4] = pair.y;
    }
  }
  barrier();
  if (owner) pack_own(writer);
}

bool is_own(uint position) { return position == own_position; }
uvec4 own_key_unit(uint unit) {
  if (QUANTIZED != 0) return uvec4(own_key[2 * unit], own_key[2 * unit + 1], 0, 0);
  return uvec4(own_key[4 * unit], own_key[4 * unit + 1], own_key[4 * unit + 2], own_key[4 * unit + 3]);
}
uvec2 own_value_quad(uint quad) { return QUANTIZED != 0 ? uvec2(own_value[quad], 0) : uvec2(own_value[2 * quad], own_value[2 * quad + 1]); }
float own_key_scale() { return uintBitsToFloat(own_key[WORDS]); }
float own_value_scale() { return uintBitsToFloat(own_value[WORDS]); }
#else
void request_row() {}
void prepare(bool owner, bool writer) {
  for (uint i = thread; i < live * HEAD_DIM; i += THREADS)
    queries[i / 4][i % 4] = qkv[token * push.qkv_stride + first_head * HEAD_DIM + i];
  barrier();
}
bool is_own(uint position) { return false; }
uvec4 own_key_unit(uint unit) { return uvec4(0); }
uvec2 own_value_quad(uint quad) { return uvec2(0); }
float own_key_scale() { return 0.0; }
float own_value_scale() { return 0.0; }
#endif

// What the loop over keys and values needs of the rest, and below: what it provides.
void put_result(uint h, uint column, float value);
uint part_of(uint head, uint split);
#ifdef MATRIX
#include "attention_row_matrix.glsl"
#else
#include "attention_row_plain.glsl"
#endif

void put_result(uint h, uint column, float value) {
  y[token * push.y_stride + (first_head + h) * HEAD_DIM + column] = value;
  if (BYTES != 0) queries[h * QUADS + column / 4][column % 4] = value;
}

uint part_of(uint head, uint split) { return (token * push.heads + head) * SPLIT + split; }

// True in the work group that finishes last, for which all others' parts are visible. Leaves the counter at 0 for the next run.
bool finish_last(uint parts) {
  memoryBarrierBuffer();
  barrier();
  if (thread == 0) {
    uint counter = token * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    is_last = atomicAdd(finished[counter], 1) + 1 == parts;
    if (is_last) finished[counter] = 0;
  }
  barrier();
  memoryBarrierBuffer();
  return is_last;
}

#ifndef ALONE
// The results of the work group's heads, in `queries`, as integers.
void prepare_next() {
  barrier();
  for (uint first = 0; first < live * QUADS; first += THREADS) {
    uint item = first + thread;
    bool wanted = item < live * QUADS;
    float values[4];
    UNROLL for (uint j = 0; j < 4; j++) {
      uint column = column_of(item, j);
      values[j] = wanted ? queries[column / 4][column % 4] : 0.0;
    }
    Integers integers = to_integers(values);
    if (wanted) put_prepared(0, push.next_blocks, first_head * HEAD_DIM / 32 + item / 8, item % 8, integers, 0.0);
  }
}
#endif

// Never stores; without it nothing would be read.
void read_behind() {
#ifdef MATRIX
  uint all = gl_NumWorkGroups.x * gl_NumWorkGroups.z * THREADS, words = 0;
  uint at = (gl_WorkGroupID.z * gl_NumWorkGroups.x + gl_WorkGroupID.x) * THREADS + thread;
  UNROLL for (uint i = 0; i < EARLY_LOADS; i++) words |= early_word(at, all, i);
  if ((words & push.zero) != 0) y[0] = 0.0;
#endif
}

// Position and sequence of the row; where it is the only one, with one load of the run's words.
uvec2 find_row() {
#ifdef ROPE
  return run_of_one.pairs[2];
#else
  return uvec2(run.entries[token], run.entries[push.max_tokens + token]);
#endif
}

// A short context is work for a few subgroups on a multiprocessor, each instruction behind the one before: what can be known when the
// shader is made, or found behind the loads, does not delay them.
void main() {
  const uint CHUNKS = (GROUP + HEADS - 1) / HEADS;
  uint chunk = gl_WorkGroupID.x % CHUNKS;
  uvec2 row = find_row();
  kv_head = gl_WorkGroupID.x / CHUNKS;
  first_head = kv_head * GROUP + chunk * HEADS;
  live = min(HEADS, GROUP - chunk * HEADS);
  own_position = row.x;
  first_row = row.y * push.context;
  uint length = own_position + 1, step = length;
  if (SPLIT != 0 && length > 2 * POSITIONS) // merging takes longer than a second turn
    step = ((length + SPLIT - 1) / SPLIT + POSITIONS - 1) / POSITIONS * POSITIONS;
  uint begin = part * step, end = min(length, begin + step);
  if (begin >= length) {
    read_behind();
    return;
  }
  request_row();
  start(begin, end);
  bool owner = end == length, alone = step >= length;
  prepare(owner, owner && chunk == 0);
  attend(begin, end);
  write_results(alone);
  if (!alone) {
    uint parts = (length + step - 1) / step;
    if (!finish_last(parts)) {
      read_behind();
      return;
    }
    merge_splits(parts);
  }
#ifndef ALONE
  if (BYTES != 0) prepare_next();
#endif
}
