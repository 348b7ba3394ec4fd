/* Round to nearest on a uniform grid: the baseline that needs no calibration. */
#include "method.h"

static bpdq_status run(bpdq_algebra *algebra, bpdq_work *work, const bpdq_quantize_options *options, bpdq_quantize_seconds *seconds,
                       bpdq_error *error) {
  (void)options;
  bpdq_clock clock = bpdq_clock_start(algebra);
  bpdq_status status = algebra->uniform(algebra, work, false, error);
  bpdq_clock_add(&clock, &seconds->walk);
  return status;
}

const bpdq_method bpdq_method_rtn = {.run = run};
