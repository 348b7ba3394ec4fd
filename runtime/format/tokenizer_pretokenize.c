/* Cuts text into words: Split, ByteLevel and Metaspace, one after another over a list of spans. */
#include <string.h>

#include "format/tokenizer_internal.h"

/* ---- GPT-2's bytes as printable characters: ! to ~, U+00A1 to U+00AC and U+00AE to U+00FF stand for themselves, the other 68 bytes are
 * U+0100 and on, in order. ---- */

static bool stands_for_itself(uint32_t byte) { return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xff && byte != 0xad); }

uint32_t bpdq_byte_level_character(uint8_t byte) {
  if (stands_for_itself(byte)) return byte;
  if (byte <= 0x20) return 0x100u + byte;
  if (byte <= 0xa0) return 0x100u + 0x21 + byte - 0x7f;
  return 0x143; /* 0xad */
}

int bpdq_byte_level_byte(uint32_t codepoint) {
  if (codepoint < 0x100) return stands_for_itself(codepoint) ? (int)codepoint : -1;
  if (codepoint <= 0x120) return (int)(codepoint - 0x100);
  if (codepoint <= 0x142) return (int)(codepoint - 0x121 + 0x7f);
  return codepoint == 0x143 ? 0xad : -1;
}

/* ---- spans ---- */

/* Empty pieces vanish, as in the Python library. */
static bool add_span(bpdq_pieces *pieces, size_t start, size_t length) {
  if (!length) return true;
  if (pieces->count == pieces->capacity) {
    size_t capacity = pieces->capacity ? pieces->capacity * 2 : 64;
    bpdq_span *spans = capacity <= SIZE_MAX / sizeof *spans ? realloc(pieces->spans, capacity * sizeof *spans) : NULL;
    if (!spans) return false;
    pieces->spans = spans;
    pieces->capacity = capacity;
  }
  pieces->spans[pieces->count++] = (bpdq_span){start, length};
  return true;
}

/* ---- cutting a piece at the matches of a pattern ---- */

/* What happens to matches and to the text between them, one run at a time, left to right. */
typedef struct cutter {
  bpdq_split_behavior behavior;
  bpdq_pieces *out;
  bool waiting;   /* a span waits for what comes next */
  bool was_match; /* the last run was a match */
  bpdq_span span; /* the waiting span */
} cutter;

static bool release(cutter *cutter) {
  bool ok = !cutter->waiting || add_span(cutter->out, cutter->span.start, cutter->span.length);
  cutter->waiting = false;
  return ok;
}

/* `start` is an offset in out->text. A waiting span always ends where the next run starts. */
static bool cut_run(cutter *cutter, size_t start, size_t length, bool is_match) {
  bool joins = false, ok = true;
  switch (cutter->behavior) {
    case BPDQ_SPLIT_REMOVED:
      if (is_match) return true;
      break;
    case BPDQ_SPLIT_ISOLATED:
      break;
    case BPDQ_SPLIT_CONTIGUOUS:
      joins = cutter->waiting && is_match == cutter->was_match;
      break;
    case BPDQ_SPLIT_MERGED_WITH_PREVIOUS:
      joins = cutter->waiting && is_match && !cutter->was_match;
      break;
    case BPDQ_SPLIT_MERGED_WITH_NEXT:
      joins = cutter->waiting && !is_match && cutter->was_match;
      break;
  }
  cutter->was_match = is_match;
  if (joins) {
    cutter->span.length += length;
    return true;
  }
  ok = release(cutter);
  cutter->span = (bpdq_span){start, length};
  cutter->waiting = true;
  return ok;
}

/* A copy of the piece with stand-in characters where Unicode versions differ, or the piece itself. */
static const char *subject_of(const char *text, size_t length, bpdq_text *copy, bpdq_error *error) {
  bool copied = false;
  for (size_t at = 0, size; at < length; at += size) {
    if ((uint8_t)text[at] < 0xca) { /* below U+0280 nothing differs */
      size = (uint8_t)text[at] < 0x80 ? 1 : 2;
      continue;
    }
    uint32_t codepoint = bpdq_utf8_decode(text + at, &size), stand_in = bpdq_match_stand_in(codepoint);
    if (stand_in == codepoint) continue;
    if (!copied) {
      copy->length = 0;
      if (!bpdq_text_append(copy, text, length)) {
        bpdq_out_of_memory(error);
        return NULL;
      }
      copied = true;
    }
    bpdq_utf8_encode(stand_in, copy->data + at); /* of the same length */
  }
  return copied ? copy->data : text;
}

