/* Loops that run on a pool where there is one. */
#ifndef BPDQ_QUANTIZER_PARALLEL_H
#define BPDQ_QUANTIZER_PARALLEL_H

#include "core/threads.h"

/* As bpdq_pool_run; NULL: on the calling thread alone. */
static inline void bpdq_run_tasks(bpdq_pool *pool, int64_t count, void (*task)(void *context, int64_t index, int thread), void *context) {
  if (pool) {
    bpdq_pool_run(pool, count, task, context);
    return;
  }
  for (int64_t i = 0; i < count; i++) task(context, i, 0);
}

#endif
