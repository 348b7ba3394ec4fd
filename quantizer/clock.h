/* Splits time among the steps of an algebra whose calls may return before they are done. */
#ifndef BPDQ_QUANTIZER_CLOCK_H
#define BPDQ_QUANTIZER_CLOCK_H

#include "core/platform.h"
#include "linalg.h"

typedef struct bpdq_clock {
  bpdq_algebra *algebra;
  uint64_t last; /* nanoseconds */
} bpdq_clock;

static inline bpdq_clock bpdq_clock_start(bpdq_algebra *algebra) { return (bpdq_clock){algebra, bpdq_monotonic_nanoseconds()}; }

/* Adds the seconds since the last call to *seconds, once all work is done. */
static inline void bpdq_clock_add(bpdq_clock *clock, double *seconds) {
  if (clock->algebra->wait) clock->algebra->wait(clock->algebra);
  uint64_t now = bpdq_monotonic_nanoseconds();
  *seconds += (double)(now - clock->last) * 1e-9;
  clock->last = now;
}

#endif
