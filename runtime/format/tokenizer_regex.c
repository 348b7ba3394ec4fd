/* Regular expressions of a tokenizer.json, run by PCRE2.
 *
 * The Python library runs them in Oniguruma with Ruby syntax. The two engines backtrack alike, so a match is the same once the expression
 * means the same. The translation below lets through what published tokenizers use and what both read alike, rewrites what PCRE2 would
 * read differently, and refuses everything else by name. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>

#include "format/tokenizer_internal.h"

enum { LONGEST_EXPRESSION = 65536, DEEPEST_GROUP = 32 };

struct bpdq_pattern {
  pcre2_code *code;
  bool compiled_to_machine_code;
};

struct bpdq_matcher {
  pcre2_match_data *data;
  pcre2_match_context *context;
  pcre2_jit_stack *stack; /* NULL where PCRE2 has no JIT for this machine */
};

/* ---- translation ---- */

typedef struct translator {
  const char *at, *end;
  bpdq_text out;
  bpdq_error *error;
  int depth;
  bool unbounded[DEEPEST_GROUP + 1]; /* the group at this depth holds a * or + */
} translator;

static bpdq_status refuse(translator *t, const char *construct, size_t length) {
  return bpdq_fail(t->error, BPDQ_ERROR_UNSUPPORTED, "the tokenizer's regular expression uses '%.*s', which is not supported here",
                   (int)(length > 40 ? 40 : length), construct);
}

static bpdq_status put(translator *t, const char *text, size_t length) {
  return bpdq_text_append(&t->out, text, length) ? BPDQ_OK : bpdq_out_of_memory(t->error);
}

static bpdq_status put_string(translator *t, const char *text) { return put(t, text, strlen(text)); }

