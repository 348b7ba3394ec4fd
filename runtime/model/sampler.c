#include "model/sampler.h"

#include <math.h>
#include <stdlib.h>

void bpdq_random_seed(bpdq_random *random, uint64_t seed) {
  for (int i = 0; i < 4; i++) {
    seed += 0x9e3779b97f4a7c15u;
    uint64_t z = seed;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    random->state[i] = z ^ z >> 31;
  }
}

static uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }

double bpdq_random_uniform(bpdq_random *random) {
  uint64_t *s = random->state, result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rotate(s[3], 45);
  return (double)(result >> 11) * 0x1p-53;
}

bpdq_sampling bpdq_sampling_default(void) {
  return (bpdq_sampling){.temperature = 0.7f, .top_k = 40, .top_p = 0.95f, .repetition_penalty = 1};
}

bpdq_status bpdq_sampling_check(const bpdq_sampling *sampling, bpdq_error *error) {
  if (!(sampling->temperature >= 0 && sampling->temperature <= 100))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "temperature must be from 0 to 100, not %g", (double)sampling->temperature);
  if (sampling->top_k < 0) return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "top-k must be 0 (off) or more, not %d", sampling->top_k);
  if (!(sampling->top_p > 0 && sampling->top_p <= 1))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "top-p must be above 0 and at most 1, not %g", (double)sampling->top_p);
  if (!(sampling->min_p >= 0 && sampling->min_p <= 1))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "min-p must be from 0 to 1, not %g", (double)sampling->min_p);
  if (!(sampling->repetition_penalty > 0 && sampling->repetition_penalty <= 100))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "repetition penalty must be above 0 and at most 100, not %g",
                     (double)sampling->repetition_penalty);
  return BPDQ_OK;
}

int bpdq_sampling_candidates(const bpdq_sampling *sampling) {
  if (sampling->repetition_penalty != 1) return -1;
  if (sampling->temperature == 0) return 1;
  return sampling->top_k > 0 ? sampling->top_k : -1;
}

void bpdq_sampling_penalize(float penalty, const int32_t *recent, int64_t count, float *logits, int64_t vocab) {
  for (int64_t i = 0; i < count; i++) {
    bool seen = recent[i] < 0 || recent[i] >= vocab;
    for (int64_t j = 0; j < i && !seen; j++) seen = recent[j] == recent[i];
    if (!seen) logits[recent[i]] = logits[recent[i]] > 0 ? logits[recent[i]] / penalty : logits[recent[i]] * penalty;
  }
}

static int by_logit_descending(const void *left, const void *right) {
  const sampler_entry *a = left, *b = right;
  if (a->logit != b->logit) return a->logit > b->logit ? -1 : 1;
  return a->id < b->id ? -1 : a->id > b->id;
}

/* Drops entries that are not finite numbers: a NaN must neither win nor break the sort. */
static int64_t keep_finite(sampler_entry *entries, int64_t count) {
  int64_t kept = 0;
  for (int64_t i = 0; i < count; i++)
    if (isfinite(entries[i].logit)) entries[kept++] = entries[i];
  return kept;
}

/* Probabilities relative to the largest; entries are sorted. */
static double relative(const bpdq_sampling *sampling, const sampler_entry *entries, int64_t i) {
  return exp(((double)entries[i].logit - entries[0].logit) / sampling->temperature);
}

/* How many of the sorted entries top-k, top-p and min-p leave. */
static int64_t nucleus(const bpdq_sampling *sampling, const sampler_entry *entries, int64_t count) {
  if (sampling->top_k > 0 && sampling->top_k < count) count = sampling->top_k;
  double total = 0, sum = 0;
  for (int64_t i = 0; i < count; i++) total += relative(sampling, entries, i);
  int64_t kept = 0;
  for (; kept < count; kept++) {
    double weight = relative(sampling, entries, kept);
    if (kept && (sum >= sampling->top_p * total || weight < sampling->min_p)) break;
    sum += weight;
  }
  return kept;
}

int32_t bpdq_sampling_choose(const bpdq_sampling *sampling, sampler_entry *entries, int64_t count, bpdq_random *random) {
  count = keep_finite(entries, count);
  if (!count) return -1;
  if (sampling->temperature == 0) {
    sampler_entry best = entries[0];
    for (int64_t i = 1; i < count; i++)
      if (by_logit_descending(&entries[i], &best) < 0) best = entries[i];
    return best.id;
  }
  qsort(entries, (size_t)count, sizeof *entries, by_logit_descending);
  int64_t kept = nucleus(sampling, entries, count);
  double total = 0;
  for (int64_t i = 0; i < kept; i++) total += relative(sampling, entries, i);
  double target = bpdq_random_uniform(random) * total;
  for (int64_t i = 0; i < kept; i++) {
    target -= relative(sampling, entries, i);
    if (target < 0) return entries[i].id;
  }
  return entries[kept - 1].id;
}
