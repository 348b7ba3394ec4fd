/* Whole models on every backend: token ids, logits and greedy continuations against the reference's. BPDQ_TEST_CHECKPOINTS may name a
 * folder of further checkpoints (made by scripts/make-test-checkpoints), each with an expected.safetensors of `ids` and `logits`. */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/registry.h"
#include "core/platform.h"
#include "format/safetensors.h"

typedef struct expectation {
  int32_t *ids;
  size_t count;
  const bpdq_stored_tensor *logits, *greedy;
  bpdq_safetensors *file;
  json_t *json; /* expected.json or NULL */
} expectation;

static void join(char *path, size_t size, const char *folder, const char *name) { snprintf(path, size, "%s/%s", folder, name); }

static void copy_ids(expectation *e, const void *data, size_t count) {
  e->count = count;
  e->ids = malloc(count * sizeof *e->ids);
  memcpy(e->ids, data, count * sizeof *e->ids);
}

static expectation load_expectation(const char *folder) {
  expectation e = {0};
  char path[1024];
  bpdq_error error = {0};
  join(path, sizeof path, folder, "expected.safetensors");
  if (bpdq_safetensors_open(path, &e.file, &error) != BPDQ_OK) fail_msg("%s", error.message);
  join(path, sizeof path, folder, "expected.json");
  e.json = json_load_file(path, 0, NULL);
  e.logits = bpdq_safetensors_find(e.file, "logits");
  e.greedy = bpdq_safetensors_find(e.file, "greedy");
  const bpdq_stored_tensor *ids = bpdq_safetensors_find(e.file, "ids");
  assert_non_null(e.logits);
  if (ids) {
    copy_ids(&e, ids->data, (size_t)ids->shape[0]);
  } else {
    json_t *list = json_object_get(e.json, "prompt_ids");
    assert_non_null(list);
    e.count = json_array_size(list);
    e.ids = malloc(e.count * sizeof *e.ids);
    for (size_t i = 0; i < e.count; i++) e.ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
  }
  return e;
}

static void free_expectation(expectation *e) {
  free(e->ids);
  json_decref(e->json);
  bpdq_safetensors_close(e->file);
}

static void check_ids(const bpdq_model *model, const char *folder, const expectation *e) {
  const char *text =
      json_string_value(json_object_get(e->json, "ids") ? json_object_get(e->json, "text") : json_object_get(e->json, "prompt"));
  json_t *expected = json_object_get(e->json, "ids") ? json_object_get(e->json, "ids") : json_object_get(e->json, "prompt_ids");
  if (!text || !expected) return;
  int32_t *ids;
  size_t count;
  bpdq_error error = {0};
  if (bpdq_tokenize(model, text, strlen(text), true, &ids, &count, &error) != BPDQ_OK) fail_msg("%s: %s", folder, error.message);
  assert_int_equal(count, json_array_size(expected));
  for (size_t i = 0; i < count; i++) assert_int_equal(ids[i], json_integer_value(json_array_get(expected, i)));
  bpdq_free(ids);
}

/* Largest difference, relative to the largest expected magnitude. */
static double difference(const float *actual, const bpdq_stored_tensor *expected, size_t count) {
  double worst = 0, largest = 0;
  for (size_t i = 0; i < count; i++) {
    float value;
    memcpy(&value, expected->data + 4 * i, 4);
    double error = fabs((double)actual[i] - value);
    if (!(error <= worst)) worst = isnan(error) ? INFINITY : error;
    largest = fmax(largest, fabs((double)value));
  }
  return worst / largest;
}

static void check_logits(bpdq_model *model, const char *folder, const expectation *e, double limit) {
  bpdq_session *session;
  bpdq_error error = {0};
  size_t vocab = (size_t)e->logits->shape[1];
  float *logits = malloc(e->count * vocab * sizeof *logits);
  if (bpdq_session_create(model, NULL, &session, &error) != BPDQ_OK) fail_msg("%s: %s", folder, error.message);
  if (bpdq_evaluate_all(session, e->ids, e->count, logits, &error) != BPDQ_OK) fail_msg("%s: %s", folder, error.message);
  double all_at_once = difference(logits, e->logits, e->count * vocab);
  /* The same tokens one by one must agree too: decode and prefill are different kernels. */
  if (bpdq_session_rewind(session, 0, &error) != BPDQ_OK) fail_msg("%s", error.message);
  for (size_t i = 0; i < e->count; i++)
    if (bpdq_evaluate(session, &e->ids[i], 1, &error) != BPDQ_OK || bpdq_get_logits(session, 0, logits + i * vocab, &error) != BPDQ_OK)
      fail_msg("%s: %s", folder, error.message);
  double one_by_one = difference(logits, e->logits, e->count * vocab);
  printf("  %s: logits differ by %.1e (prefill), %.1e (decode)\n", folder, all_at_once, one_by_one);
  assert_true(all_at_once <= limit && one_by_one <= limit);
  bpdq_session_free(session);
  free(logits);
}

