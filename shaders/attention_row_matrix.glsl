// The loop of attention.comp on cooperative matrices (f16 in, f32 out), where the query heads are the columns of a tile, so that keys and
// values are read once for all of them and long contexts are bound by memory alone. Each subgroup takes 16 positions in turn, and waits for
// no other: keys, then values, go from memory to registers while the positions before are multiplied, and through shared memory to the
// matrices. It has maxima, sums and results of its own, which are merged at the end. Nothing knows which lane holds which element of a matrix,
// so scores, probabilities and factors pass through shared memory as well. Sizes are macros and shared memory is in 16-byte words for
// the reasons of linear_matrix.comp. Matrices of 16 x 8 take half the registers and instructions of those of 16 x 16.
#define SUBGROUPS (THREADS / 32)
#define COLUMNS 8   // query heads of a tile; those that there are not are zeros
#define TOGETHER 16 // positions of a subgroup
#define SHARERS 4   // lanes of a head where they work element by element
#define MOST_UNITS 16
#define MOST_TILES (MOST_UNITS / 2)          // of 16 dimensions
#define FETCHES (TOGETHER * MOST_UNITS / 32) // 16-byte words that a lane fetches
#define TILE_STRIDE (MOST_UNITS + 1)         // the padding spreads rows over the banks
#define TILE_WORDS (TOGETHER * TILE_STRIDE)  // of a subgroup
// A head's probabilities as f16, then 16 times the factor of what was added up before.
#define WEIGHTS_STRIDE 7
#define FACTORS 2
#define WEIGHTS_WORDS (COLUMNS * WEIGHTS_STRIDE)
#define MATRIX_ACCUMULATOR coopmat<float, gl_ScopeSubgroup, 16, COLUMNS, gl_MatrixUseAccumulator>
#define MATRIX_LEFT coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA>
#define MATRIX_RIGHT coopmat<float16_t, gl_ScopeSubgroup, 16, COLUMNS, gl_MatrixUseB>
const uint POSITIONS = SUBGROUPS * TOGETHER;
const float NO_SCORE = -3.0e38;   // of a position that is not there
const float NO_MAXIMUM = -1.0e30; // before the first score: far above NO_SCORE, which thus has no weight even then
const float VALUE_FACTOR = QUANTIZED != 0 ? 128.0 : 1.0; // of probabilities times the values' scales, which would be small for f16
shared uvec4 tile[SUBGROUPS * TILE_WORDS];       // per subgroup: keys, scores, values and results in turn
shared uvec4 weights[SUBGROUPS * WEIGHTS_WORDS]; // per subgroup: what values and results are multiplied by
shared float subgroup_maximum[SUBGROUPS * COLUMNS], subgroup_sum[SUBGROUPS * COLUMNS], subgroup_weight[SUBGROUPS * COLUMNS];
MATRIX_RIGHT query_tiles[MOST_TILES];   // [dimension][head]
MATRIX_ACCUMULATOR results[MOST_TILES]; // [dimension][head]
uint lane = gl_SubgroupInvocationID, own_tile = gl_SubgroupID * TILE_WORDS, own_weights = gl_SubgroupID * WEIGHTS_WORDS;
uint own_head = lane / SHARERS, share = lane % SHARERS;
float maximum = NO_MAXIMUM, sum = 0.0; // of the lane's head, over the subgroup's positions; sum: over the lane's

uint halves(vec2 pair) { return packHalf2x16(clamp(pair, -65504.0, 65504.0)); }

// Bytes as halves, without their scale: values 0 and 2 of four, then 1 and 3. 0x6400 is 1024, and what is in its low byte counts 1.
uvec4 halves_of_bytes(uvec2 words) {
  words ^= 0x80808080u;
  const f16vec2 bias = f16vec2(1024.0 + 128.0);
  uvec4 biased = uvec4(words.x, words.x >> 8, words.y, words.y >> 8) & 0x00ff00ffu | 0x64006400u, result;
  UNROLL for (uint i = 0; i < 4; i++) result[i] = packFloat2x16(unpackFloat2x16(biased[i]) - bias);
  return result;
}

