#version 460
// Flash-style attention of one row: a work group takes the query heads that share a kv head (up to HEADS of them) over one part of the
// context, 64 positions at a time, with a running maximum and sum. With SPLIT the last work group of a row and its heads to finish merges
// the parts. With ROPE (one row per run, no norms) it also does what rope_cache.comp does.
// The KV caches are laid out as in rope_cache.comp.
#extension GL_GOOGLE_include_directive : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;  // a power of two, at least HEAD_DIM / 2 and 16 * HEADS
layout(constant_id = 1) const uint HEAD_DIM = 128; // a multiple of 8
layout(constant_id = 2) const uint HEADS = 4;      // query heads per work group, at most 8
layout(constant_id = 3) const uint QUANTIZED = 0;
layout(constant_id = 4) const uint SPLIT = 0;
#include "run.glsl"
layout(set = 0, binding = 2) writeonly buffer Output { float y[]; };
#ifdef ROPE
layout(set = 0, binding = 1) buffer Qkv { float qkv[]; };
layout(set = 0, binding = 3) buffer KeyCache { uint key_cache[]; };
layout(set = 0, binding = 4) buffer ValueCache { uint value_cache[]; };
layout(set = 0, binding = 6) readonly buffer RopeTable { float rope_table[]; };
#else
layout(set = 0, binding = 1) readonly buffer Qkv { float qkv[]; };
layout(set = 0, binding = 3) readonly buffer KeyCache { uint key_cache[]; };
layout(set = 0, binding = 4) readonly buffer ValueCache { uint value_cache[]; };
#endif
// SPLIT: how many parts have finished, [rows][work groups per part]; and what they found, [rows][heads][splits][2 + HEAD_DIM]: maximum,
// sum and weighted values.
layout(set = 0, binding = 5) coherent buffer Partial { float partial[]; };
layout(set = 0, binding = 7) coherent buffer Finished { uint finished[]; };
layout(push_constant) uniform Push {
  uint heads, kv_heads, qkv_stride, y_stride, context, max_tokens;
  uint scales_offset;   // words before the scales of a q8 cache
  uint split_positions; // of one part
  float scale;
} push;
const uint POSITIONS = 64;
const uint KEY_PARTS = THREADS / POSITIONS; // threads per key, each with a share of the head's words
const uint WORDS = QUANTIZED != 0 ? HEAD_DIM / 4 : HEAD_DIM / 2;
const uint PAIRS = HEAD_DIM / 2, VALUE_PARTS = THREADS / PAIRS;
shared float queries[HEADS * HEAD_DIM];
shared float scores[KEY_PARTS * HEADS * POSITIONS];
shared float lanes[HEADS * 16];
shared float head_scale[HEADS], head_sum[HEADS], head_maximum[HEADS];
shared vec2 merged[THREADS];
shared bool is_last;
uint thread = gl_LocalInvocationIndex;
uint token = gl_WorkGroupID.y, part = gl_WorkGroupID.z;
uint kv_head, first_head, live; // query heads first_head .. first_head + live - 1

vec4 bytes_of(uint word) {
  return vec4(bitfieldExtract(int(word), 0, 8), bitfieldExtract(int(word), 8, 8), bitfieldExtract(int(word), 16, 8),
              bitfieldExtract(int(word), 24, 8));
}

#ifdef ROPE
// The row's own key and value, as the cache will hold them: words, then the scale of a q8 cache.
shared uint own_key[WORDS + 1], own_value[WORDS + 1];
shared float own_values[HEAD_DIM];

void pack_own(bool key) {
  float largest = 0.0, inverse = 0.0;
  if (QUANTIZED != 0) {
    for (uint i = 0; i < HEAD_DIM; i++) largest = max(largest, abs(own_values[i]));
    if (largest > 0.0) inverse = 127.0 / largest;
  }
  for (uint i = thread; i <= WORDS; i += THREADS) {
    uint word = 0;
    if (i == WORDS)
      word = floatBitsToUint(largest / 127.0);
    else if (QUANTIZED != 0)
      for (uint j = 0; j < 4; j++) word |= uint(int(roundEven(own_values[4 * i + j] * inverse)) & 255) << (8 * j);
    else
      word = packHalf2x16(vec2(own_values[2 * i], own_values[2 * i + 1]));
    if (key)
      own_key[i] = word;
    else
      own_value[i] = word;
  }
  barrier();
}

