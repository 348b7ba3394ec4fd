/* The tokenizer without Python: hostile files, broken text, limits, threads, streams. That ids equal the Python library's is the job of
 * tests/parity/tokenizer_parity.py; here only the ids that came with the shared models are compared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/platform.h"
#include "format/tokenizer.h"
#include "format/tokenizer_internal.h"

static bpdq_tokenizer *load(const char *name) {
  char folder[512];
  bpdq_tokenizer *tokenizer;
  bpdq_error error = {0};
  snprintf(folder, sizeof folder, "%s/tokenizers/%s", BPDQ_TEST_DATA, name);
  if (bpdq_tokenizer_load(folder, 100000, &tokenizer, &error) != BPDQ_OK) fail_msg("%s", error.message);
  return tokenizer;
}

/* A file with this model body and these other members. */
static bpdq_status parse(const char *model, const char *members, int64_t vocab_size, bpdq_tokenizer **tokenizer, bpdq_error *error) {
  size_t size = strlen(model) + strlen(members) + 64;
  char *text = malloc(size);
  assert_non_null(text);
  int length = snprintf(text, size, "{%s\"model\":{%s}}", members, model);
  bpdq_status status = bpdq_tokenizer_parse(text, (size_t)length, vocab_size, tokenizer, error);
  free(text);
  return status;
}

static const char AB_MODEL[] = "\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[[\"a\",\"b\"]]";

static void expect_ids(const bpdq_tokenizer *tokenizer, const char *text, size_t length, const int32_t *expected, size_t expected_count) {
  int32_t *ids;
  size_t count;
  bpdq_error error = {0};
  if (bpdq_tokenizer_encode(tokenizer, text, length, true, &ids, &count, &error) != BPDQ_OK) fail_msg("%s", error.message);
  assert_int_equal(count, expected_count);
  if (count) assert_memory_equal(ids, expected, count * sizeof *ids);
  free(ids);
}

/* ---- ids that came with the models ---- */

static void compare_expected(const char *folder, const char *text_key, const char *ids_key) {
  char path[600];
  bpdq_error error = {0};
  bpdq_tokenizer *tokenizer;
  snprintf(path, sizeof path, "%s/%s/expected.json", BPDQ_SHARED, folder);
  json_t *root = json_load_file(path, 0, NULL);
  if (!root) fail_msg("%s is missing: the tests need the shared folder beside the project", path);
  snprintf(path, sizeof path, "%s/%s", BPDQ_SHARED, folder);
  if (bpdq_tokenizer_load(path, 8192, &tokenizer, &error) != BPDQ_OK) fail_msg("%s", error.message);
  const json_t *text = json_object_get(root, text_key), *array = json_object_get(root, ids_key);
  int32_t expected[512];
  size_t count = json_array_size(array);
  assert_in_range(count, 1, 512);
  for (size_t i = 0; i < count; i++) expected[i] = (int32_t)json_integer_value(json_array_get(array, i));
  expect_ids(tokenizer, json_string_value(text), json_string_length(text), expected, count);
  bpdq_tokenizer_free(tokenizer);
  json_decref(root);
}

static void test_expected_ids(void **state) {
  (void)state;
  compare_expected("models/classics-12m", "prompt", "prompt_ids");
  compare_expected("models/classics-28m", "prompt", "prompt_ids");
  compare_expected("vectors/ckpt-llama-k3-g32-tied", "text", "ids");
  compare_expected("vectors/ckpt-qwen2-k2-g64", "text", "ids");
  compare_expected("vectors/ckpt-qwen2-k2-g256-padded", "text", "ids");
}

/* ---- files that are refused ---- */

typedef struct bad_file {
  const char *members, *model; /* model NULL: AB_MODEL */
  bpdq_status status;
  const char *message; /* a part of it */
} bad_file;

