#include "backend/staging.h"

#include <stdatomic.h>
#include <string.h>

#include "core/checked.h"
#include "core/half.h"
#include "core/platform.h"

#define MOST_THREADS 12
/* Work that a thread takes at once. A slot's copy is over when its last piece is: with 1 MiB the rate was two thirds of this one's. */
#define PIECE_BYTES ((size_t)128 << 10)

bpdq_status bpdq_staging_pool_create(bpdq_pool **pool, bpdq_error *error) {
  int cores = bpdq_cpu_count();
  return bpdq_pool_create(cores < MOST_THREADS ? cores : MOST_THREADS, pool, error);
}

/* ---- copies ---- */

typedef struct copy_job {
  bpdq_row_copy copy;
  size_t rows_per_piece;
} copy_job;

static void copy_piece(void *context, int64_t index, int thread) {
  (void)thread;
  const copy_job *job = context;
  const bpdq_row_copy *copy = &job->copy;
  size_t first = (size_t)index * job->rows_per_piece, last = first + job->rows_per_piece;
  if (last > copy->rows) last = copy->rows;
  char *target = (char *)copy->target + first * copy->target_pitch;
  const char *source = (const char *)copy->source + first * copy->source_pitch;
  if (copy->target_pitch == copy->row_bytes && copy->source_pitch == copy->row_bytes) {
    memcpy(target, source, (last - first) * copy->row_bytes);
    return;
  }
  for (size_t row = first; row < last; row++, target += copy->target_pitch, source += copy->source_pitch)
    memcpy(target, source, copy->row_bytes);
}

void bpdq_copy_rows(bpdq_pool *pool, const bpdq_row_copy *copy) {
  copy_job job = {.copy = *copy};
  if (copy->target_pitch == copy->row_bytes && copy->source_pitch == copy->row_bytes) /* one run: cut evenly, whatever its rows */
    job.copy = (bpdq_row_copy){copy->target, copy->source, 1, 1, 1, copy->rows * copy->row_bytes};
  size_t row_bytes = job.copy.row_bytes ? job.copy.row_bytes : 1;
  job.rows_per_piece = row_bytes < PIECE_BYTES ? PIECE_BYTES / row_bytes : 1;
  bpdq_pool_run(pool, (int64_t)bpdq_ceil_div(job.copy.rows, job.rows_per_piece), copy_piece, &job);
}

/* ---- magnitudes: without their sign, the bits of IEEE numbers are in the numbers' order, and what is not finite comes last ---- */

typedef struct magnitude_job {
  const uint8_t *values;
  size_t count, width; /* bytes of a value */
  atomic_int largest;  /* bits */
} magnitude_job;

/* Signed integers, because the baseline vector instructions have their maximum and not that of unsigned ones. */
static int largest_of_16_bits(const uint8_t *values, size_t count) {
  int16_t largest = 0;
  for (size_t i = 0; i < count; i++) {
    int16_t bits;
    memcpy(&bits, values + 2 * i, 2);
    bits &= 0x7fff;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

static int largest_of_32_bits(const uint8_t *values, size_t count) {
  int32_t largest = 0;
  for (size_t i = 0; i < count; i++) {
    int32_t bits;
    memcpy(&bits, values + 4 * i, 4);
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

static void find_largest(void *context, int64_t index, int thread) {
  (void)thread;
  magnitude_job *job = context;
  size_t step = PIECE_BYTES / job->width, first = (size_t)index * step, count = job->count - first < step ? job->count - first : step;
  const uint8_t *values = job->values + first * job->width;
  int largest = job->width == 2 ? largest_of_16_bits(values, count) : largest_of_32_bits(values, count);
  int before = atomic_load(&job->largest);
  while (largest > before && !atomic_compare_exchange_weak(&job->largest, &before, largest)) {
  }
}

/* Bits of the largest magnitude of one part. */
static uint32_t largest_of_part(bpdq_pool *pool, const bpdq_weight_part *part, size_t count) {
  magnitude_job job = {.values = part->coefficients, .count = count, .width = bpdq_dtype_size(part->coefficient_dtype)};
  bpdq_pool_run(pool, (int64_t)bpdq_ceil_div(count, PIECE_BYTES / job.width), find_largest, &job);
  return (uint32_t)atomic_load(&job.largest);
}

bpdq_status bpdq_check_coefficients(bpdq_pool *pool, const bpdq_weight_desc *desc, float *largest, bpdq_error *error) {
  size_t lines = (size_t)bpdq_ceil_div((uint64_t)desc->columns, (uint64_t)desc->group) * (size_t)(desc->planes + 1);
  *largest = 0;
  for (int i = 0; i < desc->part_count; i++) {
    const bpdq_weight_part *part = &desc->parts[i];
    bpdq_dtype type = part->coefficient_dtype;
    uint32_t bits = largest_of_part(pool, part, lines * (size_t)part->rows);
    if (bits >= (type == BPDQ_F32 ? 0x7f800000u : type == BPDQ_F16 ? 0x7c00u : 0x7f80u))
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: a coefficient is not finite; the checkpoint is damaged", desc->name);
    float value = type == BPDQ_F32   ? bpdq_float_from_bits(bits)
                  : type == BPDQ_F16 ? bpdq_f16_to_float((uint16_t)bits)
                                     : bpdq_bf16_to_float((uint16_t)bits);
    if (value > *largest) *largest = value;
  }
  return BPDQ_OK;
}
