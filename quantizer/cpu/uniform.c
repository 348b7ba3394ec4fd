/* Uniform asymmetric grids: round to nearest, and GPTQ. The grid is expressed in the same format, coefficient p = scale 2^p and
 * bias = -zero scale, both rounded to bf16 before anything is quantized with them. */
#include <cblas.h>
#include <math.h>

#include "core/checked.h"
#include "core/half.h"
#include "cpu/cpu_algebra.h"

static float to_bf16(float value) { return bpdq_bf16_to_float(bpdq_float_to_bf16(value)); }

typedef struct uniform_loop {
  bpdq_work *work;
  float *current; /* [padded][stride]: the target with the errors so far compensated */
  float *errors;  /* [block][stride] */
  bool compensate;
  int64_t begin, end; /* the block of columns */
} uniform_loop;

/* Grid of one group of a tile: minimum and maximum with zero included, as in GPTQ. */
static void find_grid(const uniform_loop *loop, int64_t group, int64_t row) {
  bpdq_work *work = loop->work;
  int size = work->inputs->group;
  float top = (float)((1 << work->planes) - 1);
  float *coefficients = work->coefficients + group * (work->planes + 1) * work->stride + row;
  for (int lane = 0; lane < BPDQ_LANES; lane++) {
    float low = 0, high = 0;
    for (int64_t j = group * size; j < (group + 1) * size; j++) {
      float value = loop->current[j * work->stride + row + lane];
      low = fminf(low, value);
      high = fmaxf(high, value);
    }
    if (low == 0 && high == 0) low = -1, high = 1;
    float scale = (high - low) / top, zero = rintf(-low / scale);
    scale = to_bf16(scale);
    for (int p = 0; p < work->planes; p++) coefficients[p * work->stride + lane] = scale * (float)(1 << p);
    coefficients[work->planes * work->stride + lane] = to_bf16(-zero * scale);
  }
}

BPDQ_VECTOR_CLONES static void quantize_column(uniform_loop *loop, int64_t column, int64_t row) {
  bpdq_work *work = loop->work;
  int64_t stride = work->stride, group = column / work->inputs->group;
  float top = (float)((1 << work->planes) - 1);
  const float *coefficients = work->coefficients + group * (work->planes + 1) * stride + row;
  const float *factor = loop->compensate ? work->inputs->factor + column * work->inputs->padded : NULL;
  float *current = loop->current + row, error[BPDQ_LANES];
  for (int lane = 0; lane < BPDQ_LANES; lane++) {
    float scale = coefficients[lane], bias = coefficients[work->planes * stride + lane], value = current[column * stride + lane];
    float code = fminf(fmaxf(rintf((value - bias) / scale), 0), top);
    work->codes[column * stride + row + lane] = (uint8_t)code;
    error[lane] = value - (bias + code * scale);
  }
  if (!loop->compensate) return; /* round to nearest: there is no factor */
  for (int lane = 0; lane < BPDQ_LANES; lane++) error[lane] /= factor[column];
  for (int lane = 0; lane < BPDQ_LANES; lane++) loop->errors[(column - loop->begin) * stride + row + lane] = error[lane];
  for (int64_t j = column; j < loop->end; j++)
    for (int lane = 0; lane < BPDQ_LANES; lane++) current[j * stride + lane] -= error[lane] * factor[j];
}

static void quantize_tile(void *context, int64_t index, int thread) {
  (void)thread;
  uniform_loop *loop = context;
  for (int64_t column = loop->begin; column < loop->end; column++) {
    if (column % loop->work->inputs->group == 0) find_grid(loop, column / loop->work->inputs->group, index * BPDQ_LANES);
    quantize_column(loop, column, index * BPDQ_LANES);
  }
}

/* current[end:] -= U[block, end:]^T errors, for one chunk of rows. */
static void propagate(void *context, int64_t index, int thread) {
  (void)thread;
  uniform_loop *loop = context;
  bpdq_work *work = loop->work;
  int64_t first = index * BPDQ_ROW_CHUNK, n = work->inputs->padded;
  int rows = (int)(work->stride - first < BPDQ_ROW_CHUNK ? work->stride - first : BPDQ_ROW_CHUNK);
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)(n - loop->end), rows, (int)(loop->end - loop->begin), -1,
              work->inputs->factor + loop->begin * n + loop->end, (int)n, loop->errors + first, (int)work->stride, 1,
              loop->current + loop->end * work->stride + first, (int)work->stride);
}

bpdq_status bpdq_cpu_uniform(bpdq_algebra *algebra, bpdq_work *work, bool compensate, bpdq_error *error) {
  bpdq_cpu_algebra *cpu = (bpdq_cpu_algebra *)algebra;
  int64_t n = work->inputs->padded, block = (int64_t)bpdq_round_up(128, (uint64_t)work->inputs->group);
  uniform_loop loop = {.work = work, .compensate = compensate};
  loop.current = bpdq_alloc_array((size_t)(n * work->stride), sizeof(float));
  loop.errors = bpdq_alloc_array((size_t)(block * work->stride), sizeof(float));
  bpdq_status status = BPDQ_OK;
  if (loop.current && loop.errors) {
    for (int64_t i = 0; i < n * work->stride; i++) loop.current[i] = work->target[i];
    for (loop.begin = 0; loop.begin < n; loop.begin = loop.end) {
      loop.end = loop.begin + block < n ? loop.begin + block : n;
      bpdq_pool_run(cpu->pool, work->stride / BPDQ_LANES, quantize_tile, &loop);
      if (compensate && loop.end < n)
        bpdq_pool_run(cpu->pool, (int64_t)bpdq_ceil_div((uint64_t)work->stride, BPDQ_ROW_CHUNK), propagate, &loop);
    }
    work->residual_valid = false;
  } else {
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", work->name);
  }
  free(loop.current);
  free(loop.errors);
  return status;
}
