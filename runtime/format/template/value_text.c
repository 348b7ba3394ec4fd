/* Values as text: str() and repr() as Python writes them, and JSON as its json module does. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "format/template/value.h"

bpdq_status bpdq_buffer_add(bpdq_budget *budget, bpdq_buffer *buffer, const char *data, size_t length) {
  BPDQ_TRY(bpdq_budget_charge(budget, length));
  if (length > buffer->capacity - buffer->length) {
    size_t capacity = buffer->capacity * 2 + 64;
    while (capacity - buffer->length < length) capacity *= 2;
    char *larger = bpdq_budget_alloc(budget, capacity, 1);
    if (!larger) return bpdq_budget_exhausted(budget);
    if (buffer->length) memcpy(larger, buffer->data, buffer->length);
    buffer->data = larger;
    buffer->capacity = capacity;
  }
  if (length) memcpy(buffer->data + buffer->length, data, length);
  buffer->length += length;
  return BPDQ_OK;
}

static bpdq_status add(bpdq_budget *budget, bpdq_buffer *buffer, const char *literal) {
  return bpdq_buffer_add(budget, buffer, literal, strlen(literal));
}

static bpdq_status add_text(bpdq_budget *budget, bpdq_buffer *buffer, bpdq_text text) {
  return bpdq_buffer_add(budget, buffer, text.data, text.length);
}

void bpdq_value_float_text(double number, char out[32]) {
  if (!isfinite(number)) {
    strcpy(out, isnan(number) ? "nan" : number > 0 ? "inf" : "-inf");
    return;
  }
  char digits[32];
  int precision = 0;
  do snprintf(digits, sizeof digits, "%.*e", precision, number);
  while (strtod(digits, NULL) != number && ++precision < 17);
  int exponent = atoi(strchr(digits, 'e') + 1);
  if (exponent < -4 || exponent >= 16)
    snprintf(out, 32, "%.*e", precision, number);
  else
    snprintf(out, 32, "%.*f", precision > exponent ? precision - exponent : 1, number);
}

/* ---- repr ---- */

static bool is_printable(int32_t code) {
  if (code == ' ') return true;
  utf8proc_category_t category = utf8proc_category(code);
  return category != UTF8PROC_CATEGORY_CC && category != UTF8PROC_CATEGORY_CF && category != UTF8PROC_CATEGORY_CS &&
         category != UTF8PROC_CATEGORY_CO && category != UTF8PROC_CATEGORY_CN && category != UTF8PROC_CATEGORY_ZL &&
         category != UTF8PROC_CATEGORY_ZP && category != UTF8PROC_CATEGORY_ZS;
}

static bpdq_status add_string_repr(bpdq_budget *budget, bpdq_buffer *buffer, bpdq_text text) {
  bool doubled = bpdq_text_find(text, (bpdq_text){"'", 1}) >= 0 && bpdq_text_find(text, (bpdq_text){"\"", 1}) < 0;
  const char *quote = doubled ? "\"" : "'";
  BPDQ_TRY(add(budget, buffer, quote));
  for (size_t i = 0, bytes; i < text.length; i += bytes) {
    int32_t code;
    char escape[16] = "";
    bytes = bpdq_text_step(text.data + i, text.length - i, &code);
    if (code == '\n' || code == '\r' || code == '\t')
      snprintf(escape, sizeof escape, "\\%c", code == '\n' ? 'n' : code == '\r' ? 'r' : 't');
    else if (code == '\\' || code == quote[0])
      snprintf(escape, sizeof escape, "\\%c", (char)code);
    else if (!is_printable(code))
      snprintf(escape, sizeof escape, code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)code);
    BPDQ_TRY(escape[0] ? add(budget, buffer, escape) : bpdq_buffer_add(budget, buffer, text.data + i, bytes));
  }
  return add(budget, buffer, quote);
}

static bpdq_status add_repr(bpdq_budget *budget, bpdq_buffer *buffer, bpdq_value value, int depth);

static bpdq_status add_list_repr(bpdq_budget *budget, bpdq_buffer *buffer, bpdq_value value, int depth) {
  bool tuple = value.kind == BPDQ_VALUE_TUPLE;
  BPDQ_TRY(add(budget, buffer, tuple ? "(" : "["));
  for (size_t i = 0; i < value.list->count; i++) {
    if (i) BPDQ_TRY(add(budget, buffer, ", "));
    BPDQ_TRY(add_repr(budget, buffer, value.list->items[i], depth + 1));
  }
  if (tuple && value.list->count == 1) BPDQ_TRY(add(budget, buffer, ","));
  return add(budget, buffer, tuple ? ")" : "]");
}

