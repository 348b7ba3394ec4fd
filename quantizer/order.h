/* The columns of H in the order of a walk (docs/format.md section 3 step 2), and what stands on the diagonal of dead and padded ones. */
#ifndef BPDQ_QUANTIZER_ORDER_H
#define BPDQ_QUANTIZER_ORDER_H

#include "linalg.h"

enum { BPDQ_DAMPING_ATTEMPTS = 100 };

/* The share of mean diag H that attempt 0, 1, ... of a factorisation adds to H. */
static inline double bpdq_damping(double first, int attempt) { return first + 0.01 * attempt; }

typedef struct bpdq_column_order {
  const char *name;        /* of the linear, for messages */
  int64_t columns, groups; /* K, ceil(K / group) */
  int group;
  bool reference_dead; /* dead and padded columns get 1; else dead ones 0 and padded ones next to nothing */
  double *diagonal;    /* [groups * group] by column: the first K of H, then with the substitutes */
  int32_t *order;      /* [groups * group], found: walk position -> column; padding is >= columns */
  double mean;         /* found: of diag H; 1 where nothing excites the layer, so that every metric is as good */
  double padded_mean;  /* found: with the substitutes, over the padded columns as well */
  int64_t dead;        /* found: columns that no calibration token excites */
} bpdq_column_order;

/* Inside each group descending diagonal; groups by their largest entry. */
bpdq_status bpdq_order_columns(bpdq_column_order *order, bpdq_error *error);

#endif
