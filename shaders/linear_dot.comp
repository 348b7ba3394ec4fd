#version 460
// A few tokens times bit-planes by integer dot products: a plane word masked to one bit per byte times 4 packed activations. The masks of
// w and w >> 4 leave the bits at places 0..3 of their bytes, so that four accumulators need no further shift until a group ends.
// Activations come quantized from quantize.comp (BATCH rows share one reading of the weights), or are FUSED: each work group transforms
// and quantizes the one input row into shared memory itself, while its first weights are under way. A norm's 1 / rms is left to the end:
// groups have scales of their own, which take any factor. With SPLIT a work group prepares and multiplies only a part of the columns, and
// the last one to finish adds up the parts. Fewer work groups than ranges of rows take several ranges each, for one preparation.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_integer_dot_product : require
#extension GL_EXT_control_flow_attributes : require
#ifdef SUBGROUP
#extension GL_KHR_shader_subgroup_arithmetic : require
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
layout(constant_id = 7) const uint BLOCKS = 1;    // FUSED: of the matrix; SPLIT: of a part, which ends with a group
layout(constant_id = 8) const uint BATCH = 1;     // rows per work group; 1 where FUSED
layout(constant_id = 9) const uint AHEAD = 1;     // blocks of a thread under way
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Matrix { uvec4 matrix[]; };
layout(set = 0, binding = 2) readonly buffer Coefficients { uint coefficients[]; };
layout(set = 0, binding = 3) readonly buffer Input { float x[]; };          // FUSED
layout(set = 0, binding = 3) readonly buffer Quantized { uvec4 packed_x[]; }; // else; see quantize.comp
layout(set = 0, binding = 4) readonly buffer Norm { float norm[]; };        // FUSED
layout(set = 0, binding = 4) readonly buffer Scales { vec2 scales[]; };     // else
layout(set = 0, binding = 5) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 6) buffer Output { float y[]; };
#ifdef SPLIT // FUSED without a norm
// The parts' results [parts][rows], and how many parts have finished, [row ranges of a work group].
layout(set = 0, binding = 4) coherent buffer Partial { float partial[]; };
layout(set = 0, binding = 7) coherent buffer Finished { uint finished[]; };
shared bool is_last;
#endif
#ifdef ACTIVATION_16
const uint BYTES = 2;
const float RANGE = 32512.0; // 127 * 256: the high byte stays in -127..127
#else
const uint BYTES = 1;
const float RANGE = 127.0;
#endif
const uint TILES = THREADS / (8 * SLICES);
const uint GROUPS = (BLOCKS * 128 + GROUP - 1) / GROUP, GROUP_ITEMS = GROUP / 4;
const uint ITEM_COUNT = BLOCKS * 32, ITEMS = (ITEM_COUNT + THREADS - 1) / THREADS;
shared float reduction[THREADS];
shared uvec4 own_x[FUSED != 0 ? BLOCKS * 8 * BYTES : 1];
#include "linear.glsl"
#include "planes.glsl"
#include "transform.glsl"
const uint RUNS = 4 / RUN_WORDS; // of a block


// The input's columns from first_block on as integers in shared memory, an item being 4 columns of one packed word (see quantize.comp).
uint first_block = 0;
uint column_of(uint item, uint j) { return first_block * 128 + item / 8 * 32 + item % 8 + 8 * j; }
void put_item(uint item, uint high, uint low) {
  uint word = item / 8, b = item % 8, at = (2 * (word % 4) + b / 4) * BLOCKS + word / 4;
  own_x[at][b % 4] = BYTES == 2 ? high : low;
  if (BYTES == 2) own_x[at + 8 * BLOCKS][b % 4] = low;
}
#include "quantize_row.glsl"

uvec4 activations(uint token, uint index, uint block) {
  if (FUSED != 0) return own_x[index * BLOCKS + block];
  return packed_x[(token * 8 * BYTES + index) * push.blocks + block];
}

// Scale of a group, and the sum of its dequantized activations.
vec2 group_scale(uint token, uint group) {
  if (FUSED == 0) return scales[token * push.groups + group];
  return own_scale(group - first_block * 4 / GROUP_WORDS);
}

// A block of a row, on its way.
uvec4 next_words[AHEAD * PLANES];
uint next_coefficients[AHEAD * RUNS * COEFFICIENT_WORDS];

void fetch(uint place, uint tile, uint r, uint block) {
  UNROLL for (uint p = 0; p < PLANES; p++) next_words[place * PLANES + p] = matrix[((tile * push.blocks + block) * PLANES + p) * 8 + r];
  UNROLL for (uint i = 0; i < RUNS; i++) {
    uint slot = tile * push.groups + (block * 4 + i * RUN_WORDS) / GROUP_WORDS;
    UNROLL for (uint c = 0; c < COEFFICIENT_WORDS; c++)
      next_coefficients[(place * RUNS + i) * COEFFICIENT_WORDS + c] = coefficient_word(slot, c, r);
  }
}

uvec4 words[PLANES];
uint block_coefficients[RUNS * COEFFICIENT_WORDS];

float block_coefficient(uint i, uint plane, uint r) {
  return coefficient_value(block_coefficients[i * COEFFICIENT_WORDS + word_of(plane)], plane, r);
}