// ---- from the caches to shared memory ----

uvec4 keys[FETCHES], values[FETCHES];
float key_scale, value_scale; // q8: of the lane's position, lane % TOGETHER

// A lane's item i of a tile is unit % UNITS of position item / UNITS. Places past the end take the last position once more.
void fetch_item(bool of_keys, uint i, uint unit) {
  if (QUANTIZED != 0) {
    uvec4 words = uvec4(of_keys ? key_cache2[unit] : value_cache2[unit], 0, 0);
    if (of_keys)
      keys[i] = words;
    else
      values[i] = words;
  } else if (of_keys) {
    keys[i] = key_cache4[unit];
  } else {
    values[i] = value_cache4[unit];
  }
}

void fetch(bool of_keys, uint first, uint end) {
  if (first + TOGETHER <= end) {
    uint unit = cache_slot(first + lane / UNITS) * UNITS + lane % UNITS, step = push.kv_heads * 32;
    UNROLL for (uint i = 0; i < FETCHES; i++)
      if (32 % UNITS == 0 && i < TOGETHER * UNITS / 32) fetch_item(of_keys, i, unit + i * step);
  }
  if (32 % UNITS != 0 || first + TOGETHER > end)
    UNROLL for (uint i = 0; i < FETCHES; i++) {
      uint item = lane + 32 * i;
      if (i < TOGETHER * UNITS / 32) fetch_item(of_keys, i, cache_slot(min(first + item / UNITS, end - 1)) * UNITS + item % UNITS);
    }
  if (QUANTIZED == 0) return;
  uint scale = push.scales_offset + cache_slot(min(first + lane % TOGETHER, end - 1));
  if (of_keys)
    key_scale = uintBitsToFloat(key_cache[scale]);
  else
    value_scale = uintBitsToFloat(value_cache[scale]);
}

uvec4 own_unit(bool of_keys, uint unit) {
  if (of_keys) return QUANTIZED != 0 ? halves_of_bytes(own_key_unit(unit).xy) : own_key_unit(unit);
  uvec2 low = own_value_quad(2 * unit), high = own_value_quad(2 * unit + 1);
  return QUANTIZED != 0 ? halves_of_bytes(uvec2(low.x, high.x)) : uvec4(low, high);
}

// What was fetched from position `first` on, to the subgroup's tile. In the context's last tile zeros take the places past the end, and what
// the work group made of the row's own key and value that of what was read, where the cache may hold anything.
void put(bool of_keys, uint first, uint end) {
  UNROLL for (uint i = 0; i < FETCHES; i++) {
    if (i >= TOGETHER * UNITS / 32) continue;
    uint item = lane + 32 * i;
    uvec4 words = of_keys ? keys[i] : values[i];
    tile[own_tile + item / UNITS * TILE_STRIDE + item % UNITS] = QUANTIZED != 0 ? halves_of_bytes(words.xy) : words;
  }
  subgroupBarrier();
  if (own_position - first >= TOGETHER && end - first >= TOGETHER) return;
  uint own = own_position - first;
  for (uint item = lane; item < TOGETHER * UNITS; item += 32) {
    uint at = item / UNITS, to = own_tile + at * TILE_STRIDE + item % UNITS;
    if (first + at >= end) tile[to] = uvec4(0);
#ifdef ROPE
    if (at == own) tile[to] = own_unit(of_keys, item % UNITS);
#endif
  }
  subgroupBarrier();
}

// q8: the scale of the lane's position from `first` on.
float scale_of(bool of_keys, uint first, uint end) {
  uint position = first + lane % TOGETHER;
  if (position >= end) return 0.0;
#ifdef ROPE
  if (position == own_position) return of_keys ? own_key_scale() : own_value_scale();
#endif
  return of_keys ? key_scale : value_scale;
}

