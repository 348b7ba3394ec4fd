#version 460
// The k largest of each segment of a row, in descending order, ties to the lower id: a bitonic sort of the segment in shared memory, or
// for k = 1 only a search.
// Level 0 reads logits, later levels the candidates of the level before; the last one (a single segment) writes the results.
#extension GL_GOOGLE_include_directive : require
#ifdef SUBGROUP // of at least 32
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_shuffle : require
#endif
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256; // a power of two
layout(constant_id = 1) const uint SEGMENT = 2048; // a power of two
layout(constant_id = 2) const uint ONE = 0;        // 1: k is 1
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Logits { float logits[]; };
layout(set = 0, binding = 2) readonly buffer Source { uvec2 source[]; };   // [rows][count]: key, id
layout(set = 0, binding = 3) writeonly buffer Target { uvec2 target[]; };  // [rows][segments][k]
layout(set = 0, binding = 4) buffer Statistics { vec2 statistics[]; };     // [rows][segments of level 0]: maximum, sum of exp
layout(set = 0, binding = 5) writeonly buffer Values { float values[]; };
layout(set = 0, binding = 6) writeonly buffer Ids { int ids[]; };
layout(push_constant) uniform Push {
  uint count;    // elements of a row at this level
  uint k;
  uint level;
  uint segments; // of level 0
  uint final;    // 1: write values and ids
  uint logits_stride, values_stride, ids_stride;
} push;
shared uvec2 items[SEGMENT];
shared float reduction[THREADS];
shared uvec2 winners[ONE != 0 ? THREADS : 1];
uint filled = SEGMENT; // items in use: a power of two that holds what is left of the row, and k
const uint NO_ID = 0xffffffffu;

