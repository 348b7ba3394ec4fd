/* tokenizer.json: byte-level BPE and SentencePiece-style BPE with byte fallback, id for id equal to the Python `tokenizers` library. */
#ifndef BPDQ_FORMAT_TOKENIZER_H
#define BPDQ_FORMAT_TOKENIZER_H

#include "core/log.h"
#include "core/status.h"

typedef struct bpdq_tokenizer bpdq_tokenizer; /* read-only after loading: usable from many threads at once */

/* Loads FOLDER/tokenizer.json (at most 256 MB). `vocab_size` of the model bounds the ids. Any normalizer, pre-tokenizer, model, decoder or
 * post-processor that is not implemented is refused by its name. */
bpdq_status bpdq_tokenizer_load(const char *folder, int64_t vocab_size, bpdq_tokenizer **tokenizer, bpdq_error *error);

/* The same from memory, for tests and the fuzz target. */
bpdq_status bpdq_tokenizer_parse(const char *text, size_t length, int64_t vocab_size, bpdq_tokenizer **tokenizer, bpdq_error *error);
void bpdq_tokenizer_free(bpdq_tokenizer *tokenizer); /* NULL is allowed */

/* UTF-8 text to ids (malloc'ed). Added tokens written in the text are recognized; `post_process` runs the post-processor (adds bos where
 * the model has it). Input that is not valid UTF-8 is read with every maximal invalid sequence replaced by U+FFFD. Time is O(n log n) in
 * the length. */
bpdq_status bpdq_tokenizer_encode(const bpdq_tokenizer *tokenizer, const char *text, size_t length, bool post_process, int32_t **ids,
                                  size_t *count, bpdq_error *error);

/* Ids to text as the Python library's decode() does; malloc'ed, NUL-terminated. Ids out of range are BPDQ_ERROR_ARGUMENT. */
bpdq_status bpdq_tokenizer_decode(const bpdq_tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special, char **text,
                                  size_t *length, bpdq_error *error);

/* Id of a token by its content (added tokens first), or -1. */
int32_t bpdq_tokenizer_token_id(const bpdq_tokenizer *tokenizer, const char *content);

/* ---- streaming: one token at a time, whole UTF-8 characters out; the concatenation equals decode() of all ids (skip_special) ---- */

typedef struct bpdq_token_stream bpdq_token_stream;
bpdq_status bpdq_token_stream_create(const bpdq_tokenizer *tokenizer, bpdq_token_stream **stream, bpdq_error *error);
void bpdq_token_stream_free(bpdq_token_stream *stream);
/* *text (owned by the stream, valid until the next call) is what can be shown after this token: maybe "". */
bpdq_status bpdq_token_stream_push(bpdq_token_stream *stream, int32_t id, const char **text, size_t *length, bpdq_error *error);
/* What is left at the end (incomplete bytes as U+FFFD). */
bpdq_status bpdq_token_stream_finish(bpdq_token_stream *stream, const char **text, size_t *length, bpdq_error *error);

#endif
