/* Strings as Python sees them: counted in code points, Unicode white space, Unicode case. */
#ifndef BPDQ_FORMAT_TEMPLATE_TEXT_H
#define BPDQ_FORMAT_TEMPLATE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct bpdq_text {
  const char *data; /* UTF-8; not necessarily NUL-terminated */
  size_t length;    /* bytes */
} bpdq_text;

/* Bytes of the code point that starts at data[0]; an invalid byte counts as one code point. `length` > 0. */
size_t bpdq_text_step(const char *data, size_t length, int32_t *code);

size_t bpdq_text_characters(bpdq_text text);

/* Byte offset of code point `index`, or text.length where the text is shorter. */
size_t bpdq_text_offset(bpdq_text text, size_t index);

bool bpdq_text_is_space(int32_t code); /* str.isspace() of one character */

/* Without the leading (left) and trailing (right) characters that occur in `set`, or that are white space where set is NULL. */
bpdq_text bpdq_text_strip(bpdq_text text, const bpdq_text *set, bool left, bool right);

/* Byte offset of the first (last) occurrence of `needle`, or -1. */
int64_t bpdq_text_find(bpdq_text text, bpdq_text needle);
int64_t bpdq_text_find_last(bpdq_text text, bpdq_text needle);

bool bpdq_text_equal(bpdq_text a, bpdq_text b);
bool bpdq_text_is(bpdq_text a, const char *literal);
bool bpdq_text_starts(bpdq_text text, bpdq_text prefix);
bool bpdq_text_ends(bpdq_text text, bpdq_text suffix);

/* UTF-8 of `code` into out[4]; the number of bytes. */
size_t bpdq_text_encode(int32_t code, char out[4]);

#endif
