/* Kernels that read the same in every instruction set, written with the compilers' vector types. A kernels_*.c file defines
 *   KERNEL_LANES           f32 lanes of a vector
 *   KERNEL_ROW_VECTORS     vectors of rows in one register block of `multiply`
 *   KERNEL_TOKEN_BLOCK     tokens in one register block of `multiply`
 *   KERNEL_VALUE_VECTORS   vectors of a value row in one register block of attention
 * includes kernels_vector.h, and then supplies load_f16, store_f16_vector and load_words (a chunk of planes as 32 words in row order). */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_kernels.h"
#include "core/half.h"

/* ---- dense rows ---- */

static inline vf load_values(const uint8_t *data, bpdq_dtype dtype) {
  if (dtype == BPDQ_F32) return load_f32((const float *)(const void *)data);
  return dtype == BPDQ_BF16 ? load_bf16(data) : load_f16(data);
}

static inline float value_at(const uint8_t *row, bpdq_dtype dtype, int64_t column) {
  uint16_t half;
  if (dtype == BPDQ_F32) {
    float value;
    memcpy(&value, row + 4 * column, sizeof value);
    return value;
  }
  memcpy(&half, row + 2 * column, sizeof half);
  return dtype == BPDQ_BF16 ? bpdq_bf16_to_float(half) : bpdq_f16_to_float(half);
}

/* `count` and `dtype` are constants where this is inlined. Two accumulators per row hide the latency of the multiply-add. */
static inline __attribute__((always_inline)) void dense_product_typed(const uint8_t *const *rows, int count, bpdq_dtype dtype,
                                                                      const float *x, int64_t columns, float *y) {
  vf sum[4][2];
  UNROLL(4) for (int r = 0; r < count; r++) sum[r][0] = sum[r][1] = (vf){0};
  int64_t size = (int64_t)bpdq_dtype_size(dtype), j = 0;
  for (; j + 2 * KERNEL_LANES <= columns; j += 2 * KERNEL_LANES) {
    vf x0 = load_f32(x + j), x1 = load_f32(x + j + KERNEL_LANES);
    UNROLL(4) for (int r = 0; r < count; r++) {
      sum[r][0] += load_values(rows[r] + j * size, dtype) * x0;
      sum[r][1] += load_values(rows[r] + (j + KERNEL_LANES) * size, dtype) * x1;
    }
  }
  UNROLL(4) for (int r = 0; r < count; r++) {
    float tail = 0;
    for (int64_t i = j; i < columns; i++) tail += value_at(rows[r], dtype, i) * x[i];
    y[r] = sum_lanes(sum[r][0] + sum[r][1]) + tail;
  }
}

static void dense_product(const uint8_t *const *rows, int count, bpdq_dtype dtype, const float *x, int64_t columns, float *y) {
  if (count == 4 && dtype == BPDQ_BF16) {
    dense_product_typed(rows, 4, BPDQ_BF16, x, columns, y);
  } else if (count == 4 && dtype == BPDQ_F16) {
    dense_product_typed(rows, 4, BPDQ_F16, x, columns, y);
  } else {
    for (int r = 0; r < count; r++) {
      if (dtype == BPDQ_BF16)
        dense_product_typed(rows + r, 1, BPDQ_BF16, x, columns, y + r);
      else if (dtype == BPDQ_F16)
        dense_product_typed(rows + r, 1, BPDQ_F16, x, columns, y + r);
      else
        dense_product_typed(rows + r, 1, BPDQ_F32, x, columns, y + r);
    }
  }
}

