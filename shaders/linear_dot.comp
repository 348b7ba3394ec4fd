#version 460
// A few tokens times bit-planes by integer dot products: a plane word masked to one bit per byte times 4 packed activations. The masks of
// w and w >> 4 leave the bits at places 0..3 of their bytes, so that four accumulators need no further shift until a group ends.
// Activations come quantized from quantize.comp (BATCH rows share one reading of the weights), or are FUSED: each work group transforms
// and quantizes the one input row into shared memory itself, which costs less than a dispatch of its own.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_integer_dot_product : require
#extension GL_EXT_control_flow_attributes : require
#ifdef SUBGROUP
#extension GL_KHR_shader_subgroup_shuffle : require
#define UNROLL [[unroll]]
#else
#define UNROLL // compilers for CPUs take minutes over what a GPU's needs to keep arrays in registers
#endif
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256; // a power of two
layout(constant_id = 1) const uint SLICES = 4;    // threads that share a row; a power of two, at most THREADS / 8
layout(constant_id = 2) const uint PLANES = 2;
layout(constant_id = 3) const uint GROUP = 64;
layout(constant_id = 4) const uint NUMBER = 2;
layout(constant_id = 5) const uint TRANSFORM = 0; // FUSED only
layout(constant_id = 6) const uint FUSED = 0;
layout(constant_id = 7) const uint BLOCKS = 1;    // FUSED: of the matrix
layout(constant_id = 8) const uint BATCH = 1;     // rows per work group; 1 where FUSED
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Matrix { uvec4 matrix[]; };
layout(set = 0, binding = 2) readonly buffer Coefficients { uint coefficients[]; };
layout(set = 0, binding = 3) readonly buffer Input { float x[]; };          // FUSED
layout(set = 0, binding = 3) readonly buffer Quantized { uvec4 packed_x[]; }; // else; see quantize.comp
layout(set = 0, binding = 4) readonly buffer Norm { float norm[]; };        // FUSED
layout(set = 0, binding = 4) readonly buffer Scales { vec2 scales[]; };     // else
layout(set = 0, binding = 5) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 6) buffer Output { float y[]; };
#ifdef ACTIVATION_16
const uint BYTES = 2;
const float RANGE = 32512.0; // 127 * 256: the high byte stays in -127..127
#else
const uint BYTES = 1;
const float RANGE = 127.0;
#endif
const uint TILES = THREADS / (8 * SLICES);
const uint GROUPS = (BLOCKS * 128 + GROUP - 1) / GROUP;
const uint ITEMS = (BLOCKS * 32 + THREADS - 1) / THREADS; // of 4 columns, per thread
shared float reduction[THREADS];
shared uvec4 own_x[FUSED != 0 ? BLOCKS * 8 * BYTES : 1];
shared uint largest_of[FUSED != 0 ? GROUPS : 1]; // f32 bits: they order as integers where no sign is set
shared int sum_of[FUSED != 0 ? GROUPS : 1];
#include "linear.glsl"
#include "planes.glsl"
#include "transform.glsl"

#ifdef SUBGROUP
float cluster_max(float value) {
  UNROLL for (uint i = 1; i < 8; i <<= 1) value = max(value, subgroupShuffleXor(value, i));
  return value;
}
int cluster_sum(int value) {
  UNROLL for (uint i = 1; i < 8; i <<= 1) value += subgroupShuffleXor(value, i);
  return value;
}
bool speaks(uint b) { return b == 0; } // one of the 8 threads of a word
#else
float cluster_max(float value) { return value; }
int cluster_sum(int value) { return value; }
bool speaks(uint b) { return true; }
#endif

// The whole input row as integers in shared memory. A thread takes the 4 columns of one packed word at a time.
void quantize_input(uint base) {
  uint thread = gl_LocalInvocationIndex;
  float values[ITEMS * 4];
  for (uint i = thread; i < GROUPS; i += THREADS) {
    largest_of[i] = 0;
    sum_of[i] = 0;
  }
  barrier();
  transform_start(base, push.columns, push.epsilon);
  UNROLL for (uint i = 0; i < ITEMS; i++) {
    uint item = thread + i * THREADS, word = item / 8;
    float largest = 0.0;
    UNROLL for (uint j = 0; j < 4; j++) {
      values[i * 4 + j] = transformed(base, push.columns, word * 32 + item % 8 + 8 * j);
      largest = max(largest, abs(values[i * 4 + j]));
    }
    largest = cluster_max(largest);
    if (item < BLOCKS * 32 && speaks(item % 8)) atomicMax(largest_of[word / GROUP_WORDS], floatBitsToUint(largest));
  }
  barrier();
  UNROLL for (uint i = 0; i < ITEMS; i++) {
    uint item = thread + i * THREADS, word = item / 8, b = item % 8;
    float largest = uintBitsToFloat(largest_of[min(word / GROUP_WORDS, GROUPS - 1)]), inverse = largest > 0.0 ? RANGE / largest : 0.0;
    int sum = 0;
    uint high = 0, low = 0;
    UNROLL for (uint j = 0; j < 4; j++) {
      int value = int(clamp(roundEven(values[i * 4 + j] * inverse), -RANGE, RANGE)), byte = bitfieldExtract(value, 0, 8);
      sum += value;
      low |= uint(byte & 255) << (8 * j);
      high |= uint((value - byte) / 256 & 255) << (8 * j);
    }
    sum = cluster_sum(sum);
    if (item < BLOCKS * 32) {
      if (speaks(b)) atomicAdd(sum_of[word / GROUP_WORDS], sum);
      uint at = (2 * (word % 4) + b / 4) * BLOCKS + word / 4;
      own_x[at][b % 4] = BYTES == 2 ? high : low;
      if (BYTES == 2) own_x[at + 8 * BLOCKS][b % 4] = low;
    }
  }
  barrier();
}

