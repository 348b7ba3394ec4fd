/* Expressions by precedence, lowest first: conditional, or, and, not, comparison, + -, ~, * / // %, **, sign, then postfix, filters and
 * tests (the order of Jinja's own grammar, where ~ binds tighter than + and a sign tighter than **). */
#include <string.h>

#include "format/template/parser.h"

#define MAX_HEIGHT 600 /* of an expression tree; long chains of + are left-deep */

typedef bpdq_template_parser parser;
typedef bpdq_expression expression;

static bpdq_status parse_unary(parser *p, bool with_filters, const expression **result);
static bpdq_status parse_or(parser *p, const expression **result);

/* A node with copies of the `count` children. */
static bpdq_status make(parser *p, bpdq_expression_kind kind, int line, const expression *const *items, size_t count, expression **result) {
  expression *node = bpdq_arena_alloc(p->arena, 1, sizeof *node);
  if (!node) return bpdq_parser_out_of_memory(p);
  *node = (expression){.kind = kind, .line = line, .count = count, .depth = 1};
  if (count) {
    node->items = bpdq_arena_alloc(p->arena, count, sizeof *node->items);
    if (!node->items) return bpdq_parser_out_of_memory(p);
    memcpy(node->items, items, count * sizeof *items);
  }
  for (size_t i = 0; i < count; i++)
    if (items[i] && items[i]->depth >= node->depth) node->depth = items[i]->depth + 1;
  if (node->depth > MAX_HEIGHT)
    return bpdq_fail(p->error, BPDQ_ERROR_UNSUPPORTED, "chat template line %d: an expression is longer than %d operations", line,
                     MAX_HEIGHT);
  *result = node;
  return BPDQ_OK;
}

/* A growing list of expressions. */
typedef struct expression_list {
  const expression **items;
  size_t count, capacity;
} expression_list;

static bpdq_status append(parser *p, expression_list *list, const expression *item) {
  const expression **items = bpdq_arena_grow(p->arena, list->items, list->count, &list->capacity, sizeof *items);
  if (!items) return bpdq_parser_out_of_memory(p);
  list->items = items;
  items[list->count++] = item;
  return BPDQ_OK;
}

static bpdq_status make_from(parser *p, bpdq_expression_kind kind, int line, const expression_list *list, const expression **result) {
  expression *node = NULL;
  BPDQ_TRY(make(p, kind, line, list->items, list->count, &node));
  *result = node;
  return BPDQ_OK;
}

/* ---- primary ---- */

static bpdq_status parse_list(parser *p, const expression **result) {
  expression_list list = {0};
  int line = p->token++->line;
  while (!bpdq_parser_is_operator(p, "]")) {
    const expression *item = NULL;
    if (list.count) BPDQ_TRY(bpdq_parser_expect_operator(p, ","));
    if (bpdq_parser_is_operator(p, "]")) break;
    BPDQ_TRY(bpdq_parser_expression(p, true, &item));
    BPDQ_TRY(append(p, &list, item));
  }
  BPDQ_TRY(bpdq_parser_expect_operator(p, "]"));
  return make_from(p, BPDQ_EXPR_LIST, line, &list, result);
}

static bpdq_status parse_dict(parser *p, const expression **result) {
  expression_list list = {0};
  int line = p->token++->line;
  while (!bpdq_parser_is_operator(p, "}")) {
    const expression *key = NULL, *value = NULL;
    if (list.count) BPDQ_TRY(bpdq_parser_expect_operator(p, ","));
    if (bpdq_parser_is_operator(p, "}")) break;
    BPDQ_TRY(bpdq_parser_expression(p, true, &key));
    BPDQ_TRY(bpdq_parser_expect_operator(p, ":"));
    BPDQ_TRY(bpdq_parser_expression(p, true, &value));
    BPDQ_TRY(append(p, &list, key));
    BPDQ_TRY(append(p, &list, value));
  }
  BPDQ_TRY(bpdq_parser_expect_operator(p, "}"));
  return make_from(p, BPDQ_EXPR_DICT, line, &list, result);
}

