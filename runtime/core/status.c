#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Bytes of the UTF-8 character at the start of NUL-terminated text, or 0 where there is none (Unicode table 3-7). */
static size_t character_bytes(const unsigned char *text) {
  unsigned char first = text[0], low = 0x80, high = 0xbf;
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  size_t bytes = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (first == 0xe0) low = 0xa0;
  if (first == 0xf0) low = 0x90;
  if (first == 0xed) high = 0x9f;
  if (first == 0xf4) high = 0x8f;
  for (size_t i = 1; i < bytes; i++, low = 0x80, high = 0xbf)
    if (text[i] < low || text[i] > high) return 0;
  return bytes;
}

void bpdq_make_one_line(char *text) {
  while (*text) {
    size_t bytes = character_bytes((const unsigned char *)text);
    if (bytes == 0 || (unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
    text += bytes ? bytes : 1;
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
