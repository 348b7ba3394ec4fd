/* The worker pool. A decode step runs it some 300 times with microseconds between two runs, so:
 * - a run is published through atomics, and workers spin a little before they sleep;
 * - a run waits only for the workers that joined it, never for one that the scheduler has not woken yet. With more threads than
 *   free cores the caller then simply does more of the work itself.
 *
 * Joining: a worker first counts itself into `active`, then looks at `open`. A run closes by clearing `open`, then waits for `active`
 * to reach zero. With sequentially consistent atomics either the worker sees the closed door and leaves, or the caller sees the
 * worker; the job's plain fields are written only while the door is closed and nobody is inside. */
#include "core/threads.h"

#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/platform.h"

enum { MAXIMUM_THREADS = 1024, CACHE_LINE = 64 };

/* Longer than the gap between two runs of a decode step, short against a scheduler's time slice. */
static const uint64_t SPIN_NANOSECONDS = 40000;

typedef struct worker {
  bpdq_pool *pool;
  bpdq_thread *thread;
  int index;
} worker;

struct bpdq_pool {
  int threads;
  bool spin;           /* false with more threads than cores: a spinning thread would only keep the others off */
  worker *workers;     /* [threads - 1] */
  bpdq_mutex *callers; /* held during a run */
  bpdq_mutex *mutex;   /* for the two conditions */
  bpdq_condition *wake;
  bpdq_condition *done;

  void (*task)(void *context, int64_t index, int thread);
  void *context;
  int64_t count;

  alignas(CACHE_LINE) atomic_int_least64_t next; /* the next index to hand out */
  alignas(CACHE_LINE) atomic_int active;         /* workers inside the current run */
  alignas(CACHE_LINE) atomic_uint generation;    /* counts runs, and the end of the pool */
  atomic_bool open;                              /* workers may join the current run */
  atomic_bool stop;
  atomic_int sleepers;       /* workers that sleep on `wake` or are about to */
  atomic_bool caller_sleeps; /* the caller sleeps on `done` or is about to */
};

static void pause_processor(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Spins until predicate(pool, value) or the time is over; returns whether the predicate held. */
static bool spin_until(bpdq_pool *pool, bool (*predicate)(bpdq_pool *pool, unsigned value), unsigned value) {
  if (predicate(pool, value)) return true;
  if (!pool->spin) return false;
  uint64_t end = bpdq_monotonic_nanoseconds() + SPIN_NANOSECONDS;
  do {
    for (int i = 0; i < 16; i++) {
      pause_processor();
      if (predicate(pool, value)) return true;
    }
  } while (bpdq_monotonic_nanoseconds() < end);
  return false;
}

static bool has_new_generation(bpdq_pool *pool, unsigned seen) { return atomic_load(&pool->generation) != seen; }

static bool is_deserted(bpdq_pool *pool, unsigned unused) {
  (void)unused;
  return atomic_load(&pool->active) == 0;
}

static void take_tasks(bpdq_pool *pool, int thread) {
  int64_t index;
  while ((index = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed)) < pool->count) {
    pool->task(pool->context, index, thread);
  }
}

static void join_run(bpdq_pool *pool, int thread) {
  atomic_fetch_add(&pool->active, 1);
  if (atomic_load(&pool->open)) take_tasks(pool, thread);
  if (atomic_fetch_sub(&pool->active, 1) == 1 && atomic_load(&pool->caller_sleeps)) {
    bpdq_mutex_lock(pool->mutex);
    bpdq_condition_broadcast(pool->done);
    bpdq_mutex_unlock(pool->mutex);
  }
}

static void sleep_until_generation(bpdq_pool *pool, unsigned seen) {
  bpdq_mutex_lock(pool->mutex);
  atomic_fetch_add(&pool->sleepers, 1);
  while (!has_new_generation(pool, seen)) bpdq_condition_wait(pool->wake, pool->mutex);
  atomic_fetch_sub(&pool->sleepers, 1);
  bpdq_mutex_unlock(pool->mutex);
}

