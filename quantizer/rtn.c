/* Round to nearest on a uniform grid: the baseline that needs no calibration. */
#include "method.h"

static bpdq_status run(bpdq_algebra *algebra, bpdq_work *work, const bpdq_quantize_options *options, bpdq_error *error) {
  (void)options;
  return algebra->uniform(algebra, work, false, error);
}

const bpdq_method bpdq_method_rtn = {.run = run};