static void test_bad_files(void **state) {
  (void)state;
  static const bad_file files[] = {
      {"", "\"type\":\"Unigram\",\"vocab\":[]", BPDQ_ERROR_UNSUPPORTED, "Unigram"},
      {"", "\"vocab\":{\"a\":0}", BPDQ_ERROR_FORMAT, "merges"},
      {"", "\"merges\":[]", BPDQ_ERROR_FORMAT, "vocab"},
      {"", "\"vocab\":{\"a\":0.5},\"merges\":[]", BPDQ_ERROR_FORMAT, "'a'"},
      {"", "\"vocab\":{\"a\":-1},\"merges\":[]", BPDQ_ERROR_FORMAT, "'a'"},
      {"", "\"vocab\":{\"a\":100},\"merges\":[]", BPDQ_ERROR_FORMAT, "'a' has id 100"},
      {"", "\"vocab\":{\"a\":9223372036854775807},\"merges\":[]", BPDQ_ERROR_FORMAT, "'a'"},
      {"", "\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]", BPDQ_ERROR_FORMAT, "same id 0"},
      {"", "\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]", BPDQ_ERROR_FORMAT, "'ab'"},
      {"", "\"vocab\":{\"a\":0,\"ab\":1},\"merges\":[\"a b\"]", BPDQ_ERROR_FORMAT, "'b'"},
      {"", "\"vocab\":{\"b\":0,\"ab\":1},\"merges\":[[\"a\",\"b\"]]", BPDQ_ERROR_FORMAT, "'a'"},
      {"", "\"vocab\":{\"a\":0},\"merges\":[\"a\"]", BPDQ_ERROR_FORMAT, "merge 0"},
      {"", "\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]", BPDQ_ERROR_FORMAT, "merge 0"},
      {"", "\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"a\",\"a\"]]", BPDQ_ERROR_FORMAT, "merge 0"},
      {"", "\"vocab\":{\"a\":0},\"merges\":[[\"a\",1]]", BPDQ_ERROR_FORMAT, "merge 0"},
      {"", "\"vocab\":{\"a\":0},\"merges\":[7]", BPDQ_ERROR_FORMAT, "merge 0"},
      {"", "\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1", BPDQ_ERROR_UNSUPPORTED, "dropout"},
      {"", "\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"", BPDQ_ERROR_UNSUPPORTED, "end_of_word_suffix"},
      {"", "\"vocab\":{\"a\":0},\"merges\":[],\"fuse_unk\":3", BPDQ_ERROR_FORMAT, "fuse_unk"},
      {"\"normalizer\":{\"type\":\"Lowercase\"},", NULL, BPDQ_ERROR_UNSUPPORTED, "Lowercase"},
      {"\"normalizer\":7,", NULL, BPDQ_ERROR_FORMAT, "normalizer"},
      {"\"normalizer\":{\"type\":\"Sequence\"},", NULL, BPDQ_ERROR_FORMAT, "normalizers"},
      {"\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"x\"},", NULL, BPDQ_ERROR_UNSUPPORTED, "Replace"},
      {"\"pre_tokenizer\":{\"type\":\"Whitespace\"},", NULL, BPDQ_ERROR_UNSUPPORTED, "Whitespace"},
      {"\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"},", NULL, BPDQ_ERROR_UNSUPPORTED,
       "'('"},
      {"\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[z-a]\"},\"behavior\":\"Isolated\"},", NULL, BPDQ_ERROR_FORMAT,
       "[z-a]"},
      {"\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a+)+b\"},\"behavior\":\"Isolated\"},", NULL, BPDQ_ERROR_UNSUPPORTED,
       "'+'"},
      {"\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Sideways\"},", NULL, BPDQ_ERROR_FORMAT,
       "Sideways"},
      {"\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"xy\"},", NULL, BPDQ_ERROR_FORMAT, "replacement"},
      {"\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":false},", NULL, BPDQ_ERROR_FORMAT,
       "prepend_scheme"},
      {"\"decoder\":{\"type\":\"WordPiece\"},", NULL, BPDQ_ERROR_UNSUPPORTED, "WordPiece"},
      {"\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"ByteFallback\"}]},", NULL, BPDQ_ERROR_UNSUPPORTED,
       "step 2"},
      {"\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":-1,\"stop\":0},", NULL, BPDQ_ERROR_FORMAT, "start"},
      {"\"post_processor\":{\"type\":\"BertProcessing\"},", NULL, BPDQ_ERROR_UNSUPPORTED, "BertProcessing"},
      {"\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}],"
       "\"special_tokens\":{\"<s>\":{\"ids\":[100]}}},",
       NULL, BPDQ_ERROR_FORMAT, "<s>"},
      {"\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}}],\"special_tokens\":{}},", NULL,
       BPDQ_ERROR_FORMAT, "<s>"},
      {"\"truncation\":{\"max_length\":5},", NULL, BPDQ_ERROR_UNSUPPORTED, "truncation"},
      {"\"added_tokens\":[{\"id\":3}],", NULL, BPDQ_ERROR_FORMAT, "content"},
      {"\"added_tokens\":[{\"id\":3,\"content\":\"<x>\"},{\"id\":3,\"content\":\"<x>\",\"special\":true}],", NULL, BPDQ_ERROR_FORMAT,
       "twice"},
      {"\"added_tokens\":{},", NULL, BPDQ_ERROR_FORMAT, "added_tokens"},
  };
  for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
    bpdq_tokenizer *tokenizer = (bpdq_tokenizer *)&files;
    bpdq_error error = {0};
    bpdq_status status = parse(files[i].model ? files[i].model : AB_MODEL, files[i].members, 100, &tokenizer, &error);
    if (status != files[i].status || !strstr(error.message, files[i].message) || tokenizer)
      fail_msg("file %zu: status %d, message '%s', expected %d and '%s'", i, status, error.message, files[i].status, files[i].message);
  }
}

