/* Top-k over logits: exact ids with ties to the lower id, and log-sum-exp of the whole row. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "suite.h"

/* How logits are spread: backends may look first where the largest ones ought to be. */
typedef enum pattern {
  UNIFORM,
  TIES,      /* six values */
  RISING,    /* each larger than the one before */
  CLUSTERED, /* the largest are neighbours, the rest is far below, and one of it very far */
  MASKED,    /* two in three are -inf: of small vocabularies fewer are left than asked for */
  EXTREME,   /* almost as far apart as numbers can be */
  LOW,       /* near the lowest number there is */
  PATTERNS
} pattern;
static const char *const pattern_names[PATTERNS] = {"", " ties", " rising", " clustered", " masked", " extreme", " low"};

static float make_logit(pattern how, int64_t i, int64_t vocab, oracle_random *random) {
  double uniform = oracle_uniform(random);
  switch (how) {
    case TIES:
      return (float)floor(6 * uniform);
    case RISING:
      return (float)((double)i / (double)vocab * 20);
    case CLUSTERED:
      return (float)(i >= vocab / 3 && i < vocab / 3 + 300 ? 25 + uniform : i == 7 ? -1e30 : uniform * 1e-3);
    case EXTREME:
      return (float)(3e38 * (uniform < 0.5 ? -uniform : uniform));
    case LOW:
      return (float)(-3.4e38 * (1 - 1e-3 * uniform));
    case MASKED:
      return i % 3 ? -INFINITY : (float)(12 * uniform);
    default:
      return (float)(12 * uniform);
  }
}

/* Selection by repeated maximum: slow and obviously right. */
static void expected_row(const float *logits, int64_t vocab, int k, int32_t *ids, double *log_sum) {
  bool *taken = calloc((size_t)vocab, 1);
  double largest = -INFINITY, sum = 0;
  for (int64_t i = 0; i < vocab; i++) largest = fmax(largest, logits[i]);
  for (int64_t i = 0; i < vocab; i++) sum += exp(logits[i] - largest);
  *log_sum = largest + log(sum);
  for (int j = 0; j < k; j++) {
    int64_t best = -1;
    for (int64_t i = 0; i < vocab; i++)
      if (!taken[i] && isfinite(logits[i]) && (best < 0 || logits[i] > logits[best])) best = i;
    ids[j] = (int32_t)best;
    if (best >= 0) taken[best] = true;
  }
  free(taken);
}

static void run_top_k(suite *s, int64_t vocab, int k, int64_t rows, bool last, pattern how) {
  char name[100];
  snprintf(name, sizeof name, "top_k vocab=%lld k=%d rows=%lld%s%s", (long long)vocab, k, (long long)rows, last ? " last" : "",
           pattern_names[how]);
  if (!suite_wants(s, name)) return;
  oracle_random random = {(uint64_t)(vocab * 131 + k)};
  int64_t tensor_rows = last ? 1 : rows;
  float *logits = malloc((size_t)(tensor_rows * vocab) * sizeof *logits),
        *values = malloc((size_t)(tensor_rows * (k + 1)) * sizeof *values);
  int32_t *ids = malloc((size_t)(tensor_rows * k) * sizeof *ids), *expected = malloc((size_t)k * sizeof *expected);
  for (int64_t i = 0; i < tensor_rows * vocab; i++) logits[i] = make_logit(how, i % vocab, vocab, &random);
  bpdq_tensor_desc tensors[3] = {{.kind = BPDQ_TENSOR_F32, .rows = tensor_rows, .columns = vocab},
                                 {.kind = BPDQ_TENSOR_F32, .rows = tensor_rows, .columns = k + 1, .result = true},
                                 {.kind = BPDQ_TENSOR_I32, .rows = tensor_rows, .columns = k, .result = true}};
  const float *images[3] = {logits, NULL, NULL};
  bpdq_op op = {.kind = BPDQ_OP_TOP_K, .name = "test.top_k", .top_k = {0, 1, 2, vocab, k, last ? BPDQ_ROWS_LAST : BPDQ_ROWS_ALL}};
  bpdq_program program = {&op, 1, rows, BPDQ_ACTIVATIONS_F32};
  suite_run run;
  bpdq_error error;
  if (suite_start(s, name, tensors, images, 3, &program, &run)) {
    suite_scalars scalars;
    suite_scalars_fill(&scalars, rows, 0, 0);
    if (suite_ok(s, name, s->backend->run(run.executable, &scalars.run, &error), &error) &&
        suite_ok(s, name, s->backend->tensor_read(run.state, 1, 0, tensor_rows * (k + 1), values, &error), &error) &&
        suite_ok(s, name, s->backend->tensor_read(run.state, 2, 0, tensor_rows * k, ids, &error), &error))
      for (int64_t r = 0; r < tensor_rows; r++) {
        double log_sum;
        expected_row(logits + r * vocab, vocab, k, expected, &log_sum);
        bool same = true;
        for (int j = 0; j < k; j++)
          if (ids[r * k + j] != expected[j] || values[r * (k + 1) + j] != (expected[j] < 0 ? -INFINITY : logits[r * vocab + expected[j]]))
            same = false;
        suite_true(s, name, same, "ids or values differ");
        suite_compare(s, name, &values[r * (k + 1) + k], &log_sum, 1, 1e-5);
      }
    suite_stop(s, &run);
  }
  free(logits);
  free(values);
  free(ids);
  free(expected);
}

void suite_top_k(suite *s) {
  suite_section(s, "top-k");
  static const int64_t vocabs[] = {200, 640, 8192, 32000, 151936};
  static const int ks[] = {1, 2, 40, 64, 128};
  for (size_t v = 0; v < sizeof vocabs / sizeof *vocabs; v++)
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
      if (s->quick && (v + i) % 2) continue;
      run_top_k(s, vocabs[v], ks[i], 1 + (int64_t)(v % 3), false, UNIFORM);
      for (int how = TIES; how < PATTERNS; how++) run_top_k(s, vocabs[v], ks[i], 3, true, (pattern)how);
    }
  run_top_k(s, 262144, 64, 1, true, RISING); /* the largest vocabularies, and what takes the most steps */
}
