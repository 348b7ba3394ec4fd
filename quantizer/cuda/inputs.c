/* H made ready: the walk order of docs/format.md section 3 step 2, the damped factor of step 3, and the metric of the sweeps. Order and
 * diagonal are found on the host, as the CPU back end does it. */
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "gpu_algebra.h"
#include "order.h"

void bpdq_gpu_inputs_destroy(bpdq_algebra *algebra, bpdq_inputs *inputs) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  if (!inputs) return;
  free(inputs->order);
  free(inputs->diagonal);
  free(inputs->damped);
  bpdq_gpu_free(gpu, inputs->gpu_order);
  bpdq_gpu_free(gpu, inputs->gpu_skip);
  bpdq_gpu_free(gpu, inputs->factor);
  bpdq_gpu_free(gpu, inputs->inverse);
  bpdq_gpu_free(gpu, inputs->ones);
  bpdq_gpu_free(gpu, inputs->metric);
  bpdq_gpu_free(gpu, inputs->group_sums);
  free(inputs);
}

/* ---- order ---- */

/* Order and diagonal, with the substitutes for dead and padded columns. */
static bpdq_status prepare_columns(bpdq_inputs *inputs, bpdq_column_order *order, bpdq_inputs_info *info, bpdq_error *error) {
  int64_t n = inputs->padded;
  double *diagonal = bpdq_alloc_array((size_t)n, sizeof *diagonal);
  if (!diagonal) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", inputs->statistics->name);
  memcpy(diagonal, inputs->statistics->diagonal, (size_t)inputs->columns * sizeof *diagonal);
  *order = (bpdq_column_order){.name = inputs->statistics->name,
                               .columns = inputs->columns,
                               .groups = inputs->groups,
                               .group = inputs->group,
                               .reference_dead = inputs->reference_dead,
                               .diagonal = diagonal,
                               .order = inputs->order};
  bpdq_status status = bpdq_order_columns(order, error);
  for (int64_t i = 0; i < n && status == BPDQ_OK; i++) {
    inputs->diagonal[i] = diagonal[inputs->order[i]];
    inputs->damped[i] = inputs->order[i] < inputs->columns || inputs->reference_dead;
  }
  info->dead_columns = order->dead;
  inputs->any_dead = order->dead > 0;
  free(diagonal);
  return status;
}

/* Order and, for reference_dead, the positions without a target. */
static bpdq_status upload_order(gpu_algebra *gpu, bpdq_inputs *inputs, bpdq_error *error) {
  const char *name = inputs->statistics->name;
  int64_t n = inputs->padded, k = inputs->columns;
  BPDQ_TRY(bpdq_gpu_allocate(gpu, n, sizeof *inputs->gpu_order, name, &inputs->gpu_order, error));
  BPDQ_TRY(bpdq_gpu_upload(gpu, inputs->gpu_order, inputs->order, n, sizeof *inputs->order, name, error));
  if (!inputs->reference_dead) return BPDQ_OK;
  uint8_t *skip = bpdq_alloc_array((size_t)n, sizeof *skip);
  if (!skip) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", name);
  for (int64_t i = 0; i < n; i++) skip[i] = inputs->order[i] >= k || inputs->statistics->diagonal[inputs->order[i]] <= 0;
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, n, sizeof *skip, name, &inputs->gpu_skip, error), done);
  BPDQ_TRY_GOTO(bpdq_gpu_upload(gpu, inputs->gpu_skip, skip, n, sizeof *skip, name, error), done);
  status = bpdq_gpu_check(cudaStreamSynchronize(gpu->stream), name, error);
done:
  free(skip);
  return status;
}

/* ---- factor and metric ---- */

bpdq_status bpdq_gpu_cholesky(gpu_algebra *gpu, double *matrix, int64_t n, const char *what, bool *definite, bpdq_error *error) {
  const bpdq_gpu_libraries *l = &gpu->libraries;
  size_t device_bytes = 0, host_bytes = 0;
  void *device_scratch = NULL, *host_scratch = NULL;
  int failed_at = 0;
  bpdq_status status;
  /* Column-major 'upper' is row-major lower: R^T R with R = L^T. */
  BPDQ_TRY(bpdq_gpu_check_solver(
      l->potrf_size(gpu->solver, NULL, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F, matrix, n, CUDA_R_64F, &device_bytes, &host_bytes), what,
      error));
  host_scratch = malloc(host_bytes ? host_bytes : 1);
  if (!host_scratch) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", what);
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, (int64_t)device_bytes, 1, what, &device_scratch, error), done);
  BPDQ_TRY_GOTO(bpdq_gpu_check_solver(l->potrf(gpu->solver, NULL, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F, matrix, n, CUDA_R_64F,
                                               device_scratch, device_bytes, host_scratch, host_bytes, gpu->flag),
                                      what, error),
                done);
  BPDQ_TRY_GOTO(bpdq_gpu_download(gpu, &failed_at, gpu->flag, 1, sizeof failed_at, what, error), done);
  *definite = failed_at == 0;