static void test_not_json(void **state) {
  (void)state;
  static const char *const texts[] = {"",  "{", "[]", "nonsense", "{\"model\":\"\xff\"}", "{\"model\":\"\\ud800\"}", "{\"\\u0000\":1}",
                                      "{}"};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    bpdq_tokenizer *tokenizer;
    bpdq_error error = {0};
    assert_int_equal(bpdq_tokenizer_parse(texts[i], strlen(texts[i]), 10, &tokenizer, &error), BPDQ_ERROR_FORMAT);
    assert_null(tokenizer);
    assert_true(strlen(error.message) > 0);
  }
  size_t depth = 100000;
  char *deep = malloc(depth);
  assert_non_null(deep);
  memset(deep, '[', depth);
  bpdq_tokenizer *tokenizer;
  assert_int_equal(bpdq_tokenizer_parse(deep, depth, 10, &tokenizer, NULL), BPDQ_ERROR_FORMAT);
  free(deep);
  bpdq_error error = {0};
  assert_int_equal(bpdq_tokenizer_load("/nonexistent", 10, &tokenizer, &error), BPDQ_ERROR_IO);
  assert_non_null(strstr(error.message, "/nonexistent/tokenizer.json"));
}

static void test_added_token_beyond_the_model(void **state) {
  (void)state;
  bpdq_tokenizer *tokenizer;
  bpdq_error error = {0};
  const char *members = "\"added_tokens\":[{\"id\":3,\"content\":\"<x>\"}],";
  assert_int_equal(parse(AB_MODEL, members, 3, &tokenizer, &error), BPDQ_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "<x>"));
  assert_int_equal(parse(AB_MODEL, members, 4, &tokenizer, &error), BPDQ_OK);
  assert_int_equal(bpdq_tokenizer_token_id(tokenizer, "<x>"), 3);
  assert_int_equal(bpdq_tokenizer_token_id(tokenizer, "ab"), 2);
  assert_int_equal(bpdq_tokenizer_token_id(tokenizer, "none"), -1);
  expect_ids(tokenizer, "ab<x>ba", 7, (int32_t[]){2, 3, 1, 0}, 4);
  bpdq_tokenizer_free(tokenizer);
}

