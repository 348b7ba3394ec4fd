/* Statements, scopes, and the rendering as a whole. */
#include "format/template/render.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OUTPUT_BYTES ((size_t)16 << 20)
#define MAX_RENDER_MEMORY ((size_t)256 << 20)

/* How a body ended. */
typedef enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE } flow;

static bpdq_status render_body(bpdq_renderer *r, const bpdq_body *body, flow *how);

static bpdq_status emit(bpdq_renderer *r, bpdq_text text) {
  if (text.length > MAX_OUTPUT_BYTES - r->output->length)
    return bpdq_value_error(&r->budget, "the output is larger than %zu MB", MAX_OUTPUT_BYTES >> 20);
  return bpdq_buffer_add(&r->budget, r->output, text.data, text.length);
}

bpdq_status bpdq_template_assign(bpdq_renderer *r, bpdq_text name, bpdq_value value) {
  bpdq_scope *scope = r->scope;
  for (size_t i = 0; i < scope->count; i++) {
    if (!bpdq_text_equal(scope->names[i], name)) continue;
    scope->values[i] = value;
    return BPDQ_OK;
  }
  bpdq_text *names = bpdq_arena_grow(&r->budget.arena, scope->names, scope->count, &scope->name_capacity, sizeof *names);
  bpdq_value *values = bpdq_arena_grow(&r->budget.arena, scope->values, scope->count, &scope->value_capacity, sizeof *values);
  if (!names || !values) return bpdq_budget_exhausted(&r->budget);
  scope->names = names;
  scope->values = values;
  names[scope->count] = name;
  values[scope->count++] = value;
  return BPDQ_OK;
}

/* One name takes the value; several take the items of a sequence. */
static bpdq_status assign_target(bpdq_renderer *r, const bpdq_target *target, bpdq_value value) {
  if (target->count == 1) return bpdq_template_assign(r, target->names[0], value);
  const bpdq_value_list *items;
  BPDQ_TRY(bpdq_value_iterate(&r->budget, value, &items));
  if (items->count != target->count)
    return bpdq_value_error(&r->budget, "cannot unpack %zu values into %zu names", items->count, target->count);
  for (size_t i = 0; i < target->count; i++) BPDQ_TRY(bpdq_template_assign(r, target->names[i], items->items[i]));
  return BPDQ_OK;
}

static bpdq_status set_attribute(bpdq_renderer *r, const bpdq_target *target, bpdq_value value) {
  bpdq_value object;
  bpdq_expression name = {.kind = BPDQ_EXPR_NAME, .line = r->budget.line, .name = target->names[0]};
  BPDQ_TRY(bpdq_template_evaluate(r, &name, &object));
  if (object.kind != BPDQ_VALUE_NAMESPACE)
    return bpdq_value_error(&r->budget, "cannot assign an attribute of something other than a namespace");
  if (target->attribute.data[0] == '_') return bpdq_value_error(&r->budget, "a namespace cannot store names that begin with _");
  return bpdq_value_put(&r->budget, object.dict, bpdq_value_string(target->attribute), value);
}

/* Renders a body into a string, in a scope of its own. */
static bpdq_status capture(bpdq_renderer *r, bpdq_scope *scope, const bpdq_body *body, bpdq_value *result) {
  bpdq_buffer buffer = {0}, *outer_output = r->output;
  bpdq_scope *outer_scope = r->scope;
  flow how;
  r->output = &buffer;
  r->scope = scope;
  bpdq_status status = render_body(r, body, &how);
  r->output = outer_output;
  r->scope = outer_scope;
  *result = bpdq_value_string(bpdq_buffer_text(&buffer));
  return status;
}

static bpdq_status render_set(bpdq_renderer *r, const bpdq_statement *statement) {
  bpdq_value value;
  if (statement->kind == BPDQ_STATEMENT_SET) {
    BPDQ_TRY(bpdq_template_evaluate(r, statement->value, &value));
  } else {
    bpdq_scope scope = {.parent = r->scope};
    BPDQ_TRY(capture(r, &scope, &statement->body, &value));
    if (statement->value) { /* the filters' innermost operand is absent: it is this text, which they read by the name "" */
      scope = (bpdq_scope){.parent = r->scope};
      bpdq_scope *outer = r->scope;
      r->scope = &scope;
      bpdq_status status = bpdq_template_assign(r, (bpdq_text){"", 0}, value);
      if (status == BPDQ_OK) status = bpdq_template_evaluate(r, statement->value, &value);
      r->scope = outer;
      BPDQ_TRY(status);
    }
  }
  return statement->target.attribute.data ? set_attribute(r, &statement->target, value) : assign_target(r, &statement->target, value);
}

