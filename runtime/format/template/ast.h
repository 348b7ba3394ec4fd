/* A parsed template: expressions and statements. All nodes live in the template's arena and never change. */
#ifndef BPDQ_FORMAT_TEMPLATE_AST_H
#define BPDQ_FORMAT_TEMPLATE_AST_H

#include "core/status.h"
#include "format/template/arena.h"
#include "format/template/template.h"
#include "format/template/text.h"

#define BPDQ_TEMPLATE_MAX_NESTING 64 /* blocks, brackets and calls, in the text and while rendering */

typedef enum bpdq_expression_kind {
  BPDQ_EXPR_NONE,
  BPDQ_EXPR_BOOLEAN, /* integer: 0 or 1 */
  BPDQ_EXPR_INTEGER,
  BPDQ_EXPR_FLOAT,
  BPDQ_EXPR_STRING,     /* name */
  BPDQ_EXPR_NAME,       /* name */
  BPDQ_EXPR_LIST,       /* items */
  BPDQ_EXPR_TUPLE,      /* items */
  BPDQ_EXPR_DICT,       /* items: key, value, key, value ... */
  BPDQ_EXPR_ATTRIBUTE,  /* items[0].name */
  BPDQ_EXPR_SUBSCRIPT,  /* items[0][items[1]] */
  BPDQ_EXPR_SLICE,      /* items[0][items[1]:items[2]:items[3]], NULL where absent */
  BPDQ_EXPR_CALL,       /* items[0](arguments) */
  BPDQ_EXPR_FILTER,     /* items[0] | name(arguments); items[0] is NULL in a set block */
  BPDQ_EXPR_TEST,       /* items[0] is name(arguments) */
  BPDQ_EXPR_NOT,        /* items[0] */
  BPDQ_EXPR_NEGATIVE,   /* items[0] */
  BPDQ_EXPR_POSITIVE,   /* items[0] */
  BPDQ_EXPR_AND,        /* items[0..1] */
  BPDQ_EXPR_OR,         /* items[0..1] */
  BPDQ_EXPR_ARITHMETIC, /* items[0..1], op: + - * / // % ** */
  BPDQ_EXPR_CONCAT,     /* items joined as text (~) */
  BPDQ_EXPR_COMPARE,    /* items[0] operators[0] items[1] operators[1] items[2] ... */
  BPDQ_EXPR_CONDITIONAL /* items[0] if items[1] else items[2] (NULL: undefined) */
} bpdq_expression_kind;

typedef enum bpdq_operator {
  BPDQ_OP_ADD,
  BPDQ_OP_SUBTRACT,
  BPDQ_OP_MULTIPLY,
  BPDQ_OP_DIVIDE,
  BPDQ_OP_FLOOR_DIVIDE,
  BPDQ_OP_MODULO,
  BPDQ_OP_POWER,
  BPDQ_OP_EQUAL,
  BPDQ_OP_NOT_EQUAL,
  BPDQ_OP_LESS,
  BPDQ_OP_LESS_EQUAL,
  BPDQ_OP_GREATER,
  BPDQ_OP_GREATER_EQUAL,
  BPDQ_OP_IN,
  BPDQ_OP_NOT_IN
} bpdq_operator;

typedef struct bpdq_expression bpdq_expression;

/* Arguments of a call, filter or test: first the positional ones (names[i].data NULL), then the named ones. */
typedef struct bpdq_arguments {
  const bpdq_expression **values;
  bpdq_text *names;
  size_t count;
} bpdq_arguments;

struct bpdq_expression {
  bpdq_expression_kind kind;
  int line;
  int depth; /* height of the tree below, bounded by the parser so that the evaluator's recursion is */
  bpdq_text name;
  int64_t integer;
  double number;
  bpdq_operator op;
  const bpdq_expression **items;
  bpdq_operator *operators;
  size_t count;
  bpdq_arguments arguments;
};

typedef enum bpdq_statement_kind {
  BPDQ_STATEMENT_TEXT,      /* text */
  BPDQ_STATEMENT_PRINT,     /* value */
  BPDQ_STATEMENT_IF,        /* value; body; otherwise (an elif is an IF alone in there, marked by is_elif) */
  BPDQ_STATEMENT_FOR,       /* target in value if condition: body; otherwise */
  BPDQ_STATEMENT_SET,       /* target = value */
  BPDQ_STATEMENT_SET_BLOCK, /* target = body, through the filters in value (or NULL) */
  BPDQ_STATEMENT_BREAK,
  BPDQ_STATEMENT_CONTINUE,
  BPDQ_STATEMENT_GENERATION, /* body; transformers marks the assistant's text with it, it renders as its body */
  BPDQ_STATEMENT_MACRO       /* text: its name; parameters; body */
} bpdq_statement_kind;

/* What a set or for assigns to. */
typedef struct bpdq_target {
  bpdq_text *names; /* one, or several to unpack into */
  size_t count;
  bpdq_text attribute; /* set namespace.attribute: data is NULL otherwise */
} bpdq_target;

typedef struct bpdq_statement bpdq_statement;

typedef struct bpdq_body {
  bpdq_statement *statements;
  size_t count;
} bpdq_body;

struct bpdq_statement {
  bpdq_statement_kind kind;
  int line;
  bpdq_text text;
  bpdq_target target;
  const bpdq_expression *value, *condition;
  bpdq_body body, otherwise;
  bpdq_arguments parameters; /* values[i] is the default or NULL */
};

struct bpdq_template {
  bpdq_arena arena;
  bpdq_body body;
};

#endif