static bpdq_status parse_parenthesis(parser *p, const expression **result) {
  int line = p->token++->line;
  if (bpdq_parser_skip_operator(p, ")")) {
    expression_list none = {0};
    return make_from(p, BPDQ_EXPR_TUPLE, line, &none, result);
  }
  BPDQ_TRY(bpdq_parser_tuple(p, true, result));
  return bpdq_parser_expect_operator(p, ")");
}

/* Adjacent string literals are one string. */
static bpdq_status parse_strings(parser *p, const expression **result) {
  expression *node = NULL;
  BPDQ_TRY(make(p, BPDQ_EXPR_STRING, p->token->line, NULL, 0, &node));
  size_t length = 0, count = 0;
  for (; p->token[count].kind == BPDQ_TOKEN_STRING; count++) length += p->token[count].length;
  char *joined = bpdq_arena_alloc(p->arena, length + 1, 1);
  if (!joined) return bpdq_parser_out_of_memory(p);
  node->name = (bpdq_text){joined, length};
  for (; count > 0; count--, p->token++) {
    memcpy(joined, p->token->text, p->token->length);
    joined += p->token->length;
  }
  *result = node;
  return BPDQ_OK;
}

static bpdq_status parse_name(parser *p, const expression **result) {
  bpdq_text name;
  expression *node = NULL;
  BPDQ_TRY(make(p, BPDQ_EXPR_NAME, p->token->line, NULL, 0, &node));
  BPDQ_TRY(bpdq_parser_expect_name(p, &name));
  node->name = name;
  if (bpdq_text_is(name, "true") || bpdq_text_is(name, "True")) {
    node->kind = BPDQ_EXPR_BOOLEAN;
    node->integer = 1;
  } else if (bpdq_text_is(name, "false") || bpdq_text_is(name, "False")) {
    node->kind = BPDQ_EXPR_BOOLEAN;
  } else if (bpdq_text_is(name, "none") || bpdq_text_is(name, "None")) {
    node->kind = BPDQ_EXPR_NONE;
  }
  *result = node;
  return BPDQ_OK;
}

static bpdq_status parse_primary(parser *p, const expression **result) {
  const bpdq_template_token *token = p->token;
  if (token->kind == BPDQ_TOKEN_NAME) return parse_name(p, result);
  if (token->kind == BPDQ_TOKEN_STRING) return parse_strings(p, result);
  if (token->kind == BPDQ_TOKEN_INTEGER || token->kind == BPDQ_TOKEN_FLOAT) {
    expression *node = NULL;
    BPDQ_TRY(make(p, token->kind == BPDQ_TOKEN_INTEGER ? BPDQ_EXPR_INTEGER : BPDQ_EXPR_FLOAT, token->line, NULL, 0, &node));
    node->integer = token->integer;
    node->number = token->number;
    p->token++;
    *result = node;
    return BPDQ_OK;
  }
  if (bpdq_parser_is_operator(p, "(")) return parse_parenthesis(p, result);
  if (bpdq_parser_is_operator(p, "[")) return parse_list(p, result);
  if (bpdq_parser_is_operator(p, "{")) return parse_dict(p, result);
  return bpdq_parser_unexpected(p, "an expression");
}

/* ---- postfix ---- */

