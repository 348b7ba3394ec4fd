#include "format/template/value.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MAX_STEPS 10000000
#define STEP_BYTES 256 /* walking over this much text counts as one step */

/* ---- budget and errors ---- */

bpdq_status bpdq_budget_charge(bpdq_budget *budget, size_t bytes) {
  budget->steps += 1 + (int64_t)(bytes / STEP_BYTES);
  if (budget->steps <= MAX_STEPS) return BPDQ_OK;
  return bpdq_fail(budget->error, BPDQ_ERROR_FORMAT, "chat template line %d: stopped after %d steps", budget->line, MAX_STEPS);
}

void *bpdq_budget_alloc(bpdq_budget *budget, size_t count, size_t size) { return bpdq_arena_alloc(&budget->arena, count, size); }

bpdq_status bpdq_budget_exhausted(bpdq_budget *budget) {
  return bpdq_fail(budget->error, BPDQ_ERROR_MEMORY, "chat template line %d: rendering needs more than %zu MiB", budget->line,
                   budget->arena.limit >> 20);
}

bpdq_status bpdq_value_error(bpdq_budget *budget, const char *format, ...) {
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return bpdq_fail(budget->error, BPDQ_ERROR_FORMAT, "chat template line %d: %s", budget->line, message);
}

bpdq_status bpdq_value_unsupported(bpdq_budget *budget, const char *what, bpdq_text name) {
  return bpdq_fail(budget->error, BPDQ_ERROR_UNSUPPORTED,
                   "chat template line %d: %s '%.*s' is not supported; pass another template with chat --chat-template", budget->line, what,
                   (int)(name.length < 60 ? name.length : 60), name.data);
}

const char *bpdq_value_kind_name(bpdq_value value) {
  static const char *const names[] = {"undefined", "None", "bool",      "int",  "float",    "str",    "list",
                                      "tuple",     "dict", "namespace", "loop", "function", "method", "macro"};
  return names[value.kind];
}

/* ---- containers ---- */

bpdq_status bpdq_value_new_list(bpdq_budget *budget, bpdq_value_kind kind, size_t capacity, bpdq_value *list) {
  bpdq_value_list *made = bpdq_budget_alloc(budget, 1, sizeof *made);
  if (!made) return bpdq_budget_exhausted(budget);
  if (capacity) {
    made->items = bpdq_budget_alloc(budget, capacity, sizeof *made->items);
    if (!made->items) return bpdq_budget_exhausted(budget);
    made->capacity = capacity;
  }
  *list = (bpdq_value){.kind = kind, .list = made};
  return BPDQ_OK;
}

bpdq_status bpdq_value_append(bpdq_budget *budget, bpdq_value_list *list, bpdq_value item) {
  bpdq_value *items = bpdq_arena_grow(&budget->arena, list->items, list->count, &list->capacity, sizeof *items);
  if (!items) return bpdq_budget_exhausted(budget);
  list->items = items;
  items[list->count++] = item;
  return BPDQ_OK;
}

bpdq_status bpdq_value_new_dict(bpdq_budget *budget, bpdq_value *dict) {
  bpdq_value_dict *made = bpdq_budget_alloc(budget, 1, sizeof *made);
  if (!made) return bpdq_budget_exhausted(budget);
  *dict = (bpdq_value){.kind = BPDQ_VALUE_DICT, .dict = made};
  return BPDQ_OK;
}

static bpdq_status find_key(bpdq_budget *budget, const bpdq_value_dict *dict, bpdq_value key, size_t *position) {
  *position = 0;
  if (bpdq_value_is_sequence(key) || key.kind == BPDQ_VALUE_DICT)
    return bpdq_value_error(budget, "a %s cannot be a key", bpdq_value_kind_name(key));
  for (; *position < dict->count; *position += 2) {
    bool equal;
    BPDQ_TRY(bpdq_value_equal(budget, dict->entries[*position], key, &equal));
    if (equal) return BPDQ_OK;
  }
  return BPDQ_OK;
}

bpdq_status bpdq_value_put(bpdq_budget *budget, bpdq_value_dict *dict, bpdq_value key, bpdq_value value) {
  size_t position;
  BPDQ_TRY(find_key(budget, dict, key, &position));
  if (position == dict->count) {
    bpdq_value *entries = bpdq_arena_grow(&budget->arena, dict->entries, dict->count, &dict->capacity, sizeof *entries);
    if (!entries) return bpdq_budget_exhausted(budget);
    dict->entries = entries; /* the capacity is even, so that there is room for the value too */
    entries[position] = key;
    dict->count += 2;
  }
  dict->entries[position + 1] = value;
  return BPDQ_OK;
}

bpdq_status bpdq_value_get(bpdq_budget *budget, const bpdq_value_dict *dict, bpdq_value key, bool *found, bpdq_value *value) {
  size_t position;
  BPDQ_TRY(find_key(budget, dict, key, &position));
  *found = position < dict->count;
  if (*found) *value = dict->entries[position + 1];
  return BPDQ_OK;
}

