/* H made ready: the walk order of spec section 3 step 2, the damped factor of step 3, and the metric of the sweeps. */
#include <cblas.h>
#include <lapacke.h>
#include <string.h>

#include "core/checked.h"
#include "cpu/cpu_algebra.h"

/* A padded column has no activation; this share of mean diag H keeps the matrices regular without giving it a say. */
static const double PADDING_WEIGHT = 1e-6;
static const double DAMPING_STEP = 0.01;
enum { DAMPING_ATTEMPTS = 100 };

void bpdq_cpu_inputs_destroy(bpdq_algebra *algebra, bpdq_inputs *inputs) {
  (void)algebra;
  if (!inputs) return;
  free(inputs->order);
  free(inputs->dead);
  free(inputs->factor);
  free(inputs->metric);
  free(inputs->target_root);
  free(inputs);
}

/* ---- order ---- */

typedef struct ranked {
  double weight;
  int32_t index;
} ranked;

static int by_weight_descending(const void *a, const void *b) {
  const ranked *x = a, *y = b;
  if (x->weight != y->weight) return x->weight > y->weight ? -1 : 1;
  return x->index < y->index ? -1 : x->index > y->index;
}

/* Inside each group descending diagonal; groups by their largest entry. `diagonal` has `padded` entries. */
static bool find_order(bpdq_inputs *inputs, const double *diagonal) {
  ranked *columns = bpdq_alloc_array((size_t)inputs->padded, sizeof *columns);
  ranked *groups = bpdq_alloc_array((size_t)inputs->groups, sizeof *groups);
  if (columns && groups) {
    int group = inputs->group;
    for (int64_t j = 0; j < inputs->padded; j++) columns[j] = (ranked){diagonal[j], (int32_t)j};
    for (int64_t q = 0; q < inputs->groups; q++) {
      qsort(columns + q * group, (size_t)group, sizeof *columns, by_weight_descending);
      groups[q] = (ranked){columns[q * group].weight, (int32_t)q};
    }
    qsort(groups, (size_t)inputs->groups, sizeof *groups, by_weight_descending);
    for (int64_t q = 0; q < inputs->groups; q++)
      for (int t = 0; t < group; t++) inputs->order[q * group + t] = columns[(int64_t)groups[q].index * group + t].index;
  }
  bool done = columns && groups;
  free(columns);
  free(groups);
  return done;
}

/* ---- factor ---- */

/* H in walk order with the diagonal `diagonal[column] + damping` (no damping on padding), both triangles. */
static void gather(const bpdq_inputs *inputs, const double *diagonal, double damping, double *out) {
  int64_t n = inputs->padded, k = inputs->columns;
  const double *hessian = inputs->statistics->hessian;
  for (int64_t i = 0; i < n; i++) {
    int32_t row = inputs->order[i];
    for (int64_t j = 0; j < n; j++) {
      int32_t column = inputs->order[j];
      out[i * n + j] = row < k && column < k && row != column ? hessian[(int64_t)row * k + column] : 0;
    }
    out[i * n + i] = diagonal[row] + (row < k || inputs->reference_dead ? damping : 0);
  }
}

/* Upper U with U^T U = matrix^-1, in place. False where the matrix is not positive definite in float64. */
static bool invert_to_factor(double *matrix, int64_t n) {
  /* Column-major 'L' is row-major upper: the same triangle in each of the three calls. */
  lapack_int size = (lapack_int)n;
  if (LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'L', size, matrix, size)) return false;
  if (LAPACKE_dpotri(LAPACK_COL_MAJOR, 'L', size, matrix, size)) return false;
  /* L with inverse = L L^T in column-major is U = L^T with inverse = U^T U in row-major. */
  return LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'L', size, matrix, size) == 0;
}

static bpdq_status find_factor(bpdq_inputs *inputs, const bpdq_inputs_desc *desc, const double *diagonal, double mean, double *work,
                               bpdq_inputs_info *info, bpdq_error *error) {
  int64_t n = inputs->padded;
  double damping = desc->damping;
  for (int attempt = 0; attempt < DAMPING_ATTEMPTS; attempt++, damping += DAMPING_STEP) {
    gather(inputs, diagonal, damping * mean, work);
    if (!invert_to_factor(work, n)) continue;
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0; j < n; j++) inputs->factor[i * n + j] = j >= i ? (float)work[i * n + j] : 0;
    info->damping = damping;
    return BPDQ_OK;
  }
  return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: the Hessian cannot be factorised even with damping %.2f; check the calibration text",
                   inputs->statistics->name, damping - DAMPING_STEP);
}

