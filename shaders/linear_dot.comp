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
#ifdef EARLY
#define EARLY_CONSTANT 11
#define EARLY_BINDING 8
#include "early.glsl"
#endif
#ifdef ACTIVATION_16
const uint BYTES = 2;
const float RANGE = 32512.0; // 127 * 256: the high byte stays in -127..127
#else
const uint BYTES = 1;
const float RANGE = 127.0;
#endif
const uint TILES = THREADS / (8 * SLICES);
const uint COVERED = TILES * 8; // rows of the work group, columns of the next input; NEXT: a multiple of 32
const uint ROWS = NEXT == GATED ? 2 : 1; // of a thread: a gate and what it multiplies, half the rows further
// What 32 threads have of a tile's rows is added up before it is shared, where they have it of one tile.
#ifdef SUBGROUP
const uint LANE_SLICES = SLICES % 4 == 0 ? 4 : SLICES == 2 ? 2 : 1;
#else
const uint LANE_SLICES = 1;
#endif
const uint PARTS = SLICES / LANE_SLICES, PART_STRIDE = COVERED + 8; // 4 slices of a tile lie in all banks
shared float reduction[ROWS * PARTS * PART_STRIDE]; // [ROWS][PARTS][PART_STRIDE]
const uint ITEMS = COPIED != 0 ? BLOCKS * (8 * BYTES + (TRANSFORM == NORMED ? 3 : 2)) : 1;
shared uvec4 own_x[ITEMS]; // as in prepared.glsl; the squares where a norm needs them
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

// Multiprocessors get what they request in order: the input first, which is near, so that the first products wait for nothing but their
// weights. What more of it there is than a thread holds at once is copied behind.
const uint STEPS = (ITEMS + THREADS - 1) / THREADS, AT_ONCE = STEPS < 4 ? STEPS : 4;
uvec4 items[AT_ONCE];

void request_input(uint done) {
  UNROLL for (uint i = 0; i < AT_ONCE; i++) items[i] = prepared[min(gl_LocalInvocationIndex + (done + i) * THREADS, ITEMS - 1)];
}

void put_input(uint done) {
  UNROLL for (uint i = 0; i < AT_ONCE; i++) {
    uint at = gl_LocalInvocationIndex + (done + i) * THREADS;
    if (at < ITEMS) own_x[at] = items[i];
  }
}

void finish_input() {
  put_input(0);
  UNROLL for (uint done = AT_ONCE; done < STEPS; done += AT_ONCE) {
    request_input(done);
    put_input(done);
  }
  barrier();
}

// Scales and sums of two words.
vec4 scales_of(uint token, uint pair) {
  if (COPIED != 0) return uintBitsToFloat(own_x[scales_at(BLOCKS) + pair]);
  return uintBitsToFloat(prepared[token * prepared_row(push.blocks) + scales_at(push.blocks) + pair]);
}

vec4 squares_of(uint token, uint block) {
  if (COPIED != 0) return uintBitsToFloat(own_x[squares_at(BLOCKS) + block]);
  return uintBitsToFloat(prepared[token * prepared_row(push.blocks) + squares_at(push.blocks) + block]);
}

// What 1 / rms of a prepared row needs: the thread's share of the squares' sum.
float prepared_squares(uint token) {
  uint blocks = COPIED != 0 ? BLOCKS : push.blocks;
  vec4 sums = vec4(0);
#ifdef SUBGROUP
  for (uint i = gl_LocalInvocationIndex % 32; i < blocks; i += 32) sums += squares_of(token, i);
#else
  for (uint i = 0; i < blocks; i++) sums += squares_of(token, i);
#endif
  return sums.x + sums.y + sums.z + sums.w;
}

// Among 32 threads, however many more a subgroup has: gl_SubgroupSize may count lanes that do not run (MoltenVK reports 64 on AMD's Radeon
// Pro, where 32 run).
float factor_of(float squares) {
#ifdef SUBGROUP
  squares = cluster_sum(squares, 32);
#endif
  return inversesqrt(squares / float(push.columns) + push.epsilon);
}

// ---- the product ----

// Blocks of the thread's rows, in use or on their way, and what comes behind them. That is counted on by steps, since NVIDIA's compiler
// would work out the places of each block from the start.
const uint CELLS = ROWS * PLANES, COEFFICIENTS = RUNS * COEFFICIENT_WORDS;
uvec4 words[AHEAD * CELLS];
uint block_coefficients[AHEAD * ROWS * COEFFICIENTS];
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

// Adds up what the threads have that share rows: the first COVERED threads get a row's sums each. All threads of the work group must call it.
void add_slices(inout float sums[ROWS], uint tile, uint slice) {
  uint thread = gl_LocalInvocationIndex;
#ifdef SUBGROUP
  UNROLL for (uint n = 0; n < ROWS; n++)
    UNROLL for (uint step = 8; step < 8 * LANE_SLICES; step <<= 1) sums[n] += subgroupShuffleXor(sums[n], step);
#endif
  barrier(); // what was read before has been read
  if (slice % LANE_SLICES == 0)
    UNROLL for (uint n = 0; n < ROWS; n++) reduction[(n * PARTS + slice / LANE_SLICES) * PART_STRIDE + tile * 8 + thread % 8] = sums[n];
  barrier();
  if (thread >= COVERED) return;
  UNROLL for (uint n = 0; n < ROWS; n++) {
    sums[n] = 0.0;
    UNROLL for (uint i = 0; i < PARTS; i++) sums[n] += reduction[(n * PARTS + i) * PART_STRIDE + thread];
  }
}

