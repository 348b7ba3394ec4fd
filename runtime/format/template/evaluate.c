/* Expressions. */
#include <math.h>
#include <string.h>

#include "format/template/render.h"

#define MAX_EVALUATION_DEPTH 1500 /* bounds the C stack; one expression alone stays below (parse_expression.c) */

static bpdq_status evaluate(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) { return bpdq_template_evaluate(r, e, result); }

static bpdq_status undefined_error(bpdq_renderer *r, bpdq_value value) {
  return bpdq_value_error(&r->budget, "'%.*s' is undefined", (int)(value.text.length < 60 ? value.text.length : 60), value.text.data);
}

static bpdq_status find_variable(bpdq_renderer *r, bpdq_text name, bpdq_value *result) {
  for (const bpdq_scope *scope = r->scope; scope; scope = scope->parent)
    for (size_t i = 0; i < scope->count; i++)
      if (bpdq_text_equal(scope->names[i], name)) {
        *result = scope->values[i];
        return BPDQ_OK;
      }
  *result = bpdq_template_is_function(name) ? (bpdq_value){.kind = BPDQ_VALUE_FUNCTION, .text = name} : bpdq_value_undefined(name);
  return BPDQ_OK;
}

/* ---- arguments and calls ---- */

static bpdq_status evaluate_arguments(bpdq_renderer *r, const bpdq_arguments *arguments, bpdq_call *call) {
  *call = (bpdq_call){.names = arguments->names, .count = arguments->count};
  if (arguments->count == 0) return BPDQ_OK;
  bpdq_value *values = bpdq_budget_alloc(&r->budget, arguments->count, sizeof *values);
  if (!values) return bpdq_budget_exhausted(&r->budget);
  for (size_t i = 0; i < arguments->count; i++) BPDQ_TRY(evaluate(r, arguments->values[i], &values[i]));
  call->values = values;
  return BPDQ_OK;
}

bpdq_status bpdq_call_bind(bpdq_budget *budget, const bpdq_call *call, bpdq_text function, const char *const *parameters, size_t count,
                           bpdq_value *values) {
  int shown = (int)(function.length < 60 ? function.length : 60);
  for (size_t i = 0; i < call->count; i++) {
    size_t slot = i;
    if (call->names[i].data)
      for (slot = 0; slot < count && !bpdq_text_is(call->names[i], parameters[slot]);) slot++;
    if (slot >= count && call->names[i].data)
      return bpdq_value_error(budget, "%.*s has no argument named '%.*s'", shown, function.data,
                              (int)(call->names[i].length < 60 ? call->names[i].length : 60), call->names[i].data);
    if (slot >= count) return bpdq_value_error(budget, "%.*s takes at most %zu arguments", shown, function.data, count);
    values[slot] = call->values[i];
  }
  return BPDQ_OK;
}

static bpdq_status evaluate_call(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) {
  bpdq_value callee = bpdq_value_none();
  bpdq_call call;
  BPDQ_TRY(evaluate(r, e->items[0], &callee));
  BPDQ_TRY(evaluate_arguments(r, &e->arguments, &call));
  r->budget.line = e->line;
  switch (callee.kind) {
    case BPDQ_VALUE_UNDEFINED:
      return undefined_error(r, callee);
    case BPDQ_VALUE_FUNCTION:
      return bpdq_template_call_function(r, callee.text, &call, result);
    case BPDQ_VALUE_METHOD:
      return bpdq_template_call_method(r, callee.method, &call, result);
    case BPDQ_VALUE_MACRO:
      return bpdq_template_call_macro(r, callee.macro, &call, result);
    default:
      return bpdq_value_error(&r->budget, "a %s cannot be called", bpdq_value_kind_name(callee));
  }
}

static bpdq_status evaluate_filter(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) {
  bpdq_value input = bpdq_value_none();
  bpdq_call call;
  if (e->items[0])
    BPDQ_TRY(evaluate(r, e->items[0], &input));
  else
    BPDQ_TRY(find_variable(r, (bpdq_text){"", 0}, &input)); /* the text of a set block */
  BPDQ_TRY(evaluate_arguments(r, &e->arguments, &call));
  r->budget.line = e->line;
  return bpdq_template_filter(r, e->name, input, &call, result);
}

