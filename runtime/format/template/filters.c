/* Filters: value | name(arguments). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/template/render.h"

typedef bpdq_status (*filter_function)(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result);

/* Text of a value that a text filter takes; undefined is "". */
static bpdq_status input_text(bpdq_renderer *r, bpdq_value input, bpdq_text *text) { return bpdq_value_to_text(&r->budget, input, text); }

static bpdq_status no_arguments(bpdq_renderer *r, bpdq_text name, const bpdq_call *call) {
  return bpdq_call_bind(&r->budget, call, name, NULL, 0, NULL);
}

static bpdq_status filter_trim(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  static const char *const parameters[] = {"chars"};
  bpdq_value set = bpdq_value_none();
  bpdq_text text;
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, name, parameters, 1, &set));
  BPDQ_TRY(input_text(r, input, &text));
  if (set.kind != BPDQ_VALUE_NONE && set.kind != BPDQ_VALUE_STRING) return bpdq_value_error(&r->budget, "trim: chars must be a string");
  bpdq_text stripped = bpdq_text_strip(text, set.kind == BPDQ_VALUE_NONE ? NULL : &set.text, true, true);
  *result = bpdq_value_string(stripped);
  size_t set_length = set.kind == BPDQ_VALUE_NONE ? 0 : set.text.length;
  return bpdq_budget_charge(&r->budget, (text.length - stripped.length) * (1 + set_length / 16));
}

static bpdq_status filter_json(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  static const char *const parameters[] = {"ensure_ascii", "indent", "separators", "sort_keys"};
  bpdq_value values[4] = {bpdq_value_boolean(false), bpdq_value_none(), bpdq_value_none(), bpdq_value_boolean(false)};
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, name, parameters, 4, values));
  bpdq_json_style style = {.indent = -1,
                           .ascii = bpdq_value_truth(values[0]),
                           .sort_keys = bpdq_value_truth(values[3]),
                           .item_separator = {", ", 2},
                           .key_separator = {": ", 2}};
  if (bpdq_value_is_whole(values[1]) && values[1].integer <= 64) {
    style.indent = values[1].integer < 0 ? 0 : (int)values[1].integer;
    style.item_separator.length = 1; /* "," with indentation, as json.dumps does */
  } else if (values[1].kind != BPDQ_VALUE_NONE) {
    return bpdq_value_error(&r->budget, "tojson: indent must be an integer up to 64");
  }
  if (values[2].kind != BPDQ_VALUE_NONE) {
    const bpdq_value_list *pair = bpdq_value_is_sequence(values[2]) ? values[2].list : NULL;
    if (!pair || pair->count != 2 || pair->items[0].kind != BPDQ_VALUE_STRING || pair->items[1].kind != BPDQ_VALUE_STRING)
      return bpdq_value_error(&r->budget, "tojson: separators must be two strings");
    style.item_separator = pair->items[0].text;
    style.key_separator = pair->items[1].text;
  }
  bpdq_text text;
  BPDQ_TRY(bpdq_value_to_json(&r->budget, input, &style, &text));
  *result = bpdq_value_string(text);
  return BPDQ_OK;
}

static bpdq_status filter_length(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  int64_t length = 0;
  BPDQ_TRY(no_arguments(r, name, call));
  BPDQ_TRY(bpdq_value_length(&r->budget, input, &length));
  *result = bpdq_value_integer(length);
  return BPDQ_OK;
}

static bpdq_status filter_default(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  static const char *const parameters[] = {"default_value", "boolean"};
  bpdq_value values[2] = {bpdq_value_string((bpdq_text){"", 0}), bpdq_value_boolean(false)};
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, name, parameters, 2, values));
  bool absent = input.kind == BPDQ_VALUE_UNDEFINED || (bpdq_value_truth(values[1]) && !bpdq_value_truth(input));
  *result = absent ? values[0] : input;
  return BPDQ_OK;
}

