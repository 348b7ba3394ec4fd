/* Copies of rows by several threads, and the magnitudes of coefficients, against plain loops. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/staging.h"
#include "core/half.h"

enum { GUARD = 64 };

static bpdq_pool *new_pool(int threads) {
  bpdq_pool *pool;
  assert_int_equal(bpdq_pool_create(threads, &pool, NULL), BPDQ_OK);
  return pool;
}

/* Every byte of the rows arrives, and none beside them is touched. */
static void check_copy(bpdq_pool *pool, size_t rows, size_t row_bytes, size_t target_pitch, size_t source_pitch) {
  size_t target_bytes = rows * target_pitch + GUARD, source_bytes = rows * source_pitch + GUARD;
  uint8_t *target = malloc(target_bytes), *source = malloc(source_bytes);
  assert_true(target && source);
  for (size_t i = 0; i < source_bytes; i++) source[i] = (uint8_t)(i * 2654435761u >> 13);
  memset(target, 0xa5, target_bytes);
  bpdq_copy_rows(pool, &(bpdq_row_copy){target, source + 1, target_pitch, source_pitch, row_bytes, rows});
  for (size_t i = 0; i < target_bytes; i++) {
    size_t row = i / target_pitch, column = i % target_pitch;
    uint8_t expected = row < rows && column < row_bytes ? source[1 + row * source_pitch + column] : 0xa5;
    if (target[i] != expected) fail_msg("%zu rows of %zu bytes: byte %zu of row %zu is wrong", rows, row_bytes, column, row);
  }
  free(target);
  free(source);
}

static void copies_rows(void **unused) {
  (void)unused;
  for (int threads = 1; threads <= 3; threads += 2) {
    bpdq_pool *pool = new_pool(threads);
    check_copy(pool, 0, 16, 16, 16);
    check_copy(pool, 5, 0, 8, 8);
    check_copy(pool, 1, 1, 1, 1);
    check_copy(pool, 7, 1, 3, 5);
    check_copy(pool, 1000, 4096, 4096, 4096);             /* one run of bytes, several pieces */
    check_copy(pool, 3, (1 << 20) + 3, 1 << 21, 1 << 21); /* rows longer than a piece */
    check_copy(pool, 2000, 1500, 2048, 1500);             /* only the target has gaps */
    check_copy(pool, 2000, 1500, 1500, 1531);             /* only the source has */
    bpdq_pool_destroy(pool);
  }
}

static uint32_t next(uint32_t *seed) { return *seed = *seed * 1664525u + 1013904223u; }

static void put(void *values, bpdq_dtype type, size_t index, float value) {
  uint16_t half = type == BPDQ_F16 ? bpdq_float_to_f16(value) : bpdq_float_to_bf16(value);
  if (type == BPDQ_F32)
    memcpy((char *)values + 4 * index, &value, 4);
  else
    memcpy((char *)values + 2 * index, &half, 2);
}

static float get(const void *values, bpdq_dtype type, size_t index) {
  uint16_t half;
  float value;
  memcpy(&half, (const char *)values + 2 * index, 2);
  if (type != BPDQ_F32) return type == BPDQ_F16 ? bpdq_f16_to_float(half) : bpdq_bf16_to_float(half);
  memcpy(&value, (const char *)values + 4 * index, 4);
  return value;
}

enum { COLUMNS = 200, GROUP = 96, PLANES = 3, COUNT_PER_ROW = 3 * (PLANES + 1) }; /* three groups, the last one padded */

static const bpdq_dtype types[] = {BPDQ_F32, BPDQ_F16, BPDQ_BF16};

static bpdq_weight_desc stack_of(bpdq_weight_part *parts, int count) {
  return (bpdq_weight_desc){.kind = BPDQ_WEIGHT_PLANES,
                            .name = "model.layers.7.mlp.gate_proj",
                            .columns = COLUMNS,
                            .planes = PLANES,
                            .group = GROUP,
                            .parts = parts,
                            .part_count = count};
}

/* A part of each type, with numbers over many powers of two; one row more than a multiple of what vector instructions take. */
static void finds_the_largest_coefficient(void **unused) {
  (void)unused;
  static const int64_t rows[] = {1, 1000, 70001};
  bpdq_pool *pool = new_pool(3);
  bpdq_error error;
  uint32_t seed = 3;
  for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
    bpdq_weight_part parts[3];
    float expected = 0, largest = 0;
    for (int t = 0; t < 3; t++) {
      size_t count = (size_t)rows[r] * COUNT_PER_ROW;
      void *values = malloc(count * 4);
      assert_non_null(values);
      for (size_t i = 0; i < count; i++) {
        put(values, types[t], i, ldexpf((float)((int32_t)next(&seed) >> 8), (int)(next(&seed) >> 27) - 44));
        expected = fmaxf(expected, fabsf(get(values, types[t], i)));
      }
      parts[t] = (bpdq_weight_part){rows[r], NULL, BPDQ_I32, values, types[t]};
    }
    bpdq_weight_desc desc = stack_of(parts, 3);
    assert_int_equal(bpdq_check_coefficients(pool, &desc, &largest, &error), BPDQ_OK);
    assert_true(largest == expected);
    for (int t = 0; t < 3; t++) free((void *)parts[t].coefficients);
  }
  bpdq_pool_destroy(pool);
}

/* Wherever it is, and whatever sign or payload it has. */
static void names_a_tensor_that_is_not_finite(void **unused) {
  (void)unused;
  static const float bad[] = {INFINITY, -INFINITY, NAN};
  enum { ROWS = 50000, COUNT = ROWS * COUNT_PER_ROW };
  bpdq_pool *pool = new_pool(2);
  uint8_t *good = calloc(COUNT, 4), *values = calloc(COUNT, 4);
  assert_true(good && values);
  for (size_t t = 0; t < 3; t++)
    for (size_t b = 0; b < 3; b++)
      for (size_t place = 0; place < 3; place++) {
        bpdq_weight_part parts[2] = {{ROWS, NULL, BPDQ_I32, good, types[t]}, {ROWS, NULL, BPDQ_I32, values, types[t]}};
        bpdq_weight_desc desc = stack_of(parts, 2);
        bpdq_error error = {0};
        float largest;
        put(values, types[t], place * (COUNT - 1) / 2, bad[b]);
        assert_int_equal(bpdq_check_coefficients(pool, &desc, &largest, &error), BPDQ_ERROR_FORMAT);
        assert_non_null(strstr(error.message, "model.layers.7.mlp.gate_proj"));
        put(values, types[t], place * (COUNT - 1) / 2, 0);
        assert_int_equal(bpdq_check_coefficients(pool, &desc, &largest, &error), BPDQ_OK);
      }
  free(good);
  free(values);
  bpdq_pool_destroy(pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(copies_rows),
      cmocka_unit_test(finds_the_largest_coefficient),
      cmocka_unit_test(names_a_tensor_that_is_not_finite),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
