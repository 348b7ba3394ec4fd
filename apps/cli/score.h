/* Scores of predicted distributions: negative log-likelihood, KL divergence, agreement of the likeliest token. */
#ifndef BPDQ_CLI_SCORE_H
#define BPDQ_CLI_SCORE_H

#include <stdbool.h>
#include <stdint.h>

/* logits f32 [count], natural logarithms. */
double score_log_sum_exp(const float *logits, int64_t count);
int64_t score_argmax(const float *logits, int64_t count);
/* KL(p‖q) of the distributions with logits p and q, whose log-sum-exps are given. */
double score_kl(const float *p, double p_lse, const float *q, double q_lse, int64_t count);
bool score_finite(const float *logits, int64_t count);

#endif
