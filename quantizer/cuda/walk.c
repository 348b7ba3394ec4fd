/* The walk over a variable grid and uniform grids, group by group; between groups the errors are pushed on by matrix products, at once
 * within a block of columns and per block for all columns behind it. */
#include "core/checked.h"
#include "gpu_algebra.h"

enum { BLOCK = 512 }; /* columns, at least: deep enough for the products, shallow enough that few groups push far */

/* current[from .. to - 1] -= U[first .. first + count - 1, from .. to - 1]^T errors. */
static bpdq_status push_errors(gpu_algebra *gpu, const bpdq_work *work, const float *errors, int64_t first, int64_t count, int64_t from,
                               int64_t to, float *current, bpdq_error *error) {
  const float minus = -1, one = 1;
  int64_t n = work->state.padded, stride = work->state.stride;
  if (from >= to) return BPDQ_OK;
  return bpdq_gpu_check_blas(
      gpu->libraries.sgemm(gpu->blas, CUBLAS_OP_N, CUBLAS_OP_T, (int)stride, (int)(to - from), (int)count, &minus, errors, (int)stride,
                           work->inputs->factor + first * n + from, (int)n, &one, current + from * stride, (int)stride),
      work->name, error);
}

typedef struct walk_memory {
  float *current, *errors, *goal, *projected, *scores, *coefficients;
  uint8_t *codes;
  double *totals;
} walk_memory;

static void free_memory(gpu_algebra *gpu, walk_memory *m) {
  bpdq_gpu_free(gpu, m->current);
  bpdq_gpu_free(gpu, m->errors);
  bpdq_gpu_free(gpu, m->goal);
  bpdq_gpu_free(gpu, m->projected);
  bpdq_gpu_free(gpu, m->scores);
  bpdq_gpu_free(gpu, m->coefficients);
  bpdq_gpu_free(gpu, m->codes);
  bpdq_gpu_free(gpu, m->totals);
}

static int64_t block_of(const bpdq_work *work) { return (int64_t)bpdq_round_up(BLOCK, (uint64_t)work->state.group); }

/* What both need: the compensated target and a block's errors. */
static bpdq_status allocate_current(gpu_algebra *gpu, const bpdq_work *work, walk_memory *m, bpdq_error *error) {
  int64_t stride = work->state.stride, area = work->state.padded * stride;
  BPDQ_TRY(bpdq_gpu_allocate(gpu, area, sizeof(float), work->name, &m->current, error));
  BPDQ_TRY(bpdq_gpu_allocate(gpu, block_of(work) * stride, sizeof(float), work->name, &m->errors, error));
  return bpdq_gpu_check(cudaMemcpyAsync(m->current, work->target, (size_t)area * sizeof(float), cudaMemcpyDeviceToDevice, gpu->stream),
                        work->name, error);
}

static bpdq_status allocate_iterates(gpu_algebra *gpu, const bpdq_work *work, int starts, int iterations, walk_memory *m,
                                     bpdq_error *error) {
  int64_t stride = work->state.stride, group = work->state.group, planes = work->state.planes, iterates = (int64_t)starts * iterations;
  const char *name = work->name;
  BPDQ_TRY(bpdq_gpu_allocate(gpu, group * stride, sizeof(float), name, &m->goal, error));
  BPDQ_TRY(bpdq_gpu_allocate(gpu, starts * planes * group * stride, sizeof(float), name, &m->projected, error));
  BPDQ_TRY(bpdq_gpu_allocate(gpu, iterates * stride, sizeof(float), name, &m->scores, error));
  BPDQ_TRY(bpdq_gpu_allocate(gpu, iterates * (planes + 1) * stride, sizeof(float), name, &m->coefficients, error));
  BPDQ_TRY(bpdq_gpu_allocate(gpu, iterates * group * stride, 1, name, &m->codes, error));
  return bpdq_gpu_allocate(gpu, iterates, sizeof(double), name, &m->totals, error);
}