static void check_greedy(bpdq_model *model, const char *folder, const expectation *e) {
  json_t *list = json_object_get(e->json, "greedy");
  size_t skip = e->greedy ? 0 : e->count, count = e->greedy ? (size_t)e->greedy->shape[0] : json_array_size(list);
  if (!count) return;
  bpdq_session *session;
  bpdq_error error = {0};
  bpdq_sampling greedy = bpdq_sampling_default();
  greedy.temperature = 0;
  if (bpdq_session_create(model, NULL, &session, &error) != BPDQ_OK) fail_msg("%s: %s", folder, error.message);
  if (bpdq_evaluate(session, e->ids, e->count, &error) != BPDQ_OK) fail_msg("%s: %s", folder, error.message);
  for (size_t i = skip; i < count; i++) {
    int32_t token, expected;
    if (bpdq_sample(session, 0, &greedy, &token, &error) != BPDQ_OK) fail_msg("%s: %s", folder, error.message);
    if (e->greedy)
      memcpy(&expected, e->greedy->data + 4 * i, 4);
    else
      expected = (int32_t)json_integer_value(json_array_get(list, i));
    assert_int_equal(token, expected);
    if (i + 1 < count && bpdq_evaluate(session, &token, 1, &error) != BPDQ_OK) fail_msg("%s: %s", folder, error.message);
  }
  bpdq_session_free(session);
}

static void check_model(const char *folder, const char *backend) {
  expectation e = load_expectation(folder);
  bpdq_model_options options = bpdq_model_default_options();
  options.backend = backend;
  options.activations = BPDQ_ACTIVATIONS_F32;
  bpdq_model *model;
  bpdq_error error = {0};
  if (bpdq_model_load(folder, &options, &model, &error) != BPDQ_OK) fail_msg("%s on %s: %s", folder, backend, error.message);
  check_ids(model, folder, &e);
  check_logits(model, folder, &e, strcmp(backend, "cpu") ? 5e-3 : 2e-3);
  check_greedy(model, folder, &e);
  bpdq_model_free(model);
  free_expectation(&e);
}

static bool check_extra(void *user, const char *name) {
  char folder[1024], marker[1100];
  const char *const *where = user; /* parent folder, backend */
  join(folder, sizeof folder, where[0], name);
  join(marker, sizeof marker, folder, "expected.safetensors");
  if (bpdq_path_exists(marker)) check_model(folder, where[1]);
  return true;
}

/* BPDQ_SHARED in the environment moves the reference material, for runs on another machine than the build; where it is empty only
 * BPDQ_TEST_CHECKPOINTS is tested. */
static const char *shared_folder(void) {
  const char *moved = getenv("BPDQ_SHARED");
  return moved ? moved : BPDQ_SHARED;
}

static void check_backend(const bpdq_backend_registration *registration) {
  static const char *const names[] = {"vectors/ckpt-qwen2-k2-g64", "vectors/ckpt-qwen2-k2-g256-padded", "vectors/ckpt-llama-k3-g32-tied",
                                      "models/classics-12m", "models/classics-28m"};
  for (size_t i = 0; shared_folder()[0] && i < sizeof names / sizeof *names; i++) {
    char folder[1024];
    join(folder, sizeof folder, shared_folder(), names[i]);
    check_model(folder, registration->name);
  }
  const char *extra = getenv("BPDQ_TEST_CHECKPOINTS");
  const char *where[2] = {extra, registration->name};
  bpdq_error error = {0};
  if (extra && bpdq_list_folder(extra, check_extra, where, &error) != BPDQ_OK) fail_msg("%s", error.message);
}

static void every_backend_reproduces_the_reference(void **state) {
  (void)state;
  size_t count;
  const bpdq_backend_registration *const *registrations = bpdq_backend_registrations(&count);
  const char *only = getenv("BPDQ_BACKEND");
  for (size_t i = 0; i < count; i++) {
    bool asked = only && !strcmp(only, registrations[i]->name);
    if (only && !asked) continue;
    if (!asked && !registrations[i]->list(NULL, 0, NULL)) continue;
    printf("%s\n", registrations[i]->name);
    check_backend(registrations[i]);
  }
}

