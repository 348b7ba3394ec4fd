/* One linear whose rows are shared among the parts. */
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "multi/multi.h"

typedef struct work_call {
  multi_algebra *multi;
  bpdq_work *work;
  const bpdq_walk_options *walk;
  bool compensate;
  int64_t changed[BPDQ_MULTI_MOST];
  bool wanted[3]; /* objectives: against W, against T, of zero */
  double objectives[BPDQ_MULTI_MOST][3];
  bpdq_layer_result results[BPDQ_MULTI_MOST];
} work_call;

static bpdq_algebra *algebra_of(const work_call *c, int part) { return c->multi->parts[part]; }

static bpdq_status run(bpdq_algebra *algebra, bpdq_work *work, work_call *call, bpdq_multi_task task, bpdq_error *error) {
  call->multi = (multi_algebra *)algebra;
  call->work = work;
  return bpdq_multi_run(call->multi, work->count, task, call, error);
}

/* ---- life ---- */

static void share_rows(bpdq_work *work, int parts) {
  int64_t units = (int64_t)bpdq_ceil_div((uint64_t)work->desc.rows, BPDQ_MULTI_ROWS);
  work->count = units < parts ? (int)units : parts;
  for (int i = 0; i < work->count; i++) work->first_row[i] = units * i / work->count * BPDQ_MULTI_ROWS;
  work->first_row[work->count] = work->desc.rows;
}

static void destroy_parts(multi_algebra *multi, bpdq_work *work) {
  for (int i = 0; i < work->count; i++) {
    multi->parts[i]->work_destroy(multi->parts[i], work->parts[i]);
    work->parts[i] = NULL;
  }
}

static bpdq_status create_part(void *context, int part, bpdq_error *error) {
  const work_call *c = context;
  bpdq_work *work = c->work;
  bpdq_work_desc desc = work->desc;
  desc.rows = work->first_row[part + 1] - work->first_row[part];
  desc.first_row += work->first_row[part];
  desc.weight += work->first_row[part] * work->inputs->columns;
  return algebra_of(c, part)->work_create(algebra_of(c, part), work->inputs->parts[part], &desc, &work->parts[part], error);
}

bpdq_status bpdq_multi_work_create(bpdq_algebra *algebra, const bpdq_inputs *inputs, const bpdq_work_desc *desc, bpdq_work **work,
                                   bpdq_error *error) {
  *work = NULL;
  bpdq_work *made = calloc(1, sizeof *made);
  if (!made) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", desc->name);
  made->inputs = inputs;
  made->desc = *desc;
  share_rows(made, ((multi_algebra *)algebra)->count);
  work_call call = {0};
  bpdq_status status = run(algebra, made, &call, create_part, error);
  if (status != BPDQ_OK) {
    bpdq_multi_work_destroy(algebra, made);
    return status;
  }
  *work = made;
  return BPDQ_OK;
}

void bpdq_multi_work_destroy(bpdq_algebra *algebra, bpdq_work *work) {
  if (!work) return;
  destroy_parts((multi_algebra *)algebra, work);
  free(work);
}

/* ---- walks and grids ---- */

static bpdq_status uniform_part(void *context, int part, bpdq_error *error) {
  const work_call *c = context;
  return algebra_of(c, part)->uniform(algebra_of(c, part), c->work->parts[part], c->compensate, error);
}

bpdq_status bpdq_multi_uniform(bpdq_algebra *algebra, bpdq_work *work, bool compensate, bpdq_error *error) {
  work_call call = {.compensate = compensate};
  return run(algebra, work, &call, uniform_part, error);
}

static bpdq_status walk_part(void *context, int part, bpdq_error *error) {
  const work_call *c = context;
  return algebra_of(c, part)->walk(algebra_of(c, part), c->work->parts[part], c->walk, error);
}

/* All rows to part 0. Nothing is lost but remembered states: a walk starts from the target. */
static bpdq_status join_rows(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error) {
  if (work->kept)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "%s: a walk of all rows together cannot follow states kept per row", work->desc.name);
  destroy_parts((multi_algebra *)algebra, work);
  share_rows(work, 1);
  work_call call = {0};
  return run(algebra, work, &call, create_part, error);
}

bpdq_status bpdq_multi_walk(bpdq_algebra *algebra, bpdq_work *work, const bpdq_walk_options *options, bpdq_error *error) {
  if (!options->best_per_row && work->count > 1) BPDQ_TRY(join_rows(algebra, work, error));
  work_call call = {.walk = options};
  return run(algebra, work, &call, walk_part, error);
}

/* ---- descent ---- */

