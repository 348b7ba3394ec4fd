/* How the CUDA backend's kernels are launched on devices that nobody has here: what the host works out needs no device. */
#include "../../cuda/kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define ROW_TILES 512
#define MOST_COLUMN_TILES 896 /* bpdq_cuda_planes_levels_supports */

/* Rows that blocks share need memory for a sum of every part, of which there are two at least. */
static void long_rows_have_a_shape_on_every_device(void **unused) {
  (void)unused;
  const uint64_t counters = BPDQ_CUDA_SCRATCH_COUNTERS * sizeof(int32_t), tile = (uint64_t)ROW_TILES * 128 * sizeof(float);
  for (int multiprocessors = 1; multiprocessors <= 132; multiprocessors++)
    for (int planes = 1; planes <= 3; planes++)
      for (int64_t column_tiles = 1; column_tiles <= MOST_COLUMN_TILES; column_tiles++)
        for (int64_t rows = 8; rows <= 16; rows += 8) {
          bpdq_cuda_queue queue = {.multiprocessors = multiprocessors};
          bpdq_cuda_planes weight = {
              .planes = planes, .coefficient_type = BPDQ_CUDA_BF16, .rows = ROW_TILES * 16, .column_tiles = column_tiles};
          assert_true(bpdq_cuda_planes_levels_supports(&weight, rows));
          uint64_t scratch = bpdq_cuda_planes_levels_scratch(&queue, &weight, rows);
          if (scratch && scratch < counters + 2 * tile)
            fail_msg("%lld rows, %lld column tiles, %d planes on %d multiprocessors: no shape", (long long)rows, (long long)column_tiles,
                     planes, multiprocessors);
        }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(long_rows_have_a_shape_on_every_device)};
  return cmocka_run_group_tests_name("cuda shapes", tests, NULL, NULL);
}