/* The items for which the loop's condition holds; it sees the loop's variables. */
static bpdq_status filter_items(bpdq_renderer *r, const bpdq_statement *loop, const bpdq_value_list **items) {
  bpdq_value kept;
  BPDQ_TRY(bpdq_value_new_list(&r->budget, BPDQ_VALUE_LIST, 0, &kept));
  bpdq_scope scope = {.parent = r->scope}, *outer = r->scope;
  bpdq_status status = BPDQ_OK;
  r->scope = &scope;
  for (size_t i = 0; i < (*items)->count && status == BPDQ_OK; i++) {
    bpdq_value holds = bpdq_value_none();
    status = assign_target(r, &loop->target, (*items)->items[i]);
    if (status == BPDQ_OK) status = bpdq_template_evaluate(r, loop->condition, &holds);
    if (status == BPDQ_OK && bpdq_value_truth(holds)) status = bpdq_value_append(&r->budget, kept.list, (*items)->items[i]);
  }
  r->scope = outer;
  *items = kept.list;
  return status;
}

static bpdq_status render_iteration(bpdq_renderer *r, const bpdq_statement *statement, bpdq_value_loop *loop, flow *how) {
  bpdq_value self = {.kind = BPDQ_VALUE_LOOP, .loop = loop};
  BPDQ_TRY(bpdq_template_assign(r, (bpdq_text){"loop", 4}, self));
  BPDQ_TRY(assign_target(r, &statement->target, loop->items->items[loop->index]));
  return render_body(r, &statement->body, how);
}

static bpdq_status render_for(bpdq_renderer *r, const bpdq_statement *statement, flow *how) {
  bpdq_value value;
  const bpdq_value_list *items;
  BPDQ_TRY(bpdq_template_evaluate(r, statement->value, &value));
  BPDQ_TRY(bpdq_value_iterate(&r->budget, value, &items));
  if (statement->condition) BPDQ_TRY(filter_items(r, statement, &items));
  *how = FLOW_NEXT;
  bpdq_scope *outer = r->scope;
  bpdq_status status = BPDQ_OK;
  bool completed = false; /* an iteration that reached its end: without one, Jinja renders the else */
  for (size_t i = 0; i < items->count && *how != FLOW_BREAK && status == BPDQ_OK; i++) {
    bpdq_scope scope = {.parent = outer};                                   /* a set lasts for one iteration */
    bpdq_value_loop *loop = bpdq_budget_alloc(&r->budget, 1, sizeof *loop); /* may outlive the iteration in a namespace */
    if (!loop) return bpdq_budget_exhausted(&r->budget);
    *loop = (bpdq_value_loop){.items = items, .index = i, .depth = r->loop_depth};
    r->scope = &scope;
    r->loop_depth++;
    status = render_iteration(r, statement, loop, how);
    r->loop_depth--;
    r->scope = outer;
    completed |= *how == FLOW_NEXT;
  }
  *how = FLOW_NEXT;
  return status == BPDQ_OK && !completed ? render_body(r, &statement->otherwise, how) : status;
}

static bpdq_status render_statement(bpdq_renderer *r, const bpdq_statement *statement, flow *how) {
  bpdq_value value;
  bpdq_text text;
  switch (statement->kind) {
    case BPDQ_STATEMENT_TEXT:
      return emit(r, statement->text);
    case BPDQ_STATEMENT_PRINT:
      BPDQ_TRY(bpdq_template_evaluate(r, statement->value, &value));
      BPDQ_TRY(bpdq_value_to_text(&r->budget, value, &text));
      return emit(r, text);
    case BPDQ_STATEMENT_IF:
      for (;;) { /* down the chain of elifs */
        BPDQ_TRY(bpdq_template_evaluate(r, statement->value, &value));
        if (bpdq_value_truth(value)) return render_body(r, &statement->body, how);
        bool is_elif = statement->otherwise.count == 1 && statement->otherwise.statements[0].kind == BPDQ_STATEMENT_IF;
        if (!is_elif) return render_body(r, &statement->otherwise, how);
        statement = statement->otherwise.statements;
      }
    case BPDQ_STATEMENT_FOR:
      return render_for(r, statement, how);
    case BPDQ_STATEMENT_SET:
    case BPDQ_STATEMENT_SET_BLOCK:
      return render_set(r, statement);
    case BPDQ_STATEMENT_BREAK:
      *how = FLOW_BREAK;
      return BPDQ_OK;
    case BPDQ_STATEMENT_CONTINUE:
      *how = FLOW_CONTINUE;
      return BPDQ_OK;
    case BPDQ_STATEMENT_GENERATION:
      return render_body(r, &statement->body, how);
    case BPDQ_STATEMENT_MACRO:
      if (r->scope != &r->globals) return bpdq_value_unsupported(&r->budget, "the nested macro", statement->text);
      return bpdq_template_assign(r, statement->text, (bpdq_value){.kind = BPDQ_VALUE_MACRO, .macro = statement});
  }
  return BPDQ_OK;
}

