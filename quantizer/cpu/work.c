/* One linear: its target T, the residual of the current state, objectives, the best state per row, and the way back to natural order. */
#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "core/half.h"
#include "cpu/cpu_algebra.h"

void bpdq_cpu_work_destroy(bpdq_algebra *algebra, bpdq_work *work) {
  (void)algebra;
  if (!work) return;
  free(work->target);
  free(work->coefficients);
  free(work->codes);
  free(work->residual);
  free(work->best_coefficients);
  free(work->best_codes);
  free(work->best_objective);
  free(work);
}

static int64_t chunk_count(int64_t rows) { return (int64_t)bpdq_ceil_div((uint64_t)rows, BPDQ_ROW_CHUNK); }
static int chunk_rows(int64_t rows, int64_t index) {
  int64_t left = rows - index * BPDQ_ROW_CHUNK;
  return (int)(left < BPDQ_ROW_CHUNK ? left : BPDQ_ROW_CHUNK);
}

/* A loop over chunks of rows in which each thread has float64 scratch of `per_thread` values. */
typedef struct row_loop {
  bpdq_work *work;
  double *scratch;
  int64_t per_thread;
  bool use_cross, use_residual;
  int64_t first_row; /* of the work in R */
  double *sums;      /* [3][rows]: per-row objectives against W, against T, of zero */
  bool wanted[3];    /* which of them */
} row_loop;

static double *scratch_of(const row_loop *loop, int thread) { return loop->scratch + (int64_t)thread * loop->per_thread; }

/* ---- target ---- */

/* T = (W C + R + lambda W)(H + lambda I)^-1 for one chunk of rows; without C and R it is W, and W C + R may have been summed as one. */
static void compute_target(void *context, int64_t index, int thread) {
  row_loop *loop = context;
  bpdq_work *work = loop->work;
  const bpdq_inputs *inputs = work->inputs;
  const bpdq_statistics *statistics = inputs->statistics;
  int64_t k = inputs->columns, first = index * BPDQ_ROW_CHUNK;
  int rows = chunk_rows(work->rows, index), width = (int)k;
  double *weight = scratch_of(loop, thread), *target = weight + BPDQ_ROW_CHUNK * k;
  for (int64_t i = 0; i < rows * k; i++) weight[i] = (double)work->weight[first * k + i];
  if (loop->use_cross || loop->use_residual) {
    const double *cross = loop->use_cross ? statistics->cross : statistics->hessian;
    for (int64_t i = 0; i < rows * k; i++) target[i] = inputs->lambda * weight[i];
    if (!statistics->whole_target)
      cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, width, width, 1, weight, width, cross, width, 1, target, width);
    for (int64_t i = 0; loop->use_residual && i < rows * k; i++) target[i] += statistics->residual[(loop->first_row + first) * k + i];
    LAPACKE_dpotrs(LAPACK_COL_MAJOR, 'L', width, rows, inputs->target_root, width, target, width);
  } else {
    target = weight;
  }
  for (int64_t i = 0; i < inputs->padded; i++) {
    int32_t column = inputs->order[i];
    bool nothing = column >= k || (inputs->reference_dead && inputs->dead[i]);
    for (int r = 0; r < rows; r++) work->target[i * work->stride + first + r] = nothing ? 0 : (float)target[r * k + column];
  }
}

/* The Cholesky factor of H + lambda I, shared by the linears that read the same inputs. */
static bpdq_status find_target_root(bpdq_inputs *inputs, bpdq_error *error) {
  if (inputs->target_root) return BPDQ_OK;
  int64_t k = inputs->columns;
  double *root = bpdq_alloc_array((size_t)(k * k), sizeof *root);
  if (!root) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory for the target", inputs->statistics->name);
  memcpy(root, inputs->statistics->hessian, (size_t)(k * k) * sizeof *root);
  for (int64_t i = 0; i < k; i++) root[i * k + i] += inputs->lambda;
  if (LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'L', (lapack_int)k, root, (lapack_int)k)) {
    free(root);
    return bpdq_fail(error, BPDQ_ERROR_FORMAT,
                     "%s: H + lambda I is not positive definite: use more calibration text or a larger target damping",
                     inputs->statistics->name);
  }
  inputs->target_root = root;
  return BPDQ_OK;
}

