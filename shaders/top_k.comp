#version 460
// The k largest of a row, in descending order, ties to the lower id, and log(sum(exp)), in two dispatches. In the first one a work group
// leaves the largest item of each of its groups of neighbouring elements. In the second one a work group for each row looks for a
// bound that k groups reach, so that k elements do: hardly more than k, where the largest are spread over the row. It reads those groups
// again, keeps what reaches the bound and writes each where its rank says. Where too much reaches the bound (ties; the largest side by side)
// it goes through the whole row, and sorts whenever its list is full. For k = 1 a work group has one group, and the largest is the answer.
// (One dispatch, in which the last work group to finish goes on, takes 2 us longer on an H200.)
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef SUBGROUP // of at least 32
#extension GL_KHR_shader_subgroup_shuffle : require
#define UNROLL [[unroll]]
#else
#define UNROLL // compilers for CPUs take minutes over what a GPU's needs to keep arrays in registers
#endif
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256; // a power of two, at least 256
layout(constant_id = 1) const uint LIST = 1024;   // items in shared memory: a power of two, at least THREADS + 128
layout(constant_id = 2) const uint GROUP = 256;   // elements of a group; there are LIST / 2 groups at most
layout(constant_id = 3) const uint ONE = 0;       // 1: k is 1
layout(constant_id = 4) const uint GROUPS = 8;    // of a segment: 1 or 8
layout(constant_id = 5) const uint SECOND = 0;    // 1: the second dispatch
#include "run.glsl"
layout(set = 0, binding = 1) readonly buffer Logits { float logits[]; };
layout(set = 0, binding = 2) buffer Largest { uvec2 largest[]; };        // [rows][segments][GROUPS]
layout(set = 0, binding = 3) buffer Statistics { vec2 statistics[]; };   // [rows][segments]: maximum, sum of exp
layout(set = 0, binding = 4) writeonly buffer Values { float values[]; }; // k, then the log of the sum
layout(set = 0, binding = 5) writeonly buffer Ids { int ids[]; };
layout(push_constant) uniform Push {
  uint count; // elements of a row
  uint k;
  uint segments; // of a row: work groups of the first dispatch
  uint logits_stride, values_stride, ids_stride;
} push;
const uint GROUP_THREADS = THREADS / GROUPS, SHARE = GROUP <= GROUP_THREADS ? 1 : GROUP / GROUP_THREADS, BUCKETS = 256, BATCH = 8;
const uint OWN = LIST / 2 <= THREADS ? 1 : LIST / 2 / THREADS; // groups that a thread has of a row's
const uvec2 NOTHING = uvec2(0, 0xffffffffu); // a key that is less than all others', and no id
const float LOWEST = -3.40282347e38;         // number
const uint NO_NUMBER = 0xff800000u;          // what is there instead of one
#ifdef SUBGROUP
const uint LEADERS = THREADS / 32;
#else
const uint LEADERS = THREADS;
#endif
shared uvec2 leaders[LEADERS];
shared float reduction[LEADERS];
shared uvec2 items[ONE != 0 ? 1 : LIST];
shared uint histogram[BUCKETS], coarse[BUCKETS / 16];
shared uint passing_count, found_count, bound_bucket;
uint thread = gl_LocalInvocationIndex, row = gl_WorkGroupID.y, all_groups = push.segments * GROUPS;