static bpdq_status parse_arguments(parser *p, bpdq_arguments *arguments) {
  size_t name_capacity = 0, value_capacity = 0;
  BPDQ_TRY(bpdq_parser_expect_operator(p, "("));
  while (!bpdq_parser_is_operator(p, ")")) {
    if (arguments->count) BPDQ_TRY(bpdq_parser_expect_operator(p, ","));
    if (bpdq_parser_is_operator(p, ")")) break;
    if (bpdq_parser_is_operator(p, "*") || bpdq_parser_is_operator(p, "**"))
      return bpdq_fail(
          p->error, BPDQ_ERROR_UNSUPPORTED,
          "chat template line %d: unpacking arguments with %s is not supported; pass another template with chat --chat-template",
          p->token->line, p->token->text);
    size_t i = arguments->count;
    bpdq_text *names = bpdq_arena_grow(p->arena, arguments->names, i, &name_capacity, sizeof *names);
    const expression **values = bpdq_arena_grow(p->arena, arguments->values, i, &value_capacity, sizeof *values);
    if (!names || !values) return bpdq_parser_out_of_memory(p);
    arguments->names = names;
    arguments->values = values;
    names[i] = (bpdq_text){0};
    const bpdq_template_token *next = p->token + 1;
    if (p->token->kind == BPDQ_TOKEN_NAME && next->kind == BPDQ_TOKEN_OPERATOR && strcmp(next->text, "=") == 0) {
      BPDQ_TRY(bpdq_parser_expect_name(p, &names[i]));
      p->token++;
    } else if (i && names[i - 1].data) {
      return bpdq_parser_unexpected(p, "a named argument");
    }
    BPDQ_TRY(bpdq_parser_expression(p, true, &values[i]));
    arguments->count++;
  }
  return bpdq_parser_expect_operator(p, ")");
}

/* The height of a node covers its arguments too. */
static bpdq_status add_arguments(parser *p, expression *node) {
  BPDQ_TRY(parse_arguments(p, &node->arguments));
  for (size_t i = 0; i < node->arguments.count; i++)
    if (node->arguments.values[i]->depth >= node->depth) node->depth = node->arguments.values[i]->depth + 1;
  return BPDQ_OK;
}

static bpdq_status parse_bracket(parser *p, const expression *operand, const expression **result) {
  const expression *items[4] = {operand};
  int line = p->token++->line, parts = 1;
  bool slice = false;
  while (!bpdq_parser_is_operator(p, "]") && parts < 4) {
    if (!bpdq_parser_is_operator(p, ":")) BPDQ_TRY(bpdq_parser_expression(p, true, &items[parts]));
    if (!bpdq_parser_skip_operator(p, ":")) break;
    slice = true;
    parts++;
  }
  BPDQ_TRY(bpdq_parser_expect_operator(p, "]"));
  if (!slice && !items[1]) return bpdq_parser_unexpected(p, "an index before ']'");
  expression *node = NULL;
  BPDQ_TRY(make(p, slice ? BPDQ_EXPR_SLICE : BPDQ_EXPR_SUBSCRIPT, line, items, slice ? 4 : 2, &node));
  *result = node;
  return BPDQ_OK;
}

static bpdq_status parse_attribute(parser *p, const expression *operand, const expression **result) {
  int line = p->token++->line;
  expression *node = NULL;
  if (p->token->kind == BPDQ_TOKEN_INTEGER) {
    const expression *items[2] = {operand};
    BPDQ_TRY(parse_primary(p, &items[1]));
    BPDQ_TRY(make(p, BPDQ_EXPR_SUBSCRIPT, line, items, 2, &node));
  } else {
    BPDQ_TRY(make(p, BPDQ_EXPR_ATTRIBUTE, line, &operand, 1, &node));
    BPDQ_TRY(bpdq_parser_expect_name(p, &node->name));
  }
  *result = node;
  return BPDQ_OK;
}

static bpdq_status parse_call(parser *p, const expression *operand, const expression **result) {
  expression *node = NULL;
  BPDQ_TRY(make(p, BPDQ_EXPR_CALL, p->token->line, &operand, 1, &node));
  BPDQ_TRY(add_arguments(p, node));
  *result = node;
  return BPDQ_OK;
}

static bpdq_status parse_postfix(parser *p, const expression **result) {
  for (;;) {
    if (bpdq_parser_is_operator(p, "."))
      BPDQ_TRY(parse_attribute(p, *result, result));
    else if (bpdq_parser_is_operator(p, "["))
      BPDQ_TRY(parse_bracket(p, *result, result));
    else if (bpdq_parser_is_operator(p, "("))
      BPDQ_TRY(parse_call(p, *result, result));
    else
      return BPDQ_OK;
  }
}

