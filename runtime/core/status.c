#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/utf8.h"

void bpdq_make_one_line(char *text) {
  for (size_t left = strlen(text), size; left > 0; text += size, left -= size) {
    uint32_t codepoint;
    bool valid = bpdq_utf8_next(text, left, &codepoint, &size) == BPDQ_UTF8_VALID;
    if (!valid) size = 1; /* the bytes behind it are looked at on their own */
    if (!valid || codepoint < 0x20 || codepoint == 0x7f) *text = '?';
  }
}

bpdq_status(bpdq_fail)(bpdq_error *error, bpdq_status status, const char *format, ...) {
  if (!error) return status;
  error->status = status;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error->message, sizeof error->message, format, arguments);
  va_end(arguments);
  bpdq_make_one_line(error->message);
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