static void dense_values(const uint8_t *row, bpdq_dtype dtype, int64_t first_column, int64_t columns, float *values) {
  const uint8_t *data = row + first_column * (int64_t)bpdq_dtype_size(dtype);
  int64_t j = 0;
  if (dtype == BPDQ_BF16) {
    for (; j + KERNEL_LANES <= columns; j += KERNEL_LANES) store_f32(values + j, load_bf16(data + 2 * j));
  } else if (dtype == BPDQ_F16) {
    for (; j + KERNEL_LANES <= columns; j += KERNEL_LANES) store_f32(values + j, load_f16(data + 2 * j));
  } else {
    memcpy(values, data, (size_t)columns * sizeof *values);
    j = columns;
  }
  for (; j < columns; j++) values[j] = value_at(data, dtype, j);
}

static inline __attribute__((always_inline)) void head8_product_rows(const uint8_t *const *rows, int count, const float *x,
                                                                     int64_t padded_columns, float *y) {
  int64_t row_bytes = cpu_head8_row_bytes(padded_columns);
  vf total[4];
  UNROLL(4) for (int r = 0; r < count; r++) total[r] = (vf){0};
  for (int64_t block = 0; block < padded_columns / CPU_HEAD_BLOCK; block++) {
    vf sum[4];
    UNROLL(4) for (int r = 0; r < count; r++) {
      sum[r] = (vf){0};
      __builtin_prefetch(rows[r] + 4 * row_bytes + block * CPU_HEAD_BLOCK); /* the row that follows the four at hand */
    }
    UNROLL(16) for (int j = 0; j < CPU_HEAD_BLOCK; j += KERNEL_LANES) {
      vf values = load_f32(x + block * CPU_HEAD_BLOCK + j);
      UNROLL(4) for (int r = 0; r < count; r++) sum[r] += load_int8(rows[r] + block * CPU_HEAD_BLOCK + j) * values;
    }
    UNROLL(4) for (int r = 0; r < count; r++) {
      uint16_t scale;
      memcpy(&scale, rows[r] + padded_columns + block * 2, sizeof scale);
      total[r] += sum[r] * broadcast(bpdq_bf16_to_float(scale));
    }
  }
  UNROLL(4) for (int r = 0; r < count; r++) y[r] = sum_lanes(total[r]);
}

static void head8_product(const uint8_t *const *rows, int count, const float *x, int64_t padded_columns, float *y) {
  if (count == 4) {
    head8_product_rows(rows, 4, x, padded_columns, y);
  } else {
    for (int r = 0; r < count; r++) head8_product_rows(rows + r, 1, x, padded_columns, y + r);
  }
}

/* ---- several tokens ---- */

/* Puts the 32 rows' values of up to 32 columns of one plane word into the panel: the coefficient where the bit is set. */
static inline void add_plane(const uint32_t *words, const float *coefficients, int64_t columns, float *panel) {
  for (int row = 0; row < CPU_TILE; row += KERNEL_LANES) {
    vu bits = load_u32(words + row);
    vu coefficient = (vu)load_f32(coefficients + row);
    for (int64_t j = 0; j < columns; j++) {
      vu mask = -((bits >> (uint32_t)j) & 1u);
      float *out = panel + j * CPU_TILE + row;
      store_f32(out, load_f32(out) + (vf)(coefficient & mask));
    }
  }
}

static inline void load_coefficients(const uint8_t *data, bpdq_dtype dtype, float *out) {
  for (int row = 0; row < CPU_TILE; row += KERNEL_LANES) store_f32(out + row, load_values(data + row * (int)bpdq_dtype_size(dtype), dtype));
}

