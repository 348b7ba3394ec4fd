/* Tables of the places where Unicode versions differ; see tests/parity/unicode_tables.py. Ranges are inclusive and sorted. */
#ifndef BPDQ_FORMAT_TOKENIZER_UNICODE_TABLE_H
#define BPDQ_FORMAT_TOKENIZER_UNICODE_TABLE_H

#include <stddef.h>
#include <stdint.h>

typedef struct bpdq_code_point_range {
  uint32_t first, last;
} bpdq_code_point_range;

typedef struct bpdq_category_range {
  uint32_t first, last, category;
} bpdq_category_range;

extern const uint32_t bpdq_category_stand_ins[][3];
extern const bpdq_category_range bpdq_category_differences[];
extern const size_t bpdq_category_difference_count;
extern const bpdq_code_point_range bpdq_word_differences[];
extern const size_t bpdq_word_difference_count;
extern const bpdq_code_point_range bpdq_inert_in_normalization[];
extern const size_t bpdq_inert_count;

#endif
