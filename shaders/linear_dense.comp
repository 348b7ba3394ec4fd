#version 460
// One token times a dense matrix: LANES threads share a row and read it 16 bytes at a time; the transformed input goes through shared
// memory in chunks, so that a work group's rows share it.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256; // a power of two
layout(constant_id = 1) const uint LANES = 32;
layout(constant_id = 2) const uint REPEAT = 4; // rows per thread
layout(constant_id = 3) const uint NUMBER = 2;
layout(constant_id = 4) const uint TRANSFORM = 0;
layout(constant_id = 5) const uint CHUNK = 256; // 16-byte words of a row per step
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Matrix { uvec4 matrix[]; };
layout(set = 0, binding = 2) readonly buffer Scales { uint scales[]; }; // INT8: repack_head.comp
layout(set = 0, binding = 3) readonly buffer Input { float x[]; };
layout(set = 0, binding = 4) readonly buffer Norm { float norm[]; };
layout(set = 0, binding = 5) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 6) buffer Output { float y[]; };
const uint NUMBER_F32 = 0, NUMBER_BF16 = 2, NUMBER_INT8 = 3;
const uint WIDTH = NUMBER == NUMBER_F32 ? 4 : NUMBER == NUMBER_INT8 ? 16 : 8; // values in 16 bytes
const uint QUADS = WIDTH / 4; // inputs of 16 bytes, by four
shared float reduction[REPEAT * THREADS];
shared vec4 chunk[QUADS * CHUNK]; // [QUADS][CHUNK]: neighbouring threads read neighbouring banks
#include "linear.glsl"
#include "transform.glsl"

vec2 pair(uint word) {
  return NUMBER == NUMBER_BF16 ? vec2(uintBitsToFloat(word << 16), uintBitsToFloat(word & 0xffff0000u)) : unpackHalf2x16(word);
}

// Four signed bytes as floats without a conversion instruction: 2^23 + (byte + 128) has the byte in its last bits.
vec4 bytes(uint word) {
  word ^= 0x80808080u;
  uvec4 v = uvec4(word & 255u, bitfieldExtract(word, 8, 8), bitfieldExtract(word, 16, 8), word >> 24);
  return uintBitsToFloat(v | 0x4b000000u) - 8388736.0;
}

// 16 bytes of a row, the column_word-th ones, with their inputs.
float product(uvec4 words, vec4 v[4], uint row, uint column_word) {
  if (NUMBER == NUMBER_INT8) {
    uint two = scales[row * push.groups + column_word / 4];
    float scale = uintBitsToFloat((column_word & 2) != 0 ? two & 0xffff0000u : two << 16);
    return scale * (dot(bytes(words.x), v[0]) + dot(bytes(words.y), v[1]) + dot(bytes(words.z), v[2]) + dot(bytes(words.w), v[3]));
  }
  if (NUMBER == NUMBER_F32) return dot(uintBitsToFloat(words), v[0]);
  return dot(vec4(pair(words.x), pair(words.y)), v[0]) + dot(vec4(pair(words.z), pair(words.w)), v[1]);
}

void load_chunk(uint base, uint first, uint count) {
  for (uint j = gl_LocalInvocationIndex; j < count * QUADS; j += THREADS) {
    uint column = first * WIDTH + 4 * j;
    chunk[j % QUADS * CHUNK + j / QUADS] =
        vec4(transformed(base, push.columns, column), transformed(base, push.columns, column + 1),
             transformed(base, push.columns, column + 2), transformed(base, push.columns, column + 3));
  }
}

void main() {
  uint thread = gl_LocalInvocationIndex, lane = thread % LANES;
  uint first_row = (gl_WorkGroupID.x * (THREADS / LANES) + thread / LANES) * REPEAT;
  uint base = input_row(gl_WorkGroupID.y) * push.x_stride;
  transform_start(base, push.columns, push.epsilon);
  float results[REPEAT];
  [[unroll]] for (uint i = 0; i < REPEAT; i++) results[i] = 0.0;
  for (uint first = 0; first < push.blocks; first += CHUNK) {
    uint count = min(CHUNK, push.blocks - first);
    barrier();
    load_chunk(base, first, count);
    barrier();
    // All rows of a thread take the inputs from registers, and their loads are under way together.
    for (uint j = lane; j < count; j += LANES) {
      uvec4 words[REPEAT];
      vec4 v[4];
      [[unroll]] for (uint i = 0; i < REPEAT; i++) words[i] = matrix[min(first_row + i, push.rows - 1) * push.blocks + first + j];
      [[unroll]] for (uint q = 0; q < 4; q++) v[q] = q < QUADS ? chunk[q % QUADS * CHUNK + j] : vec4(0);
      [[unroll]] for (uint i = 0; i < REPEAT; i++) results[i] += product(words[i], v, min(first_row + i, push.rows - 1), first + j);
    }
  }
  [[unroll]] for (uint i = 0; i < REPEAT; i++) reduction[i * THREADS + thread] = results[i];
  barrier();
  for (uint step = LANES / 2; step > 0; step >>= 1) {
    if (lane < step)
      for (uint i = 0; i < REPEAT; i++) reduction[i * THREADS + thread] += reduction[i * THREADS + thread + step];
    barrier();
  }
  if (lane < REPEAT && first_row + lane < push.rows)
    store(gl_WorkGroupID.y, first_row + lane, reduction[lane * THREADS + thread - lane]);
}