// The product of `words` and a row of the input.
float block_product(uint r, uint block, uint token) {
  ivec4 sums[PLANES * BYTES];
  UNROLL for (uint p = 0; p < PLANES * BYTES; p++) sums[p] = ivec4(0);
  float result = 0.0;
  UNROLL for (uint j = 0; j < 4; j++) {
    UNROLL for (uint h = 0; h < 2; h++)
      UNROLL for (uint part = 0; part < BYTES; part++) {
        uvec4 values = activations(token, part * 8 + 2 * j + h, block - first_block);
        UNROLL for (uint p = 0; p < PLANES; p++) {
          uint word = words[p][j] >> (4 * h);
          ivec4 masked = ivec4(word & 0x01010101u, word & 0x02020202u, word & 0x04040404u, word & 0x08080808u);
          UNROLL for (uint b = 0; b < 4; b++) sums[p * BYTES + part][b] += dotPacked4x8EXT(int(values[b]), masked[b]);
        }
      }
    if ((j + 1) % RUN_WORDS == 0) {
      uint word = block * 4 + j, i = j / RUN_WORDS;
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
        total += block_coefficient(i, p, r) * float(value);
      }
      result += scale.x * total;
      // The group's sum of activations enters once, with the group's last word.
      if (word % GROUP_WORDS == GROUP_WORDS - 1) result += block_coefficient(i, PLANES, r) * scale.y;
    }
  }
  return result;
}

// The sum over the threads that share a row, in the one of slice 0. Within a subgroup no thread waits for another subgroup's.
float add_slices(float value, uint slice) {
#ifdef SUBGROUP
  if (SLICES <= 4) {
    UNROLL for (uint step = 8; step < 8 * SLICES; step <<= 1) value += subgroupShuffleXor(value, step);
    return value;
  }
#endif
  uint thread = gl_LocalInvocationIndex;
  barrier();
  reduction[thread] = value;
  barrier();
  for (uint step = SLICES / 2; step > 0; step >>= 1) {
    if (slice < step) reduction[thread] += reduction[thread + 8 * step];
    barrier();
  }
  return reduction[thread];
}

#ifdef SPLIT
// True in the work group that finishes last, for which all others' parts are visible. Leaves the counter at 0 for the next run.
bool finish_last(uint counter) {
  memoryBarrierBuffer();
  barrier();
  if (gl_LocalInvocationIndex == 0) {
    is_last = atomicAdd(finished[counter], 1) + 1 == gl_NumWorkGroups.z;
    if (is_last) finished[counter] = 0;
  }
  barrier();
  memoryBarrierBuffer();
  return is_last;
}

float add_parts(uint row, uint slice) {
  float sum = 0.0;
  if (row < push.rows)
    for (uint i = slice; i < gl_NumWorkGroups.z; i += SLICES) sum += partial[i * push.rows + row];
  return add_slices(sum, slice);
}
#endif

// Requests the first blocks that a thread needs of a tile.
void fetch_first(uint tile, uint r, uint slice, uint end) {
  UNROLL for (uint i = 0; i < AHEAD; i++)
    if (first_block + slice + i * SLICES < end) fetch(i, tile, r, first_block + slice + i * SLICES);
}

void main() {
  uint thread = gl_LocalInvocationIndex, r = thread % 8, slice = thread / 8 % SLICES;
  uint first = gl_WorkGroupID.y * BATCH, end = push.blocks, last_tile = (push.rows - 1) / 8;
  uint tile = gl_WorkGroupID.x * TILES + thread / (8 * SLICES);
#ifdef SPLIT
  first_block = gl_WorkGroupID.z * BLOCKS;
  end = min(end, first_block + BLOCKS);
#endif
  // The first weights are under way while the input is prepared, and a tile's while the one before it ends.
  fetch_first(min(tile, last_tile), r, slice, end);
  if (FUSED != 0) quantize_row(input_row(first) * push.x_stride, push.columns, push.epsilon);
  uint count = output_rows();
  for (uint start = gl_WorkGroupID.x * TILES; start <= last_tile; start += gl_NumWorkGroups.x * TILES) {
    uint held = min(tile, last_tile), row = tile * 8 + r;
    float results[BATCH];
    UNROLL for (uint t = 0; t < BATCH; t++) results[t] = 0.0;
    for (uint step = first_block + slice; step < end; step += SLICES * AHEAD)
      UNROLL for (uint i = 0; i < AHEAD; i++) {
        uint block = step + i * SLICES;
        if (block < end) {
          UNROLL for (uint p = 0; p < PLANES; p++) words[p] = next_words[i * PLANES + p];
          UNROLL for (uint c = 0; c < RUNS * COEFFICIENT_WORDS; c++)
            block_coefficients[c] = next_coefficients[i * RUNS * COEFFICIENT_WORDS + c];
          if (block + SLICES * AHEAD < end) fetch(i, held, r, block + SLICES * AHEAD);
          UNROLL for (uint t = 0; t < BATCH; t++) results[t] += block_product(r, block, min(first + t, count - 1));
        }
      }
    tile += gl_NumWorkGroups.x * TILES;
    if (start + gl_NumWorkGroups.x * TILES <= last_tile) fetch_first(min(tile, last_tile), r, slice, end);
    UNROLL for (uint t = 0; t < BATCH; t++) {
      float result = add_slices(results[t], slice) * row_factor;
#ifdef SPLIT
      if (slice == 0 && row < push.rows) partial[gl_WorkGroupID.z * push.rows + row] = result;
      if (!finish_last(start / TILES)) continue;
      result = add_parts(row, slice);
#endif
      if (slice == 0 && row < push.rows && first + t < count) store(first + t, row, result);
    }
  }
}
