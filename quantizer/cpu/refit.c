/* Joint least squares over all coefficients of a row, in the metric Hd, with the planes held fixed.
 *
 * D [padded, P] is a row's design, P = groups * (planes + 1): group q's bits and its column of ones, zero elsewhere. With R = Hd (T - Q)
 * the step d = c' - c solves (D^T Hd D + eps I) d = D^T R, which is exact relative to the error that is left, not to the weights. Let F be
 * the upper Cholesky factor: F c' = F c + F^-T D^T R is solved from the last unknown up, and each c' is rounded to bf16 before it is put
 * into the equations above it, so that they make up for its rounding.
 *
 * Hd D for sixteen rows and one group is one matrix product: the bits of all rows side by side. */
#include <cblas.h>
#include <lapacke.h>
#include <string.h>

#include "core/checked.h"
#include "core/half.h"
#include "cpu/cpu_algebra.h"

static const double RIDGE = 1e-3; /* eps as a share of the mean diagonal */

typedef float lanes_t[BPDQ_LANES];

typedef struct refit_loop {
  bpdq_work *work;
  int64_t unknowns;   /* P */
  double *group_sums; /* [padded][groups]: sum of Hd[i, j] over the columns j of a group */
  lanes_t *scratch;   /* [threads][per_thread] */
  double *solve;      /* [threads][unknowns * (unknowns + 2)] */
  int64_t per_thread;
} refit_loop;

typedef struct refit_tile {
  lanes_t *gram;    /* [P][P], lower triangle of group blocks */
  lanes_t *right;   /* [P] */
  lanes_t *design;  /* [padded][planes]: bits as 0 and 1 */
  lanes_t *product; /* [padded][planes]: Hd D of one group */
} refit_tile;

static refit_tile tile_memory(const refit_loop *loop, int thread) {
  refit_tile tile;
  tile.gram = loop->scratch + (int64_t)thread * loop->per_thread;
  tile.right = tile.gram + loop->unknowns * loop->unknowns;
  tile.design = tile.right + loop->unknowns;
  tile.product = tile.design + loop->work->inputs->padded * loop->work->planes;
  return tile;
}

BPDQ_VECTOR_CLONES static void fill_design(const bpdq_work *work, int64_t row, lanes_t *design) {
  for (int64_t i = 0; i < work->inputs->padded; i++)
    for (int p = 0; p < work->planes; p++)
      for (int lane = 0; lane < BPDQ_LANES; lane++)
        design[i * work->planes + p][lane] = (float)(work->codes[i * work->stride + row + lane] >> p & 1);
}

/* D^T R. */
BPDQ_VECTOR_CLONES static void fill_right(const bpdq_work *work, int64_t row, const lanes_t *design, lanes_t *right) {
  int k = work->planes, group = work->inputs->group;
  memset(right, 0, (size_t)(work->inputs->groups * (k + 1)) * sizeof *right);
  for (int64_t i = 0; i < work->inputs->padded; i++) {
    const float *residual = work->residual + i * work->stride + row;
    lanes_t *to = right + i / group * (k + 1);
    for (int p = 0; p < k; p++)
      for (int lane = 0; lane < BPDQ_LANES; lane++) to[p][lane] += design[i * k + p][lane] * residual[lane];
    for (int lane = 0; lane < BPDQ_LANES; lane++) to[k][lane] += residual[lane];
  }
}

/* Rows (q, .) of the Gram matrix against the columns (column_group, .), from the product Hd D of column_group. */
BPDQ_VECTOR_CLONES static void fill_gram_block(const refit_loop *loop, const refit_tile *tile, int64_t q, int64_t column_group) {
  const bpdq_work *work = loop->work;
  int k = work->planes;
  int64_t group = work->inputs->group, groups = work->inputs->groups, unknowns = loop->unknowns;
  for (int a = 0; a <= k; a++)
    memset(tile->gram[(q * (k + 1) + a) * unknowns + column_group * (k + 1)], 0, (size_t)(k + 1) * sizeof(lanes_t));
  double ones = 0;
  for (int64_t i = q * group; i < (q + 1) * group; i++) {
    const lanes_t *product = tile->product + i * k, *design = tile->design + i * k;
    float sum = (float)loop->group_sums[i * groups + column_group];
    ones += loop->group_sums[i * groups + column_group];
    for (int a = 0; a <= k; a++) {
      lanes_t *to = tile->gram + (q * (k + 1) + a) * unknowns + column_group * (k + 1);
      for (int b = 0; b < k; b++)
        for (int lane = 0; lane < BPDQ_LANES; lane++) to[b][lane] += (a < k ? design[a][lane] : 1.0f) * product[b][lane];
      if (a < k)
        for (int lane = 0; lane < BPDQ_LANES; lane++) to[k][lane] += design[a][lane] * sum;
    }
  }
  for (int lane = 0; lane < BPDQ_LANES; lane++) tile->gram[(q * (k + 1) + k) * unknowns + column_group * (k + 1) + k][lane] = (float)ones;
}

