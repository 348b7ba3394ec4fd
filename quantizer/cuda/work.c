/* One linear on the device, and its way back to the host in natural order. */
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "core/half.h"
#include "gpu_algebra.h"

enum { MOST_SPLITS = 16 };

void bpdq_gpu_work_destroy(bpdq_algebra *algebra, bpdq_work *work) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  if (!work) return;
  if (work->weight != work->target) bpdq_gpu_free(gpu, work->weight);
  bpdq_gpu_free(gpu, work->target);
  bpdq_gpu_free(gpu, work->error);
  bpdq_gpu_free(gpu, work->residual);
  bpdq_gpu_free(gpu, work->objective);
  bpdq_gpu_free(gpu, work->best_objective);
  bpdq_gpu_free(gpu, work->better);
  bpdq_gpu_free(gpu, work->state.coefficients);
  bpdq_gpu_free(gpu, work->state.codes);
  bpdq_gpu_free(gpu, work->best.coefficients);
  bpdq_gpu_free(gpu, work->best.codes);
  free(work);
}

/* Enough parts that tiles of 128 x 128 outputs fill the device twice, each at least 256 columns deep. */
static int choose_splits(const gpu_algebra *gpu, const bpdq_work *work) {
  int64_t n = work->state.padded, tiles = (int64_t)bpdq_ceil_div((uint64_t)work->state.stride, 128);
  int splits = 1;
  while (splits < MOST_SPLITS && tiles * splits < 2 * gpu->multiprocessors && n % (2 * splits) == 0 && n / (2 * splits) >= 256) splits *= 2;
  return splits;
}

static bpdq_status allocate(gpu_algebra *gpu, bpdq_work *work, bpdq_error *error) {
  const bpdq_gpu_state *s = &work->state;
  const char *name = work->name;
  int64_t area = s->padded * s->stride, terms = work->inputs->groups * (s->planes + 1) * s->stride;
  work->splits = choose_splits(gpu, work);
  BPDQ_TRY(bpdq_gpu_allocate(gpu, area, sizeof(float), name, &work->target, error));
  BPDQ_TRY(bpdq_gpu_clear(gpu, work->target, area, sizeof(float), name, error));
  BPDQ_TRY(bpdq_gpu_allocate(gpu, area, 1, name, &work->state.codes, error));
  BPDQ_TRY(bpdq_gpu_clear(gpu, work->state.codes, area, 1, name, error));
  BPDQ_TRY(bpdq_gpu_allocate(gpu, terms, sizeof(float), name, &work->state.coefficients, error));
  BPDQ_TRY(bpdq_gpu_clear(gpu, work->state.coefficients, terms, sizeof(float), name, error));
  BPDQ_TRY(bpdq_gpu_allocate(gpu, area, sizeof(float), name, &work->error, error));
  BPDQ_TRY(bpdq_gpu_allocate(gpu, work->splits * BPDQ_GPU_SWEEP_BLOCK * s->stride, sizeof(float), name, &work->residual, error));
  return bpdq_gpu_allocate(gpu, s->stride, sizeof(double), name, &work->objective, error);
}

bpdq_status bpdq_gpu_work_create(bpdq_algebra *algebra, const bpdq_inputs *inputs, const bpdq_work_desc *desc, bpdq_work **work,
                                 bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  *work = NULL;
  if ((desc->use_residual || desc->use_cross) && inputs->statistics->residual &&
      inputs->statistics->residual_rows - desc->first_row < desc->rows)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "%s: R has %lld rows, the weight ends at row %lld", desc->name,
                     (long long)inputs->statistics->residual_rows, (long long)(desc->first_row + desc->rows));
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(gpu->device), desc->name, error));
  bpdq_work *made = calloc(1, sizeof *made);
  if (!made) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", desc->name);
  made->inputs = inputs;
  made->name = desc->name;
  made->state = (bpdq_gpu_state){.padded = inputs->padded,
                                 .rows = desc->rows,
                                 .stride = (int64_t)bpdq_round_up((uint64_t)desc->rows, BPDQ_GPU_LANES),
                                 .group = inputs->group,
                                 .planes = desc->planes};
  made->best = made->state;
  bpdq_status status = allocate(gpu, made, error);
  if (status == BPDQ_OK) status = bpdq_gpu_find_target(gpu, made, desc, error);
  if (status != BPDQ_OK) {
    bpdq_gpu_work_destroy(algebra, made);
    return status;
  }
  *work = made;
  return BPDQ_OK;
}

/* ---- result ---- */

typedef struct reordering {
  const bpdq_work *work;
  const float *coefficients; /* as on the device, and codes */
  const uint8_t *codes;
  bpdq_layer_result *result;
} reordering;

/* One group of the walk order to its natural place. */
static void restore_group(void *context, int64_t index, int thread) {
  (void)thread;
  const reordering *r = context;
  const bpdq_inputs *inputs = r->work->inputs;
  int64_t n = r->result->rows, per_group = r->result->planes + 1, stride = r->work->state.stride;
  int64_t group = inputs->order[index * inputs->group] / inputs->group;
  for (int64_t p = 0; p < per_group; p++)
    for (int64_t row = 0; row < n; row++)
      r->result->coefficients[(group * per_group + p) * n + row] =
          bpdq_bf16_to_float(bpdq_float_to_bf16(r->coefficients[(index * per_group + p) * stride + row]));
  for (int64_t i = index * inputs->group; i < (index + 1) * inputs->group; i++) {
    uint8_t *to = r->result->codes + inputs->order[i] * n;
    if (inputs->order[i] < inputs->columns)
      memcpy(to, r->codes + i * stride, (size_t)n);
    else
      memset(to, 0, (size_t)n);
  }
}

static bpdq_status download(gpu_algebra *gpu, void *to, const void *from, int64_t bytes, const char *name, bpdq_error *error) {
  return bpdq_gpu_staging_download(&gpu->staging, to, from, (size_t)bytes, gpu->stream, name, error);
}

bpdq_status bpdq_gpu_result(bpdq_algebra *algebra, bpdq_work *work, bpdq_layer_result *result, bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  const bpdq_inputs *inputs = work->inputs;
  const bpdq_gpu_state *s = &work->state;
  int64_t terms = inputs->groups * (s->planes + 1);
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(gpu->device), work->name, error));
  *result = (bpdq_layer_result){s->rows, inputs->columns, inputs->groups, s->planes, inputs->group, NULL, NULL};
  float *coefficients = bpdq_alloc_array((size_t)(terms * s->stride), sizeof *coefficients);
  uint8_t *codes = bpdq_alloc_array((size_t)(inputs->padded * s->stride), sizeof *codes);
  result->coefficients = bpdq_alloc_array((size_t)(terms * s->rows), sizeof *result->coefficients);
  result->codes = bpdq_alloc_array((size_t)(inputs->padded * s->rows), sizeof *result->codes);
  bpdq_status status = BPDQ_OK;
  if (!coefficients || !codes || !result->coefficients || !result->codes) {
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory for the result", work->name);
    goto done;
  }
  BPDQ_TRY_GOTO(download(gpu, coefficients, s->coefficients, terms * s->stride * (int64_t)sizeof(float), work->name, error), done);
  BPDQ_TRY_GOTO(download(gpu, codes, s->codes, inputs->padded * s->stride, work->name, error), done);
  reordering order = {work, coefficients, codes, result};
  bpdq_pool_run(gpu->staging.pool, inputs->groups, restore_group, &order);
done:
  free(coefficients);
  free(codes);
  if (status != BPDQ_OK) bpdq_layer_result_free(result);
  return status;
}
