#version 460
// Flash-style attention of one row: a work group takes the query heads that share a kv head (up to HEADS of them) over one part of the
// context, 64 positions at a time, with a running maximum and sum. With SPLIT the parts are merged by attention_merge.comp.
#extension GL_GOOGLE_include_directive : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128; // at least HEAD_DIM / 2 and 16 * HEADS
layout(constant_id = 1) const uint HEAD_DIM = 128; // a multiple of 8
layout(constant_id = 2) const uint HEADS = 4;      // query heads per work group, at most 8
layout(constant_id = 3) const uint QUANTIZED = 0;
layout(constant_id = 4) const uint SPLIT = 0;
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Qkv { float qkv[]; };
layout(set = 0, binding = 2) writeonly buffer Output { float y[]; }; // SPLIT: see attention_merge.comp
layout(set = 0, binding = 3) readonly buffer KeyCache { uint key_cache[]; };
layout(set = 0, binding = 4) readonly buffer ValueCache { uint value_cache[]; };
layout(push_constant) uniform Push {
  uint heads, kv_heads, qkv_stride, y_stride, context, max_tokens;
  uint scales_offset;   // words before the scales of a q8 cache
  uint split_positions; // of one part
  float scale;
} push;
const uint POSITIONS = 64;
const uint KEY_PARTS = THREADS / POSITIONS;          // threads per key, each with a share of the head's words
const uint WORDS = QUANTIZED != 0 ? HEAD_DIM / 4 : HEAD_DIM / 2;
const uint PAIRS = HEAD_DIM / 2, VALUE_PARTS = THREADS / PAIRS;
shared float queries[HEADS * HEAD_DIM];
shared float scores[KEY_PARTS * HEADS * POSITIONS];
shared float lanes[HEADS * 16];
shared float head_scale[HEADS], head_sum[HEADS];
shared vec2 merged[THREADS];

vec4 bytes_of(uint word) {
  ivec4 v = ivec4(bitfieldExtract(int(word), 0, 8), bitfieldExtract(int(word), 8, 8), bitfieldExtract(int(word), 16, 8),
                  bitfieldExtract(int(word), 24, 8));
  return vec4(v);
}

// Scores of one position for all heads, over this thread's share of the head's words.
void score(uint row, uint kv_head, uint position, uint part) {
  float sums[HEADS];
  for (uint h = 0; h < HEADS; h++) sums[h] = 0.0;
  uint base = (row * push.kv_heads + kv_head) * WORDS;
  for (uint i = part; i < WORDS / 2; i += KEY_PARTS) {
    uint first = key_cache[base + 2 * i], second = key_cache[base + 2 * i + 1];
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
  if (QUANTIZED != 0) scale *= uintBitsToFloat(key_cache[push.scales_offset + row * push.kv_heads + kv_head]);
  for (uint h = 0; h < HEADS; h++) scores[(part * HEADS + h) * POSITIONS + position] = sums[h] * scale;
}

// Turns scores into exp(score - maximum), updates maxima and sums; head_scale gets the factor for what was added up so far.
void soften(uint count, inout float maximum) {
  uint thread = gl_LocalInvocationIndex, h = thread / 16, lane = thread % 16;
  bool busy = thread < HEADS * 16;
  float values[POSITIONS / 16], largest = maximum;
  for (uint i = 0; i < POSITIONS / 16; i++) {
    uint position = lane + 16 * i;
    values[i] = 0.0;
    if (busy && position < count) {
      for (uint part = 0; part < KEY_PARTS; part++) values[i] += scores[(part * HEADS + h) * POSITIONS + position];
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
    head_scale[h] = exp(maximum - largest);
    head_sum[h] = head_sum[h] * head_scale[h] + sum;
  }
  maximum = largest;
  barrier();
}

void main() {
  uint thread = gl_LocalInvocationIndex, token = gl_WorkGroupID.y, part = gl_WorkGroupID.z;
  uint group = push.heads / push.kv_heads, chunks = (group + HEADS - 1) / HEADS;
  uint kv_head = gl_WorkGroupID.x / chunks, first_head = kv_head * group + gl_WorkGroupID.x % chunks * HEADS;
  uint live = min(HEADS, (kv_head + 1) * group - first_head);
  uint length = uint(run.entries[token]) + 1, base = uint(run.entries[push.max_tokens + token]) * push.context;
  uint begin = SPLIT != 0 ? part * push.split_positions : 0, end = SPLIT != 0 ? min(length, begin + push.split_positions) : length;
  for (uint i = thread; i < HEADS * HEAD_DIM; i += THREADS)
    queries[i] = i < live * HEAD_DIM ? qkv[token * push.qkv_stride + first_head * HEAD_DIM + i] : 0.0;
  if (thread < HEADS) head_sum[thread] = 0.0;
  barrier();

  float maximum = -3.0e38; // of the head that this thread softens
  uint pair = thread % PAIRS, value_part = thread / PAIRS;
  vec2 results[HEADS];
  for (uint h = 0; h < HEADS; h++) results[h] = vec2(0);
  for (uint first = begin; first < end; first += POSITIONS) {
    uint count = min(POSITIONS, end - first), position = thread % POSITIONS;
    if (position < count && thread < KEY_PARTS * POSITIONS) score(base + first + position, kv_head, position, thread / POSITIONS);
    barrier();
    soften(count, maximum);
    if (value_part < VALUE_PARTS) {
      for (uint h = 0; h < HEADS; h++) results[h] *= head_scale[h];
      for (uint i = value_part; i < count; i += VALUE_PARTS) {
        uint row = base + first + i;
        vec2 value;
        if (QUANTIZED != 0) {
          int word = int(value_cache[(row * push.kv_heads + kv_head) * WORDS + pair / 2]) >> (pair % 2 * 16);
          value = vec2(bitfieldExtract(word, 0, 8), bitfieldExtract(word, 8, 8)) *
                  uintBitsToFloat(value_cache[push.scales_offset + row * push.kv_heads + kv_head]);
        } else {
          value = unpackHalf2x16(value_cache[(row * push.kv_heads + kv_head) * WORDS + pair]);
        }
        for (uint h = 0; h < HEADS; h++) results[h] += scores[h * POSITIONS + i] * value;
      }
    }
    barrier();
  }

  for (uint h = 0; h < live; h++) {
    merged[thread] = results[h];
    barrier();
    if (value_part == 0) {
      vec2 total = results[h];
      for (uint i = 1; i < VALUE_PARTS; i++) total += merged[thread + i * PAIRS];
      if (SPLIT == 0) {
        uint at = token * push.y_stride + (first_head + h) * HEAD_DIM + 2 * pair;
        total /= head_sum[h];
        y[at] = total.x;
        y[at + 1] = total.y;
      } else {
        uint at = ((token * push.heads + first_head + h) * run.splits + part) * (HEAD_DIM + 2);
        y[at + 2 + 2 * pair] = total.x;
        y[at + 3 + 2 * pair] = total.y;
        if (thread == 0) y[at + 1] = head_sum[h];
      }
    }
    barrier();
  }
  if (SPLIT != 0 && thread < HEADS * 16 && thread % 16 == 0 && thread / 16 < live)
    y[((token * push.heads + first_head + thread / 16) * run.splits + part) * (HEAD_DIM + 2)] = maximum;
}
