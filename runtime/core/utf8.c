#include "core/utf8.h"

bpdq_utf8_kind bpdq_utf8_next(const char *bytes, size_t length, uint32_t *codepoint, size_t *size) {
  const uint8_t *byte = (const uint8_t *)bytes;
  *size = 1;
  if (byte[0] < 0x80) {
    *codepoint = byte[0];
    return BPDQ_UTF8_VALID;
  }
  if (byte[0] < 0xc2 || byte[0] > 0xf4) return BPDQ_UTF8_INVALID;
  size_t wanted = byte[0] < 0xe0 ? 2 : byte[0] < 0xf0 ? 3 : 4;
  /* The second byte decides about overlong forms, surrogates and values above U+10FFFF (Unicode table 3-7). */
  uint8_t low = byte[0] == 0xe0 ? 0xa0 : byte[0] == 0xf0 ? 0x90 : 0x80;
  uint8_t high = byte[0] == 0xed ? 0x9f : byte[0] == 0xf4 ? 0x8f : 0xbf;
  uint32_t value = byte[0] & (0x7fu >> wanted);
  for (; *size < wanted; ++*size) {
    if (*size == length) return BPDQ_UTF8_INCOMPLETE;
    if (byte[*size] < low || byte[*size] > high) return BPDQ_UTF8_INVALID;
    value = value << 6 | (byte[*size] & 0x3fu);
    low = 0x80;
    high = 0xbf;
  }
  *codepoint = value;
  return BPDQ_UTF8_VALID;
}