// Keys compare as unsigned numbers the way floats do; 0 is what is not a finite number.
uint key_of(float value) {
  uint bits = floatBitsToUint(value);
  if ((bits & 0x7f800000u) == 0x7f800000u) return 0;
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
float value_of(uint key) {
  if (key == 0) return uintBitsToFloat(0xff800000u);
  return uintBitsToFloat((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}
bool before(uvec2 a, uvec2 b) { return a.x > b.x || (a.x == b.x && a.y < b.y); }

void load(uint row, uint first) {
  uint needed = max(push.count - first, push.k);
  while (filled / 2 >= needed && filled > 2) filled /= 2;
  for (uint i = gl_LocalInvocationIndex; i < filled; i += THREADS) {
    uvec2 item = uvec2(0, NO_ID);
    if (first + i < push.count) {
      if (push.level == 0) {
        item.x = key_of(logits[row * push.logits_stride + first + i]);
        if (item.x != 0) item.y = first + i;
      } else {
        item = source[row * push.count + first + i];
      }
    }
    items[i] = item;
  }
  barrier();
}

void sort() {
  for (uint size = 2; size <= filled; size <<= 1)
    for (uint step = size >> 1; step > 0; step >>= 1) {
      for (uint i = gl_LocalInvocationIndex; i < filled / 2; i += THREADS) {
        uint a = (i / step) * step * 2 + i % step, b = a + step;
        bool descending = (a & size) == 0;
        uvec2 first = items[a], second = items[b];
        if (before(second, first) == descending) {
          items[a] = second;
          items[b] = first;
        }
      }
      barrier();
    }
}

// This thread's largest item.
uvec2 find_own_largest() {
  uvec2 best = uvec2(0, NO_ID);
  for (uint i = gl_LocalInvocationIndex; i < filled; i += THREADS)
    if (before(items[i], best)) best = items[i];
  return best;
}

#ifdef SUBGROUP
// The item that a sort would put first.
uvec2 find_largest() {
  uvec2 best = find_own_largest();
  [[unroll]] for (uint i = 1; i < 32; i <<= 1) {
    uvec2 other = uvec2(subgroupShuffleXor(best.x, i), subgroupShuffleXor(best.y, i));
    if (before(other, best)) best = other;
  }
  if (gl_LocalInvocationIndex % 32 == 0) winners[gl_LocalInvocationIndex / 32] = best;
  barrier();
  for (uint i = 0; i < THREADS / 32; i++)
    if (before(winners[i], best)) best = winners[i];
  return best;
}

float reduce(float value, bool maximum) {
  [[unroll]] for (uint i = 1; i < 32; i <<= 1) {
    float other = subgroupShuffleXor(value, i);
    value = maximum ? max(value, other) : value + other;
  }
  if (gl_LocalInvocationIndex % 32 == 0) reduction[gl_LocalInvocationIndex / 32] = value;
  barrier();
  float result = reduction[0];
  for (uint i = 1; i < THREADS / 32; i++) result = maximum ? max(result, reduction[i]) : result + reduction[i];
  barrier();
  return result;
}
#else
uvec2 find_largest() {
  uint thread = gl_LocalInvocationIndex;
  winners[thread] = find_own_largest();
  barrier();
  for (uint step = THREADS / 2; step > 0; step >>= 1) {
    if (thread < step && before(winners[thread + step], winners[thread])) winners[thread] = winners[thread + step];
    barrier();
  }
  return winners[0];
}

float reduce(float value, bool maximum) {
  reduction[gl_LocalInvocationIndex] = value;
  barrier();
  for (uint step = THREADS / 2; step > 0; step >>= 1) {
    if (gl_LocalInvocationIndex < step) {
      float a = reduction[gl_LocalInvocationIndex], b = reduction[gl_LocalInvocationIndex + step];
      reduction[gl_LocalInvocationIndex] = maximum ? max(a, b) : a + b;
    }
    barrier();
  }
  float result = reduction[0];
  barrier();
  return result;
}
#endif

// Maximum and sum of exponentials of a level 0 segment whose largest item is known.
vec2 segment_statistics(uvec2 largest) {
  float maximum = largest.x != 0 ? value_of(largest.x) : -3.0e38, sum = 0.0;
  for (uint i = gl_LocalInvocationIndex; i < filled; i += THREADS)
    if (items[i].x != 0) sum += exp(value_of(items[i].x) - maximum);
  return vec2(maximum, reduce(sum, false));
}

float row_log_sum(uint row, vec2 own) {
  float maximum = -3.0e38, sum = 0.0;
  if (push.level == 0) return own.x + log(own.y);
  for (uint i = gl_LocalInvocationIndex; i < push.segments; i += THREADS) maximum = max(maximum, statistics[row * push.segments + i].x);
  maximum = reduce(maximum, true);
  for (uint i = gl_LocalInvocationIndex; i < push.segments; i += THREADS) {
    vec2 part = statistics[row * push.segments + i];
    sum += part.y * exp(part.x - maximum);
  }
  return maximum + log(reduce(sum, false));
}

void main() {
  uint thread = gl_LocalInvocationIndex, segment = gl_WorkGroupID.x, row = gl_WorkGroupID.y;
  load(row, segment * SEGMENT);
  uvec2 largest;
  if (ONE != 0) {
    largest = find_largest();
  } else {
    sort();
    largest = items[0];
  }
  vec2 own = vec2(0);
  if (push.level == 0) own = segment_statistics(largest);
  if (ONE != 0 && thread == 0) items[0] = largest; // behind the barriers of all that reads items
  if (push.final != 0) {
    for (uint i = thread; i < push.k; i += THREADS) {
      values[row * push.values_stride + i] = value_of(items[i].x);
      ids[row * push.ids_stride + i] = int(items[i].y);
    }
    float log_sum = row_log_sum(row, own);
    if (thread == 0) values[row * push.values_stride + push.k] = log_sum;
    return;
  }
  for (uint i = thread; i < push.k; i += THREADS) target[(row * gl_NumWorkGroups.x + segment) * push.k + i] = items[i];
  if (push.level == 0 && thread == 0) statistics[row * push.segments + segment] = own;
}