static void planes_panel(const cpu_planes *planes, const uint8_t *tile, int64_t first_column, int64_t columns, float *panel) {
  int chunks = planes->group / 32;
  uint64_t coefficient_bytes = CPU_TILE * bpdq_dtype_size(planes->coefficient_type);
  float coefficients[CPU_TILE] __attribute__((aligned(64)));
  uint32_t words[CPU_TILE] __attribute__((aligned(64)));
  for (int64_t j = 0; j < columns;) {
    int64_t group = (first_column + j) / planes->group, chunk = (first_column + j) % planes->group / 32;
    int64_t count = chunks - chunk < (columns - j) / 32 ? chunks - chunk : (columns - j) / 32;
    const uint8_t *data = tile + (uint64_t)group * planes->group_bytes;
    const uint8_t *stored = data + (uint64_t)planes->planes * (uint64_t)chunks * CPU_CHUNK_BYTES;
    load_coefficients(stored + (uint64_t)planes->planes * coefficient_bytes, planes->coefficient_type, coefficients);
    for (int64_t i = 0; i < count * 32; i++) memcpy(panel + (j + i) * CPU_TILE, coefficients, sizeof coefficients);
    for (int p = 0; p < planes->planes; p++) {
      load_coefficients(stored + (uint64_t)p * coefficient_bytes, planes->coefficient_type, coefficients);
      for (int64_t c = 0; c < count; c++) {
        load_words(data + ((uint64_t)(p * chunks) + (uint64_t)(chunk + c)) * CPU_CHUNK_BYTES, words);
        add_plane(words, coefficients, 32, panel + (j + c * 32) * CPU_TILE);
      }
    }
    j += count * 32;
  }
}

/* One register block: KERNEL_TOKEN_BLOCK tokens x KERNEL_ROW_VECTORS vectors of rows. */
static inline void multiply_block(const float *panel, const float *x, int64_t columns, bool accumulate, float *c) {
  vf sum[KERNEL_TOKEN_BLOCK][KERNEL_ROW_VECTORS];
  UNROLL(16) for (int t = 0; t < KERNEL_TOKEN_BLOCK; t++) UNROLL(8) for (int v = 0; v < KERNEL_ROW_VECTORS; v++) sum[t][v] = (vf){0};
  for (int64_t j = 0; j < columns; j++) {
    vf weights[KERNEL_ROW_VECTORS];
    UNROLL(8) for (int v = 0; v < KERNEL_ROW_VECTORS; v++) weights[v] = load_f32(panel + j * CPU_TILE + v * KERNEL_LANES);
    UNROLL(16) for (int t = 0; t < KERNEL_TOKEN_BLOCK; t++) {
      vf value = broadcast(x[j * KERNEL_TOKEN_BLOCK + t]);
      UNROLL(8) for (int v = 0; v < KERNEL_ROW_VECTORS; v++) sum[t][v] += weights[v] * value;
    }
  }
  UNROLL(16) for (int t = 0; t < KERNEL_TOKEN_BLOCK; t++) UNROLL(8) for (int v = 0; v < KERNEL_ROW_VECTORS; v++) {
    float *out = c + t * CPU_TILE + v * KERNEL_LANES;
    store_f32(out, accumulate ? load_f32(out) + sum[t][v] : sum[t][v]);
  }
}

static void multiply(const float *panel, const float *x, int64_t columns, bool accumulate, float *c) {
  for (int row = 0; row < CPU_TILE; row += KERNEL_ROW_VECTORS * KERNEL_LANES) multiply_block(panel + row, x, columns, accumulate, c + row);
}

/* ---- elementwise ---- */

static float sum_squares(const float *x, int64_t count) {
  vf sum[4] = {{0}};
  int64_t j = 0;
  for (; j + 4 * KERNEL_LANES <= count; j += 4 * KERNEL_LANES) UNROLL(4) for (int i = 0; i < 4; i++) {
      vf value = load_f32(x + j + i * KERNEL_LANES);
      sum[i] += value * value;
    }
  float tail = 0;
  for (; j < count; j++) tail += x[j] * x[j];
  return sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3])) + tail;
}

static void scale_by(const float *x, float factor, const float *weights, int64_t count, float *out) {
  for (int64_t j = 0; j < count; j++) out[j] = x[j] * factor * weights[j];
}