/* \p{L}, \P{Lu}, \p{^N}: general categories only. Scripts and the like mean different sets in the two engines. */
static bpdq_status translate_property(translator *t) {
  static const char *const categories[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N", "Nd",
                                           "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm",
                                           "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf"};
  const char *start = t->at;
  const char *close = memchr(start, '}', (size_t)(t->end - start));
  if (!close || t->end - start < 5 || start[2] != '{') return refuse(t, start, (size_t)(t->end - start));
  bool negated = start[1] == 'P';
  const char *name = start + 3;
  if (*name == '^') {
    negated = !negated;
    name++;
  }
  for (size_t i = 0; i < sizeof categories / sizeof categories[0]; i++) {
    if (strlen(categories[i]) != (size_t)(close - name) || strncmp(categories[i], name, (size_t)(close - name))) continue;
    BPDQ_TRY(put_string(t, negated ? "\\P{" : "\\p{"));
    t->at = close + 1;
    return put(t, name, (size_t)(close + 1 - name));
  }
  return refuse(t, start, (size_t)(close + 1 - start));
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* \uHHHH, \xHH below 80 (above it is a raw byte in Oniguruma) and \x{H...}. */
static bpdq_status translate_code_point(translator *t) {
  const char *start = t->at, *digit = t->at + 2;
  bool braces = start[1] == 'x' && digit < t->end && *digit == '{';
  size_t wanted = start[1] == 'u' ? 4 : 2, digits = 0;
  uint32_t value = 0;
  if (braces) {
    digit++;
    wanted = 6;
  }
  for (; digit < t->end && digits < wanted && hex_digit(*digit) >= 0; digit++, digits++) value = value * 16 + (uint32_t)hex_digit(*digit);
  bool closed = !braces || (digit < t->end && *digit == '}');
  if (braces ? !digits || !closed : digits != wanted) return refuse(t, start, (size_t)(t->end - start));
  if (value > 0x10ffff || (value >= 0xd800 && value < 0xe000) || (start[1] == 'x' && !braces && value >= 0x80))
    return refuse(t, start, (size_t)(digit - start));
  t->at = digit + braces;
  char text[16];
  snprintf(text, sizeof text, "\\x{%x}", value);
  return put_string(t, text);
}

/* One escape, inside or outside of a class. \s and \S: PCRE2's \s has U+180E, which is no white space since Unicode 6.3. */
static bpdq_status translate_escape(translator *t) {
  static const struct {
    char letter;
    const char *translation;
  } letters[] = {{'s', "\\p{White_Space}"}, {'S', "\\P{White_Space}"}, {'d', "\\p{Nd}"}, {'D', "\\P{Nd}"}, {'r', "\\x{d}"},
                 {'n', "\\x{a}"},           {'t', "\\x{9}"},           {'f', "\\x{c}"},  {'v', "\\x{b}"}};
  if (t->end - t->at < 2) return refuse(t, t->at, 1);
  char letter = t->at[1];
  if (letter == 'p' || letter == 'P') return translate_property(t);
  if (letter == 'x' || letter == 'u') return translate_code_point(t);
  for (size_t i = 0; i < sizeof letters / sizeof letters[0]; i++) {
    if (letters[i].letter != letter) continue;
    t->at += 2;
    return put_string(t, letters[i].translation);
  }
  bool punctuation =
      letter > ' ' && letter < 0x7f && !(letter >= '0' && letter <= '9') && !((letter | 0x20) >= 'a' && (letter | 0x20) <= 'z');
  if (!punctuation && letter != ' ') return refuse(t, t->at, 2);
  BPDQ_TRY(put(t, t->at, 2));
  t->at += 2;
  return BPDQ_OK;
}

/* [...]: nested sets and intersections are Oniguruma's own. */
static bpdq_status translate_class(translator *t) {
  const char *start = t->at++;
  BPDQ_TRY(put_string(t, "["));
  if (t->at < t->end && *t->at == '^') {
    t->at++;
    BPDQ_TRY(put_string(t, "^"));
  }
  if (t->at < t->end && *t->at == ']') return refuse(t, start, (size_t)(t->at + 1 - start));
  while (t->at < t->end && *t->at != ']') {
    if (*t->at == '[' || (*t->at == '&' && t->end - t->at > 1 && t->at[1] == '&')) return refuse(t, t->at, 2);
    if (*t->at == '\\') {
      BPDQ_TRY(translate_escape(t));
    } else {
      BPDQ_TRY(put(t, t->at++, 1));
    }
  }
  if (t->at == t->end) return refuse(t, start, (size_t)(t->end - start));
  t->at++;
  return put_string(t, "]");
}

static bpdq_status translate_group(translator *t) {
  static const char *const openings[] = {"(?i:", "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
  if (t->depth == DEEPEST_GROUP) return refuse(t, t->at, (size_t)(t->end - t->at));
  t->unbounded[++t->depth] = false;
  for (size_t i = 0; i < sizeof openings / sizeof openings[0]; i++) {
    size_t length = strlen(openings[i]);
    if ((size_t)(t->end - t->at) < length || strncmp(t->at, openings[i], length)) continue;
    t->at += length;
    return put_string(t, openings[i]);
  }
  if (t->end - t->at > 1 && t->at[1] == '?') return refuse(t, t->at, (size_t)(t->end - t->at));
  t->at++;
  return put_string(t, "(?:"); /* captures are not used: references to them are refused */
}

/* {n}, {n,}, {,m}, {n,m}. A suffix means something else in Ruby syntax. */
static bpdq_status translate_interval(translator *t, bool *unbounded) {
  const char *start = t->at++;
  unsigned low = 0, high = 0;
  int low_digits = 0, high_digits = 0;
  for (; t->at < t->end && *t->at >= '0' && *t->at <= '9' && low_digits < 4; t->at++, low_digits++)
    low = low * 10 + (unsigned)(*t->at - '0');
  bool comma = t->at < t->end && *t->at == ',';
  t->at += comma;
  for (; t->at < t->end && *t->at >= '0' && *t->at <= '9' && high_digits < 4; t->at++, high_digits++)
    high = high * 10 + (unsigned)(*t->at - '0');
  bool closed = t->at < t->end && *t->at == '}';
  bool suffix = closed && t->end - t->at > 1 && (t->at[1] == '+' || t->at[1] == '?' || t->at[1] == '*');
  if (!closed || suffix || (!low_digits && !high_digits) || (high_digits && low > high)) return refuse(t, start, (size_t)(t->end - start));
  t->at++;
  *unbounded = comma && !high_digits;
  char text[32];
  if (!comma)
    snprintf(text, sizeof text, "{%u}", low);
  else if (high_digits)
    snprintf(text, sizeof text, "{%u,%u}", low, high);
  else
    snprintf(text, sizeof text, "{%u,}", low);
  return put_string(t, text);
}

/* A repetition of a repetition can take exponential time: refused where both are unbounded. */
static bpdq_status translate_quantifier(translator *t, bool after_group, bool group_unbounded) {
  const char *start = t->at;
  bool unbounded = *t->at == '*' || *t->at == '+';
  if (*t->at == '{') {
    BPDQ_TRY(translate_interval(t, &unbounded));
  } else {
    size_t length = t->end - t->at > 1 && (t->at[1] == '+' || t->at[1] == '?') ? 2 : 1; /* possessive, lazy */
    BPDQ_TRY(put(t, t->at, length));
    t->at += length;
  }
  if (t->at < t->end && (*t->at == '*' || *t->at == '+' || *t->at == '?' || *t->at == '{'))
    return refuse(t, start, (size_t)(t->at + 1 - start));
  if (unbounded && after_group && group_unbounded) return refuse(t, start, (size_t)(t->at - start));
  if (unbounded) t->unbounded[t->depth] = true;
  return BPDQ_OK;
}

static bpdq_status translate_all(translator *t) {
  bool can_repeat = false, after_group = false, group_unbounded = false;
  while (t->at < t->end) {
    char c = *t->at;
    bool quantifier = c == '*' || c == '+' || c == '?' || c == '{';
    if (quantifier && !can_repeat) return refuse(t, t->at, 1);
    if (quantifier) {
      BPDQ_TRY(translate_quantifier(t, after_group, group_unbounded));
      can_repeat = false;
      continue;
    }
    after_group = false;
    can_repeat = c != '(' && c != '|';
    if (c == '\\') {
      BPDQ_TRY(translate_escape(t));
    } else if (c == '[') {
      BPDQ_TRY(translate_class(t));
    } else if (c == '(') {
      BPDQ_TRY(translate_group(t));
    } else if (c == '^' || c == '$' || c == '}' || c == ']') {
      return refuse(t, t->at, 1); /* anchors of lines in Ruby syntax; unbalanced brackets */
    } else {
      if (c == ')') {
        if (!t->depth) return refuse(t, t->at, 1);
        after_group = true;
        group_unbounded = t->unbounded[t->depth--];
        if (group_unbounded) t->unbounded[t->depth] = true;
      }
      BPDQ_TRY(put(t, t->at++, 1));
    }
  }
  return t->depth ? refuse(t, "(", 1) : put(t, "", 1);
}

bpdq_status bpdq_pattern_translate(const char *expression, size_t length, char **translated, bpdq_error *error) {
  *translated = NULL;
  if (length > LONGEST_EXPRESSION)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the tokenizer has a regular expression of %zu bytes; the limit is %d", length,
                     LONGEST_EXPRESSION);
  translator t = {.at = expression, .end = expression + length, .error = error};
  bpdq_status status = translate_all(&t);
  if (status != BPDQ_OK) {
    bpdq_text_free(&t.out);
    return status;
  }
  *translated = t.out.data;
  return BPDQ_OK;
}

/* ---- compilation ---- */

static bpdq_status compile(const char *expression, size_t length, uint32_t options, bpdq_pattern **pattern, bpdq_error *error) {
  *pattern = NULL;
  bpdq_pattern *made = calloc(1, sizeof *made);
  pcre2_compile_context *context = pcre2_compile_context_create(NULL);
  if (!made || !context) {
    free(made);
    pcre2_compile_context_free(context);
    return bpdq_out_of_memory(error);
  }
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int code = 0;
  PCRE2_SIZE offset = 0;
  made->code = pcre2_compile((PCRE2_SPTR)expression, length, PCRE2_UTF | options, &code, &offset, context);
  pcre2_compile_context_free(context);
  if (!made->code) {
    char reason[160] = "";
    pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
    free(made);
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the tokenizer's regular expression cannot be compiled: %s at byte %zu of '%.120s'", reason,
                     (size_t)offset, expression);
  }
  made->compiled_to_machine_code = pcre2_jit_compile(made->code, PCRE2_JIT_COMPLETE) == 0;
  *pattern = made;
  return BPDQ_OK;
}