done:
  bpdq_gpu_free(gpu, device_scratch);
  free(host_scratch);
  return status;
}

/* The inverse of a factor from bpdq_gpu_cholesky, in place. */
static bpdq_status invert_triangle(gpu_algebra *gpu, double *matrix, int64_t n, const char *what, bpdq_error *error) {
  const bpdq_gpu_libraries *l = &gpu->libraries;
  size_t device_bytes = 0, host_bytes = 0;
  void *device_scratch = NULL, *host_scratch = NULL;
  bpdq_status status;
  BPDQ_TRY(bpdq_gpu_check_solver(
      l->trtri_size(gpu->solver, CUBLAS_FILL_MODE_UPPER, CUBLAS_DIAG_NON_UNIT, n, CUDA_R_64F, matrix, n, &device_bytes, &host_bytes), what,
      error));
  host_scratch = malloc(host_bytes ? host_bytes : 1);
  if (!host_scratch) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", what);
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, (int64_t)device_bytes, 1, what, &device_scratch, error), done);
  BPDQ_TRY_GOTO(bpdq_gpu_check_solver(l->trtri(gpu->solver, CUBLAS_FILL_MODE_UPPER, CUBLAS_DIAG_NON_UNIT, n, CUDA_R_64F, matrix, n,
                                               device_scratch, device_bytes, host_scratch, host_bytes, gpu->flag),
                                      what, error),
                done);
  status = bpdq_gpu_check(cudaStreamSynchronize(gpu->stream), what, error);
done:
  bpdq_gpu_free(gpu, device_scratch);
  free(host_scratch);
  return status;
}

/* The diagonal by walk position with `damping` added where it belongs, on the device. */
static bpdq_status upload_diagonal(gpu_algebra *gpu, const bpdq_inputs *inputs, double damping, double **diagonal, bpdq_error *error) {
  const char *name = inputs->statistics->name;
  int64_t n = inputs->padded;
  *diagonal = NULL;
  double *values = bpdq_alloc_array((size_t)n, sizeof *values);
  if (!values) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", name);
  for (int64_t i = 0; i < n; i++) values[i] = inputs->diagonal[i] + (inputs->damped[i] ? damping : 0);
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, n, sizeof *values, name, diagonal, error), done);
  BPDQ_TRY_GOTO(bpdq_gpu_upload(gpu, *diagonal, values, n, sizeof *values, name, error), done);
  status = bpdq_gpu_check(cudaStreamSynchronize(gpu->stream), name, error);
done:
  free(values);
  return status;
}

static bpdq_gpu_gather_args gather_args(const bpdq_inputs *inputs, const double *diagonal) {
  return (bpdq_gpu_gather_args){inputs->statistics->hessian, inputs->gpu_order, diagonal, inputs->columns, inputs->padded};
}

/* With P the reversal of the order, P H P = L L^T gives H^-1 = U^T U for U = P L^-1 P, which is upper: one factorisation and one inverse
 * of a triangle instead of two factorisations and an inverse. */
static bpdq_status try_damping(gpu_algebra *gpu, bpdq_inputs *inputs, double damping, double *matrix, bool *done, bpdq_error *error) {
  const char *name = inputs->statistics->name;
  double *diagonal;
  BPDQ_TRY(upload_diagonal(gpu, inputs, damping, &diagonal, error));
  bpdq_gpu_gather_args args = gather_args(inputs, diagonal);
  bpdq_status status = bpdq_gpu_check(bpdq_gpu_gather_double(&args, true, matrix, gpu->stream), name, error);
  bpdq_gpu_free(gpu, diagonal);
  BPDQ_TRY(status);
  BPDQ_TRY(bpdq_gpu_cholesky(gpu, matrix, inputs->padded, name, done, error));
  if (!*done) return BPDQ_OK;
  BPDQ_TRY(invert_triangle(gpu, matrix, inputs->padded, name, error));
  return bpdq_gpu_check(bpdq_gpu_take_factor(matrix, inputs->padded, inputs->factor, gpu->stream), name, error);
}