/* Takes every group through `quantize`, which leaves its errors in walk->errors. */
static bpdq_status all_groups(gpu_algebra *gpu, bpdq_work *work, bpdq_gpu_walk *walk, float *errors,
                              cudaError_t (*quantize)(const bpdq_gpu_walk *, cudaStream_t), bool compensate, bpdq_error *error) {
  const bpdq_inputs *inputs = work->inputs;
  int64_t n = work->state.padded, group = work->state.group, stride = work->state.stride, block = block_of(work);
  for (int64_t first = 0; first < n; first += block) {
    int64_t end = first + block < n ? first + block : n;
    for (int64_t begin = first; begin < end; begin += group) {
      walk->begin = begin;
      walk->errors = errors + (begin - first) * stride;
      if (inputs->inverse) {
        walk->inverse = inputs->inverse + begin * group;
        walk->ones = inputs->ones + begin;
      }
      BPDQ_TRY(bpdq_gpu_check(quantize(walk, gpu->stream), work->name, error));
      if (compensate) BPDQ_TRY(push_errors(gpu, work, walk->errors, begin, group, begin + group, end, walk->current, error));
    }
    if (compensate) BPDQ_TRY(push_errors(gpu, work, errors, first, end - first, end, n, walk->current, error));
  }
  return BPDQ_OK;
}

bpdq_status bpdq_gpu_walk_all(bpdq_algebra *algebra, bpdq_work *work, const bpdq_walk_options *options, bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  bpdq_gpu_walk walk = {.state = work->state,
                        .factor = work->inputs->factor,
                        .iterations = options->iterations,
                        .alpha = options->alpha,
                        .best_per_row = options->best_per_row};
  if (options->starts & BPDQ_START_MSB) walk.width[walk.starts++] = 0;
  if (options->starts & BPDQ_START_NARROW) walk.width[walk.starts++] = 0.8f;
  if (options->starts & BPDQ_START_WIDE) walk.width[walk.starts++] = 1.15f;
  if (!walk.starts || options->iterations < 1 || !walk.factor)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "%s: the walk needs a factor, a start and at least one iteration", work->name);
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(gpu->device), work->name, error));
  walk_memory m = {0};
  bpdq_status status;
  BPDQ_TRY_GOTO(allocate_current(gpu, work, &m, error), done);
  BPDQ_TRY_GOTO(allocate_iterates(gpu, work, walk.starts, walk.iterations, &m, error), done);
  walk.current = m.current;
  walk.goal = m.goal;
  walk.projected = m.projected;
  walk.scores = m.scores;
  walk.coefficients = m.coefficients;
  walk.codes = m.codes;
  walk.totals = m.totals;
  status = all_groups(gpu, work, &walk, m.errors, bpdq_gpu_walk_group, true, error);
done:
  free_memory(gpu, &m);
  work->error_valid = false;
  return status;
}

static cudaError_t compensated(const bpdq_gpu_walk *walk, cudaStream_t stream) { return bpdq_gpu_uniform_group(walk, true, stream); }
static cudaError_t nearest(const bpdq_gpu_walk *walk, cudaStream_t stream) { return bpdq_gpu_uniform_group(walk, false, stream); }

bpdq_status bpdq_gpu_uniform(bpdq_algebra *algebra, bpdq_work *work, bool compensate, bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  bpdq_gpu_walk walk = {.state = work->state, .factor = work->inputs->factor};
  if (compensate && !walk.factor) return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "%s: GPTQ needs a factor", work->name);
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(gpu->device), work->name, error));
  walk_memory m = {0};
  bpdq_status status = allocate_current(gpu, work, &m, error);
  walk.current = m.current;
  if (status == BPDQ_OK) status = all_groups(gpu, work, &walk, m.errors, compensate ? compensated : nearest, compensate, error);
  free_memory(gpu, &m);
  work->error_valid = false;
  return status;
}
