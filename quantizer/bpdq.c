/* The default method. The walk gives a start; coordinate descent over the planes and joint least squares over the coefficients then lower
 * the objective in turns. Levels always come from coefficients as they are stored, so that their rounding is compensated. */
#include "method.h"

static const double CONVERGED = 1e-4; /* share of weights that still move */

static bpdq_status sweep(bpdq_algebra *algebra, bpdq_work *work, const bpdq_quantize_options *options, int sweeps, int64_t weights,
                         bpdq_error *error) {
  for (int i = 0; i < sweeps; i++) {
    BPDQ_TRY(bpdq_quantize_go_on(options, error));
    int64_t changed;
    BPDQ_TRY(algebra->sweep(algebra, work, &changed, error));
    if ((double)changed < CONVERGED * (double)weights) break;
  }
  return BPDQ_OK;
}

static bpdq_status descend(bpdq_algebra *algebra, bpdq_work *work, const bpdq_quantize_options *options, bpdq_quantize_seconds *seconds,
                           bpdq_error *error) {
  const bpdq_recipe *recipe = &options->recipe;
  bpdq_clock clock = bpdq_clock_start(algebra);
  int64_t weights = algebra->weights(work);
  for (int round = 0; round < recipe->rounds; round++) {
    if (recipe->coordinate_descent) BPDQ_TRY(sweep(algebra, work, options, recipe->sweeps_per_round, weights, error));
    bpdq_clock_add(&clock, &seconds->sweeps);
    BPDQ_TRY(bpdq_quantize_go_on(options, error));
    if (recipe->joint_refit) BPDQ_TRY(algebra->refit(algebra, work, error));
    bpdq_clock_add(&clock, &seconds->refits);
  }
  if (recipe->coordinate_descent) BPDQ_TRY(sweep(algebra, work, options, recipe->final_sweeps, weights, error));
  bpdq_clock_add(&clock, &seconds->sweeps);
  return BPDQ_OK;
}

/* One descent from the walk that takes each group's best start; with restarts also from walks that know one start only, and each row
 * keeps its best. */
static bpdq_status run(bpdq_algebra *algebra, bpdq_work *work, const bpdq_quantize_options *options, bpdq_quantize_seconds *seconds,
                       bpdq_error *error) {
  const bpdq_recipe *recipe = &options->recipe;
  static const unsigned STARTS[] = {BPDQ_START_MSB | BPDQ_START_NARROW | BPDQ_START_WIDE, BPDQ_START_MSB, BPDQ_START_NARROW,
                                    BPDQ_START_WIDE};
  bpdq_walk_options walk = {.iterations = options->iterations, .alpha = options->alpha, .best_per_row = recipe->best_per_row};
  for (int i = 0; i <= recipe->restarts; i++) {
    walk.starts = recipe->several_starts ? STARTS[i] : BPDQ_START_MSB;
    bpdq_clock clock = bpdq_clock_start(algebra);
    BPDQ_TRY(algebra->walk(algebra, work, &walk, error));
    bpdq_clock_add(&clock, &seconds->walk);
    BPDQ_TRY(descend(algebra, work, options, seconds, error));
    if (recipe->restarts) BPDQ_TRY(algebra->keep_best(algebra, work, error));
  }
  return recipe->restarts ? algebra->restore_best(algebra, work, error) : BPDQ_OK;
}

const bpdq_method bpdq_method_bpdq = {.calibrated = true, .factor = true, .metric = true, .dense_stream = true, .run = run};
