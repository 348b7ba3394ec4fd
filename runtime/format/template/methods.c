/* Attributes, subscripts, and the methods of strings, dicts and lists. */
#include <limits.h>
#include <string.h>
#include <utf8proc.h>

#include "format/template/render.h"

/* ---- attributes ---- */

static bool is_one_of(bpdq_text name, const char *const *names) {
  for (; *names; names++)
    if (bpdq_text_is(name, *names)) return true;
  return false;
}

/* Every public method of Python's str, dict and list: one that is not implemented is refused by name when it is called, where any other
 * name would be undefined. */
static bool has_method(bpdq_value value, bpdq_text name) {
  static const char *const of_strings[] = {
      "capitalize",   "casefold",   "center",    "count",       "encode",    "endswith",     "expandtabs",   "find",
      "format",       "format_map", "index",     "isalnum",     "isalpha",   "isascii",      "isdecimal",    "isdigit",
      "isidentifier", "islower",    "isnumeric", "isprintable", "isspace",   "istitle",      "isupper",      "join",
      "ljust",        "lower",      "lstrip",    "maketrans",   "partition", "removeprefix", "removesuffix", "replace",
      "rfind",        "rindex",     "rjust",     "rpartition",  "rsplit",    "rstrip",       "split",        "splitlines",
      "startswith",   "strip",      "swapcase",  "title",       "translate", "upper",        "zfill",        NULL};
  static const char *const of_dicts[] = {"clear", "copy",    "fromkeys",   "get",    "items",  "keys",
                                         "pop",   "popitem", "setdefault", "update", "values", NULL};
  static const char *const of_lists[] = {"append", "clear", "copy",   "count",   "extend", "index",
                                         "insert", "pop",   "remove", "reverse", "sort",   NULL};
  static const char *const of_loops[] = {"cycle", "changed", NULL};
  switch (value.kind) {
    case BPDQ_VALUE_STRING:
      return is_one_of(name, of_strings);
    case BPDQ_VALUE_DICT:
      return is_one_of(name, of_dicts);
    case BPDQ_VALUE_LIST:
      return is_one_of(name, of_lists);
    case BPDQ_VALUE_TUPLE:
      return bpdq_text_is(name, "count") || bpdq_text_is(name, "index");
    case BPDQ_VALUE_LOOP:
      return is_one_of(name, of_loops);
    default:
      return false;
  }
}

static bpdq_value loop_attribute(const bpdq_value_loop *loop, bpdq_text name) {
  int64_t index = (int64_t)loop->index, count = (int64_t)loop->items->count;
  if (bpdq_text_is(name, "index")) return bpdq_value_integer(index + 1);
  if (bpdq_text_is(name, "index0")) return bpdq_value_integer(index);
  if (bpdq_text_is(name, "revindex")) return bpdq_value_integer(count - index);
  if (bpdq_text_is(name, "revindex0")) return bpdq_value_integer(count - index - 1);
  if (bpdq_text_is(name, "first")) return bpdq_value_boolean(index == 0);
  if (bpdq_text_is(name, "last")) return bpdq_value_boolean(index == count - 1);
  if (bpdq_text_is(name, "length")) return bpdq_value_integer(count);
  if (bpdq_text_is(name, "depth")) return bpdq_value_integer(loop->depth + 1);
  if (bpdq_text_is(name, "depth0")) return bpdq_value_integer(loop->depth);
  if (bpdq_text_is(name, "previtem") && index > 0) return loop->items->items[index - 1];
  if (bpdq_text_is(name, "nextitem") && index + 1 < count) return loop->items->items[index + 1];
  return bpdq_value_undefined(name);
}

