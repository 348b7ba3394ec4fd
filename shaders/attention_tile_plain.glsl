// The products of attention_tile.comp in f32, with no optional feature: 16 threads share a few rows, each with every sixteenth position of
// the scores and every sixteenth unit of the results.
#define ROWS TILE_ROWS
#define POSITIONS 32
#define FETCHES 8 // of 256 dimensions
const uint TILE_STRIDE = UNITS + 1;
const uint SCORES_STRIDE = POSITIONS + 1;
const uint SHARED_ROWS = ROWS * 16 / THREADS; // 1, 2 or 4 rows of 16 threads
const uint OWN_POSITIONS = POSITIONS / 16;
const uint OWN_UNITS = (UNITS + 15) / 16;
shared vec4 queries[ROWS * QUADS];
shared uvec4 tile[POSITIONS * TILE_STRIDE];
shared float scores[ROWS * SCORES_STRIDE];
shared float factors[ROWS]; // at last 1 / sum
vec4 results[SHARED_ROWS * OWN_UNITS * 2];
uint lane = thread % 16, own_rows = thread / 16 * SHARED_ROWS;
uint visible; // positions to row `thread`

vec4 low_of(uvec4 words) { return vec4(unpackHalf2x16(words.x), unpackHalf2x16(words.y)); }
vec4 high_of(uvec4 words) { return vec4(unpackHalf2x16(words.z), unpackHalf2x16(words.w)); }

void start() {
  for (uint at = thread; at < ROWS * UNITS; at += THREADS) load_query(at / UNITS, at % UNITS, queries[2 * at], queries[2 * at + 1]);
  UNROLL for (uint i = 0; i < SHARED_ROWS * OWN_UNITS * 2; i++) results[i] = vec4(0);
}

void find_visible() { visible = thread < ROWS ? visible_to(thread) : 0; }

void compute_scores(uint first, uint end) {
  float sums[SHARED_ROWS * OWN_POSITIONS];
  UNROLL for (uint i = 0; i < SHARED_ROWS * OWN_POSITIONS; i++) sums[i] = 0.0;
  for (uint unit = 0; unit < UNITS; unit++) {
    UNROLL for (uint j = 0; j < OWN_POSITIONS; j++) {
      uvec4 key = tile[(lane + 16 * j) * TILE_STRIDE + unit];
      vec4 low = low_of(key), high = high_of(key);
      UNROLL for (uint r = 0; r < SHARED_ROWS; r++) {
        uint at = (own_rows + r) * QUADS + 2 * unit;
        sums[r * OWN_POSITIONS + j] += dot(queries[at], low) + dot(queries[at + 1], high);
      }
    }
  }
  UNROLL for (uint r = 0; r < SHARED_ROWS; r++)
    UNROLL for (uint j = 0; j < OWN_POSITIONS; j++) scores[(own_rows + r) * SCORES_STRIDE + lane + 16 * j] = sums[r * OWN_POSITIONS + j];
}

void soften(uint first) {
  if (thread >= ROWS) return;
  uint base = thread * SCORES_STRIDE;
  float largest = maximum;
  for (uint j = 0; j < POSITIONS; j++)
    if (first + j < visible) largest = max(largest, scores[base + j] * push.scale);
  factor = exp2(maximum - largest);
  maximum = largest;
  sum *= factor;
  for (uint j = 0; j < POSITIONS; j++) {
    float probability = first + j < visible ? exp2(scores[base + j] * push.scale - largest) : 0.0;
    scores[base + j] = probability;
    sum += probability;
  }
  factors[thread] = factor;
}

void add_values(uint first, uint end) {
  UNROLL for (uint r = 0; r < SHARED_ROWS; r++) {
    float row_factor = factors[own_rows + r];
    UNROLL for (uint i = 0; i < OWN_UNITS * 2; i++) results[r * OWN_UNITS * 2 + i] *= row_factor;
  }
  uint count = min(POSITIONS, end - first);
  for (uint j = 0; j < count; j++)
    UNROLL for (uint i = 0; i < OWN_UNITS; i++)
      if (lane + 16 * i < UNITS) {
        uvec4 value = tile[j * TILE_STRIDE + lane + 16 * i];
        vec4 low = low_of(value), high = high_of(value);
        UNROLL for (uint r = 0; r < SHARED_ROWS; r++) {
          float probability = scores[(own_rows + r) * SCORES_STRIDE + j];
          results[(r * OWN_UNITS + i) * 2] += probability * low;
          results[(r * OWN_UNITS + i) * 2 + 1] += probability * high;
        }
      }
}

void write_results() {
  barrier();
  if (thread < ROWS) factors[thread] = sum > 0.0 ? 1.0 / sum : 0.0;
  barrier();
  UNROLL for (uint r = 0; r < SHARED_ROWS; r++)
    UNROLL for (uint i = 0; i < OWN_UNITS; i++)
      if (lane + 16 * i < UNITS) {
        uint from = (r * OWN_UNITS + i) * 2, to = 2 * (lane + 16 * i);
        put_result(own_rows + r, to, results[from] * factors[own_rows + r]);
        put_result(own_rows + r, to + 1, results[from + 1] * factors[own_rows + r]);
      }
}
