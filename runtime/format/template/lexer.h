/* Jinja text to tokens, with trim_blocks and lstrip_blocks applied to the text between the tags. */
#ifndef BPDQ_FORMAT_TEMPLATE_LEXER_H
#define BPDQ_FORMAT_TEMPLATE_LEXER_H

#include <stdint.h>

#include "core/status.h"
#include "format/template/arena.h"

typedef enum bpdq_token_kind {
  BPDQ_TOKEN_TEXT,        /* between the tags: text, length */
  BPDQ_TOKEN_PRINT_BEGIN, /* {{ */
  BPDQ_TOKEN_PRINT_END,
  BPDQ_TOKEN_BLOCK_BEGIN, /* {% */
  BPDQ_TOKEN_BLOCK_END,
  BPDQ_TOKEN_NAME,     /* text, length */
  BPDQ_TOKEN_STRING,   /* text, length with the escapes resolved */
  BPDQ_TOKEN_INTEGER,  /* integer */
  BPDQ_TOKEN_FLOAT,    /* number */
  BPDQ_TOKEN_OPERATOR, /* text: "+", "==", "|" ... */
  BPDQ_TOKEN_END
} bpdq_token_kind;

typedef struct bpdq_template_token {
  bpdq_token_kind kind;
  int line; /* from 1 */
  const char *text;
  size_t length;
  int64_t integer;
  double number;
} bpdq_template_token;

/* The tokens, ended by BPDQ_TOKEN_END, live in the arena. */
bpdq_status bpdq_template_tokenize(bpdq_arena *arena, const char *text, size_t length, bpdq_template_token **tokens, bpdq_error *error);

#endif