bpdq_status bpdq_pattern_compile(const char *expression, size_t length, bpdq_pattern **pattern, bpdq_error *error) {
  char *translated;
  *pattern = NULL;
  BPDQ_TRY(bpdq_pattern_translate(expression, length, &translated, error));
  bpdq_status status = compile(translated, strlen(translated), PCRE2_UCP, pattern, error);
  free(translated);
  return status;
}

bpdq_status bpdq_pattern_compile_literal(const char *literal, size_t length, bpdq_pattern **pattern, bpdq_error *error) {
  return compile(literal, length, PCRE2_LITERAL, pattern, error);
}

void bpdq_pattern_free(bpdq_pattern *pattern) {
  if (!pattern) return;
  pcre2_code_free(pattern->code);
  free(pattern);
}

/* ---- matching ---- */

bpdq_status bpdq_matcher_create(bpdq_matcher **matcher, bpdq_error *error) {
  enum { FIRST_STACK = 32 << 10, LARGEST_STACK = 4 << 20, HEAP_LIMIT_KIB = 64 << 10 };
  bpdq_matcher *made = calloc(1, sizeof *made);
  *matcher = NULL;
  if (!made) return bpdq_out_of_memory(error);
  made->data = pcre2_match_data_create(1, NULL);
  made->context = pcre2_match_context_create(NULL);
  if (!made->data || !made->context) {
    bpdq_matcher_free(made);
    return bpdq_out_of_memory(error);
  }
  made->stack = pcre2_jit_stack_create(FIRST_STACK, LARGEST_STACK, NULL);
  if (made->stack) pcre2_jit_stack_assign(made->context, NULL, made->stack);
  pcre2_set_heap_limit(made->context, HEAP_LIMIT_KIB);
  *matcher = made;
  return BPDQ_OK;
}