// ---- the results as the next product's input ----

// Prepares a word's 32 columns, which 32 neighbouring threads have in their order.
void prepare_next(float values[ROWS], float weight, uint column) {
  float value = NEXT == GATED ? values[0] / (1.0 + exp(-values[0])) * values[ROWS - 1] : values[0] * weight;
  float squares = NEXT == NORMED ? cluster_sum(values[0] * values[0], 32) : 0.0;
  Integers integers = to_integers_of_columns(value);
  uint word = column / 32, b = column % 32;
  if (gl_LocalInvocationIndex < COVERED && b < 8 && word < push.next_blocks * 4) put_prepared(0, push.next_blocks, word, b, integers, squares);
}

// ---- the first weights of the product behind ----

// Requested when a thread has requested its own last, so that they are in the device's cache when the product behind begins.
#ifdef EARLY
uint behind[EARLY_LOADS];

void read_early() {
  uint thread = gl_WorkGroupID.x * THREADS + gl_LocalInvocationIndex;
  UNROLL for (uint i = 0; i < EARLY_LOADS; i++) behind[i] = early_word(thread, gl_NumWorkGroups.x * THREADS, i);
}

// Never stores; without it nothing would be read. The loads are waited for here.
void end_early() {
  uint all = 0;
  UNROLL for (uint i = 0; i < EARLY_LOADS; i++) all |= behind[i];
  if ((all & push.zero) != 0) y[0] = 0.0;
}
#else
void read_early() {}
void end_early() {}
#endif

// Of the work group's tile `tile`, whose rows past the end are the last ones once more.
void place_fetch(uint tile, uint r, uint slice) {
  UNROLL for (uint n = 0; n < ROWS; n++) {
    uint at = min(gl_WorkGroupID.x * TILES + tile + n * (push.rows / 16), (push.rows - 1) / 8);
    words_at[n] = (at * push.blocks + slice) * PLANES * 8 + r;
    columns_at[n] = at * push.groups * GROUP_WORDS + slice * 4;
  }
}

void main() {
  uint thread = gl_LocalInvocationIndex, r = thread % 8, slice = thread / 8 % SLICES, tile = thread / (8 * SLICES);
  uint first = gl_WorkGroupID.y * BATCH, count = output_rows();
  place_fetch(tile, r, slice);
  if (COPIED != 0) request_input(0);
  UNROLL for (uint i = 0; i < AHEAD; i++)
    if (slice + i * SLICES < push.blocks) fetch(i, r);
  if (COPIED != 0) finish_input();
  float factors[BATCH], addends[ROWS * BATCH];
  UNROLL for (uint t = 0; t < BATCH; t++)
    factors[t] = TRANSFORM == NORMED ? factor_of(prepared_squares(min(first + t, count - 1))) : 1.0;
  // What the thread's own row needs at the end is under way while the weights are multiplied.
  uint row = gl_WorkGroupID.x * COVERED + thread;
  bool finishes = thread < COVERED && row < push.rows / ROWS;
  UNROLL for (uint t = 0; t < BATCH; t++)
    UNROLL for (uint n = 0; n < ROWS; n++) {
      results[n * BATCH + t] = 0.0;
      addends[n * BATCH + t] = finishes && first + t < count ? addend(first + t, row + n * (push.rows / 2)) : 0.0;
    }
  float next_norm = NEXT == NORMED && finishes ? norm[row] : 0.0;
  for (uint step = slice; step < push.blocks; step += SLICES * AHEAD)
    UNROLL for (uint i = 0; i < AHEAD; i++) {
      uint block = step + i * SLICES;
      if (block < push.blocks) {
        UNROLL for (uint t = 0; t < BATCH; t++) add_products(i, r, block, min(first + t, count - 1), t);
        if (block + SLICES * AHEAD < push.blocks)
          fetch(i, r);
        else
          read_early();
      }
    }
  UNROLL for (uint t = 0; t < BATCH; t++) {
    float sums[ROWS];
    UNROLL for (uint n = 0; n < ROWS; n++) sums[n] = results[n * BATCH + t];
    add_slices(sums, tile, slice);
#ifdef SUBGROUP
    if (NEXT != 0 && thread >= COVERED) break;
#endif
    bool stores = finishes && first + t < count;
    UNROLL for (uint n = 0; n < ROWS; n++) {
      sums[n] = stores ? sums[n] * factors[t] + addends[n * BATCH + t] : 0.0;
      if (stores) y[place_of(first + t, row + n * (push.rows / 2))] = sums[n];
    }
    if (NEXT != 0) prepare_next(sums, next_norm, row); // there is one row
  }
  end_early();
}
