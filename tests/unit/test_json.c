/* The limits in front of jansson, and the typed getters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "format/json.h"
#include "unit/scratch.h"

static json_t *parse(const char *text) {
  json_t *root;
  bpdq_error error = {0};
  if (bpdq_json_parse(text, strlen(text), "test", &root, &error) != BPDQ_OK) fail_msg("%s", error.message);
  return root;
}

static void expect_refused(const char *text, size_t length, const char *message) {
  json_t *root;
  bpdq_error error = {0};
  assert_int_equal(bpdq_json_parse(text, length, "some/file", &root, &error), BPDQ_ERROR_FORMAT);
  assert_null(root);
  assert_contains(error.message, message);
  assert_contains(error.message, "some/file: ");
}

static void only_strict_objects_are_read(void **state) {
  (void)state;
  static const char *const bad[] = {"",
                                    " ",
                                    "1",
                                    "[]",
                                    "null",
                                    "{",
                                    "{}}",
                                    "{'a':1}",
                                    "{\"a\":1,}",
                                    "{\"a\":01}",
                                    "{\"a\":NaN}",
                                    "{\"a\":-Infinity}",
                                    "{\"a\":1e400}",
                                    "{\"a\":9223372036854775808}",
                                    "{\"a\":1,\"a\":2}",
                                    "{\"a\":\"\\u0000\"}",
                                    "{\"a\":\"\\ud800\"}",
                                    "{\"a\":\"\xc0\x80\"}",
                                    "{\"a\":\"\xed\xa0\x80\"}",
                                    "{\"a\":\"\n\"}",
                                    "\xef\xbb\xbf{}"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) expect_refused(bad[i], strlen(bad[i]), "");
  json_decref(parse(" {\"\\ud83d\\ude00\\\"\\\\\": [\"]]]]\", {}]}\n "));
}

/* `depth` nested lists inside the root object. */
static size_t nest(char *text, size_t depth) {
  size_t length = (size_t)sprintf(text, "{\"[[\\\"[[\\\\\":");
  memset(text + length, '[', depth);
  memset(text + length + depth, ']', depth);
  length += 2 * depth;
  text[length++] = '}';
  return length;
}

static void nesting_is_limited_outside_strings(void **state) {
  (void)state;
  char text[1024];
  json_t *root;
  size_t length = nest(text, BPDQ_JSON_MAX_DEPTH - 1);
  assert_int_equal(bpdq_json_parse(text, length, "test", &root, NULL), BPDQ_OK);
  json_decref(root);
  length = nest(text, BPDQ_JSON_MAX_DEPTH);
  expect_refused(text, length, "nested more than 64 deep");
}

static void getters_leave_defaults_and_check_types_and_ranges(void **state) {
  (void)state;
  json_t *root = parse("{\"i\":5,\"r\":2.5,\"t\":true,\"s\":\"text\",\"n\":null,\"l\":[],\"big\":9223372036854775807}");
  bpdq_error error;
  int64_t integer = 7;
  assert_int_equal(bpdq_json_get_integer(root, "absent", 0, 9, &integer, &error), BPDQ_OK);
  assert_int_equal(bpdq_json_get_integer(root, "n", 0, 9, &integer, &error), BPDQ_OK);
  assert_int_equal(bpdq_json_get_integer(NULL, "i", 0, 9, &integer, &error), BPDQ_OK);
  assert_int_equal(integer, 7);
  assert_int_equal(bpdq_json_get_integer(root, "i", 0, 4, &integer, &error), BPDQ_ERROR_FORMAT);
  assert_string_equal(error.message, "i is 5, outside 0 to 4");
  assert_int_equal(bpdq_json_get_integer(root, "i", 6, 9, &integer, &error), BPDQ_ERROR_FORMAT);
  assert_int_equal(bpdq_json_get_integer(root, "r", 0, 9, &integer, &error), BPDQ_ERROR_FORMAT);
  assert_int_equal(bpdq_json_get_integer(root, "t", 0, 9, &integer, &error), BPDQ_ERROR_FORMAT);
  assert_int_equal(integer, 7);
  assert_int_equal(bpdq_json_get_integer(root, "big", 0, INT64_MAX, &integer, &error), BPDQ_OK);
  assert_true(integer == INT64_MAX);

  double number = 1;
  assert_int_equal(bpdq_json_get_number(root, "n", 0, 9, &number, &error), BPDQ_OK);
  assert_true(number == 1);
  assert_int_equal(bpdq_json_get_number(root, "i", 0, 9, &number, &error), BPDQ_OK);
  assert_true(number == 5);
  assert_int_equal(bpdq_json_get_number(root, "r", 0, 2, &number, &error), BPDQ_ERROR_FORMAT);
  assert_int_equal(bpdq_json_get_number(root, "s", 0, 9, &number, &error), BPDQ_ERROR_FORMAT);
  assert_true(number == 5);

  bool flag = false;
  assert_int_equal(bpdq_json_get_bool(root, "i", &flag, &error), BPDQ_ERROR_FORMAT);
  assert_int_equal(bpdq_json_get_bool(root, "t", &flag, &error), BPDQ_OK);
  assert_true(flag);

  const char *text = "default";
  assert_int_equal(bpdq_json_get_string(root, "n", &text, &error), BPDQ_OK);
  assert_string_equal(text, "default");
  assert_int_equal(bpdq_json_get_string(root, "l", &text, &error), BPDQ_ERROR_FORMAT);
  assert_int_equal(bpdq_json_get_string(root, "s", &text, &error), BPDQ_OK);
  assert_string_equal(text, "text");
  assert_null(bpdq_json_member(root, "n"));
  assert_null(bpdq_json_member(bpdq_json_member(root, "l"), "x"));
  json_decref(root);
}

static void files_are_limited_in_size(void **state) {
  (void)state;
  scratch_write_text("a.json", "{\"a\":1}");
  char *path = scratch_path("a.json");
  json_t *root;
  bpdq_error error = {0};
  assert_int_equal(bpdq_json_load(path, 6, &root, &error), BPDQ_ERROR_IO);
  assert_contains(error.message, "a.json");
  assert_int_equal(bpdq_json_load(path, 7, &root, &error), BPDQ_OK);
  json_decref(root);
  free(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(only_strict_objects_are_read),
      cmocka_unit_test(nesting_is_limited_outside_strings),
      cmocka_unit_test(getters_leave_defaults_and_check_types_and_ranges),
      cmocka_unit_test(files_are_limited_in_size),
  };
  return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
