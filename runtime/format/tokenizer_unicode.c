/* UTF-8, and the character classes that the tokenizer needs outside of regular expressions. */
#include <string.h>
#include <utf8proc.h>

#include "format/tokenizer_internal.h"
#include "format/tokenizer_unicode_table.h"

uint32_t bpdq_utf8_decode(const char *bytes, size_t *size) {
  const uint8_t *byte = (const uint8_t *)bytes;
  if (byte[0] < 0x80) {
    *size = 1;
    return byte[0];
  }
  if (byte[0] < 0xe0) {
    *size = 2;
    return (byte[0] & 0x1fu) << 6 | (byte[1] & 0x3fu);
  }
  if (byte[0] < 0xf0) {
    *size = 3;
    return (byte[0] & 0x0fu) << 12 | (byte[1] & 0x3fu) << 6 | (byte[2] & 0x3fu);
  }
  *size = 4;
  return (byte[0] & 0x07u) << 18 | (byte[1] & 0x3fu) << 12 | (byte[2] & 0x3fu) << 6 | (byte[3] & 0x3fu);
}

size_t bpdq_utf8_encode(uint32_t codepoint, char bytes[4]) {
  return (size_t)utf8proc_encode_char((utf8proc_int32_t)codepoint, (utf8proc_uint8_t *)bytes);
}

bool bpdq_utf8_is_valid(const char *bytes, size_t length) {
  uint32_t codepoint;
  for (size_t at = 0, size; at < length; at += size) {
    if (bpdq_utf8_next(bytes + at, length - at, &codepoint, &size) != BPDQ_UTF8_VALID) return false;
  }
  return true;
}

bool bpdq_utf8_append_lossy(bpdq_text *out, const char *bytes, size_t length) {
  uint32_t codepoint;
  size_t copied = 0, at = 0, size;
  for (; at < length; at += size) {
    if (bpdq_utf8_next(bytes + at, length - at, &codepoint, &size) == BPDQ_UTF8_VALID) continue;
    if (!bpdq_text_append(out, bytes + copied, at - copied) || !bpdq_text_append(out, "\xef\xbf\xbd", 3)) return false;
    copied = at + size;
  }
  return bpdq_text_append(out, bytes + copied, length - copied);
}

/* Property White_Space: unchanged since Unicode 6.3, and by its stability policy hardly ever to change. */
bool bpdq_is_white_space(uint32_t codepoint) {
  if (codepoint <= 0x20) return codepoint == 0x20 || (codepoint >= 0x09 && codepoint <= 0x0d);
  if (codepoint < 0x2000) return codepoint == 0x85 || codepoint == 0xa0 || codepoint == 0x1680;
  return codepoint <= 0x200a || codepoint == 0x2028 || codepoint == 0x2029 || codepoint == 0x202f || codepoint == 0x205f ||
         codepoint == 0x3000;
}

static bool in_ranges(const bpdq_code_point_range *ranges, size_t count, uint32_t codepoint) {
  size_t low = 0, high = count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (ranges[middle].last < codepoint)
      low = middle + 1;
    else
      high = middle;
  }
  return low < count && ranges[low].first <= codepoint;
}

static const bpdq_category_range *category_difference(uint32_t codepoint) {
  if (codepoint < bpdq_category_differences[0].first) return NULL;
  size_t low = 0, high = bpdq_category_difference_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (bpdq_category_differences[middle].last < codepoint)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == bpdq_category_difference_count || bpdq_category_differences[low].first > codepoint) return NULL;
  return &bpdq_category_differences[low];
}

/* Unicode TR18 \w: alphabetic, marks, decimal numbers, connectors, joiners. utf8proc has no property Alphabetic; beyond letters, letter
 * numbers and marks it covers the enclosed Latin letters only. */
bool bpdq_is_word_character(uint32_t codepoint) {
  if (codepoint == 0x200c || codepoint == 0x200d) return true;
  if (category_difference(codepoint)) return in_ranges(bpdq_word_differences, bpdq_word_difference_count, codepoint);
  if ((codepoint >= 0x24b6 && codepoint <= 0x24e9) || (codepoint >= 0x1f130 && codepoint <= 0x1f149) ||
      (codepoint >= 0x1f150 && codepoint <= 0x1f169) || (codepoint >= 0x1f170 && codepoint <= 0x1f189))
    return true;
  switch (utf8proc_category((utf8proc_int32_t)codepoint)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

uint32_t bpdq_match_stand_in(uint32_t codepoint) {
  const bpdq_category_range *range = category_difference(codepoint);
  if (!range) return codepoint;
  uint32_t stand_in = bpdq_category_stand_ins[range->category][codepoint < 0x800 ? 0 : codepoint < 0x10000 ? 1 : 2];
  return stand_in ? stand_in : codepoint;
}

bool bpdq_is_inert_in_normalization(uint32_t codepoint) { return in_ranges(bpdq_inert_in_normalization, bpdq_inert_count, codepoint); }