static void silu_gate(const float *gate, const float *up, int64_t count, float *out) {
  int64_t j = 0;
  for (; j + KERNEL_LANES <= count; j += KERNEL_LANES) {
    vf v = load_f32(gate + j);
    store_f32(out + j, v / (1.0f + exponential(-v)) * load_f32(up + j));
  }
  for (; j < count; j++) out[j] = gate[j] / (1.0f + expf(-gate[j])) * up[j];
}

static void store_f16(const float *x, int64_t count, uint16_t *out) {
  int64_t j = 0;
  for (; j + KERNEL_LANES <= count; j += KERNEL_LANES) store_f16_vector(out + j, load_f32(x + j));
  for (; j < count; j++) out[j] = bpdq_float_to_f16(x[j]);
}

static float largest(const float *x, int64_t count) {
  vf best = broadcast(-INFINITY);
  int64_t whole = count - count % KERNEL_LANES;
  for (int64_t j = 0; j < whole; j += KERNEL_LANES) {
    vf value = load_f32(x + j);
    best = choose(value > best, value, best);
  }
  float result = -INFINITY;
  for (int i = 0; i < KERNEL_LANES; i++) result = best[i] > result ? best[i] : result;
  for (int64_t j = whole; j < count; j++) result = x[j] > result ? x[j] : result;
  return result;
}

static float largest_magnitude(const float *x, int64_t count) {
  vf best = {0};
  float result = 0;
  int64_t whole = count - count % KERNEL_LANES;
  for (int64_t j = 0; j < whole; j += KERNEL_LANES) {
    vf magnitude = (vf)((vi)load_f32(x + j) & 0x7fffffff);
    best = choose(magnitude > best, magnitude, best);
  }
  for (int i = 0; i < KERNEL_LANES; i++) result = best[i] > result ? best[i] : result;
  for (int64_t j = whole; j < count; j++) result = fabsf(x[j]) > result ? fabsf(x[j]) : result;
  return result;
}

static void round_int8(const float *x, float factor, int64_t count, int8_t *out) {
  for (int64_t j = 0; j < count; j += KERNEL_LANES) {
    float values[KERNEL_LANES] = {0};
    int32_t rounded[KERNEL_LANES];
    int64_t some = count - j < KERNEL_LANES ? count - j : KERNEL_LANES;
    memcpy(values, x + j, (size_t)some * sizeof *values);
    vf value = load_f32(values) * factor;
    value = choose(value > broadcast(-127), value, broadcast(-127)); /* NaN too */
    value = choose(value < broadcast(127), value, broadcast(127));
    vi integers = (vi)(value + broadcast(12582912.0f)) - 0x4b400000; /* adding 1.5 * 2^23 leaves the nearest integer in the low bits */
    memcpy(rounded, &integers, sizeof rounded);
    for (int64_t i = 0; i < some; i++) out[j + i] = (int8_t)rounded[i];
  }
}

static double sum_exp(const float *x, int64_t count, float subtract) {
  double total = 0;
  for (int64_t j = 0; j < count;) {
    vf sum = {0};
    int64_t end = count - j < 1024 ? count : j + 1024; /* short f32 sums, added in f64 */
    for (; j + KERNEL_LANES <= end; j += KERNEL_LANES) {
      vf value = exponential(load_f32(x + j) - broadcast(subtract));
      sum += choose(value == value, value, (vf){0});
    }
    float tail = 0;
    for (; j < end; j++) {
      float value = expf(x[j] - subtract);
      tail += value == value ? value : 0;
    }
    total += (double)sum_lanes(sum) + tail;
  }
  return total;
}

/* ---- attention ---- */

enum {
  BLOCK_VECTORS = CPU_BLOCK / KERNEL_LANES,
  SCORE_VECTORS = BLOCK_VECTORS < KERNEL_VALUE_VECTORS ? BLOCK_VECTORS : KERNEL_VALUE_VECTORS
};

static inline vf load_cached(const uint8_t *data, int64_t index, bpdq_kv_type type) {
  if (type == BPDQ_KV_F32) return load_f32((const float *)(const void *)data + index);
  return type == BPDQ_KV_F16 ? load_f16(data + 2 * index) : load_int8(data + index);
}

