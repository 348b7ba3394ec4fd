/* H made ready: the walk order of docs/format.md section 3 step 2, the damped factor of step 3, and the metric of the sweeps. */
#include <cblas.h>
#include <lapacke.h>
#include <string.h>

#include "core/checked.h"
#include "cpu/cpu_algebra.h"
#include "order.h"

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
  double damping = 0;
  for (int attempt = 0; attempt < BPDQ_DAMPING_ATTEMPTS; attempt++) {
    damping = bpdq_damping(desc->damping, attempt);
    gather(inputs, diagonal, damping * mean, work);
    if (!invert_to_factor(work, n)) continue;
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0; j < n; j++) inputs->factor[i * n + j] = j >= i ? (float)work[i * n + j] : 0;
    info->damping = damping;
    return BPDQ_OK;
  }
  return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: the Hessian cannot be factorised even with damping %.2f; check the calibration text",
                   inputs->statistics->name, damping);
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
  bpdq_column_order order = {.name = inputs->statistics->name,
                             .columns = k,
                             .groups = inputs->groups,
                             .group = inputs->group,
                             .reference_dead = inputs->reference_dead,
                             .diagonal = diagonal,
                             .order = inputs->order};
  const double *hessian = inputs->statistics->hessian;
  for (int64_t j = 0; j < k; j++) diagonal[j] = hessian[j * k + j];
  BPDQ_TRY_GOTO(bpdq_order_columns(&order, error), done);
  info->dead_columns = order.dead;
  for (int64_t i = 0; i < n; i++) inputs->dead[i] = inputs->order[i] >= k || hessian[inputs->order[i] * (k + 1)] <= 0;

  /* The published code averages over the padded H with its ones. */
  double mean = inputs->reference_dead ? order.padded_mean : order.mean;
  if (desc->factor) BPDQ_TRY_GOTO(find_factor(inputs, desc, diagonal, mean, work, info, error), done);
  inputs->lambda = desc->target_damping * order.mean;
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
