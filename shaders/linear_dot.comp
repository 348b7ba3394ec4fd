#version 460
// A few tokens times bit-planes by integer dot products: a plane word masked to one bit per byte times 4 packed activations. Bits stay at their
// places in the bytes; the sums of the places are doubled and added up, which takes one instruction each (NVIDIA's compiler does not let a
// dot product add to what is there, and its dotPacked4x8AccSatEXT is emulated: 506 tokens/s instead of 612 at the 7B shape).
// The input's integers (prepared.glsl) come from the operation that made the input or from quantize.comp. BATCH rows share one reading of
// the weights. A norm's 1 / rms is left to the end: groups have scales of their own, which take any factor. With NEXT a work group also
// prepares its results as the input of the product behind it.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_integer_dot_product : require
#extension GL_EXT_control_flow_attributes : require
#ifdef SUBGROUP // of at least 32
#extension GL_KHR_shader_subgroup_shuffle : require
#define UNROLL [[unroll]]
#else
#define UNROLL // compilers for CPUs take minutes over what a GPU's needs to keep arrays in registers
#endif
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256; // a multiple of 8 SLICES, and of 32
layout(constant_id = 1) const uint SLICES = 4;    // threads that share a row
layout(constant_id = 2) const uint PLANES = 2;
layout(constant_id = 3) const uint GROUP = 64;
layout(constant_id = 4) const uint NUMBER = 2;
layout(constant_id = 5) const uint TRANSFORM = 0;
layout(constant_id = 6) const uint COPIED = 0;    // the input's integers are copied to shared memory
layout(constant_id = 7) const uint BLOCKS = 1;    // of the matrix, where they are copied
layout(constant_id = 8) const uint BATCH = 1;     // rows per work group; 1 where they are copied
layout(constant_id = 9) const uint AHEAD = 1;     // blocks of a thread under way
layout(constant_id = 10) const uint NEXT = 0;     // the next product's transform (bpdq_transform_kind), 0: there is none
const uint NORMED = 1, GATED = 2;                 // NEXT
#include "run.glsl"
layout(set = 0, binding = 1) readonly restrict buffer Matrix { uvec4 matrix[]; };
layout(set = 0, binding = 2) readonly restrict buffer Coefficients { uint coefficients[]; };
layout(set = 0, binding = 3) readonly buffer Prepared { uvec4 prepared[]; };
layout(set = 0, binding = 4) readonly restrict buffer Norm { float norm[]; }; // of the next product
layout(set = 0, binding = 5) readonly restrict buffer Bias { float bias[]; };
layout(set = 0, binding = 6) restrict buffer Output { float y[]; };
layout(set = 0, binding = 7) writeonly restrict buffer Next { uint next[]; };
#ifdef ACTIVATION_16
const uint BYTES = 2;
const float RANGE = 32512.0; // 127 * 256: the high byte stays in -127..127
#else
const uint BYTES = 1;
const float RANGE = 127.0;
#endif
const uint TILES = THREADS / (8 * SLICES);
const uint COVERED = TILES * 8; // columns of the next input; NEXT: a multiple of 32
const uint ROWS = NEXT == GATED ? 2 : 1; // of a thread: a gate and what it multiplies, half the rows further
shared float reduction[ROWS * THREADS];
shared uvec4 own_x[COPIED != 0 ? BLOCKS * (8 * BYTES + 2) : 1]; // as in prepared.glsl, without the squares
shared float outputs[NEXT != 0 ? ROWS * COVERED : 1];
#include "linear.glsl"
#include "planes.glsl"
#include "integers.glsl"
#include "prepared.glsl"
#include "put_prepared.glsl"
const uint RUNS = 4 / RUN_WORDS; // of a block

// ---- the input ----

uvec4 activations(uint token, uint index, uint block) {
  if (COPIED != 0) return own_x[index * BLOCKS + block];
  return prepared[token * prepared_row(push.blocks) + index * push.blocks + block];
}