/* scores[query][64] = query . k for all positions of the block; positions are the lanes, so nothing is summed across them. In these
 * functions `count` queries from `base` are handled; count and type are constants where they are inlined. */
static inline __attribute__((always_inline)) void block_scores(const cpu_queries *queries, int base, int count, const uint8_t *k,
                                                               bpdq_kv_type type, float (*scores)[CPU_BLOCK]) {
  UNROLL(8) for (int first = 0; first < BLOCK_VECTORS; first += SCORE_VECTORS) {
    vf sum[CPU_QUERIES][SCORE_VECTORS];
    UNROLL(4) for (int q = 0; q < count; q++) UNROLL(4) for (int v = 0; v < SCORE_VECTORS; v++) sum[q][v] = (vf){0};
    for (int64_t d = 0; d < queries->head_dim; d++) {
      vf keys[SCORE_VECTORS];
      UNROLL(4) for (int v = 0; v < SCORE_VECTORS; v++) keys[v] = load_cached(k, d * CPU_BLOCK + (first + v) * KERNEL_LANES, type);
      UNROLL(4) for (int q = 0; q < count; q++) {
        vf value = broadcast(queries->query[base + q][d]);
        UNROLL(4) for (int v = 0; v < SCORE_VECTORS; v++) sum[q][v] += keys[v] * value;
      }
    }
    UNROLL(4)
    for (int q = 0; q < count; q++)
      UNROLL(4) for (int v = 0; v < SCORE_VECTORS; v++) store_f32(scores[q] + (first + v) * KERNEL_LANES, sum[q][v]);
  }
}

/* Turns one query's scores into weights relative to its running maximum, and rescales what was summed so far. Positions outside
 * [from, to) get weight 0. */
static void block_softmax(cpu_queries *queries, int q, const float *key_scales, int from, int to, float *scores) {
  if (key_scales)
    for (int j = 0; j < CPU_BLOCK; j++) scores[j] *= key_scales[j];
  for (int j = 0; j < from; j++) scores[j] = -INFINITY;
  for (int j = to; j < CPU_BLOCK; j++) scores[j] = -INFINITY;
  float before = queries->largest[q], best = largest(scores, CPU_BLOCK);
  if (before > best) best = before;
  queries->largest[q] = best;
  if (best == -INFINITY) best = 0; /* nothing seen, or every score NaN or -inf: the weights follow from the scores as they are */
  vf sum = {0};
  for (int j = 0; j < CPU_BLOCK; j += KERNEL_LANES) {
    vf weight = exponential(load_f32(scores + j) - broadcast(best));
    store_f32(scores + j, weight);
    sum += weight;
  }
  float rescale = before == best ? 1 : before == -INFINITY ? 0 : expf(before - best);
  if (rescale != 1)
    for (int64_t d = 0; d < queries->padded_dim; d++) queries->accumulator[q][d] *= rescale;
  queries->sum[q] = queries->sum[q] * rescale + sum_lanes(sum);
}

/* accumulator[query][d ...] += weights . v over the block's positions [from, to), `vectors` vectors of the value row at a time. */
static inline __attribute__((always_inline)) void block_values(cpu_queries *queries, int base, int count, int vectors, const uint8_t *v,
                                                               bpdq_kv_type type, float (*weights)[CPU_BLOCK], int from, int to,
                                                               int64_t d) {
  vf sum[CPU_QUERIES][KERNEL_VALUE_VECTORS];
  UNROLL(4)
  for (int q = 0; q < count; q++)
    UNROLL(4) for (int i = 0; i < vectors; i++) sum[q][i] = load_f32(queries->accumulator[base + q] + d + i * KERNEL_LANES);
  for (int j = from; j < to; j++) {
    vf values[KERNEL_VALUE_VECTORS];
    UNROLL(4) for (int i = 0; i < vectors; i++) values[i] = load_cached(v, j * queries->padded_dim + d + i * KERNEL_LANES, type);
    UNROLL(4) for (int q = 0; q < count; q++) {
      vf weight = broadcast(weights[q][j]);
      UNROLL(4) for (int i = 0; i < vectors; i++) sum[q][i] += values[i] * weight;
    }
  }
  UNROLL(4)
  for (int q = 0; q < count; q++)
    UNROLL(4) for (int i = 0; i < vectors; i++) store_f32(queries->accumulator[base + q] + d + i * KERNEL_LANES, sum[q][i]);
}

