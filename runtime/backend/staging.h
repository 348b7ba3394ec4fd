/* What device backends do on the host while weights stream through their staging memory: copies by several threads, and the look at
 * coefficients that comes before them. */
#ifndef BPDQ_BACKEND_STAGING_H
#define BPDQ_BACKEND_STAGING_H

#include "backend/backend.h"
#include "core/threads.h"

/* The threads that copy, the caller among them: more than these do not raise the rate of a memory copy. */
bpdq_status bpdq_staging_pool_create(bpdq_pool **pool, bpdq_error *error);

/* Rows of bytes, `..._pitch` apart. The two memories do not overlap; no alignment is asked for. */
typedef struct bpdq_row_copy {
  void *target;
  const void *source;
  size_t target_pitch, source_pitch, row_bytes, rows;
} bpdq_row_copy;

void bpdq_copy_rows(bpdq_pool *pool, const bpdq_row_copy *copy);

/* The largest magnitude among the coefficients of a PLANES weight. BPDQ_ERROR_FORMAT names desc->name where one is not finite. */
bpdq_status bpdq_check_coefficients(bpdq_pool *pool, const bpdq_weight_desc *desc, float *largest, bpdq_error *error);

#endif
