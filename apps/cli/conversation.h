/* A conversation over one session: the chat template turns it into tokens, and what the KV cache already holds is not evaluated again. */
#ifndef BPDQ_CLI_CONVERSATION_H
#define BPDQ_CLI_CONVERSATION_H

#include "cli.h"

typedef struct conversation {
  bpdq_model *model;
  bpdq_session *session;
  bpdq_chat_message *messages; /* roles are literals; contents are owned */
  size_t count, capacity;
  size_t forgotten; /* messages that conversation_tokens has dropped since the conversation began */
  int32_t *cached;  /* ids in the KV cache */
  size_t cached_count, cached_capacity;
} conversation;

/* Copies the content. False: out of memory. */
bool conversation_add(conversation *c, const char *role, const char *content, size_t length);
void conversation_drop_last(conversation *c);
void conversation_clear(conversation *c, bool keep_system);
void conversation_free(conversation *c);

/* The ids of the conversation with the prompt for an answer. Where they leave no room in the context, the oldest question and answer go;
 * *dropped counts them. *ids is freed with bpdq_free. */
bpdq_status conversation_tokens(conversation *c, int32_t **ids, size_t *count, int *dropped, bpdq_error *error);

/* Answers the last message: rewinds the cache to what it shares with `ids`, evaluates the rest and generates. *answer is malloc'ed; it is
 * set, with what there is, when the generation was stopped too. */
bpdq_status conversation_answer(conversation *c, const int32_t *ids, size_t count, size_t max_tokens, const bpdq_sampling *sampling,
                                bool show, char **answer, size_t *length, bpdq_generation *result, bpdq_error *error);

#endif