static bpdq_status make_method(bpdq_renderer *r, bpdq_value object, bpdq_text name, bpdq_value *result) {
  bpdq_value_method *method = bpdq_budget_alloc(&r->budget, 1, sizeof *method);
  if (!method) return bpdq_budget_exhausted(&r->budget);
  *method = (bpdq_value_method){object, name};
  *result = (bpdq_value){.kind = BPDQ_VALUE_METHOD, .method = method};
  return BPDQ_OK;
}

bpdq_status bpdq_template_attribute(bpdq_renderer *r, bpdq_value value, bpdq_text name, bpdq_value *result) {
  bool found;
  if (has_method(value, name)) return make_method(r, value, name, result);
  *result = value.kind == BPDQ_VALUE_LOOP ? loop_attribute(value.loop, name) : bpdq_value_undefined(name);
  if (value.kind != BPDQ_VALUE_DICT && value.kind != BPDQ_VALUE_NAMESPACE) return BPDQ_OK;
  return bpdq_value_get(&r->budget, value.dict, bpdq_value_string(name), &found, result);
}

bpdq_status bpdq_template_subscript(bpdq_renderer *r, bpdq_value value, bpdq_value key, bpdq_value *result) {
  int64_t length;
  bool found = false;
  if (value.kind == BPDQ_VALUE_DICT) {
    *result = bpdq_value_undefined(key.kind == BPDQ_VALUE_STRING ? key.text : (bpdq_text){"item", 4});
    BPDQ_TRY(bpdq_value_get(&r->budget, value.dict, key, &found, result));
    return !found && key.kind == BPDQ_VALUE_STRING && has_method(value, key.text) ? make_method(r, value, key.text, result) : BPDQ_OK;
  }
  bool indexable = value.kind == BPDQ_VALUE_STRING || bpdq_value_is_sequence(value);
  if (indexable && bpdq_value_is_whole(key)) {
    *result = bpdq_value_undefined((bpdq_text){"index out of range", 18});
    BPDQ_TRY(bpdq_value_length(&r->budget, value, &length));
    int64_t index = key.integer < 0 ? key.integer + length : key.integer;
    if (index < 0 || index >= length) return BPDQ_OK;
    if (value.kind != BPDQ_VALUE_STRING) {
      *result = value.list->items[index];
      return BPDQ_OK;
    }
    size_t offset = bpdq_text_offset(value.text, (size_t)index);
    int32_t code;
    size_t bytes = bpdq_text_step(value.text.data + offset, value.text.length - offset, &code);
    *result = bpdq_value_string((bpdq_text){value.text.data + offset, bytes});
    return bpdq_budget_charge(&r->budget, value.text.length);
  }
  if (key.kind == BPDQ_VALUE_STRING) return bpdq_template_attribute(r, value, key.text, result);
  *result = bpdq_value_undefined((bpdq_text){"item", 4});
  return BPDQ_OK;
}

/* ---- text operations that filters share ---- */

bpdq_status bpdq_template_change_case(bpdq_budget *budget, bpdq_text text, const char *mode, bpdq_value *result) {
  bpdq_buffer buffer = {0};
  bool word_start = true, title = strcmp(mode, "title") == 0, capitalize = strcmp(mode, "capitalize") == 0;
  for (size_t i = 0, bytes; i < text.length; i += bytes) {
    int32_t code;
    char encoded[4];
    bytes = bpdq_text_step(text.data + i, text.length - i, &code);
    bool upper = strcmp(mode, "upper") == 0 || ((title || capitalize) && word_start);
    if (upper && code == 0xdf) { /* the sharp s grows to two letters */
      BPDQ_TRY(bpdq_buffer_add(budget, &buffer, title || capitalize ? "Ss" : "SS", 2));
    } else {
      int32_t changed = !upper ? utf8proc_tolower(code) : title || capitalize ? utf8proc_totitle(code) : utf8proc_toupper(code);
      BPDQ_TRY(bpdq_buffer_add(budget, &buffer, encoded, bpdq_text_encode(changed, encoded)));
    }
    utf8proc_category_t category = utf8proc_category(code);
    bool letter = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LT;
    word_start = title && !letter;
  }
  *result = bpdq_value_string(bpdq_buffer_text(&buffer));
  return BPDQ_OK;
}

