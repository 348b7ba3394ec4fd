/* The task gsm8k of lm-evaluation-harness (task version 3, as in lm-eval 0.4.13): what a model is asked and how its answer is scored.
 * Nothing here runs a model or reads a file. */
#ifndef BPDQ_CLI_GSM8K_H
#define BPDQ_CLI_GSM8K_H

#include "bpdq.h"
#include "python_random.h"

#define GSM8K_SHOTS 5           /* examples before each question, by default */
#define GSM8K_MAX_TOKENS 256    /* generated at most per question: the harness's max_gen_toks */
#define GSM8K_FEWSHOT_SEED 1234 /* the harness's --seed for the choice of examples */

/* ---- questions ---- */

typedef struct gsm8k_item {
  char *question, *answer; /* UTF-8, not empty, NUL-terminated; the answer ends with "#### NUMBER" */
  size_t line;             /* in its file, from 1 */
} gsm8k_item;

typedef struct gsm8k_set {
  gsm8k_item *items; /* [count] */
  size_t count;
} gsm8k_set;

/* Reads JSON lines {"question": ..., "answer": ...}; blank lines are passed over. The message of an error names `path` and the line. On
 * success the caller owns *set, which holds at least one item. */
bpdq_status gsm8k_parse(const char *path, const char *text, size_t length, gsm8k_set *set, bpdq_error *error);
void gsm8k_set_free(gsm8k_set *set);

/* ---- prompts ---- */

/* Which examples precede each question. As in the harness, one random state goes through all questions in their order, so that each gets
 * examples of its own; `first` gives every question the first ones (the harness's sampler first_n). */
typedef struct gsm8k_shots {
  uint32_t examples, count;
  bool first;
  uint32_t *chosen; /* [count], of the present question: indices into the set of examples */
  uint32_t *pool;   /* [examples] */
  python_random random;
} gsm8k_shots;

/* count <= examples < 2^32. False where memory is exhausted. */
bool gsm8k_shots_start(gsm8k_shots *shots, uint32_t examples, uint32_t count, bool first);
void gsm8k_shots_next(gsm8k_shots *shots); /* chooses for the next question */
void gsm8k_shots_free(gsm8k_shots *shots);

/* "Question: ...\nAnswer: ...\n\n" of each chosen example, then "Question: ...\nAnswer:". malloc'ed, NUL-terminated; NULL where it would be
 * larger than 64 MiB or memory is exhausted. `examples` may be NULL where shots->count is 0. */
char *gsm8k_prompt(const gsm8k_set *examples, const gsm8k_shots *shots, const gsm8k_item *item, size_t *length);

/* ---- scores ---- */

/* Bytes of a generation in front of the first stop string: all of them where there is none. */
size_t gsm8k_before_stop(const char *text, size_t length);

enum { GSM8K_STRICT, GSM8K_FLEXIBLE, GSM8K_FILTERS };
extern const char *const gsm8k_filter_names[GSM8K_FILTERS]; /* "strict_match", "flexible_extract" */

typedef struct gsm8k_scorer gsm8k_scorer; /* the compiled patterns; used by one thread at a time */
gsm8k_scorer *gsm8k_scorer_create(void);  /* NULL where memory is exhausted */
void gsm8k_scorer_free(gsm8k_scorer *scorer);

typedef struct gsm8k_score {
  char *extracted[GSM8K_FILTERS]; /* the answer that each filter found, malloc'ed; "[invalid]" where it found none */
  bool correct[GSM8K_FILTERS];
} gsm8k_score;

/* Scores a generation (cut at its stop string) against the answer of the question. False where memory is exhausted or a pattern exceeds its
 * limits, which takes a text of many megabytes. The caller frees with gsm8k_score_free in any case. */
bool gsm8k_score_answer(gsm8k_scorer *scorer, const char *generation, size_t length, const char *answer, gsm8k_score *score);
void gsm8k_score_free(gsm8k_score *score);

/* Standard error of a share of `correct` among `count` questions, from the sample's deviation; not a number for a single question. */
double gsm8k_standard_error(size_t correct, size_t count);

#endif
