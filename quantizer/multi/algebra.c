/* The composite's table of functions, and one thread per part. */
#include <stdio.h>
#include <stdlib.h>

#include "multi/multi.h"

typedef struct run {
  bpdq_multi_task task;
  void *context;
  bpdq_status statuses[BPDQ_MULTI_MOST];
  bpdq_error errors[BPDQ_MULTI_MOST];
} run;

static void run_part(void *context, int64_t index, int thread) {
  (void)thread;
  run *r = context;
  r->statuses[index] = r->task(r->context, (int)index, &r->errors[index]);
}

bpdq_status bpdq_multi_run(multi_algebra *multi, int count, bpdq_multi_task task, void *context, bpdq_error *error) {
  run r = {.task = task, .context = context};
  bpdq_pool_run(multi->pool, count, run_part, &r);
  for (int i = 0; i < count; i++) {
    if (r.statuses[i] == BPDQ_OK) continue;
    if (error) *error = r.errors[i];
    return r.statuses[i];
  }
  return BPDQ_OK;
}

static void wait(bpdq_algebra *algebra) {
  const multi_algebra *multi = (const multi_algebra *)algebra;
  for (int i = 0; i < multi->count; i++) multi->parts[i]->wait(multi->parts[i]);
}

/* The limit and the peak are those of one device. */
static void limit_memory(bpdq_algebra *algebra, uint64_t bytes) {
  const multi_algebra *multi = (const multi_algebra *)algebra;
  for (int i = 0; i < multi->count; i++) multi->parts[i]->limit_memory(multi->parts[i], bytes);
}

static uint64_t peak_memory(bpdq_algebra *algebra) {
  const multi_algebra *multi = (const multi_algebra *)algebra;
  uint64_t most = 0;
  for (int i = 0; i < multi->count; i++) {
    uint64_t peak = multi->parts[i]->peak_memory(multi->parts[i]);
    if (peak > most) most = peak;
  }
  return most;
}

static int64_t weights(const bpdq_work *work) { return work->desc.rows * work->inputs->columns; }

static void destroy(bpdq_algebra *algebra) {
  if (!algebra) return;
  multi_algebra *multi = (multi_algebra *)algebra;
  for (int i = 0; i < multi->count; i++) multi->parts[i]->destroy(multi->parts[i]);
  bpdq_pool_destroy(multi->pool);
  free(multi);
}

static const bpdq_algebra INTERFACE = {
    .destroy = destroy,
    .streams_create = bpdq_multi_streams_create,
    .statistics_create = bpdq_multi_statistics_create,
    .statistics_destroy = bpdq_multi_statistics_destroy,
    .statistics_add = bpdq_multi_statistics_add,
    .statistics_set = bpdq_multi_statistics_set,
    .statistics_finish = bpdq_multi_statistics_finish,
    .statistics_read = bpdq_multi_statistics_read,
    .inputs_create = bpdq_multi_inputs_create,
    .inputs_destroy = bpdq_multi_inputs_destroy,
    .work_create = bpdq_multi_work_create,
    .work_destroy = bpdq_multi_work_destroy,
    .weights = weights,
    .uniform = bpdq_multi_uniform,
    .walk = bpdq_multi_walk,
    .sweep = bpdq_multi_sweep,
    .refit = bpdq_multi_refit,
    .keep_best = bpdq_multi_keep_best,
    .restore_best = bpdq_multi_restore_best,
    .objective = bpdq_multi_objective,
    .result = bpdq_multi_result,
};

bpdq_status bpdq_multi_algebra_create(const char *name, bpdq_algebra *const *parts, int count, bpdq_algebra **algebra, bpdq_error *error) {
  *algebra = NULL;
  multi_algebra *multi = calloc(1, sizeof *multi);
  if (!multi) {
    for (int i = 0; i < count; i++) parts[i]->destroy(parts[i]);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "quantizer: out of memory");
  }
  multi->base = INTERFACE;
  if (parts[0]->wait) multi->base.wait = wait;
  if (parts[0]->limit_memory) multi->base.limit_memory = limit_memory;
  if (parts[0]->peak_memory) multi->base.peak_memory = peak_memory;
  snprintf(multi->name, sizeof multi->name, "%s", name);
  multi->base.name = multi->name;
  multi->count = count;
  for (int i = 0; i < count; i++) multi->parts[i] = parts[i];
  bpdq_status status = bpdq_pool_create(count, &multi->pool, error);
  if (status != BPDQ_OK) {
    destroy(&multi->base);
    return status;
  }
  *algebra = &multi->base;
  return BPDQ_OK;
}