static bpdq_status filter_case(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  char mode[16] = "";
  bpdq_text text;
  BPDQ_TRY(no_arguments(r, name, call));
  BPDQ_TRY(input_text(r, input, &text));
  memcpy(mode, name.data, name.length < sizeof mode ? name.length : sizeof mode - 1);
  return bpdq_template_change_case(&r->budget, text, mode, result);
}

static bpdq_status filter_string(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  bpdq_text text;
  BPDQ_TRY(no_arguments(r, name, call));
  BPDQ_TRY(input_text(r, input, &text));
  *result = bpdq_value_string(text);
  return BPDQ_OK;
}

static bpdq_status filter_same(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  *result = input; /* |safe, where nothing is escaped */
  return no_arguments(r, name, call);
}

static bpdq_status filter_replace(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  static const char *const parameters[] = {"old", "new", "count"};
  bpdq_value values[3] = {bpdq_value_undefined(name), bpdq_value_undefined(name), bpdq_value_integer(-1)};
  bpdq_text text, old, new;
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, name, parameters, 3, values));
  if (values[2].kind == BPDQ_VALUE_NONE) values[2] = bpdq_value_integer(-1);
  if (call->count < 2 || !bpdq_value_is_whole(values[2])) return bpdq_value_error(&r->budget, "replace takes old, new and a count");
  BPDQ_TRY(input_text(r, input, &text));
  BPDQ_TRY(input_text(r, values[0], &old));
  BPDQ_TRY(input_text(r, values[1], &new));
  return bpdq_template_replace(&r->budget, text, old, new, values[2].integer, result);
}

/* ---- numbers ---- */

static bpdq_status filter_int(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  static const char *const parameters[] = {"default"};
  bpdq_value fallback = bpdq_value_integer(0);
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, name, parameters, 1, &fallback));
  *result = fallback;
  double number = 0;
  if (input.kind == BPDQ_VALUE_STRING) {
    bpdq_text stripped = bpdq_text_strip(input.text, NULL, true, true);
    char digits[32] = "", *end;
    if (stripped.length == 0 || stripped.length >= sizeof digits) return BPDQ_OK;
    memcpy(digits, stripped.data, stripped.length);
    long long whole = strtoll(digits, &end, 10);
    if (!*end && stripped.length < 19) {
      *result = bpdq_value_integer(whole);
      return BPDQ_OK;
    }
    number = strtod(digits, &end);
    if (*end) return BPDQ_OK;
  } else if (bpdq_value_is_whole(input)) {
    *result = bpdq_value_integer(input.integer);
    return BPDQ_OK;
  } else if (input.kind == BPDQ_VALUE_FLOAT) {
    number = input.number;
  } else {
    return BPDQ_OK;
  }
  if (isfinite(number) && fabs(number) < 9e18) *result = bpdq_value_integer((int64_t)number);
  return BPDQ_OK;
}

static bpdq_status filter_float(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  static const char *const parameters[] = {"default"};
  bpdq_value fallback = bpdq_value_float(0);
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, name, parameters, 1, &fallback));
  *result = fallback;
  if (bpdq_value_is_number(input)) *result = bpdq_value_float(bpdq_value_to_double(input));
  if (input.kind == BPDQ_VALUE_STRING && input.text.length > 0 && input.text.length < 64) {
    char digits[64] = "", *end;
    memcpy(digits, input.text.data, input.text.length);
    double number = strtod(digits, &end);
    if (!*end) *result = bpdq_value_float(number);
  }
  return BPDQ_OK;
}

static bpdq_status filter_abs(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  BPDQ_TRY(no_arguments(r, name, call));
  if (!bpdq_value_is_number(input) || (input.kind != BPDQ_VALUE_FLOAT && input.integer == INT64_MIN))
    return bpdq_value_error(&r->budget, "abs needs a number, not %s", bpdq_value_kind_name(input));
  *result = input.kind == BPDQ_VALUE_FLOAT ? bpdq_value_float(fabs(input.number)) : bpdq_value_integer(llabs(input.integer));
  return BPDQ_OK;
}

/* ---- sequences ---- */

