/* What jinja2 cannot say (tests/parity/template_parity.py compares with it): errors by kind and place, bounds, and where a folder keeps its
 * template. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "format/template/template.h"
#include "unit/scratch.h"

static const bpdq_chat_message conversation[] = {{"system", "Be brief."}, {"user", "Hello"}};

/* Parses and renders; the output in *output is the caller's. */
static bpdq_status render(const char *text, char **output, bpdq_error *error) {
  bpdq_template *parsed = NULL;
  *output = NULL;
  bpdq_status status = bpdq_template_parse(text, strlen(text), &parsed, error);
  if (status != BPDQ_OK) return status;
  bpdq_template_input input = {.messages = conversation, .message_count = 2, .add_generation_prompt = true, .bos_token = "<s>"};
  status = bpdq_template_render(parsed, &input, output, error);
  bpdq_template_free(parsed);
  return status;
}

static void expect_text(const char *text, const char *wanted) {
  bpdq_error error = {0};
  char *output;
  assert_int_equal(render(text, &output, &error), BPDQ_OK);
  assert_string_equal(output, wanted);
  free(output);
}

static void expect_error(const char *text, bpdq_status status, const char *part) {
  bpdq_error error = {0};
  char *output;
  assert_int_equal(render(text, &output, &error), status);
  assert_null(output);
  assert_contains(error.message, part);
}

static void test_renders_a_conversation(void **state) {
  (void)state;
  expect_text(
      "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}",
      "<s>[system] Be brief.\n[user] Hello\n>");
  expect_text("{{ tools is none }}{{ eos_token is defined }}", "TrueFalse");
}

static void test_raise_exception_is_an_argument_error(void **state) {
  (void)state;
  expect_error("{{ raise_exception('roles must alternate') }}", BPDQ_ERROR_ARGUMENT, "roles must alternate");
}

static void test_unsupported_constructs_are_named_with_their_line(void **state) {
  (void)state;
  expect_error("a\nb\n{% include 'x' %}", BPDQ_ERROR_UNSUPPORTED, "line 3: the tag {% include %}");
  expect_error("{% filter upper %}x{% endfilter %}", BPDQ_ERROR_UNSUPPORTED, "{% filter %}");
  expect_error("\n{{ messages | groupby('role') }}", BPDQ_ERROR_UNSUPPORTED, "line 2: the filter 'groupby'");
  expect_error("{{ 1 is escaped }}", BPDQ_ERROR_UNSUPPORTED, "the test 'escaped'");
  expect_error("{{ 'a'.encode() }}", BPDQ_ERROR_UNSUPPORTED, "the string method 'encode'");
  expect_error("{{ f(*messages) }}", BPDQ_ERROR_UNSUPPORTED, "unpacking arguments");
  expect_error("{% for x in messages recursive %}{% endfor %}", BPDQ_ERROR_UNSUPPORTED, "--chat-template");
  expect_text("{% if false %}{{ messages | groupby('role') }}{% endif %}ok", "ok"); /* not reached: no harm */
}

static void test_broken_templates_are_format_errors(void **state) {
  (void)state;
  expect_error("{% if true %}", BPDQ_ERROR_FORMAT, "{% endif %}");
  expect_error("{% for x in y %}{% else %}", BPDQ_ERROR_FORMAT, "{% endfor %}");
  expect_error("\n{{ 'abc", BPDQ_ERROR_FORMAT, "line 2: a string is not closed");
  expect_error("{{ (1 }}", BPDQ_ERROR_FORMAT, "line 1");
  expect_error("{{ a ) }}", BPDQ_ERROR_FORMAT, "brackets do not match");
  expect_error("{# never closed", BPDQ_ERROR_FORMAT, "comment");
  expect_error("{% raw %} x", BPDQ_ERROR_FORMAT, "endraw");
  expect_error("{{ }}", BPDQ_ERROR_FORMAT, "expected an expression");
  expect_error("{% break %}", BPDQ_ERROR_FORMAT, "outside a loop");
  expect_error("{{ 99999999999999999999 }}", BPDQ_ERROR_FORMAT, "too large");
  expect_error("{{ missing.attribute }}", BPDQ_ERROR_FORMAT, "'missing' is undefined");
}

