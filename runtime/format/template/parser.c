#include "format/template/parser.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEMPLATE_BYTES ((size_t)1 << 20)
#define MAX_PARSE_MEMORY ((size_t)128 << 20)

/* ---- tokens ---- */

bool bpdq_parser_is_operator(const bpdq_template_parser *p, const char *text) {
  return p->token->kind == BPDQ_TOKEN_OPERATOR && strcmp(p->token->text, text) == 0;
}

bool bpdq_parser_is_name(const bpdq_template_parser *p, const char *text) {
  return p->token->kind == BPDQ_TOKEN_NAME && bpdq_text_is((bpdq_text){p->token->text, p->token->length}, text);
}

bool bpdq_parser_skip_operator(bpdq_template_parser *p, const char *text) {
  bool found = bpdq_parser_is_operator(p, text);
  p->token += found;
  return found;
}

bool bpdq_parser_skip_name(bpdq_template_parser *p, const char *text) {
  bool found = bpdq_parser_is_name(p, text);
  p->token += found;
  return found;
}

bpdq_status bpdq_parser_unexpected(const bpdq_template_parser *p, const char *wanted) {
  const bpdq_template_token *t = p->token;
  switch (t->kind) {
    case BPDQ_TOKEN_NAME:
    case BPDQ_TOKEN_OPERATOR:
    case BPDQ_TOKEN_BLOCK_END:
    case BPDQ_TOKEN_PRINT_END:
      return bpdq_fail(p->error, BPDQ_ERROR_FORMAT, "chat template line %d: expected %s, found '%.*s'", t->line, wanted,
                       (int)(t->length < 40 ? t->length : 40), t->text);
    case BPDQ_TOKEN_END:
      return bpdq_fail(p->error, BPDQ_ERROR_FORMAT, "chat template: expected %s, found the end of the template", wanted);
    default:
      return bpdq_fail(p->error, BPDQ_ERROR_FORMAT, "chat template line %d: expected %s", t->line, wanted);
  }
}

bpdq_status bpdq_parser_out_of_memory(const bpdq_template_parser *p) {
  return bpdq_fail(p->error, BPDQ_ERROR_MEMORY, "chat template line %d: the template needs too much memory", p->token->line);
}

bpdq_status bpdq_parser_expect_operator(bpdq_template_parser *p, const char *text) {
  char wanted[8] = "'";
  if (bpdq_parser_skip_operator(p, text)) return BPDQ_OK;
  strcat(strcat(wanted, text), "'");
  return bpdq_parser_unexpected(p, wanted);
}

bpdq_status bpdq_parser_expect_name(bpdq_template_parser *p, bpdq_text *name) {
  if (p->token->kind != BPDQ_TOKEN_NAME) return bpdq_parser_unexpected(p, "a name");
  *name = (bpdq_text){p->token->text, p->token->length};
  p->token++;
  return BPDQ_OK;
}

bpdq_status bpdq_parser_enter(bpdq_template_parser *p) {
  if (p->nesting == BPDQ_TEMPLATE_MAX_NESTING)
    return bpdq_fail(p->error, BPDQ_ERROR_UNSUPPORTED, "chat template line %d: nested deeper than %d levels", p->token->line,
                     BPDQ_TEMPLATE_MAX_NESTING);
  p->nesting++;
  return BPDQ_OK;
}

void bpdq_parser_leave(bpdq_template_parser *p) { p->nesting--; }

/* ---- statements ---- */

static bpdq_status parse_body(bpdq_template_parser *p, const char *const *ends, bpdq_body *body);

static bpdq_status end_block(bpdq_template_parser *p) {
  if (p->token->kind != BPDQ_TOKEN_BLOCK_END) return bpdq_parser_unexpected(p, "the end of the tag");
  p->token++;
  return BPDQ_OK;
}

/* "{% end... %}": the token is at the name, which parse_body has checked. */
static bpdq_status close_block(bpdq_template_parser *p) {
  p->token++;
  return end_block(p);
}

/* name | name, name ... | name.attribute (where allowed) */
static bpdq_status parse_target(bpdq_template_parser *p, bool attribute_allowed, bpdq_target *target) {
  size_t capacity = 0;
  bool parenthesis = bpdq_parser_skip_operator(p, "(");
  do {
    if (target->count && p->token->kind != BPDQ_TOKEN_NAME) break; /* a trailing comma */
    bpdq_text *names = bpdq_arena_grow(p->arena, target->names, target->count, &capacity, sizeof *names);
    if (!names) return bpdq_parser_out_of_memory(p);
    target->names = names;
    BPDQ_TRY(bpdq_parser_expect_name(p, &names[target->count++]));
    if (attribute_allowed && target->count == 1 && bpdq_parser_skip_operator(p, ".")) return bpdq_parser_expect_name(p, &target->attribute);
  } while (bpdq_parser_skip_operator(p, ","));
  return parenthesis ? bpdq_parser_expect_operator(p, ")") : BPDQ_OK;
}