static void test_unknown_token_missing(void **state) {
  (void)state;
  bpdq_tokenizer *tokenizer;
  bpdq_error error = {0};
  int32_t *ids;
  size_t count;
  assert_int_equal(parse("\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"<unk>\"", "", 10, &tokenizer, &error), BPDQ_OK);
  expect_ids(tokenizer, "aa", 2, (int32_t[]){0, 0}, 2);
  assert_int_equal(bpdq_tokenizer_encode(tokenizer, "ax", 2, true, &ids, &count, &error), BPDQ_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "<unk>"));
  assert_null(ids);
  bpdq_tokenizer_free(tokenizer);
}

/* ---- text ---- */

/* Unicode 3.9: each maximal ill-formed subsequence becomes one U+FFFD, in the ids of the same text written out. */
static void test_invalid_utf8(void **state) {
  (void)state;
  static const struct {
    const char *bytes, *meaning;
  } cases[] = {
      {"a\xff", "a\xef\xbf\xbd"},
      {"\xe2\x82", "\xef\xbf\xbd"},
      {"\xe2\x82x", "\xef\xbf\xbdx"},
      {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
      {"\xf0\x9f\x98z", "\xef\xbf\xbdz"},
      {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
      {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
  };
  bpdq_tokenizer *tokenizer = load("llama3");
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    int32_t *ids;
    size_t count;
    assert_int_equal(bpdq_tokenizer_encode(tokenizer, cases[i].meaning, strlen(cases[i].meaning), true, &ids, &count, NULL), BPDQ_OK);
    expect_ids(tokenizer, cases[i].bytes, strlen(cases[i].bytes), ids, count);
    free(ids);
  }
  bpdq_tokenizer_free(tokenizer);
}

/* A million characters of one class finish: words this long go through the heap and through the matcher's one-character steps. */
static void test_long_runs(void **state) {
  (void)state;
  static const char *const names[] = {"llama3", "qwen2", "tekken", "gpt2", "llama2", "split-behaviors"};
  static const char *const units[] = {"a", " ", "\n", "7", "\xcc\x95\xcc\xb4", "\xe4\xb8\xad", "!"};
  enum { BYTES = 1 << 20 };
  char *text = malloc(BYTES);
  assert_non_null(text);
  for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
    bpdq_tokenizer *tokenizer = load(names[n]);
    for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
      size_t size = strlen(units[u]), length = BYTES / size * size;
      for (size_t i = 0; i < length; i++) text[i] = units[u][i % size];
      int32_t *ids;
      size_t count, decoded_length;
      char *decoded;
      bpdq_error error = {0};
      if (bpdq_tokenizer_encode(tokenizer, text, length, false, &ids, &count, &error) != BPDQ_OK)
        fail_msg("%s: %s", names[n], error.message);
      assert_int_equal(bpdq_tokenizer_decode(tokenizer, ids, count, false, &decoded, &decoded_length, &error), BPDQ_OK);
      bool normalizes = !strcmp(names[n], "qwen2");
      if (!normalizes || u != 4) {
        assert_int_equal(decoded_length, length);
        assert_memory_equal(decoded, text, length);
      }
      free(ids);
      free(decoded);
    }
    bpdq_tokenizer_free(tokenizer);
  }
  free(text);
}

/* ---- decoding ---- */

static void test_decode_range(void **state) {
  (void)state;
  bpdq_tokenizer *tokenizer;
  bpdq_error error = {0};
  char *text;
  size_t length;
  assert_int_equal(parse(AB_MODEL, "\"decoder\":{\"type\":\"ByteLevel\"},", 10, &tokenizer, &error), BPDQ_OK);
  assert_int_equal(bpdq_tokenizer_decode(tokenizer, (int32_t[]){2, 7, 0}, 3, true, &text, &length, &error), BPDQ_OK);
  assert_string_equal(text, "aba"); /* 7 is padding of the model's vocabulary: no token, no text */
  free(text);
  assert_int_equal(bpdq_tokenizer_decode(tokenizer, (int32_t[]){2, 10}, 2, true, &text, &length, &error), BPDQ_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "10"));
  assert_int_equal(bpdq_tokenizer_decode(tokenizer, (int32_t[]){-1}, 1, true, &text, &length, &error), BPDQ_ERROR_ARGUMENT);
  assert_null(text);
  assert_int_equal(bpdq_tokenizer_decode(tokenizer, NULL, 0, true, &text, &length, &error), BPDQ_OK);
  assert_string_equal(text, "");
  free(text);
  bpdq_tokenizer_free(tokenizer);
}

