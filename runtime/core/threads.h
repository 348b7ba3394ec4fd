/* A pool of worker threads for data-parallel loops. The calling thread works too. */
#ifndef BPDQ_CORE_THREADS_H
#define BPDQ_CORE_THREADS_H

#include "core/status.h"

typedef struct bpdq_pool bpdq_pool;

/* threads >= 1 counts the caller; 0 means one per core. */
bpdq_status bpdq_pool_create(int threads, bpdq_pool **pool, bpdq_error *error);
void bpdq_pool_destroy(bpdq_pool *pool); /* NULL is allowed */
int bpdq_pool_threads(const bpdq_pool *pool);

/* Runs task(context, index, thread) for index 0..count-1 and returns when all are done. `thread` is 0..threads-1. Tasks are
 * handed out dynamically. One bpdq_pool_run at a time per pool: concurrent callers wait their turn. Not reentrant. */
void bpdq_pool_run(bpdq_pool *pool, int64_t count, void (*task)(void *context, int64_t index, int thread), void *context);

#endif