bpdq_status bpdq_cpu_work_create(bpdq_algebra *algebra, const bpdq_inputs *inputs, const bpdq_work_desc *desc, bpdq_work **work,
                                 bpdq_error *error) {
  bpdq_cpu_algebra *cpu = (bpdq_cpu_algebra *)algebra;
  *work = NULL;
  bool whole = inputs->statistics->whole_target && inputs->statistics->residual;
  row_loop loop = {.use_cross = desc->use_cross && inputs->statistics->cross,
                   .use_residual = (desc->use_residual || (whole && desc->use_cross)) && inputs->statistics->residual,
                   .first_row = desc->first_row,
                   .per_thread = 2 * BPDQ_ROW_CHUNK * inputs->columns};
  if (loop.use_residual && inputs->statistics->residual_rows - desc->first_row < desc->rows)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "%s: R has %lld rows, the weight ends at row %lld", desc->name,
                     (long long)inputs->statistics->residual_rows, (long long)(desc->first_row + desc->rows));
  if (loop.use_cross || loop.use_residual) BPDQ_TRY(find_target_root((bpdq_inputs *)inputs, error));
  bpdq_work *made = calloc(1, sizeof *made);
  loop.scratch = bpdq_alloc_array((size_t)(cpu->threads * loop.per_thread), sizeof(double));
  if (made) {
    made->inputs = inputs;
    made->name = desc->name;
    made->rows = desc->rows;
    made->stride = (int64_t)bpdq_round_up((uint64_t)desc->rows, BPDQ_LANES);
    made->planes = desc->planes;
    made->weight = desc->weight;
    size_t area = (size_t)(inputs->padded * made->stride);
    made->target = calloc(area, sizeof *made->target);
    made->codes = calloc(area, sizeof *made->codes);
    made->residual = calloc(area, sizeof *made->residual);
    made->coefficients = calloc((size_t)(inputs->groups * (desc->planes + 1) * made->stride), sizeof *made->coefficients);
  }
  if (!made || !loop.scratch || !made->target || !made->codes || !made->residual || !made->coefficients) {
    bpdq_cpu_work_destroy(algebra, made);
    free(loop.scratch);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory for a %lld x %lld layer", desc->name, (long long)desc->rows,
                     (long long)inputs->columns);
  }
  loop.work = made;
  bpdq_pool_run(cpu->pool, chunk_count(made->rows), compute_target, &loop);
  free(loop.scratch);
  *work = made;
  return BPDQ_OK;
}

/* ---- values of the current state ---- */

BPDQ_VECTOR_CLONES void bpdq_tile_levels(const float *coefficients, int64_t stride, int planes, float (*levels)[BPDQ_LANES]) {
  for (int lane = 0; lane < BPDQ_LANES; lane++) levels[0][lane] = coefficients[planes * stride + lane];
  for (int p = 0; p < planes; p++)
    for (int code = 0; code < 1 << p; code++)
      for (int lane = 0; lane < BPDQ_LANES; lane++) levels[code + (1 << p)][lane] = levels[code][lane] + coefficients[p * stride + lane];
}

static float quantized_value(const bpdq_work *work, int64_t position, int64_t row) {
  int64_t group = position / work->inputs->group;
  return bpdq_level_value(work->coefficients + group * (work->planes + 1) * work->stride + row, work->stride, work->planes,
                          work->codes[position * work->stride + row]);
}

typedef struct residual_loop {
  bpdq_work *work;
  float *scratch; /* [threads][padded][BPDQ_ROW_CHUNK] */
} residual_loop;

static void compute_residual(void *context, int64_t index, int thread) {
  residual_loop *loop = context;
  bpdq_work *work = loop->work;
  int64_t n = work->inputs->padded, first = index * BPDQ_ROW_CHUNK;
  int rows = chunk_rows(work->stride, index);
  float *difference = loop->scratch + (int64_t)thread * n * BPDQ_ROW_CHUNK;
  float levels[1 << BPDQ_MAX_PLANES][BPDQ_LANES];
  for (int64_t q = 0; q < work->inputs->groups; q++)
    for (int tile = 0; tile < rows; tile += BPDQ_LANES) {
      bpdq_tile_levels(work->coefficients + q * (work->planes + 1) * work->stride + first + tile, work->stride, work->planes, levels);
      for (int64_t j = q * work->inputs->group; j < (q + 1) * work->inputs->group; j++) {
        const float *target = work->target + j * work->stride + first + tile;
        const uint8_t *codes = work->codes + j * work->stride + first + tile;
        for (int lane = 0; lane < BPDQ_LANES; lane++) difference[j * rows + tile + lane] = target[lane] - levels[codes[lane]][lane];
      }
    }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, rows, (int)n, 1, work->inputs->metric, (int)n, difference, rows, 0,
              work->residual + first, (int)work->stride);
}

