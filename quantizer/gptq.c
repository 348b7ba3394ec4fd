/* GPTQ (Frantar et al., arXiv 2210.17323) with group-aware order, on a uniform asymmetric grid of 2^k levels in the same format. */
#include "method.h"

static bpdq_status run(bpdq_algebra *algebra, bpdq_work *work, const bpdq_quantize_options *options, bpdq_quantize_seconds *seconds,
                       bpdq_error *error) {
  (void)options;
  bpdq_clock clock = bpdq_clock_start(algebra);
  bpdq_status status = algebra->uniform(algebra, work, true, error);
  bpdq_clock_add(&clock, &seconds->walk);
  return status;
}

const bpdq_method bpdq_method_gptq = {.calibrated = true, .factor = true, .reference_dead = true, .run = run};