static bpdq_status evaluate_test(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) {
  bpdq_value input = bpdq_value_none();
  bpdq_call call;
  bool holds = false;
  BPDQ_TRY(evaluate(r, e->items[0], &input));
  BPDQ_TRY(evaluate_arguments(r, &e->arguments, &call));
  r->budget.line = e->line;
  BPDQ_TRY(bpdq_template_test(r, e->name, input, &call, &holds));
  *result = bpdq_value_boolean(holds);
  return BPDQ_OK;
}

/* ---- containers ---- */

static bpdq_status evaluate_items(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) {
  BPDQ_TRY(bpdq_value_new_list(&r->budget, e->kind == BPDQ_EXPR_LIST ? BPDQ_VALUE_LIST : BPDQ_VALUE_TUPLE, e->count, result));
  for (size_t i = 0; i < e->count; i++) {
    bpdq_value item = bpdq_value_none();
    BPDQ_TRY(evaluate(r, e->items[i], &item));
    BPDQ_TRY(bpdq_value_append(&r->budget, result->list, item));
  }
  return BPDQ_OK;
}

static bpdq_status evaluate_dict(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) {
  BPDQ_TRY(bpdq_value_new_dict(&r->budget, result));
  for (size_t i = 0; i < e->count; i += 2) {
    bpdq_value key = bpdq_value_none(), value = bpdq_value_none();
    BPDQ_TRY(evaluate(r, e->items[i], &key));
    BPDQ_TRY(evaluate(r, e->items[i + 1], &value));
    BPDQ_TRY(bpdq_value_put(&r->budget, result->dict, key, value));
  }
  return BPDQ_OK;
}

/* ---- slices ---- */

/* start, stop or step of a slice; `present` is false for an absent one and for None. */
static bpdq_status slice_bound(bpdq_renderer *r, const bpdq_expression *e, bool *present, int64_t *bound) {
  bpdq_value value = bpdq_value_none();
  if (e) BPDQ_TRY(evaluate(r, e, &value));
  *present = value.kind != BPDQ_VALUE_NONE;
  if (!*present) return BPDQ_OK;
  if (!bpdq_value_is_whole(value)) return bpdq_value_error(&r->budget, "a slice needs integers, not %s", bpdq_value_kind_name(value));
  *bound = value.integer;
  return BPDQ_OK;
}

/* A bound as Python reads it: from the end when negative, cut to [low, high]. */
static int64_t clamp_bound(int64_t bound, int64_t length, int64_t low, int64_t high) {
  if (bound < 0) bound = bound < -length ? low : bound + length;
  return bound < low ? low : bound > high ? high : bound;
}

static bpdq_status slice_list(bpdq_renderer *r, bpdq_value source, int64_t start, int64_t stop, int64_t step, bpdq_value *result) {
  BPDQ_TRY(bpdq_value_new_list(&r->budget, source.kind, 0, result));
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    BPDQ_TRY(bpdq_value_append(&r->budget, result->list, source.list->items[i]));
    BPDQ_TRY(bpdq_budget_charge(&r->budget, 0));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return BPDQ_OK;
}

static bpdq_status slice_string(bpdq_renderer *r, bpdq_text text, int64_t start, int64_t stop, int64_t step, bpdq_value *result) {
  if (step == 1) {
    size_t from = bpdq_text_offset(text, (size_t)start);
    bpdq_text rest = {text.data + from, text.length - from};
    *result = bpdq_value_string((bpdq_text){rest.data, stop > start ? bpdq_text_offset(rest, (size_t)(stop - start)) : 0});
    return bpdq_budget_charge(&r->budget, text.length);
  }
  bpdq_buffer buffer = {0};
  const bpdq_value_list *characters;
  BPDQ_TRY(bpdq_value_iterate(&r->budget, bpdq_value_string(text), &characters));
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    BPDQ_TRY(bpdq_buffer_add(&r->budget, &buffer, characters->items[i].text.data, characters->items[i].text.length));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  *result = bpdq_value_string(bpdq_buffer_text(&buffer));
  return BPDQ_OK;
}

