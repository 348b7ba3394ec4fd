/* Where tests write: a folder below TMPDIR, as everything on the machine that honours it. */
#ifndef BPDQ_TESTS_TEMPORARY_H
#define BPDQ_TESTS_TEMPORARY_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static inline const char *temporary_base(void) {
  const char *base = getenv("TMPDIR");
  return base && *base ? base : "/tmp";
}

/* Makes a folder with a new name that begins with `name`; its path goes to path[size]. */
static inline bool temporary_folder(char *path, size_t size, const char *name) {
  int length = snprintf(path, size, "%s/%s-XXXXXX", temporary_base(), name);
  return length > 0 && (size_t)length < size && mkdtemp(path);
}

#endif