// All that a thread copies is requested together: it is waited for once.
void copy_input() {
  const uint ITEMS = BLOCKS * (8 * BYTES + 2), STEPS = (ITEMS + THREADS - 1) / THREADS, AT_ONCE = STEPS < 4 ? STEPS : 4;
  UNROLL for (uint done = 0; done < STEPS; done += AT_ONCE) {
    uvec4 items[AT_ONCE];
    UNROLL for (uint i = 0; i < AT_ONCE; i++) items[i] = prepared[min(gl_LocalInvocationIndex + (done + i) * THREADS, ITEMS - 1)];
    UNROLL for (uint i = 0; i < AT_ONCE; i++) {
      uint at = gl_LocalInvocationIndex + (done + i) * THREADS;
      if (at < ITEMS) own_x[at] = items[i];
    }
  }
  barrier();
}

// Scales and sums of two words.
vec4 scales_of(uint token, uint pair) {
  if (COPIED != 0) return uintBitsToFloat(own_x[scales_at(BLOCKS) + pair]);
  return uintBitsToFloat(prepared[token * prepared_row(push.blocks) + scales_at(push.blocks) + pair]);
}

// What 1 / rms of a prepared row needs, on its way while the weights are multiplied: the thread's share of the squares' sum.
float prepared_squares(uint token) {
  uint blocks = COPIED != 0 ? BLOCKS : push.blocks, first = token * prepared_row(push.blocks) + squares_at(push.blocks);
  vec4 sums = vec4(0);
#ifdef SUBGROUP
  for (uint i = gl_LocalInvocationIndex % 32; i < blocks; i += 32) sums += uintBitsToFloat(prepared[first + i]);
#else
  for (uint i = 0; i < blocks; i++) sums += uintBitsToFloat(prepared[first + i]);
#endif
  return sums.x + sums.y + sums.z + sums.w;
}

// Among 32 threads, however many more a subgroup has: gl_SubgroupSize may count lanes that do not run (MoltenVK reports 64 on AMD's Radeon
// Pro, where 32 run).
float factor_of(float squares) {
#ifdef SUBGROUP
  UNROLL for (uint i = 1; i < 32; i <<= 1) squares += subgroupShuffleXor(squares, i);
#endif
  return inversesqrt(squares / float(push.columns) + push.epsilon);
}

// ---- the product ----

// Blocks of the thread's rows, in use or on their way, and what comes behind them. That is counted on by steps, since NVIDIA's compiler
// would work out the places of each block from the start.
const uint CELLS = ROWS * PLANES, COEFFICIENTS = RUNS * COEFFICIENT_WORDS;
uvec4 words[AHEAD * CELLS];
uint block_coefficients[AHEAD * ROWS * COEFFICIENTS];
uint tiles[ROWS]; // of the matrix: the thread's row of each is its index modulo 8
uint words_at[ROWS];   // in `matrix`
uint columns_at[ROWS]; // by 32, of its tile's groups behind those of the tiles before

void fetch(uint place, uint r) {
  UNROLL for (uint n = 0; n < ROWS; n++) {
    UNROLL for (uint p = 0; p < PLANES; p++) words[place * CELLS + n * PLANES + p] = matrix[words_at[n] + p * 8];
    UNROLL for (uint i = 0; i < RUNS; i++)
      UNROLL for (uint c = 0; c < COEFFICIENT_WORDS; c++)
        block_coefficients[(place * ROWS + n) * COEFFICIENTS + i * COEFFICIENT_WORDS + c] =
            coefficient_word((columns_at[n] + i * RUN_WORDS) / GROUP_WORDS, c, r);
    words_at[n] += SLICES * PLANES * 8;
    columns_at[n] += SLICES * 4;
  }
}

float block_coefficient(uint place, uint n, uint i, uint plane, uint r) {
  return coefficient_value(block_coefficients[(place * ROWS + n) * COEFFICIENTS + i * COEFFICIENT_WORDS + word_of(plane)], plane, r);
}

// Places 0..7 in turn make `sum` 128 times the sum of the products. At place 7 a byte's bit counts -128.
int add_place(int sum, uint place, uint word, uint activations) {
  int product = dotPacked4x8EXT(int(activations), int(word & 0x01010101u << place));
  return place == 0 ? product : place == 7 ? 2 * sum - product : 2 * sum + product;
}

float results[ROWS * BATCH];