static bpdq_status add_dict_repr(bpdq_budget *budget, bpdq_buffer *buffer, const bpdq_value_dict *dict, int depth) {
  BPDQ_TRY(add(budget, buffer, "{"));
  for (size_t i = 0; i < dict->count; i += 2) {
    if (i) BPDQ_TRY(add(budget, buffer, ", "));
    BPDQ_TRY(add_repr(budget, buffer, dict->entries[i], depth + 1));
    BPDQ_TRY(add(budget, buffer, ": "));
    BPDQ_TRY(add_repr(budget, buffer, dict->entries[i + 1], depth + 1));
  }
  return add(budget, buffer, "}");
}

static bpdq_status add_repr(bpdq_budget *budget, bpdq_buffer *buffer, bpdq_value value, int depth) {
  char number[32];
  if (depth > BPDQ_TEMPLATE_MAX_NESTING) return bpdq_value_error(budget, "values are nested too deeply to be printed");
  switch (value.kind) {
    case BPDQ_VALUE_UNDEFINED:
      return add(budget, buffer, "Undefined");
    case BPDQ_VALUE_NONE:
      return add(budget, buffer, "None");
    case BPDQ_VALUE_BOOLEAN:
      return add(budget, buffer, value.integer ? "True" : "False");
    case BPDQ_VALUE_INTEGER:
      snprintf(number, sizeof number, "%lld", (long long)value.integer);
      return add(budget, buffer, number);
    case BPDQ_VALUE_FLOAT:
      bpdq_value_float_text(value.number, number);
      return add(budget, buffer, number);
    case BPDQ_VALUE_STRING:
      return add_string_repr(budget, buffer, value.text);
    case BPDQ_VALUE_LIST:
    case BPDQ_VALUE_TUPLE:
      return add_list_repr(budget, buffer, value, depth);
    case BPDQ_VALUE_DICT:
      return add_dict_repr(budget, buffer, value.dict, depth);
    default:
      return bpdq_value_error(budget, "a %s cannot be printed", bpdq_value_kind_name(value));
  }
}

bpdq_status bpdq_value_to_text(bpdq_budget *budget, bpdq_value value, bpdq_text *text) {
  bpdq_buffer buffer = {0};
  *text = (bpdq_text){"", 0};
  if (value.kind == BPDQ_VALUE_UNDEFINED) return BPDQ_OK;
  if (value.kind == BPDQ_VALUE_STRING) {
    *text = value.text;
    return BPDQ_OK;
  }
  BPDQ_TRY(add_repr(budget, &buffer, value, 0));
  *text = bpdq_buffer_text(&buffer);
  return BPDQ_OK;
}

/* ---- JSON ---- */

static bpdq_status add_json_string(bpdq_budget *budget, bpdq_buffer *buffer, bpdq_text text, bool ascii) {
  static const char letters[] = "\"\\\n\r\t\b\f", codes[] = "\"\\nrtbf";
  BPDQ_TRY(add(budget, buffer, "\""));
  for (size_t i = 0, bytes; i < text.length; i += bytes) {
    int32_t code;
    char escape[16] = "";
    bytes = bpdq_text_step(text.data + i, text.length - i, &code);
    const char *letter = code && code < 0x80 ? strchr(letters, code) : NULL;
    if (letter)
      snprintf(escape, sizeof escape, "\\%c", codes[letter - letters]);
    else if (code < 0x20 || (ascii && code > 0x7e && code < 0x10000))
      snprintf(escape, sizeof escape, "\\u%04x", (unsigned)code);
    else if (ascii && code >= 0x10000)
      snprintf(escape, sizeof escape, "\\u%04x\\u%04x", 0xd800u + ((unsigned)(code - 0x10000) >> 10),
               0xdc00u + ((unsigned)(code - 0x10000) & 0x3ffu));
    BPDQ_TRY(escape[0] ? add(budget, buffer, escape) : bpdq_buffer_add(budget, buffer, text.data + i, bytes));
  }
  return add(budget, buffer, "\"");
}

static bpdq_status add_line_break(bpdq_budget *budget, bpdq_buffer *buffer, const bpdq_json_style *style, int depth) {
  if (style->indent < 0) return BPDQ_OK;
  BPDQ_TRY(add(budget, buffer, "\n"));
  for (int i = 0; i < style->indent * depth; i++) BPDQ_TRY(add(budget, buffer, " "));
  return BPDQ_OK;
}

static bpdq_status add_json(bpdq_budget *budget, bpdq_buffer *buffer, bpdq_value value, const bpdq_json_style *style, int depth);

static bpdq_status add_json_list(bpdq_budget *budget, bpdq_buffer *buffer, const bpdq_value_list *list, const bpdq_json_style *style,
                                 int depth) {
  if (list->count == 0) return add(budget, buffer, "[]");
  BPDQ_TRY(add(budget, buffer, "["));
  for (size_t i = 0; i < list->count; i++) {
    if (i) BPDQ_TRY(add_text(budget, buffer, style->item_separator));
    BPDQ_TRY(add_line_break(budget, buffer, style, depth + 1));
    BPDQ_TRY(add_json(budget, buffer, list->items[i], style, depth + 1));
  }
  BPDQ_TRY(add_line_break(budget, buffer, style, depth));
  return add(budget, buffer, "]");
}

