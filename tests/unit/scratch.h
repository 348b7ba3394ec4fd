/* A temporary folder for the tests of one program, and the assertion that cmocka lacks. Include after cmocka.h. */
#ifndef BPDQ_TESTS_UNIT_SCRATCH_H
#define BPDQ_TESTS_UNIT_SCRATCH_H

#include <stdlib.h>
#include <string.h>

#include "../temporary.h"
#include "core/platform.h"

static char scratch[4096];

static inline int scratch_create(void **state) {
  (void)state;
  return temporary_folder(scratch, sizeof scratch, "bpdq-test") ? 0 : -1;
}

static inline int scratch_remove(void **state) {
  (void)state;
  return bpdq_remove_folder(scratch, NULL) == BPDQ_OK ? 0 : -1;
}

/* malloc'ed. */
static inline char *scratch_path(const char *name) {
  char *path = bpdq_path_join(scratch, name);
  assert_non_null(path);
  return path;
}

static inline void scratch_folder(const char *name) {
  char *path = scratch_path(name);
  assert_int_equal(bpdq_make_folder(path, NULL), BPDQ_OK);
  free(path);
}

static inline void scratch_write(const char *name, const void *data, size_t bytes) {
  char *path = scratch_path(name);
  bpdq_output_file *file;
  assert_int_equal(bpdq_output_open(path, &file, NULL), BPDQ_OK);
  assert_int_equal(bpdq_output_write(file, data, bytes, NULL), BPDQ_OK);
  assert_int_equal(bpdq_output_commit(file, NULL), BPDQ_OK);
  free(path);
}

static inline void scratch_write_text(const char *name, const char *text) { scratch_write(name, text, strlen(text)); }

#define assert_contains(text, part)                                               \
  do {                                                                            \
    if (!strstr((text), (part))) fail_msg("'%s' is not in '%s'", (part), (text)); \
  } while (0)

#endif