static void fill_gram(const refit_loop *loop, const refit_tile *tile) {
  const bpdq_work *work = loop->work;
  int64_t n = work->inputs->padded, group = work->inputs->group;
  int width = work->planes * BPDQ_LANES;
  for (int64_t column_group = 0; column_group < work->inputs->groups; column_group++) {
    int64_t first = column_group * group;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)(n - first), width, (int)group, 1, work->inputs->metric + first * n + first,
                (int)n, tile->design[first * work->planes], width, 0, tile->product[first * work->planes], width);
    for (int64_t q = column_group; q < work->inputs->groups; q++) fill_gram_block(loop, tile, q, column_group);
  }
}

/* Solves for one row and takes the result where the objective falls: with d = c' - c it changes by d^T A d - 2 d^T D^T R. */
static void solve_row(const refit_loop *loop, const refit_tile *tile, int lane, float *coefficients, double *memory) {
  int64_t unknowns = loop->unknowns, stride = loop->work->stride;
  double *factor = memory, *right = factor + unknowns * unknowns, *values = right + unknowns, trace = 0;
  for (int64_t i = 0; i < unknowns; i++) {
    for (int64_t j = 0; j <= i; j++) factor[i * unknowns + j] = (double)tile->gram[i * unknowns + j][lane];
    trace += factor[i * unknowns + i];
  }
  for (int64_t i = 0; i < unknowns; i++) factor[i * unknowns + i] += RIDGE * trace / (double)unknowns;
  /* Row-major lower is column-major upper: A = F^T F with F upper, stored at factor[j * unknowns + i] for F_ij, i <= j. */
  lapack_int size = (lapack_int)unknowns;
  if (LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'U', size, factor, size)) return;
  for (int64_t i = 0; i < unknowns; i++) right[i] = (double)tile->right[i][lane];
  cblas_dtrsv(CblasColMajor, CblasUpper, CblasTrans, CblasNonUnit, (int)unknowns, factor, (int)unknowns, right, 1);
  for (int64_t j = 0; j < unknowns; j++) values[j] = (double)coefficients[j * stride];
  for (int64_t j = 0; j < unknowns; j++) /* right = F c + F^-T D^T R */
    for (int64_t i = 0; i <= j; i++) right[i] += factor[j * unknowns + i] * values[j];
  for (int64_t j = unknowns - 1; j >= 0; j--) {
    values[j] = (double)bpdq_bf16_to_float(bpdq_float_to_bf16((float)(right[j] / factor[j * unknowns + j])));
    for (int64_t i = 0; i < j; i++) right[i] -= factor[j * unknowns + i] * values[j];
  }
  double change = 0;
  for (int64_t i = 0; i < unknowns; i++) {
    double step = values[i] - (double)coefficients[i * stride], sum = -2 * (double)tile->right[i][lane];
    for (int64_t j = 0; j <= i; j++)
      sum += (j < i ? 2 : 1) * (double)tile->gram[i * unknowns + j][lane] * (values[j] - (double)coefficients[j * stride]);
    change += step * sum;
  }
  if (!(change < 0)) return;
  for (int64_t i = 0; i < unknowns; i++) coefficients[i * stride] = (float)values[i];
}

static void refit_rows(void *context, int64_t index, int thread) {
  refit_loop *loop = context;
  bpdq_work *work = loop->work;
  int64_t row = index * BPDQ_LANES;
  refit_tile tile = tile_memory(loop, thread);
  fill_design(work, row, tile.design);
  fill_right(work, row, tile.design, tile.right);
  fill_gram(loop, &tile);
  double *memory = loop->solve + (int64_t)thread * loop->unknowns * (loop->unknowns + 2);
  for (int lane = 0; lane < BPDQ_LANES && row + lane < work->rows; lane++)
    solve_row(loop, &tile, lane, work->coefficients + row + lane, memory);
}

static void sum_groups(const bpdq_inputs *inputs, double *group_sums) {
  for (int64_t i = 0; i < inputs->padded; i++)
    for (int64_t q = 0; q < inputs->groups; q++) {
      double sum = 0;
      for (int64_t j = q * inputs->group; j < (q + 1) * inputs->group; j++) sum += (double)inputs->metric[i * inputs->padded + j];
      group_sums[i * inputs->groups + q] = sum;
    }
}

bpdq_status bpdq_cpu_refit(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error) {
  bpdq_cpu_algebra *cpu = (bpdq_cpu_algebra *)algebra;
  const bpdq_inputs *inputs = work->inputs;
  BPDQ_TRY(bpdq_cpu_update_residual(cpu, work, error));
  refit_loop loop = {.work = work, .unknowns = inputs->groups * (work->planes + 1)};
  loop.per_thread = loop.unknowns * (loop.unknowns + 1) + 2 * inputs->padded * work->planes;
  loop.group_sums = bpdq_alloc_array((size_t)(inputs->padded * inputs->groups), sizeof(double));
  loop.scratch = bpdq_alloc_array((size_t)(cpu->threads * loop.per_thread), sizeof(lanes_t));
  loop.solve = bpdq_alloc_array((size_t)(cpu->threads * loop.unknowns * (loop.unknowns + 2)), sizeof(double));
  bpdq_status status = BPDQ_OK;
  if (loop.group_sums && loop.scratch && loop.solve) {
    sum_groups(inputs, loop.group_sums);
    bpdq_pool_run(cpu->pool, work->stride / BPDQ_LANES, refit_rows, &loop);
    work->residual_valid = false;
  } else {
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", work->name);
  }
  free(loop.group_sums);
  free(loop.scratch);
  free(loop.solve);
  return status;
}
