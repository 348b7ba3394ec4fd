/* Questions from JSON lines, and the prompts made of them. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gsm8k.h"

#define MAX_PROMPT_BYTES ((size_t)64 << 20) /* far above any context; keeps a hostile file from asking for terabytes */

/* ---- questions ---- */

static bpdq_status fail(bpdq_error *error, bpdq_status status, const char *path, size_t line, const char *what) {
  error->status = status;
  if (line)
    snprintf(error->message, sizeof error->message, "%s:%zu: %s", path, line, what);
  else
    snprintf(error->message, sizeof error->message, "%s: %s", path, what);
  return status;
}

/* A copy of the field, or NULL with a text in `what` (size bytes). */
static char *copy_field(const json_t *object, const char *name, char *what, size_t size) {
  const json_t *value = json_object_get(object, name);
  if (!value)
    snprintf(what, size, "no field \"%s\"", name);
  else if (!json_is_string(value))
    snprintf(what, size, "\"%s\" is not a string", name);
  else if (!json_string_length(value))
    snprintf(what, size, "\"%s\" is empty", name);
  else {
    char *copy = strdup(json_string_value(value));
    if (!copy) snprintf(what, size, "out of memory");
    return copy;
  }
  return NULL;
}

static bool grow(gsm8k_set *set, size_t *capacity) {
  if (set->count < *capacity) return true;
  size_t larger = *capacity ? 2 * *capacity : 1024;
  gsm8k_item *items = realloc(set->items, larger * sizeof *items);
  if (!items) return false;
  set->items = items;
  *capacity = larger;
  return true;
}

/* One line into *item; its strings belong to the caller even where it fails. */
static bpdq_status parse_line(const char *path, const char *text, size_t length, gsm8k_item *item, bpdq_error *error) {
  json_error_t problem;
  char what[sizeof problem.text + 32];
  json_t *object = json_loadb(text, length, 0, &problem); /* refuses invalid UTF-8 and \u0000 */
  if (!object) {
    snprintf(what, sizeof what, "not a line of JSON: %s", problem.text);
  } else if (!json_is_object(object)) {
    snprintf(what, sizeof what, "not a JSON object with \"question\" and \"answer\"");
  } else {
    item->question = copy_field(object, "question", what, sizeof what);
    if (item->question) item->answer = copy_field(object, "answer", what, sizeof what);
  }
  json_decref(object);
  return item->answer ? BPDQ_OK : fail(error, BPDQ_ERROR_FORMAT, path, item->line, what);
}

bpdq_status gsm8k_parse(const char *path, const char *text, size_t length, gsm8k_set *set, bpdq_error *error) {
  *set = (gsm8k_set){0};
  bpdq_status status = BPDQ_OK;
  size_t capacity = 0, line = 1;
  const char *end = text + length;
  for (const char *next; text < end && status == BPDQ_OK; text = next, line++) {
    const char *newline = memchr(text, '\n', (size_t)(end - text));
    size_t bytes = (size_t)((newline ? newline : end) - text), blank = 0;
    next = newline ? newline + 1 : end;
    while (blank < bytes && strchr(" \t\r", text[blank]) && text[blank]) blank++;
    if (blank == bytes) continue;
    if (!grow(set, &capacity)) {
      status = fail(error, BPDQ_ERROR_MEMORY, path, line, "out of memory");
    } else {
      gsm8k_item *item = &set->items[set->count++];
      *item = (gsm8k_item){.line = line};
      status = parse_line(path, text, bytes, item, error);
    }
  }
  if (status == BPDQ_OK && !set->count) status = fail(error, BPDQ_ERROR_FORMAT, path, 0, "no questions in it");
  if (status != BPDQ_OK) gsm8k_set_free(set);
  return status;
}

void gsm8k_set_free(gsm8k_set *set) {
  for (size_t i = 0; i < set->count; i++) {
    free(set->items[i].question);
    free(set->items[i].answer);
  }
  free(set->items);
  *set = (gsm8k_set){0};
}

/* ---- prompts ---- */

bool gsm8k_shots_start(gsm8k_shots *shots, uint32_t examples, uint32_t count, bool first) {
  *shots = (gsm8k_shots){.examples = examples, .count = count, .first = first};
  python_random_seed(&shots->random, GSM8K_FEWSHOT_SEED);
  if (!count) return true;
  shots->chosen = malloc(count * sizeof *shots->chosen);
  shots->pool = malloc(examples * sizeof *shots->pool);
  if (!shots->chosen || !shots->pool) return false;
  for (uint32_t i = 0; i < count; i++) shots->chosen[i] = i;
  return true;
}

void gsm8k_shots_next(gsm8k_shots *shots) {
  if (!shots->first && shots->count) python_random_sample(&shots->random, shots->examples, shots->count, shots->chosen, shots->pool);
}

void gsm8k_shots_free(gsm8k_shots *shots) {
  free(shots->chosen);
  free(shots->pool);
  *shots = (gsm8k_shots){0};
}

/* Writes to `out`, or only counts where that is NULL. Bytes without the NUL. */
static size_t write_item(char *out, size_t room, const gsm8k_item *item, bool with_answer) {
  int bytes = snprintf(out, room, with_answer ? "Question: %s\nAnswer: %s\n\n" : "Question: %s\nAnswer:", item->question, item->answer);
  return bytes < 0 ? MAX_PROMPT_BYTES + 1 : (size_t)bytes;
}

char *gsm8k_prompt(const gsm8k_set *examples, const gsm8k_shots *shots, const gsm8k_item *item, size_t *length) {
  size_t bytes = write_item(NULL, 0, item, false);
  for (uint32_t i = 0; i < shots->count && bytes <= MAX_PROMPT_BYTES; i++)
    bytes += write_item(NULL, 0, &examples->items[shots->chosen[i]], true);
  char *prompt = bytes <= MAX_PROMPT_BYTES ? malloc(bytes + 1) : NULL;
  if (!prompt) return NULL;
  *length = bytes;
  char *out = prompt;
  for (uint32_t i = 0; i < shots->count; i++)
    out += write_item(out, bytes + 1 - (size_t)(out - prompt), &examples->items[shots->chosen[i]], true);
  write_item(out, bytes + 1 - (size_t)(out - prompt), item, false);
  return prompt;
}
