/* A quantized linear in the checkpoint's layout, and the weights that it stands for. */
#include "core/checked.h"
#include "core/half.h"
#include "method.h"
#include "parallel.h"
#include "vector.h"

enum { WORD = 32, TILE_ROWS = 64, TILE_COLUMNS = 16 }; /* a tile's codes and values are whole cache lines on either side */

/* ---- packing ---- */

typedef struct packing {
  const bpdq_layer_result *result;
  uint16_t *coefficients;
  uint32_t *bits;
} packing;

/* The words of 32 columns. */
BPDQ_VECTOR_CLONES static void pack_columns(void *context, int64_t index, int thread) {
  (void)thread;
  const packing *to = context;
  const bpdq_layer_result *r = to->result;
  int64_t n = r->rows;
  for (int p = 0; p < r->planes; p++) {
    uint32_t *words = to->bits + (index * r->planes + p) * n;
    for (int64_t row = 0; row < n; row++) words[row] = 0;
    for (int bit = 0; bit < WORD; bit++) {
      const uint8_t *codes = r->codes + (index * WORD + bit) * n;
      for (int64_t row = 0; row < n; row++) words[row] |= (uint32_t)(codes[row] >> p & 1u) << bit;
    }
  }
}

static void pack_coefficients(void *context, int64_t index, int thread) {
  (void)thread;
  const packing *to = context;
  int64_t terms = (to->result->planes + 1) * to->result->rows, first = index * terms;
  for (int64_t i = first; i < first + terms; i++) to->coefficients[i] = bpdq_float_to_bf16(to->result->coefficients[i]);
}

bpdq_status bpdq_pack_result(const bpdq_layer_result *result, bpdq_pool *pool, uint16_t **coefficients, uint32_t **bits,
                             bpdq_error *error) {
  int64_t n = result->rows, words = result->groups * result->group / WORD;
  *coefficients = bpdq_alloc_array((size_t)(result->groups * (result->planes + 1) * n), sizeof **coefficients);
  *bits = bpdq_alloc_array((size_t)(words * result->planes * n), sizeof **bits);
  if (!*coefficients || !*bits) {
    free(*coefficients);
    free(*bits);
    *coefficients = NULL;
    *bits = NULL;
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory for the packed planes");
  }
  packing to = {result, *coefficients, *bits};
  bpdq_run_tasks(pool, words, pack_columns, &to);
  bpdq_run_tasks(pool, result->groups, pack_coefficients, &to);
  return BPDQ_OK;
}

/* ---- weights ---- */

typedef struct expansion {
  const bpdq_layer_result *result;
  float *out;
} expansion;

/* values [columns][TILE_ROWS] of `columns` columns of one group from column `first` on, for `rows` rows from `row` on. */
BPDQ_VECTOR_CLONES static void expand_tile(const bpdq_layer_result *r, int64_t first, int columns, int64_t row, int rows,
                                           float (*values)[TILE_ROWS]) {
  const float *coefficients = r->coefficients + first / r->group * (r->planes + 1) * r->rows + row;
  for (int j = 0; j < columns; j++) {
    const uint8_t *codes = r->codes + (first + j) * r->rows + row;
    for (int i = 0; i < rows; i++) values[j][i] = coefficients[r->planes * r->rows + i];
    for (int p = 0; p < r->planes; p++)
      for (int i = 0; i < rows; i++) {
        float more = values[j][i] + coefficients[p * r->rows + i];
        values[j][i] = codes[i] >> p & 1u ? more : values[j][i];
      }
  }
}

static void expand_rows(void *context, int64_t index, int thread) {
  (void)thread;
  const expansion *to = context;
  const bpdq_layer_result *r = to->result;
  float values[TILE_COLUMNS][TILE_ROWS];
  int64_t row = index * TILE_ROWS;
  int rows = (int)(r->rows - row < TILE_ROWS ? r->rows - row : TILE_ROWS);
  for (int64_t first = 0; first < r->columns; first += TILE_COLUMNS) { /* a group is a multiple of 32 columns */
    int columns = (int)(r->columns - first < TILE_COLUMNS ? r->columns - first : TILE_COLUMNS);
    expand_tile(r, first, columns, row, rows, values);
    for (int i = 0; i < rows; i++)
      for (int j = 0; j < columns; j++) to->out[(row + i) * r->columns + first + j] = values[j][i];
  }
}

void bpdq_dequantize_result(const bpdq_layer_result *result, bpdq_pool *pool, float *out) {
  expansion to = {result, out};
  bpdq_run_tasks(pool, (int64_t)bpdq_ceil_div((uint64_t)result->rows, TILE_ROWS), expand_rows, &to);
}
