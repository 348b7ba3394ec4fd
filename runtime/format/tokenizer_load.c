/* The "model" of a tokenizer.json: vocabulary and merges of a BPE model. */
#include <stdio.h>
#include <string.h>

#include "format/tokenizer_internal.h"

bpdq_status bpdq_json_bool(const json_t *object, const char *key, bool fallback, bool *value, bpdq_error *error) {
  const json_t *member = json_object_get(object, key);
  *value = fallback;
  if (!member || json_is_null(member)) return BPDQ_OK;
  if (!json_is_boolean(member)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "'%s' is neither true nor false", key);
  *value = json_is_true(member);
  return BPDQ_OK;
}

bpdq_status bpdq_json_string(const json_t *object, const char *key, bpdq_slice *value, bpdq_error *error) {
  const json_t *member = json_object_get(object, key);
  *value = (bpdq_slice){0};
  if (!member || json_is_null(member)) return BPDQ_OK;
  if (!json_is_string(member)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "'%s' is not a string", key);
  *value = (bpdq_slice){json_string_value(member), json_string_length(member)};
  return BPDQ_OK;
}

/* ---- what a BPE model may say that is not done here ---- */

static bpdq_status refuse_settings(const json_t *object, bpdq_error *error) {
  bpdq_slice type, value;
  const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
  BPDQ_TRY(bpdq_json_string(object, "type", &type, error));
  if (type.data && strcmp(type.data, "BPE") != 0)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the model type '%.60s' is not supported, only BPE is", type.data);
  for (int i = 0; i < 2; i++) {
    BPDQ_TRY(bpdq_json_string(object, affixes[i], &value, error));
    if (value.length) return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "a BPE model with '%s' is not supported", affixes[i]);
  }
  const json_t *dropout = json_object_get(object, "dropout");
  if (dropout && !json_is_null(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0))
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "a BPE model with dropout is not supported; set it to null");
  return BPDQ_OK;
}

/* ---- vocabulary ---- */