bpdq_status bpdq_template_replace(bpdq_budget *budget, bpdq_text text, bpdq_text old, bpdq_text new, int64_t limit, bpdq_value *result) {
  bpdq_buffer buffer = {0};
  bpdq_text rest = text;
  for (; limit != 0; limit -= limit > 0) {
    int64_t at = bpdq_text_find(rest, old);
    if (at < 0) break;
    BPDQ_TRY(bpdq_buffer_add(budget, &buffer, rest.data, (size_t)at));
    BPDQ_TRY(bpdq_buffer_add(budget, &buffer, new.data, new.length));
    size_t consumed = (size_t)at + old.length;
    if (old.length == 0) { /* an empty text is found before every character and at the end */
      int32_t code;
      if (rest.length == 0) break;
      consumed = bpdq_text_step(rest.data, rest.length, &code);
      BPDQ_TRY(bpdq_buffer_add(budget, &buffer, rest.data, consumed));
    }
    rest = (bpdq_text){rest.data + consumed, rest.length - consumed};
  }
  BPDQ_TRY(bpdq_buffer_add(budget, &buffer, rest.data, rest.length));
  *result = bpdq_value_string(bpdq_buffer_text(&buffer));
  return BPDQ_OK;
}

/* ---- methods of strings ---- */

/* An argument that must be a string. */
static bpdq_status need_string(bpdq_renderer *r, bpdq_text method, bpdq_value value) {
  if (value.kind == BPDQ_VALUE_STRING) return BPDQ_OK;
  return bpdq_value_error(&r->budget, "%.*s needs a string, not %s", (int)method.length, method.data, bpdq_value_kind_name(value));
}

/* str.startswith and endswith: one text or a tuple of them. */
static bpdq_status match_end(bpdq_renderer *r, bpdq_text text, const bpdq_value_method *method, bpdq_value what, bpdq_value *result) {
  bool start = bpdq_text_is(method->name, "startswith"), found = false;
  const bpdq_value *items = what.kind == BPDQ_VALUE_TUPLE ? what.list->items : &what;
  size_t count = what.kind == BPDQ_VALUE_TUPLE ? what.list->count : 1;
  for (size_t i = 0; i < count && !found; i++) {
    BPDQ_TRY(need_string(r, method->name, items[i]));
    found = start ? bpdq_text_starts(text, items[i].text) : bpdq_text_ends(text, items[i].text);
    BPDQ_TRY(bpdq_budget_charge(&r->budget, items[i].text.length));
  }
  *result = bpdq_value_boolean(found);
  return BPDQ_OK;
}

static bpdq_status split_on_space(bpdq_renderer *r, bpdq_text text, int64_t limit, bool from_right, bpdq_value *result) {
  while ((text = bpdq_text_strip(text, NULL, !from_right, from_right)).length) {
    size_t word = 0, position = 0;
    int32_t code;
    bpdq_text piece = text;
    if (limit != 0 && !from_right) {
      for (size_t bytes; word < text.length; word += bytes) {
        bytes = bpdq_text_step(text.data + word, text.length - word, &code);
        if (bpdq_text_is_space(code)) break;
      }
      piece.length = word;
    } else if (limit != 0) {
      for (size_t bytes; position < text.length; position += bytes) {
        bytes = bpdq_text_step(text.data + position, text.length - position, &code);
        if (bpdq_text_is_space(code)) word = position + bytes; /* the last word starts behind the last space */
      }
      piece = (bpdq_text){text.data + word, text.length - word};
    }
    BPDQ_TRY(bpdq_budget_charge(&r->budget, from_right ? text.length : piece.length));
    BPDQ_TRY(bpdq_value_append(&r->budget, result->list, bpdq_value_string(piece)));
    text =
        from_right ? (bpdq_text){text.data, text.length - piece.length} : (bpdq_text){text.data + piece.length, text.length - piece.length};
    limit -= limit > 0;
  }
  return BPDQ_OK;
}

