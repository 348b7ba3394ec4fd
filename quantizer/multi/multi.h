/* Several algebras of one kind as one: the devices of a host share the layers of a block. Each part runs on a thread of its own.
 *
 *   streams     each part moves a range of the calibration windows and captures it into its own part of the statistics; where a
 *               backend is named for the forward passes, one pass over all windows feeds them (statistics_add)
 *   statistics  each part sums a share of the tokens; statistics_finish adds the sums up on part 0 and copies the result to the others
 *   inputs      exist on every part, and each factorises for itself: waiting for another's factor would take no less time
 *   work        each part has a range of rows, in whole BPDQ_MULTI_ROWS but for the last; parts that would have none are left out
 *
 * Rows are independent of each other, so results are those of one part alone, to within the order of the sums over tokens. The exception
 * is a walk that keeps one iterate for all rows of a group (the reference method): it moves the whole linear to part 0, for good.
 *
 * Where several parts fail, the error is that of the first; the others finish what they are doing, and nothing is leaked. */
#ifndef BPDQ_QUANTIZER_MULTI_H
#define BPDQ_QUANTIZER_MULTI_H

#include "../linalg.h" /* tests have no include path into the folder above */
#include "core/threads.h"

enum {
  BPDQ_MULTI_MOST = 16, /* parts */
  BPDQ_MULTI_ROWS = 64  /* a multiple of what the parts' kernels take at a time */
};

typedef struct multi_algebra {
  bpdq_algebra base;
  char name[128];
  bpdq_algebra *parts[BPDQ_MULTI_MOST];
  int count;
  bpdq_pool *pool; /* one thread per part */
} multi_algebra;

struct bpdq_statistics {
  bpdq_statistics *parts[BPDQ_MULTI_MOST];
  int64_t columns, residual_rows;
  bool given; /* by statistics_set: every part has the whole already */
};

struct bpdq_inputs {
  bpdq_inputs *parts[BPDQ_MULTI_MOST];
  int64_t columns;
};

struct bpdq_work {
  const bpdq_inputs *inputs;
  bpdq_work_desc desc;
  bpdq_work *parts[BPDQ_MULTI_MOST];
  int64_t first_row[BPDQ_MULTI_MOST + 1]; /* part i has rows first_row[i] .. first_row[i + 1] - 1 */
  int count;                              /* parts that have rows */
  bool kept;                              /* keep_best was called: the parts remember states */
};

/* Takes the parts over, also where it fails; they are of one kind (their tables have the same functions) and at most BPDQ_MULTI_MOST. */
bpdq_status bpdq_multi_algebra_create(const char *name, bpdq_algebra *const *parts, int count, bpdq_algebra **algebra, bpdq_error *error);

/* Threads of part `part` where `threads` are shared: at least one. */
static inline int bpdq_multi_threads(int threads, int count, int part) {
  return threads > count ? (threads + part) / count : 1; /* these add up to `threads` */
}

typedef bpdq_status (*bpdq_multi_task)(void *context, int part, bpdq_error *error);
/* Runs the task for parts 0 .. count - 1 at once and waits for all of them. Returns the error of the lowest part that failed. */
bpdq_status bpdq_multi_run(multi_algebra *multi, int count, bpdq_multi_task task, void *context, bpdq_error *error);

/* The entries of the interface, by file. */
bpdq_status bpdq_multi_streams_create(bpdq_algebra *algebra, const bpdq_streams_desc *desc, bpdq_streams **streams, bpdq_error *error);

bpdq_status bpdq_multi_statistics_create(bpdq_algebra *algebra, const bpdq_statistics_desc *desc, bpdq_statistics **statistics,
                                         bpdq_error *error);
void bpdq_multi_statistics_destroy(bpdq_algebra *algebra, bpdq_statistics *statistics);
bpdq_status bpdq_multi_statistics_add(bpdq_algebra *algebra, bpdq_statistics *statistics, const float *x, const float *dense_x,
                                      const float *residual, int64_t tokens, bpdq_error *error);
bpdq_status bpdq_multi_statistics_set(bpdq_algebra *algebra, bpdq_statistics *statistics, const float *hessian, const float *cross,
                                      const float *residual, bpdq_error *error);
bpdq_status bpdq_multi_statistics_finish(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_error *error);
bpdq_status bpdq_multi_statistics_read(bpdq_algebra *algebra, const bpdq_statistics *statistics, float *hessian, float *cross,
                                       float *residual, bpdq_error *error);
bpdq_status bpdq_multi_inputs_create(bpdq_algebra *algebra, const bpdq_statistics *statistics, const bpdq_inputs_desc *desc,
                                     bpdq_inputs **inputs, bpdq_inputs_info *info, bpdq_error *error);
void bpdq_multi_inputs_destroy(bpdq_algebra *algebra, bpdq_inputs *inputs);

bpdq_status bpdq_multi_work_create(bpdq_algebra *algebra, const bpdq_inputs *inputs, const bpdq_work_desc *desc, bpdq_work **work,
                                   bpdq_error *error);
void bpdq_multi_work_destroy(bpdq_algebra *algebra, bpdq_work *work);
bpdq_status bpdq_multi_uniform(bpdq_algebra *algebra, bpdq_work *work, bool compensate, bpdq_error *error);
bpdq_status bpdq_multi_walk(bpdq_algebra *algebra, bpdq_work *work, const bpdq_walk_options *options, bpdq_error *error);
bpdq_status bpdq_multi_sweep(bpdq_algebra *algebra, bpdq_work *work, int64_t *changed, bpdq_error *error);
bpdq_status bpdq_multi_refit(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error);
bpdq_status bpdq_multi_keep_best(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error);
bpdq_status bpdq_multi_restore_best(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error);
bpdq_status bpdq_multi_objective(bpdq_algebra *algebra, bpdq_work *work, double *against_weight, double *against_target, double *of_zero,
                                 bpdq_error *error);
bpdq_status bpdq_multi_result(bpdq_algebra *algebra, bpdq_work *work, bpdq_layer_result *result, bpdq_error *error);

#endif