static bpdq_status filter_list(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  const bpdq_value_list *items;
  bool reversed = bpdq_text_is(name, "reverse");
  BPDQ_TRY(no_arguments(r, name, call));
  BPDQ_TRY(bpdq_value_iterate(&r->budget, input, &items));
  BPDQ_TRY(bpdq_value_new_list(&r->budget, BPDQ_VALUE_LIST, items->count, result));
  for (size_t i = 0; i < items->count; i++)
    BPDQ_TRY(bpdq_value_append(&r->budget, result->list, items->items[reversed ? items->count - 1 - i : i]));
  if (!reversed || input.kind != BPDQ_VALUE_STRING) return BPDQ_OK;
  bpdq_buffer buffer = {0}; /* a string is reversed to a string */
  for (size_t i = 0; i < items->count; i++)
    BPDQ_TRY(bpdq_buffer_add(&r->budget, &buffer, result->list->items[i].text.data, result->list->items[i].text.length));
  *result = bpdq_value_string(bpdq_buffer_text(&buffer));
  return BPDQ_OK;
}

static bpdq_status filter_end(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  const bpdq_value_list *items;
  BPDQ_TRY(no_arguments(r, name, call));
  BPDQ_TRY(bpdq_value_iterate(&r->budget, input, &items));
  *result = bpdq_value_undefined((bpdq_text){"item of an empty sequence", 25});
  if (items->count) *result = items->items[bpdq_text_is(name, "first") ? 0 : items->count - 1];
  return BPDQ_OK;
}

static bpdq_status filter_items(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  BPDQ_TRY(no_arguments(r, name, call));
  if (input.kind == BPDQ_VALUE_UNDEFINED) return bpdq_value_new_list(&r->budget, BPDQ_VALUE_LIST, 0, result);
  if (input.kind != BPDQ_VALUE_DICT) return bpdq_value_error(&r->budget, "items needs a dict, not %s", bpdq_value_kind_name(input));
  bpdq_value_method method = {input, {"items", 5}};
  return bpdq_template_call_method(r, &method, call, result);
}

/* value.a.b of an attribute given as text: "a.b". */
static bpdq_status dotted_attribute(bpdq_renderer *r, bpdq_value value, bpdq_value path, bpdq_value *result) {
  *result = value;
  if (path.kind != BPDQ_VALUE_STRING) return bpdq_template_subscript(r, value, path, result);
  for (bpdq_text rest = path.text;;) {
    int64_t dot = bpdq_text_find(rest, (bpdq_text){".", 1});
    bpdq_text part = {rest.data, dot < 0 ? rest.length : (size_t)dot};
    if (result->kind == BPDQ_VALUE_UNDEFINED) return bpdq_value_error(&r->budget, "an attribute of an undefined value was asked for");
    BPDQ_TRY(bpdq_template_subscript(r, *result, bpdq_value_string(part), result));
    if (dot < 0) return BPDQ_OK;
    rest = (bpdq_text){rest.data + dot + 1, rest.length - (size_t)dot - 1};
  }
}

static bpdq_status filter_join(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  static const char *const parameters[] = {"d", "attribute"};
  bpdq_value values[2] = {bpdq_value_string((bpdq_text){"", 0}), bpdq_value_none()};
  const bpdq_value_list *items;
  bpdq_buffer buffer = {0};
  bpdq_text separator;
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, name, parameters, 2, values));
  BPDQ_TRY(input_text(r, values[0], &separator));
  BPDQ_TRY(bpdq_value_iterate(&r->budget, input, &items));
  for (size_t i = 0; i < items->count; i++) {
    bpdq_value item = items->items[i];
    bpdq_text text;
    if (values[1].kind != BPDQ_VALUE_NONE) BPDQ_TRY(dotted_attribute(r, item, values[1], &item));
    BPDQ_TRY(input_text(r, item, &text));
    if (i) BPDQ_TRY(bpdq_buffer_add(&r->budget, &buffer, separator.data, separator.length));
    BPDQ_TRY(bpdq_buffer_add(&r->budget, &buffer, text.data, text.length));
  }
  *result = bpdq_value_string(bpdq_buffer_text(&buffer));
  return BPDQ_OK;
}