static bpdq_status split_on_text(bpdq_renderer *r, bpdq_text text, bpdq_text separator, int64_t limit, bool from_right,
                                 bpdq_value *result) {
  for (; limit != 0; limit -= limit > 0) {
    int64_t at = from_right ? bpdq_text_find_last(text, separator) : bpdq_text_find(text, separator);
    if (at < 0) break;
    size_t behind = (size_t)at + separator.length;
    bpdq_text left = {text.data, (size_t)at}, right = {text.data + behind, text.length - behind};
    BPDQ_TRY(bpdq_budget_charge(&r->budget, from_right ? right.length : left.length));
    BPDQ_TRY(bpdq_value_append(&r->budget, result->list, bpdq_value_string(from_right ? right : left)));
    text = from_right ? left : right;
  }
  BPDQ_TRY(bpdq_budget_charge(&r->budget, text.length));
  return bpdq_value_append(&r->budget, result->list, bpdq_value_string(text));
}

static bpdq_status call_split(bpdq_renderer *r, bpdq_text text, const bpdq_value_method *method, const bpdq_call *call,
                              bpdq_value *result) {
  static const char *const parameters[] = {"sep", "maxsplit"};
  bool from_right = bpdq_text_is(method->name, "rsplit");
  bpdq_value values[2] = {bpdq_value_none(), bpdq_value_integer(-1)};
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, method->name, parameters, 2, values));
  if (!bpdq_value_is_whole(values[1])) return bpdq_value_error(&r->budget, "split: maxsplit must be an integer");
  int64_t limit = values[1].integer < 0 ? -1 : values[1].integer;
  BPDQ_TRY(bpdq_value_new_list(&r->budget, BPDQ_VALUE_LIST, 0, result));
  if (values[0].kind == BPDQ_VALUE_NONE) {
    BPDQ_TRY(split_on_space(r, text, limit, from_right, result));
  } else {
    BPDQ_TRY(need_string(r, method->name, values[0]));
    if (values[0].text.length == 0) return bpdq_value_error(&r->budget, "split: the separator is empty");
    BPDQ_TRY(split_on_text(r, text, values[0].text, limit, from_right, result));
  }
  for (size_t i = 0, j = result->list->count; from_right && i + 1 < j; i++) { /* found from the right: turn them round */
    bpdq_value swapped = result->list->items[i];
    result->list->items[i] = result->list->items[--j];
    result->list->items[j] = swapped;
  }
  return BPDQ_OK;
}

static bpdq_status call_join(bpdq_renderer *r, bpdq_text separator, bpdq_value sequence, bpdq_value *result) {
  bpdq_buffer buffer = {0};
  const bpdq_value_list *items;
  BPDQ_TRY(bpdq_value_iterate(&r->budget, sequence, &items));
  for (size_t i = 0; i < items->count; i++) {
    BPDQ_TRY(need_string(r, (bpdq_text){"join", 4}, items->items[i]));
    if (i) BPDQ_TRY(bpdq_buffer_add(&r->budget, &buffer, separator.data, separator.length));
    BPDQ_TRY(bpdq_buffer_add(&r->budget, &buffer, items->items[i].text.data, items->items[i].text.length));
  }
  *result = bpdq_value_string(bpdq_buffer_text(&buffer));
  return BPDQ_OK;
}

