/* The evaluator: what its parts (statements, expressions, filters, tests, methods) share. */
#ifndef BPDQ_FORMAT_TEMPLATE_RENDER_H
#define BPDQ_FORMAT_TEMPLATE_RENDER_H

#include "format/template/value.h"

/* Variables. Loops, macros and set blocks open a scope; an if does not. */
typedef struct bpdq_scope {
  const struct bpdq_scope *parent;
  bpdq_text *names;
  bpdq_value *values;
  size_t count, name_capacity, value_capacity;
} bpdq_scope;

typedef struct bpdq_renderer {
  bpdq_budget budget;
  bpdq_scope globals; /* what the caller passes and what the template sets at its top level */
  bpdq_scope *scope;
  bpdq_buffer *output;
  int nesting; /* of statements at work */
  int loop_depth;
  int evaluation_depth; /* of expressions at work */
} bpdq_renderer;

/* Evaluated arguments: positional ones first (names[i].data NULL). */
typedef struct bpdq_call {
  const bpdq_value *values;
  const bpdq_text *names;
  size_t count;
} bpdq_call;

/* Binds the arguments to `count` parameters; values[] holds the defaults before. `function` is for messages. */
bpdq_status bpdq_call_bind(bpdq_budget *budget, const bpdq_call *call, bpdq_text function, const char *const *parameters, size_t count,
                           bpdq_value *values);

bpdq_status bpdq_template_evaluate(bpdq_renderer *r, const bpdq_expression *expression, bpdq_value *result);
bpdq_status bpdq_template_assign(bpdq_renderer *r, bpdq_text name, bpdq_value value);
/* Renders a macro's body to a string. */
bpdq_status bpdq_template_call_macro(bpdq_renderer *r, const bpdq_statement *macro, const bpdq_call *call, bpdq_value *result);

/* value.name and value[key]; undefined where there is none. */
bpdq_status bpdq_template_attribute(bpdq_renderer *r, bpdq_value value, bpdq_text name, bpdq_value *result);
bpdq_status bpdq_template_subscript(bpdq_renderer *r, bpdq_value value, bpdq_value key, bpdq_value *result);
bpdq_status bpdq_template_call_method(bpdq_renderer *r, const bpdq_value_method *method, const bpdq_call *call, bpdq_value *result);
bpdq_status bpdq_template_call_function(bpdq_renderer *r, bpdq_text name, const bpdq_call *call, bpdq_value *result);
bool bpdq_template_is_function(bpdq_text name);

bpdq_status bpdq_template_filter(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result);
bpdq_status bpdq_template_test(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bool *result);

/* str.upper() and its kin; `mode` is "upper", "lower", "capitalize" or "title". */
bpdq_status bpdq_template_change_case(bpdq_budget *budget, bpdq_text text, const char *mode, bpdq_value *result);
/* str.replace(); limit < 0: all. */
bpdq_status bpdq_template_replace(bpdq_budget *budget, bpdq_text text, bpdq_text old, bpdq_text new, int64_t limit, bpdq_value *result);

#endif