static bpdq_status add_json_key(bpdq_budget *budget, bpdq_buffer *buffer, bpdq_value key, const bpdq_json_style *style) {
  bpdq_text text;
  if (key.kind == BPDQ_VALUE_NONE)
    text = (bpdq_text){"null", 4};
  else if (key.kind == BPDQ_VALUE_BOOLEAN)
    text = key.integer ? (bpdq_text){"true", 4} : (bpdq_text){"false", 5};
  else if (key.kind == BPDQ_VALUE_STRING || bpdq_value_is_number(key))
    BPDQ_TRY(bpdq_value_to_text(budget, key, &text));
  else
    return bpdq_value_error(budget, "tojson: a %s cannot be a key", bpdq_value_kind_name(key));
  return add_json_string(budget, buffer, text, style->ascii);
}

static int compare_entries(const void *a, const void *b) {
  bpdq_text x = ((const bpdq_value *)a)->text, y = ((const bpdq_value *)b)->text;
  size_t common = x.length < y.length ? x.length : y.length;
  int order = common ? memcmp(x.data, y.data, common) : 0;
  return order ? order : (x.length > y.length) - (x.length < y.length);
}

static bpdq_status sorted_entries(bpdq_budget *budget, const bpdq_value_dict *dict, const bpdq_value **entries) {
  bpdq_value *sorted = bpdq_budget_alloc(budget, dict->count, sizeof *sorted);
  if (!sorted) return bpdq_budget_exhausted(budget);
  memcpy(sorted, dict->entries, dict->count * sizeof *sorted);
  for (size_t i = 0; i < dict->count; i += 2)
    if (sorted[i].kind != BPDQ_VALUE_STRING) return bpdq_value_error(budget, "tojson: sort_keys needs strings as keys");
  qsort(sorted, dict->count / 2, 2 * sizeof *sorted, compare_entries);
  *entries = sorted;
  return BPDQ_OK;
}

static bpdq_status add_json_dict(bpdq_budget *budget, bpdq_buffer *buffer, const bpdq_value_dict *dict, const bpdq_json_style *style,
                                 int depth) {
  if (dict->count == 0) return add(budget, buffer, "{}");
  const bpdq_value *entries = dict->entries;
  if (style->sort_keys) BPDQ_TRY(sorted_entries(budget, dict, &entries));
  BPDQ_TRY(add(budget, buffer, "{"));
  for (size_t i = 0; i < dict->count; i += 2) {
    if (i) BPDQ_TRY(add_text(budget, buffer, style->item_separator));
    BPDQ_TRY(add_line_break(budget, buffer, style, depth + 1));
    BPDQ_TRY(add_json_key(budget, buffer, entries[i], style));
    BPDQ_TRY(add_text(budget, buffer, style->key_separator));
    BPDQ_TRY(add_json(budget, buffer, entries[i + 1], style, depth + 1));
  }
  BPDQ_TRY(add_line_break(budget, buffer, style, depth));
  return add(budget, buffer, "}");
}

static bpdq_status add_json(bpdq_budget *budget, bpdq_buffer *buffer, bpdq_value value, const bpdq_json_style *style, int depth) {
  if (depth > BPDQ_TEMPLATE_MAX_NESTING) return bpdq_value_error(budget, "tojson: values are nested too deeply");
  switch (value.kind) {
    case BPDQ_VALUE_NONE:
      return add(budget, buffer, "null");
    case BPDQ_VALUE_BOOLEAN:
      return add(budget, buffer, value.integer ? "true" : "false");
    case BPDQ_VALUE_FLOAT:
      if (!isfinite(value.number)) return add(budget, buffer, isnan(value.number) ? "NaN" : value.number > 0 ? "Infinity" : "-Infinity");
      return add_repr(budget, buffer, value, depth);
    case BPDQ_VALUE_INTEGER:
      return add_repr(budget, buffer, value, depth);
    case BPDQ_VALUE_STRING:
      return add_json_string(budget, buffer, value.text, style->ascii);
    case BPDQ_VALUE_LIST:
    case BPDQ_VALUE_TUPLE:
      return add_json_list(budget, buffer, value.list, style, depth);
    case BPDQ_VALUE_DICT:
      return add_json_dict(budget, buffer, value.dict, style, depth);
    default:
      return bpdq_value_error(budget, "tojson: a value of type %s has no JSON form", bpdq_value_kind_name(value));
  }
}

bpdq_status bpdq_value_to_json(bpdq_budget *budget, bpdq_value value, const bpdq_json_style *style, bpdq_text *text) {
  bpdq_buffer buffer = {0};
  BPDQ_TRY(add_json(budget, &buffer, value, style, 0));
  *text = bpdq_buffer_text(&buffer);
  return BPDQ_OK;
}