static void a_session_refuses_what_does_not_fit(void **state) {
  (void)state;
  bpdq_model *model;
  bpdq_session *session;
  bpdq_error error = {0};
  bpdq_model_options options = bpdq_model_default_options();
  options.backend = "cpu";
  if (bpdq_model_load(BPDQ_SHARED "/vectors/ckpt-qwen2-k2-g64", &options, &model, &error) != BPDQ_OK) fail_msg("%s", error.message);
  bpdq_session_options session_options = bpdq_session_default_options();
  session_options.context = 513;
  assert_int_equal(bpdq_session_create(model, &session_options, &session, &error), BPDQ_ERROR_ARGUMENT);
  session_options.context = 8;
  assert_int_equal(bpdq_session_create(model, &session_options, &session, &error), BPDQ_OK);
  int32_t tokens[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  assert_int_equal(bpdq_evaluate(session, tokens, 9, &error), BPDQ_ERROR_CONTEXT_FULL);
  tokens[3] = 640;
  assert_int_equal(bpdq_evaluate(session, tokens, 8, &error), BPDQ_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "640"));
  tokens[3] = 639;
  float logits[640];
  assert_int_equal(bpdq_get_logits(session, 0, logits, &error), BPDQ_ERROR_ARGUMENT);
  assert_int_equal(bpdq_evaluate(session, tokens, 8, &error), BPDQ_OK);
  assert_int_equal(bpdq_evaluate(session, tokens, 1, &error), BPDQ_ERROR_CONTEXT_FULL);
  bpdq_session_cancel(session);
  assert_int_equal(bpdq_session_rewind(session, 0, &error), BPDQ_OK);
  assert_int_equal(bpdq_evaluate(session, tokens, 2, &error), BPDQ_ERROR_CANCELLED);
  assert_int_equal(bpdq_evaluate(session, tokens, 2, &error), BPDQ_OK);
  bpdq_session_free(session);
  bpdq_model_free(model);
}

static void an_unknown_precision_is_refused(void **state) {
  (void)state;
  bpdq_model *model;
  bpdq_error error = {0};
  bpdq_model_options options = bpdq_model_default_options();
  options.backend = "cpu";
  options.activations = (bpdq_activations)4;
  assert_int_equal(bpdq_model_load(BPDQ_SHARED "/vectors/ckpt-qwen2-k2-g64", &options, &model, &error), BPDQ_ERROR_ARGUMENT);
  assert_null(model);
  assert_int_equal(bpdq_model_random("tiny", 2, 64, &options, &model, &error), BPDQ_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "activations"));
}

static bool cancel_and_stop(void *user, int32_t token, const char *text, size_t length) {
  (void)token, (void)text, (void)length;
  bpdq_session_cancel(user);
  return false;
}

/* The request and the callback's answer may come together, as where Ctrl-C does both: they stop one generation, not the next one too. */
static void a_cancel_stops_one_generation(void **state) {
  (void)state;
  bpdq_model *model;
  bpdq_session *session;
  bpdq_generation result;
  bpdq_error error = {0};
  bpdq_model_options options = bpdq_model_default_options();
  options.backend = "cpu";
  if (bpdq_model_load(BPDQ_SHARED "/vectors/ckpt-qwen2-k2-g64", &options, &model, &error) != BPDQ_OK) fail_msg("%s", error.message);
  assert_int_equal(bpdq_session_create(model, NULL, &session, &error), BPDQ_OK);
  static const int32_t prompt[2] = {5, 100};
  assert_int_equal(bpdq_generate(session, prompt, 2, 4, NULL, cancel_and_stop, session, &result, &error), BPDQ_ERROR_CANCELLED);
  assert_int_equal(result.generated_tokens, 1);
  assert_int_equal(bpdq_generate(session, prompt, 2, 1, NULL, NULL, NULL, &result, &error), BPDQ_OK);
  assert_int_equal(result.generated_tokens, 1);
  bpdq_session_cancel(session); /* before the call */
  assert_int_equal(bpdq_generate(session, prompt, 2, 1, NULL, NULL, NULL, &result, &error), BPDQ_ERROR_CANCELLED);
  assert_int_equal(result.generated_tokens, 0);
  assert_int_equal(bpdq_generate(session, prompt, 2, 1, NULL, NULL, NULL, &result, &error), BPDQ_OK);
  bpdq_session_free(session);
  bpdq_model_free(model);
}