// Adds the products of `words` and a row of the input, row `t` of the work group's.
void add_products(uint place, uint r, uint block, uint token, uint t) {
  float parts[CELLS], sum = 0.0;
  UNROLL for (uint p = 0; p < CELLS; p++) parts[p] = 0.0;
  UNROLL for (uint j = 0; j < 4; j++) {
    int sums[CELLS * BYTES];
    UNROLL for (uint p = 0; p < CELLS * BYTES; p++) sums[p] = 0;
    UNROLL for (uint h = 0; h < 2; h++)
      UNROLL for (uint part = 0; part < BYTES; part++) {
        uvec4 values = activations(token, part * 8 + 2 * j + h, block);
        UNROLL for (uint p = 0; p < CELLS; p++)
          UNROLL for (uint b = 0; b < 4; b++)
            sums[p * BYTES + part] = add_place(sums[p * BYTES + part], 4 * h + b, words[place * CELLS + p][j], values[b]);
      }
    vec4 scales = scales_of(token, block * 2 + j / 2);
    vec2 scale = j % 2 == 0 ? scales.xy : scales.zw;
    UNROLL for (uint p = 0; p < CELLS; p++) {
      int value = sums[p * BYTES];
      if (BYTES == 2) value = value * 256 + sums[p * BYTES + 1];
      parts[p] += scale.x * float(value);
    }
    sum += scale.y;
    if ((j + 1) % RUN_WORDS == 0) {
      uint i = j / RUN_WORDS;
      UNROLL for (uint n = 0; n < ROWS; n++) {
        UNROLL for (uint p = 0; p < PLANES; p++) {
          results[n * BATCH + t] += block_coefficient(place, n, i, p, r) * parts[n * PLANES + p];
          parts[n * PLANES + p] = 0.0;
        }
        results[n * BATCH + t] += block_coefficient(place, n, i, PLANES, r) * sum;
      }
      sum = 0.0;
    }
  }
}

// Makes the sums over the threads that share rows, in the ones of slice 0. All threads of the work group must call it.
void add_slices(inout float sums[ROWS], uint slice) {
  uint thread = gl_LocalInvocationIndex;
#ifdef SUBGROUP
  if (SLICES % 4 == 0 || SLICES <= 2) { // no 32 threads have slices of two tiles
    UNROLL for (uint n = 0; n < ROWS; n++)
      UNROLL for (uint step = 8; step < 8 * min(SLICES, 4); step <<= 1) sums[n] += subgroupShuffleXor(sums[n], step);
    if (SLICES <= 4) return;
    barrier(); // what was read before has been read
    UNROLL for (uint n = 0; n < ROWS; n++)
      if (thread % 32 < 8) reduction[n * THREADS + thread / 32 * 8 + thread % 8] = sums[n];
    barrier();
    if (slice != 0) return;
    UNROLL for (uint n = 0; n < ROWS; n++)
      UNROLL for (uint i = 1; i < SLICES / 4; i++) sums[n] += reduction[n * THREADS + (thread / 32 + i) * 8 + thread % 8];
    return;
  }
#endif
  barrier();
  UNROLL for (uint n = 0; n < ROWS; n++) reduction[n * THREADS + thread] = sums[n];
  barrier();
  if (slice != 0) return;
  UNROLL for (uint n = 0; n < ROWS; n++)
    UNROLL for (uint i = 1; i < SLICES; i++) sums[n] += reduction[n * THREADS + thread + 8 * i];
}

// ---- the results as the next product's input ----

// A thread's item of the work group's outputs: 4 columns of a word.
uint next_item() { return min(gl_LocalInvocationIndex, COVERED / 4 - 1); }

// The norm's weights of the item.
vec4 fetch_next_norm() {
  vec4 weights = vec4(0);
  UNROLL for (uint j = 0; j < 4; j++) {
    uint at = gl_WorkGroupID.x * COVERED + column_of(next_item(), j);
    if (at < push.rows) weights[j] = norm[at];
  }
  return weights;
}

