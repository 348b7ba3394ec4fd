#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void make_one_line(char *text) {
  for (; *text; text++) {
    unsigned char c = (unsigned char)*text;
    if (c < 0x20 || c == 0x7f) *text = '?';
  }
}

bpdq_status(bpdq_fail)(bpdq_error *error, bpdq_status status, const char *format, ...) {
  if (!error) return status;
  error->status = status;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error->message, sizeof error->message, format, arguments);
  va_end(arguments);
  make_one_line(error->message);
  return status;
}

bpdq_status bpdq_fail_context(bpdq_error *error, bpdq_status status, const char *format, ...) {
  if (!error) return status;
  char tail[sizeof error->message];
  memcpy(tail, error->message, sizeof tail);
  tail[sizeof tail - 1] = 0;
  char head[sizeof error->message];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(head, sizeof head, format, arguments);
  va_end(arguments);
  return bpdq_fail(error, status, "%.400s: %.600s", head, tail);
}

const char *bpdq_version(void) { return BPDQ_VERSION; }