/* Batches of several sequences give each sequence the logits that it gets alone. */
static void sequences_are_independent(void **state) {
  (void)state;
  bpdq_model *model;
  bpdq_session *alone, *together;
  bpdq_error error = {0};
  bpdq_model_options options = bpdq_model_default_options();
  options.backend = "cpu";
  options.activations = BPDQ_ACTIVATIONS_F32;
  if (bpdq_model_load(BPDQ_SHARED "/vectors/ckpt-llama-k3-g32-tied", &options, &model, &error) != BPDQ_OK) fail_msg("%s", error.message);
  bpdq_session_options session_options = bpdq_session_default_options();
  assert_int_equal(bpdq_session_create(model, &session_options, &alone, &error), BPDQ_OK);
  session_options.sequences = 3;
  assert_int_equal(bpdq_session_create(model, &session_options, &together, &error), BPDQ_OK);
  static const int32_t texts[4][3] = {{5, 100, 300}, {6, 200, 301}, {7, 50, 302}, {8, 9, 303}}; /* [step][sequence] */
  for (int step = 0; step < 4; step++) assert_int_equal(bpdq_evaluate_batch(together, texts[step], &error), BPDQ_OK);
  for (int s = 0; s < 3; s++) {
    float expected[640], actual[640];
    int32_t tokens[4] = {texts[0][s], texts[1][s], texts[2][s], texts[3][s]};
    assert_int_equal(bpdq_session_rewind(alone, 0, &error), BPDQ_OK);
    assert_int_equal(bpdq_evaluate(alone, tokens, 4, &error), BPDQ_OK);
    assert_int_equal(bpdq_get_logits(alone, 0, expected, &error), BPDQ_OK);
    assert_int_equal(bpdq_get_logits(together, s, actual, &error), BPDQ_OK);
    for (int i = 0; i < 640; i++) assert_true(fabsf(actual[i] - expected[i]) < 1e-3f);
  }
  bpdq_session_free(alone);
  bpdq_session_free(together);
  bpdq_model_free(model);
}

static void check_choice(bpdq_session *session, int sequence, const bpdq_sampling *sampling) {
  float logits[640];
  int32_t token, best = 0;
  bpdq_error error = {0};
  assert_int_equal(bpdq_get_logits(session, sequence, logits, &error), BPDQ_OK);
  for (int32_t i = 0; i < 640; i++) best = logits[i] > logits[best] ? i : best;
  assert_int_equal(bpdq_sample(session, sequence, sampling, &token, &error), BPDQ_OK);
  assert_int_equal(token, best);
}

/* bpdq_evaluate moves sequence 0 alone, perhaps with other candidates than the batch before it: nobody else's are computed then. */
static void sequences_are_sampled_from_their_own_logits(void **state) {
  (void)state;
  bpdq_model *model;
  bpdq_session *session;
  bpdq_error error = {0};
  bpdq_model_options options = bpdq_model_default_options();
  if (!getenv("BPDQ_BACKEND")) options.backend = "cpu";
  if (bpdq_model_load(BPDQ_SHARED "/vectors/ckpt-qwen2-k2-g64", &options, &model, &error) != BPDQ_OK) fail_msg("%s", error.message);
  bpdq_session_options session_options = bpdq_session_default_options();
  session_options.sequences = 3;
  assert_int_equal(bpdq_session_create(model, &session_options, &session, &error), BPDQ_OK);
  static const int32_t tokens[3] = {5, 6, 7};
  static const bpdq_sampling greedy = {.top_p = 1, .repetition_penalty = 1};
  static const bpdq_sampling likeliest = {.temperature = 1, .top_k = 5, .top_p = 1e-6f, .repetition_penalty = 1};
  int32_t token;
  float logits[640];
  assert_int_equal(bpdq_evaluate(session, tokens, 3, &error), BPDQ_OK);
  assert_int_equal(bpdq_sample(session, 1, &greedy, &token, &error), BPDQ_ERROR_ARGUMENT);
  assert_int_equal(bpdq_get_logits(session, 2, logits, &error), BPDQ_ERROR_ARGUMENT);
  assert_int_equal(bpdq_session_rewind(session, 0, &error), BPDQ_OK);
  assert_int_equal(bpdq_evaluate_batch(session, tokens, &error), BPDQ_OK);
  check_choice(session, 0, &greedy);
  assert_int_equal(bpdq_evaluate_batch(session, tokens, &error), BPDQ_OK);
  check_choice(session, 0, &likeliest);
  assert_int_equal(bpdq_evaluate(session, tokens, 1, &error), BPDQ_OK);
  for (int s = 0; s < 3; s++) check_choice(session, s, &likeliest);
  bpdq_session_free(session);
  bpdq_model_free(model);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_backend_reproduces_the_reference),
                                     cmocka_unit_test(a_session_refuses_what_does_not_fit),
                                     cmocka_unit_test(a_cancel_stops_one_generation),
                                     cmocka_unit_test(an_unknown_precision_is_refused),
                                     cmocka_unit_test(sequences_are_independent),
                                     cmocka_unit_test(sequences_are_sampled_from_their_own_logits)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