static bpdq_status sweep_part(void *context, int part, bpdq_error *error) {
  work_call *c = context;
  return algebra_of(c, part)->sweep(algebra_of(c, part), c->work->parts[part], &c->changed[part], error);
}

bpdq_status bpdq_multi_sweep(bpdq_algebra *algebra, bpdq_work *work, int64_t *changed, bpdq_error *error) {
  work_call call = {0};
  BPDQ_TRY(run(algebra, work, &call, sweep_part, error));
  *changed = 0;
  for (int i = 0; i < work->count; i++) *changed += call.changed[i];
  return BPDQ_OK;
}

static bpdq_status refit_part(void *context, int part, bpdq_error *error) {
  const work_call *c = context;
  return algebra_of(c, part)->refit(algebra_of(c, part), c->work->parts[part], error);
}

bpdq_status bpdq_multi_refit(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error) {
  work_call call = {0};
  return run(algebra, work, &call, refit_part, error);
}

static bpdq_status keep_best_part(void *context, int part, bpdq_error *error) {
  const work_call *c = context;
  return algebra_of(c, part)->keep_best(algebra_of(c, part), c->work->parts[part], error);
}

bpdq_status bpdq_multi_keep_best(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error) {
  work_call call = {0};
  work->kept = work->count > 1;
  return run(algebra, work, &call, keep_best_part, error);
}

static bpdq_status restore_best_part(void *context, int part, bpdq_error *error) {
  const work_call *c = context;
  return algebra_of(c, part)->restore_best(algebra_of(c, part), c->work->parts[part], error);
}

bpdq_status bpdq_multi_restore_best(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error) {
  work_call call = {0};
  return run(algebra, work, &call, restore_best_part, error);
}

/* ---- objective and result ---- */

static bpdq_status objective_part(void *context, int part, bpdq_error *error) {
  work_call *c = context;
  double *into = c->objectives[part];
  return algebra_of(c, part)->objective(algebra_of(c, part), c->work->parts[part], c->wanted[0] ? &into[0] : NULL,
                                        c->wanted[1] ? &into[1] : NULL, c->wanted[2] ? &into[2] : NULL, error);
}

bpdq_status bpdq_multi_objective(bpdq_algebra *algebra, bpdq_work *work, double *against_weight, double *against_target, double *of_zero,
                                 bpdq_error *error) {
  double *const totals[3] = {against_weight, against_target, of_zero};
  work_call call = {.wanted = {against_weight != NULL, against_target != NULL, of_zero != NULL}};
  BPDQ_TRY(run(algebra, work, &call, objective_part, error));
  for (int which = 0; which < 3; which++) {
    if (!totals[which]) continue;
    *totals[which] = 0;
    for (int i = 0; i < work->count; i++) *totals[which] += call.objectives[i][which];
  }
  return BPDQ_OK;
}

static bpdq_status result_part(void *context, int part, bpdq_error *error) {
  work_call *c = context;
  return algebra_of(c, part)->result(algebra_of(c, part), c->work->parts[part], &c->results[part], error);
}

/* The parts' rows side by side. */
static bpdq_status gather(const bpdq_work *work, const bpdq_layer_result *parts, bpdq_layer_result *result, bpdq_error *error) {
  *result = parts[0];
  result->rows = work->desc.rows;
  int64_t terms = result->groups * (result->planes + 1), padded = result->groups * result->group, n = result->rows;
  result->coefficients = bpdq_alloc_array((size_t)(terms * n), sizeof *result->coefficients);
  result->codes = bpdq_alloc_array((size_t)(padded * n), sizeof *result->codes);
  if (!result->coefficients || !result->codes) {
    bpdq_layer_result_free(result);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory for the result", work->desc.name);
  }
  for (int i = 0; i < work->count; i++) {
    int64_t first = work->first_row[i], rows = parts[i].rows;
    for (int64_t term = 0; term < terms; term++)
      memcpy(result->coefficients + term * n + first, parts[i].coefficients + term * rows, (size_t)rows * sizeof *result->coefficients);
    for (int64_t column = 0; column < padded; column++)
      memcpy(result->codes + column * n + first, parts[i].codes + column * rows, (size_t)rows);
  }
  return BPDQ_OK;
}

bpdq_status bpdq_multi_result(bpdq_algebra *algebra, bpdq_work *work, bpdq_layer_result *result, bpdq_error *error) {
  work_call call = {0};
  bpdq_status status = run(algebra, work, &call, result_part, error);
  if (status == BPDQ_OK) status = gather(work, call.results, result, error);
  for (int i = 0; i < work->count; i++) bpdq_layer_result_free(&call.results[i]);
  return status;
}