/* map("filter", arguments ...) and map(attribute="a.b", default=x) */
static bpdq_status filter_map(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  static const char *const parameters[] = {"attribute", "default"};
  const bpdq_value_list *items;
  bpdq_value values[2] = {bpdq_value_none(), bpdq_value_none()};
  bool by_filter = call->count && !call->names[0].data;
  bpdq_call rest = {0};
  if (by_filter) rest = (bpdq_call){call->values + 1, call->names + 1, call->count - 1};
  if (by_filter && call->values[0].kind != BPDQ_VALUE_STRING) return bpdq_value_error(&r->budget, "map needs the name of a filter");
  if (!by_filter) BPDQ_TRY(bpdq_call_bind(&r->budget, call, name, parameters, 2, values));
  if (!by_filter && values[0].kind == BPDQ_VALUE_NONE) return bpdq_value_error(&r->budget, "map needs a filter or an attribute");
  BPDQ_TRY(bpdq_value_iterate(&r->budget, input, &items));
  BPDQ_TRY(bpdq_value_new_list(&r->budget, BPDQ_VALUE_LIST, items->count, result));
  for (size_t i = 0; i < items->count; i++) {
    bpdq_value item = bpdq_value_none();
    BPDQ_TRY(bpdq_budget_charge(&r->budget, 0));
    if (by_filter)
      BPDQ_TRY(bpdq_template_filter(r, call->values[0].text, items->items[i], &rest, &item));
    else
      BPDQ_TRY(dotted_attribute(r, items->items[i], values[0], &item));
    if (!by_filter && item.kind == BPDQ_VALUE_UNDEFINED && values[1].kind != BPDQ_VALUE_NONE) item = values[1];
    BPDQ_TRY(bpdq_value_append(&r->budget, result->list, item));
  }
  return BPDQ_OK;
}

/* select, reject ("test", arguments ...) and selectattr, rejectattr ("attribute", "test", arguments ...) */
static bpdq_status filter_select(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  const bpdq_value_list *items;
  bool by_attribute = bpdq_text_ends(name, (bpdq_text){"attr", 4}), keep = bpdq_text_starts(name, (bpdq_text){"select", 6});
  size_t test = by_attribute;
  if (by_attribute && call->count == 0) return bpdq_value_error(&r->budget, "%.*s needs an attribute", (int)name.length, name.data);
  bool has_test = call->count > test;
  if (has_test && call->values[test].kind != BPDQ_VALUE_STRING) return bpdq_value_error(&r->budget, "the name of a test must be a string");
  bpdq_call rest = {0};
  if (has_test) rest = (bpdq_call){call->values + test + 1, call->names + test + 1, call->count - test - 1};
  BPDQ_TRY(bpdq_value_iterate(&r->budget, input, &items));
  BPDQ_TRY(bpdq_value_new_list(&r->budget, BPDQ_VALUE_LIST, 0, result));
  for (size_t i = 0; i < items->count; i++) {
    bpdq_value subject = items->items[i];
    BPDQ_TRY(bpdq_budget_charge(&r->budget, 0));
    if (by_attribute) BPDQ_TRY(dotted_attribute(r, items->items[i], call->values[0], &subject));
    bool holds = bpdq_value_truth(subject);
    if (has_test) BPDQ_TRY(bpdq_template_test(r, call->values[test].text, subject, &rest, &holds));
    if (holds == keep) BPDQ_TRY(bpdq_value_append(&r->budget, result->list, items->items[i]));
  }
  return BPDQ_OK;
}

