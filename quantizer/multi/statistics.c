/* Statistics whose tokens are shared among the parts, and inputs that every part has. */
#include <stdlib.h>

#include "multi/multi.h"

/* ---- statistics ---- */

typedef struct statistics_call {
  multi_algebra *multi;
  bpdq_statistics *statistics;
  const bpdq_statistics_desc *desc;
  const float *matrices[3]; /* x, dense_x and residual of tokens; or H, C and R */
  int64_t widths[3];        /* of a token in each */
  int64_t tokens;
} statistics_call;

static bpdq_status create_part(void *context, int part, bpdq_error *error) {
  statistics_call *c = context;
  bpdq_algebra *algebra = c->multi->parts[part];
  return algebra->statistics_create(algebra, c->desc, &c->statistics->parts[part], error);
}

bpdq_status bpdq_multi_statistics_create(bpdq_algebra *algebra, const bpdq_statistics_desc *desc, bpdq_statistics **statistics,
                                         bpdq_error *error) {
  multi_algebra *multi = (multi_algebra *)algebra;
  *statistics = NULL;
  bpdq_statistics *made = calloc(1, sizeof *made);
  if (!made) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", desc->name);
  made->columns = desc->columns;
  made->residual_rows = desc->residual_rows;
  statistics_call call = {.multi = multi, .statistics = made, .desc = desc};
  bpdq_status status = bpdq_multi_run(multi, multi->count, create_part, &call, error);
  if (status != BPDQ_OK) {
    bpdq_multi_statistics_destroy(algebra, made);
    return status;
  }
  *statistics = made;
  return BPDQ_OK;
}

void bpdq_multi_statistics_destroy(bpdq_algebra *algebra, bpdq_statistics *statistics) {
  multi_algebra *multi = (multi_algebra *)algebra;
  if (!statistics) return;
  for (int i = 0; i < multi->count; i++) multi->parts[i]->statistics_destroy(multi->parts[i], statistics->parts[i]);
  free(statistics);
}

static const float *row_of(const float *matrix, int64_t row, int64_t width) { return matrix ? matrix + row * width : NULL; }

/* An equal share of the tokens for each part. */
static bpdq_status add_part(void *context, int part, bpdq_error *error) {
  const statistics_call *c = context;
  bpdq_algebra *algebra = c->multi->parts[part];
  int64_t first = c->tokens * part / c->multi->count, end = c->tokens * (part + 1) / c->multi->count;
  if (first == end) return BPDQ_OK;
  return algebra->statistics_add(algebra, c->statistics->parts[part], row_of(c->matrices[0], first, c->widths[0]),
                                 row_of(c->matrices[1], first, c->widths[1]), row_of(c->matrices[2], first, c->widths[2]), end - first,
                                 error);
}

bpdq_status bpdq_multi_statistics_add(bpdq_algebra *algebra, bpdq_statistics *statistics, const float *x, const float *dense_x,
                                      const float *residual, int64_t tokens, bpdq_error *error) {
  multi_algebra *multi = (multi_algebra *)algebra;
  int64_t k = statistics->columns;
  statistics_call call = {multi, statistics, NULL, {x, dense_x, residual}, {k, k, statistics->residual_rows}, tokens};
  return bpdq_multi_run(multi, multi->count, add_part, &call, error);
}

static bpdq_status set_part(void *context, int part, bpdq_error *error) {
  const statistics_call *c = context;
  bpdq_algebra *algebra = c->multi->parts[part];
  return algebra->statistics_set(algebra, c->statistics->parts[part], c->matrices[0], c->matrices[1], c->matrices[2], error);
}

bpdq_status bpdq_multi_statistics_set(bpdq_algebra *algebra, bpdq_statistics *statistics, const float *hessian, const float *cross,
                                      const float *residual, bpdq_error *error) {
  multi_algebra *multi = (multi_algebra *)algebra;
  statistics_call call = {.multi = multi, .statistics = statistics, .matrices = {hessian, cross, residual}};
  statistics->given = true;
  return bpdq_multi_run(multi, multi->count, set_part, &call, error);
}

