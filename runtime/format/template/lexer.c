#include "format/template/lexer.h"

#include <stdlib.h>
#include <string.h>

#include "format/template/text.h"

#define MAX_BRACKETS 256

typedef struct lexer {
  bpdq_arena *arena;
  const char *text;
  size_t length, position;
  int line;
  bool line_starting; /* the token before this text ended with a newline, or there is none */
  bpdq_template_token *tokens;
  size_t count, capacity;
  bpdq_error *error;
} lexer;

static bpdq_status push(lexer *l, bpdq_template_token token) {
  bpdq_template_token *tokens = bpdq_arena_grow(l->arena, l->tokens, l->count, &l->capacity, sizeof *tokens);
  if (!tokens) return bpdq_fail(l->error, BPDQ_ERROR_MEMORY, "chat template: too large");
  l->tokens = tokens;
  tokens[l->count++] = token;
  return BPDQ_OK;
}

static bpdq_status syntax_error(lexer *l, const char *what) {
  return bpdq_fail(l->error, BPDQ_ERROR_FORMAT, "chat template line %d: %s", l->line, what);
}

/* Moves to `position`, counting lines. */
static void advance(lexer *l, size_t position) {
  for (; l->position < position; l->position++)
    if (l->text[l->position] == '\n') l->line++;
}

static bool at(const lexer *l, size_t position, const char *literal) {
  size_t length = strlen(literal);
  return position <= l->length && l->length - position >= length && memcmp(l->text + position, literal, length) == 0;
}

static size_t skip_space(const lexer *l, size_t position) {
  int32_t code;
  while (position < l->length) {
    size_t bytes = bpdq_text_step(l->text + position, l->length - position, &code);
    if (!bpdq_text_is_space(code)) break;
    position += bytes;
  }
  return position;
}

