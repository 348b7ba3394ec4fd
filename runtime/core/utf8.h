/* What is UTF-8 and what is not. */
#ifndef BPDQ_CORE_UTF8_H
#define BPDQ_CORE_UTF8_H

#include <stddef.h>
#include <stdint.h>

typedef enum bpdq_utf8_kind { BPDQ_UTF8_VALID, BPDQ_UTF8_INVALID, BPDQ_UTF8_INCOMPLETE } bpdq_utf8_kind;

/* Looks at the sequence at the start of bytes[0..length), length >= 1. VALID: *size bytes encode *codepoint. INVALID: the first *size
 * bytes are a maximal ill-formed subsequence (Unicode 3.9, "U+FFFD substitution of maximal subparts"). INCOMPLETE: all *size == length
 * bytes could still become valid. */
bpdq_utf8_kind bpdq_utf8_next(const char *bytes, size_t length, uint32_t *codepoint, size_t *size);

#endif