static bpdq_status cut_piece(cutter *cutter, const bpdq_pattern *pattern, bool invert, bpdq_span piece, bpdq_pretokenize_scratch *scratch,
                             bpdq_error *error) {
  const char *subject = subject_of(cutter->out->text.data + piece.start, piece.length, &scratch->stand_in, error);
  if (!subject) return BPDQ_ERROR_MEMORY;
  size_t done = 0, from = 0;
  bool any = false;
  cutter->was_match = false;
  while (from <= piece.length) {
    bool found;
    size_t start, end, size = 1;
    BPDQ_TRY(bpdq_pattern_find(pattern, scratch->matcher, subject, piece.length, from, &found, &start, &end, error));
    if (!found) break;
    if (start == end && any && end == done) {
      /* An empty match right behind a match does not count: look one character further on. */
      if (from < piece.length) bpdq_utf8_decode(subject + from, &size);
      from += size;
      continue;
    }
    if (start > done && !cut_run(cutter, piece.start + done, start - done, invert)) return bpdq_out_of_memory(error);
    if (!cut_run(cutter, piece.start + start, end - start, !invert)) return bpdq_out_of_memory(error);
    done = from = end;
    any = true;
  }
  if (done < piece.length && !cut_run(cutter, piece.start + done, piece.length - done, invert)) return bpdq_out_of_memory(error);
  return release(cutter) ? BPDQ_OK : bpdq_out_of_memory(error);
}

static bpdq_status cut_all(const bpdq_pattern *pattern, bpdq_split_behavior behavior, bool invert, const bpdq_span *pieces, size_t count,
                           bpdq_pieces *out, bpdq_pretokenize_scratch *scratch, bpdq_error *error) {
  if (!scratch->matcher) BPDQ_TRY(bpdq_matcher_create(&scratch->matcher, error));
  cutter cutter = {.behavior = behavior, .out = out};
  for (size_t i = 0; i < count; i++) BPDQ_TRY(cut_piece(&cutter, pattern, invert, pieces[i], scratch, error));
  return BPDQ_OK;
}

/* ---- the three pre-tokenizers: `in` to `out` ---- */

/* Each span of `in`, with a blank before it where it does not start with one. */
static bool copy_with_space(bpdq_pieces *out, const bpdq_pieces *in) {
  out->count = 0;
  out->text.length = 0;
  for (size_t i = 0; i < in->count; i++) {
    const char *piece = in->text.data + in->spans[i].start;
    size_t start = out->text.length;
    if (piece[0] != ' ' && !bpdq_text_append(&out->text, " ", 1)) return false;
    if (!bpdq_text_append(&out->text, piece, in->spans[i].length) || !add_span(out, start, out->text.length - start)) return false;
  }
  return true;
}

/* Every byte as its printable character. */
static bool map_bytes(bpdq_pieces *out, const bpdq_pieces *in) {
  out->count = 0;
  out->text.length = 0;
  for (size_t i = 0; i < in->count; i++) {
    const uint8_t *piece = (const uint8_t *)in->text.data + in->spans[i].start;
    size_t start = out->text.length, length = in->spans[i].length;
    if (length > SIZE_MAX / 2 || !bpdq_text_reserve(&out->text, 2 * length)) return false;
    char *write = out->text.data + start;
    for (size_t k = 0; k < length; k++) {
      uint32_t character = bpdq_byte_level_character(piece[k]);
      if (character < 0x80) {
        *write++ = (char)character;
      } else {
        *write++ = (char)(0xc0 | character >> 6);
        *write++ = (char)(0x80 | (character & 0x3f));
      }
    }
    out->text.length = (size_t)(write - out->text.data);
    if (!add_span(out, start, out->text.length - start)) return false;
  }
  return true;
}

