/* Drives the task gsm8k for tests/parity/gsm8k_parity.py: each line of output is a JSON object.
 *
 *   gsm8k_batch prompts EXAMPLES QUESTIONS SHOTS    per question: {"prompt": ..., "chosen": [...]}
 *   gsm8k_batch score < LINES                       per line {"generation": ..., "answer": ...}: {"cut": ..., FILTER: {"extracted": ...,
 *                                                   "correct": ...} ...}; then one object with the share of each filter and its error */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apps/cli/gsm8k.h"

static void check(bool holds, const char *what) {
  if (holds) return;
  fprintf(stderr, "gsm8k_batch: error: %s\n", what);
  exit(1);
}

static void print_line(json_t *object) {
  check(object && json_dumpf(object, stdout, JSON_COMPACT) == 0 && putchar('\n') != EOF, "the result cannot be written");
  json_decref(object);
}

static gsm8k_set read_set(const char *path) {
  static char text[4 << 20];
  bpdq_error error;
  gsm8k_set set;
  FILE *file = fopen(path, "rb");
  check(file != NULL, path);
  size_t length = fread(text, 1, sizeof text, file);
  fclose(file);
  check(length < sizeof text, "file larger than 4 MiB");
  check(gsm8k_parse(path, text, length, &set, &error) == BPDQ_OK, error.message);
  return set;
}

static void print_prompts(const char *example_path, const char *question_path, uint32_t count) {
  gsm8k_set examples = read_set(example_path), questions = read_set(question_path);
  gsm8k_shots shots;
  check(count <= examples.count && gsm8k_shots_start(&shots, (uint32_t)examples.count, count, false), "the examples cannot be chosen");
  for (size_t i = 0; i < questions.count; i++) {
    size_t length;
    gsm8k_shots_next(&shots);
    char *prompt = gsm8k_prompt(&examples, &shots, &questions.items[i], &length);
    check(prompt != NULL, "no prompt");
    json_t *chosen = json_array();
    for (uint32_t k = 0; k < count; k++) json_array_append_new(chosen, json_integer(shots.chosen[k]));
    print_line(json_pack("{ss# so}", "prompt", prompt, (int)length, "chosen", chosen));
    free(prompt);
  }
  gsm8k_shots_free(&shots);
  gsm8k_set_free(&examples);
  gsm8k_set_free(&questions);
}

static void score_lines(void) {
  gsm8k_scorer *scorer = gsm8k_scorer_create();
  check(scorer != NULL, "the patterns do not compile");
  size_t correct[GSM8K_FILTERS] = {0}, count = 0;
  char *line = NULL;
  size_t capacity = 0;
  for (ssize_t bytes; (bytes = getline(&line, &capacity, stdin)) > 0; count++) {
    json_t *request = json_loadb(line, (size_t)bytes, 0, NULL);
    const char *generation, *answer;
    gsm8k_score score;
    check(json_unpack(request, "{ss ss}", "generation", &generation, "answer", &answer) == 0, "a line is no request");
    size_t length = gsm8k_before_stop(generation, strlen(generation));
    check(gsm8k_score_answer(scorer, generation, length, answer, &score), "an answer cannot be scored");
    json_t *result = json_pack("{ss#}", "cut", generation, (int)length);
    for (int filter = 0; filter < GSM8K_FILTERS; filter++) {
      correct[filter] += score.correct[filter];
      json_object_set_new(result, gsm8k_filter_names[filter],
                          json_pack("{ss sb}", "extracted", score.extracted[filter], "correct", score.correct[filter]));
    }
    print_line(result);
    gsm8k_score_free(&score);
    json_decref(request);
  }
  json_t *totals = json_object();
  for (int filter = 0; filter < GSM8K_FILTERS && count; filter++)
    json_object_set_new(totals, gsm8k_filter_names[filter],
                        json_pack("[f f]", (double)correct[filter] / (double)count, gsm8k_standard_error(correct[filter], count)));
  print_line(totals);
  free(line);
  gsm8k_scorer_free(scorer);
}

int main(int argc, char **argv) {
  if (argc == 5 && strcmp(argv[1], "prompts") == 0)
    print_prompts(argv[2], argv[3], (uint32_t)atoi(argv[4]));
  else
    check(argc == 2 && strcmp(argv[1], "score") == 0, "usage: gsm8k_batch prompts EXAMPLES QUESTIONS SHOTS | gsm8k_batch score < LINES");
  if (argc == 2) score_lines();
  return 0;
}