bpdq_status bpdq_cpu_update_residual(bpdq_cpu_algebra *cpu, bpdq_work *work, bpdq_error *error) {
  if (work->residual_valid) return BPDQ_OK;
  residual_loop loop = {work, bpdq_alloc_array((size_t)(cpu->threads * work->inputs->padded * BPDQ_ROW_CHUNK), sizeof(float))};
  if (!loop.scratch) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", work->name);
  bpdq_pool_run(cpu->pool, chunk_count(work->stride), compute_residual, &loop);
  free(loop.scratch);
  work->residual_valid = true;
  return BPDQ_OK;
}

/* ---- best state per row ---- */

static void copy_row(bpdq_work *work, int64_t row, bool to_best) {
  int64_t coefficient_rows = work->inputs->groups * (work->planes + 1);
  float *from = to_best ? work->coefficients : work->best_coefficients, *to = to_best ? work->best_coefficients : work->coefficients;
  for (int64_t i = 0; i < coefficient_rows; i++) to[i * work->stride + row] = from[i * work->stride + row];
  uint8_t *from_codes = to_best ? work->codes : work->best_codes, *to_codes = to_best ? work->best_codes : work->codes;
  for (int64_t i = 0; i < work->inputs->padded; i++) to_codes[i * work->stride + row] = from_codes[i * work->stride + row];
}

bpdq_status bpdq_cpu_keep_best(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error) {
  BPDQ_TRY(bpdq_cpu_update_residual((bpdq_cpu_algebra *)algebra, work, error));
  if (!work->best_objective) {
    size_t coefficient_count = (size_t)(work->inputs->groups * (work->planes + 1) * work->stride);
    work->best_coefficients = bpdq_alloc_array(coefficient_count, sizeof(float));
    work->best_codes = bpdq_alloc_array((size_t)(work->inputs->padded * work->stride), 1);
    double *objective = bpdq_alloc_array((size_t)work->stride, sizeof *objective);
    if (!work->best_coefficients || !work->best_codes || !objective) {
      free(objective);
      return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", work->name);
    }
    for (int64_t row = 0; row < work->stride; row++) objective[row] = INFINITY;
    work->best_objective = objective;
  }
  for (int64_t row = 0; row < work->rows; row++) {
    double objective = 0;
    for (int64_t i = 0; i < work->inputs->padded; i++) {
      double difference = (double)work->target[i * work->stride + row] - (double)quantized_value(work, i, row);
      objective += difference * (double)work->residual[i * work->stride + row];
    }
    if (objective >= work->best_objective[row]) continue;
    work->best_objective[row] = objective;
    copy_row(work, row, true);
  }
  return BPDQ_OK;
}

bpdq_status bpdq_cpu_restore_best(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error) {
  (void)algebra;
  if (!work->best_objective) return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "%s: no state was kept", work->name);
  for (int64_t row = 0; row < work->rows; row++)
    if (isfinite(work->best_objective[row])) copy_row(work, row, false);
  work->residual_valid = false;
  return BPDQ_OK;
}

/* ---- objective and result ---- */

/* sum_ij d_i H_ij d_j of each row of `difference` [rows, K]. */
static void row_objectives(const bpdq_statistics *statistics, int rows, const double *difference, double *product, double *sums) {
  int64_t k = statistics->columns;
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, (int)k, (int)k, 1, difference, (int)k, statistics->hessian, (int)k, 0,
              product, (int)k);
  for (int r = 0; r < rows; r++) sums[r] = cblas_ddot((int)k, difference + r * k, 1, product + r * k, 1);
}

