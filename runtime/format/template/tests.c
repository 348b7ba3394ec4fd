/* Tests: value is name(argument). */
#include "format/template/render.h"

static bool is_text_of_case(bpdq_text text, bool upper) {
  bool cased = false;
  for (size_t i = 0; i < text.length; i++) {
    char c = text.data[i];
    if (upper ? c >= 'a' && c <= 'z' : c >= 'A' && c <= 'Z') return false;
    cased |= upper ? c >= 'A' && c <= 'Z' : c >= 'a' && c <= 'z';
  }
  return cased;
}

/* Tests of the value alone. *known is false for a name that is none of them. */
static bool test_kind(bpdq_text name, bpdq_value v, bool *known) {
  *known = true;
  if (bpdq_text_is(name, "defined")) return v.kind != BPDQ_VALUE_UNDEFINED;
  if (bpdq_text_is(name, "undefined")) return v.kind == BPDQ_VALUE_UNDEFINED;
  if (bpdq_text_is(name, "none")) return v.kind == BPDQ_VALUE_NONE;
  if (bpdq_text_is(name, "string")) return v.kind == BPDQ_VALUE_STRING;
  if (bpdq_text_is(name, "boolean")) return v.kind == BPDQ_VALUE_BOOLEAN;
  if (bpdq_text_is(name, "true")) return v.kind == BPDQ_VALUE_BOOLEAN && v.integer;
  if (bpdq_text_is(name, "false")) return v.kind == BPDQ_VALUE_BOOLEAN && !v.integer;
  if (bpdq_text_is(name, "integer")) return v.kind == BPDQ_VALUE_INTEGER;
  if (bpdq_text_is(name, "float")) return v.kind == BPDQ_VALUE_FLOAT;
  if (bpdq_text_is(name, "number")) return bpdq_value_is_number(v);
  if (bpdq_text_is(name, "mapping")) return v.kind == BPDQ_VALUE_DICT;
  if (bpdq_text_is(name, "iterable") || bpdq_text_is(name, "sequence")) /* Jinja's Undefined has the methods of both */
    return v.kind == BPDQ_VALUE_STRING || bpdq_value_is_sequence(v) || v.kind == BPDQ_VALUE_DICT || v.kind == BPDQ_VALUE_UNDEFINED;
  if (bpdq_text_is(name, "callable"))
    return v.kind == BPDQ_VALUE_FUNCTION || v.kind == BPDQ_VALUE_METHOD || v.kind == BPDQ_VALUE_MACRO || v.kind == BPDQ_VALUE_UNDEFINED;
  if (bpdq_text_is(name, "upper") || bpdq_text_is(name, "lower"))
    return v.kind == BPDQ_VALUE_STRING && is_text_of_case(v.text, bpdq_text_is(name, "upper"));
  *known = false;
  return false;
}

static bpdq_status test_division(bpdq_renderer *r, bpdq_text name, bpdq_value input, bpdq_value divisor, bool *result) {
  if (!bpdq_value_is_whole(input) || !bpdq_value_is_whole(divisor) || divisor.integer == 0)
    return bpdq_value_error(&r->budget, "the test '%.*s' needs integers", (int)name.length, name.data);
  bool divisible = divisor.integer == -1 || input.integer % divisor.integer == 0;
  *result = divisible != bpdq_text_is(name, "odd");
  return BPDQ_OK;
}

static bpdq_status test_order(bpdq_renderer *r, bpdq_value a, bpdq_value b, bool less, bool or_equal, bool *result) {
  int order = 0;
  BPDQ_TRY(bpdq_value_compare(&r->budget, a, b, &order));
  *result = (less ? order < 0 : order > 0) || (or_equal && order == 0);
  return BPDQ_OK;
}

static bool named(bpdq_text name, const char *a, const char *b, const char *c) {
  return bpdq_text_is(name, a) || bpdq_text_is(name, b) || bpdq_text_is(name, c);
}

bpdq_status bpdq_template_test(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bool *result) {
  static const char *const parameters[] = {"other"};
  bool known;
  *result = test_kind(name, input, &known);
  if (known) return bpdq_call_bind(&r->budget, call, name, parameters, 0, NULL);
  if (bpdq_text_is(name, "even") || bpdq_text_is(name, "odd")) {
    BPDQ_TRY(bpdq_call_bind(&r->budget, call, name, parameters, 0, NULL));
    return test_division(r, name, input, bpdq_value_integer(2), result);
  }
  bpdq_value other = bpdq_value_none();
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, name, parameters, 1, &other));
  if (bpdq_text_is(name, "divisibleby")) return test_division(r, name, input, other, result);
  if (named(name, "eq", "equalto", "==")) return bpdq_value_equal(&r->budget, input, other, result);
  if (named(name, "ne", "!=", "ne")) {
    BPDQ_TRY(bpdq_value_equal(&r->budget, input, other, result));
    *result = !*result;
    return BPDQ_OK;
  }
  if (named(name, "lt", "lessthan", "<")) return test_order(r, input, other, true, false, result);
  if (named(name, "le", "<=", "le")) return test_order(r, input, other, true, true, result);
  if (named(name, "gt", "greaterthan", ">")) return test_order(r, input, other, false, false, result);
  if (named(name, "ge", ">=", "ge")) return test_order(r, input, other, false, true, result);
  if (bpdq_text_is(name, "in")) return bpdq_value_contains(&r->budget, other, input, result);
  if (bpdq_text_is(name, "sameas") && (other.kind == BPDQ_VALUE_NONE || other.kind == BPDQ_VALUE_BOOLEAN)) {
    *result = input.kind == other.kind && (other.kind == BPDQ_VALUE_NONE || input.integer == other.integer);
    return BPDQ_OK;
  }
  return bpdq_value_unsupported(&r->budget, "the test", name);
}
