/* The normalizers of a tokenizer.json: NFC, Prepend and literal Replace. */
#include <string.h>
#include <utf8proc.h>

#include "format/tokenizer_internal.h"

/* A run of code points between characters that the library's normalizer leaves alone. */
typedef struct code_points {
  utf8proc_int32_t *values;
  size_t count, capacity;
} code_points;

static bool reserve_code_points(code_points *list, size_t extra) {
  if (list->capacity - list->count >= extra) return true;
  size_t capacity = list->capacity * 2 + extra + 64;
  utf8proc_int32_t *values = capacity <= SIZE_MAX / sizeof *values ? realloc(list->values, capacity * sizeof *values) : NULL;
  if (!values) return false;
  list->values = values;
  list->capacity = capacity;
  return true;
}

static int combining_class(utf8proc_int32_t codepoint) { return utf8proc_get_property(codepoint)->combining_class; }

/* Stable counting sort of a run of marks by combining class: linear, where sorting by exchange of neighbours is quadratic and a text of
 * nothing but marks could stall the program. */
static bool sort_marks(utf8proc_int32_t *marks, size_t count) {
  bool sorted = true;
  for (size_t i = 1; i < count && sorted; i++) sorted = combining_class(marks[i - 1]) <= combining_class(marks[i]);
  if (sorted) return true;
  size_t starts[257] = {0};
  utf8proc_int32_t *copy = bpdq_alloc_array(count, sizeof *copy);
  if (!copy) return false;
  memcpy(copy, marks, count * sizeof *copy);
  for (size_t i = 0; i < count; i++) starts[(combining_class(copy[i]) & 0xff) + 1]++;
  for (int class = 0; class < 256; class ++) starts[class + 1] += starts[class];
  for (size_t i = 0; i < count; i++) marks[starts[combining_class(copy[i]) & 0xff]++] = copy[i];
  free(copy);
  return true;
}

/* Canonical ordering, then composition, of the decomposed run; appends it as UTF-8 and empties it. */
static bool flush_run(code_points *run, bpdq_text *out) {
  for (size_t start = 0; start < run->count; start++) {
    size_t end = start;
    while (end < run->count && combining_class(run->values[end])) end++;
    if (end - start > 1 && !sort_marks(run->values + start, end - start)) return false;
    if (end > start) start = end - 1;
  }
  utf8proc_ssize_t composed =
      run->count ? utf8proc_normalize_utf32(run->values, (utf8proc_ssize_t)run->count, UTF8PROC_STABLE | UTF8PROC_COMPOSE) : 0;
  if (composed < 0) return false;
  for (utf8proc_ssize_t i = 0; i < composed; i++) {
    char bytes[4];
    if (!bpdq_text_append(out, bytes, bpdq_utf8_encode((uint32_t)run->values[i], bytes))) return false;
  }
  run->count = 0;
  return true;
}

static bool decompose_into(code_points *run, uint32_t codepoint) {
  enum { LONGEST = 8 }; /* the longest canonical decomposition has 4 code points */
  int boundary_class = UTF8PROC_BOUNDCLASS_START;
  if (!reserve_code_points(run, LONGEST)) return false;
  utf8proc_ssize_t written = utf8proc_decompose_char((utf8proc_int32_t)codepoint, run->values + run->count, LONGEST,
                                                     UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &boundary_class);
  if (written < 0 || written > LONGEST) return false;
  run->count += (size_t)written;
  return true;
}

/* Characters below U+0300 are in NFC and compose only with what follows them: text without anything above is copied. */
static bool is_plain(const char *text, size_t length) {
  for (size_t i = 0; i < length; i++) {
    if ((uint8_t)text[i] >= 0xcc) return false; /* the first byte of U+0300 */
  }
  return true;
}

static bool append_nfc(bpdq_text *out, const char *text, size_t length) {
  if (is_plain(text, length)) return bpdq_text_append(out, text, length);
  code_points run = {0};
  bool ok = true;
  for (size_t at = 0, size; ok && at < length; at += size) {
    uint32_t codepoint = bpdq_utf8_decode(text + at, &size);
    /* U+11A7 is no Hangul trailing consonant, but utf8proc before 2.9 composes it away as one. */
    if (codepoint == 0x11a7 || (codepoint >= 0x300 && bpdq_is_inert_in_normalization(codepoint)))
      ok = flush_run(&run, out) && bpdq_text_append(out, text + at, size);
    else if (codepoint < 0x80)
      /* ASCII starts a new run: it composes with nothing before it. */
      ok = flush_run(&run, out) && decompose_into(&run, codepoint);
    else
      ok = decompose_into(&run, codepoint);
  }
  ok = ok && flush_run(&run, out);
  free(run.values);
  return ok;
}

static const char *find_literal(const char *text, size_t length, bpdq_slice pattern) {
  while (length >= pattern.length) {
    const char *hit = memchr(text, pattern.data[0], length - pattern.length + 1);
    if (!hit || !memcmp(hit, pattern.data, pattern.length)) return hit;
    length -= (size_t)(hit + 1 - text);
    text = hit + 1;
  }
  return NULL;
}

bool bpdq_append_replaced(bpdq_text *out, const char *text, size_t length, bpdq_slice pattern, bpdq_slice content) {
  size_t copied = 0;
  for (const char *hit; (hit = find_literal(text + copied, length - copied, pattern)) != NULL;) {
    size_t at = (size_t)(hit - text);
    if (!bpdq_text_append(out, text + copied, at - copied) || !bpdq_text_append(out, content.data, content.length)) return false;
    copied = at + pattern.length;
  }
  return bpdq_text_append(out, text + copied, length - copied);
}

static bool apply(const bpdq_normalizer *step, const char *text, size_t length, bpdq_text *out) {
  switch (step->kind) {
    case BPDQ_NORMALIZE_NFC:
      return append_nfc(out, text, length);
    case BPDQ_NORMALIZE_PREPEND:
      return (!length || bpdq_text_append(out, step->content, step->content_length)) && bpdq_text_append(out, text, length);
    case BPDQ_NORMALIZE_REPLACE:
      return bpdq_append_replaced(out, text, length, (bpdq_slice){step->pattern, step->pattern_length},
                                  (bpdq_slice){step->content, step->content_length});
  }
  return false;
}

bpdq_status bpdq_normalize(const bpdq_normalizer_list *list, const char *text, size_t length, bpdq_text *out, bpdq_text *scratch,
                           bpdq_error *error) {
  out->length = 0;
  if (!bpdq_text_append(out, text, length)) return bpdq_out_of_memory(error);
  for (size_t i = 0; i < list->count; i++) {
    scratch->length = 0;
    if (!apply(&list->steps[i], out->data, out->length, scratch)) return bpdq_out_of_memory(error);
    bpdq_text swapped = *out;
    *out = *scratch;
    *scratch = swapped;
  }
  return BPDQ_OK;
}
