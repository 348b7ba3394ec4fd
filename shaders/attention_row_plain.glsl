// The loop of attention.comp for any device: every thread takes a share of everything. Keys and values of 64 positions are requested
// together, before the row itself is read: memory is waited for once. Short contexts are bound by the instructions of a thread, one after
// the other, so everything is spread over all threads of a large work group.
const uint POSITIONS = 64;
const uint KEY_PARTS = THREADS / POSITIONS; // threads per key, each with a share of the head's units
const uint KEY_STEPS = (UNITS + KEY_PARTS - 1) / KEY_PARTS;
const uint VALUE_PARTS = THREADS / QUADS;
const uint ALL_STEPS = (POSITIONS + VALUE_PARTS - 1) / VALUE_PARTS;
const uint VALUE_STEPS = ALL_STEPS < 8 ? ALL_STEPS : 8; // requested together
#ifdef SUBGROUP
const uint LANES = 32; // threads that soften the scores of a head
#else
const uint LANES = 16;
shared float lanes[HEADS * LANES];
#endif
shared float scores[KEY_PARTS * HEADS * POSITIONS];
shared float head_scale[HEADS];
shared vec4 merged[MERGE_HEADS * THREADS];

// ---- what a thread fetches of 64 positions: its units of one key, and a quad of the first of its values ----
// Places past the end read the last position once more, whose value counts with a probability of 0. The row's own position is read too, where
// the cache may hold anything, and replaced by what the work group made of it.

uvec4 keys[KEY_STEPS];
float key_factor;
uvec2 values[VALUE_STEPS];
float value_factors[VALUE_STEPS];

void fetch_keys(uint position) {
  uint slot = cache_slot(position), share = thread / POSITIONS;
  UNROLL for (uint i = 0; i < KEY_STEPS; i++) {
    uint unit = min(share + i * KEY_PARTS, UNITS - 1);
    keys[i] = QUANTIZED != 0 ? uvec4(key_cache2[slot * UNITS + unit], 0, 0) : key_cache4[slot * UNITS + unit];
  }
  key_factor = push.scale;
  if (QUANTIZED != 0) key_factor *= uintBitsToFloat(key_cache[push.scales_offset + slot]);
}

// The position of step i of the thread's values.
uint value_position(uint first, uint i, uint end) { return min(first + thread / QUADS + i * VALUE_PARTS, end - 1); }

void fetch_values(uint first, uint end) {
  UNROLL for (uint i = 0; i < VALUE_STEPS; i++) {
    uint slot = cache_slot(value_position(first, i, end)), at = slot * QUADS + thread % QUADS;
    values[i] = QUANTIZED != 0 ? uvec2(value_cache[at], 0) : value_cache2[at];
    value_factors[i] = QUANTIZED != 0 ? uintBitsToFloat(value_cache[push.scales_offset + slot]) : 1.0;
  }
}

// Scores of one position for all heads, over this thread's share of the head's units.
void score(uint position) {
  float sums[HEADS];
  uint share = thread / POSITIONS;
  bool own = is_own(position);
  UNROLL for (uint h = 0; h < HEADS; h++) sums[h] = 0.0;
  UNROLL for (uint i = 0; i < KEY_STEPS; i++) {
    uint unit = share + i * KEY_PARTS;
    if (unit < UNITS) {
      uvec4 key = own ? own_key_unit(unit) : keys[i];
      vec4 a = QUANTIZED != 0 ? bytes_of(key.x) : vec4(unpackHalf2x16(key.x), unpackHalf2x16(key.y));
      vec4 b = QUANTIZED != 0 ? bytes_of(key.y) : vec4(unpackHalf2x16(key.z), unpackHalf2x16(key.w));
      UNROLL for (uint h = 0; h < HEADS; h++) sums[h] += dot(a, queries[h * QUADS + 2 * unit]) + dot(b, queries[h * QUADS + 2 * unit + 1]);
    }
  }
  float factor = own && QUANTIZED != 0 ? push.scale * own_key_scale() : key_factor;
  UNROLL for (uint h = 0; h < HEADS; h++) scores[(share * HEADS + h) * POSITIONS + thread % POSITIONS] = sums[h] * factor;
}