static bpdq_status finish_part(void *context, int part, bpdq_error *error) {
  const statistics_call *c = context;
  bpdq_algebra *algebra = c->multi->parts[part];
  return algebra->statistics_finish(algebra, c->statistics->parts[part], error);
}

/* From part 0; that one is the source. */
static bpdq_status copy_to_part(void *context, int part, bpdq_error *error) {
  const statistics_call *c = context;
  bpdq_algebra *algebra = c->multi->parts[part];
  if (part == 0) return BPDQ_OK;
  return algebra->statistics_copy(algebra, c->statistics->parts[part], c->multi->parts[0], c->statistics->parts[0], error);
}

bpdq_status bpdq_multi_statistics_finish(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_error *error) {
  multi_algebra *multi = (multi_algebra *)algebra;
  statistics_call call = {.multi = multi, .statistics = statistics};
  if (statistics->given) return bpdq_multi_run(multi, multi->count, finish_part, &call, error);
  /* Always in this order, so that the same tokens give the same sums. */
  for (int i = 1; i < multi->count; i++)
    BPDQ_TRY(multi->parts[0]->statistics_merge(multi->parts[0], statistics->parts[0], multi->parts[i], statistics->parts[i], error));
  BPDQ_TRY(finish_part(&call, 0, error));
  return bpdq_multi_run(multi, multi->count, copy_to_part, &call, error);
}

bpdq_status bpdq_multi_statistics_read(bpdq_algebra *algebra, const bpdq_statistics *statistics, float *hessian, float *cross,
                                       float *residual, bpdq_error *error) {
  bpdq_algebra *first = ((multi_algebra *)algebra)->parts[0]; /* all have the same */
  return first->statistics_read(first, statistics->parts[0], hessian, cross, residual, error);
}

/* ---- inputs ---- */

typedef struct inputs_call {
  multi_algebra *multi;
  const bpdq_statistics *statistics;
  const bpdq_inputs_desc *desc;
  bpdq_inputs *inputs;
  bpdq_inputs_info infos[BPDQ_MULTI_MOST];
} inputs_call;

static bpdq_status create_inputs_part(void *context, int part, bpdq_error *error) {
  inputs_call *c = context;
  bpdq_algebra *algebra = c->multi->parts[part];
  return algebra->inputs_create(algebra, c->statistics->parts[part], c->desc, &c->inputs->parts[part], &c->infos[part], error);
}

bpdq_status bpdq_multi_inputs_create(bpdq_algebra *algebra, const bpdq_statistics *statistics, const bpdq_inputs_desc *desc,
                                     bpdq_inputs **inputs, bpdq_inputs_info *info, bpdq_error *error) {
  multi_algebra *multi = (multi_algebra *)algebra;
  *inputs = NULL;
  *info = (bpdq_inputs_info){0};
  bpdq_inputs *made = calloc(1, sizeof *made);
  if (!made) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "quantizer: out of host memory");
  made->columns = statistics->columns;
  inputs_call call = {.multi = multi, .statistics = statistics, .desc = desc, .inputs = made};
  bpdq_status status = bpdq_multi_run(multi, multi->count, create_inputs_part, &call, error);
  if (status != BPDQ_OK) {
    bpdq_multi_inputs_destroy(algebra, made);
    return status;
  }
  *info = call.infos[0];
  *inputs = made;
  return BPDQ_OK;
}

void bpdq_multi_inputs_destroy(bpdq_algebra *algebra, bpdq_inputs *inputs) {
  multi_algebra *multi = (multi_algebra *)algebra;
  if (!inputs) return;
  for (int i = 0; i < multi->count; i++) multi->parts[i]->inputs_destroy(multi->parts[i], inputs->parts[i]);
  free(inputs);
}