static bool replace_blanks(const bpdq_pretokenizer *step, bpdq_pieces *out, const bpdq_pieces *in, bool at_text_start) {
  bpdq_slice mark = {step->replacement, strlen(step->replacement)};
  out->count = 0;
  out->text.length = 0;
  for (size_t i = 0; i < in->count; i++) {
    const char *piece = in->text.data + in->spans[i].start;
    size_t start = out->text.length, length = in->spans[i].length;
    bool wanted = step->prepend_scheme == BPDQ_PREPEND_ALWAYS || (step->prepend_scheme == BPDQ_PREPEND_FIRST && at_text_start && i == 0);
    bool marked = piece[0] == ' ' || (length >= mark.length && !memcmp(piece, mark.data, mark.length));
    if (wanted && !marked && !bpdq_text_append(&out->text, mark.data, mark.length)) return false;
    if (!bpdq_append_replaced(&out->text, piece, length, (bpdq_slice){" ", 1}, mark)) return false;
    if (!add_span(out, start, out->text.length - start)) return false;
  }
  return true;
}

static void swap_pieces(bpdq_pieces *a, bpdq_pieces *b) {
  bpdq_pieces held = *a;
  *a = *b;
  *b = held;
}

/* Cuts the spans of `current` in place of themselves; `other` holds the old ones afterwards. The text stays where it is. */
static bpdq_status cut_in_place(const bpdq_pattern *pattern, bpdq_split_behavior behavior, bool invert, bpdq_pieces *current,
                                bpdq_pieces *other, bpdq_pretokenize_scratch *scratch, bpdq_error *error) {
  bpdq_text text = current->text;
  current->text = other->text;
  other->text = text;
  other->count = 0;
  BPDQ_TRY(cut_all(pattern, behavior, invert, current->spans, current->count, other, scratch, error));
  swap_pieces(current, other);
  return BPDQ_OK;
}

static bpdq_status apply(const bpdq_pretokenizer *step, bool at_text_start, bpdq_pieces *current, bpdq_pieces *other,
                         bpdq_pretokenize_scratch *scratch, bpdq_error *error) {
  switch (step->kind) {
    case BPDQ_PRETOKENIZE_SPLIT:
      return cut_in_place(step->pattern, step->behavior, step->invert, current, other, scratch, error);
    case BPDQ_PRETOKENIZE_BYTE_LEVEL:
      if (step->add_prefix_space) {
        if (!copy_with_space(other, current)) return bpdq_out_of_memory(error);
        swap_pieces(current, other);
      }
      if (step->pattern) BPDQ_TRY(cut_in_place(step->pattern, BPDQ_SPLIT_ISOLATED, false, current, other, scratch, error));
      if (!map_bytes(other, current)) return bpdq_out_of_memory(error);
      swap_pieces(current, other);
      return BPDQ_OK;
    case BPDQ_PRETOKENIZE_METASPACE:
      if (!replace_blanks(step, other, current, at_text_start)) return bpdq_out_of_memory(error);
      swap_pieces(current, other);
      if (step->pattern) BPDQ_TRY(cut_in_place(step->pattern, BPDQ_SPLIT_MERGED_WITH_NEXT, false, current, other, scratch, error));
      return BPDQ_OK;
  }
  return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "unknown pre-tokenizer");
}

bpdq_status bpdq_pretokenize(const bpdq_pretokenizer_list *list, const char *text, size_t length, bool at_text_start,
                             bpdq_pretokenize_scratch *scratch, const bpdq_pieces **words, bpdq_error *error) {
  bpdq_pieces *current = &scratch->pieces[0], *other = &scratch->pieces[1];
  current->count = 0;
  current->text.length = 0;
  if (!bpdq_text_append(&current->text, text, length) || !add_span(current, 0, length)) return bpdq_out_of_memory(error);
  for (size_t i = 0; i < list->count; i++) {
    size_t first = current->count ? current->spans[0].start : 0;
    BPDQ_TRY(apply(&list->steps[i], at_text_start, current, other, scratch, error));
    /* A Split may remove the first piece: what is first then is not the start of the text. */
    bool kept = current->count && current->spans[0].start == first;
    if (list->steps[i].kind == BPDQ_PRETOKENIZE_SPLIT && !kept) at_text_start = false;
  }
  *words = current;
  return BPDQ_OK;
}

void bpdq_pretokenize_scratch_free(bpdq_pretokenize_scratch *scratch) {
  for (int i = 0; i < 2; i++) {
    bpdq_text_free(&scratch->pieces[i].text);
    free(scratch->pieces[i].spans);
    scratch->pieces[i] = (bpdq_pieces){0};
  }
  bpdq_text_free(&scratch->stand_in);
  bpdq_matcher_free(scratch->matcher);
  scratch->matcher = NULL;
}