static void work(void *argument) {
  const worker *self = argument;
  bpdq_pool *pool = self->pool;
  unsigned seen = 0;
  for (;;) {
    if (!spin_until(pool, has_new_generation, seen)) sleep_until_generation(pool, seen);
    seen = atomic_load(&pool->generation);
    if (atomic_load(&pool->stop)) return;
    join_run(pool, self->index);
  }
}

static void announce(bpdq_pool *pool) {
  atomic_fetch_add(&pool->generation, 1);
  if (atomic_load(&pool->sleepers) == 0) return;
  bpdq_mutex_lock(pool->mutex);
  bpdq_condition_broadcast(pool->wake);
  bpdq_mutex_unlock(pool->mutex);
}

static void wait_until_deserted(bpdq_pool *pool) {
  if (spin_until(pool, is_deserted, 0)) return;
  bpdq_mutex_lock(pool->mutex);
  atomic_store(&pool->caller_sleeps, true);
  while (!is_deserted(pool, 0)) bpdq_condition_wait(pool->done, pool->mutex);
  atomic_store(&pool->caller_sleeps, false);
  bpdq_mutex_unlock(pool->mutex);
}

void bpdq_pool_run(bpdq_pool *pool, int64_t count, void (*task)(void *context, int64_t index, int thread), void *context) {
  if (count <= 0) return;
  bpdq_mutex_lock(pool->callers);
  if (pool->threads == 1 || count == 1) {
    for (int64_t index = 0; index < count; index++) task(context, index, 0);
  } else {
    pool->task = task;
    pool->context = context;
    pool->count = count;
    atomic_store(&pool->next, 0);
    atomic_store(&pool->open, true);
    announce(pool);
    take_tasks(pool, 0);
    atomic_store(&pool->open, false);
    wait_until_deserted(pool);
  }
  bpdq_mutex_unlock(pool->callers);
}

bpdq_status bpdq_pool_create(int threads, bpdq_pool **result, bpdq_error *error) {
  *result = NULL;
  if (threads < 0 || threads > MAXIMUM_THREADS) {
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "%d threads asked for: choose 1 to %d, or 0 for one per core", threads, MAXIMUM_THREADS);
  }
  int cores = bpdq_cpu_count();
  if (threads == 0) threads = cores < MAXIMUM_THREADS ? cores : MAXIMUM_THREADS;
  bpdq_pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
  if (!pool) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for %d threads", threads);
  *pool = (bpdq_pool){.threads = 1, .spin = threads <= cores};
  pool->workers = calloc((size_t)threads, sizeof *pool->workers);
  pool->callers = bpdq_mutex_create();
  pool->mutex = bpdq_mutex_create();
  pool->wake = bpdq_condition_create();
  pool->done = bpdq_condition_create();
  if (!pool->workers || !pool->callers || !pool->mutex || !pool->wake || !pool->done) {
    bpdq_pool_destroy(pool);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for %d threads", threads);
  }
  for (int index = 1; index < threads; index++) {
    worker *self = &pool->workers[index - 1];
    *self = (worker){.pool = pool, .index = index};
    self->thread = bpdq_thread_start(work, self);
    if (!self->thread) {
      bpdq_pool_destroy(pool);
      return bpdq_fail(error, BPDQ_ERROR_MEMORY, "cannot start thread %d of %d: ask for fewer threads", index + 1, threads);
    }
    pool->threads = index + 1;
  }
  *result = pool;
  return BPDQ_OK;
}

void bpdq_pool_destroy(bpdq_pool *pool) {
  if (!pool) return;
  if (pool->threads > 1) {
    atomic_store(&pool->stop, true);
    announce(pool);
    for (int index = 1; index < pool->threads; index++) bpdq_thread_join(pool->workers[index - 1].thread);
  }
  bpdq_condition_destroy(pool->done);
  bpdq_condition_destroy(pool->wake);
  bpdq_mutex_destroy(pool->mutex);
  bpdq_mutex_destroy(pool->callers);
  free(pool->workers);
  free(pool);
}

int bpdq_pool_threads(const bpdq_pool *pool) { return pool->threads; }