/* ---- filters and tests ---- */

bpdq_status bpdq_parser_filters(parser *p, const expression *operand, const expression **result) {
  do {
    expression *node = NULL;
    BPDQ_TRY(make(p, BPDQ_EXPR_FILTER, p->token->line, &operand, 1, &node));
    BPDQ_TRY(bpdq_parser_expect_name(p, &node->name));
    if (bpdq_parser_is_operator(p, "(")) BPDQ_TRY(add_arguments(p, node));
    operand = node;
  } while (bpdq_parser_skip_operator(p, "|"));
  *result = operand;
  return BPDQ_OK;
}

/* Whether the argument of a test follows without parentheses, as in "x is divisibleby 3". */
static bool test_argument_follows(const parser *p) {
  switch (p->token->kind) {
    case BPDQ_TOKEN_NAME:
      return !bpdq_parser_is_name(p, "else") && !bpdq_parser_is_name(p, "or") && !bpdq_parser_is_name(p, "and");
    case BPDQ_TOKEN_STRING:
    case BPDQ_TOKEN_INTEGER:
    case BPDQ_TOKEN_FLOAT:
      return true;
    default:
      return bpdq_parser_is_operator(p, "[") || bpdq_parser_is_operator(p, "{");
  }
}

/* The token is behind "is". */
static bpdq_status parse_test(parser *p, const expression *operand, const expression **result) {
  int line = p->token->line;
  bool negated = bpdq_parser_skip_name(p, "not");
  expression *node = NULL;
  BPDQ_TRY(make(p, BPDQ_EXPR_TEST, line, &operand, 1, &node));
  BPDQ_TRY(bpdq_parser_expect_name(p, &node->name));
  if (bpdq_parser_is_operator(p, "(")) {
    BPDQ_TRY(add_arguments(p, node));
  } else if (test_argument_follows(p)) {
    if (bpdq_parser_is_name(p, "is")) return bpdq_parser_unexpected(p, "no second 'is' (tests cannot be chained)");
    node->arguments.values = bpdq_arena_alloc(p->arena, 1, sizeof *node->arguments.values);
    node->arguments.names = bpdq_arena_alloc(p->arena, 1, sizeof *node->arguments.names);
    if (!node->arguments.values || !node->arguments.names) return bpdq_parser_out_of_memory(p);
    node->arguments.count = 1;
    BPDQ_TRY(parse_primary(p, &node->arguments.values[0]));
    BPDQ_TRY(parse_postfix(p, &node->arguments.values[0]));
    if (node->arguments.values[0]->depth >= node->depth) node->depth = node->arguments.values[0]->depth + 1;
  }
  *result = node;
  if (!negated) return BPDQ_OK;
  expression *inverted = NULL;
  BPDQ_TRY(make(p, BPDQ_EXPR_NOT, line, result, 1, &inverted));
  *result = inverted;
  return BPDQ_OK;
}

static bpdq_status parse_filters_and_tests(parser *p, const expression **result) {
  for (;;) {
    if (bpdq_parser_skip_operator(p, "|"))
      BPDQ_TRY(bpdq_parser_filters(p, *result, result));
    else if (bpdq_parser_skip_name(p, "is"))
      BPDQ_TRY(parse_test(p, *result, result));
    else if (bpdq_parser_is_operator(p, "("))
      BPDQ_TRY(parse_call(p, *result, result));
    else
      return BPDQ_OK;
  }
}

/* ---- operators ---- */