static void compute_objective(void *context, int64_t index, int thread) {
  row_loop *loop = context;
  bpdq_work *work = loop->work;
  const bpdq_inputs *inputs = work->inputs;
  int64_t k = inputs->columns, first = index * BPDQ_ROW_CHUNK;
  int rows = chunk_rows(work->rows, index);
  double *quantized = scratch_of(loop, thread), *difference = quantized + BPDQ_ROW_CHUNK * k, *product = difference + BPDQ_ROW_CHUNK * k;
  for (int64_t i = 0; i < inputs->padded; i++)
    for (int r = 0; inputs->order[i] < k && r < rows; r++) {
      quantized[r * k + inputs->order[i]] = (double)quantized_value(work, i, first + r);
      difference[r * k + inputs->order[i]] = (double)work->target[i * work->stride + first + r] - quantized[r * k + inputs->order[i]];
    }
  if (loop->wanted[1]) row_objectives(inputs->statistics, rows, difference, product, loop->sums + work->rows + first);
  for (int64_t i = 0; i < rows * k; i++) difference[i] = (double)work->weight[first * k + i] - quantized[i];
  if (loop->wanted[0]) row_objectives(inputs->statistics, rows, difference, product, loop->sums + first);
  for (int64_t i = 0; i < rows * k; i++) difference[i] = (double)work->weight[first * k + i];
  if (loop->wanted[2]) row_objectives(inputs->statistics, rows, difference, product, loop->sums + 2 * work->rows + first);
}

bpdq_status bpdq_cpu_objective(bpdq_algebra *algebra, bpdq_work *work, double *against_weight, double *against_target, double *of_zero,
                               bpdq_error *error) {
  bpdq_cpu_algebra *cpu = (bpdq_cpu_algebra *)algebra;
  double *const totals[3] = {against_weight, against_target, of_zero};
  row_loop loop = {.work = work, .per_thread = 3 * BPDQ_ROW_CHUNK * work->inputs->columns};
  for (int i = 0; i < 3; i++) loop.wanted[i] = totals[i] != NULL;
  loop.scratch = bpdq_alloc_array((size_t)(cpu->threads * loop.per_thread), sizeof(double));
  loop.sums = bpdq_alloc_array((size_t)(3 * work->rows), sizeof(double));
  bpdq_status status = BPDQ_OK;
  if (loop.scratch && loop.sums) {
    bpdq_pool_run(cpu->pool, chunk_count(work->rows), compute_objective, &loop);
    for (int i = 0; i < 3; i++) {
      if (!totals[i]) continue;
      *totals[i] = 0;
      for (int64_t row = 0; row < work->rows; row++) *totals[i] += loop.sums[i * work->rows + row];
    }
  } else {
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", work->name);
  }
  free(loop.scratch);
  free(loop.sums);
  return status;
}

bpdq_status bpdq_cpu_result(bpdq_algebra *algebra, bpdq_work *work, bpdq_layer_result *result, bpdq_error *error) {
  (void)algebra;
  const bpdq_inputs *inputs = work->inputs;
  int64_t n = work->rows, per_group = work->planes + 1;
  *result = (bpdq_layer_result){n, inputs->columns, inputs->groups, work->planes, inputs->group, NULL, NULL};
  result->coefficients = bpdq_alloc_array((size_t)(inputs->groups * per_group * n), sizeof(float));
  result->codes = bpdq_alloc_array((size_t)(inputs->padded * n), 1);
  if (!result->coefficients || !result->codes) {
    bpdq_layer_result_free(result);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory for the result", work->name);
  }
  for (int64_t q = 0; q < inputs->groups; q++) {
    int64_t group = inputs->order[q * inputs->group] / inputs->group;
    for (int64_t p = 0; p < per_group; p++)
      for (int64_t row = 0; row < n; row++) {
        float value = work->coefficients[(q * per_group + p) * work->stride + row];
        result->coefficients[(group * per_group + p) * n + row] = bpdq_bf16_to_float(bpdq_float_to_bf16(value));
      }
  }
  for (int64_t i = 0; i < inputs->padded; i++) {
    uint8_t *codes = result->codes + inputs->order[i] * n;
    if (inputs->order[i] < inputs->columns)
      memcpy(codes, work->codes + i * work->stride, (size_t)n);
    else
      memset(codes, 0, (size_t)n);
  }
  return BPDQ_OK;
}

void bpdq_layer_result_free(bpdq_layer_result *result) {
  free(result->coefficients);
  free(result->codes);
  *result = (bpdq_layer_result){0};
}