void bpdq_matcher_free(bpdq_matcher *matcher) {
  if (!matcher) return;
  pcre2_match_data_free(matcher->data);
  pcre2_match_context_free(matcher->context);
  pcre2_jit_stack_free(matcher->stack);
  free(matcher);
}

/* Published patterns need a few steps per character; this leaves them room on any text and stops a crafted one. */
static uint32_t step_limit(size_t length) {
  const size_t base = 1000000;
  return length < (UINT32_MAX - base) / 16 ? (uint32_t)(base + 16 * length) : UINT32_MAX;
}

bpdq_status bpdq_pattern_find(const bpdq_pattern *pattern, bpdq_matcher *matcher, const char *text, size_t length, size_t from, bool *found,
                              size_t *start, size_t *end, bpdq_error *error) {
  PCRE2_SPTR subject = (PCRE2_SPTR)text;
  pcre2_set_match_limit(matcher->context, step_limit(length));
  int code = pattern->compiled_to_machine_code && matcher->stack
                 ? pcre2_jit_match(pattern->code, subject, length, from, 0, matcher->data, matcher->context)
                 : pcre2_match(pattern->code, subject, length, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, matcher->data, matcher->context);
  *found = code >= 0;
  if (code == PCRE2_ERROR_NOMATCH) return BPDQ_OK;
  if (code == PCRE2_ERROR_NOMEMORY) return bpdq_out_of_memory(error);
  if (code < 0) {
    char reason[160] = "";
    pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
    return bpdq_fail(error, BPDQ_ERROR_FORMAT,
                     "the tokenizer's regular expression gave up on the text (%s); this tokenizer.json is not usable", reason);
  }
  const PCRE2_SIZE *offsets = pcre2_get_ovector_pointer(matcher->data);
  *start = offsets[0];
  *end = offsets[1];
  return BPDQ_OK;
}
