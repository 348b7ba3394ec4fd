#define _GNU_SOURCE /* memmem */
#include "format/template/text.h"

#include <string.h>
#include <utf8proc.h>

size_t bpdq_text_step(const char *data, size_t length, int32_t *code) {
  utf8proc_int32_t decoded = -1;
  utf8proc_ssize_t bytes = utf8proc_iterate((const utf8proc_uint8_t *)data, (utf8proc_ssize_t)(length < 4 ? length : 4), &decoded);
  if (bytes <= 0) {
    *code = 0xfffd;
    return 1;
  }
  *code = decoded;
  return (size_t)bytes;
}

size_t bpdq_text_characters(bpdq_text text) {
  size_t count = 0;
  int32_t code;
  for (size_t i = 0; i < text.length; count++) i += bpdq_text_step(text.data + i, text.length - i, &code);
  return count;
}

size_t bpdq_text_offset(bpdq_text text, size_t index) {
  size_t offset = 0;
  int32_t code;
  while (index-- > 0 && offset < text.length) offset += bpdq_text_step(text.data + offset, text.length - offset, &code);
  return offset;
}

bool bpdq_text_is_space(int32_t code) {
  if (code <= 0x20) return code == 0x20 || (code >= 0x09 && code <= 0x0d) || (code >= 0x1c && code <= 0x1f);
  return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 ||
         code == 0x202f || code == 0x205f || code == 0x3000;
}

static bool strippable(int32_t code, const bpdq_text *set) {
  if (!set) return bpdq_text_is_space(code);
  char encoded[4];
  bpdq_text one = {encoded, bpdq_text_encode(code, encoded)};
  return bpdq_text_find(*set, one) >= 0;
}

bpdq_text bpdq_text_strip(bpdq_text text, const bpdq_text *set, bool left, bool right) {
  int32_t code;
  while (left && text.length) {
    size_t bytes = bpdq_text_step(text.data, text.length, &code);
    if (!strippable(code, set)) break;
    text.data += bytes;
    text.length -= bytes;
  }
  while (right && text.length) {
    size_t start = text.length - 1;
    while (start > 0 && text.length - start < 4 && ((unsigned char)text.data[start] & 0xc0) == 0x80) start--;
    if (bpdq_text_step(text.data + start, text.length - start, &code) != text.length - start || !strippable(code, set)) break;
    text.length = start;
  }
  return text;
}

int64_t bpdq_text_find(bpdq_text text, bpdq_text needle) {
  if (needle.length == 0) return 0;
  const char *found = text.length ? memmem(text.data, text.length, needle.data, needle.length) : NULL;
  return found ? found - text.data : -1;
}

int64_t bpdq_text_find_last(bpdq_text text, bpdq_text needle) {
  if (needle.length > text.length) return -1;
  for (size_t i = text.length - needle.length + 1; i-- > 0;)
    if (memcmp(text.data + i, needle.data, needle.length) == 0) return (int64_t)i;
  return -1;
}

bool bpdq_text_equal(bpdq_text a, bpdq_text b) { return a.length == b.length && (a.length == 0 || memcmp(a.data, b.data, a.length) == 0); }
bool bpdq_text_is(bpdq_text a, const char *literal) { return bpdq_text_equal(a, (bpdq_text){literal, strlen(literal)}); }
bool bpdq_text_starts(bpdq_text text, bpdq_text prefix) {
  return text.length >= prefix.length && bpdq_text_equal((bpdq_text){text.data, prefix.length}, prefix);
}
bool bpdq_text_ends(bpdq_text text, bpdq_text suffix) {
  return text.length >= suffix.length && bpdq_text_equal((bpdq_text){text.data + text.length - suffix.length, suffix.length}, suffix);
}

size_t bpdq_text_encode(int32_t code, char out[4]) { return (size_t)utf8proc_encode_char(code, (utf8proc_uint8_t *)out); }