static bpdq_status evaluate_slice(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) {
  bpdq_value source = bpdq_value_none();
  bool has_start, has_stop, has_step;
  int64_t start = 0, stop = 0, step = 1, length;
  BPDQ_TRY(evaluate(r, e->items[0], &source));
  BPDQ_TRY(slice_bound(r, e->items[1], &has_start, &start));
  BPDQ_TRY(slice_bound(r, e->items[2], &has_stop, &stop));
  BPDQ_TRY(slice_bound(r, e->items[3], &has_step, &step));
  r->budget.line = e->line;
  if (has_step && step == 0) return bpdq_value_error(&r->budget, "a slice cannot have step 0");
  if (source.kind == BPDQ_VALUE_UNDEFINED) return undefined_error(r, source);
  if (source.kind != BPDQ_VALUE_STRING && !bpdq_value_is_sequence(source))
    return bpdq_value_error(&r->budget, "a %s cannot be sliced", bpdq_value_kind_name(source));
  BPDQ_TRY(bpdq_value_length(&r->budget, source, &length));
  int64_t low = step > 0 ? 0 : -1, high = step > 0 ? length : length - 1;
  start = has_start ? clamp_bound(start, length, low, high) : step > 0 ? 0 : length - 1;
  stop = has_stop ? clamp_bound(stop, length, low, high) : step > 0 ? length : -1;
  return source.kind == BPDQ_VALUE_STRING ? slice_string(r, source.text, start, stop, step, result)
                                          : slice_list(r, source, start, stop, step, result);
}

/* ---- arithmetic ---- */

static bpdq_status too_large(bpdq_renderer *r) { return bpdq_value_error(&r->budget, "a number leaves the range of 64-bit integers"); }

static bpdq_status integer_power(bpdq_renderer *r, int64_t base, int64_t exponent, bpdq_value *result) {
  if (exponent < 0) {
    *result = bpdq_value_float(pow((double)base, (double)exponent));
    return base == 0 ? bpdq_value_error(&r->budget, "division by zero") : BPDQ_OK;
  }
  int64_t power = 1;
  if (base == 0 || base == 1)
    power = exponent == 0 ? 1 : base;
  else if (base == -1)
    power = exponent % 2 ? -1 : 1;
  else
    for (; exponent > 0; exponent--)
      if (__builtin_mul_overflow(power, base, &power)) return too_large(r);
  *result = bpdq_value_integer(power);
  return BPDQ_OK;
}

static bpdq_status integer_arithmetic(bpdq_renderer *r, bpdq_operator op, int64_t a, int64_t b, bpdq_value *result) {
  int64_t value = 0;
  bool overflow = false;
  if (b == 0 && (op == BPDQ_OP_DIVIDE || op == BPDQ_OP_FLOOR_DIVIDE || op == BPDQ_OP_MODULO))
    return bpdq_value_error(&r->budget, "division by zero");
  switch (op) {
    case BPDQ_OP_ADD:
      overflow = __builtin_add_overflow(a, b, &value);
      break;
    case BPDQ_OP_SUBTRACT:
      overflow = __builtin_sub_overflow(a, b, &value);
      break;
    case BPDQ_OP_MULTIPLY:
      overflow = __builtin_mul_overflow(a, b, &value);
      break;
    case BPDQ_OP_DIVIDE:
      *result = bpdq_value_float((double)a / (double)b);
      return BPDQ_OK;
    case BPDQ_OP_POWER:
      return integer_power(r, a, b, result);
    case BPDQ_OP_FLOOR_DIVIDE:
    case BPDQ_OP_MODULO:
      if (b == -1) { /* INT64_MIN / -1 traps */
        overflow = op == BPDQ_OP_FLOOR_DIVIDE && __builtin_sub_overflow(0, a, &value);
      } else {
        int64_t quotient = a / b, remainder = a % b;
        bool floor = remainder != 0 && (remainder < 0) != (b < 0); /* C truncates, Python floors */
        value = op == BPDQ_OP_FLOOR_DIVIDE ? quotient - floor : remainder + (floor ? b : 0);
      }
      break;
    default:
      break;
  }
  *result = bpdq_value_integer(value);
  return overflow ? too_large(r) : BPDQ_OK;
}