/* indent(width=4, first=false, blank=false) */
static bpdq_status filter_indent(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  static const char *const parameters[] = {"width", "first", "blank"};
  bpdq_value values[3] = {bpdq_value_integer(4), bpdq_value_boolean(false), bpdq_value_boolean(false)};
  bpdq_buffer buffer = {0}, margin = {0};
  bpdq_text text;
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, name, parameters, 3, values));
  BPDQ_TRY(input_text(r, input, &text));
  if (values[0].kind == BPDQ_VALUE_STRING)
    BPDQ_TRY(bpdq_buffer_add(&r->budget, &margin, values[0].text.data, values[0].text.length));
  else if (!bpdq_value_is_whole(values[0]))
    return bpdq_value_error(&r->budget, "indent: width must be an integer or a string");
  else
    for (int64_t i = 0; i < values[0].integer; i++) BPDQ_TRY(bpdq_buffer_add(&r->budget, &margin, " ", 1));
  for (bool first = true;; first = false) {
    int64_t end = bpdq_text_find(text, (bpdq_text){"\n", 1});
    bpdq_text line = {text.data, end < 0 ? text.length : (size_t)end};
    bool indented = first ? bpdq_value_truth(values[1]) : line.length > 0 || bpdq_value_truth(values[2]);
    if (!first) BPDQ_TRY(bpdq_buffer_add(&r->budget, &buffer, "\n", 1));
    if (indented) BPDQ_TRY(bpdq_buffer_add(&r->budget, &buffer, margin.data, margin.length));
    BPDQ_TRY(bpdq_buffer_add(&r->budget, &buffer, line.data, line.length));
    if (end < 0) break;
    text = (bpdq_text){text.data + end + 1, text.length - (size_t)end - 1};
  }
  *result = bpdq_value_string(bpdq_buffer_text(&buffer));
  return BPDQ_OK;
}

static bpdq_status filter_unique(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  const bpdq_value_list *items;
  if (call->count) return bpdq_value_unsupported(&r->budget, "an argument of the filter", name); /* without one, case is ignored */
  BPDQ_TRY(bpdq_value_iterate(&r->budget, input, &items));
  bpdq_value seen;
  BPDQ_TRY(bpdq_value_new_list(&r->budget, BPDQ_VALUE_LIST, 0, &seen));
  BPDQ_TRY(bpdq_value_new_list(&r->budget, BPDQ_VALUE_LIST, 0, result));
  for (size_t i = 0; i < items->count; i++) {
    bpdq_value key = items->items[i];
    bool found;
    if (key.kind == BPDQ_VALUE_STRING) BPDQ_TRY(bpdq_template_change_case(&r->budget, key.text, "lower", &key));
    BPDQ_TRY(bpdq_value_contains(&r->budget, seen, key, &found));
    if (found) continue;
    BPDQ_TRY(bpdq_value_append(&r->budget, seen.list, key));
    BPDQ_TRY(bpdq_value_append(&r->budget, result->list, items->items[i]));
  }
  return BPDQ_OK;
}

bpdq_status bpdq_template_filter(bpdq_renderer *r, bpdq_text name, bpdq_value input, const bpdq_call *call, bpdq_value *result) {
  static const struct {
    const char *name;
    filter_function function;
  } filters[] = {
      {"trim", filter_trim},       {"tojson", filter_json},       {"length", filter_length},     {"count", filter_length},
      {"default", filter_default}, {"d", filter_default},         {"upper", filter_case},        {"lower", filter_case},
      {"capitalize", filter_case}, {"title", filter_case},        {"string", filter_string},     {"safe", filter_same},
      {"replace", filter_replace}, {"int", filter_int},           {"float", filter_float},       {"abs", filter_abs},
      {"list", filter_list},       {"reverse", filter_list},      {"first", filter_end},         {"last", filter_end},
      {"items", filter_items},     {"join", filter_join},         {"map", filter_map},           {"select", filter_select},
      {"reject", filter_select},   {"selectattr", filter_select}, {"rejectattr", filter_select}, {"indent", filter_indent},
      {"unique", filter_unique},
  };
  for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
    if (bpdq_text_is(name, filters[i].name)) return filters[i].function(r, name, input, call, result);
  return bpdq_value_unsupported(&r->budget, "the filter", name);
}