// The work group's outputs, as stored, are in `outputs` (GATED: the gates, then what they multiply).
void prepare_next(vec4 weights) {
  uint thread = gl_LocalInvocationIndex, item = next_item(), word = item / 8, b = item % 8;
#ifdef SUBGROUP
  if (thread > item) return; // clusters leave as a whole
#endif
  float values[4], squares = 0.0;
  UNROLL for (uint j = 0; j < 4; j++) {
    uint column = column_of(item, j);
    float value = outputs[column];
    squares += value * value;
    values[j] = NEXT == GATED ? value / (1.0 + exp(-value)) * outputs[COVERED + column] : value * weights[j];
  }
  Integers integers = to_integers(values);
  if (NEXT == NORMED) squares = cluster_sum(squares);
  word += gl_WorkGroupID.x * COVERED / 32;
  if (thread > item || word >= push.next_blocks * 4) return;
  put_prepared(0, push.next_blocks, word, b, integers, squares);
}

void place_tiles() {
  uint tile = gl_WorkGroupID.x * TILES + gl_LocalInvocationIndex / (8 * SLICES);
  tiles[0] = tile;
  if (NEXT != GATED) return;
  uint half_tiles = push.rows / 16;
  tiles[0] = tile < half_tiles ? tile : 2 * half_tiles; // past the end
  tiles[ROWS - 1] = tile + half_tiles;
}

void place_fetch(uint r, uint slice) {
  UNROLL for (uint n = 0; n < ROWS; n++) {
    uint tile = min(tiles[n], (push.rows - 1) / 8);
    words_at[n] = (tile * push.blocks + slice) * PLANES * 8 + r;
    columns_at[n] = tile * push.groups * GROUP_WORDS + slice * 4;
  }
}

void main() {
  uint thread = gl_LocalInvocationIndex, r = thread % 8, slice = thread / 8 % SLICES;
  uint first = gl_WorkGroupID.y * BATCH, count = output_rows();
  place_tiles();
  place_fetch(r, slice);
  // The first weights are under way while the input is copied and summed up, and so is what is needed at the end.
  UNROLL for (uint i = 0; i < AHEAD; i++)
    if (slice + i * SLICES < push.blocks) fetch(i, r);
  float addends[ROWS * BATCH];
  UNROLL for (uint t = 0; t < BATCH; t++)
    UNROLL for (uint n = 0; n < ROWS; n++) {
      results[n * BATCH + t] = 0.0;
      addends[n * BATCH + t] = 0.0;
      if (slice == 0 && tiles[n] * 8 + r < push.rows && first + t < count) addends[n * BATCH + t] = addend(first + t, tiles[n] * 8 + r);
    }
  vec4 next_norm = vec4(0);
  if (NEXT == NORMED) next_norm = fetch_next_norm();
  float squares[BATCH];
  UNROLL for (uint t = 0; t < BATCH; t++) squares[t] = TRANSFORM == NORMED ? prepared_squares(min(first + t, count - 1)) : 0.0;
  if (COPIED != 0) copy_input();
  float factors[BATCH];
  UNROLL for (uint t = 0; t < BATCH; t++) factors[t] = TRANSFORM == NORMED ? factor_of(squares[t]) : 1.0;
  for (uint step = slice; step < push.blocks; step += SLICES * AHEAD)
    UNROLL for (uint i = 0; i < AHEAD; i++) {
      uint block = step + i * SLICES;
      if (block < push.blocks) {
        UNROLL for (uint t = 0; t < BATCH; t++) add_products(i, r, block, min(first + t, count - 1), t);
        if (block + SLICES * AHEAD < push.blocks) fetch(i, r);
      }
    }
  UNROLL for (uint t = 0; t < BATCH; t++) {
    float sums[ROWS];
    UNROLL for (uint n = 0; n < ROWS; n++) sums[n] = results[n * BATCH + t];
    add_slices(sums, slice);
    UNROLL for (uint n = 0; n < ROWS; n++) {
      uint row = tiles[n] * 8 + r;
      float result = sums[n] * factors[t] + addends[n * BATCH + t];
      bool stores = slice == 0 && row < push.rows && first + t < count;
      if (stores) y[place_of(first + t, row)] = result;
      if (NEXT != 0 && slice == 0) outputs[n * COVERED + thread / (8 * SLICES) * 8 + r] = stores ? result : 0.0;
    }
  }
  if (NEXT != 0) {
    barrier();
    prepare_next(next_norm);
  }
}
