/* The worker pool: every index exactly once, callers in turn, more threads than cores, end of the pool while workers sleep. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/platform.h"
#include "core/threads.h"

enum { MAXIMUM_COUNT = 5000, MAXIMUM_POOL = 16 };

typedef struct job {
  atomic_int visits[MAXIMUM_COUNT];
  atomic_int inside[MAXIMUM_POOL]; /* tasks that run under a thread number at the same time */
  atomic_int bad_thread;
  int threads;
} job;

static void visit(void *context, int64_t index, int thread) {
  job *state = context;
  if (thread < 0 || thread >= state->threads || atomic_fetch_add(&state->inside[thread], 1) != 0) atomic_store(&state->bad_thread, 1);
  atomic_fetch_add(&state->visits[index], 1);
  if (thread >= 0 && thread < state->threads) atomic_fetch_sub(&state->inside[thread], 1);
}

static void check_counts(int threads) {
  bpdq_pool *pool;
  assert_int_equal(bpdq_pool_create(threads, &pool, NULL), BPDQ_OK);
  assert_int_equal(bpdq_pool_threads(pool), threads);
  static const int counts[] = {0, 1, 2, 3, 7, 64, 1000, MAXIMUM_COUNT};
  job *state = calloc(1, sizeof *state);
  assert_non_null(state);
  for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
    memset(state, 0, sizeof *state);
    state->threads = threads;
    for (int run = 1; run <= 20; run++) {
      bpdq_pool_run(pool, counts[c], visit, state);
      for (int i = 0; i < MAXIMUM_COUNT; i++) assert_int_equal(atomic_load(&state->visits[i]), i < counts[c] ? run : 0);
    }
    assert_int_equal(atomic_load(&state->bad_thread), 0);
  }
  free(state);
  bpdq_pool_destroy(pool);
}

static void every_index_runs_once(void **unused) {
  (void)unused;
  static const int sizes[] = {1, 2, 3, MAXIMUM_POOL};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) check_counts(sizes[i]);
}

/* The caller sees what the tasks wrote with plain stores, and the tasks see what the caller wrote before. */
static void add_one(void *context, int64_t index, int thread) {
  (void)thread;
  int64_t *values = context;
  values[index] += 1;
}

static void results_are_visible_after_a_run(void **unused) {
  (void)unused;
  bpdq_pool *pool;
  assert_int_equal(bpdq_pool_create(4, &pool, NULL), BPDQ_OK);
  int64_t values[37] = {0};
  for (int64_t run = 0; run < 3000; run++) {
    bpdq_pool_run(pool, 37, add_one, values);
    for (int i = 0; i < 37; i++) assert_int_equal(values[i], run + 1);
  }
  bpdq_pool_destroy(pool);
}

typedef struct caller {
  bpdq_pool *pool;
  int64_t *shared; /* [8], incremented without atomics: correct only when runs take turns */
  int runs;
} caller;

static void call_often(void *argument) {
  caller *self = argument;
  for (int i = 0; i < self->runs; i++) bpdq_pool_run(self->pool, 8, add_one, self->shared);
}

static void concurrent_callers_take_turns(void **unused) {
  (void)unused;
  bpdq_pool *pool;
  assert_int_equal(bpdq_pool_create(3, &pool, NULL), BPDQ_OK);
  int64_t shared[8] = {0};
  caller self = {.pool = pool, .shared = shared, .runs = 2000};
  bpdq_thread *threads[4];
  for (int i = 0; i < 4; i++) {
    threads[i] = bpdq_thread_start(call_often, &self);
    assert_non_null(threads[i]);
  }
  for (int i = 0; i < 4; i++) bpdq_thread_join(threads[i]);
  for (int i = 0; i < 8; i++) assert_int_equal(shared[i], 4 * 2000);
  bpdq_pool_destroy(pool);
}

static void pools_come_and_go(void **unused) {
  (void)unused;
  for (int i = 0; i < 50; i++) {
    bpdq_pool *pool;
    assert_int_equal(bpdq_pool_create(1 + i % 5, &pool, NULL), BPDQ_OK);
    int64_t values[5] = {0};
    if (i % 2) bpdq_pool_run(pool, 5, add_one, values);
    for (int v = 0; v < 5; v++) assert_int_equal(values[v], i % 2);
    bpdq_pool_destroy(pool);
  }
  bpdq_pool_destroy(NULL);
}

static void thread_counts_are_checked(void **unused) {
  (void)unused;
  bpdq_pool *pool;
  bpdq_error error;
  assert_int_equal(bpdq_pool_create(-1, &pool, &error), BPDQ_ERROR_ARGUMENT);
  assert_null(pool);
  assert_int_equal(bpdq_pool_create(1 << 30, &pool, &error), BPDQ_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "1073741824 threads"));
  assert_int_equal(bpdq_pool_create(0, &pool, &error), BPDQ_OK);
  assert_int_equal(bpdq_pool_threads(pool), bpdq_cpu_count());
  bpdq_pool_destroy(pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_index_runs_once),         cmocka_unit_test(results_are_visible_after_a_run),
      cmocka_unit_test(concurrent_callers_take_turns), cmocka_unit_test(pools_come_and_go),
      cmocka_unit_test(thread_counts_are_checked),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
