/* What the statement parser and the expression parser share. */
#ifndef BPDQ_FORMAT_TEMPLATE_PARSER_H
#define BPDQ_FORMAT_TEMPLATE_PARSER_H

#include "format/template/ast.h"
#include "format/template/lexer.h"

typedef struct bpdq_template_parser {
  bpdq_arena *arena;
  const bpdq_template_token *token; /* the current one */
  int nesting;
  int loops; /* for blocks around the current statement */
  bpdq_error *error;
} bpdq_template_parser;

bool bpdq_parser_is_operator(const bpdq_template_parser *p, const char *text);
bool bpdq_parser_is_name(const bpdq_template_parser *p, const char *text);
/* Steps over the token where it is this one. */
bool bpdq_parser_skip_operator(bpdq_template_parser *p, const char *text);
bool bpdq_parser_skip_name(bpdq_template_parser *p, const char *text);
bpdq_status bpdq_parser_expect_operator(bpdq_template_parser *p, const char *text);
bpdq_status bpdq_parser_expect_name(bpdq_template_parser *p, bpdq_text *name);
bpdq_status bpdq_parser_unexpected(const bpdq_template_parser *p, const char *wanted);
bpdq_status bpdq_parser_out_of_memory(const bpdq_template_parser *p);
/* Every nested construct enters and leaves; the error names the limit. */
bpdq_status bpdq_parser_enter(bpdq_template_parser *p);
void bpdq_parser_leave(bpdq_template_parser *p);

/* One expression; `conditional` allows "a if b else c" at its top. */
bpdq_status bpdq_parser_expression(bpdq_template_parser *p, bool conditional, const bpdq_expression **result);
/* One expression, or several with commas between (a tuple). */
bpdq_status bpdq_parser_tuple(bpdq_template_parser *p, bool conditional, const bpdq_expression **result);
/* "name(arguments) | name ..." applied to `operand` (NULL: the text of a set block); the token is at the first name. */
bpdq_status bpdq_parser_filters(bpdq_template_parser *p, const bpdq_expression *operand, const bpdq_expression **result);

#endif