/* ---- truth, equality, order ---- */

bool bpdq_value_truth(bpdq_value value) {
  switch (value.kind) {
    case BPDQ_VALUE_UNDEFINED:
    case BPDQ_VALUE_NONE:
      return false;
    case BPDQ_VALUE_BOOLEAN:
    case BPDQ_VALUE_INTEGER:
      return value.integer != 0;
    case BPDQ_VALUE_FLOAT:
      return value.number != 0;
    case BPDQ_VALUE_STRING:
      return value.text.length > 0;
    case BPDQ_VALUE_LIST:
    case BPDQ_VALUE_TUPLE:
      return value.list->count > 0;
    case BPDQ_VALUE_DICT:
      return value.dict->count > 0;
    default:
      return true;
  }
}

static bpdq_status equal_within(bpdq_budget *budget, bpdq_value a, bpdq_value b, int depth, bool *equal);

static bpdq_status equal_lists(bpdq_budget *budget, const bpdq_value_list *a, const bpdq_value_list *b, int depth, bool *equal) {
  *equal = a->count == b->count;
  for (size_t i = 0; i < a->count && *equal; i++) BPDQ_TRY(equal_within(budget, a->items[i], b->items[i], depth + 1, equal));
  return BPDQ_OK;
}

static bpdq_status equal_dicts(bpdq_budget *budget, const bpdq_value_dict *a, const bpdq_value_dict *b, int depth, bool *equal) {
  *equal = a->count == b->count;
  for (size_t i = 0; i < a->count && *equal; i += 2) {
    bpdq_value other;
    BPDQ_TRY(bpdq_value_get(budget, b, a->entries[i], equal, &other));
    if (*equal) BPDQ_TRY(equal_within(budget, a->entries[i + 1], other, depth + 1, equal));
  }
  return BPDQ_OK;
}

static bpdq_status equal_within(bpdq_budget *budget, bpdq_value a, bpdq_value b, int depth, bool *equal) {
  BPDQ_TRY(bpdq_budget_charge(budget, 0));
  *equal = false;
  if (depth > BPDQ_TEMPLATE_MAX_NESTING) return bpdq_value_error(budget, "values are nested too deeply to be compared");
  if (bpdq_value_is_whole(a) && bpdq_value_is_whole(b)) {
    *equal = a.integer == b.integer;
    return BPDQ_OK;
  }
  if (bpdq_value_is_number(a) && bpdq_value_is_number(b)) {
    *equal = bpdq_value_to_double(a) == bpdq_value_to_double(b);
    return BPDQ_OK;
  }
  if (a.kind != b.kind) return BPDQ_OK;
  switch (a.kind) {
    case BPDQ_VALUE_UNDEFINED:
    case BPDQ_VALUE_NONE:
      *equal = true;
      return BPDQ_OK;
    case BPDQ_VALUE_STRING:
      *equal = bpdq_text_equal(a.text, b.text);
      return bpdq_budget_charge(budget, *equal ? a.text.length : 0);
    case BPDQ_VALUE_LIST:
    case BPDQ_VALUE_TUPLE:
      return equal_lists(budget, a.list, b.list, depth, equal);
    case BPDQ_VALUE_DICT:
      return equal_dicts(budget, a.dict, b.dict, depth, equal);
    case BPDQ_VALUE_FUNCTION:
      *equal = bpdq_text_equal(a.text, b.text);
      return BPDQ_OK;
    default:
      *equal = a.dict == b.dict;
      return BPDQ_OK; /* by identity */
  }
}

bpdq_status bpdq_value_equal(bpdq_budget *budget, bpdq_value a, bpdq_value b, bool *equal) { return equal_within(budget, a, b, 0, equal); }

static int compare_texts(bpdq_text a, bpdq_text b) {
  size_t common = a.length < b.length ? a.length : b.length;
  int order = common ? memcmp(a.data, b.data, common) : 0; /* the order of UTF-8 bytes is that of code points */
  return order ? order : (a.length > b.length) - (a.length < b.length);
}

static bpdq_status compare_within(bpdq_budget *budget, bpdq_value a, bpdq_value b, int depth, int *order) {
  BPDQ_TRY(bpdq_budget_charge(budget, 0));
  if (bpdq_value_is_whole(a) && bpdq_value_is_whole(b)) {
    *order = (a.integer > b.integer) - (a.integer < b.integer);
    return BPDQ_OK;
  }
  if (bpdq_value_is_number(a) && bpdq_value_is_number(b)) {
    double x = bpdq_value_to_double(a), y = bpdq_value_to_double(b);
    *order = (x > y) - (x < y);
    return BPDQ_OK;
  }
  if (a.kind == BPDQ_VALUE_STRING && b.kind == BPDQ_VALUE_STRING) {
    *order = compare_texts(a.text, b.text);
    return bpdq_budget_charge(budget, a.text.length);
  }
  if (a.kind != b.kind || !bpdq_value_is_sequence(a) || depth > BPDQ_TEMPLATE_MAX_NESTING)
    return bpdq_value_error(budget, "%s and %s have no order", bpdq_value_kind_name(a), bpdq_value_kind_name(b));
  for (size_t i = 0; i < a.list->count && i < b.list->count; i++) {
    bool equal;
    BPDQ_TRY(bpdq_value_equal(budget, a.list->items[i], b.list->items[i], &equal));
    if (!equal) return compare_within(budget, a.list->items[i], b.list->items[i], depth + 1, order);
  }
  *order = (a.list->count > b.list->count) - (a.list->count < b.list->count);
  return BPDQ_OK;
}

