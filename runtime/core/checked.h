/* Overflow-safe size arithmetic for numbers that come from files and requests, and allocation on top of it. */
#ifndef BPDQ_CORE_CHECKED_H
#define BPDQ_CORE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* Each returns false, leaving *result unspecified, where the exact result does not fit. */
static inline bool bpdq_add_u64(uint64_t a, uint64_t b, uint64_t *result) { return !__builtin_add_overflow(a, b, result); }
static inline bool bpdq_mul_u64(uint64_t a, uint64_t b, uint64_t *result) { return !__builtin_mul_overflow(a, b, result); }

/* malloc(count * size) that returns NULL on overflow; the memory is not cleared. count == 0 gives a unique pointer. */
static inline void *bpdq_alloc_array(size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
  return malloc(bytes ? bytes : 1);
}

static inline uint64_t bpdq_ceil_div(uint64_t value, uint64_t divisor) { return value / divisor + (value % divisor != 0); }
static inline uint64_t bpdq_round_up(uint64_t value, uint64_t multiple) { return bpdq_ceil_div(value, multiple) * multiple; }

#endif