static inline int clamp_to_block(int64_t row) { return row < 0 ? 0 : row > CPU_BLOCK ? CPU_BLOCK : (int)row; }

static inline __attribute__((always_inline)) void attend_queries(cpu_queries *queries, int base, int count, const uint8_t *k,
                                                                 const uint8_t *v, bpdq_kv_type type, int64_t block_row) {
  float scores[CPU_QUERIES][CPU_BLOCK] __attribute__((aligned(64)));
  uint64_t scales = CPU_BLOCK * (uint64_t)queries->padded_dim;
  int first = CPU_BLOCK, end = 0;
  block_scores(queries, base, count, k, type, scores);
  for (int q = 0; q < count; q++) {
    int from = clamp_to_block(queries->first[base + q] - block_row), to = clamp_to_block(queries->end[base + q] - block_row);
    block_softmax(queries, base + q, type == BPDQ_KV_Q8 ? (const float *)(const void *)(k + scales) : NULL, from, to, scores[q]);
    if (type == BPDQ_KV_Q8) {
      const float *value_scales = (const float *)(const void *)(v + scales);
      for (int j = 0; j < CPU_BLOCK; j++) scores[q][j] *= value_scales[j];
    }
    first = from < first ? from : first;
    end = to > end ? to : end;
  }
  int64_t d = 0, step = KERNEL_VALUE_VECTORS * KERNEL_LANES;
  for (; d + step <= queries->padded_dim; d += step)
    block_values(queries, base, count, KERNEL_VALUE_VECTORS, v, type, scores, first, end, d);
  for (; d < queries->padded_dim; d += KERNEL_LANES) block_values(queries, base, count, 1, v, type, scores, first, end, d);
}

static inline __attribute__((always_inline)) void attend_typed(cpu_queries *queries, const uint8_t *k, const uint8_t *v, bpdq_kv_type type,
                                                               int64_t block_row) {
  if (queries->count == CPU_QUERIES)
    attend_queries(queries, 0, CPU_QUERIES, k, v, type, block_row);
  else
    for (int q = 0; q < queries->count; q++) attend_queries(queries, q, 1, k, v, type, block_row);
}

static void attend(cpu_queries *queries, const uint8_t *k, const uint8_t *v, bpdq_kv_type type, int64_t block_row) {
  if (type == BPDQ_KV_F32)
    attend_typed(queries, k, v, BPDQ_KV_F32, block_row);
  else if (type == BPDQ_KV_F16)
    attend_typed(queries, k, v, BPDQ_KV_F16, block_row);
  else
    attend_typed(queries, k, v, BPDQ_KV_Q8, block_row);
}

/* The entries of cpu_kernels that this file supplies. */
#define COMMON_KERNELS                                                                                                            \
  .token_block = KERNEL_TOKEN_BLOCK, .planes_panel = planes_panel, .dense_product = dense_product, .dense_values = dense_values,  \
  .head8_product = head8_product, .multiply = multiply, .sum_squares = sum_squares, .scale_by = scale_by, .silu_gate = silu_gate, \
  .attend = attend, .store_f16 = store_f16, .largest = largest, .largest_magnitude = largest_magnitude, .round_int8 = round_int8, \
  .sum_exp = sum_exp