static bpdq_status parse_unary(parser *p, bool with_filters, const expression **result) {
  int line = p->token->line;
  *result = NULL;
  bool negative = bpdq_parser_is_operator(p, "-");
  if (negative || bpdq_parser_is_operator(p, "+")) {
    const expression *operand = NULL;
    expression *node = NULL;
    p->token++;
    BPDQ_TRY(bpdq_parser_enter(p));
    BPDQ_TRY(parse_unary(p, false, &operand));
    bpdq_parser_leave(p);
    BPDQ_TRY(make(p, negative ? BPDQ_EXPR_NEGATIVE : BPDQ_EXPR_POSITIVE, line, &operand, 1, &node));
    *result = node;
  } else {
    BPDQ_TRY(parse_primary(p, result));
  }
  BPDQ_TRY(parse_postfix(p, result));
  return with_filters ? parse_filters_and_tests(p, result) : BPDQ_OK;
}

typedef struct binary_operator {
  const char *text;
  bpdq_operator op;
} binary_operator;

static const binary_operator *match(parser *p, const binary_operator *operators, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (bpdq_parser_skip_operator(p, operators[i].text)) return &operators[i];
  return NULL;
}

/* Left-associative arithmetic: level 0 is + -, 1 is * / // %, 2 is **; ~ stands between 0 and 1. */
static bpdq_status parse_arithmetic(parser *p, int level, const expression **result) {
  static const binary_operator sums[] = {{"+", BPDQ_OP_ADD}, {"-", BPDQ_OP_SUBTRACT}};
  static const binary_operator products[] = {
      {"*", BPDQ_OP_MULTIPLY}, {"/", BPDQ_OP_DIVIDE}, {"//", BPDQ_OP_FLOOR_DIVIDE}, {"%", BPDQ_OP_MODULO}};
  static const binary_operator powers[] = {{"**", BPDQ_OP_POWER}};
  static const struct {
    const binary_operator *operators;
    size_t count;
  } levels[] = {{sums, 2}, {products, 4}, {powers, 1}};
  if (level == 3) return parse_unary(p, true, result);
  expression_list texts = {0};
  int line = p->token->line;
  do { /* runs again only for ~ */
    BPDQ_TRY(parse_arithmetic(p, level + 1, result));
    const binary_operator *found;
    while ((found = match(p, levels[level].operators, levels[level].count))) {
      const expression *items[2] = {*result};
      expression *node = NULL;
      BPDQ_TRY(parse_arithmetic(p, level + 1, &items[1]));
      BPDQ_TRY(make(p, BPDQ_EXPR_ARITHMETIC, line, items, 2, &node));
      node->op = found->op;
      *result = node;
    }
    if (level != 1) return BPDQ_OK;
    BPDQ_TRY(append(p, &texts, *result));
  } while (bpdq_parser_skip_operator(p, "~"));
  return texts.count == 1 ? BPDQ_OK : make_from(p, BPDQ_EXPR_CONCAT, line, &texts, result);
}

static bool match_comparison(parser *p, bpdq_operator *op) {
  static const binary_operator comparisons[] = {{"==", BPDQ_OP_EQUAL},      {"!=", BPDQ_OP_NOT_EQUAL}, {"<", BPDQ_OP_LESS},
                                                {"<=", BPDQ_OP_LESS_EQUAL}, {">", BPDQ_OP_GREATER},    {">=", BPDQ_OP_GREATER_EQUAL}};
  const binary_operator *found = match(p, comparisons, sizeof comparisons / sizeof *comparisons);
  if (found) {
    *op = found->op;
    return true;
  }
  if (bpdq_parser_skip_name(p, "in")) {
    *op = BPDQ_OP_IN;
    return true;
  }
  if (!bpdq_parser_skip_name(p, "not")) return false;
  if (bpdq_parser_skip_name(p, "in")) {
    *op = BPDQ_OP_NOT_IN;
    return true;
  }
  p->token--;
  return false;
}

