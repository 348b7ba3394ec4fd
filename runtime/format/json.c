#include "format/json.h"

#include "core/platform.h"

/* What jansson 2.14 allocates on a 64-bit system for any value with its key, and more for an object or an array (measured, rounded up). */
#define OBJECT_MEMORY 280
#define ARRAY_MEMORY 100
#define VALUE_MEMORY 180

/* jansson recurses per nesting level and allocates per value, so both are bounded by a scan before it sees the text. */
static bpdq_status check_limits(const char *text, size_t length, const char *name, bpdq_error *error) {
  size_t depth = 0;
  uint64_t memory = length;
  bool in_string = false;
  for (size_t i = 0; i < length; i++) {
    char c = text[i];
    if (in_string) {
      i += c == '\\'; /* an escaped character cannot end the string */
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      depth++;
      memory += c == '{' ? OBJECT_MEMORY : ARRAY_MEMORY;
    } else if (c == '}' || c == ']') {
      depth -= depth > 0;
    } else if (c == ',') {
      memory += VALUE_MEMORY;
    }
    if (depth > BPDQ_JSON_MAX_DEPTH)
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: JSON nested more than %d deep", name, BPDQ_JSON_MAX_DEPTH);
    if (memory > BPDQ_JSON_MAX_MEMORY) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: JSON with too many values", name);
  }
  return BPDQ_OK;
}

bpdq_status bpdq_json_parse(const char *text, size_t length, const char *name, json_t **root, bpdq_error *error) {
  *root = NULL;
  BPDQ_TRY(check_limits(text, length, name, error));
  json_error_t problem;
  json_t *value = json_loadb(text, length, JSON_REJECT_DUPLICATES, &problem);
  if (!value) {
    if (json_error_code(&problem) == json_error_out_of_memory)
      return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of memory while reading the JSON", name);
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: invalid JSON at line %d, column %d: %s", name, problem.line, problem.column,
                     problem.text);
  }
  if (!json_is_object(value)) {
    json_decref(value);
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: the JSON is not an object", name);
  }
  *root = value;
  return BPDQ_OK;
}

bpdq_status bpdq_json_load(const char *path, uint64_t limit, json_t **root, bpdq_error *error) {
  char *text = NULL;
  size_t size = 0;
  *root = NULL;
  BPDQ_TRY(bpdq_read_file(path, limit, &text, &size, error));
  bpdq_status status = bpdq_json_parse(text, size, path, root, error);
  free(text);
  return status;
}

const json_t *bpdq_json_member(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  return json_is_null(value) ? NULL : value;
}

bpdq_status bpdq_json_get_integer(const json_t *object, const char *key, int64_t minimum, int64_t maximum, int64_t *value,
                                  bpdq_error *error) {
  const json_t *member = bpdq_json_member(object, key);
  if (!member) return BPDQ_OK;
  if (!json_is_integer(member)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s is not an integer", key);
  int64_t number = json_integer_value(member);
  if (number < minimum || number > maximum)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s is %lld, outside %lld to %lld", key, (long long)number, (long long)minimum,
                     (long long)maximum);
  *value = number;
  return BPDQ_OK;
}

bpdq_status bpdq_json_get_number(const json_t *object, const char *key, double minimum, double maximum, double *value, bpdq_error *error) {
  const json_t *member = bpdq_json_member(object, key);
  if (!member) return BPDQ_OK;
  if (!json_is_number(member)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s is not a number", key);
  double number = json_number_value(member);
  if (!(number >= minimum && number <= maximum))
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s is %g, outside %g to %g", key, number, minimum, maximum);
  *value = number;
  return BPDQ_OK;
}

bpdq_status bpdq_json_get_bool(const json_t *object, const char *key, bool *value, bpdq_error *error) {
  const json_t *member = bpdq_json_member(object, key);
  if (!member) return BPDQ_OK;
  if (!json_is_boolean(member)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s is not true or false", key);
  *value = json_is_true(member);
  return BPDQ_OK;
}

bpdq_status bpdq_json_get_string(const json_t *object, const char *key, const char **value, bpdq_error *error) {
  const json_t *member = bpdq_json_member(object, key);
  if (!member) return BPDQ_OK;
  if (!json_is_string(member)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s is not a string", key);
  *value = json_string_value(member);
  return BPDQ_OK;
}
