#version 460
// Rotary embedding of one head of one row: queries in place, keys and values to the caches. One work group per head, q | k | v.
// The KV cache (state.c): row = sequence * context + position, of kv_heads * head_dim values,
//   f16: uint [rows][columns / 2], pairs of halves;  q8: uint [rows][columns / 4], signed bytes, then f32 scales [rows][kv_heads].
#extension GL_GOOGLE_include_directive : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 64; // a power of two
layout(constant_id = 1) const uint HEAD_DIM = 128;
layout(constant_id = 2) const uint QUANTIZED = 0;
layout(constant_id = 3) const uint NORM = 0;
#include "run.glsl"
layout(set = 0, binding = 1) buffer Qkv { float qkv[]; };
layout(set = 0, binding = 2) readonly buffer RopeTable { float rope_table[]; };
layout(set = 0, binding = 3) writeonly buffer KeyCache { uint key_cache[]; };
layout(set = 0, binding = 4) writeonly buffer ValueCache { uint value_cache[]; };
layout(set = 0, binding = 5) readonly buffer QueryNorm { float query_norm[]; };
layout(set = 0, binding = 6) readonly buffer KeyNorm { float key_norm[]; };
layout(push_constant) uniform Push {
  uint heads, kv_heads, stride, context, max_tokens;
  uint scales_offset; // words before the scales of a q8 cache
  float epsilon;
} push;
shared float values[HEAD_DIM];
shared float reduction[THREADS];

float reduce_sum(float value) {
  reduction[gl_LocalInvocationIndex] = value;
  barrier();
  for (uint step = THREADS / 2; step > 0; step >>= 1) {
    if (gl_LocalInvocationIndex < step) reduction[gl_LocalInvocationIndex] += reduction[gl_LocalInvocationIndex + step];
    barrier();
  }
  float result = reduction[0];
  barrier();
  return result;
}

float reduce_max(float value) {
  reduction[gl_LocalInvocationIndex] = value;
  barrier();
  for (uint step = THREADS / 2; step > 0; step >>= 1) {
    if (gl_LocalInvocationIndex < step)
      reduction[gl_LocalInvocationIndex] = max(reduction[gl_LocalInvocationIndex], reduction[gl_LocalInvocationIndex + step]);
    barrier();
  }
  float result = reduction[0];
  barrier();
  return result;
}

void put(bool key, uint at, uint word) {
  if (key)
    key_cache[at] = word;
  else
    value_cache[at] = word;
}

void write_cache(bool key, uint row, uint head) {
  uint thread = gl_LocalInvocationIndex;
  if (QUANTIZED == 0) {
    for (uint i = thread; i < HEAD_DIM / 2; i += THREADS)
      put(key, (row * push.kv_heads + head) * (HEAD_DIM / 2) + i, packHalf2x16(vec2(values[2 * i], values[2 * i + 1])));
    return;
  }
  float largest = 0.0;
  for (uint i = thread; i < HEAD_DIM; i += THREADS) largest = max(largest, abs(values[i]));
  largest = reduce_max(largest);
  float inverse = largest > 0.0 ? 127.0 / largest : 0.0;
  for (uint i = thread; i < HEAD_DIM / 4; i += THREADS) {
    uint word = 0;
    for (uint j = 0; j < 4; j++) word |= uint(int(roundEven(values[4 * i + j] * inverse)) & 255) << (8 * j);
    put(key, (row * push.kv_heads + head) * (HEAD_DIM / 4) + i, word);
  }
  if (thread == 0) put(key, push.scales_offset + row * push.kv_heads + head, floatBitsToUint(largest / 127.0));
}

void main() {
  uint thread = gl_LocalInvocationIndex, head = gl_WorkGroupID.x, token = gl_WorkGroupID.y, base = token * push.stride + head * HEAD_DIM;
  uint position = uint(run.entries[token]), sequence = uint(run.entries[push.max_tokens + token]);
  bool query = head < push.heads, key = !query && head < push.heads + push.kv_heads;
  float factor = 1.0;
  if (NORM != 0 && (query || key)) {
    float sum = 0.0;
    for (uint i = thread; i < HEAD_DIM; i += THREADS) sum += qkv[base + i] * qkv[base + i];
    factor = inversesqrt(reduce_sum(sum) / float(HEAD_DIM) + push.epsilon);
  }
  for (uint i = thread; i < HEAD_DIM / 2; i += THREADS) {
    float a = qkv[base + i], b = qkv[base + i + HEAD_DIM / 2];
    if (query || key) {
      if (NORM != 0) {
        a *= factor * (query ? query_norm[i] : key_norm[i]);
        b *= factor * (query ? query_norm[i + HEAD_DIM / 2] : key_norm[i + HEAD_DIM / 2]);
      }
      float c = rope_table[position * HEAD_DIM + i], s = rope_table[position * HEAD_DIM + HEAD_DIM / 2 + i], rotated = a * c - b * s;
      b = b * c + a * s;
      a = rotated;
    }
    if (query) {
      qkv[base + i] = a;
      qkv[base + i + HEAD_DIM / 2] = b;
    } else {
      values[i] = a;
      values[i + HEAD_DIM / 2] = b;
    }
  }
  if (query) return;
  barrier();
  write_cache(key, sequence * push.context + position, head - push.heads - (key ? 0 : push.kv_heads));
}