vec2 rotate(uint base, uint position, uint i) {
  float c = rope_table[position * HEAD_DIM + i], s = rope_table[position * HEAD_DIM + PAIRS + i];
  vec2 pair = vec2(qkv[base + i], qkv[base + i + PAIRS]);
  return vec2(pair.x * c - pair.y * s, pair.y * c + pair.x * s);
}

// Rotates the queries; in the part that holds the row's own position makes its key and value, and one work group per kv head caches them.
void prepare(uint position, uint row, bool owner, bool writer) {
  for (uint i = thread; i < HEADS * PAIRS; i += THREADS) {
    uint h = i / PAIRS, at = h * HEAD_DIM + i % PAIRS;
    vec2 pair = h < live ? rotate((first_head + h) * HEAD_DIM, position, i % PAIRS) : vec2(0);
    queries[at] = pair.x;
    queries[at + PAIRS] = pair.y;
  }
  if (!owner) return;
  uint base = (push.heads + kv_head) * HEAD_DIM;
  for (uint i = thread; i < PAIRS; i += THREADS) {
    vec2 pair = rotate(base, position, i);
    own_values[i] = pair.x;
    own_values[i + PAIRS] = pair.y;
  }
  barrier();
  pack_own(true);
  base += push.kv_heads * HEAD_DIM;
  for (uint i = thread; i < HEAD_DIM; i += THREADS) own_values[i] = qkv[base + i];
  barrier();
  pack_own(false);
  if (!writer) return;
  uint to = row * push.kv_heads + kv_head;
  for (uint i = thread; i < WORDS; i += THREADS) {
    key_cache[to * WORDS + i] = own_key[i];
    value_cache[to * WORDS + i] = own_value[i];
  }
  if (QUANTIZED != 0 && thread == 0) {
    key_cache[push.scales_offset + to] = own_key[WORDS];
    value_cache[push.scales_offset + to] = own_value[WORDS];
  }
}

// The rotated queries take their place once no work group needs the plain ones any more.
void put_queries() {
  for (uint i = thread; i < live * HEAD_DIM; i += THREADS) qkv[first_head * HEAD_DIM + i] = queries[i];
}

// The own position is not read back from the cache: another work group may be writing it.
uint key_word(bool own, uint base, uint i) { return own ? own_key[i] : key_cache[base + i]; }
uint value_word(bool own, uint base, uint i) { return own ? own_value[i] : value_cache[base + i]; }
float key_scale(bool own, uint at) { return uintBitsToFloat(own ? own_key[WORDS] : key_cache[push.scales_offset + at]); }
float value_scale(bool own, uint at) { return uintBitsToFloat(own ? own_value[WORDS] : value_cache[push.scales_offset + at]); }
#else
void prepare(uint position, uint row, bool owner, bool writer) {
  for (uint i = thread; i < HEADS * HEAD_DIM; i += THREADS)
    queries[i] = i < live * HEAD_DIM ? qkv[token * push.qkv_stride + first_head * HEAD_DIM + i] : 0.0;
}
void put_queries() {}
uint key_word(bool own, uint base, uint i) { return key_cache[base + i]; }
uint value_word(bool own, uint base, uint i) { return value_cache[base + i]; }
float key_scale(bool own, uint at) { return uintBitsToFloat(key_cache[push.scales_offset + at]); }
float value_scale(bool own, uint at) { return uintBitsToFloat(value_cache[push.scales_offset + at]); }
#endif

