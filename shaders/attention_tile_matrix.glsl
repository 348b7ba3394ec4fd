// The products of attention_tile.comp on cooperative matrices. A subgroup has 16 rows of the tile, two lanes a row where it works element by
// element. Nothing knows which lane holds which element of a matrix, so scores, probabilities and the factors of the rows pass through
// shared memory. Sizes are macros and shared memory is in 16-byte words for the reasons of linear_matrix.comp.
#define ROWS 64
#define POSITIONS 64
#define TOGETHER 4 // 16-position tiles of scores: sums that do not wait for each other (docs/benchmarks/log.md)
#define MOST_UNITS 16
#define MOST_TILES (MOST_UNITS / 2) // of 16 dimensions
#define FETCHES (POSITIONS * MOST_UNITS / THREADS)
#define TILE_STRIDE (MOST_UNITS + 1)
// A row of scores: POSITIONS floats; later as many halves (probabilities), then 16 times the row's factor.
#define SCORES_STRIDE (POSITIONS / 4 + 2)
#define FACTORS (POSITIONS / 8)
shared uvec4 tile[POSITIONS * TILE_STRIDE];
shared uvec4 scores[ROWS * SCORES_STRIDE];
coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> queries[MOST_TILES];
coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> results[MOST_TILES];
uint own_scores = gl_SubgroupID * 16 * SCORES_STRIDE; // of the subgroup
uint own_row = gl_SubgroupID * 16 + gl_SubgroupInvocationID / 2, side = gl_SubgroupInvocationID % 2;
uint row_scores = own_row * SCORES_STRIDE;
uint visible, most_visible; // positions, to the row and to the subgroup

void start() {
  for (uint at = thread; at < ROWS * UNITS; at += THREADS) {
    vec4 low, high;
    load_query(at / UNITS, at % UNITS, low, high);
    tile[at / UNITS * TILE_STRIDE + at % UNITS] = uvec4(halves(low.xy), halves(low.zw), halves(high.xy), halves(high.zw));
  }
  barrier();
  UNROLL for (uint d = 0; d < MOST_TILES; d++) {
    results[d] = coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>(0.0);
    if (d < UNITS / 2) coopMatLoad(queries[d], tile, gl_SubgroupID * 16 * TILE_STRIDE + 2 * d, TILE_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
  }
}

void find_visible() {
  visible = visible_to(own_row);
  most_visible = subgroupMax(visible);
}

void compute_scores(uint first, uint end) {
  UNROLL for (uint part = 0; part < POSITIONS / 16; part += TOGETHER) {
    coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> products[TOGETHER];
    UNROLL for (uint j = 0; j < TOGETHER; j++) products[j] = coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>(0.0);
    UNROLL for (uint d = 0; d < MOST_TILES; d++)
      if (d < UNITS / 2)
        UNROLL for (uint j = 0; j < TOGETHER; j++) {
          coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> keys;
          coopMatLoad(keys, tile, 16 * (part + j) * TILE_STRIDE + 2 * d, TILE_STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
          products[j] = coopMatMulAdd(queries[d], keys, products[j]);
        }
    UNROLL for (uint j = 0; j < TOGETHER; j++)
      coopMatStore(products[j], scores, own_scores + 4 * (part + j), SCORES_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
  }
}

void soften(uint first) {
  if (first >= most_visible) return;
  vec4 own[POSITIONS / 8], most = vec4(maximum), total = vec4(0);
  UNROLL for (uint i = 0; i < POSITIONS / 8; i++) {
    own[i] = uintBitsToFloat(scores[row_scores + side + 2 * i]) * push.scale;
    UNROLL for (uint e = 0; e < 4; e++) own[i][e] = first + 4 * (side + 2 * i) + e < visible ? own[i][e] : NO_SCORE;
    most = max(most, own[i]);
  }
  float largest = max(max(most.x, most.y), max(most.z, most.w));
  largest = max(largest, subgroupShuffleXor(largest, 1));
  factor = exp2(maximum - largest);
  maximum = largest;
  subgroupBarrier();
  UNROLL for (uint i = 0; i < POSITIONS / 8; i++) {
    own[i] = exp2(own[i] - largest);
    total += own[i];
    scores[row_scores + i][2 * side] = packHalf2x16(own[i].xy);
    scores[row_scores + i][2 * side + 1] = packHalf2x16(own[i].zw);
  }
  float own_sum = total.x + total.y + total.z + total.w;
  sum = sum * factor + own_sum + subgroupShuffleXor(own_sum, 1);
  UNROLL for (uint i = 0; i < 2; i++) scores[row_scores + FACTORS + 2 * side + i] = uvec4(floatBitsToUint(factor));
}

void add_values(uint first, uint end) {
  if (first >= most_visible) return;
  coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> factors;
  coopMatLoad(factors, scores, own_scores + FACTORS, SCORES_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
  UNROLL for (uint d = 0; d < MOST_TILES; d++)
    if (d < UNITS / 2) results[d] = results[d] * factors;
  UNROLL for (uint j = 0; j < POSITIONS / 16; j++) {
    coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> probabilities;
    coopMatLoad(probabilities, scores, own_scores + 2 * j, SCORES_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
    UNROLL for (uint d = 0; d < MOST_TILES; d++)
      if (d < UNITS / 2) {
        coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> values;
        coopMatLoad(values, tile, 16 * j * TILE_STRIDE + 2 * d, TILE_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
        results[d] = coopMatMulAdd(probabilities, values, results[d]);
      }
  }
}

void write_results() {
  float inverse = sum > 0.0 ? 1.0 / sum : 0.0;
  subgroupBarrier();
  UNROLL for (uint d = 0; d < MOST_TILES; d++)
    if (d < UNITS / 2) {
      coopMatStore(results[d], scores, own_scores, SCORES_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
      subgroupBarrier();
      UNROLL for (uint i = 0; i < 2; i++)
        put_result(own_row, 4 * d + side + 2 * i, uintBitsToFloat(scores[row_scores + side + 2 * i]) * inverse);
      subgroupBarrier();
    }
}