static bpdq_status load_vocabulary(const json_t *object, int64_t vocab_size, uint64_t seed, bpdq_string_table *table, bpdq_error *error) {
  if (!json_is_object(object)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the BPE model has no object 'vocab'");
  size_t bytes = 0;
  const char *key;
  size_t length;
  json_t *id;
  json_object_keylen_foreach((json_t *)object, key, length, id) bytes += length;
  if (!bpdq_string_table_create(table, json_object_size(object), bytes, seed)) return bpdq_out_of_memory(error);
  json_object_keylen_foreach((json_t *)object, key, length, id) {
    if (!json_is_integer(id)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the id of the token '%.100s' is not an integer", key);
    long long value = json_integer_value(id);
    if (value < 0 || value >= vocab_size)
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the token '%.100s' has id %lld, but the model has ids 0 to %lld", key, value,
                       (long long)vocab_size - 1);
    bpdq_string_table_insert(table, key, length, (int32_t)value);
  }
  return BPDQ_OK;
}

/* ---- merges: "left right" or ["left", "right"] ---- */

static bpdq_status merge_parts(const json_t *entry, size_t rank, bpdq_slice *left, bpdq_slice *right, bpdq_error *error) {
  if (json_is_array(entry) && json_array_size(entry) == 2 && json_is_string(json_array_get(entry, 0)) &&
      json_is_string(json_array_get(entry, 1))) {
    *left = (bpdq_slice){json_string_value(json_array_get(entry, 0)), json_string_length(json_array_get(entry, 0))};
    *right = (bpdq_slice){json_string_value(json_array_get(entry, 1)), json_string_length(json_array_get(entry, 1))};
    return BPDQ_OK;
  }
  if (json_is_string(entry)) {
    const char *text = json_string_value(entry);
    size_t length = json_string_length(entry);
    const char *blank = memchr(text, ' ', length);
    if (blank && !memchr(blank + 1, ' ', length - (size_t)(blank + 1 - text))) {
      *left = (bpdq_slice){text, (size_t)(blank - text)};
      *right = (bpdq_slice){blank + 1, length - (size_t)(blank + 1 - text)};
      return BPDQ_OK;
    }
  }
  return bpdq_fail(error, BPDQ_ERROR_FORMAT, "merge %zu is neither \"left right\" nor [\"left\", \"right\"]", rank);
}

static bpdq_status token_of_merge(const bpdq_string_table *vocabulary, bpdq_slice token, size_t rank, int32_t *id, bpdq_error *error) {
  *id = bpdq_string_table_find(vocabulary, token.data, token.length);
  if (*id >= 0) return BPDQ_OK;
  return bpdq_fail(error, BPDQ_ERROR_FORMAT, "merge %zu needs the token '%.*s', which is not in the vocabulary", rank,
                   (int)(token.length > 100 ? 100 : token.length), token.data);
}

static int32_t id_of_character(const bpdq_bpe_model *model, const char *character) {
  size_t size;
  uint32_t codepoint = bpdq_utf8_decode(character, &size);
  return codepoint < BPDQ_DIRECT_CHARACTERS ? model->character_ids[codepoint] : bpdq_string_table_find(&model->vocabulary, character, size);
}

/* A byte token is one symbol, though it is written with six characters. */
static bool is_byte_token(bpdq_slice token) { return token.length == 6 && !memcmp(token.data, "<0x", 3); }

static void note_junction(bpdq_bpe_model *model, bpdq_slice left, bpdq_slice right) {
  if (!left.length || !right.length || is_byte_token(left) || is_byte_token(right)) {
    model->cuttable = false;
    return;
  }
  const char *last = left.data + left.length - 1;
  while (last > left.data && ((uint8_t)*last & 0xc0) == 0x80) last--;
  int32_t before = id_of_character(model, last), after = id_of_character(model, right.data);
  if (before >= 0 && after >= 0) bpdq_merge_table_insert(&model->junctions, before, after, 0, 0);
}

static bpdq_status load_merge(bpdq_bpe_model *model, const json_t *entry, size_t rank, bpdq_text *joined, bpdq_error *error) {
  bpdq_slice left, right;
  int32_t left_id, right_id, result;
  BPDQ_TRY(merge_parts(entry, rank, &left, &right, error));
  BPDQ_TRY(token_of_merge(&model->vocabulary, left, rank, &left_id, error));
  BPDQ_TRY(token_of_merge(&model->vocabulary, right, rank, &right_id, error));
  joined->length = 0;
  if (!bpdq_text_append(joined, left.data, left.length) || !bpdq_text_append(joined, right.data, right.length))
    return bpdq_out_of_memory(error);
  BPDQ_TRY(token_of_merge(&model->vocabulary, (bpdq_slice){joined->data, joined->length}, rank, &result, error));
  bpdq_merge_table_insert(&model->merges, left_id, right_id, (uint32_t)rank, result);
  note_junction(model, left, right);
  return BPDQ_OK;
}

static bool is_version_line(const json_t *entry) { return json_is_string(entry) && !strncmp(json_string_value(entry), "#version", 8); }

static bpdq_status load_merges(const json_t *array, uint64_t seed, bpdq_bpe_model *model, bpdq_error *error) {
  if (!json_is_array(array)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the BPE model has no array 'merges'");
  size_t count = json_array_size(array), rank = 0;
  if (!bpdq_merge_table_create(&model->merges, count, seed) || !bpdq_merge_table_create(&model->junctions, count, seed))
    return bpdq_out_of_memory(error);
  model->cuttable = true;
  bpdq_text joined = {0};
  bpdq_status status = BPDQ_OK;
  for (size_t i = 0; i < count && status == BPDQ_OK; i++) {
    const json_t *entry = json_array_get(array, i);
    if (!is_version_line(entry)) status = load_merge(model, entry, rank++, &joined, error);
  }
  bpdq_text_free(&joined);
  return status;
}

/* ---- the model ---- */

static void index_characters(bpdq_bpe_model *model) {
  for (uint32_t codepoint = 0; codepoint < BPDQ_DIRECT_CHARACTERS; codepoint++) {
    char text[4];
    model->character_ids[codepoint] = bpdq_string_table_find(&model->vocabulary, text, bpdq_utf8_encode(codepoint, text));
  }
  for (int byte = 0; byte < 256; byte++) {
    char text[8];
    snprintf(text, sizeof text, "<0x%02X>", byte);
    model->byte_ids[byte] = bpdq_string_table_find(&model->vocabulary, text, 6);
  }
}

bpdq_status bpdq_load_bpe_model(const json_t *object, int64_t vocab_size, uint64_t seed, bpdq_bpe_model *model, bpdq_error *error) {
  if (!json_is_object(object)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "there is no object 'model'");
  bpdq_slice unknown;
  BPDQ_TRY(refuse_settings(object, error));
  BPDQ_TRY(bpdq_json_bool(object, "byte_fallback", false, &model->byte_fallback, error));
  BPDQ_TRY(bpdq_json_bool(object, "fuse_unk", false, &model->fuse_unknown, error));
  BPDQ_TRY(bpdq_json_bool(object, "ignore_merges", false, &model->ignore_merges, error));
  BPDQ_TRY(bpdq_json_string(object, "unk_token", &unknown, error));
  BPDQ_TRY(load_vocabulary(json_object_get(object, "vocab"), vocab_size, seed, &model->vocabulary, error));
  index_characters(model);
  BPDQ_TRY(load_merges(json_object_get(object, "merges"), seed, model, error));
  model->unknown_id = -1;
  if (!unknown.data) return BPDQ_OK;
  model->unknown_token = strdup(unknown.data);
  if (!model->unknown_token) return bpdq_out_of_memory(error);
  model->unknown_id = bpdq_string_table_find(&model->vocabulary, unknown.data, unknown.length);
  return BPDQ_OK;
}
