/* The tokenizer's public face: loading a file, encoding a text. Decoding is in tokenizer_decode.c. */
#include "format/tokenizer.h"

#include <string.h>

#include "core/platform.h"
#include "format/tokenizer_internal.h"

enum { LARGEST_FILE = 256 << 20, LONGEST_TEXT = 1 << 30 };

/* ---- loading ---- */

static bpdq_status read_json(const char *text, size_t length, json_t **root, bpdq_error *error) {
  json_error_t problem;
  *root = json_loadb(text, length, JSON_ALLOW_NUL, &problem);
  if (!*root)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "not valid JSON: line %d, column %d: %s", problem.line, problem.column, problem.text);
  if (!json_is_object(*root)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the JSON is not an object");
  return BPDQ_OK;
}

/* The library's encode() would cut or fill the ids; a prompt must not be changed behind the caller's back. */
static bpdq_status refuse_length_rules(const json_t *root, bpdq_error *error) {
  const char *const names[] = {"truncation", "padding"};
  for (int i = 0; i < 2; i++) {
    const json_t *rule = json_object_get(root, names[i]);
    if (rule && !json_is_null(rule))
      return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "'%s' is not supported; set it to null in the file", names[i]);
  }
  return BPDQ_OK;
}

/* id -> token. An added token hides the vocabulary's token of the same id. */
static bpdq_status index_tokens(bpdq_tokenizer *tokenizer, bpdq_error *error) {
  const bpdq_string_table *vocabulary = &tokenizer->model.vocabulary;
  int64_t count = 0;
  for (size_t i = 0; i < vocabulary->count; i++) count = vocabulary->entries[i].id >= count ? vocabulary->entries[i].id + 1 : count;
  for (size_t i = 0; i < tokenizer->added.count; i++)
    count = tokenizer->added.tokens[i].id >= count ? tokenizer->added.tokens[i].id + 1 : count;
  tokenizer->tokens = calloc(count ? (size_t)count : 1, sizeof *tokenizer->tokens);
  if (!tokenizer->tokens) return bpdq_out_of_memory(error);
  tokenizer->token_count = count;
  for (size_t i = 0; i < vocabulary->count; i++) {
    const bpdq_string_entry *entry = &vocabulary->entries[i];
    bpdq_slice text = {vocabulary->bytes.data + entry->offset, entry->length};
    bpdq_token *token = &tokenizer->tokens[entry->id];
    if (token->text.data)
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the tokens '%.*s' and '%.*s' have the same id %d",
                       (int)(text.length > 80 ? 80 : text.length), text.data, (int)(token->text.length > 80 ? 80 : token->text.length),
                       token->text.data, entry->id);
    token->text = text;
  }
  for (size_t i = 0; i < tokenizer->added.count; i++) {
    const bpdq_added_token *added = &tokenizer->added.tokens[i];
    /* The library looks for the text that it decodes to among the special tokens' contents: a normalizer that changes it hides it there. */
    int32_t named = bpdq_string_table_find(&tokenizer->added.by_content, added->text.data, added->text.length);
    tokenizer->tokens[added->id] = (bpdq_token){.text = added->text, .special = named >= 0 && tokenizer->added.tokens[named].special};
  }
  return BPDQ_OK;
}

static bpdq_status fill(const json_t *root, uint64_t seed, bpdq_tokenizer *tokenizer, bpdq_error *error) {
  BPDQ_TRY(refuse_length_rules(root, error));
  BPDQ_TRY(bpdq_load_normalizers(json_object_get(root, "normalizer"), &tokenizer->normalizers, error));
  BPDQ_TRY(bpdq_load_pretokenizers(json_object_get(root, "pre_tokenizer"), &tokenizer->pretokenizers, error));
  BPDQ_TRY(bpdq_load_decoders(json_object_get(root, "decoder"), &tokenizer->decoders, error));
  BPDQ_TRY(bpdq_load_bpe_model(json_object_get(root, "model"), tokenizer->vocab_size, seed, &tokenizer->model, error));
  BPDQ_TRY(bpdq_added_tokens_load(json_object_get(root, "added_tokens"), &tokenizer->model, &tokenizer->normalizers, tokenizer->vocab_size,
                                  seed, &tokenizer->added, error));
  BPDQ_TRY(bpdq_load_post_processor(json_object_get(root, "post_processor"), tokenizer, error));
  return index_tokens(tokenizer, error);
}