// Over the LANES neighbouring threads of a head. All threads of the work group call them.
#ifdef SUBGROUP
float lanes_max(float value) {
  UNROLL for (uint i = 1; i < LANES; i <<= 1) value = max(value, subgroupShuffleXor(value, i));
  return value;
}
float lanes_sum(float value) {
  UNROLL for (uint i = 1; i < LANES; i <<= 1) value += subgroupShuffleXor(value, i);
  return value;
}
#else
void share_lanes(float value) {
  barrier();
  if (thread < HEADS * LANES) lanes[thread] = value;
  barrier();
}
float lanes_max(float value) {
  share_lanes(value);
  uint first = thread < HEADS * LANES ? thread / LANES * LANES : 0;
  for (uint i = 0; i < LANES; i++) value = max(value, lanes[first + i]);
  return value;
}
float lanes_sum(float value) {
  share_lanes(value);
  uint first = thread < HEADS * LANES ? thread / LANES * LANES : 0;
  float sum = 0.0;
  for (uint i = 0; i < LANES; i++) sum += lanes[first + i];
  return sum;
}
#endif

// Turns scores into exp(score - maximum), updates maxima and sums; head_scale gets the factor for what was added up so far. Places from
// `count` on get 0.
void soften(uint count) {
  uint h = min(thread / LANES, HEADS), lane = thread % LANES; // HEADS: of threads that are not busy, as others write the heads' maxima
  bool busy = thread < HEADS * LANES;
  float own_scores[POSITIONS / LANES], before = head_maximum[h], largest = before, sum = 0.0;
  UNROLL for (uint i = 0; i < POSITIONS / LANES; i++) {
    uint place = lane + LANES * i;
    own_scores[i] = 0.0;
    if (busy && place < count) {
      UNROLL for (uint share = 0; share < KEY_PARTS; share++) own_scores[i] += scores[(share * HEADS + h) * POSITIONS + place];
      largest = max(largest, own_scores[i]);
    }
  }
  largest = lanes_max(largest);
  UNROLL for (uint i = 0; i < POSITIONS / LANES; i++) {
    uint place = lane + LANES * i;
    float probability = place < count ? exp(own_scores[i] - largest) : 0.0;
    if (busy) scores[h * POSITIONS + place] = probability;
    sum += probability;
  }
  sum = lanes_sum(sum);
  if (busy && lane == 0) {
    float factor = exp(before - largest);
    head_scale[h] = factor;
    head_sum[h] = head_sum[h] * factor + sum;
    head_maximum[h] = largest;
  }
  barrier();
}

vec4 results[HEADS]; // of the thread's quad, over its value part's positions

// Adds the fetched values with their probabilities; `local` is the first one's place in the block.
void add_values(uint first, uint local, uint end) {
  UNROLL for (uint i = 0; i < VALUE_STEPS; i++) {
    uint at = local + thread / QUADS + i * VALUE_PARTS;
    bool counts = VALUE_PARTS * ALL_STEPS == POSITIONS || at < POSITIONS, own = is_own(value_position(first, i, end));
    uvec2 words = own ? own_value_quad(thread % QUADS) : values[i];
    vec4 value = QUANTIZED != 0 ? bytes_of(words.x) * (own ? own_value_scale() : value_factors[i])
                                : vec4(unpackHalf2x16(words.x), unpackHalf2x16(words.y));
    UNROLL for (uint h = 0; h < HEADS; h++) results[h] += (counts ? scores[h * POSITIONS + at] : 0.0) * value;
  }
}

void start(uint begin, uint end) {
  fetch_keys(min(begin + thread % POSITIONS, end - 1));
  fetch_values(begin, min(end, begin + POSITIONS));
  if (thread < HEADS) {
    head_sum[thread] = 0.0;
    head_maximum[thread] = -3.0e38;
  }
  UNROLL for (uint h = 0; h < HEADS; h++) results[h] = vec4(0);
}

void attend(uint begin, uint end) {
  uint local = thread % POSITIONS;
  for (uint first = begin; first < end; first += POSITIONS) {
    uint stop = min(end, first + POSITIONS);
    score(min(first + local, stop - 1));
    barrier();
    soften(stop - first);
    if (thread < QUADS * VALUE_PARTS) {
      UNROLL for (uint h = 0; h < HEADS; h++) results[h] *= head_scale[h];
      add_values(first, 0, stop);
      for (uint more = VALUE_STEPS * VALUE_PARTS; more < POSITIONS; more += VALUE_STEPS * VALUE_PARTS) {
        fetch_values(first + more, stop);
        add_values(first + more, more, stop);
      }
    }
    if (stop < end) {
      fetch_keys(min(stop + local, end - 1));
      fetch_values(stop, min(end, stop + POSITIONS));
      barrier();
    }
  }
}

// What a part found of a head, [rows][heads][SPLIT][QUADS + 1]: weighted values, then maximum and sum.
uint partial_of(uint head, uint split) { return part_of(head, split) * (QUADS + 1); }