static bpdq_status parse_for(bpdq_template_parser *p, bpdq_statement *statement) {
  static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
  BPDQ_TRY(parse_target(p, false, &statement->target));
  if (!bpdq_parser_skip_name(p, "in")) return bpdq_parser_unexpected(p, "'in'");
  BPDQ_TRY(bpdq_parser_tuple(p, false, &statement->value));
  if (bpdq_parser_skip_name(p, "if")) BPDQ_TRY(bpdq_parser_expression(p, true, &statement->condition));
  if (bpdq_parser_is_name(p, "recursive"))
    return bpdq_fail(p->error, BPDQ_ERROR_UNSUPPORTED,
                     "chat template line %d: recursive loops are not supported; pass another template with chat --chat-template",
                     statement->line);
  BPDQ_TRY(end_block(p));
  p->loops++;
  BPDQ_TRY(parse_body(p, ends, &statement->body));
  p->loops--;
  if (bpdq_parser_skip_name(p, "else")) {
    BPDQ_TRY(end_block(p));
    BPDQ_TRY(parse_body(p, last, &statement->otherwise));
  }
  return close_block(p);
}

/* An if with its elifs, which become a chain: each the only statement of the former's `otherwise`. */
static bpdq_status parse_if(bpdq_template_parser *p, bpdq_statement *statement) {
  static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
  for (;;) {
    BPDQ_TRY(bpdq_parser_tuple(p, false, &statement->value));
    BPDQ_TRY(end_block(p));
    BPDQ_TRY(parse_body(p, ends, &statement->body));
    if (!bpdq_parser_skip_name(p, "elif")) break;
    bpdq_statement *next = bpdq_arena_alloc(p->arena, 1, sizeof *next);
    if (!next) return bpdq_parser_out_of_memory(p);
    *next = (bpdq_statement){.kind = BPDQ_STATEMENT_IF, .line = p->token->line};
    statement->otherwise = (bpdq_body){next, 1};
    statement = next;
  }
  if (bpdq_parser_skip_name(p, "else")) {
    BPDQ_TRY(end_block(p));
    BPDQ_TRY(parse_body(p, last, &statement->otherwise));
  }
  return close_block(p);
}

static bpdq_status parse_set(bpdq_template_parser *p, bpdq_statement *statement) {
  static const char *const ends[] = {"endset", NULL};
  BPDQ_TRY(parse_target(p, true, &statement->target));
  if (bpdq_parser_skip_operator(p, "=")) {
    BPDQ_TRY(bpdq_parser_tuple(p, true, &statement->value));
    return end_block(p);
  }
  statement->kind = BPDQ_STATEMENT_SET_BLOCK;
  if (bpdq_parser_skip_operator(p, "|")) BPDQ_TRY(bpdq_parser_filters(p, NULL, &statement->value));
  BPDQ_TRY(end_block(p));
  int loops = p->loops; /* a break in here cannot leave a loop around it */
  p->loops = 0;
  BPDQ_TRY(parse_body(p, ends, &statement->body));
  p->loops = loops;
  return close_block(p);
}

static bpdq_status parse_macro(bpdq_template_parser *p, bpdq_statement *statement) {
  static const char *const ends[] = {"endmacro", NULL};
  bpdq_arguments *parameters = &statement->parameters;
  size_t name_capacity = 0, value_capacity = 0;
  BPDQ_TRY(bpdq_parser_expect_name(p, &statement->text));
  BPDQ_TRY(bpdq_parser_expect_operator(p, "("));
  while (!bpdq_parser_is_operator(p, ")")) {
    if (parameters->count) BPDQ_TRY(bpdq_parser_expect_operator(p, ","));
    bpdq_text *names = bpdq_arena_grow(p->arena, parameters->names, parameters->count, &name_capacity, sizeof *names);
    const bpdq_expression **values = bpdq_arena_grow(p->arena, parameters->values, parameters->count, &value_capacity, sizeof *values);
    if (!names || !values) return bpdq_parser_out_of_memory(p);
    parameters->names = names;
    parameters->values = values;
    size_t i = parameters->count++;
    BPDQ_TRY(bpdq_parser_expect_name(p, &names[i]));
    if (bpdq_parser_skip_operator(p, "=")) BPDQ_TRY(bpdq_parser_expression(p, true, &values[i]));
  }
  BPDQ_TRY(bpdq_parser_expect_operator(p, ")"));
  BPDQ_TRY(end_block(p));
  int loops = p->loops;
  p->loops = 0;
  BPDQ_TRY(parse_body(p, ends, &statement->body));
  p->loops = loops;
  return close_block(p);
}

static bpdq_status parse_loop_control(bpdq_template_parser *p, const bpdq_statement *statement) {
  if (p->loops == 0)
    return bpdq_fail(p->error, BPDQ_ERROR_FORMAT, "chat template line %d: break or continue outside a loop", statement->line);
  return end_block(p);
}

