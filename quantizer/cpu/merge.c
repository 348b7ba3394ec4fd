/* Statistics of several CPU algebras become those of one. */
#include <string.h>

#include "cpu/cpu_algebra.h"

typedef struct merge_loop {
  double *to;
  const double *from;
  int64_t columns;
  bool add;
} merge_loop;

static void merge_row(void *context, int64_t row, int thread) {
  (void)thread;
  const merge_loop *loop = context;
  double *to = loop->to + row * loop->columns;
  const double *from = loop->from + row * loop->columns;
  if (!loop->add) {
    memcpy(to, from, (size_t)loop->columns * sizeof *to);
    return;
  }
  for (int64_t j = 0; j < loop->columns; j++) to[j] += from[j];
}

static void merge_matrix(bpdq_cpu_algebra *cpu, double *to, const double *from, int64_t rows, int64_t columns, bool add) {
  merge_loop loop = {to, from, columns, add};
  if (to) bpdq_pool_run(cpu->pool, rows, merge_row, &loop);
}

static bpdq_status merge(bpdq_algebra *algebra, bpdq_statistics *statistics, const bpdq_statistics *from, bool add, bpdq_error *error) {
  bpdq_cpu_algebra *cpu = (bpdq_cpu_algebra *)algebra;
  int64_t k = statistics->columns, n = statistics->residual_rows;
  if (from->columns != k || from->residual_rows != n || !from->cross != !statistics->cross)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "%s: statistics of different kinds cannot be merged", statistics->name);
  merge_matrix(cpu, statistics->hessian, from->hessian, k, k, add);
  merge_matrix(cpu, statistics->cross, from->cross, k, k, add);
  merge_matrix(cpu, statistics->residual, from->residual, n, k, add);
  statistics->tokens = add ? statistics->tokens + from->tokens : from->tokens;
  return BPDQ_OK;
}

bpdq_status bpdq_cpu_statistics_merge(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_algebra *other, const bpdq_statistics *from,
                                      bpdq_error *error) {
  (void)other;
  return merge(algebra, statistics, from, true, error);
}

bpdq_status bpdq_cpu_statistics_copy(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_algebra *other, const bpdq_statistics *from,
                                     bpdq_error *error) {
  (void)other;
  return merge(algebra, statistics, from, false, error);
}