// Scores of one position for all heads, over this thread's share of the head's words.
void score(uint row, bool own, uint position, uint share) {
  float sums[HEADS];
  for (uint h = 0; h < HEADS; h++) sums[h] = 0.0;
  uint at = row * push.kv_heads + kv_head, base = at * WORDS;
  for (uint i = share; i < WORDS / 2; i += KEY_PARTS) {
    uint first = key_word(own, base, 2 * i), second = key_word(own, base, 2 * i + 1);
    if (QUANTIZED != 0) {
      vec4 a = bytes_of(first), b = bytes_of(second);
      for (uint h = 0; h < HEADS; h++) {
        uint q = h * HEAD_DIM + 8 * i;
        sums[h] += dot(a, vec4(queries[q], queries[q + 1], queries[q + 2], queries[q + 3])) +
                   dot(b, vec4(queries[q + 4], queries[q + 5], queries[q + 6], queries[q + 7]));
      }
    } else {
      vec4 a = vec4(unpackHalf2x16(first), unpackHalf2x16(second));
      for (uint h = 0; h < HEADS; h++) {
        uint q = h * HEAD_DIM + 4 * i;
        sums[h] += dot(a, vec4(queries[q], queries[q + 1], queries[q + 2], queries[q + 3]));
      }
    }
  }
  float scale = push.scale;
  if (QUANTIZED != 0) scale *= key_scale(own, at);
  for (uint h = 0; h < HEADS; h++) scores[(share * HEADS + h) * POSITIONS + position] = sums[h] * scale;
}

// Turns scores into exp(score - maximum), updates maxima and sums; head_scale gets the factor for what was added up so far.
void soften(uint count) {
  uint h = thread / 16, lane = thread % 16;
  bool busy = thread < HEADS * 16;
  float values[POSITIONS / 16], before = busy ? head_maximum[h] : 0.0, largest = before;
  for (uint i = 0; i < POSITIONS / 16; i++) {
    uint position = lane + 16 * i;
    values[i] = 0.0;
    if (busy && position < count) {
      for (uint share = 0; share < KEY_PARTS; share++) values[i] += scores[(share * HEADS + h) * POSITIONS + position];
      largest = max(largest, values[i]);
    }
  }
  if (busy) lanes[thread] = largest;
  barrier();
  if (busy)
    for (uint i = 0; i < 16; i++) largest = max(largest, lanes[h * 16 + i]);
  barrier();
  float sum = 0.0;
  for (uint i = 0; i < POSITIONS / 16; i++) {
    uint position = lane + 16 * i;
    if (busy) {
      float probability = position < count ? exp(values[i] - largest) : 0.0;
      scores[h * POSITIONS + position] = probability;
      sum += probability;
    }
  }
  if (busy) lanes[thread] = sum;
  barrier();
  if (busy && lane == 0) {
    sum = 0.0;
    for (uint i = 0; i < 16; i++) sum += lanes[thread + i];
    head_scale[h] = exp(before - largest);
    head_sum[h] = head_sum[h] * head_scale[h] + sum;
    head_maximum[h] = largest;
  }
  barrier();
}

vec2 value_pair(uint row, bool own, uint pair) {
  uint at = row * push.kv_heads + kv_head;
  if (QUANTIZED == 0) return unpackHalf2x16(value_word(own, at * WORDS, pair));
  int word = int(value_word(own, at * WORDS, pair / 2)) >> (pair % 2 * 16);
  return vec2(bitfieldExtract(word, 0, 8), bitfieldExtract(word, 8, 8)) * value_scale(own, at);
}

uint partial_of(uint head, uint split) { return ((token * push.heads + head) * run.splits + split) * (HEAD_DIM + 2); }

// The sum over a head's value parts, in the threads of part 0.
vec2 merge_parts(vec2 own) {
  merged[thread] = own;
  barrier();
  vec2 total = own;
  if (thread < PAIRS)
    for (uint i = 1; i < VALUE_PARTS; i++) total += merged[thread + i * PAIRS];
  barrier();
  return total;
}