// ---- the products ----

// The queries, as prepared, in `query_tiles` of every subgroup.
void load_queries() {
  for (uint at = thread; at < COLUMNS * UNITS; at += THREADS) {
    uint head = at / UNITS, unit = at % UNITS;
    vec4 low = vec4(0), high = vec4(0);
    if (head < live) {
      low = queries[head * QUADS + 2 * unit];
      high = queries[head * QUADS + 2 * unit + 1];
      if (QUANTIZED != 0) {
        low = low.xzyw;
        high = high.xzyw;
      }
    }
    tile[head * TILE_STRIDE + unit] = uvec4(halves(low.xy), halves(low.zw), halves(high.xy), halves(high.zw));
  }
  barrier();
  UNROLL for (uint d = 0; d < MOST_TILES; d++)
    if (d < UNITS / 2) coopMatLoad(query_tiles[d], tile, 2 * d, TILE_STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
  barrier();
}

// Scores of the keys in the tile, which they replace: 16 floats a head. Two sums, so that not all products wait for each other.
void compute_scores() {
  MATRIX_ACCUMULATOR products[2];
  UNROLL for (uint i = 0; i < 2; i++) products[i] = MATRIX_ACCUMULATOR(0.0);
  UNROLL for (uint d = 0; d < MOST_TILES; d++)
    if (d < UNITS / 2) {
      MATRIX_LEFT key_tile;
      coopMatLoad(key_tile, tile, own_tile + 2 * d, TILE_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
      products[d % 2] = coopMatMulAdd(key_tile, query_tiles[d], products[d % 2]);
    }
  subgroupBarrier();
  coopMatStore(products[0] + products[1], tile, own_tile, TILE_STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
  subgroupBarrier();
}

// Turns scores into probabilities exp(score - maximum); where a maximum rose, what was added up so far shrinks by a factor. `count`: positions
// that are there; q8: the scales are those of the lane's position.
void soften(uint count, float scale_of_keys, float scale_of_values) {
  vec4 own = uintBitsToFloat(tile[own_tile + own_head * TILE_STRIDE + share]) * push.scale;
  UNROLL for (uint e = 0; e < 4; e++) {
    uint place = 4 * share + e;
    if (QUANTIZED != 0) own[e] *= subgroupShuffle(scale_of_keys, place);
    own[e] = place < count ? own[e] : NO_SCORE;
  }
  float largest = max(max(max(own.x, own.y), max(own.z, own.w)), maximum);
  UNROLL for (uint i = 1; i < SHARERS; i <<= 1) largest = max(largest, subgroupShuffleXor(largest, i));
  float factor = exp(maximum - largest);
  maximum = largest;
  own = exp(own - largest);
  sum = sum * factor + (own.x + own.y + own.z + own.w);
  if (QUANTIZED != 0)
    UNROLL for (uint e = 0; e < 4; e++) own[e] *= VALUE_FACTOR * subgroupShuffle(scale_of_values, 4 * share + e);
  uint to = own_weights + own_head * WEIGHTS_STRIDE;
  weights[to + share / 2][2 * (share % 2)] = packHalf2x16(own.xy);
  weights[to + share / 2][2 * (share % 2) + 1] = packHalf2x16(own.zw);
  weights[to + FACTORS + share] = uvec4(floatBitsToUint(factor));
  subgroupBarrier();
}

void add_values() {
  MATRIX_ACCUMULATOR factors;
  MATRIX_RIGHT probabilities;
  coopMatLoad(factors, weights, own_weights + FACTORS, WEIGHTS_STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
  coopMatLoad(probabilities, weights, own_weights, WEIGHTS_STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
  UNROLL for (uint d = 0; d < MOST_TILES; d++)
    if (d < UNITS / 2) {
      MATRIX_LEFT value_tile;
      coopMatLoad(value_tile, tile, own_tile + 2 * d, TILE_STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
      results[d] = coopMatMulAdd(value_tile, probabilities, results[d] * factors);
    }
  subgroupBarrier();
}

// ---- what attention.comp calls ----

// Keys and values are on their way while the row itself is read.
void start(uint begin, uint end) {
  fetch(true, begin + gl_SubgroupID * TOGETHER, end);
  fetch(false, begin + gl_SubgroupID * TOGETHER, end);
  UNROLL for (uint d = 0; d < MOST_TILES; d++) results[d] = MATRIX_ACCUMULATOR(0.0);
}

void attend(uint begin, uint end) {
  load_queries();
  for (uint first = begin + gl_SubgroupID * TOGETHER; first < end; first += POSITIONS) {
    put(true, first, end);
    float scale_of_keys = scale_of(true, first, end), scale_of_values = scale_of(false, first, end);
    if (first + POSITIONS < end) fetch(true, first + POSITIONS, end);
    compute_scores();
    soften(min(end - first, TOGETHER), scale_of_keys, scale_of_values);
    put(false, first, end);
    if (first + POSITIONS < end) fetch(false, first + POSITIONS, end);
    add_values();
  }
}

// The subgroups' maxima and sums become the heads'; subgroup_weight gets the factors of their results.
void merge_sums() {
  UNROLL for (uint i = 1; i < SHARERS; i <<= 1) sum += subgroupShuffleXor(sum, i);
  if (share == 0) {
    subgroup_maximum[gl_SubgroupID * COLUMNS + own_head] = maximum;
    subgroup_sum[gl_SubgroupID * COLUMNS + own_head] = sum;
  }
  barrier();
  if (thread >= SUBGROUPS * COLUMNS) return;
  uint head = thread % COLUMNS;
  float largest = NO_MAXIMUM, total = 0.0;
  UNROLL for (uint i = 0; i < SUBGROUPS; i++) largest = max(largest, subgroup_maximum[i * COLUMNS + head]);
  UNROLL for (uint i = 0; i < SUBGROUPS; i++) total += subgroup_sum[i * COLUMNS + head] * exp(subgroup_maximum[i * COLUMNS + head] - largest);
  subgroup_weight[thread] = exp(subgroup_maximum[thread] - largest);
  if (thread < live) {
    head_maximum[thread] = largest;
    head_sum[thread] = total;
  }
}

// The sum over the subgroups of a head's quad. A head's results are in two rows of the tile.
vec4 add_subgroups(uint h, uint quad) {
  uint at = (quad / 16 * COLUMNS + h) * TILE_STRIDE + quad % 16;
  vec4 total = vec4(0);
  UNROLL for (uint i = 0; i < SUBGROUPS; i++) total += subgroup_weight[i * COLUMNS + h] * uintBitsToFloat(tile[i * TILE_WORDS + at]);
  if (QUANTIZED != 0) total = total.xzyw / VALUE_FACTOR;
  return total / head_sum[h];
}

// What the parts found: their results as f16, [rows][heads][SPLIT][UNITS] units of 8 values; behind those of all rows, for which there is
// room, maximum and sum, [rows][heads][SPLIT].
uint sums_of(uint head) { return push.max_tokens * push.heads * SPLIT * UNITS * 2 + part_of(head, 0); }

// To the output, or to this part's partial results.
void write_results(bool alone) {
  merge_sums();
  UNROLL for (uint d = 0; d < MOST_TILES; d++)
    if (d < UNITS / 2)
      coopMatStore(results[d], tile, own_tile + d / 4 * (COLUMNS * TILE_STRIDE) + 4 * (d % 4), TILE_STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
  barrier();
  for (uint item = thread; item < live * QUADS; item += THREADS) {
    uint h = item / QUADS, quad = item % QUADS;
    vec4 total = add_subgroups(h, quad);
    if (alone)
      UNROLL for (uint j = 0; j < 4; j++) put_result(h, 4 * quad + j, total[j]);
    else
      partial_pairs[part_of(first_head + h, part) * QUADS + quad] = uvec2(halves(total.xy), halves(total.zw));
  }
  if (!alone && thread < live) partial_sums[sums_of(first_head + thread) + part] = vec2(head_maximum[thread], head_sum[thread]);
}

// ---- merging the parts: a subgroup for each head ----

float shares[MOST_PARTS / 32]; // of parts `lane` and `lane` + 32 in the whole

void find_shares(uint head, uint parts) {
  float maxima[MOST_PARTS / 32], largest = NO_MAXIMUM, whole = 0.0;
  UNROLL for (uint i = 0; i < MOST_PARTS / 32; i++) {
    uint split = lane + 32 * i;
    vec2 found = split < parts ? partial_sums[sums_of(head) + split] : vec2(NO_MAXIMUM, 0);
    maxima[i] = found.x;
    shares[i] = found.y;
    largest = max(largest, found.x);
  }
  UNROLL for (uint i = 1; i < 32; i <<= 1) largest = max(largest, subgroupShuffleXor(largest, i));
  UNROLL for (uint i = 0; i < MOST_PARTS / 32; i++) {
    shares[i] *= exp(maxima[i] - largest);
    whole += shares[i];
  }
  UNROLL for (uint i = 1; i < 32; i <<= 1) whole += subgroupShuffleXor(whole, i);
  UNROLL for (uint i = 0; i < MOST_PARTS / 32; i++) shares[i] /= whole;
}

// The lower 16 lanes take the units of even parts, the upper 16 those of odd ones. Units are requested before their shares are known, and
// all that 36 parts have at once: each request takes as long as memory does.
const uint AT_ONCE = 9; // of 18 parts
struct Units {
  uvec4 of[AT_ONCE];
};

Units request_units(uint first, uint parts, uint from) {
  Units units;
  UNROLL for (uint i = 0; i < AT_ONCE; i++) units.of[i] = partial_units[from + min(first + 2 * i, parts - 1) * UNITS];
  return units;
}

void add_units(Units units, uint first, uint parts, inout vec4 low, inout vec4 high) {
  UNROLL for (uint i = 0; i < AT_ONCE; i++) {
    uint split = first + 2 * i;
    float factor = subgroupShuffle(split < 32 ? shares[0] : shares[1], split % 32);
    if (split >= parts) factor = 0.0;
    low += factor * vec4(unpackHalf2x16(units.of[i].x), unpackHalf2x16(units.of[i].y));
    high += factor * vec4(unpackHalf2x16(units.of[i].z), unpackHalf2x16(units.of[i].w));
  }
}

void merge_splits(uint parts) {
  uint h = gl_SubgroupID, unit = lane % MOST_UNITS, odd = lane / MOST_UNITS, head = first_head + min(h, live - 1);
  uint from = part_of(head, 0) * UNITS + min(unit, UNITS - 1);
  vec4 low = vec4(0), high = vec4(0);
  for (uint first = odd; first - odd < parts; first += 4 * AT_ONCE) {
    bool more = first - odd + 2 * AT_ONCE < parts;
    Units units = request_units(first, parts, from), further;
    if (more) further = request_units(first + 2 * AT_ONCE, parts, from);
    if (first == odd) find_shares(head, parts);
    add_units(units, first, parts, low, high);
    if (more) add_units(further, first + 2 * AT_ONCE, parts, low, high);
  }
  UNROLL for (uint j = 0; j < 4; j++) {
    low[j] += subgroupShuffleXor(low[j], MOST_UNITS);
    high[j] += subgroupShuffleXor(high[j], MOST_UNITS);
  }
  if (h >= live || unit >= UNITS) return;
  vec4 result = odd == 0 ? low : high;
  UNROLL for (uint j = 0; j < 4; j++) put_result(h, 8 * unit + 4 * odd + j, result[j]);
}