// The sums over the value parts: to the output, or to this part's partial results.
void write_results(bool alone) {
  UNROLL for (uint first = 0; first < HEADS; first += MERGE_HEADS) {
    UNROLL for (uint i = 0; i < MERGE_HEADS; i++)
      if (first + i < HEADS) merged[i * THREADS + thread] = results[min(first + i, HEADS - 1)];
    barrier();
    UNROLL for (uint i = 0; i < (MERGE_HEADS * HEAD_DIM + THREADS - 1) / THREADS; i++) {
      uint item = thread + i * THREADS, h = first + item / HEAD_DIM, column = item % HEAD_DIM;
      if (h >= min(live, first + MERGE_HEADS)) continue;
      float total = 0.0;
      UNROLL for (uint j = 0; j < VALUE_PARTS; j++) total += merged[item / HEAD_DIM * THREADS + j * QUADS + column / 4][column % 4];
      if (alone)
        put_result(h, column, total / head_sum[h]);
      else
        partial[partial_of(first_head + h, part) + column / 4][column % 4] = total;
    }
    if (first + MERGE_HEADS < HEADS) barrier();
  }
  if (!alone && thread < live) partial[partial_of(first_head + thread, part) + QUADS] = vec4(head_maximum[thread], head_sum[thread], 0, 0);
}

// Where merge_splits keeps HEADS * MOST_PARTS numbers, once the results are written.
void put_share(uint i, float value) { scores[i] = value; }
float get_share(uint i) { return scores[i]; }

// The factors of the parts' sums, as shares: of head h and part i at h * MOST_PARTS + i.
#ifdef SUBGROUP
void find_shares(uint parts) {
  for (uint h = thread / 32; h < live; h += THREADS / 32) {
    float maxima[MOST_PARTS / 32], sums[MOST_PARTS / 32], largest = -3.0e38, sum = 0.0;
    UNROLL for (uint i = 0; i < MOST_PARTS / 32; i++) {
      uint split = thread % 32 + 32 * i;
      vec4 found = split < parts ? partial[partial_of(first_head + h, split) + QUADS] : vec4(-3.0e38, 0, 0, 0);
      maxima[i] = found.x;
      sums[i] = found.y;
      largest = max(largest, found.x);
    }
    UNROLL for (uint i = 1; i < 32; i <<= 1) largest = max(largest, subgroupShuffleXor(largest, i));
    UNROLL for (uint i = 0; i < MOST_PARTS / 32; i++) sum += sums[i] * exp(maxima[i] - largest);
    UNROLL for (uint i = 1; i < 32; i <<= 1) sum += subgroupShuffleXor(sum, i);
    UNROLL for (uint i = 0; i < MOST_PARTS / 32; i++) put_share(h * MOST_PARTS + thread % 32 + 32 * i, exp(maxima[i] - largest) / sum);
  }
}
#else
void find_shares(uint parts) {
  if (thread >= live) return;
  float largest = -3.0e38, sum = 0.0;
  for (uint i = 0; i < parts; i++) largest = max(largest, partial[partial_of(first_head + thread, i) + QUADS].x);
  for (uint i = 0; i < parts; i++) {
    vec4 found = partial[partial_of(first_head + thread, i) + QUADS];
    float factor = exp(found.x - largest);
    put_share(thread * MOST_PARTS + i, factor);
    sum += factor * found.y;
  }
  for (uint i = 0; i < parts; i++) put_share(thread * MOST_PARTS + i, get_share(thread * MOST_PARTS + i) / sum);
}
#endif

// Sums that a thread requests at once. More of them, or before their factors are known, is more code and was slower (docs/benchmarks/log.md).
#ifdef UNROLLED
const uint AT_ONCE = 16;
#else
const uint AT_ONCE = 4;
#endif

void merge_splits(uint parts) {
  find_shares(parts);
  barrier();
  for (uint item = thread; item < live * QUADS; item += THREADS) {
    uint h = item / QUADS, quad = item % QUADS, from = partial_of(first_head + h, 0) + quad;
    vec4 total = vec4(0);
    for (uint first = 0; first < parts; first += AT_ONCE) {
      vec4 found[AT_ONCE];
      UNROLL for (uint i = 0; i < AT_ONCE; i++) found[i] = partial[from + min(first + i, parts - 1) * (QUADS + 1)];
      UNROLL for (uint i = 0; i < AT_ONCE; i++)
        if (first + i < parts) total += get_share(h * MOST_PARTS + first + i) * found[i];
    }
    UNROLL for (uint j = 0; j < 4; j++) put_result(h, 4 * quad + j, total[j]);
  }
}