uvec4 activations(uint token, uint index, uint block) {
  if (FUSED != 0) return own_x[index * BLOCKS + block];
  return packed_x[(token * 8 * BYTES + index) * push.blocks + block];
}

// Scale of a group, and the sum of its dequantized activations.
vec2 group_scale(uint token, uint group) {
  if (FUSED == 0) return scales[token * push.groups + group];
  float scale = uintBitsToFloat(largest_of[group]) / RANGE;
  return vec2(scale, scale * float(sum_of[group]));
}

uvec4 words[PLANES], next_words[PLANES];

void fetch(uint tile, uint r, uint block) {
  UNROLL for (uint p = 0; p < PLANES; p++) next_words[p] = matrix[((tile * push.blocks + block) * PLANES + p) * 8 + r];
}

// The product of `words` and a row of the input.
float block_product(uint tile, uint r, uint block, uint token) {
  ivec4 sums[PLANES * BYTES];
  UNROLL for (uint p = 0; p < PLANES * BYTES; p++) sums[p] = ivec4(0);
  float result = 0.0;
  UNROLL for (uint j = 0; j < 4; j++) {
    UNROLL for (uint h = 0; h < 2; h++)
      UNROLL for (uint part = 0; part < BYTES; part++) {
        uvec4 values = activations(token, part * 8 + 2 * j + h, block);
        UNROLL for (uint p = 0; p < PLANES; p++) {
          uint word = words[p][j] >> (4 * h);
          ivec4 masked = ivec4(word & 0x01010101u, word & 0x02020202u, word & 0x04040404u, word & 0x08080808u);
          UNROLL for (uint b = 0; b < 4; b++) sums[p * BYTES + part][b] += dotPacked4x8EXT(int(values[b]), masked[b]);
        }
      }
    if ((j + 1) % RUN_WORDS == 0) {
      uint word = block * 4 + j, slot = tile * push.groups + word / GROUP_WORDS;
      vec2 scale = group_scale(token, word / GROUP_WORDS);
      float total = 0.0;
      UNROLL for (uint p = 0; p < PLANES; p++) {
        ivec4 s = sums[p * BYTES];
        int value = s.x + (s.y >> 1) + (s.z >> 2) + (s.w >> 3);
#ifdef ACTIVATION_16
        ivec4 low = sums[p * BYTES + 1];
        value = value * 256 + low.x + (low.y >> 1) + (low.z >> 2) + (low.w >> 3);
        sums[p * BYTES + 1] = ivec4(0);
#endif
        sums[p * BYTES] = ivec4(0);
        total += coefficient(slot, p, r) * float(value);
      }
      result += scale.x * total;
      // The group's sum of activations enters once, with the group's last word.
      if (word % GROUP_WORDS == GROUP_WORDS - 1) result += coefficient(slot, PLANES, r) * scale.y;
    }
  }
  return result;
}

void main() {
  uint thread = gl_LocalInvocationIndex, r = thread % 8, slice = thread / 8 % SLICES;
  uint row = (gl_WorkGroupID.x * TILES + thread / (8 * SLICES)) * 8 + r, tile = min(row, push.rows - 1) >> 3;
  uint count = (push.flags & FLAG_LAST) != 0 ? 1 : run.tokens, first = gl_WorkGroupID.y * BATCH;
  // The first weights are under way while the input is prepared.
  fetch(tile, r, min(slice, push.blocks - 1));
  if (FUSED != 0) quantize_input(input_row(first) * push.x_stride);
  float results[BATCH];
  UNROLL for (uint t = 0; t < BATCH; t++) results[t] = 0.0;
  for (uint block = slice; block < push.blocks; block += SLICES) {
    UNROLL for (uint p = 0; p < PLANES; p++) words[p] = next_words[p];
    fetch(tile, r, min(block + SLICES, push.blocks - 1));
    UNROLL for (uint t = 0; t < BATCH; t++) results[t] += block_product(tile, r, block, min(first + t, count - 1));
  }
  UNROLL for (uint t = 0; t < BATCH; t++) {
    if (t > 0) barrier();
    reduction[thread] = results[t];
    barrier();
    for (uint step = SLICES / 2; step > 0; step >>= 1) {
      if (slice < step) reduction[thread] += reduction[thread + 8 * step];
      barrier();
    }
    if (slice == 0 && row < push.rows && first + t < count) store(first + t, row, reduction[thread]);
  }
}