/* str.splitlines() without keepends, on every line end that Python knows. */
static bpdq_status call_splitlines(bpdq_renderer *r, bpdq_text text, bpdq_value *result) {
  BPDQ_TRY(bpdq_value_new_list(&r->budget, BPDQ_VALUE_LIST, 0, result));
  size_t start = 0;
  for (size_t i = 0, bytes; i < text.length; i += bytes) {
    int32_t code;
    bytes = bpdq_text_step(text.data + i, text.length - i, &code);
    bool line_end = (code >= 0x0a && code <= 0x0d) || (code >= 0x1c && code <= 0x1e) || code == 0x85 || code == 0x2028 || code == 0x2029;
    if (!line_end) continue;
    BPDQ_TRY(bpdq_value_append(&r->budget, result->list, bpdq_value_string((bpdq_text){text.data + start, i - start})));
    if (code == '\r' && i + 1 < text.length && text.data[i + 1] == '\n') bytes++;
    start = i + bytes;
  }
  BPDQ_TRY(bpdq_budget_charge(&r->budget, text.length));
  if (start == text.length) return BPDQ_OK;
  return bpdq_value_append(&r->budget, result->list, bpdq_value_string((bpdq_text){text.data + start, text.length - start}));
}

/* str.find, rfind, count, index with one argument. */
static bpdq_status call_search(bpdq_renderer *r, bpdq_text text, bpdq_text name, bpdq_text needle, bpdq_value *result) {
  BPDQ_TRY(bpdq_budget_charge(&r->budget, text.length));
  if (bpdq_text_is(name, "count")) {
    int64_t count = 0, at;
    if (needle.length == 0) count = (int64_t)bpdq_text_characters(text) + 1;
    while (needle.length && (at = bpdq_text_find(text, needle)) >= 0) {
      size_t behind = (size_t)at + needle.length;
      text = (bpdq_text){text.data + behind, text.length - behind};
      count++;
    }
    *result = bpdq_value_integer(count);
    return BPDQ_OK;
  }
  int64_t at = bpdq_text_is(name, "rfind") ? bpdq_text_find_last(text, needle) : bpdq_text_find(text, needle);
  if (at < 0 && bpdq_text_is(name, "index")) return bpdq_value_error(&r->budget, "index: not found");
  *result = bpdq_value_integer(at < 0 ? -1 : (int64_t)bpdq_text_characters((bpdq_text){text.data, (size_t)at}));
  return BPDQ_OK;
}

static bpdq_status call_strip(bpdq_renderer *r, bpdq_text text, bpdq_text name, bpdq_value set, bpdq_value *result) {
  if (set.kind != BPDQ_VALUE_NONE) BPDQ_TRY(need_string(r, name, set));
  bool left = !bpdq_text_is(name, "rstrip"), right = !bpdq_text_is(name, "lstrip");
  bpdq_text stripped = bpdq_text_strip(text, set.kind == BPDQ_VALUE_NONE ? NULL : &set.text, left, right);
  *result = bpdq_value_string(stripped);
  size_t set_length = set.kind == BPDQ_VALUE_NONE ? 0 : set.text.length; /* the set is searched for every stripped character */
  return bpdq_budget_charge(&r->budget, (text.length - stripped.length) * (1 + set_length / 16));
}

static bpdq_status call_replace(bpdq_renderer *r, bpdq_text text, bpdq_text name, const bpdq_call *call, bpdq_value *result) {
  static const char *const parameters[] = {"old", "new", "count"};
  bpdq_value values[3] = {bpdq_value_none(), bpdq_value_none(), bpdq_value_integer(-1)};
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, name, parameters, 3, values));
  BPDQ_TRY(need_string(r, name, values[0]));
  BPDQ_TRY(need_string(r, name, values[1]));
  if (!bpdq_value_is_whole(values[2])) return bpdq_value_error(&r->budget, "replace: count must be an integer");
  return bpdq_template_replace(&r->budget, text, values[0].text, values[1].text, values[2].integer, result);
}

