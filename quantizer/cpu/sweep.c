/* Cyclic coordinate descent (docs/format.md section 4): column by column, each weight takes the level that lowers (T - Q) Hd (T - Q)^T
 * most. With R = Hd (T - Q), changing a weight by d changes the objective by d^2 Hd_jj - 2 d R_j, so the best level is the one nearest to
 * Q_j + R_j / Hd_jj.
 *
 * A task sweeps one chunk of rows over all columns. Inside a block of columns R is updated at once for the block alone, from the
 * first-level cache; what the block changed is applied to all other columns in one matrix product, which reads each row of Hd once per
 * block. */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "cpu/cpu_algebra.h"

enum { BLOCK = 64 };

typedef float lanes_t[BPDQ_LANES];

typedef struct sweep_loop {
  bpdq_work *work;
  float *changes;   /* [threads][BLOCK][BPDQ_ROW_CHUNK]: how much each weight of the block moved */
  int64_t *changed; /* [chunks] */
} sweep_loop;

/* Sweeps columns begin..end-1 for one tile; `changes` is [end - begin][change_stride]. Returns how many weights moved. */
BPDQ_VECTOR_CLONES static int64_t sweep_block(bpdq_work *work, int64_t begin, int64_t end, int64_t row, float *changes,
                                              int64_t change_stride) {
  const bpdq_inputs *inputs = work->inputs;
  int64_t n = inputs->padded, stride = work->stride, moved = 0, levels_of = -1;
  int level_count = 1 << work->planes;
  lanes_t levels[1 << BPDQ_MAX_PLANES], residual[BLOCK];
  for (int64_t j = begin; j < end; j++) memcpy(residual[j - begin], work->residual + j * stride + row, sizeof(lanes_t));
  for (int64_t j = begin; j < end; j++) {
    int64_t q = j / inputs->group;
    if (q != levels_of) {
      bpdq_tile_levels(work->coefficients + q * (work->planes + 1) * stride + row, stride, work->planes, levels);
      levels_of = q;
    }
    const float *metric = inputs->metric + j * n;
    float inverse = 1 / metric[j];
    uint8_t *codes = work->codes + j * stride + row;
    lanes_t target, nearest, distance, delta, old;
    int32_t code[BPDQ_LANES];
    for (int lane = 0; lane < BPDQ_LANES; lane++) {
      code[lane] = codes[lane];
      old[lane] = nearest[lane] = levels[codes[lane]][lane];
      target[lane] = old[lane] + residual[j - begin][lane] * inverse;
      distance[lane] = fabsf(target[lane] - old[lane]);
    }
    for (int level = 0; level < level_count; level++)
      for (int lane = 0; lane < BPDQ_LANES; lane++) {
        float other = fabsf(target[lane] - levels[level][lane]);
        bool closer = other < distance[lane];
        code[lane] = closer ? level : code[lane];
        nearest[lane] = closer ? levels[level][lane] : nearest[lane];
        distance[lane] = closer ? other : distance[lane];
      }
    int32_t count = 0;
    for (int lane = 0; lane < BPDQ_LANES; lane++) {
      delta[lane] = nearest[lane] - old[lane];
      count += codes[lane] != code[lane];
      codes[lane] = (uint8_t)code[lane];
    }
    memcpy(changes + (j - begin) * change_stride, delta, sizeof delta);
    if (!count) continue;
    moved += count;
    bpdq_lanes step = *(const bpdq_lanes *)delta;
    for (int64_t i = begin; i < end; i++) *(bpdq_lanes *)residual[i - begin] -= step * metric[i];
  }
  for (int64_t j = begin; j < end; j++) memcpy(work->residual + j * stride + row, residual[j - begin], sizeof(lanes_t));
  return moved;
}

static void sweep_chunk(void *context, int64_t index, int thread) {
  sweep_loop *loop = context;
  bpdq_work *work = loop->work;
  int64_t n = work->inputs->padded, first = index * BPDQ_ROW_CHUNK;
  int rows = (int)(work->stride - first < BPDQ_ROW_CHUNK ? work->stride - first : BPDQ_ROW_CHUNK);
  float *changes = loop->changes + (int64_t)thread * BLOCK * BPDQ_ROW_CHUNK;
  for (int64_t begin = 0; begin < n; begin += BLOCK) {
    int64_t end = begin + BLOCK < n ? begin + BLOCK : n, moved = 0;
    for (int tile = 0; tile < rows; tile += BPDQ_LANES)
      moved += sweep_block(work, begin, end, first + tile, changes + tile, BPDQ_ROW_CHUNK);
    loop->changed[index] += moved;
    if (!moved) continue;
    /* R[other columns] -= Hd[other columns, block] changes */
    const float *metric = work->inputs->metric + begin;
    if (begin > 0)
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)begin, rows, (int)(end - begin), -1, metric, (int)n, changes,
                  BPDQ_ROW_CHUNK, 1, work->residual + first, (int)work->stride);
    if (end < n)
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)(n - end), rows, (int)(end - begin), -1, metric + end * n, (int)n,
                  changes, BPDQ_ROW_CHUNK, 1, work->residual + end * work->stride + first, (int)work->stride);
  }
}

bpdq_status bpdq_cpu_sweep(bpdq_algebra *algebra, bpdq_work *work, int64_t *changed, bpdq_error *error) {
  bpdq_cpu_algebra *cpu = (bpdq_cpu_algebra *)algebra;
  *changed = 0;
  BPDQ_TRY(bpdq_cpu_update_residual(cpu, work, error));
  int64_t chunks = (int64_t)bpdq_ceil_div((uint64_t)work->stride, BPDQ_ROW_CHUNK);
  sweep_loop loop = {.work = work};
  loop.changes = bpdq_alloc_array((size_t)(cpu->threads * BLOCK * BPDQ_ROW_CHUNK), sizeof(float));
  loop.changed = calloc((size_t)chunks, sizeof *loop.changed);
  bpdq_status status = BPDQ_OK;
  if (loop.changes && loop.changed) {
    bpdq_pool_run(cpu->pool, chunks, sweep_chunk, &loop);
    for (int64_t i = 0; i < chunks; i++) *changed += loop.changed[i];
  } else {
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", work->name);
  }
  free(loop.changes);
  free(loop.changed);
  return status;
}
