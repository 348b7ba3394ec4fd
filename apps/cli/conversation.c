#include "conversation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool conversation_add(conversation *c, const char *role, const char *content, size_t length) {
  if (c->count == c->capacity) {
    size_t capacity = c->capacity ? 2 * c->capacity : 16;
    bpdq_chat_message *larger = realloc(c->messages, capacity * sizeof *larger);
    if (!larger) return false;
    c->messages = larger;
    c->capacity = capacity;
  }
  char *copy = malloc(length + 1);
  if (!copy) return false;
  memcpy(copy, content, length);
  copy[length] = 0;
  c->messages[c->count++] = (bpdq_chat_message){role, copy};
  return true;
}

static void remove_at(conversation *c, size_t index) {
  free((char *)c->messages[index].content);
  memmove(c->messages + index, c->messages + index + 1, (--c->count - index) * sizeof *c->messages);
}

void conversation_drop_last(conversation *c) {
  if (c->count) remove_at(c, c->count - 1);
}

static size_t first_turn(const conversation *c) { return c->count && strcmp(c->messages[0].role, "system") == 0; }

void conversation_clear(conversation *c, bool keep_system) {
  size_t first = keep_system ? first_turn(c) : 0;
  while (c->count > first) conversation_drop_last(c);
  c->forgotten = 0;
}

void conversation_free(conversation *c) {
  conversation_clear(c, false);
  free(c->messages);
  free(c->cached);
}

bpdq_status conversation_tokens(conversation *c, int32_t **ids, size_t *count, int *dropped, bpdq_error *error) {
  for (*dropped = 0;; ++*dropped) {
    char *text = NULL;
    bpdq_status status = bpdq_apply_chat_template(c->model, c->messages, c->count, true, &text, error);
    /* The template writes the first token itself where the model wants one: no post-processor. */
    if (status == BPDQ_OK) status = bpdq_tokenize(c->model, text, strlen(text), false, ids, count, error);
    bpdq_free(text);
    size_t first = first_turn(c);
    bool fits = status == BPDQ_OK && (int64_t)*count < bpdq_session_context(c->session);
    if (status != BPDQ_OK || fits || c->count < first + 3) return status;
    bpdq_free(*ids);
    *ids = NULL;
    remove_at(c, first);
    remove_at(c, first);
    c->forgotten += 2;
  }
}

/* What bpdq_generate hands over: text for the answer, ids for the cache. */
typedef struct collector {
  conversation *conversation;
  bool show;
  char *text;
  size_t length, capacity;
  bool failed;
} collector;

static bool remember(conversation *c, int32_t id) {
  if (c->cached_count == c->cached_capacity) {
    size_t capacity = c->cached_capacity ? 2 * c->cached_capacity : 1024;
    int32_t *larger = realloc(c->cached, capacity * sizeof *larger);
    if (!larger) return false;
    c->cached = larger;
    c->cached_capacity = capacity;
  }
  c->cached[c->cached_count++] = id;
  return true;
}

static bool on_text(void *user, int32_t token, const char *text, size_t length) {
  collector *out = user;
  if (out->length + length + 1 > out->capacity) {
    size_t capacity = 2 * (out->length + length) + 256;
    char *larger = realloc(out->text, capacity);
    if (!larger) return !(out->failed = true);
    out->text = larger;
    out->capacity = capacity;
  }
  memcpy(out->text + out->length, text, length);
  out->length += length;
  out->text[out->length] = 0;
  if (out->show && length) out->failed |= !cli_show(text, length);
  out->failed |= !remember(out->conversation, token);
  return !out->failed && !console_interrupted();
}

/* How many ids the cache and the new prompt share; at least one id of the prompt is left to be evaluated. */
static size_t shared_prefix(const conversation *c, const int32_t *ids, size_t count) {
  size_t shared = 0, cached = c->cached_count;
  if ((size_t)bpdq_session_position(c->session) < cached) cached = (size_t)bpdq_session_position(c->session);
  while (shared < cached && shared + 1 < count && c->cached[shared] == ids[shared]) shared++;
  return shared;
}

bpdq_status conversation_answer(conversation *c, const int32_t *ids, size_t count, size_t max_tokens, const bpdq_sampling *sampling,
                                bool show, char **answer, size_t *length, bpdq_generation *result, bpdq_error *error) {
  *answer = NULL;
  *length = 0;
  size_t shared = shared_prefix(c, ids, count);
  bpdq_status status = bpdq_session_rewind(c->session, (int64_t)shared, error);
  if (status != BPDQ_OK) return status;
  c->cached_count = 0;
  for (size_t i = 0; i < count; i++)
    if (!remember(c, ids[i])) c->cached_count = 0; /* then nothing is shared next time */
  collector out = {.conversation = c, .show = show};
  console_stop_session(c->session);
  status = bpdq_generate(c->session, ids + shared, count - shared, max_tokens, sampling, on_text, &out, result, error);
  console_stop_session(NULL);
  if (out.failed && status == BPDQ_ERROR_CANCELLED) {
    status = error->status = BPDQ_ERROR_IO;
    snprintf(error->message, sizeof error->message, "the answer cannot be written or kept: output closed or out of memory");
  }
  *answer = out.text;
  *length = out.length;
  return status;
}
