#include "order.h"

#include <stdlib.h>

#include "core/checked.h"

/* A padded column has no activation; this share of mean diag H keeps the matrices regular without giving it a say. */
static const double PADDING_WEIGHT = 1e-6;

typedef struct ranked {
  double weight;
  int32_t index;
} ranked;

static int by_weight_descending(const void *a, const void *b) {
  const ranked *x = a, *y = b;
  if (x->weight != y->weight) return x->weight > y->weight ? -1 : 1;
  return x->index < y->index ? -1 : x->index > y->index;
}

static void substitute(bpdq_column_order *o) {
  int64_t padded = o->groups * o->group;
  o->mean = o->padded_mean = 0;
  o->dead = 0;
  for (int64_t j = 0; j < o->columns; j++) o->mean += o->diagonal[j] / (double)o->columns;
  if (o->mean <= 0) o->mean = 1;
  for (int64_t j = 0; j < padded; j++) {
    bool there = j < o->columns, excited = there && o->diagonal[j] > 0;
    if (!excited) o->diagonal[j] = o->reference_dead ? 1.0 : there ? 0 : PADDING_WEIGHT * o->mean;
    o->dead += there && !excited;
    o->padded_mean += o->diagonal[j] / (double)padded;
  }
}

bpdq_status bpdq_order_columns(bpdq_column_order *o, bpdq_error *error) {
  int64_t group = o->group, padded = o->groups * group;
  ranked *columns = bpdq_alloc_array((size_t)padded, sizeof *columns), *groups = bpdq_alloc_array((size_t)o->groups, sizeof *groups);
  bpdq_status status = BPDQ_OK;
  if (columns && groups) {
    substitute(o);
    for (int64_t j = 0; j < padded; j++) columns[j] = (ranked){o->diagonal[j], (int32_t)j};
    for (int64_t q = 0; q < o->groups; q++) {
      qsort(columns + q * group, (size_t)group, sizeof *columns, by_weight_descending);
      groups[q] = (ranked){columns[q * group].weight, (int32_t)q};
    }
    qsort(groups, (size_t)o->groups, sizeof *groups, by_weight_descending);
    for (int64_t i = 0; i < padded; i++) o->order[i] = columns[groups[i / group].index * group + i % group].index;
  } else {
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", o->name);
  }
  free(columns);
  free(groups);
  return status;
}
