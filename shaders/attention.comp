#version 460
// Flash-style attention of one row: a work group takes the query heads that share a kv head (up to HEADS of them) over one part of the
// context, 64 positions at a time, with a running maximum and sum. With SPLIT the last work group of a row and its heads to finish merges
// the parts; how long they are follows from the row's position, and work groups past its end have nothing to do. With ROPE (one row per
// run, no norms) it also does what rope_cache.comp does, but for the rotated queries, which stay here. The KV caches are laid out as in
// rope_cache.comp. With BYTES (one row per run) it also prepares its results as the input of the product behind it (prepared.glsl). ALONE: it
// never does, and needs 8 storage buffers instead of 9.
// Keys and values of 64 positions are requested together, before the row itself is read: memory is waited for once. Short contexts are bound
// by the instructions of a thread, one after the other, so everything is spread over all threads of a large work group.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef SUBGROUP // of at least 32
#extension GL_KHR_shader_subgroup_shuffle : require
#define UNROLLED
#endif
#ifdef UNROLLED
#define UNROLL [[unroll]]
#else
#define UNROLL // compilers for CPUs take minutes over what a GPU's needs to keep arrays in registers
#endif
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;   // a power of two, at least 128 and HEAD_DIM / 4
layout(constant_id = 1) const uint HEAD_DIM = 128;  // a multiple of 8
layout(constant_id = 2) const uint HEADS = 4;       // query heads per work group, at most 4
layout(constant_id = 3) const uint QUANTIZED = 0;
layout(constant_id = 4) const uint SPLIT = 0;       // parts of the context at most, 0: one
layout(constant_id = 5) const uint MERGE_HEADS = 1; // heads whose results are added up at once; bounds shared memory
layout(constant_id = 6) const uint BYTES = 0;       // of the next product's integers, 0: it is not prepared; else HEAD_DIM % 32 == 0
#include "run.glsl"
layout(set = 0, binding = 2) writeonly buffer Output { float y[]; };
layout(set = 0, binding = 1) readonly buffer Qkv { float qkv[]; };
#ifdef ROPE
#define CACHE buffer
layout(set = 0, binding = 6) readonly buffer RopeTable { float rope_table[]; };
#else
#define CACHE readonly buffer
#endif
layout(set = 0, binding = 3) CACHE KeyCache { uint key_cache[]; };
layout(set = 0, binding = 3) CACHE KeyCache2 { uvec2 key_cache2[]; };
layout(set = 0, binding = 3) CACHE KeyCache4 { uvec4 key_cache4[]; };
layout(set = 0, binding = 4) CACHE ValueCache { uint value_cache[]; };
layout(set = 0, binding = 4) CACHE ValueCache2 { uvec2 value_cache2[]; };
// SPLIT: what the parts found, [rows][heads][SPLIT][HEAD_DIM / 4 + 1]: weighted values, then maximum and sum; and how many parts have
// finished, [rows][work groups per part].
layout(set = 0, binding = 5) coherent buffer Partial { vec4 partial[]; };
layout(set = 0, binding = 7) coherent buffer Finished { uint finished[]; };
#ifndef ALONE
layout(set = 0, binding = 8) writeonly buffer Next { uint next[]; };
#endif
layout(push_constant) uniform Push {
  uint heads, kv_heads, qkv_stride, y_stride, context, max_tokens;
  uint scales_offset; // words before the scales of a q8 cache
  float scale;
  uint next_blocks; // of the next product's input
} push;
const uint POSITIONS = 64;
const uint KEY_PARTS = THREADS / POSITIONS; // threads per key, each with a share of the head's units
const uint UNITS = HEAD_DIM / 8;            // 8 values of a key
const uint KEY_STEPS = (UNITS + KEY_PARTS - 1) / KEY_PARTS;
const uint QUADS = HEAD_DIM / 4; // 4 values of a value row
const uint VALUE_PARTS = THREADS / QUADS;
const uint ALL_STEPS = (POSITIONS + VALUE_PARTS - 1) / VALUE_PARTS;
const uint VALUE_STEPS = ALL_STEPS < 8 ? ALL_STEPS : 8; // requested together
const uint WORDS = QUANTIZED != 0 ? HEAD_DIM / 4 : HEAD_DIM / 2;
const uint PAIRS = HEAD_DIM / 2;
shared vec4 queries[HEADS * QUADS]; // BYTES: at the end the results
shared float scores[KEY_PARTS * HEADS * POSITIONS];
#ifdef SUBGROUP
const uint LANES = 32; // threads that soften the scores of a head
#else
const uint LANES = 16;
shared float lanes[HEADS * LANES];
#endif
shared float head_scale[HEADS], head_sum[HEADS], head_maximum[HEADS + 1]; // the last is nobody's
shared vec4 merged[MERGE_HEADS * THREADS];
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
      key_cache[to] = word;
    else
      value_cache[to] = word;
  }
  barrier();
}