static bpdq_status float_arithmetic(bpdq_renderer *r, bpdq_operator op, double a, double b, bpdq_value *result) {
  double value = 0;
  if (b == 0 && (op == BPDQ_OP_DIVIDE || op == BPDQ_OP_FLOOR_DIVIDE || op == BPDQ_OP_MODULO))
    return bpdq_value_error(&r->budget, "division by zero");
  switch (op) {
    case BPDQ_OP_ADD:
      value = a + b;
      break;
    case BPDQ_OP_SUBTRACT:
      value = a - b;
      break;
    case BPDQ_OP_MULTIPLY:
      value = a * b;
      break;
    case BPDQ_OP_DIVIDE:
      value = a / b;
      break;
    case BPDQ_OP_FLOOR_DIVIDE:
      value = floor(a / b);
      break;
    case BPDQ_OP_POWER:
      value = pow(a, b);
      break;
    default: {
      value = fmod(a, b);
      if (value != 0 && (value < 0) != (b < 0)) value += b;
    }
  }
  *result = bpdq_value_float(value);
  return BPDQ_OK;
}

static bpdq_status join_texts(bpdq_renderer *r, bpdq_text a, bpdq_text b, bpdq_value *result) {
  bpdq_buffer buffer = {0};
  BPDQ_TRY(bpdq_buffer_add(&r->budget, &buffer, a.data, a.length));
  BPDQ_TRY(bpdq_buffer_add(&r->budget, &buffer, b.data, b.length));
  *result = bpdq_value_string(bpdq_buffer_text(&buffer));
  return BPDQ_OK;
}

static bpdq_status join_lists(bpdq_renderer *r, bpdq_value a, bpdq_value b, bpdq_value *result) {
  BPDQ_TRY(bpdq_value_new_list(&r->budget, a.kind, 0, result));
  for (size_t i = 0; i < a.list->count; i++) BPDQ_TRY(bpdq_value_append(&r->budget, result->list, a.list->items[i]));
  for (size_t i = 0; i < b.list->count; i++) BPDQ_TRY(bpdq_value_append(&r->budget, result->list, b.list->items[i]));
  return bpdq_budget_charge(&r->budget, result->list->count * sizeof(bpdq_value));
}

static bpdq_status repeat_text(bpdq_renderer *r, bpdq_text text, int64_t times, bpdq_value *result) {
  bpdq_buffer buffer = {0};
  for (int64_t i = 0; i < times && text.length; i++) BPDQ_TRY(bpdq_buffer_add(&r->budget, &buffer, text.data, text.length));
  *result = bpdq_value_string(bpdq_buffer_text(&buffer));
  return BPDQ_OK;
}

static bpdq_status evaluate_arithmetic(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) {
  bpdq_value a = bpdq_value_none(), b = bpdq_value_none();
  BPDQ_TRY(evaluate(r, e->items[0], &a));
  BPDQ_TRY(evaluate(r, e->items[1], &b));
  r->budget.line = e->line;
  if (a.kind == BPDQ_VALUE_UNDEFINED) return undefined_error(r, a);
  if (b.kind == BPDQ_VALUE_UNDEFINED) return undefined_error(r, b);
  if (bpdq_value_is_whole(a) && bpdq_value_is_whole(b)) return integer_arithmetic(r, e->op, a.integer, b.integer, result);
  if (bpdq_value_is_number(a) && bpdq_value_is_number(b))
    return float_arithmetic(r, e->op, bpdq_value_to_double(a), bpdq_value_to_double(b), result);
  if (e->op == BPDQ_OP_ADD && a.kind == BPDQ_VALUE_STRING && b.kind == BPDQ_VALUE_STRING) return join_texts(r, a.text, b.text, result);
  if (e->op == BPDQ_OP_ADD && a.kind == b.kind && bpdq_value_is_sequence(a)) return join_lists(r, a, b, result);
  if (e->op == BPDQ_OP_MULTIPLY && a.kind == BPDQ_VALUE_STRING && bpdq_value_is_whole(b)) return repeat_text(r, a.text, b.integer, result);
  if (e->op == BPDQ_OP_MULTIPLY && b.kind == BPDQ_VALUE_STRING && bpdq_value_is_whole(a)) return repeat_text(r, b.text, a.integer, result);
  if (e->op == BPDQ_OP_MODULO && a.kind == BPDQ_VALUE_STRING)
    return bpdq_value_unsupported(&r->budget, "formatting a string with", (bpdq_text){"%", 1});
  static const char *const symbols[] = {"+", "-", "*", "/", "//", "%", "**"};
  return bpdq_value_error(&r->budget, "%s %s %s is not possible", bpdq_value_kind_name(a), symbols[e->op], bpdq_value_kind_name(b));
}