static bpdq_status find_factor(gpu_algebra *gpu, bpdq_inputs *inputs, double first_damping, double mean, bpdq_inputs_info *info,
                               bpdq_error *error) {
  const char *name = inputs->statistics->name;
  int64_t n = inputs->padded;
  double *matrix = NULL, damping = first_damping;
  bool done = false;
  BPDQ_TRY(bpdq_gpu_allocate(gpu, n * n, sizeof *inputs->factor, name, &inputs->factor, error));
  BPDQ_TRY(bpdq_gpu_allocate(gpu, n * n, sizeof *matrix, name, &matrix, error));
  bpdq_status status = BPDQ_OK;
  for (int attempt = 0; attempt < BPDQ_DAMPING_ATTEMPTS && !done; attempt++) {
    damping = bpdq_damping(first_damping, attempt);
    BPDQ_TRY_GOTO(try_damping(gpu, inputs, damping * mean, matrix, &done, error), failed);
  }
failed:
  bpdq_gpu_free(gpu, matrix);
  BPDQ_TRY(status);
  if (!done)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: the Hessian cannot be factorised even with damping %.2f; check the calibration text",
                     name, damping);
  info->damping = damping;
  BPDQ_TRY(bpdq_gpu_allocate(gpu, n * inputs->group, sizeof *inputs->inverse, name, &inputs->inverse, error));
  BPDQ_TRY(bpdq_gpu_allocate(gpu, n, sizeof *inputs->ones, name, &inputs->ones, error));
  return bpdq_gpu_check(bpdq_gpu_invert_local(inputs->factor, n, inputs->group, inputs->inverse, inputs->ones, gpu->stream), name, error);
}

bpdq_status bpdq_gpu_need_metric(gpu_algebra *gpu, bpdq_inputs *inputs, bpdq_error *error) {
  if (inputs->group_sums) return BPDQ_OK;
  const char *name = inputs->statistics->name;
  int64_t n = inputs->padded;
  double *diagonal;
  BPDQ_TRY(upload_diagonal(gpu, inputs, inputs->lambda, &diagonal, error));
  bpdq_gpu_gather_args args = gather_args(inputs, diagonal);
  bpdq_status status = BPDQ_OK;
  if (!inputs->metric) BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, n * n, sizeof *inputs->metric, name, &inputs->metric, error), done);
  BPDQ_TRY_GOTO(bpdq_gpu_check(bpdq_gpu_gather_metric(&args, inputs->metric, gpu->stream), name, error), done);
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, n * inputs->groups, sizeof *inputs->group_sums, name, &inputs->group_sums, error), done);
  status = bpdq_gpu_check(bpdq_gpu_group_sums(inputs->metric, n, inputs->group, inputs->group_sums, gpu->stream), name, error);
done:
  bpdq_gpu_free(gpu, diagonal);
  return status;
}

static bpdq_status fill(gpu_algebra *gpu, bpdq_inputs *inputs, const bpdq_inputs_desc *desc, bpdq_inputs_info *info, bpdq_error *error) {
  bpdq_column_order order;
  BPDQ_TRY(prepare_columns(inputs, &order, info, error));
  inputs->lambda = desc->target_damping * order.mean;
  double mean = inputs->reference_dead ? order.padded_mean : order.mean; /* the published code averages over the padded H with its ones */
  BPDQ_TRY(upload_order(gpu, inputs, error));
  return desc->factor ? find_factor(gpu, inputs, desc->damping, mean, info, error) : BPDQ_OK;
}

bpdq_status bpdq_gpu_inputs_create(bpdq_algebra *algebra, const bpdq_statistics *statistics, const bpdq_inputs_desc *desc,
                                   bpdq_inputs **inputs, bpdq_inputs_info *info, bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  *inputs = NULL;
  *info = (bpdq_inputs_info){0};
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(gpu->device), statistics->name, error));
  bpdq_inputs *made = calloc(1, sizeof *made);
  if (!made) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", statistics->name);
  made->statistics = statistics;
  made->columns = statistics->columns;
  made->group = desc->group;
  made->groups = (int64_t)bpdq_ceil_div((uint64_t)made->columns, (uint64_t)desc->group);
  made->padded = made->groups * desc->group;
  made->reference_dead = desc->reference_dead;
  made->order = bpdq_alloc_array((size_t)made->padded, sizeof *made->order);
  made->diagonal = bpdq_alloc_array((size_t)made->padded, sizeof *made->diagonal);
  made->damped = bpdq_alloc_array((size_t)made->padded, sizeof *made->damped);
  bpdq_status status;
  if (!made->order || !made->diagonal || !made->damped)
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", statistics->name);
  else
    status = fill(gpu, made, desc, info, error);
  if (status != BPDQ_OK) {
    bpdq_gpu_inputs_destroy(algebra, made);
    return status;
  }
  *inputs = made;
  return BPDQ_OK;
}
