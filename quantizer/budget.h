/* Bits as a budget: which linear gets how many planes. */
#ifndef BPDQ_QUANTIZER_BUDGET_H
#define BPDQ_QUANTIZER_BUDGET_H

#include "block.h"
#include "calibration.h"
#include "linalg.h"

typedef struct bpdq_budget_plan {
  int group;
  int planes;          /* the most frequent plane count: the checkpoint's own setting */
  uint8_t *per_linear; /* [layers * BPDQ_LINEARS]; free() */
  double bits;         /* of all linears together, at most options->bits */
} bpdq_budget_plan;

/* Spreads options->bits bits per weight over the linears of a dense checkpoint. Each linear's sensitivity is measured: the KL divergence of
 * the model's predictions on a few calibration windows with that linear alone at two planes. The divergence at other plane counts and
 * group sizes (options->group and its doubles up to 256) is scaled by the linear's objective there. The whole model is held in host memory
 * as float32. BPDQ_ERROR_ARGUMENT where one plane each is already over the budget. */
bpdq_status bpdq_budget_find(const bpdq_checkpoint *checkpoint, const bpdq_calibration *calibration, const bpdq_quantize_options *options,
                             bpdq_algebra *algebra, const bpdq_log *log, bpdq_budget_plan *plan, bpdq_error *error);

/* The choice alone. divergence[i * BPDQ_BUDGET_PLANES + k - 1] of linear i with k planes and weights[i] weights of bits[k - 1] each: the
 * planes per linear with the least sum of divergences whose stored size stays within `budget` bits per weight. False where nothing fits. */
enum { BPDQ_BUDGET_PLANES = 5 };
bool bpdq_budget_choose(int64_t linears, const double *divergence, const double *bits, const double *weights, double budget,
                        uint8_t *planes, double *total);

#endif
