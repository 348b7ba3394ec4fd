/* Brings a checkpoint's weights into memory in the order in which they are loaded, on a thread of its own: while the device starts,
 * pages are mapped (or read from the disk) that the upload would otherwise wait for. */
#ifndef BPDQ_MODEL_PREFETCH_H
#define BPDQ_MODEL_PREFETCH_H

#include <stdatomic.h>

#include "core/platform.h"
#include "format/checkpoint.h"

typedef struct bpdq_prefetch {
  const bpdq_checkpoint *checkpoint;
  bpdq_thread *thread; /* NULL where there is none: loading then only takes longer */
  atomic_bool stop;
} bpdq_prefetch;

/* The struct must not move, and the checkpoint stays open, until the stop. */
void bpdq_prefetch_start(bpdq_prefetch *prefetch, const bpdq_checkpoint *checkpoint);
void bpdq_prefetch_stop(bpdq_prefetch *prefetch); /* ends it soon, wherever it is */

#endif