static bpdq_status fill(bpdq_inputs *inputs, const bpdq_inputs_desc *desc, bpdq_inputs_info *info, bpdq_error *error) {
  int64_t n = inputs->padded, k = inputs->columns;
  double *diagonal = bpdq_alloc_array((size_t)n, sizeof *diagonal);
  double *work = bpdq_alloc_array((size_t)(n * n), sizeof *work);
  bpdq_status status = BPDQ_OK;
  if (!diagonal || !work) {
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory for a %lld x %lld factorisation", inputs->statistics->name,
                       (long long)n, (long long)n);
    goto done;
  }
  double mean = 0;
  for (int64_t j = 0; j < k; j++) mean += inputs->statistics->hessian[j * k + j] / (double)k;
  if (mean <= 0) mean = 1; /* nothing excites this layer: every metric is as good */
  for (int64_t j = 0; j < n; j++) {
    diagonal[j] = j < k ? inputs->statistics->hessian[j * k + j] : 0;
    bool dead = diagonal[j] <= 0;
    if (dead) diagonal[j] = inputs->reference_dead ? 1.0 : j < k ? 0 : PADDING_WEIGHT * mean;
    info->dead_columns += dead && j < k;
    inputs->dead[j] = dead;
  }
  double reference_mean = 0; /* the published code averages over the padded H with its ones */
  for (int64_t j = 0; j < n; j++) reference_mean += diagonal[j] / (double)n;
  if (!find_order(inputs, diagonal)) {
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", inputs->statistics->name);
    goto done;
  }
  uint8_t *by_column = (uint8_t *)work; /* re-sort the flags into walk order */
  memcpy(by_column, inputs->dead, (size_t)n);
  for (int64_t i = 0; i < n; i++) inputs->dead[i] = by_column[inputs->order[i]];

  if (desc->factor)
    BPDQ_TRY_GOTO(find_factor(inputs, desc, diagonal, inputs->reference_dead ? reference_mean : mean, work, info, error), done);
  inputs->lambda = desc->target_damping * mean;
  if (desc->metric) {
    gather(inputs, diagonal, inputs->lambda, work);
    for (int64_t i = 0; i < n * n; i++) inputs->metric[i] = (float)work[i];
  }
done:
  free(diagonal);
  free(work);
  return status;
}

bpdq_status bpdq_cpu_inputs_create(bpdq_algebra *algebra, const bpdq_statistics *statistics, const bpdq_inputs_desc *desc,
                                   bpdq_inputs **inputs, bpdq_inputs_info *info, bpdq_error *error) {
  (void)algebra;
  *inputs = NULL;
  *info = (bpdq_inputs_info){0};
  bpdq_inputs *made = calloc(1, sizeof *made);
  if (!made) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", statistics->name);
  made->statistics = statistics;
  made->columns = statistics->columns;
  made->group = desc->group;
  made->groups = (int64_t)bpdq_ceil_div((uint64_t)made->columns, (uint64_t)desc->group);
  made->padded = made->groups * desc->group;
  made->reference_dead = desc->reference_dead;
  size_t square = (size_t)made->padded * (size_t)made->padded;
  made->order = bpdq_alloc_array((size_t)made->padded, sizeof *made->order);
  made->dead = bpdq_alloc_array((size_t)made->padded, sizeof *made->dead);
  made->factor = bpdq_alloc_array(desc->factor ? square : 0, sizeof *made->factor);
  made->metric = bpdq_alloc_array(desc->metric ? square : 0, sizeof *made->metric);
  bpdq_status status = BPDQ_OK;
  if (!made->order || !made->dead || !made->factor || !made->metric)
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory for the %lld x %lld factor", statistics->name,
                       (long long)made->padded, (long long)made->padded);
  else
    status = fill(made, desc, info, error);
  if (status != BPDQ_OK) {
    bpdq_cpu_inputs_destroy(algebra, made);
    return status;
  }
  *inputs = made;
  return BPDQ_OK;
}