static bpdq_status parse_block(bpdq_template_parser *p, bpdq_statement *statement) {
  static const char *const generation_ends[] = {"endgeneration", NULL};
  bpdq_text tag = {0};
  BPDQ_TRY(bpdq_parser_expect_name(p, &tag));
  if (bpdq_text_is(tag, "for")) {
    statement->kind = BPDQ_STATEMENT_FOR;
    return parse_for(p, statement);
  }
  if (bpdq_text_is(tag, "if")) {
    statement->kind = BPDQ_STATEMENT_IF;
    return parse_if(p, statement);
  }
  if (bpdq_text_is(tag, "set")) {
    statement->kind = BPDQ_STATEMENT_SET;
    return parse_set(p, statement);
  }
  if (bpdq_text_is(tag, "macro")) {
    statement->kind = BPDQ_STATEMENT_MACRO;
    return parse_macro(p, statement);
  }
  if (bpdq_text_is(tag, "generation")) {
    statement->kind = BPDQ_STATEMENT_GENERATION;
    BPDQ_TRY(end_block(p));
    BPDQ_TRY(parse_body(p, generation_ends, &statement->body));
    return close_block(p);
  }
  if (bpdq_text_is(tag, "break") || bpdq_text_is(tag, "continue")) {
    statement->kind = bpdq_text_is(tag, "break") ? BPDQ_STATEMENT_BREAK : BPDQ_STATEMENT_CONTINUE;
    return parse_loop_control(p, statement);
  }
  return bpdq_fail(p->error, BPDQ_ERROR_UNSUPPORTED,
                   "chat template line %d: the tag {%% %.*s %%} is not supported; pass another template with chat --chat-template",
                   statement->line, (int)(tag.length < 40 ? tag.length : 40), tag.data);
}

static bpdq_status parse_statement(bpdq_template_parser *p, bpdq_statement *statement) {
  statement->line = p->token->line;
  if (p->token->kind == BPDQ_TOKEN_TEXT) {
    statement->kind = BPDQ_STATEMENT_TEXT;
    statement->text = (bpdq_text){p->token->text, p->token->length};
    p->token++;
    return BPDQ_OK;
  }
  if (p->token++->kind == BPDQ_TOKEN_BLOCK_BEGIN) return parse_block(p, statement);
  statement->kind = BPDQ_STATEMENT_PRINT;
  BPDQ_TRY(bpdq_parser_tuple(p, true, &statement->value));
  if (p->token->kind != BPDQ_TOKEN_PRINT_END) return bpdq_parser_unexpected(p, "'}}'");
  p->token++;
  return BPDQ_OK;
}

/* Statements until a tag whose name is in `ends` (NULL: until the end of the template); the token is then at that name. */
static bpdq_status parse_body(bpdq_template_parser *p, const char *const *ends, bpdq_body *body) {
  size_t capacity = 0;
  BPDQ_TRY(bpdq_parser_enter(p));
  while (p->token->kind != BPDQ_TOKEN_END) {
    for (const char *const *end = ends; end && *end && p->token->kind == BPDQ_TOKEN_BLOCK_BEGIN; end++) {
      p->token++;
      if (bpdq_parser_is_name(p, *end)) {
        bpdq_parser_leave(p);
        return BPDQ_OK;
      }
      p->token--;
    }
    bpdq_statement *statements = bpdq_arena_grow(p->arena, body->statements, body->count, &capacity, sizeof *statements);
    if (!statements) return bpdq_parser_out_of_memory(p);
    body->statements = statements;
    statements[body->count] = (bpdq_statement){0};
    BPDQ_TRY(parse_statement(p, &statements[body->count++]));
  }
  bpdq_parser_leave(p);
  if (!ends) return BPDQ_OK;
  char wanted[40];
  while (ends[1]) ends++; /* the last one is the block's own end */
  snprintf(wanted, sizeof wanted, "{%% %s %%}", *ends);
  return bpdq_parser_unexpected(p, wanted);
}

bpdq_status bpdq_template_parse(const char *text, size_t length, bpdq_template **result, bpdq_error *error) {
  *result = NULL;
  if (length > MAX_TEMPLATE_BYTES) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "chat template: larger than 1 MB");
  bpdq_template *parsed = calloc(1, sizeof *parsed);
  if (!parsed) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "chat template: out of memory");
  parsed->arena.limit = MAX_PARSE_MEMORY;
  bpdq_template_token *tokens = NULL;
  bpdq_status status = bpdq_template_tokenize(&parsed->arena, text, length, &tokens, error);
  if (status == BPDQ_OK) {
    bpdq_template_parser parser = {.arena = &parsed->arena, .token = tokens, .error = error};
    status = parse_body(&parser, NULL, &parsed->body);
  }
  if (status != BPDQ_OK) {
    bpdq_template_free(parsed);
    return status;
  }
  *result = parsed;
  return BPDQ_OK;
}

void bpdq_template_free(bpdq_template *parsed) {
  if (!parsed) return;
  bpdq_arena_free(&parsed->arena);
  free(parsed);
}
