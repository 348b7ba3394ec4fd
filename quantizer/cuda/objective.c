/* Objectives and the best state of each row. Products are float32, sums over columns and rows float64: the rounding of the products has
 * no bias and averages out, to about 1e-6 of the total. */
#include <math.h>
#include <stdlib.h>

#include "core/checked.h"
#include "gpu_algebra.h"

/* work->objective[row] = error matrix error^T for matrix [n, n] and what work->error holds. */
static bpdq_status row_objectives(gpu_algebra *gpu, bpdq_work *work, const float *matrix, int64_t n, bpdq_error *error) {
  int64_t stride = work->state.stride;
  BPDQ_TRY(bpdq_gpu_clear(gpu, work->objective, stride, sizeof *work->objective, work->name, error));
  for (int64_t begin = 0; begin < n; begin += BPDQ_GPU_SWEEP_BLOCK) {
    int64_t count = n - begin < BPDQ_GPU_SWEEP_BLOCK ? n - begin : BPDQ_GPU_SWEEP_BLOCK;
    int splits;
    BPDQ_TRY(bpdq_gpu_residual_block(gpu, work, matrix, n, begin, count, &splits, error));
    BPDQ_TRY(bpdq_gpu_check(
        bpdq_gpu_add_objective(&work->state, work->error + begin * stride, work->residual, splits, count, work->objective, gpu->stream),
        work->name, error));
  }
  return BPDQ_OK;
}

/* *total = tr((source - Q) H (source - Q)^T), or with Q = 0; leaves work->error in natural order. */
static bpdq_status objective_of(gpu_algebra *gpu, bpdq_work *work, const float *source, bool zero, double *total, bpdq_error *error) {
  const bpdq_inputs *inputs = work->inputs;
  double *sum = NULL;
  BPDQ_TRY(bpdq_gpu_check(bpdq_gpu_difference(&work->state, source, zero, inputs->gpu_order, inputs->columns, work->error, gpu->stream),
                          work->name, error));
  work->error_valid = false;
  BPDQ_TRY(row_objectives(gpu, work, inputs->statistics->hessian, inputs->columns, error));
  BPDQ_TRY(bpdq_gpu_allocate(gpu, 1, sizeof *sum, work->name, &sum, error));
  bpdq_status status = bpdq_gpu_check(bpdq_gpu_total(work->objective, work->state.rows, sum, gpu->stream), work->name, error);
  if (status == BPDQ_OK) status = bpdq_gpu_download(gpu, total, sum, 1, sizeof *total, work->name, error);
  bpdq_gpu_free(gpu, sum);
  return status;
}

bpdq_status bpdq_gpu_objective(bpdq_algebra *algebra, bpdq_work *work, double *against_weight, double *against_target, double *of_zero,
                               bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(gpu->device), work->name, error));
  if (against_weight) BPDQ_TRY(objective_of(gpu, work, work->weight, false, against_weight, error));
  if (against_target) BPDQ_TRY(objective_of(gpu, work, work->target, false, against_target, error));
  if (of_zero) BPDQ_TRY(objective_of(gpu, work, work->weight, true, of_zero, error));
  return BPDQ_OK;
}

/* ---- best state per row ---- */

static bpdq_status allocate_best(gpu_algebra *gpu, bpdq_work *work, bpdq_error *error) {
  if (work->best_objective) return BPDQ_OK;
  const char *name = work->name;
  int64_t stride = work->state.stride, area = work->state.padded * stride, terms = work->inputs->groups * (work->state.planes + 1) * stride;
  double *infinite = bpdq_alloc_array((size_t)stride, sizeof *infinite), *objective = NULL;
  if (!infinite) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", name);
  for (int64_t row = 0; row < stride; row++) infinite[row] = INFINITY;
  bpdq_status status = BPDQ_OK;
  if (!work->best.codes) BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, area, 1, name, &work->best.codes, error), done);
  if (!work->best.coefficients) BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, terms, sizeof(float), name, &work->best.coefficients, error), done);
  if (!work->better) BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, stride, 1, name, &work->better, error), done);
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, stride, sizeof *objective, name, &objective, error), done);
  work->best_objective = objective;
  BPDQ_TRY_GOTO(bpdq_gpu_upload(gpu, objective, infinite, stride, sizeof *objective, name, error), done);
  status = bpdq_gpu_check(cudaStreamSynchronize(gpu->stream), name, error);
done:
  free(infinite);
  return status;
}

bpdq_status bpdq_gpu_keep_best(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  BPDQ_TRY(bpdq_gpu_need_error(gpu, work, error));
  BPDQ_TRY(allocate_best(gpu, work, error));
  BPDQ_TRY(row_objectives(gpu, work, work->inputs->metric, work->state.padded, error));
  BPDQ_TRY(bpdq_gpu_check(bpdq_gpu_mark_better(work->objective, work->state.rows, work->best_objective, work->better, gpu->stream),
                          work->name, error));
  return bpdq_gpu_check(bpdq_gpu_copy_rows(&work->state, &work->best, work->better, gpu->stream), work->name, error);
}

bpdq_status bpdq_gpu_restore_best(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  if (!work->best_objective) return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "%s: no state was kept", work->name);
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(gpu->device), work->name, error));
  /* Every finite objective was less than infinity once, so all rows but those that are not numbers have a best state. */
  BPDQ_TRY(bpdq_gpu_check(bpdq_gpu_mark_finite(work->best_objective, work->state.rows, work->better, gpu->stream), work->name, error));
  BPDQ_TRY(bpdq_gpu_check(bpdq_gpu_copy_rows(&work->best, &work->state, work->better, gpu->stream), work->name, error));
  work->error_valid = false;
  return BPDQ_OK;
}