static void check_stream(const char *name, const char *text) {
  bpdq_tokenizer *tokenizer = load(name);
  int32_t *ids;
  size_t count, length, streamed = 0, piece_length;
  char *decoded, collected[1024];
  const char *piece;
  bpdq_token_stream *stream;
  assert_int_equal(bpdq_tokenizer_encode(tokenizer, text, strlen(text), true, &ids, &count, NULL), BPDQ_OK);
  assert_int_equal(bpdq_tokenizer_decode(tokenizer, ids, count, true, &decoded, &length, NULL), BPDQ_OK);
  assert_int_equal(bpdq_token_stream_create(tokenizer, &stream, NULL), BPDQ_OK);
  for (size_t i = 0; i <= count; i++) {
    if (i < count)
      assert_int_equal(bpdq_token_stream_push(stream, ids[i], &piece, &piece_length, NULL), BPDQ_OK);
    else
      assert_int_equal(bpdq_token_stream_finish(stream, &piece, &piece_length, NULL), BPDQ_OK);
    assert_true(bpdq_utf8_is_valid(piece, piece_length));
    assert_int_equal(strlen(piece), piece_length);
    assert_true(streamed + piece_length < sizeof collected);
    memcpy(collected + streamed, piece, piece_length);
    streamed += piece_length;
  }
  assert_int_equal(streamed, length);
  assert_memory_equal(collected, decoded, length);
  assert_int_equal(bpdq_token_stream_push(stream, -5, &piece, &piece_length, NULL), BPDQ_ERROR_ARGUMENT);
  bpdq_token_stream_free(stream);
  free(ids);
  free(decoded);
  bpdq_tokenizer_free(tokenizer);
}

static void test_streams(void **state) {
  (void)state;
  static const char *const names[] = {"llama3", "qwen2", "gpt2", "llama2", "mistral", "metaspace-always", "metaspace-never"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    check_stream(names[i],
                 "Hello  world, \xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa9 na\xc3\xafve \xe4\xb8\xad\xe6\x96\x87 \xe1\x8f\xa3\n  end ");
    check_stream(names[i], "");
    check_stream(names[i], " ");
    check_stream(names[i], "\xe1\x8f\xa3");
  }
}

/* ---- regular expressions ---- */

static void test_translation(void **state) {
  (void)state;
  static const struct {
    const char *expression, *translated; /* NULL: refused */
  } cases[] = {
      {"\\s+(?!\\S)", "\\p{White_Space}+(?!\\P{White_Space})"},
      {"[^\\s\\p{^L}]", "[^\\p{White_Space}\\P{L}]"},
      {"\\p{N}{1,3}", "\\p{N}{1,3}"},
      {"a{,3}b{2,}c{4}", "a{0,3}b{2,}c{4}"},
      {"(a|b)?", "(?:a|b)?"},
      {"\\v\\x{1F600}\\u4e00\\x41", "\\x{b}\\x{1f600}\\x{4e00}\\x{41}"},
      {"a++b*?", "a++b*?"},
      {"\\-\\[", "\\-\\["},
      {"a{1,3}+", NULL}, /* greedy in Ruby, possessive in PCRE2 */
      {"^a", NULL},
      {"a$", NULL},
      {"\\h", NULL},
      {"\\b", NULL},
      {"\\w", NULL},
      {"\\1", NULL},
      {"\\p{Han}", NULL},
      {"\\p{L", NULL},
      {"[a[b]]", NULL},
      {"[a&&b]", NULL},
      {"[]a]", NULL},
      {"[a", NULL},
      {"a)", NULL},
      {"(?<n>a)", NULL},
      {"(?m:a)", NULL},
      {"*a", NULL},
      {"a**", NULL},
      {"a{3,1}", NULL},
      {"a{}", NULL},
      {"a{", NULL},
      {"\\", NULL},
      {"(a*)*", NULL},
      {"((a+)b)+", NULL},
      {"\\xff", NULL},
      {"\\ud800", NULL},
      {"\\x{}", NULL},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char *translated;
    bpdq_error error = {0};
    bpdq_status status = bpdq_pattern_translate(cases[i].expression, strlen(cases[i].expression), &translated, &error);
    if (!cases[i].translated) {
      if (status != BPDQ_ERROR_UNSUPPORTED) fail_msg("'%s' is not refused", cases[i].expression);
      continue;
    }
    if (status != BPDQ_OK) fail_msg("'%s': %s", cases[i].expression, error.message);
    assert_string_equal(translated, cases[i].translated);
    free(translated);
  }
}

