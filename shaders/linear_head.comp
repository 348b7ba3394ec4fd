#version 460
// A row times a dense matrix of 8-bit weights (repack_head.comp) by integer dot products. Each work group transforms the row once
// and holds it as 16-bit integers with a scale per 32 columns, which is far below the error of the weights; then it takes 2 rows per 32
// threads after one another, until the matrix ends.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_integer_dot_product : require
#extension GL_EXT_control_flow_attributes : require
#ifdef SUBGROUP // of at least 32
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#define UNROLL [[unroll]]
#else
#define UNROLL
#endif
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 512; // a power of two, at least 32
layout(constant_id = 1) const uint WORDS = 16;    // 16 columns each, of a row; a multiple of 4
layout(constant_id = 2) const uint TRANSFORM = 0;
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Matrix { uvec4 matrix[]; };
layout(set = 0, binding = 2) readonly buffer Scales { uint scales[]; };
layout(set = 0, binding = 3) readonly buffer Input { float x[]; };
layout(set = 0, binding = 4) readonly buffer Norm { float norm[]; };
layout(set = 0, binding = 5) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 6) buffer Output { float y[]; };
#include "linear.glsl"
const uint REPEAT = 2;
const uint AT_ONCE = 2; // words of a row that a thread requests together
const uint BYTES = 2;
const float RANGE = 32512.0; // 127 * 256: the high byte stays in -127..127
const uint ITEM_COUNT = WORDS * 4;
shared uvec4 own_high[WORDS], own_low[WORDS];
shared float own_scales[WORDS / 2]; // of 32 columns
shared float reduction[THREADS];
#include "transform.glsl"
#include "integers.glsl"
uint column_of(uint item, uint j) { return 4 * item + j; }
void put_item(uint item, Integers of) {
  own_high[item / 4][item % 4] = of.high;
  own_low[item / 4][item % 4] = of.low;
  if (item % 8 == 0) own_scales[item / 8] = of.scale;
}
#include "quantize_row.glsl"

#include "linear_head.glsl"

// Of 32 threads' rows, in use or on their way: what comes next is requested as soon as they are used.
const uint SPAN = AT_ONCE * LANES; // words of a row that they have together
uvec4 weights[AT_ONCE * REPEAT];
uint pairs[AT_ONCE * REPEAT];

void fetch(uint first, uint base) {
  UNROLL for (uint k = 0; k < AT_ONCE; k++)
    UNROLL for (uint i = 0; i < REPEAT; i++) {
      uint row = min(first + i, push.rows - 1), at = min(base + gl_LocalInvocationIndex % LANES + k * LANES, WORDS - 1);
      weights[k * REPEAT + i] = matrix[row * WORDS + at];
      pairs[k * REPEAT + i] = scales[row * (WORDS / 4) + at / 4];
    }
}

float results[REPEAT];

void add_products(uint base) {
  UNROLL for (uint k = 0; k < AT_ONCE; k++) {
    uint at = base + gl_LocalInvocationIndex % LANES + k * LANES;
    if (at < WORDS) {
      uvec4 high = own_high[at], low = own_low[at];
      float scale = own_scales[at / 2];
      UNROLL for (uint i = 0; i < REPEAT; i++) {
        uint pair = pairs[k * REPEAT + i], bits = (at & 2) != 0 ? pair & 0xffff0000u : pair << 16;
        results[i] += scale * uintBitsToFloat(bits) * product(weights[k * REPEAT + i], high, low);
      }
    }
  }
}

void main() {
  const uint STEP_ROWS = THREADS / LANES * REPEAT;
  uint thread = gl_LocalInvocationIndex, token = gl_WorkGroupID.y, stride = gl_NumWorkGroups.x * STEP_ROWS;
  uint first = gl_WorkGroupID.x * STEP_ROWS + thread / LANES * REPEAT;
  request_row(input_row(token) * push.x_stride, push.columns);
  fetch(first, 0);
  quantize_row(push.columns, push.epsilon);
  for (uint start = gl_WorkGroupID.x * STEP_ROWS; start < push.rows; start += stride) {
    UNROLL for (uint i = 0; i < REPEAT; i++) results[i] = 0.0;
    for (uint base = 0; base < WORDS; base += SPAN) {
      add_products(base);
      bool more = base + SPAN < WORDS;
      if (more || start + stride < push.rows) fetch(more ? first : first + stride, more ? base + SPAN : 0);
    }
    UNROLL for (uint i = 0; i < REPEAT; i++) {
      float result = add_lanes(results[i]);
      if (thread % LANES == 0 && first + i < push.rows) store(token, first + i, result * row_factor);
    }
    first += stride;
  }
}
