/* The target T = (W C + R + lambda W)(H + lambda I)^-1 of one linear, computed as W + (W (C - H) + R)(H + lambda I)^-1: the product then
 * has no large part that the inverse has to take away again, so float32 is enough for it; the solution is float64. Where the statistics
 * hold W C + R as one, W H is taken from that. */
#include <stdlib.h>

#include "core/checked.h"
#include "gpu_algebra.h"

enum { PIECE = 1 << 25 }; /* weights of a chunk of rows: 128 MiB as float32, twice that as float64 */

typedef struct target_job {
  bpdq_work *work;
  const float *cross, *residual; /* C - H (or H, to be subtracted) and R, each NULL where it has no part in T */
  float sign;                    /* of the product with cross */
  double *root;                  /* Cholesky factor of H + lambda I [K, K]; NULL where T = W */
  float *weight, *right;         /* [chunk, K] */
  double *solution;              /* [chunk, K] */
} target_job;

static bpdq_status find_root(gpu_algebra *gpu, const bpdq_inputs *inputs, double **root, bpdq_error *error) {
  const bpdq_statistics *s = inputs->statistics;
  int64_t k = inputs->columns;
  double *diagonal = NULL, *values = bpdq_alloc_array((size_t)k, sizeof *values);
  bool definite = false;
  if (!values) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", s->name);
  for (int64_t j = 0; j < k; j++) values[j] = s->diagonal[j] + inputs->lambda;
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, k, sizeof *diagonal, s->name, &diagonal, error), done);
  BPDQ_TRY_GOTO(bpdq_gpu_upload(gpu, diagonal, values, k, sizeof *values, s->name, error), done);
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, k * k, sizeof **root, s->name, root, error), done);
  bpdq_gpu_gather_args args = {s->hessian, NULL, diagonal, k, k};
  BPDQ_TRY_GOTO(bpdq_gpu_check(bpdq_gpu_gather_double(&args, false, *root, gpu->stream), s->name, error), done);
  BPDQ_TRY_GOTO(bpdq_gpu_cholesky(gpu, *root, k, s->name, &definite, error), done);
  if (!definite)
    status = bpdq_fail(error, BPDQ_ERROR_FORMAT,
                       "%s: H + lambda I is not positive definite: use more calibration text or a larger target damping", s->name);
done:
  bpdq_gpu_free(gpu, diagonal);
  free(values);
  return status;
}

/* solution = (W (C - H) + R)(H + lambda I)^-1 for `rows` rows from `first`. */
static bpdq_status solve_chunk(gpu_algebra *gpu, const target_job *job, int64_t first, int64_t rows, bpdq_error *error) {
  const char *name = job->work->name;
  int64_t k = job->work->inputs->columns;
  const float keep = job->residual ? 1 : 0;
  if (job->residual)
    BPDQ_TRY(bpdq_gpu_check(
        cudaMemcpyAsync(job->right, job->residual + first * k, (size_t)(rows * k) * sizeof(float), cudaMemcpyDeviceToDevice, gpu->stream),
        name, error));
  if (job->cross)
    BPDQ_TRY(bpdq_gpu_check_blas(gpu->libraries.sgemm(gpu->blas, CUBLAS_OP_N, CUBLAS_OP_N, (int)k, (int)rows, (int)k, &job->sign,
                                                      job->cross, (int)k, job->weight, (int)k, &keep, job->right, (int)k),
                                 name, error));
  BPDQ_TRY(bpdq_gpu_check(bpdq_gpu_widen(job->right, rows * k, job->solution, gpu->stream), name, error));
  return bpdq_gpu_check_solver(gpu->libraries.potrs(gpu->solver, NULL, CUBLAS_FILL_MODE_UPPER, k, rows, CUDA_R_64F, job->root, k,
                                                    CUDA_R_64F, job->solution, k, gpu->flag),
                               name, error);
}

static bpdq_status fill(gpu_algebra *gpu, const target_job *job, const float *weight, int64_t chunk, bpdq_error *error) {
  bpdq_work *work = job->work;
  const bpdq_inputs *inputs = work->inputs;
  const bpdq_gpu_state *s = &work->state;
  int64_t k = inputs->columns;
  for (int64_t first = 0; first < s->rows; first += chunk) {
    int64_t rows = s->rows - first < chunk ? s->rows - first : chunk;
    BPDQ_TRY(bpdq_gpu_upload(gpu, job->weight, weight + first * k, rows * k, sizeof *weight, work->name, error));
    if (job->root) BPDQ_TRY(solve_chunk(gpu, job, first, rows, error));
    BPDQ_TRY(bpdq_gpu_check(bpdq_gpu_to_walk_order(job->weight, job->root ? job->solution : NULL, rows, k, inputs->gpu_order,
                                                   inputs->gpu_skip, s, first, work->target, gpu->stream),
                            work->name, error));
    if (work->weight != work->target)
      BPDQ_TRY(
          bpdq_gpu_check(bpdq_gpu_to_walk_order(job->weight, NULL, rows, k, inputs->gpu_order, NULL, s, first, work->weight, gpu->stream),
                         work->name, error));
    BPDQ_TRY(bpdq_gpu_check(cudaStreamSynchronize(gpu->stream), work->name, error));
  }
  return BPDQ_OK;
}

bpdq_status bpdq_gpu_find_target(gpu_algebra *gpu, bpdq_work *work, const bpdq_work_desc *desc, bpdq_error *error) {
  const bpdq_inputs *inputs = work->inputs;
  int64_t k = inputs->columns, area = work->state.padded * work->state.stride, chunk = PIECE / k > 32 ? PIECE / k : 32;
  if (chunk > desc->rows) chunk = desc->rows;
  const bpdq_statistics *statistics = inputs->statistics;
  target_job job = {.work = work, .sign = 1};
  if (statistics->whole_target && statistics->residual && (desc->use_cross || desc->use_residual)) {
    job.residual = statistics->residual + desc->first_row * k;
    job.cross = statistics->hessian;
    job.sign = -1;
  } else {
    if (desc->use_cross) job.cross = statistics->cross;
    if (desc->use_residual && statistics->residual) job.residual = statistics->residual + desc->first_row * k;
  }
  bool own_target = job.cross || job.residual;
  bpdq_status status;
  work->weight = work->target;
  if (own_target || (inputs->reference_dead && inputs->any_dead)) {
    float *apart;
    BPDQ_TRY(bpdq_gpu_allocate(gpu, area, sizeof *apart, work->name, &apart, error));
    work->weight = apart;
    BPDQ_TRY(bpdq_gpu_clear(gpu, apart, area, sizeof *apart, work->name, error));
  }
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, chunk * k, sizeof *job.weight, work->name, &job.weight, error), done);
  if (own_target) {
    BPDQ_TRY_GOTO(find_root(gpu, inputs, &job.root, error), done);
    BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, chunk * k, sizeof *job.right, work->name, &job.right, error), done);
    BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, chunk * k, sizeof *job.solution, work->name, &job.solution, error), done);
  }
  status = fill(gpu, &job, desc->weight, chunk, error);
done:
  bpdq_gpu_free(gpu, job.weight);
  bpdq_gpu_free(gpu, job.right);
  bpdq_gpu_free(gpu, job.solution);
  bpdq_gpu_free(gpu, job.root);
  return status;
}