// Rotates the queries; in the part that holds the row's own position makes its key and value, and one work group per kv head caches them.
void prepare(bool owner, bool writer) {
  const uint KEY = HEADS, VALUE = HEADS + 1, STEPS = ((HEADS + 2) * PAIRS + THREADS - 1) / THREADS;
  UNROLL for (uint i = 0; i < STEPS; i++) {
    uint item = thread + i * THREADS, h = item / PAIRS, at = item % PAIRS;
    uint head = h < HEADS ? first_head + h : push.heads + kv_head + (h == KEY ? 0 : push.kv_heads);
    if (h < HEADS ? h >= live : !owner || h > VALUE) continue;
    vec2 pair = vec2(qkv[head * HEAD_DIM + at], qkv[head * HEAD_DIM + at + PAIRS]);
    if (h != VALUE) {
      float c = rope_table[own_position * HEAD_DIM + at], s = rope_table[own_position * HEAD_DIM + PAIRS + at];
      pair = vec2(pair.x * c - pair.y * s, pair.y * c + pair.x * s);
    }
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

// ---- what a thread fetches of 64 positions: its units of one key, and a quad of the first of its values ----
// Places past the end read the last position once more, whose value counts with a probability of 0. The row's own position is read too, where
// the cache may hold anything, and replaced by what the work group made of it.

uvec4 keys[KEY_STEPS];
float key_factor;
uvec2 values[VALUE_STEPS];
float value_factors[VALUE_STEPS];

void fetch_keys(uint position) {
  uint slot = cache_slot(position), share = thread / POSITIONS;
  UNROLL for (uint i = 0; i < KEY_STEPS; i++) {
    uint unit = min(share + i * KEY_PARTS, UNITS - 1);
    keys[i] = QUANTIZED != 0 ? uvec4(key_cache2[slot * UNITS + unit], 0, 0) : key_cache4[slot * UNITS + unit];
  }
  key_factor = push.scale;
  if (QUANTIZED != 0) key_factor *= uintBitsToFloat(key_cache[push.scales_offset + slot]);
}

// The position of step i of the thread's values.
uint value_position(uint first, uint i, uint end) { return min(first + thread / QUADS + i * VALUE_PARTS, end - 1); }

void fetch_values(uint first, uint end) {
  UNROLL for (uint i = 0; i < VALUE_STEPS; i++) {
    uint slot = cache_slot(value_position(first, i, end)), at = slot * QUADS + thread % QUADS;
    values[i] = QUANTIZED != 0 ? uvec2(value_cache[at], 0) : value_cache2[at];
    value_factors[i] = QUANTIZED != 0 ? uintBitsToFloat(value_cache[push.scales_offset + slot]) : 1.0;
  }
}

// Scores of one position for all heads, over this thread's share of the head's units.
void score(uint position) {
  float sums[HEADS];
  uint share = thread / POSITIONS;
  bool own = is_own(position);
  UNROLL for (uint h = 0; h < HEADS; h++) sums[h] = 0.0;
  UNROLL for (uint i = 0; i < KEY_STEPS; i++) {
    uint unit = share + i * KEY_PARTS;
    if (unit < UNITS) {
      uvec4 key = own ? own_key_unit(unit) : keys[i];
      vec4 a = QUANTIZED != 0 ? bytes_of(key.x) : vec4(unpackHalf2x16(key.x), unpackHalf2x16(key.y));
      vec4 b = QUANTIZED != 0 ? bytes_of(key.y) : vec4(unpackHalf2x16(key.z), unpackHalf2x16(key.w));
      UNROLL for (uint h = 0; h < HEADS; h++) sums[h] += dot(a, queries[h * QUADS + 2 * unit]) + dot(b, queries[h * QUADS + 2 * unit + 1]);
    }
  }
  float factor = own && QUANTIZED != 0 ? push.scale * own_key_scale() : key_factor;
  UNROLL for (uint h = 0; h < HEADS; h++) scores[(share * HEADS + h) * POSITIONS + thread % POSITIONS] = sums[h] * factor;
}

// Over the LANES neighbouring threads of a head. All threads of the work group call them.
#ifdef SUBGROUP
float lanes_max(float value) {
  UNROLL for (uint i = 1; i < LANES; i <<= 1) value = max(value, subgroupShuffleXor(value, i));
  return value;
}
float lanes_sum(float value) {
  UNROLL for (uint i = 1; i < LANES; i <<= 1) value += subgroupShuffleXor(value, i);
  return value;
}
#else
void share_lanes(float value) {
  barrier();
  if (thread < HEADS * LANES) lanes[thread] = value;
  barrier();
}
float lanes_max(float value) {
  share_lanes(value);
  uint first = thread < HEADS * LANES ? thread / LANES * LANES : 0;
  for (uint i = 0; i < LANES; i++) value = max(value, lanes[first + i]);
  return value;
}
float lanes_sum(float value) {
  share_lanes(value);
  uint first = thread < HEADS * LANES ? thread / LANES * LANES : 0;
  float sum = 0.0;
  for (uint i = 0; i < LANES; i++) sum += lanes[first + i];
  return sum;
}
#endif

// Turns scores into exp(score - maximum), updates maxima and sums; head_scale gets the factor for what was added up so far. Places from
// `count` on get 0.
void soften(uint count) {
  uint h = min(thread / LANES, HEADS), lane = thread % LANES; // HEADS: of threads that are not busy, as others write the heads' maxima
  bool busy = thread < HEADS * LANES;
  float own_scores[POSITIONS / LANES], before = head_maximum[h], largest = before, sum = 0.0;
  UNROLL for (uint i = 0; i < POSITIONS / LANES; i++) {
    uint place = lane + LANES * i;
    own_scores[i] = 0.0;
    if (busy && place < count) {
      UNROLL for (uint share = 0; share < KEY_PARTS; share++) own_scores[i] += scores[(share * HEADS + h) * POSITIONS + place];
      largest = max(largest, own_scores[i]);
    }
  }
  largest = lanes_max(largest);
  UNROLL for (uint i = 0; i < POSITIONS / LANES; i++) {
    uint place = lane + LANES * i;
    float probability = place < count ? exp(own_scores[i] - largest) : 0.0;
    if (busy) scores[h * POSITIONS + place] = probability;
    sum += probability;
  }
  sum = lanes_sum(sum);
  if (busy && lane == 0) {
    float factor = exp(before - largest);
    head_scale[h] = factor;
    head_sum[h] = head_sum[h] * factor + sum;
    head_maximum[h] = largest;
  }
  barrier();
}

vec4 results[HEADS]; // of the thread's quad, over its value part's positions

// Adds the fetched values with their probabilities; `local` is the first one's place in the block.
void add_values(uint first, uint local, uint end) {
  UNROLL for (uint i = 0; i < VALUE_STEPS; i++) {
    uint at = local + thread / QUADS + i * VALUE_PARTS;
    bool counts = VALUE_PARTS * ALL_STEPS == POSITIONS || at < POSITIONS, own = is_own(value_position(first, i, end));
    uvec2 words = own ? own_value_quad(thread % QUADS) : values[i];
    vec4 value = QUANTIZED != 0 ? bytes_of(words.x) * (own ? own_value_scale() : value_factors[i])
                                : vec4(unpackHalf2x16(words.x), unpackHalf2x16(words.y));
    UNROLL for (uint h = 0; h < HEADS; h++) results[h] += (counts ? scores[h * POSITIONS + at] : 0.0) * value;
  }
}

void put_result(uint h, uint column, float value) {
  y[token * push.y_stride + (first_head + h) * HEAD_DIM + column] = value;
  if (BYTES != 0) queries[h * QUADS + column / 4][column % 4] = value;
}

uint partial_of(uint head, uint split) { return ((token * push.heads + head) * SPLIT + split) * (QUADS + 1); }

// The sums over the value parts: to the output, or to this part's partial results.
void write_results(bool alone) {
  UNROLL for (uint first = 0; first < HEADS; first += MERGE_HEADS) {
    UNROLL for (uint i = 0; i < MERGE_HEADS; i++)
      if (first + i < HEADS) merged[i * THREADS + thread] = results[min(first + i, HEADS - 1)];
    barrier();
    UNROLL for (uint i = 0; i < (MERGE_HEADS * HEAD_DIM + THREADS - 1) / THREADS; i++) {
      uint item = thread + i * THREADS, h = first + item / HEAD_DIM, column = item % HEAD_DIM;
      if (h >= min(live, first + MERGE_HEADS)) continue;
      float total = 0.0;
      UNROLL for (uint j = 0; j < VALUE_PARTS; j++) total += merged[item / HEAD_DIM * THREADS + j * QUADS + column / 4][column % 4];
      if (alone)
        put_result(h, column, total / head_sum[h]);
      else
        partial[partial_of(first_head + h, part) + column / 4][column % 4] = total;
    }
    if (first + MERGE_HEADS < HEADS) barrier();
  }
  if (!alone && thread < live) partial[partial_of(first_head + thread, part) + QUADS] = vec4(head_maximum[thread], head_sum[thread], 0, 0);
}

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

// scores[h][0..63] and [64..127] take the parts' maxima and sums.
void merge_splits(uint parts) {
  for (uint i = thread; i < live * parts; i += THREADS) {
    uint h = i / parts, split = i % parts;
    vec4 found = partial[partial_of(first_head + h, split) + QUADS];
    scores[h * 128 + split] = found.x;
    scores[h * 128 + 64 + split] = found.y;
  }
  barrier();
  for (uint item = thread; item < live * HEAD_DIM; item += THREADS) {
    uint h = item / HEAD_DIM, column = item % HEAD_DIM;
    float maximum = -3.0e38, sum = 0.0, total = 0.0;
    for (uint i = 0; i < parts; i++) maximum = max(maximum, scores[h * 128 + i]);
    for (uint first = 0; first < parts; first += 4) {
      float found[4];
      UNROLL for (uint i = 0; i < 4; i++)
        found[i] = partial[partial_of(first_head + h, min(first + i, parts - 1)) + column / 4][column % 4];
      UNROLL for (uint i = 0; i < 4; i++)
        if (first + i < parts) {
          float factor = exp(scores[h * 128 + first + i] - maximum);
          total += factor * found[i];
          sum += factor * scores[h * 128 + 64 + first + i];
        }
    }
    put_result(h, column, total / sum);
  }
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

void main() {
  uint group = push.heads / push.kv_heads, chunks = (group + HEADS - 1) / HEADS, chunk = gl_WorkGroupID.x % chunks;
  kv_head = gl_WorkGroupID.x / chunks;
  first_head = kv_head * group + chunk * HEADS;
  live = min(HEADS, (kv_head + 1) * group - first_head);
  own_position = uint(run.entries[token]);
  first_row = uint(run.entries[push.max_tokens + token]) * push.context;
  uint length = own_position + 1, begin = 0, end = length, parts = 1;
  if (SPLIT != 0) {
    uint step = ((length + SPLIT - 1) / SPLIT + POSITIONS - 1) / POSITIONS * POSITIONS;
    if (length <= 2 * POSITIONS) step = length; // merging takes longer than a second turn
    parts = (length + step - 1) / step;
    if (part >= parts) return;
    begin = part * step;
    end = min(length, begin + step);
  }
  uint local = thread % POSITIONS;
  fetch_keys(min(begin + local, end - 1));
  fetch_values(begin, min(end, begin + POSITIONS));
  if (thread < HEADS) {
    head_sum[thread] = 0.0;
    head_maximum[thread] = -3.0e38;
  }
  UNROLL for (uint h = 0; h < HEADS; h++) results[h] = vec4(0);
  bool owner = end == length;
  prepare(owner, owner && chunk == 0);

  for (uint first = begin; first < end; first += POSITIONS) {
    uint stop = min(end, first + POSITIONS);
    score(min(first + local, stop - 1));
    barrier();
    soften(stop - first);
    if (thread < QUADS * VALUE_PARTS) {
      UNROLL for (uint h = 0; h < HEADS; h++) results[h] *= head_scale[h];
      add_values(first, 0, stop);
      for (uint more = VALUE_STEPS * VALUE_PARTS; more < POSITIONS; more += VALUE_STEPS * VALUE_PARTS) {
        fetch_values(first + more, stop);
        add_values(first + more, more, stop);
      }
    }
    if (stop < end) {
      fetch_keys(min(stop + local, end - 1));
      fetch_values(stop, min(end, stop + POSITIONS));
      barrier();
    }
  }
  write_results(parts == 1);
  if (parts > 1) {
    if (!finish_last(parts)) return;
    merge_splits(parts);
  }
#ifndef ALONE
  if (BYTES != 0) prepare_next();
#endif
}