/* isdigit, isalpha, isspace, isupper, islower on the whole text */
static bpdq_status call_class(bpdq_renderer *r, bpdq_text text, bpdq_text name, bpdq_value *result) {
  bool all = text.length > 0, cased = false;
  for (size_t i = 0, bytes; i < text.length && all; i += bytes) {
    int32_t code;
    bytes = bpdq_text_step(text.data + i, text.length - i, &code);
    utf8proc_category_t category = utf8proc_category(code);
    bool lower = category == UTF8PROC_CATEGORY_LL, upper = category == UTF8PROC_CATEGORY_LU;
    cased |= lower || upper;
    if (bpdq_text_is(name, "isdigit"))
      all = category == UTF8PROC_CATEGORY_ND;
    else if (bpdq_text_is(name, "isalpha"))
      all = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
    else if (bpdq_text_is(name, "isspace"))
      all = bpdq_text_is_space(code);
    else if (bpdq_text_is(name, "isupper"))
      all = !lower && category != UTF8PROC_CATEGORY_LT;
    else
      all = !upper && category != UTF8PROC_CATEGORY_LT;
  }
  if (bpdq_text_is(name, "isupper") || bpdq_text_is(name, "islower")) all = all && cased;
  *result = bpdq_value_boolean(all);
  return bpdq_budget_charge(&r->budget, text.length);
}

static bpdq_status call_affix(bpdq_text text, bpdq_text name, bpdq_text affix, bpdq_value *result) {
  if (bpdq_text_is(name, "removeprefix") && bpdq_text_starts(text, affix))
    text = (bpdq_text){text.data + affix.length, text.length - affix.length};
  if (bpdq_text_is(name, "removesuffix") && bpdq_text_ends(text, affix)) text.length -= affix.length;
  *result = bpdq_value_string(text);
  return BPDQ_OK;
}

static bpdq_status call_string_method(bpdq_renderer *r, const bpdq_value_method *method, const bpdq_call *call, bpdq_value *result) {
  static const char *const strips[] = {"strip", "lstrip", "rstrip", NULL}, *const ends[] = {"startswith", "endswith", NULL};
  static const char *const cases[] = {"upper", "lower", "title", "capitalize", NULL}, *const splits[] = {"split", "rsplit", NULL};
  static const char *const searches[] = {"find", "rfind", "count", "index", NULL}, *const affixes[] = {"removeprefix", "removesuffix",
                                                                                                       NULL};
  static const char *const classes[] = {"isdigit", "isalpha", "isspace", "isupper", "islower", NULL};
  static const char *const parameter[] = {"argument"};
  bpdq_text text = method->object.text, name = method->name;
  if (is_one_of(name, splits)) return call_split(r, text, method, call, result);
  if (bpdq_text_is(name, "replace")) return call_replace(r, text, name, call, result);
  bool plain = is_one_of(name, cases) || is_one_of(name, classes) || bpdq_text_is(name, "splitlines");
  bool optional = is_one_of(name, strips), known = plain || optional || is_one_of(name, ends) || is_one_of(name, searches) ||
                                                   is_one_of(name, affixes) || bpdq_text_is(name, "join");
  if (!known) return bpdq_value_unsupported(&r->budget, "the string method", name);
  bpdq_value argument = bpdq_value_none();
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, name, parameter, !plain, &argument));
  if (call->count == 0 && !plain && !optional) return bpdq_value_error(&r->budget, "%.*s needs an argument", (int)name.length, name.data);
  if (is_one_of(name, cases)) {
    char mode[16] = "";
    memcpy(mode, name.data, name.length);
    return bpdq_template_change_case(&r->budget, text, mode, result);
  }
  if (plain) return bpdq_text_is(name, "splitlines") ? call_splitlines(r, text, result) : call_class(r, text, name, result);
  if (optional) return call_strip(r, text, name, argument, result);
  if (is_one_of(name, ends)) return match_end(r, text, method, argument, result);
  if (bpdq_text_is(name, "join")) return call_join(r, text, argument, result);
  BPDQ_TRY(need_string(r, name, argument));
  return is_one_of(name, searches) ? call_search(r, text, name, argument.text, result) : call_affix(text, name, argument.text, result);
}

