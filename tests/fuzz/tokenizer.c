/* Any bytes as a tokenizer.json, then a text through whatever loads: no crash, no leak, and the stream gives what decode() gives.
 * The input is the file, up to the first 0xff byte (which no JSON has), and the text behind it. */
#include <stdlib.h>
#include <string.h>

#include "format/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void stream_again(const bpdq_tokenizer *tokenizer, const int32_t *ids, size_t count, const char *text, size_t length) {
  bpdq_token_stream *stream;
  size_t done = 0;
  if (bpdq_token_stream_create(tokenizer, &stream, NULL) != BPDQ_OK) abort();
  for (size_t i = 0; i <= count; i++) {
    const char *piece;
    size_t bytes;
    bpdq_status status =
        i < count ? bpdq_token_stream_push(stream, ids[i], &piece, &bytes, NULL) : bpdq_token_stream_finish(stream, &piece, &bytes, NULL);
    if (status != BPDQ_OK || bytes > length - done || memcmp(piece, text + done, bytes) != 0) abort();
    done += bytes;
  }
  if (done != length) abort();
  bpdq_token_stream_free(stream);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const uint8_t *separator = size ? memchr(data, 0xff, size) : NULL;
  size_t file_size = separator ? (size_t)(separator - data) : size;
  const char *text = separator ? (const char *)separator + 1 : "The 1st text's  end.\n \xc3\xa9\xe2\x96\x81<s>";
  size_t text_size = separator ? size - file_size - 1 : strlen(text);
  bpdq_tokenizer *tokenizer;
  bpdq_error error;
  if (bpdq_tokenizer_parse((const char *)data, file_size, 1 << 17, &tokenizer, &error) != BPDQ_OK) return 0;
  int32_t *ids;
  size_t count, length;
  char *decoded;
  if (bpdq_tokenizer_encode(tokenizer, text, text_size, true, &ids, &count, &error) == BPDQ_OK) {
    if (bpdq_tokenizer_decode(tokenizer, ids, count, true, &decoded, &length, &error) != BPDQ_OK) abort();
    stream_again(tokenizer, ids, count, decoded, length);
    free(decoded);
  }
  free(ids);
  bpdq_tokenizer_free(tokenizer);
  return 0;
}
