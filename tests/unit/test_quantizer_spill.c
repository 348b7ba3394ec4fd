/* Residual streams that lie in a file instead of memory: the same values, and a clear error where the disk has no room either. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>

#include "quantizer/capture.h"
#include "small_model.h"

enum { WINDOWS = 5, LENGTH = 24 };

typedef struct fixture {
  bpdq_checkpoint checkpoint;
  bpdq_calibration calibration;
  bpdq_block dense, quantized;
  char log[1024]; /* the last line */
} fixture;

static void note_log(void *user, bpdq_log_level level, const char *message) {
  (void)level;
  snprintf(((fixture *)user)->log, sizeof((fixture *)user)->log, "%s", message);
}

static void open_fixture(fixture *f) {
  char path[512];
  bpdq_error error = {0};
  memset(f, 0, sizeof *f);
  if (bpdq_checkpoint_open(path_in("dense", path), &f->checkpoint, NULL, &error) != BPDQ_OK) fail_msg("%s", error.message);
  f->calibration = (bpdq_calibration){calloc(WINDOWS * LENGTH, sizeof(int32_t)), WINDOWS, LENGTH};
  assert_non_null(f->calibration.ids);
  for (int i = 0; i < WINDOWS * LENGTH; i++) f->calibration.ids[i] = i * 31 % VOCAB;
  assert_int_equal(bpdq_block_load(&f->checkpoint, 0, NULL, &f->dense, NULL), BPDQ_OK);
  assert_int_equal(bpdq_block_load(&f->checkpoint, 1, NULL, &f->quantized, NULL), BPDQ_OK);
}

static void close_fixture(fixture *f) {
  bpdq_block_free(&f->dense);
  bpdq_block_free(&f->quantized);
  bpdq_calibration_free(&f->calibration);
  bpdq_checkpoint_close(&f->checkpoint);
}

static bpdq_streams_desc describe(fixture *f, const bpdq_log *log) {
  return (bpdq_streams_desc){.checkpoint = &f->checkpoint,
                             .calibration = &f->calibration,
                             .dense_target = true,
                             .residual_target = true,
                             .threads = 2,
                             .spill_folder = folder,
                             .log = log};
}

/* Both streams behind a block, [2][WINDOWS][LENGTH * HIDDEN]; malloc'ed. */
static float *move_through_block(fixture *f, const char *name, const bpdq_streams_desc *desc) {
  bpdq_algebra *algebra;
  bpdq_streams *streams;
  bpdq_error error = {0};
  size_t values = LENGTH * HIDDEN;
  float *out = malloc(2 * WINDOWS * values * sizeof *out);
  assert_non_null(out);
  assert_int_equal(bpdq_algebra_create(name, 2, &algebra, &error), BPDQ_OK);
  if (bpdq_streams_create(algebra, desc, &streams, &error) != BPDQ_OK) fail_msg("%s", error.message);
  assert_int_equal(bpdq_streams_replay(streams, &f->dense, &f->quantized, &error), BPDQ_OK);
  for (int64_t i = 0; i < WINDOWS; i++)
    assert_int_equal(streams->read(streams, i, out + (size_t)i * values, out + (size_t)(WINDOWS + i) * values, &error), BPDQ_OK);
  bpdq_streams_destroy(streams);
  algebra->destroy(algebra);
  return out;
}

static bool count_file(void *count, const char *name) {
  (void)name;
  ++*(int *)count;
  return true;
}

static void spilled_streams_hold_the_same(void **unused) {
  (void)unused;
  fixture f;
  open_fixture(&f);
  bpdq_log log = {note_log, &f};
  bpdq_streams_desc desc = describe(&f, &log);
  static const char *const NAMES[] = {"cpu", "cpu+cpu"};
  int before = 0, after = 0;
  assert_int_equal(bpdq_list_folder(folder, count_file, &before, NULL), BPDQ_OK);
  float *expected = move_through_block(&f, "cpu", &desc);
  assert_string_equal(f.log, ""); /* memory has room */
  for (int i = 0; i < 2; i++) {
    desc.spill = true;
    f.log[0] = 0;
    float *found = move_through_block(&f, NAMES[i], &desc);
    assert_memory_equal(found, expected, 2 * WINDOWS * LENGTH * HIDDEN * sizeof *found);
    assert_non_null(strstr(f.log, folder));
    free(found);
  }
  free(expected);
  assert_int_equal(bpdq_list_folder(folder, count_file, &after, NULL), BPDQ_OK);
  assert_int_equal(after, before);
  close_fixture(&f);
}

/* The message says what there is no room for, why, and which options help. */
static void lack_of_room_is_reported(void **unused) {
  (void)unused;
  fixture f;
  open_fixture(&f);
  bpdq_streams_desc desc = describe(&f, NULL);
  bpdq_algebra *algebra;
  bpdq_streams *streams;
  bpdq_error error = {0};
  char missing[512];
  assert_int_equal(bpdq_algebra_create("cpu", 2, &algebra, &error), BPDQ_OK);
  desc.spill = true;
  desc.spill_folder = path_in("missing", missing);
  assert_int_equal(bpdq_streams_create(algebra, &desc, &streams, &error), BPDQ_ERROR_MEMORY);
  assert_non_null(strstr(error.message, "missing"));
  assert_non_null(strstr(error.message, "--samples"));
  desc.spill_folder = NULL;
  assert_int_equal(bpdq_streams_create(algebra, &desc, &streams, &error), BPDQ_ERROR_MEMORY);
  desc.spill_folder = folder;
  f.calibration.count = (int64_t)1 << 40; /* more than any disk holds; the streams are not reached */
  assert_int_equal(bpdq_streams_create(algebra, &desc, &streams, &error), BPDQ_ERROR_MEMORY);
  assert_non_null(strstr(error.message, "the disk of"));
  f.calibration.count = INT64_MAX;
  assert_int_equal(bpdq_streams_create(algebra, &desc, &streams, &error), BPDQ_ERROR_MEMORY);
  f.calibration.count = WINDOWS;
  algebra->destroy(algebra);
  close_fixture(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(spilled_streams_hold_the_same), cmocka_unit_test(lack_of_room_is_reported)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
