/* The published BPDQ algorithm (arXiv 2602.04163; docs/format.md section 3): one start, one iterate for all rows of a group, coefficients
 * rounded at the very end. */
#include "method.h"

static bpdq_status run(bpdq_algebra *algebra, bpdq_work *work, const bpdq_quantize_options *options, bpdq_quantize_seconds *seconds,
                       bpdq_error *error) {
  bpdq_walk_options walk = {.starts = BPDQ_START_MSB, .iterations = options->iterations, .alpha = options->alpha};
  bpdq_clock clock = bpdq_clock_start(algebra);
  bpdq_status status = algebra->walk(algebra, work, &walk, error);
  bpdq_clock_add(&clock, &seconds->walk);
  return status;
}

const bpdq_method bpdq_method_reference = {.calibrated = true, .factor = true, .reference_dead = true, .run = run};
