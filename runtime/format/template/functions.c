/* The global functions that transformers and Jinja give a template. */
#include <string.h>
#include <time.h>

#include "format/template/render.h"

#define MAX_RANGE 100000 /* the sandbox's own limit */

static bpdq_status call_range(bpdq_renderer *r, const bpdq_call *call, bpdq_value *result) {
  int64_t bounds[3] = {0, 0, 1};
  if (call->count < 1 || call->count > 3) return bpdq_value_error(&r->budget, "range takes 1 to 3 arguments");
  for (size_t i = 0; i < call->count; i++) {
    if (call->names[i].data || !bpdq_value_is_whole(call->values[i])) return bpdq_value_error(&r->budget, "range takes integers");
    bounds[i] = call->values[i].integer;
  }
  int64_t start = call->count == 1 ? 0 : bounds[0], stop = call->count == 1 ? bounds[0] : bounds[1], step = bounds[2];
  if (step == 0) return bpdq_value_error(&r->budget, "range cannot have step 0");
  BPDQ_TRY(bpdq_value_new_list(&r->budget, BPDQ_VALUE_LIST, 0, result));
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (result->list->count == MAX_RANGE) return bpdq_value_error(&r->budget, "range is longer than %d", MAX_RANGE);
    BPDQ_TRY(bpdq_budget_charge(&r->budget, 0));
    BPDQ_TRY(bpdq_value_append(&r->budget, result->list, bpdq_value_integer(i)));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return BPDQ_OK;
}

/* dict(a=1) and namespace(a=1), both also from a dict. */
static bpdq_status call_dict(bpdq_renderer *r, bool is_namespace, const bpdq_call *call, bpdq_value *result) {
  BPDQ_TRY(bpdq_value_new_dict(&r->budget, result));
  for (size_t i = 0; i < call->count; i++) {
    bpdq_value source = call->values[i];
    if (call->names[i].data) {
      if (is_namespace && call->names[i].data[0] == '_')
        return bpdq_value_error(&r->budget, "a namespace cannot store names that begin with _");
      BPDQ_TRY(bpdq_value_put(&r->budget, result->dict, bpdq_value_string(call->names[i]), source));
      continue;
    }
    if (source.kind != BPDQ_VALUE_DICT || i > 0)
      return bpdq_value_error(&r->budget, "%s takes named arguments or one dict", is_namespace ? "namespace" : "dict");
    for (size_t k = 0; k < source.dict->count; k += 2)
      BPDQ_TRY(bpdq_value_put(&r->budget, result->dict, source.dict->entries[k], source.dict->entries[k + 1]));
  }
  if (is_namespace) result->kind = BPDQ_VALUE_NAMESPACE;
  return BPDQ_OK;
}

static bpdq_status call_raise(bpdq_renderer *r, const bpdq_call *call) {
  static const char *const parameters[] = {"message"};
  bpdq_value message = bpdq_value_none();
  bpdq_text text;
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, (bpdq_text){"raise_exception", 15}, parameters, 1, &message));
  BPDQ_TRY(bpdq_value_to_text(&r->budget, message, &text));
  return bpdq_fail(r->budget.error, BPDQ_ERROR_ARGUMENT, "the chat template refuses these messages: %.*s",
                   (int)(text.length < 800 ? text.length : 800), text.data);
}

static bpdq_status call_strftime(bpdq_renderer *r, const bpdq_call *call, bpdq_value *result) {
  static const char *const parameters[] = {"format"};
  bpdq_value format = bpdq_value_none();
  char text[512];
  struct tm now;
  time_t seconds = time(NULL);
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, (bpdq_text){"strftime_now", 12}, parameters, 1, &format));
  if (format.kind != BPDQ_VALUE_STRING || format.text.length > 128)
    return bpdq_value_error(&r->budget, "strftime_now takes a short string");
  char *pattern = bpdq_arena_copy(&r->budget.arena, format.text.data, format.text.length);
  if (!pattern) return bpdq_budget_exhausted(&r->budget);
  if (!localtime_r(&seconds, &now)) return bpdq_value_error(&r->budget, "strftime_now: the clock cannot be read");
  size_t length = strftime(text, sizeof text, pattern, &now);
  char *copy = bpdq_arena_copy(&r->budget.arena, text, length);
  if (!copy) return bpdq_budget_exhausted(&r->budget);
  *result = bpdq_value_string((bpdq_text){copy, length});
  return BPDQ_OK;
}

bool bpdq_template_is_function(bpdq_text name) {
  static const char *const names[] = {"range", "dict", "namespace", "raise_exception", "strftime_now", "cycler", "joiner", "lipsum"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (bpdq_text_is(name, names[i])) return true;
  return false;
}

bpdq_status bpdq_template_call_function(bpdq_renderer *r, bpdq_text name, const bpdq_call *call, bpdq_value *result) {
  if (bpdq_text_is(name, "range")) return call_range(r, call, result);
  if (bpdq_text_is(name, "dict")) return call_dict(r, false, call, result);
  if (bpdq_text_is(name, "namespace")) return call_dict(r, true, call, result);
  if (bpdq_text_is(name, "raise_exception")) return call_raise(r, call);
  if (bpdq_text_is(name, "strftime_now")) return call_strftime(r, call, result);
  return bpdq_value_unsupported(&r->budget, "the function", name);
}