bpdq_status bpdq_tokenizer_parse(const char *text, size_t length, int64_t vocab_size, bpdq_tokenizer **tokenizer, bpdq_error *error) {
  *tokenizer = NULL;
  if (length > LARGEST_FILE) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "tokenizer.json is larger than 256 MB");
  if (vocab_size < 1) return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "a vocabulary of %lld ids cannot hold a token", (long long)vocab_size);
  bpdq_tokenizer *made = calloc(1, sizeof *made);
  if (!made) return bpdq_out_of_memory(error);
  made->vocab_size = vocab_size < BPDQ_TOKEN_ID_LIMIT ? vocab_size : BPDQ_TOKEN_ID_LIMIT;
  /* Time and address differ from run to run, so that nobody can craft keys that all collide. */
  uint64_t seed = bpdq_mix(bpdq_monotonic_nanoseconds() ^ (uint64_t)(uintptr_t)made);
  json_t *root = NULL;
  bpdq_status status = read_json(text, length, &root, error);
  if (status == BPDQ_OK) status = fill(root, seed, made, error);
  json_decref(root);
  if (status != BPDQ_OK) {
    bpdq_tokenizer_free(made);
    return status;
  }
  *tokenizer = made;
  return BPDQ_OK;
}

bpdq_status bpdq_tokenizer_load(const char *folder, int64_t vocab_size, bpdq_tokenizer **tokenizer, bpdq_error *error) {
  *tokenizer = NULL;
  char *path = bpdq_path_join(folder, "tokenizer.json"), *text = NULL;
  if (!path) return bpdq_out_of_memory(error);
  size_t length = 0;
  bpdq_status status = bpdq_read_file(path, LARGEST_FILE, &text, &length, error);
  if (status == BPDQ_OK) {
    status = bpdq_tokenizer_parse(text, length, vocab_size, tokenizer, error);
    if (status != BPDQ_OK) bpdq_fail_context(error, status, "%s", path);
  }
  free(text);
  free(path);
  return status;
}

void bpdq_tokenizer_free(bpdq_tokenizer *tokenizer) {
  if (!tokenizer) return;
  bpdq_string_table_free(&tokenizer->model.vocabulary);
  bpdq_merge_table_free(&tokenizer->model.merges);
  bpdq_merge_table_free(&tokenizer->model.junctions);
  free(tokenizer->model.unknown_token);
  bpdq_added_tokens_free(&tokenizer->added);
  for (size_t i = 0; i < tokenizer->normalizers.count; i++) {
    free(tokenizer->normalizers.steps[i].pattern);
    free(tokenizer->normalizers.steps[i].content);
  }
  for (size_t i = 0; i < tokenizer->pretokenizers.count; i++) bpdq_pattern_free(tokenizer->pretokenizers.steps[i].pattern);
  for (size_t i = 0; i < tokenizer->decoders.count; i++) {
    free(tokenizer->decoders.steps[i].pattern);
    free(tokenizer->decoders.steps[i].content);
  }
  free(tokenizer->normalizers.steps);
  free(tokenizer->pretokenizers.steps);
  free(tokenizer->decoders.steps);
  bpdq_id_list_free(&tokenizer->template_prefix);
  bpdq_id_list_free(&tokenizer->template_suffix);
  free(tokenizer->tokens);
  free(tokenizer);
}

int32_t bpdq_tokenizer_token_id(const bpdq_tokenizer *tokenizer, const char *content) {
  size_t length = strlen(content);
  int32_t added = bpdq_string_table_find(&tokenizer->added.by_content, content, length);
  return added >= 0 ? tokenizer->added.tokens[added].id : bpdq_string_table_find(&tokenizer->model.vocabulary, content, length);
}

/* ---- encoding ---- */

/* What one call of encode() works with. */
typedef struct encoder {
  const bpdq_tokenizer *tokenizer;
  bpdq_id_list ids;
  bpdq_text valid; /* the text with invalid UTF-8 replaced, where there was any */
  bpdq_text normalized, normalizer_scratch;
  bpdq_segment_list raw_segments, segments;
  bpdq_pretokenize_scratch pretokenize;
  bpdq_bpe_scratch *bpe;
  bpdq_error *error;
} encoder;

static void encoder_free(encoder *encoder) {
  bpdq_id_list_free(&encoder->ids);
  bpdq_text_free(&encoder->valid);
  bpdq_text_free(&encoder->normalized);
  bpdq_text_free(&encoder->normalizer_scratch);
  free(encoder->raw_segments.segments);
  free(encoder->segments.segments);
  bpdq_pretokenize_scratch_free(&encoder->pretokenize);
  bpdq_bpe_scratch_free(encoder->bpe);
}

