/* Stop strings, filters and metric of the task. The patterns are those of the harness's gsm8k.yaml; Python's `re` and PCRE2 read them
 * alike. They match bytes: what they name is ASCII, and '.' with (?s) passes over anything. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "gsm8k.h"

static const char *const stop_strings[] = {"Question:", "</s>", "<|im_end|>"};

const char *const gsm8k_filter_names[GSM8K_FILTERS] = {"strict_match", "flexible_extract"};

/* strict-match takes group 1 of the first match, flexible-extract the first group that is not empty of the last one. */
static const char *const filter_patterns[GSM8K_FILTERS] = {"#### (\\-?[0-9\\.\\,]+)", "(-?[$0-9.,]{2,})|(-?[0-9]+)"};
static const char no_match[] = "[invalid]";

/* Removed from the extracted and the true answer in this order before they are compared. */
static const char *const ignored_patterns[] = {",", "\\$", "(?s).*#### ", "\\.$"};

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

struct gsm8k_scorer {
  pcre2_code *filters[GSM8K_FILTERS], *ignored[COUNT_OF(ignored_patterns)];
  pcre2_match_data *match; /* room for two groups */
};

size_t gsm8k_before_stop(const char *text, size_t length) {
  for (size_t i = 0; i < COUNT_OF(stop_strings); i++) {
    size_t size = strlen(stop_strings[i]);
    for (size_t at = 0; at + size <= length; at++)
      if (memcmp(text + at, stop_strings[i], size) == 0) length = at;
  }
  return length;
}

static pcre2_code *compile(const char *pattern) {
  int code;
  PCRE2_SIZE offset;
  return pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, 0, &code, &offset, NULL);
}

gsm8k_scorer *gsm8k_scorer_create(void) {
  gsm8k_scorer *scorer = calloc(1, sizeof *scorer);
  if (!scorer) return NULL;
  bool complete = (scorer->match = pcre2_match_data_create(3, NULL)) != NULL;
  for (size_t i = 0; i < GSM8K_FILTERS; i++) complete &= (scorer->filters[i] = compile(filter_patterns[i])) != NULL;
  for (size_t i = 0; i < COUNT_OF(ignored_patterns); i++) complete &= (scorer->ignored[i] = compile(ignored_patterns[i])) != NULL;
  if (complete) return scorer;
  gsm8k_scorer_free(scorer);
  return NULL;
}

void gsm8k_scorer_free(gsm8k_scorer *scorer) {
  if (!scorer) return;
  for (size_t i = 0; i < GSM8K_FILTERS; i++) pcre2_code_free(scorer->filters[i]);
  for (size_t i = 0; i < COUNT_OF(ignored_patterns); i++) pcre2_code_free(scorer->ignored[i]);
  pcre2_match_data_free(scorer->match);
  free(scorer);
}

/* The answer that one filter finds, malloc'ed; NULL where it fails. No pattern matches the empty string, so each match moves on. */
static char *extract(gsm8k_scorer *scorer, int filter, const char *text, size_t length) {
  const char *found = no_match;
  size_t bytes = strlen(no_match);
  for (PCRE2_SIZE from = 0;;) {
    int groups = pcre2_match(scorer->filters[filter], (PCRE2_SPTR)text, length, from, 0, scorer->match, NULL);
    if (groups == PCRE2_ERROR_NOMATCH) break;
    if (groups < 2) return NULL;
    const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(scorer->match) + 2 * (size_t)(groups - 1); /* the last group that took part */
    found = text + bounds[0];
    bytes = bounds[1] - bounds[0];
    from = bounds[1];
    if (filter == GSM8K_STRICT) break;
  }
  char *copy = malloc(bytes + 1);
  if (!copy) return NULL;
  memcpy(copy, found, bytes);
  copy[bytes] = 0;
  return copy;
}

/* The text without what the metric ignores, in lower case, malloc'ed; NULL where it fails. What is extracted holds no letters but those of
 * "[invalid]", and no letter beyond ASCII has one of them as its lower case, so ASCII is enough. */
static char *normalized(gsm8k_scorer *scorer, const char *text) {
  size_t room = strlen(text) + 1;
  char *from = malloc(room), *to = malloc(room);
  bool done = from && to;
  if (done) memcpy(from, text, room);
  for (size_t i = 0; i < COUNT_OF(ignored_patterns) && done; i++) {
    PCRE2_SIZE bytes = room;
    done = pcre2_substitute(scorer->ignored[i], (PCRE2_SPTR)from, PCRE2_ZERO_TERMINATED, 0, PCRE2_SUBSTITUTE_GLOBAL, scorer->match, NULL,
                            (PCRE2_SPTR) "", 0, (PCRE2_UCHAR *)to, &bytes) >= 0;
    char *other = from;
    from = to;
    to = other;
  }
  free(to);
  if (!done) {
    free(from);
    return NULL;
  }
  for (char *c = from; *c; c++)
    if (*c >= 'A' && *c <= 'Z') *c = (char)(*c - 'A' + 'a');
  return from;
}

bool gsm8k_score_answer(gsm8k_scorer *scorer, const char *generation, size_t length, const char *answer, gsm8k_score *score) {
  *score = (gsm8k_score){0};
  char *wanted = normalized(scorer, answer);
  bool done = wanted != NULL;
  for (int filter = 0; filter < GSM8K_FILTERS && done; filter++) {
    score->extracted[filter] = extract(scorer, filter, generation, length);
    char *given = score->extracted[filter] ? normalized(scorer, score->extracted[filter]) : NULL;
    done = given != NULL;
    score->correct[filter] = done && strcmp(given, wanted) == 0;
    free(given);
  }
  free(wanted);
  return done;
}

void gsm8k_score_free(gsm8k_score *score) {
  for (int filter = 0; filter < GSM8K_FILTERS; filter++) free(score->extracted[filter]);
  *score = (gsm8k_score){0};
}

double gsm8k_standard_error(size_t correct, size_t count) {
  double share = (double)correct / (double)count;
  return count > 1 ? sqrt(share * (1 - share) / (double)(count - 1)) : NAN;
}