/* Polynomial backtracking ends in an error, not in hours. */
static void test_backtracking_limit(void **state) {
  (void)state;
  bpdq_pattern *pattern;
  bpdq_matcher *matcher;
  bpdq_error error = {0};
  const char *expression = "\\p{L}*\\p{L}*\\p{L}*\\p{L}*\\p{L}*\\p{L}*!";
  assert_int_equal(bpdq_pattern_compile(expression, strlen(expression), &pattern, &error), BPDQ_OK);
  assert_int_equal(bpdq_matcher_create(&matcher, &error), BPDQ_OK);
  char text[20000];
  memset(text, 'a', sizeof text);
  text[sizeof text - 2] = ' ';
  text[sizeof text - 1] = '!'; /* it is there, so that PCRE2 cannot give up without looking */
  bool found;
  size_t start, end;
  assert_int_equal(bpdq_pattern_find(pattern, matcher, text, sizeof text, 0, &found, &start, &end, &error), BPDQ_ERROR_FORMAT);
  bpdq_matcher_free(matcher);
  bpdq_pattern_free(pattern);
}

/* ---- threads ---- */

typedef struct worker {
  const bpdq_tokenizer *tokenizer;
  const char *text;
  const int32_t *ids;
  size_t count;
  bool equal;
} worker;

static void encode_again(void *argument) {
  worker *self = argument;
  self->equal = true;
  for (int i = 0; i < 20; i++) {
    int32_t *ids;
    size_t count;
    bool same = bpdq_tokenizer_encode(self->tokenizer, self->text, strlen(self->text), true, &ids, &count, NULL) == BPDQ_OK &&
                count == self->count && !memcmp(ids, self->ids, count * sizeof *ids);
    self->equal = self->equal && same;
    free(ids);
  }
}

static void test_threads(void **state) {
  (void)state;
  bpdq_tokenizer *tokenizer = load("qwen2");
  char text[20001];
  for (size_t i = 0; i + 1 < sizeof text; i++) text[i] = "the quick brown fox, 1234 dogs! "[(i * i / 7 + i) % 32];
  text[20000] = 0;
  int32_t *ids;
  size_t count;
  assert_int_equal(bpdq_tokenizer_encode(tokenizer, text, strlen(text), true, &ids, &count, NULL), BPDQ_OK);
  worker workers[4];
  bpdq_thread *threads[4];
  for (int i = 0; i < 4; i++) {
    workers[i] = (worker){.tokenizer = tokenizer, .text = text, .ids = ids, .count = count};
    threads[i] = bpdq_thread_start(encode_again, &workers[i]);
    assert_non_null(threads[i]);
  }
  for (int i = 0; i < 4; i++) bpdq_thread_join(threads[i]);
  for (int i = 0; i < 4; i++) assert_true(workers[i].equal);
  free(ids);
  bpdq_tokenizer_free(tokenizer);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_expected_ids),
      cmocka_unit_test(test_bad_files),
      cmocka_unit_test(test_not_json),
      cmocka_unit_test(test_added_token_beyond_the_model),
      cmocka_unit_test(test_unknown_token_missing),
      cmocka_unit_test(test_invalid_utf8),
      cmocka_unit_test(test_long_runs),
      cmocka_unit_test(test_decode_range),
      cmocka_unit_test(test_streams),
      cmocka_unit_test(test_translation),
      cmocka_unit_test(test_backtracking_limit),
      cmocka_unit_test(test_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