static bpdq_status render_body(bpdq_renderer *r, const bpdq_body *body, flow *how) {
  *how = FLOW_NEXT;
  if (r->nesting >= BPDQ_TEMPLATE_MAX_NESTING)
    return bpdq_value_error(&r->budget, "nested deeper than %d levels", BPDQ_TEMPLATE_MAX_NESTING);
  bpdq_status status = BPDQ_OK;
  r->nesting++;
  for (size_t i = 0; i < body->count && *how == FLOW_NEXT && status == BPDQ_OK; i++) {
    r->budget.line = body->statements[i].line;
    status = bpdq_budget_charge(&r->budget, 0);
    if (status == BPDQ_OK) status = render_statement(r, &body->statements[i], how);
  }
  r->nesting--;
  return status;
}

bpdq_status bpdq_template_call_macro(bpdq_renderer *r, const bpdq_statement *macro, const bpdq_call *call, bpdq_value *result) {
  const bpdq_arguments *parameters = &macro->parameters;
  bpdq_scope scope = {.parent = &r->globals}, *outer = r->scope;
  const char **names = bpdq_budget_alloc(&r->budget, parameters->count + 1, sizeof *names);
  bpdq_value *values = bpdq_budget_alloc(&r->budget, parameters->count + 1, sizeof *values);
  if (!names || !values) return bpdq_budget_exhausted(&r->budget);
  for (size_t i = 0; i < parameters->count; i++) {
    names[i] = bpdq_arena_copy(&r->budget.arena, parameters->names[i].data, parameters->names[i].length);
    if (!names[i]) return bpdq_budget_exhausted(&r->budget);
    values[i] = bpdq_value_undefined(parameters->names[i]);
    if (parameters->values[i]) BPDQ_TRY(bpdq_template_evaluate(r, parameters->values[i], &values[i]));
  }
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, macro->text, names, parameters->count, values));
  bpdq_status status = BPDQ_OK;
  r->scope = &scope;
  for (size_t i = 0; i < parameters->count && status == BPDQ_OK; i++) status = bpdq_template_assign(r, parameters->names[i], values[i]);
  r->scope = outer;
  BPDQ_TRY(status);
  return capture(r, &scope, &macro->body, result);
}

/* ---- the whole ---- */

static bpdq_value text_value(const char *text) { return bpdq_value_string((bpdq_text){text, strlen(text)}); }

static bpdq_status message_list(bpdq_renderer *r, const bpdq_template_input *input, bpdq_value *list) {
  BPDQ_TRY(bpdq_value_new_list(&r->budget, BPDQ_VALUE_LIST, input->message_count, list));
  for (size_t i = 0; i < input->message_count; i++) {
    bpdq_value message;
    BPDQ_TRY(bpdq_value_new_dict(&r->budget, &message));
    BPDQ_TRY(bpdq_value_put(&r->budget, message.dict, text_value("role"), text_value(input->messages[i].role)));
    BPDQ_TRY(bpdq_value_put(&r->budget, message.dict, text_value("content"), text_value(input->messages[i].content)));
    BPDQ_TRY(bpdq_value_append(&r->budget, list->list, message));
  }
  return BPDQ_OK;
}

/* The variables that transformers passes: tools and documents are there and None. */
static bpdq_status set_variables(bpdq_renderer *r, const bpdq_template_input *input) {
  bpdq_value messages;
  BPDQ_TRY(message_list(r, input, &messages));
  BPDQ_TRY(bpdq_template_assign(r, (bpdq_text){"messages", 8}, messages));
  BPDQ_TRY(bpdq_template_assign(r, (bpdq_text){"tools", 5}, bpdq_value_none()));
  BPDQ_TRY(bpdq_template_assign(r, (bpdq_text){"documents", 9}, bpdq_value_none()));
  BPDQ_TRY(bpdq_template_assign(r, (bpdq_text){"add_generation_prompt", 21}, bpdq_value_boolean(input->add_generation_prompt)));
  if (input->bos_token) BPDQ_TRY(bpdq_template_assign(r, (bpdq_text){"bos_token", 9}, text_value(input->bos_token)));
  if (input->eos_token) BPDQ_TRY(bpdq_template_assign(r, (bpdq_text){"eos_token", 9}, text_value(input->eos_token)));
  return BPDQ_OK;
}

bpdq_status bpdq_template_render(const bpdq_template *parsed, const bpdq_template_input *input, char **output, bpdq_error *error) {
  *output = NULL;
  bpdq_buffer buffer = {0};
  bpdq_renderer r = {.budget = {.arena = {.limit = MAX_RENDER_MEMORY}, .error = error}, .output = &buffer};
  r.scope = &r.globals;
  flow how;
  bpdq_status status = set_variables(&r, input);
  if (status == BPDQ_OK) status = render_body(&r, &parsed->body, &how);
  if (status == BPDQ_OK) {
    *output = malloc(buffer.length + 1);
    if (*output) {
      if (buffer.length) memcpy(*output, buffer.data, buffer.length);
      (*output)[buffer.length] = 0;
    } else {
      status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "chat template: out of memory");
    }
  }
  bpdq_arena_free(&r.budget.arena);
  return status;
}