static void test_work_is_bounded(void **state) {
  (void)state;
  expect_error("{% set t = 'x' * 1000000 %}{% for a in range(99999) %}{% if 'y' in t %}{% endif %}{% endfor %}", BPDQ_ERROR_FORMAT,
               "steps");
  expect_error("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", BPDQ_ERROR_MEMORY, "MiB");
  expect_error("{% set n = namespace(t='xxxxxxxxxxxxxxxx') %}{% for a in range(40) %}{% set n.t = n.t + n.t %}{% endfor %}",
               BPDQ_ERROR_MEMORY, "MiB");
  expect_error("{% set t = 'x' * 1000 %}{% for a in range(99999) %}{{ t }}{% endfor %}", BPDQ_ERROR_FORMAT, "16 MB");
  expect_error("{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' * 900000000000000000 }}", BPDQ_ERROR_MEMORY, "MiB");
  expect_error("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", BPDQ_ERROR_FORMAT, "nested deeper");
  expect_error("{% set n = namespace(t=[]) %}{% for a in range(9999) %}{% set n.t = [n.t] %}{% endfor %}{{ n.t }}", BPDQ_ERROR_FORMAT,
               "nested too deeply");
}

static void test_nesting_of_the_text_is_bounded(void **state) {
  (void)state;
  char text[4096] = "{{ ";
  for (int i = 0; i < 1000; i++) strcat(text, "(");
  expect_error(text, BPDQ_ERROR_FORMAT, "too deeply");
  strcpy(text, "{{ ");
  for (int i = 0; i < 100; i++) strcat(text, "(");
  strcat(text, "1");
  for (int i = 0; i < 100; i++) strcat(text, ")");
  strcat(text, " }}");
  expect_error(text, BPDQ_ERROR_UNSUPPORTED, "nested deeper than 64");
  strcpy(text, "{{ 1");
  for (int i = 0; i < 300; i++) strcat(text, "+1");
  strcat(text, " }}");
  expect_text(text, "301");
}

static void test_finds_the_template_of_a_folder(void **state) {
  (void)state;
  char *text, *bos, *eos;
  bpdq_error error = {0};
  assert_int_equal(bpdq_template_load(scratch, &text, &bos, &eos, &error), BPDQ_OK);
  assert_null(text);
  scratch_write_text(
      "tokenizer_config.json",
      "{\"bos_token\": {\"content\": \"<s>\"}, \"eos_token\": \"</s>\", \"chat_template\": [{\"name\": \"rag\", \"template\": \"R\"}, "
      "{\"name\": \"default\", \"template\": \"D\"}]}");
  assert_int_equal(bpdq_template_load(scratch, &text, &bos, &eos, &error), BPDQ_OK);
  assert_string_equal(text, "D");
  assert_string_equal(bos, "<s>");
  assert_string_equal(eos, "</s>");
  free(text);
  free(bos);
  free(eos);
  scratch_write_text("chat_template.jinja", "J");
  assert_int_equal(bpdq_template_load(scratch, &text, &bos, &eos, &error), BPDQ_OK);
  assert_string_equal(text, "J");
  free(text);
  free(bos);
  free(eos);
}

static void test_a_broken_tokenizer_config_is_an_error(void **state) {
  (void)state;
  char *text, *bos, *eos;
  bpdq_error error = {0};
  scratch_write_text("tokenizer_config.json", "{\"chat_template\": ");
  assert_int_equal(bpdq_template_load(scratch, &text, &bos, &eos, &error), BPDQ_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "tokenizer_config.json"));
  assert_null(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_renders_a_conversation),
      cmocka_unit_test(test_raise_exception_is_an_argument_error),
      cmocka_unit_test(test_unsupported_constructs_are_named_with_their_line),
      cmocka_unit_test(test_broken_templates_are_format_errors),
      cmocka_unit_test(test_work_is_bounded),
      cmocka_unit_test(test_nesting_of_the_text_is_bounded),
      cmocka_unit_test_setup_teardown(test_finds_the_template_of_a_folder, scratch_create, scratch_remove),
      cmocka_unit_test_setup_teardown(test_a_broken_tokenizer_config_is_an_error, scratch_create, scratch_remove),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