static bpdq_status evaluate_sign(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) {
  bpdq_value operand = bpdq_value_none();
  BPDQ_TRY(evaluate(r, e->items[0], &operand));
  if (operand.kind == BPDQ_VALUE_UNDEFINED) return undefined_error(r, operand);
  if (!bpdq_value_is_number(operand)) return bpdq_value_error(&r->budget, "a %s has no sign", bpdq_value_kind_name(operand));
  if (operand.kind == BPDQ_VALUE_FLOAT)
    *result = bpdq_value_float(e->kind == BPDQ_EXPR_NEGATIVE ? -operand.number : operand.number);
  else if (e->kind == BPDQ_EXPR_NEGATIVE)
    return integer_arithmetic(r, BPDQ_OP_SUBTRACT, 0, operand.integer, result);
  else
    *result = bpdq_value_integer(operand.integer);
  return BPDQ_OK;
}

static bpdq_status evaluate_concat(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) {
  bpdq_buffer buffer = {0};
  for (size_t i = 0; i < e->count; i++) {
    bpdq_value value = bpdq_value_none();
    bpdq_text text;
    BPDQ_TRY(evaluate(r, e->items[i], &value));
    BPDQ_TRY(bpdq_value_to_text(&r->budget, value, &text));
    BPDQ_TRY(bpdq_buffer_add(&r->budget, &buffer, text.data, text.length));
  }
  *result = bpdq_value_string(bpdq_buffer_text(&buffer));
  return BPDQ_OK;
}

/* ---- logic ---- */

static bpdq_status compare_pair(bpdq_renderer *r, bpdq_operator op, bpdq_value a, bpdq_value b, bool *holds) {
  int order = 0;
  if (op == BPDQ_OP_EQUAL || op == BPDQ_OP_NOT_EQUAL) {
    BPDQ_TRY(bpdq_value_equal(&r->budget, a, b, holds));
    *holds ^= op == BPDQ_OP_NOT_EQUAL;
    return BPDQ_OK;
  }
  if (op == BPDQ_OP_IN || op == BPDQ_OP_NOT_IN) {
    BPDQ_TRY(bpdq_value_contains(&r->budget, b, a, holds));
    *holds ^= op == BPDQ_OP_NOT_IN;
    return BPDQ_OK;
  }
  if (a.kind == BPDQ_VALUE_UNDEFINED) return undefined_error(r, a);
  if (b.kind == BPDQ_VALUE_UNDEFINED) return undefined_error(r, b);
  BPDQ_TRY(bpdq_value_compare(&r->budget, a, b, &order));
  *holds = op == BPDQ_OP_LESS ? order < 0 : op == BPDQ_OP_LESS_EQUAL ? order <= 0 : op == BPDQ_OP_GREATER ? order > 0 : order >= 0;
  return BPDQ_OK;
}

static bpdq_status evaluate_compare(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) {
  bpdq_value left = bpdq_value_none(), right = bpdq_value_none();
  bool holds = true;
  BPDQ_TRY(evaluate(r, e->items[0], &left));
  for (size_t i = 1; i < e->count && holds; i++) {
    BPDQ_TRY(evaluate(r, e->items[i], &right));
    r->budget.line = e->line;
    BPDQ_TRY(compare_pair(r, e->operators[i - 1], left, right, &holds));
    left = right;
  }
  *result = bpdq_value_boolean(holds);
  return BPDQ_OK;
}

/* and, or: the value of the operand that decides, as in Python */
static bpdq_status evaluate_logic(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) {
  BPDQ_TRY(evaluate(r, e->items[0], result));
  if (bpdq_value_truth(*result) == (e->kind == BPDQ_EXPR_OR)) return BPDQ_OK;
  return evaluate(r, e->items[1], result);
}