bpdq_status bpdq_value_compare(bpdq_budget *budget, bpdq_value a, bpdq_value b, int *order) {
  return compare_within(budget, a, b, 0, order);
}

bpdq_status bpdq_value_contains(bpdq_budget *budget, bpdq_value haystack, bpdq_value needle, bool *found) {
  *found = false;
  switch (haystack.kind) {
    case BPDQ_VALUE_UNDEFINED:
      return BPDQ_OK;
    case BPDQ_VALUE_STRING:
      if (needle.kind != BPDQ_VALUE_STRING)
        return bpdq_value_error(budget, "'in' on a string needs a string, not %s", bpdq_value_kind_name(needle));
      *found = bpdq_text_find(haystack.text, needle.text) >= 0;
      return bpdq_budget_charge(budget, haystack.text.length);
    case BPDQ_VALUE_DICT: {
      bpdq_value ignored;
      return bpdq_value_get(budget, haystack.dict, needle, found, &ignored);
    }
    case BPDQ_VALUE_LIST:
    case BPDQ_VALUE_TUPLE:
      for (size_t i = 0; i < haystack.list->count && !*found; i++)
        BPDQ_TRY(bpdq_value_equal(budget, haystack.list->items[i], needle, found));
      return BPDQ_OK;
    default:
      return bpdq_value_error(budget, "'in' does not work on %s", bpdq_value_kind_name(haystack));
  }
}

/* ---- items ---- */

static bpdq_status characters_of(bpdq_budget *budget, bpdq_text text, bpdq_value *list) {
  BPDQ_TRY(bpdq_value_new_list(budget, BPDQ_VALUE_LIST, 0, list));
  for (size_t i = 0, bytes; i < text.length; i += bytes) {
    int32_t code;
    bytes = bpdq_text_step(text.data + i, text.length - i, &code);
    BPDQ_TRY(bpdq_value_append(budget, list->list, bpdq_value_string((bpdq_text){text.data + i, bytes})));
    BPDQ_TRY(bpdq_budget_charge(budget, 0));
  }
  return BPDQ_OK;
}

bpdq_status bpdq_value_iterate(bpdq_budget *budget, bpdq_value value, const bpdq_value_list **items) {
  bpdq_value list = value;
  switch (value.kind) {
    case BPDQ_VALUE_LIST:
    case BPDQ_VALUE_TUPLE:
      break;
    case BPDQ_VALUE_UNDEFINED:
      BPDQ_TRY(bpdq_value_new_list(budget, BPDQ_VALUE_LIST, 0, &list));
      break;
    case BPDQ_VALUE_STRING:
      BPDQ_TRY(characters_of(budget, value.text, &list));
      break;
    case BPDQ_VALUE_DICT:
      BPDQ_TRY(bpdq_value_new_list(budget, BPDQ_VALUE_LIST, value.dict->count / 2, &list));
      for (size_t i = 0; i < value.dict->count; i += 2) BPDQ_TRY(bpdq_value_append(budget, list.list, value.dict->entries[i]));
      break;
    default:
      return bpdq_value_error(budget, "cannot loop over %s", bpdq_value_kind_name(value));
  }
  *items = list.list;
  return bpdq_budget_charge(budget, 0);
}

bpdq_status bpdq_value_length(bpdq_budget *budget, bpdq_value value, int64_t *length) {
  switch (value.kind) {
    case BPDQ_VALUE_UNDEFINED:
      *length = 0;
      return BPDQ_OK;
    case BPDQ_VALUE_STRING:
      *length = (int64_t)bpdq_text_characters(value.text);
      return bpdq_budget_charge(budget, value.text.length);
    case BPDQ_VALUE_LIST:
    case BPDQ_VALUE_TUPLE:
      *length = (int64_t)value.list->count;
      return BPDQ_OK;
    case BPDQ_VALUE_DICT:
      *length = (int64_t)value.dict->count / 2;
      return BPDQ_OK;
    case BPDQ_VALUE_LOOP:
      *length = (int64_t)value.loop->items->count;
      return BPDQ_OK;
    default:
      return bpdq_value_error(budget, "%s has no length", bpdq_value_kind_name(value));
  }
}
