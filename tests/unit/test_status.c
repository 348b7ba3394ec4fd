/* Messages are one line of UTF-8, whatever is put into them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/log.h"
#include "core/status.h"

static void check_message(const char *text, const char *expected) {
  bpdq_error error = {0};
  assert_int_equal(bpdq_fail(&error, BPDQ_ERROR_IO, "%s", text), BPDQ_ERROR_IO);
  assert_string_equal(error.message, expected);
}

static void bytes_that_are_no_text_become_question_marks(void **state) {
  (void)state;
  check_message("two\nlines\x7f\x1b[m", "two?lines??[m");
  check_message("caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
  check_message("model-\xff/\x80", "model-?/?");
  check_message("\xc0\xaf \xe0\x80\xaf \xed\xa0\x80 \xf4\x90\x80\x80 \xf5", "?? ??? ??? ???? ?");
  check_message("cut \xe2\x82", "cut ??");
  check_message("\xc3\n", "??");
}

static void a_message_is_not_cut_within_a_character(void **state) {
  (void)state;
  char text[2 * sizeof((bpdq_error *)0)->message + 1] = "";
  bpdq_error error = {0};
  for (size_t i = 0; i + 2 < sizeof text; i += 2) text[i] = '\xc3', text[i + 1] = '\xa9';
  bpdq_fail(&error, BPDQ_ERROR_IO, "%s", text);
  assert_int_equal(strlen(error.message), sizeof error.message - 1);
  assert_int_equal(error.message[sizeof error.message - 2], '?');
  bpdq_fail(&error, BPDQ_ERROR_IO, "type '%.3s'", text);
  assert_string_equal(error.message, "type '\xc3\xa9?'");
  bpdq_fail(&error, BPDQ_ERROR_IO, "%.900s", text);
  bpdq_fail_context(&error, BPDQ_ERROR_IO, "%.401s", text);
  assert_null(strstr(error.message, "\xc3:"));
}

static void keep_line(void *user, bpdq_log_level level, const char *line) {
  assert_int_equal(level, BPDQ_LOG_WARNING);
  strcpy(user, line);
}

static void log_lines_are_text_too(void **state) {
  (void)state;
  char line[1001];
  bpdq_log log = {keep_line, line};
  bpdq_log_warning(&log, "folder-%s:\n", "\xfe");
  assert_string_equal(line, "folder-?:?");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(bytes_that_are_no_text_become_question_marks),
                                     cmocka_unit_test(a_message_is_not_cut_within_a_character), cmocka_unit_test(log_lines_are_text_too)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