// Key and id of an element. Keys compare as unsigned numbers the way floats do; what is not a finite number is nothing.
uvec2 item_of(float value, uint id) {
  uint bits = floatBitsToUint(value);
  if ((bits & 0x7f800000u) == 0x7f800000u) return NOTHING;
  if (bits == 0x80000000u) bits = 0; // -0 equals 0
  return uvec2((bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u, id);
}
float value_of(uint key) {
  if (key == 0) return uintBitsToFloat(NO_NUMBER);
  return uintBitsToFloat((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}
bool before(uvec2 a, uvec2 b) { return a.x > b.x || (a.x == b.x && a.y < b.y); }

float logit(uint id) { return logits[row * push.logits_stride + min(id, push.count - 1)]; }
uvec2 element(uint id) { return id < push.count ? item_of(logit(id), id) : NOTHING; }

void put_result(uint i, uvec2 item) {
  values[row * push.values_stride + i] = value_of(item.x);
  ids[row * push.ids_stride + i] = int(item.y);
}

// ---- over the threads of a work group; all of them must call these ----

#ifdef SUBGROUP
float reduce(float value, bool maximum) {
  UNROLL for (uint i = 1; i < 32; i <<= 1) {
    float other = subgroupShuffleXor(value, i);
    value = maximum ? max(value, other) : value + other;
  }
  if (thread % 32 == 0) reduction[thread / 32] = value;
  barrier();
  float result = reduction[0];
  for (uint i = 1; i < LEADERS; i++) result = maximum ? max(result, reduction[i]) : result + reduction[i];
  barrier();
  return result;
}

// leaders[i * LEADERS / count]: the first of the items of the i-th of `count` equal parts of the threads, which are of 32 at least.
void find_leaders(uvec2 item, uint count) {
  UNROLL for (uint i = 1; i < 32; i <<= 1) {
    uvec2 other = uvec2(subgroupShuffleXor(item.x, i), subgroupShuffleXor(item.y, i));
    if (before(other, item)) item = other;
  }
  if (thread % 32 == 0) leaders[thread / 32] = item;
  barrier();
  uint step = LEADERS / count;
  if (step == 1) return;
  if (thread < count)
    for (uint i = 1; i < step; i++)
      if (before(leaders[thread * step + i], leaders[thread * step])) leaders[thread * step] = leaders[thread * step + i];
  barrier();
}
#else
float reduce(float value, bool maximum) {
  reduction[thread] = value;
  barrier();
  for (uint step = THREADS / 2; step > 0; step >>= 1) {
    if (thread < step) reduction[thread] = maximum ? max(reduction[thread], reduction[thread + step]) : reduction[thread] + reduction[thread + step];
    barrier();
  }
  float result = reduction[0];
  barrier();
  return result;
}

void find_leaders(uvec2 item, uint count) {
  leaders[thread] = item;
  barrier();
  for (uint step = THREADS / count / 2; step > 0; step >>= 1) {
    if (thread % (THREADS / count) < step && before(leaders[thread + step], leaders[thread])) leaders[thread] = leaders[thread + step];
    barrier();
  }
}
#endif

// ---- what the work group of a segment does ----

// Leaves the groups' largest items, and maximum and sum of the work group's elements.
void take_segment() {
  uint first = (gl_WorkGroupID.x * GROUPS + thread / GROUP_THREADS) * GROUP + thread % GROUP_THREADS;
  float own[SHARE];
  UNROLL for (uint i = 0; i < SHARE; i++) own[i] = logit(first + i * GROUP_THREADS);
  uvec2 best = NOTHING;
  UNROLL for (uint i = 0; i < SHARE; i++) {
    uint id = first + i * GROUP_THREADS;
    uvec2 item = id < push.count ? item_of(own[i], id) : NOTHING;
    if (item.x == 0) own[i] = uintBitsToFloat(NO_NUMBER);
    if (before(item, best)) best = item;
  }
  find_leaders(best, GROUPS);
  float maximum = LOWEST, sum = 0.0;
  for (uint g = 0; g < GROUPS; g++) {
    uint key = leaders[g * (LEADERS / GROUPS)].x;
    if (key != 0) maximum = max(maximum, value_of(key));
  }
  UNROLL for (uint i = 0; i < SHARE; i++) sum += floatBitsToUint(own[i]) == NO_NUMBER ? 0.0 : exp(own[i] - maximum);
  sum = reduce(sum, false);
  if (thread < GROUPS) largest[row * all_groups + gl_WorkGroupID.x * GROUPS + thread] = leaders[thread * (LEADERS / GROUPS)];
  if (thread == 0) statistics[row * push.segments + gl_WorkGroupID.x] = vec2(maximum, sum);
}

// ---- what the row's work group does ----

float row_log_sum() {
  float maximum = LOWEST, sum = 0.0;
  for (uint i = thread; i < push.segments; i += THREADS) maximum = max(maximum, statistics[row * push.segments + i].x);
  maximum = reduce(maximum, true);
  for (uint i = thread; i < push.segments; i += THREADS) {
    vec2 part = statistics[row * push.segments + i];
    sum += part.y * exp(part.x - maximum);
  }
  return maximum + log(reduce(sum, false));
}

void put_largest() {
  uvec2 best = NOTHING;
  for (uint g = thread; g < all_groups; g += THREADS)
    if (before(largest[row * all_groups + g], best)) best = largest[row * all_groups + g];
  find_leaders(best, 1);
  if (thread == 0) put_result(0, leaders[0]);
}

// A value's bucket; the higher the value, the higher, or the same.
float low, per_bucket;
float bucket_of(float value) {
  if (per_bucket == 0.0) return 0.0; // the difference may be infinite
  precise float bucket = (value - low) * per_bucket; // wherever it is asked
  return bucket;
}

// Divides the range of the groups' largest values, or what is within 32 of the row's, into buckets, and finds the highest one so that k
// groups are there or above; nothing is below the bound where fewer have a number at all.
void find_bound(uvec2 own[OWN]) {
  float highest = LOWEST, lowest = -LOWEST;
  UNROLL for (uint i = 0; i < OWN; i++)
    if (own[i].x != 0) {
      highest = max(highest, value_of(own[i].x));
      lowest = min(lowest, value_of(own[i].x));
    }
  highest = reduce(highest, true);
  low = max(-reduce(-lowest, true), highest - 32.0);
  per_bucket = float(BUCKETS - 1) / (highest - low);
  if (!(highest > low) || isinf(per_bucket)) per_bucket = 0.0;
  for (uint i = thread; i < BUCKETS; i += THREADS) histogram[i] = 0;
  if (thread == 0) bound_bucket = passing_count = found_count = 0;
  barrier();
  UNROLL for (uint i = 0; i < OWN; i++)
    if (own[i].x != 0) atomicAdd(histogram[uint(clamp(bucket_of(value_of(own[i].x)), 0.0, float(BUCKETS - 1)))], 1);
  barrier();
  if (thread < BUCKETS / 16) {
    uint sum = 0;
    for (uint i = 0; i < 16; i++) sum += histogram[thread * 16 + i];
    coarse[thread] = sum;
  }
  barrier();
  if (thread < BUCKETS) {
    uint above = 0;
    for (uint i = thread / 16 + 1; i < BUCKETS / 16; i++) above += coarse[i];
    for (uint i = thread % 16 + 1; i < 16; i++) above += histogram[thread / 16 * 16 + i];
    if (above < push.k && above + histogram[thread] >= push.k) bound_bucket = thread;
  }
  barrier();
}

// Whether a number reaches the bound; bucket 0 has all that is below the range, too.
bool reaches(uint key) { return key != 0 && (bound_bucket == 0 || bucket_of(value_of(key)) >= float(bound_bucket)); }

// Puts what reaches the bound into the lower half of `items`; found_count may come out larger than that. The groups that have some are noted
// in the upper half.
void collect(uvec2 own[OWN]) {
  UNROLL for (uint i = 0; i < OWN; i++)
    if (reaches(own[i].x)) items[LIST / 2 + atomicAdd(passing_count, 1)].x = i * THREADS + thread;
  barrier();
  uint all = passing_count * GROUP;
  for (uint first = thread; first < all; first += BATCH * THREADS) {
    float batch[BATCH];
    uint at[BATCH];
    UNROLL for (uint i = 0; i < BATCH; i++) {
      uint place = min(first + i * THREADS, all - 1);
      at[i] = items[LIST / 2 + place / GROUP].x * GROUP + place % GROUP;
      batch[i] = logit(at[i]);
    }
    UNROLL for (uint i = 0; i < BATCH; i++) {
      uvec2 item = item_of(batch[i], at[i]);
      if (first + i * THREADS >= all || at[i] >= push.count || !reaches(item.x)) continue;
      uint place = atomicAdd(found_count, 1);
      if (place < LIST / 2) items[place] = item;
    }
  }
  barrier();
}

void put_ranked(uint found) {
  for (uint i = thread; i < found; i += THREADS) {
    uint rank = 0;
    for (uint j = 0; j < found; j++) rank += before(items[j], items[i]) ? 1 : 0;
    if (rank < push.k) put_result(rank, items[i]);
  }
  for (uint i = found + thread; i < push.k; i += THREADS) put_result(i, NOTHING);
}

void sort_items() {
  for (uint size = 2; size <= LIST; size <<= 1)
    for (uint step = size >> 1; step > 0; step >>= 1) {
      /* Unrolled everywhere: Mesa's llvmpipe ends all loops of a thread when they have gone round 65,535 times together. */
      [[unroll]] for (uint n = 0; n < LIST / 2 / THREADS; n++) {
        uint i = thread + n * THREADS, a = i / step * step * 2 + i % step, b = a + step;
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

// The k first of `items` are the largest so far, in order; what comes before the last of them is put behind them.
void put_sorted() {
  barrier(); // everybody knows how many there were
  for (uint i = thread; i < LIST; i += THREADS) items[i] = NOTHING;
  if (thread == 0) found_count = 0;
  barrier();
  for (uint first = 0; first < push.count; first += THREADS) {
    uvec2 item = element(first + thread);
    if (before(item, items[push.k - 1])) items[push.k + atomicAdd(found_count, 1)] = item;
    barrier();
    if (push.k + found_count + THREADS > LIST || first + THREADS >= push.count) {
      sort_items();
      for (uint i = push.k + thread; i < LIST; i += THREADS) items[i] = NOTHING;
      if (thread == 0) found_count = 0;
    }
    barrier();
  }
  for (uint i = thread; i < push.k; i += THREADS) put_result(i, items[i]);
}

void find_row() {
  if (ONE != 0) {
    put_largest();
  } else {
    uvec2 own[OWN];
    UNROLL for (uint i = 0; i < OWN; i++) {
      uint g = thread + i * THREADS;
      own[i] = g < all_groups ? largest[row * all_groups + g] : NOTHING;
    }
    find_bound(own);
    collect(own);
    uint found = found_count;
    if (found <= LIST / 2)
      put_ranked(found);
    else
      put_sorted();
  }
  float log_sum = row_log_sum();
  if (thread == 0) values[row * push.values_stride + push.k] = log_sum;
}

void main() {
  if (SECOND == 0)
    take_segment();
  else
    find_row();
}
