/* Sampling: what each setting keeps, determinism by seed, frequencies against the exact distribution. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/sampler.h"

static const float logits[6] = {1.0f, 3.0f, 2.0f, NAN, 3.0f, -1.0f};

static void fill(sampler_entry *entries) {
  for (int i = 0; i < 6; i++) entries[i] = (sampler_entry){logits[i], i};
}

static bpdq_sampling plain(float temperature) { return (bpdq_sampling){.temperature = temperature, .top_p = 1, .repetition_penalty = 1}; }

static void greedy_takes_the_lowest_id_of_the_largest(void **state) {
  (void)state;
  sampler_entry entries[6];
  fill(entries);
  bpdq_sampling sampling = plain(0);
  bpdq_random random;
  bpdq_random_seed(&random, 1);
  assert_int_equal(bpdq_sampling_choose(&sampling, entries, 6, &random), 1);
}

static void nothing_finite_is_no_choice(void **state) {
  (void)state;
  sampler_entry entries[2] = {{NAN, 0}, {INFINITY, 1}};
  bpdq_sampling sampling = plain(1);
  bpdq_random random;
  bpdq_random_seed(&random, 1);
  assert_int_equal(bpdq_sampling_choose(&sampling, entries, 2, &random), -1);
}

/* Draws many times and compares the frequencies with the softmax over the ids that may appear. */
static void expect_distribution(const bpdq_sampling *sampling, const double *weights) {
  enum { DRAWS = 60000 };
  int counts[6] = {0};
  double total = 0;
  bpdq_random random;
  bpdq_random_seed(&random, 7);
  for (int i = 0; i < DRAWS; i++) {
    sampler_entry entries[6];
    fill(entries);
    counts[bpdq_sampling_choose(sampling, entries, 6, &random)]++;
  }
  for (int i = 0; i < 6; i++) total += weights[i];
  for (int i = 0; i < 6; i++) {
    double p = weights[i] / total, sigma = sqrt(p * (1 - p) / DRAWS);
    assert_true(fabs(counts[i] / (double)DRAWS - p) <= 5 * sigma + 1e-12);
  }
}

static void settings_keep_the_right_tokens(void **state) {
  (void)state;
  double e = exp(1), all[6] = {e, e * e * e, e * e, 0, e * e * e, 1 / e};
  bpdq_sampling sampling = plain(1);
  expect_distribution(&sampling, all);
  sampling.top_k = 3;
  double three[6] = {0, all[1], all[2], 0, all[4], 0};
  expect_distribution(&sampling, three);
  sampling = plain(1);
  sampling.top_p = 0.8f; /* 0.40 + 0.40 is below 0.8 of the whole: the third is needed */
  expect_distribution(&sampling, three);
  sampling = plain(1);
  sampling.min_p = 0.3f; /* e^-1 = 0.37 stays, e^-2 = 0.14 goes */
  expect_distribution(&sampling, three);
  sampling = plain(2);
  double hot[6];
  for (int i = 0; i < 6; i++) hot[i] = sqrt(all[i]);
  expect_distribution(&sampling, hot);
}

static void same_seed_same_draws(void **state) {
  (void)state;
  bpdq_random a, b, c;
  bpdq_random_seed(&a, 42);
  bpdq_random_seed(&b, 42);
  bpdq_random_seed(&c, 43);
  bool differs = false;
  for (int i = 0; i < 100; i++) {
    double x = bpdq_random_uniform(&a);
    assert_true(x >= 0 && x < 1 && x == bpdq_random_uniform(&b));
    differs |= x != bpdq_random_uniform(&c);
  }
  assert_true(differs);
}

static void penalty_applies_once_per_token(void **state) {
  (void)state;
  float values[4] = {2, -2, 4, 1};
  int32_t recent[5] = {0, 1, 0, 1, 9};
  bpdq_sampling_penalize(2, recent, 5, values, 4);
  assert_true(values[0] == 1 && values[1] == -4 && values[2] == 4 && values[3] == 1);
}

static void bad_settings_are_refused(void **state) {
  (void)state;
  bpdq_error error;
  bpdq_sampling good = bpdq_sampling_default();
  assert_int_equal(bpdq_sampling_check(&good, &error), BPDQ_OK);
  bpdq_sampling bad[] = {good, good, good, good, good};
  bad[0].temperature = NAN;
  bad[1].top_k = -1;
  bad[2].top_p = 0;
  bad[3].min_p = 1.5f;
  bad[4].repetition_penalty = 0;
  for (int i = 0; i < 5; i++) assert_int_equal(bpdq_sampling_check(&bad[i], &error), BPDQ_ERROR_ARGUMENT);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(greedy_takes_the_lowest_id_of_the_largest),
                                     cmocka_unit_test(nothing_finite_is_no_choice),
                                     cmocka_unit_test(settings_keep_the_right_tokens),
                                     cmocka_unit_test(same_seed_same_draws),
                                     cmocka_unit_test(penalty_applies_once_per_token),
                                     cmocka_unit_test(bad_settings_are_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