static bpdq_status encode_plain(encoder *encoder, const char *text, size_t length, bool at_text_start) {
  const bpdq_tokenizer *tokenizer = encoder->tokenizer;
  const bpdq_pieces *words;
  BPDQ_TRY(bpdq_pretokenize(&tokenizer->pretokenizers, text, length, at_text_start, &encoder->pretokenize, &words, encoder->error));
  for (size_t i = 0; i < words->count; i++)
    BPDQ_TRY(bpdq_bpe_encode_word(&tokenizer->model, encoder->bpe, words->text.data + words->spans[i].start, words->spans[i].length,
                                  &encoder->ids, encoder->error));
  return BPDQ_OK;
}

static bpdq_status append_id(encoder *encoder, int32_t id) {
  return bpdq_id_list_append(&encoder->ids, &id, 1) ? BPDQ_OK : bpdq_out_of_memory(encoder->error);
}

/* A stretch of the input without raw added tokens: normalize, cut out the normalized ones, encode the rest. */
static bpdq_status encode_stretch(encoder *encoder, const char *text, size_t length, bool at_text_start) {
  const bpdq_tokenizer *tokenizer = encoder->tokenizer;
  if (tokenizer->normalizers.count) {
    BPDQ_TRY(bpdq_normalize(&tokenizer->normalizers, text, length, &encoder->normalized, &encoder->normalizer_scratch, encoder->error));
    text = encoder->normalized.data;
    length = encoder->normalized.length;
  }
  bpdq_segment_list *list = &encoder->segments;
  if (!bpdq_split_added_tokens(&tokenizer->added, &tokenizer->added.normalized, text, length, list))
    return bpdq_out_of_memory(encoder->error);
  for (size_t i = 0; i < list->count; i++) {
    const bpdq_segment *segment = &list->segments[i];
    if (segment->token)
      BPDQ_TRY(append_id(encoder, segment->token->id));
    else
      BPDQ_TRY(encode_plain(encoder, text + segment->start, segment->end - segment->start, at_text_start && !segment->start));
  }
  return BPDQ_OK;
}

static bpdq_status encode_text(encoder *encoder, const char *text, size_t length) {
  const bpdq_tokenizer *tokenizer = encoder->tokenizer;
  bpdq_segment_list *list = &encoder->raw_segments;
  if (!bpdq_split_added_tokens(&tokenizer->added, &tokenizer->added.raw, text, length, list)) return bpdq_out_of_memory(encoder->error);
  for (size_t i = 0; i < list->count; i++) {
    const bpdq_segment *segment = &list->segments[i];
    if (segment->token)
      BPDQ_TRY(append_id(encoder, segment->token->id));
    else
      BPDQ_TRY(encode_stretch(encoder, text + segment->start, segment->end - segment->start, !segment->start));
  }
  return BPDQ_OK;
}

static bpdq_status encode_all(encoder *encoder, const char *text, size_t length, bool post_process) {
  const bpdq_tokenizer *tokenizer = encoder->tokenizer;
  encoder->bpe = bpdq_bpe_scratch_create(length);
  if (!encoder->bpe) return bpdq_out_of_memory(encoder->error);
  if (!bpdq_utf8_is_valid(text, length)) {
    if (!bpdq_utf8_append_lossy(&encoder->valid, text, length)) return bpdq_out_of_memory(encoder->error);
    text = encoder->valid.data;
    length = encoder->valid.length;
  }
  const bpdq_id_list *prefix = &tokenizer->template_prefix, *suffix = &tokenizer->template_suffix;
  if (post_process && !bpdq_id_list_append(&encoder->ids, prefix->ids, prefix->count)) return bpdq_out_of_memory(encoder->error);
  BPDQ_TRY(encode_text(encoder, text, length));
  if (post_process && !bpdq_id_list_append(&encoder->ids, suffix->ids, suffix->count)) return bpdq_out_of_memory(encoder->error);
  /* An empty result is still a pointer that free() takes. */
  if (!encoder->ids.ids && !(encoder->ids.ids = malloc(sizeof(int32_t)))) return bpdq_out_of_memory(encoder->error);
  return BPDQ_OK;
}

bpdq_status bpdq_tokenizer_encode(const bpdq_tokenizer *tokenizer, const char *text, size_t length, bool post_process, int32_t **ids,
                                  size_t *count, bpdq_error *error) {
  *ids = NULL;
  *count = 0;
  if (length > LONGEST_TEXT) return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "the text is longer than 1 GiB; split it");
  encoder encoder = {.tokenizer = tokenizer, .error = error};
  bpdq_status status = encode_all(&encoder, text, length, post_process);
  if (status == BPDQ_OK) {
    *ids = encoder.ids.ids;
    *count = encoder.ids.count;
    encoder.ids = (bpdq_id_list){0};
  }
  encoder_free(&encoder);
  return status;
}
