/* Ids to text. The decoders run as a chain of steps that a token is pushed through, so that decode() and the streaming interface are the
 * same code: decode() pushes all ids, finishes, and keeps everything that came out. */
#include <string.h>

#include "format/tokenizer_internal.h"

static const char REPLACEMENT_CHARACTER[] = "\xef\xbf\xbd";

struct bpdq_token_stream {
  const bpdq_tokenizer *tokenizer;
  bool skip_special;
  bool started;      /* a token has been pushed through */
  size_t strip_left; /* characters that a Strip behind Fuse may still drop at the start of the text */
  bpdq_text bytes;   /* ByteLevel: an unfinished UTF-8 sequence; ByteFallback: the current run of byte tokens */
  bpdq_text output;
};

static bool push(bpdq_token_stream *stream, size_t step, const char *text, size_t length);

/* "<0x41>" to 0x41, else -1. Rust's from_str_radix takes a sign before a single digit, and so does this. */
static int fallback_byte(const char *text, size_t length) {
  if (length != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
  int value = 0;
  for (int i = 3; i < 5; i++) {
    char c = text[i];
    if (i == 3 && c == '+') continue;
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

/* A run of byte tokens is text where all of it is valid UTF-8, else one U+FFFD per byte: known only at the run's end. */
static bool flush_fallback(bpdq_token_stream *stream, size_t step) {
  bool ok = true;
  if (!stream->bytes.length) return true;
  if (bpdq_utf8_is_valid(stream->bytes.data, stream->bytes.length)) {
    ok = push(stream, step + 1, stream->bytes.data, stream->bytes.length);
  } else {
    for (size_t i = 0; ok && i < stream->bytes.length; i++) ok = push(stream, step + 1, REPLACEMENT_CHARACTER, 3);
  }
  stream->bytes.length = 0;
  return ok;
}

static bool push_fallback(bpdq_token_stream *stream, size_t step, const char *text, size_t length) {
  int byte = fallback_byte(text, length);
  if (byte >= 0) return bpdq_text_append(&stream->bytes, &(char){(char)byte}, 1);
  return flush_fallback(stream, step) && push(stream, step + 1, text, length);
}

/* Hands on the finished characters of stream->bytes and keeps an unfinished one. */
static bool drain_bytes(bpdq_token_stream *stream) {
  size_t finished = stream->bytes.length, size = 0;
  uint32_t codepoint;
  for (size_t at = 0; at < stream->bytes.length; at += size) {
    if (bpdq_utf8_next(stream->bytes.data + at, stream->bytes.length - at, &codepoint, &size) == BPDQ_UTF8_INCOMPLETE) finished = at;
  }
  if (!bpdq_utf8_append_lossy(&stream->output, stream->bytes.data, finished)) return false;
  memmove(stream->bytes.data, stream->bytes.data + finished, stream->bytes.length - finished);
  stream->bytes.length -= finished;
  return true;
}

/* A token that has a character outside of the byte alphabet (an added token) stands for its own UTF-8. */
static bool push_byte_level(bpdq_token_stream *stream, const char *text, size_t length) {
  size_t before = stream->bytes.length, size;
  if (!bpdq_text_reserve(&stream->bytes, length)) return false;
  for (size_t at = 0; at < length; at += size) {
    int byte = bpdq_byte_level_byte(bpdq_utf8_decode(text + at, &size));
    if (byte < 0) {
      stream->bytes.length = before;
      if (!bpdq_text_append(&stream->bytes, text, length)) return false;
      break;
    }
    stream->bytes.data[stream->bytes.length++] = (char)byte;
  }
  return !stream->bytes.length || drain_bytes(stream);
}

/* Behind Fuse the pieces that arrive are parts of one text; only its start can be stripped (loading sees to that). */
static bool push_strip(bpdq_token_stream *stream, size_t step, const char *text, size_t length) {
  const bpdq_decoder *strip = &stream->tokenizer->decoders.steps[step];
  size_t *left = &stream->strip_left, per_token = strip->start;
  if (!strip->after_fuse) left = &per_token;
  while (*left && length >= strip->pattern_length && !memcmp(text, strip->pattern, strip->pattern_length)) {
    text += strip->pattern_length;
    length -= strip->pattern_length;
    --*left;
  }
  if (length) *left = 0;
  for (size_t stop = strip->stop; stop && length >= strip->pattern_length; stop--) {
    if (memcmp(text + length - strip->pattern_length, strip->pattern, strip->pattern_length) != 0) break;
    length -= strip->pattern_length;
  }
  return push(stream, step + 1, text, length);
}

static bool push_replaced(bpdq_token_stream *stream, size_t step, bpdq_slice content, const char *text, size_t length) {
  const bpdq_decoder *decoder = &stream->tokenizer->decoders.steps[step];
  bpdq_text made = {0};
  bool ok = bpdq_append_replaced(&made, text, length, (bpdq_slice){decoder->pattern, decoder->pattern_length}, content) &&
            push(stream, step + 1, made.data, made.length);
  bpdq_text_free(&made);
  return ok;
}

static bool push(bpdq_token_stream *stream, size_t step, const char *text, size_t length) {
  const bpdq_decoder_list *list = &stream->tokenizer->decoders;
  if (step == list->count) return bpdq_text_append(&stream->output, text, length);
  const bpdq_decoder *decoder = &list->steps[step];
  switch (decoder->kind) {
    case BPDQ_DECODE_BYTE_LEVEL:
      return push_byte_level(stream, text, length);
    case BPDQ_DECODE_BYTE_FALLBACK:
      return push_fallback(stream, step, text, length);
    case BPDQ_DECODE_FUSE:
      return push(stream, step + 1, text, length);
    case BPDQ_DECODE_STRIP:
      return push_strip(stream, step, text, length);
    case BPDQ_DECODE_REPLACE:
      return push_replaced(stream, step, (bpdq_slice){decoder->content, decoder->content_length}, text, length);
    case BPDQ_DECODE_METASPACE: {
      bool drops = decoder->strips_first && !stream->started;
      return push_replaced(stream, step, drops ? (bpdq_slice){"", 0} : (bpdq_slice){" ", 1}, text, length);
    }
  }
  return false;
}

static bool push_token(bpdq_token_stream *stream, bpdq_slice text) {
  bool blank = stream->started && !stream->tokenizer->decoders.present;
  bool ok = (!blank || bpdq_text_append(&stream->output, " ", 1)) && push(stream, 0, text.data, text.length);
  stream->started = true;
  return ok;
}

static bool flush(bpdq_token_stream *stream) {
  const bpdq_decoder_list *list = &stream->tokenizer->decoders;
  for (size_t step = 0; step < list->count; step++) {
    if (list->steps[step].kind == BPDQ_DECODE_BYTE_FALLBACK && !flush_fallback(stream, step)) return false;
    if (list->steps[step].kind == BPDQ_DECODE_BYTE_LEVEL) {
      if (!bpdq_utf8_append_lossy(&stream->output, stream->bytes.data, stream->bytes.length)) return false;
      stream->bytes.length = 0;
    }
  }
  return true;
}

static void start_stream(bpdq_token_stream *stream, const bpdq_tokenizer *tokenizer, bool skip_special) {
  *stream = (bpdq_token_stream){.tokenizer = tokenizer, .skip_special = skip_special};
  for (size_t i = 0; i < tokenizer->decoders.count; i++) {
    if (tokenizer->decoders.steps[i].after_fuse) stream->strip_left = tokenizer->decoders.steps[i].start;
  }
}

static void end_stream(bpdq_token_stream *stream) {
  bpdq_text_free(&stream->bytes);
  bpdq_text_free(&stream->output);
}

static bpdq_status push_id(bpdq_token_stream *stream, int32_t id, bpdq_error *error) {
  const bpdq_tokenizer *tokenizer = stream->tokenizer;
  if (id < 0 || id >= tokenizer->vocab_size)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "token id %d is out of range: the model has ids 0 to %lld", id,
                     (long long)tokenizer->vocab_size - 1);
  if (id >= tokenizer->token_count) return BPDQ_OK;
  const bpdq_token *token = &tokenizer->tokens[id];
  if (!token->text.data || (stream->skip_special && token->special)) return BPDQ_OK;
  return push_token(stream, token->text) ? BPDQ_OK : bpdq_out_of_memory(error);
}

bpdq_status bpdq_tokenizer_decode(const bpdq_tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special, char **text,
                                  size_t *length, bpdq_error *error) {
  bpdq_token_stream stream;
  bpdq_status status = BPDQ_OK;
  *text = NULL;
  *length = 0;
  start_stream(&stream, tokenizer, skip_special);
  for (size_t i = 0; i < count; i++) BPDQ_TRY_GOTO(push_id(&stream, ids[i], error), done);
  if (!flush(&stream) || !bpdq_text_append(&stream.output, "", 1)) {
    status = bpdq_out_of_memory(error);
    goto done;
  }
  *text = stream.output.data;
  *length = stream.output.length - 1;
  stream.output = (bpdq_text){0};
done:
  end_stream(&stream);
  return status;
}

bpdq_status bpdq_token_stream_create(const bpdq_tokenizer *tokenizer, bpdq_token_stream **stream, bpdq_error *error) {
  *stream = malloc(sizeof **stream);
  if (!*stream) return bpdq_out_of_memory(error);
  start_stream(*stream, tokenizer, true);
  return BPDQ_OK;
}

void bpdq_token_stream_free(bpdq_token_stream *stream) {
  if (!stream) return;
  end_stream(stream);
  free(stream);
}

static bpdq_status give_output(bpdq_token_stream *stream, const char **text, size_t *length, bpdq_error *error) {
  if (!bpdq_text_append(&stream->output, "", 1)) return bpdq_out_of_memory(error);
  *text = stream->output.data;
  *length = stream->output.length - 1;
  return BPDQ_OK;
}

bpdq_status bpdq_token_stream_push(bpdq_token_stream *stream, int32_t id, const char **text, size_t *length, bpdq_error *error) {
  *text = "";
  *length = 0;
  stream->output.length = 0;
  BPDQ_TRY(push_id(stream, id, error));
  return give_output(stream, text, length, error);
}

bpdq_status bpdq_token_stream_finish(bpdq_token_stream *stream, const char **text, size_t *length, bpdq_error *error) {
  *text = "";
  *length = 0;
  stream->output.length = 0;
  if (!flush(stream)) return bpdq_out_of_memory(error);
  return give_output(stream, text, length, error);
}