static bool is_name_byte(unsigned char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c >= 0x80;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* The end of a block or comment tag at `position` (pointing at its "%}", "-%}" or "+%}"): where the following text starts. 0: no end here.
 */
static size_t tag_end(const lexer *l, size_t position, const char *close, bool trims_newline) {
  if (at(l, position, "-") && at(l, position + 1, close)) return skip_space(l, position + 3);
  if (trims_newline && at(l, position, "+") && at(l, position + 1, close)) return position + 3;
  if (!at(l, position, close)) return 0;
  position += 2;
  return trims_newline && at(l, position, "\n") ? position + 1 : position;
}

/* Emits the text before a tag. `sign` is the tag's "-" or "+" or 0; `lstrip` is set for tags that lstrip_blocks applies to. */
static bpdq_status push_text(lexer *l, size_t end, char sign, bool lstrip) {
  bpdq_text text = {l->text + l->position, end - l->position};
  if (sign == '-') {
    text = bpdq_text_strip(text, NULL, false, true);
  } else if (sign != '+' && lstrip) {
    size_t line_start = text.length;
    while (line_start > 0 && text.data[line_start - 1] != '\n') line_start--;
    bpdq_text indent = {text.data + line_start, text.length - line_start};
    if ((line_start > 0 || l->line_starting) && bpdq_text_strip(indent, NULL, true, false).length == 0) text.length = line_start;
  }
  bpdq_status status = BPDQ_OK;
  if (text.length) status = push(l, (bpdq_template_token){BPDQ_TOKEN_TEXT, l->line, text.data, text.length, 0, 0});
  advance(l, end);
  return status;
}

/* After a tag whose text ended at `end`. */
static void finish_tag(lexer *l, size_t end) {
  advance(l, end);
  l->line_starting = end > 0 && l->text[end - 1] == '\n';
}

/* The position is at "{#"; `begin` is behind it and its sign. */
static bpdq_status skip_comment(lexer *l, size_t begin) {
  for (size_t i = begin; i < l->length; i++) {
    size_t end = tag_end(l, i, "#}", true);
    if (end) {
      finish_tag(l, end);
      return BPDQ_OK;
    }
  }
  return syntax_error(l, "a comment is not closed with #}");
}

/* Whether a raw tag ("{% raw %}") starts at the position: where its text starts, or 0. */
static size_t raw_begin(const lexer *l) {
  size_t i = l->position + 2;
  if (at(l, i, "-") || at(l, i, "+")) i++;
  i = skip_space(l, i);
  if (!at(l, i, "raw")) return 0;
  return tag_end(l, skip_space(l, i + 3), "%}", false);
}

static bpdq_status lex_raw(lexer *l, size_t begin) {
  finish_tag(l, begin);
  for (size_t i = begin; i < l->length; i++) {
    if (!at(l, i, "{%")) continue;
    size_t word = i + 2;
    char sign = at(l, word, "-") || at(l, word, "+") ? l->text[word++] : 0;
    word = skip_space(l, word);
    if (!at(l, word, "endraw")) continue;
    size_t end = tag_end(l, skip_space(l, word + 6), "%}", true);
    if (!end) continue;
    BPDQ_TRY(push_text(l, i, sign, true));
    finish_tag(l, end);
    return BPDQ_OK;
  }
  return syntax_error(l, "a raw block is not closed with {% endraw %}");
}

/* ---- inside a tag ---- */

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = (char)(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One escape of a Python string literal; *i points behind the backslash and moves on. Returns the bytes written to out[4], 0 on a bad one.
 */
static bool unescape(const char *text, size_t end, size_t *i, char *out, size_t *written) {
  static const char letters[] = "abfnrtv\\'\"";
  static const char codes[] = "\a\b\f\n\r\t\v\\'\"";
  char c = text[(*i)++];
  const char *letter = c ? strchr(letters, c) : NULL;
  *written = 1;
  if (letter) {
    out[0] = codes[letter - letters];
    return true;
  }
  if (c == '\n') {
    *written = 0;
    return true;
  }
  int32_t code = 0;
  if (c >= '0' && c <= '7') {
    code = c - '0';
    for (int digits = 1; digits < 3 && *i < end && text[*i] >= '0' && text[*i] <= '7'; digits++) code = code * 8 + (text[(*i)++] - '0');
  } else if (c == 'x' || c == 'u' || c == 'U') {
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
    for (int k = 0; k < digits; k++) {
      int digit = *i < end ? hex_digit(text[(*i)++]) : -1;
      if (digit < 0 || code > 0x10ffff) return false;
      code = code * 16 + digit;
    }
    if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return false;
  } else {
    out[0] = '\\'; /* an unknown escape stays as written */
    out[1] = c;
    *written = 2;
    return true;
  }
  *written = bpdq_text_encode(code, out);
  return true;
}

static bpdq_status lex_string(lexer *l) {
  char quote = l->text[l->position];
  size_t begin = l->position + 1, end = begin;
  while (end < l->length && l->text[end] != quote) end += l->text[end] == '\\' ? 2 : 1;
  if (end >= l->length) return syntax_error(l, "a string is not closed");
  char *content = bpdq_arena_alloc(l->arena, end - begin + 1, 1); /* no escape is shorter than the UTF-8 of what it stands for */
  if (!content) return bpdq_fail(l->error, BPDQ_ERROR_MEMORY, "chat template: too large");
  size_t length = 0;
  for (size_t i = begin; i < end;) {
    if (l->text[i] != '\\') {
      content[length++] = l->text[i++];
      continue;
    }
    size_t written;
    i++;
    if (!unescape(l->text, end, &i, content + length, &written)) return syntax_error(l, "a string has a broken escape sequence");
    length += written;
  }
  BPDQ_TRY(push(l, (bpdq_template_token){BPDQ_TOKEN_STRING, l->line, content, length, 0, 0}));
  advance(l, end + 1);
  return BPDQ_OK;
}

static bpdq_status lex_number(lexer *l) {
  char digits[64];
  size_t length = 0, i = l->position;
  bool is_float = false;
  for (; i < l->length && length < sizeof digits - 1; i++) {
    char c = l->text[i];
    bool exponent_sign = (c == '+' || c == '-') && length && (digits[length - 1] | 0x20) == 'e';
    bool fraction = c == '.' && !is_float && i + 1 < l->length && is_digit(l->text[i + 1]);
    bool exponent =
        (c | 0x20) == 'e' && i + 1 < l->length &&
        (is_digit(l->text[i + 1]) || ((l->text[i + 1] == '+' || l->text[i + 1] == '-') && i + 2 < l->length && is_digit(l->text[i + 2])));
    if (c == '_') continue;
    if (fraction || exponent) is_float = true;
    if (!is_digit(c) && !fraction && !exponent && !exponent_sign) break;
    digits[length++] = c;
  }
  digits[length] = 0;
  bpdq_template_token token = {.kind = is_float ? BPDQ_TOKEN_FLOAT : BPDQ_TOKEN_INTEGER, .line = l->line};
  if (length > 18 && !is_float) return syntax_error(l, "an integer is too large");
  if (i < l->length && is_name_byte((unsigned char)l->text[i])) return syntax_error(l, "a number is followed by letters");
  if (is_float)
    token.number = strtod(digits, NULL);
  else
    token.integer = strtoll(digits, NULL, 10);
  advance(l, i);
  return push(l, token);
}

static bpdq_status lex_operator(lexer *l, char *brackets, size_t *depth) {
  static const char *const operators[] = {"**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                          "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
  const char *found = NULL;
  for (size_t i = 0; i < sizeof operators / sizeof *operators && !found; i++)
    if (at(l, l->position, operators[i])) found = operators[i];
  if (!found) return syntax_error(l, "unexpected character in a tag");
  static const char open[] = "([{", close[] = ")]}";
  const char *opening = strchr(open, found[0]), *closing = strchr(close, found[0]);
  if (opening) {
    if (*depth == MAX_BRACKETS) return syntax_error(l, "brackets are nested too deeply");
    brackets[(*depth)++] = close[opening - open];
  } else if (closing && (*depth == 0 || brackets[--*depth] != found[0])) {
    return syntax_error(l, "brackets do not match");
  }
  bpdq_template_token token = {BPDQ_TOKEN_OPERATOR, l->line, found, strlen(found), 0, 0};
  advance(l, l->position + token.length);
  return push(l, token);
}

/* The inside of a {{ }} or {% %} up to and with its end. */
static bpdq_status lex_tag(lexer *l, const char *close, bool is_block) {
  char brackets[MAX_BRACKETS];
  size_t depth = 0;
  for (;;) {
    advance(l, skip_space(l, l->position));
    if (l->position >= l->length) return syntax_error(l, is_block ? "a tag is not closed with %}" : "a tag is not closed with }}");
    size_t end = depth == 0 ? tag_end(l, l->position, close, is_block) : 0;
    if (end) {
      bpdq_template_token token = {
          .kind = is_block ? BPDQ_TOKEN_BLOCK_END : BPDQ_TOKEN_PRINT_END, .line = l->line, .text = close, .length = 2};
      finish_tag(l, end);
      return push(l, token);
    }
    char c = l->text[l->position];
    if (c == '"' || c == '\'') {
      BPDQ_TRY(lex_string(l));
    } else if (is_digit(c)) {
      BPDQ_TRY(lex_number(l));
    } else if (is_name_byte((unsigned char)c)) {
      size_t i = l->position;
      while (i < l->length && is_name_byte((unsigned char)l->text[i])) i++;
      BPDQ_TRY(push(l, (bpdq_template_token){BPDQ_TOKEN_NAME, l->line, l->text + l->position, i - l->position, 0, 0}));
      advance(l, i);
    } else {
      BPDQ_TRY(lex_operator(l, brackets, &depth));
    }
  }
}

/* Position of the next "{{", "{%" or "{#", or the length. */
static size_t next_tag(const lexer *l) {
  for (size_t i = l->position; i + 1 < l->length; i++)
    if (l->text[i] == '{' && (l->text[i + 1] == '{' || l->text[i + 1] == '%' || l->text[i + 1] == '#')) return i;
  return l->length;
}

static bpdq_status lex_all(lexer *l) {
  while (l->position < l->length) {
    size_t tag = next_tag(l);
    if (tag == l->length) return push_text(l, tag, '+', false);
    char type = l->text[tag + 1];
    char sign = at(l, tag + 2, "-") || at(l, tag + 2, "+") ? l->text[tag + 2] : 0;
    BPDQ_TRY(push_text(l, tag, sign, type != '{'));
    if (type == '#') {
      BPDQ_TRY(skip_comment(l, tag + 2 + (sign != 0)));
      continue;
    }
    size_t raw = type == '%' ? raw_begin(l) : 0;
    if (raw) {
      BPDQ_TRY(lex_raw(l, raw));
      continue;
    }
    BPDQ_TRY(push(l, (bpdq_template_token){.kind = type == '%' ? BPDQ_TOKEN_BLOCK_BEGIN : BPDQ_TOKEN_PRINT_BEGIN, .line = l->line}));
    advance(l, tag + 2 + (sign != 0));
    BPDQ_TRY(lex_tag(l, type == '%' ? "%}" : "}}", type == '%'));
  }
  return BPDQ_OK;
}

/* All line ends become \n, and one at the very end goes, as Jinja does with every source. */
static char *normalize_newlines(bpdq_arena *arena, const char *text, size_t length, size_t *result_length) {
  char *copy = bpdq_arena_alloc(arena, length + 1, 1);
  if (!copy) return NULL;
  size_t out = 0;
  for (size_t i = 0; i < length; i++) {
    if (text[i] == '\r' && i + 1 < length && text[i + 1] == '\n') continue;
    copy[out++] = text[i] == '\r' ? '\n' : text[i];
  }
  if (out && copy[out - 1] == '\n') out--;
  *result_length = out;
  return copy;
}

bpdq_status bpdq_template_tokenize(bpdq_arena *arena, const char *text, size_t length, bpdq_template_token **tokens, bpdq_error *error) {
  lexer l = {.arena = arena, .line = 1, .line_starting = true, .error = error};
  l.text = normalize_newlines(arena, text, length, &l.length);
  if (!l.text) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "chat template: too large");
  BPDQ_TRY(lex_all(&l));
  BPDQ_TRY(push(&l, (bpdq_template_token){.kind = BPDQ_TOKEN_END, .line = l.line}));
  *tokens = l.tokens;
  return BPDQ_OK;
}