/* ---- methods of dicts, lists and loops ---- */

static bpdq_status call_dict_method(bpdq_renderer *r, const bpdq_value_method *method, const bpdq_call *call, bpdq_value *result) {
  static const char *const parameters[] = {"key", "default"};
  const bpdq_value_dict *dict = method->object.dict;
  if (bpdq_text_is(method->name, "get")) {
    bool found;
    bpdq_value values[2] = {bpdq_value_none(), bpdq_value_none()};
    BPDQ_TRY(bpdq_call_bind(&r->budget, call, method->name, parameters, 2, values));
    *result = values[1];
    return bpdq_value_get(&r->budget, dict, values[0], &found, result);
  }
  bool keys = bpdq_text_is(method->name, "keys"), values = bpdq_text_is(method->name, "values"),
       items = bpdq_text_is(method->name, "items");
  if (!keys && !values && !items) return bpdq_value_unsupported(&r->budget, "the dict method", method->name);
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, method->name, parameters, 0, NULL));
  BPDQ_TRY(bpdq_value_new_list(&r->budget, BPDQ_VALUE_LIST, 0, result));
  for (size_t i = 0; i < dict->count; i += 2) {
    bpdq_value item = dict->entries[i + (values ? 1 : 0)];
    if (items) {
      BPDQ_TRY(bpdq_value_new_list(&r->budget, BPDQ_VALUE_TUPLE, 2, &item));
      BPDQ_TRY(bpdq_value_append(&r->budget, item.list, dict->entries[i]));
      BPDQ_TRY(bpdq_value_append(&r->budget, item.list, dict->entries[i + 1]));
    }
    BPDQ_TRY(bpdq_value_append(&r->budget, result->list, item));
    BPDQ_TRY(bpdq_budget_charge(&r->budget, 0));
  }
  return BPDQ_OK;
}

static bpdq_status call_list_method(bpdq_renderer *r, const bpdq_value_method *method, const bpdq_call *call, bpdq_value *result) {
  static const char *const parameters[] = {"value"};
  const bpdq_value_list *list = method->object.list;
  bool index = bpdq_text_is(method->name, "index");
  if (!index && !bpdq_text_is(method->name, "count")) return bpdq_value_unsupported(&r->budget, "the list method", method->name);
  bpdq_value wanted = bpdq_value_none();
  int64_t count = 0;
  BPDQ_TRY(bpdq_call_bind(&r->budget, call, method->name, parameters, 1, &wanted));
  for (size_t i = 0; i < list->count; i++) {
    bool equal;
    BPDQ_TRY(bpdq_value_equal(&r->budget, list->items[i], wanted, &equal));
    if (equal && index) {
      *result = bpdq_value_integer((int64_t)i);
      return BPDQ_OK;
    }
    count += equal;
  }
  if (index) return bpdq_value_error(&r->budget, "index: the value is not in the list");
  *result = bpdq_value_integer(count);
  return BPDQ_OK;
}

bpdq_status bpdq_template_call_method(bpdq_renderer *r, const bpdq_value_method *method, const bpdq_call *call, bpdq_value *result) {
  switch (method->object.kind) {
    case BPDQ_VALUE_STRING:
      return call_string_method(r, method, call, result);
    case BPDQ_VALUE_DICT:
      return call_dict_method(r, method, call, result);
    case BPDQ_VALUE_LOOP:
      if (!bpdq_text_is(method->name, "cycle")) return bpdq_value_unsupported(&r->budget, "the loop method", method->name);
      if (call->count == 0) return bpdq_value_error(&r->budget, "loop.cycle needs arguments");
      *result = call->values[method->object.loop->index % call->count];
      return BPDQ_OK;
    default:
      return call_list_method(r, method, call, result);
  }
}