static bpdq_status parse_comparison(parser *p, const expression **result) {
  *result = NULL;
  expression_list list = {0};
  bpdq_operator op, *operators = NULL;
  size_t capacity = 0;
  int line = p->token->line;
  BPDQ_TRY(parse_arithmetic(p, 0, result));
  BPDQ_TRY(append(p, &list, *result));
  while (match_comparison(p, &op)) {
    operators = bpdq_arena_grow(p->arena, operators, list.count - 1, &capacity, sizeof *operators);
    if (!operators) return bpdq_parser_out_of_memory(p);
    operators[list.count - 1] = op;
    BPDQ_TRY(parse_arithmetic(p, 0, result));
    BPDQ_TRY(append(p, &list, *result));
  }
  if (list.count == 1) return BPDQ_OK;
  expression *node = NULL;
  BPDQ_TRY(make(p, BPDQ_EXPR_COMPARE, line, list.items, list.count, &node));
  node->operators = operators;
  *result = node;
  return BPDQ_OK;
}

static bpdq_status parse_not(parser *p, const expression **result) {
  int line = p->token->line;
  *result = NULL;
  if (!bpdq_parser_skip_name(p, "not")) return parse_comparison(p, result);
  const expression *operand = NULL;
  expression *node = NULL;
  BPDQ_TRY(bpdq_parser_enter(p));
  BPDQ_TRY(parse_not(p, &operand));
  bpdq_parser_leave(p);
  BPDQ_TRY(make(p, BPDQ_EXPR_NOT, line, &operand, 1, &node));
  *result = node;
  return BPDQ_OK;
}

static bpdq_status parse_and(parser *p, const expression **result) {
  int line = p->token->line;
  *result = NULL;
  BPDQ_TRY(parse_not(p, result));
  while (bpdq_parser_skip_name(p, "and")) {
    const expression *items[2] = {*result};
    expression *node = NULL;
    BPDQ_TRY(parse_not(p, &items[1]));
    BPDQ_TRY(make(p, BPDQ_EXPR_AND, line, items, 2, &node));
    *result = node;
  }
  return BPDQ_OK;
}

static bpdq_status parse_or(parser *p, const expression **result) {
  int line = p->token->line;
  *result = NULL;
  BPDQ_TRY(parse_and(p, result));
  while (bpdq_parser_skip_name(p, "or")) {
    const expression *items[2] = {*result};
    expression *node = NULL;
    BPDQ_TRY(parse_and(p, &items[1]));
    BPDQ_TRY(make(p, BPDQ_EXPR_OR, line, items, 2, &node));
    *result = node;
  }
  return BPDQ_OK;
}

bpdq_status bpdq_parser_expression(parser *p, bool conditional, const expression **result) {
  int line = p->token->line;
  *result = NULL;
  BPDQ_TRY(bpdq_parser_enter(p));
  BPDQ_TRY(parse_or(p, result));
  while (conditional && bpdq_parser_skip_name(p, "if")) {
    const expression *items[3] = {*result};
    expression *node = NULL;
    BPDQ_TRY(parse_or(p, &items[1]));
    if (bpdq_parser_skip_name(p, "else")) BPDQ_TRY(bpdq_parser_expression(p, true, &items[2]));
    BPDQ_TRY(make(p, BPDQ_EXPR_CONDITIONAL, line, items, 3, &node));
    *result = node;
  }
  bpdq_parser_leave(p);
  return BPDQ_OK;
}

/* Where a list of expressions may end after a comma. */
static bool tuple_ends(const parser *p) {
  return p->token->kind == BPDQ_TOKEN_PRINT_END || p->token->kind == BPDQ_TOKEN_BLOCK_END || bpdq_parser_is_operator(p, ")") ||
         bpdq_parser_is_name(p, "recursive");
}

bpdq_status bpdq_parser_tuple(parser *p, bool conditional, const expression **result) {
  expression_list list = {0};
  int line = p->token->line;
  bool comma;
  do {
    BPDQ_TRY(bpdq_parser_expression(p, conditional, result));
    BPDQ_TRY(append(p, &list, *result));
    comma = bpdq_parser_skip_operator(p, ",");
  } while (comma && !tuple_ends(p));
  return list.count == 1 && !comma ? BPDQ_OK : make_from(p, BPDQ_EXPR_TUPLE, line, &list, result);
}