static bpdq_status evaluate_conditional(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) {
  bpdq_value condition = bpdq_value_none();
  BPDQ_TRY(evaluate(r, e->items[1], &condition));
  if (bpdq_value_truth(condition)) return evaluate(r, e->items[0], result);
  if (e->items[2]) return evaluate(r, e->items[2], result);
  *result = bpdq_value_undefined((bpdq_text){"if without else", 15});
  return BPDQ_OK;
}

static bpdq_status evaluate_access(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) {
  bpdq_value object = bpdq_value_none(), key = bpdq_value_none();
  BPDQ_TRY(evaluate(r, e->items[0], &object));
  r->budget.line = e->line;
  if (e->kind == BPDQ_EXPR_ATTRIBUTE) {
    if (object.kind == BPDQ_VALUE_UNDEFINED) return undefined_error(r, object);
    return bpdq_template_attribute(r, object, e->name, result);
  }
  BPDQ_TRY(evaluate(r, e->items[1], &key));
  if (object.kind == BPDQ_VALUE_UNDEFINED) return undefined_error(r, object);
  return bpdq_template_subscript(r, object, key, result);
}

static bpdq_status dispatch(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) {
  switch (e->kind) {
    case BPDQ_EXPR_NONE:
      *result = bpdq_value_none();
      return BPDQ_OK;
    case BPDQ_EXPR_BOOLEAN:
      *result = bpdq_value_boolean(e->integer != 0);
      return BPDQ_OK;
    case BPDQ_EXPR_INTEGER:
      *result = bpdq_value_integer(e->integer);
      return BPDQ_OK;
    case BPDQ_EXPR_FLOAT:
      *result = bpdq_value_float(e->number);
      return BPDQ_OK;
    case BPDQ_EXPR_STRING:
      *result = bpdq_value_string(e->name);
      return BPDQ_OK;
    case BPDQ_EXPR_NAME:
      return find_variable(r, e->name, result);
    case BPDQ_EXPR_LIST:
    case BPDQ_EXPR_TUPLE:
      return evaluate_items(r, e, result);
    case BPDQ_EXPR_DICT:
      return evaluate_dict(r, e, result);
    case BPDQ_EXPR_ATTRIBUTE:
    case BPDQ_EXPR_SUBSCRIPT:
      return evaluate_access(r, e, result);
    case BPDQ_EXPR_SLICE:
      return evaluate_slice(r, e, result);
    case BPDQ_EXPR_CALL:
      return evaluate_call(r, e, result);
    case BPDQ_EXPR_FILTER:
      return evaluate_filter(r, e, result);
    case BPDQ_EXPR_TEST:
      return evaluate_test(r, e, result);
    case BPDQ_EXPR_NOT:
      BPDQ_TRY(evaluate(r, e->items[0], result));
      *result = bpdq_value_boolean(!bpdq_value_truth(*result));
      return BPDQ_OK;
    case BPDQ_EXPR_NEGATIVE:
    case BPDQ_EXPR_POSITIVE:
      return evaluate_sign(r, e, result);
    case BPDQ_EXPR_AND:
    case BPDQ_EXPR_OR:
      return evaluate_logic(r, e, result);
    case BPDQ_EXPR_ARITHMETIC:
      return evaluate_arithmetic(r, e, result);
    case BPDQ_EXPR_CONCAT:
      return evaluate_concat(r, e, result);
    case BPDQ_EXPR_COMPARE:
      return evaluate_compare(r, e, result);
    case BPDQ_EXPR_CONDITIONAL:
      return evaluate_conditional(r, e, result);
  }
  return BPDQ_OK;
}

bpdq_status bpdq_template_evaluate(bpdq_renderer *r, const bpdq_expression *e, bpdq_value *result) {
  *result = bpdq_value_none();
  BPDQ_TRY(bpdq_budget_charge(&r->budget, 0));
  if (r->evaluation_depth >= MAX_EVALUATION_DEPTH) return bpdq_value_error(&r->budget, "macros call each other too deeply");
  r->evaluation_depth++;
  bpdq_status status = dispatch(r, e, result);
  r->evaluation_depth--;
  return status;
}