// True in the work group that finishes last, for which all others' parts are visible. Leaves the counter at 0 for the next run.
bool finish_last() {
  memoryBarrierBuffer();
  barrier();
  if (thread == 0) {
    uint counter = token * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    is_last = atomicAdd(finished[counter], 1) + 1 == gl_NumWorkGroups.z;
    if (is_last) finished[counter] = 0;
  }
  barrier();
  memoryBarrierBuffer();
  return is_last;
}

void merge_splits() {
  uint pair = thread % PAIRS, lane = thread / PAIRS;
  if (lane >= VALUE_PARTS) return;
  for (uint h = lane; h < live; h += VALUE_PARTS) {
    float maximum = -3.0e38, sum = 0.0;
    vec2 total = vec2(0);
    for (uint i = 0; i < run.splits; i++) {
      uint at = partial_of(first_head + h, i);
      float other = partial[at], largest = max(maximum, other), old_scale = exp(maximum - largest), new_scale = exp(other - largest);
      sum = sum * old_scale + partial[at + 1] * new_scale;
      total = total * old_scale + vec2(partial[at + 2 + 2 * pair], partial[at + 3 + 2 * pair]) * new_scale;
      maximum = largest;
    }
    uint to = token * push.y_stride + (first_head + h) * HEAD_DIM + 2 * pair;
    y[to] = total.x / sum;
    y[to + 1] = total.y / sum;
  }
}

void main() {
  uint group = push.heads / push.kv_heads, chunks = (group + HEADS - 1) / HEADS, chunk = gl_WorkGroupID.x % chunks;
  kv_head = gl_WorkGroupID.x / chunks;
  first_head = kv_head * group + chunk * HEADS;
  live = min(HEADS, (kv_head + 1) * group - first_head);
  uint length = uint(run.entries[token]) + 1, base = uint(run.entries[push.max_tokens + token]) * push.context;
  uint begin = SPLIT != 0 ? part * push.split_positions : 0, end = SPLIT != 0 ? min(length, begin + push.split_positions) : length;
  bool owner = begin < length && end == length;
  prepare(length - 1, base + length - 1, owner, owner && chunk == 0);
  if (thread < HEADS) {
    head_sum[thread] = 0.0;
    head_maximum[thread] = -3.0e38;
  }
  barrier();

  uint pair = thread % PAIRS, value_part = thread / PAIRS;
  vec2 results[HEADS];
  for (uint h = 0; h < HEADS; h++) results[h] = vec2(0);
  for (uint first = begin; first < end; first += POSITIONS) {
    uint count = min(POSITIONS, end - first), position = thread % POSITIONS;
    if (position < count && thread < KEY_PARTS * POSITIONS)
      score(base + first + position, first + position == length - 1, position, thread / POSITIONS);
    barrier();
    soften(count);
    if (value_part < VALUE_PARTS) {
      for (uint h = 0; h < HEADS; h++) results[h] *= head_scale[h];
      for (uint i = value_part; i < count; i += VALUE_PARTS) {
        vec2 value = value_pair(base + first + i, first + i == length - 1, pair);
        for (uint h = 0; h < HEADS; h++) results[h] += scores[h * POSITIONS + i] * value;
      }
    }
    barrier();
  }

  for (uint h = 0; h < live; h++) {
    vec2 total = merge_parts(results[h]);
    if (thread >= PAIRS) continue;
    if (SPLIT == 0) {
      uint to = token * push.y_stride + (first_head + h) * HEAD_DIM + 2 * pair;
      y[to] = total.x / head_sum[h];
      y[to + 1] = total.y / head_sum[h];
    } else {
      uint to = partial_of(first_head + h, part);
      partial[to + 2 + 2 * pair] = total.x;
      partial[to + 3 + 2 * pair] = total.y;
      if (thread == 0) {
        partial[to] = head_maximum[h];
        partial[to + 1] = head_sum[h];
      }
    }
  }
  if (SPLIT != 0 && !finish_last()) return;
  if (SPLIT != 0) merge_splits();
  put_queries();
}
