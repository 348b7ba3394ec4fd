/* Runs many tokenizer requests for tests/parity/tokenizer_parity.py: tokenize_batch FOLDER VOCAB_SIZE < requests > answers
 *
 * A request is one byte of operation, a little-endian u32 of payload bytes, the payload. An answer is an i32 status, a u32 of payload
 * bytes, the payload (the error message where the status is not 0). 'e' encode text, 'n' encode without the post-processor: ids as i32 'd'
 * decode ids, 's' decode ids without special tokens, 't' the same through the stream: text */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/tokenizer.h"

static void answer(bpdq_status status, const void *payload, uint32_t bytes) {
  int32_t code = (int32_t)status;
  fwrite(&code, sizeof code, 1, stdout);
  fwrite(&bytes, sizeof bytes, 1, stdout);
  fwrite(payload, 1, bytes, stdout);
}

/* Feeds the ids one by one; what came out is one malloc'ed text. Every piece must be valid UTF-8 by itself, which the caller checks by
 * putting U+001F between the pieces. */
static bpdq_status decode_stream(const bpdq_tokenizer *tokenizer, const int32_t *ids, size_t count, char **text, size_t *length,
                                 bpdq_error *error) {
  bpdq_token_stream *stream;
  bpdq_status status = bpdq_token_stream_create(tokenizer, &stream, error);
  *text = NULL;
  *length = 0;
  for (size_t i = 0; i <= count && status == BPDQ_OK; i++) {
    const char *piece;
    size_t bytes;
    status =
        i < count ? bpdq_token_stream_push(stream, ids[i], &piece, &bytes, error) : bpdq_token_stream_finish(stream, &piece, &bytes, error);
    if (status != BPDQ_OK) break;
    char *longer = realloc(*text, *length + bytes + 1);
    if (!longer) abort();
    memcpy(longer + *length, piece, bytes);
    longer[*length + bytes] = 0x1f;
    *text = longer;
    *length += bytes + 1;
  }
  bpdq_token_stream_free(stream);
  return status;
}

static void serve(const bpdq_tokenizer *tokenizer, char operation, const char *payload, uint32_t bytes) {
  bpdq_error error = {0};
  bpdq_status status;
  if (operation == 'e' || operation == 'n') {
    int32_t *ids;
    size_t count;
    status = bpdq_tokenizer_encode(tokenizer, payload, bytes, operation == 'e', &ids, &count, &error);
    if (status == BPDQ_OK) answer(status, ids, (uint32_t)(count * sizeof *ids));
    free(ids);
  } else {
    char *text;
    size_t length, count = bytes / sizeof(int32_t);
    const int32_t *ids = (const int32_t *)payload;
    status = operation == 't' ? decode_stream(tokenizer, ids, count, &text, &length, &error)
                              : bpdq_tokenizer_decode(tokenizer, ids, count, operation == 's', &text, &length, &error);
    if (status == BPDQ_OK) answer(status, text, (uint32_t)length);
    free(text);
  }
  if (status != BPDQ_OK) answer(status, error.message, (uint32_t)strlen(error.message));
}

int main(int argc, char **argv) {
  bpdq_tokenizer *tokenizer;
  bpdq_error error = {0};
  if (argc != 3) {
    fprintf(stderr, "usage: tokenize_batch FOLDER VOCAB_SIZE < requests > answers\n");
    return 2;
  }
  if (bpdq_tokenizer_load(argv[1], atoll(argv[2]), &tokenizer, &error) != BPDQ_OK) {
    fprintf(stderr, "tokenize_batch: error: %s\n", error.message);
    return 1;
  }
  int operation;
  while ((operation = getchar()) != EOF) {
    uint32_t bytes;
    if (fread(&bytes, sizeof bytes, 1, stdin) != 1) break;
    char *payload = malloc(bytes + 1u);
    if (!payload || fread(payload, 1, bytes, stdin) != bytes) return 1;
    serve(tokenizer, (char)operation, payload, bytes);
    free(payload);
  }
  bpdq_tokenizer_free(tokenizer);
  return 0;
}
