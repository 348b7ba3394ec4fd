/* Joint least squares over all coefficients of each row: Gram matrices of a chunk of rows at a time, as many as fit. */
#include "core/checked.h"
#include "gpu_algebra.h"

enum { LEAST_ROWS = 32 };
static const uint64_t MOST_BYTES = (uint64_t)4 << 30; /* of a chunk: past this more rows do not fill the device better */

/* right = D^T Hd (T - Q), for all rows. */
static bpdq_status find_right(gpu_algebra *gpu, bpdq_work *work, bpdq_gpu_refit *refit, bpdq_error *error) {
  int64_t n = work->state.padded, count = refit->unknowns * work->state.stride;
  BPDQ_TRY(bpdq_gpu_clear(gpu, refit->right, count, sizeof *refit->right, work->name, error));
  for (int64_t begin = 0; begin < n; begin += BPDQ_GPU_SWEEP_BLOCK) {
    int64_t columns = n - begin < BPDQ_GPU_SWEEP_BLOCK ? n - begin : BPDQ_GPU_SWEEP_BLOCK;
    int splits;
    BPDQ_TRY(bpdq_gpu_residual_block(gpu, work, work->inputs->metric, n, begin, columns, &splits, error));
    BPDQ_TRY(bpdq_gpu_check(bpdq_gpu_add_right(refit, work->residual, splits, begin, columns, gpu->stream), work->name, error));
  }
  return BPDQ_OK;
}

/* The Gram matrices of a chunk: Hd D of one group for all its rows is one product, from that group's columns on (A is symmetric). */
static bpdq_status find_systems(gpu_algebra *gpu, bpdq_work *work, const bpdq_gpu_refit *refit, bpdq_error *error) {
  const float one = 1, zero = 0;
  int64_t n = work->state.padded, group = work->state.group, width = work->state.planes * refit->count;
  BPDQ_TRY(bpdq_gpu_check(bpdq_gpu_design(refit, gpu->stream), work->name, error));
  for (int64_t first = 0; first < n; first += group) {
    BPDQ_TRY(bpdq_gpu_check_blas(gpu->libraries.sgemm(gpu->blas, CUBLAS_OP_N, CUBLAS_OP_N, (int)width, (int)(n - first), (int)group, &one,
                                                      refit->design + first * width, (int)width, work->inputs->metric + first * n + first,
                                                      (int)n, &zero, refit->product, (int)width),
                                 work->name, error));
    BPDQ_TRY(bpdq_gpu_check(bpdq_gpu_gram_column(refit, first / group, gpu->stream), work->name, error));
  }
  return BPDQ_OK;
}

static uint64_t bytes_per_row(const bpdq_work *work, int64_t unknowns) {
  return sizeof(float) * ((uint64_t)(unknowns + 1) * (uint64_t)unknowns + 2 * (uint64_t)(work->state.padded * work->state.planes));
}

static int64_t choose_chunk(gpu_algebra *gpu, const bpdq_work *work, int64_t unknowns) {
  uint64_t free_bytes = bpdq_gpu_available(gpu) / 2, bytes = free_bytes < MOST_BYTES ? free_bytes : MOST_BYTES;
  int64_t rows = (int64_t)(bytes / bytes_per_row(work, unknowns)) / LEAST_ROWS * LEAST_ROWS;
  if (rows < LEAST_ROWS) rows = LEAST_ROWS;
  if (rows >= work->state.rows) return work->state.rows;
  /* Chunks of about the same size keep the device equally busy. */
  int64_t chunks = (int64_t)bpdq_ceil_div((uint64_t)work->state.rows, (uint64_t)rows);
  return (int64_t)bpdq_round_up(bpdq_ceil_div((uint64_t)work->state.rows, (uint64_t)chunks), LEAST_ROWS);
}

static void free_chunk(gpu_algebra *gpu, bpdq_gpu_refit *refit) {
  bpdq_gpu_free(gpu, refit->systems);
  bpdq_gpu_free(gpu, refit->design);
  bpdq_gpu_free(gpu, refit->product);
  bpdq_gpu_free(gpu, refit->ridges);
  refit->systems = refit->design = refit->product = refit->ridges = NULL;
}

static bpdq_status allocate_chunk(gpu_algebra *gpu, const bpdq_work *work, int64_t rows, bpdq_gpu_refit *refit, bpdq_error *error) {
  const char *name = work->name;
  int64_t design = work->state.padded * work->state.planes * rows;
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, rows * (refit->unknowns + 1) * refit->unknowns, sizeof(float), name, &refit->systems, error),
                failed);
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, design, sizeof(float), name, &refit->design, error), failed);
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, design, sizeof(float), name, &refit->product, error), failed);
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, rows, sizeof(float), name, &refit->ridges, error), failed);
  return BPDQ_OK;
failed:
  free_chunk(gpu, refit);
  return status;
}

bpdq_status bpdq_gpu_refit_all(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  BPDQ_TRY(bpdq_gpu_need_error(gpu, work, error));
  bpdq_gpu_refit refit = {
      .state = work->state, .unknowns = work->inputs->groups * (work->state.planes + 1), .sums = work->inputs->group_sums};
  BPDQ_TRY(bpdq_gpu_allocate(gpu, refit.unknowns * work->state.stride, sizeof(float), work->name, &refit.right, error));
  bpdq_status status;
  BPDQ_TRY_GOTO(find_right(gpu, work, &refit, error), done);
  int64_t chunk = choose_chunk(gpu, work, refit.unknowns);
  while ((status = allocate_chunk(gpu, work, chunk, &refit, error)) == BPDQ_ERROR_MEMORY && chunk > LEAST_ROWS)
    chunk = (int64_t)bpdq_round_up((uint64_t)chunk / 2, LEAST_ROWS);
  if (status != BPDQ_OK) goto done;
  for (refit.first = 0; refit.first < work->state.rows; refit.first += chunk) {
    refit.count = work->state.rows - refit.first < chunk ? work->state.rows - refit.first : chunk;
    BPDQ_TRY_GOTO(find_systems(gpu, work, &refit, error), done);
    BPDQ_TRY_GOTO(bpdq_gpu_check(bpdq_gpu_solve(&refit, gpu->stream), work->name, error), done);
  }
  work->error_valid = false;
done:
  free_chunk(gpu, &refit);
  bpdq_gpu_free(gpu, refit.right);
  return status;
}
