/* Choosing a token from logits: repetition penalty, temperature, top-k, top-p, min-p, in the order of Hugging Face transformers. */
#ifndef BPDQ_MODEL_SAMPLER_H
#define BPDQ_MODEL_SAMPLER_H

#include "core/status.h"

/* xoshiro256** seeded by splitmix64: small, fast, and the same on every machine. */
typedef struct bpdq_random {
  uint64_t state[4];
} bpdq_random;
void bpdq_random_seed(bpdq_random *random, uint64_t seed);
double bpdq_random_uniform(bpdq_random *random); /* [0, 1) */

typedef struct sampler_entry {
  float logit;
  int32_t id;
} sampler_entry;

bpdq_status bpdq_sampling_check(const bpdq_sampling *sampling, bpdq_error *error);

/* How many of the largest logits decide the choice, or -1 where every logit takes part. */
int bpdq_sampling_candidates(const bpdq_sampling *sampling);

/* Divides positive and multiplies negative logits of the `count` recent tokens by the penalty, once per token. logits [vocab]. */
void bpdq_sampling_penalize(float penalty, const int32_t *recent, int64_t count, float *logits, int64_t vocab);

/* Chooses among `count` entries, which need no order (they are sorted in place); entries beyond the ones given take no part. Returns -1
 * when no logit is a finite number. */
int32_t bpdq_sampling_choose(const bpdq_sampling *sampling, sampler_entry *entries, int64_t count, bpdq_random *random);

#endif
