/* The normalizer, pre-tokenizer, decoder and post-processor of a tokenizer.json: what is not implemented is refused by its name. */
#include <string.h>

#include "format/tokenizer_internal.h"

enum { LONGEST_LITERAL = 1024, MOST_STEPS = 64 };

static const char GPT2_EXPRESSION[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* ---- shared ---- */

/* A stage is null, one object, or a Sequence of objects (in "normalizers", "pretokenizers", ...), possibly nested: `visit` sees the leaves
 * in order. */
typedef bpdq_status (*leaf_visitor)(const json_t *object, const char *type, void *list, bpdq_error *error);

static bpdq_status visit_leaves(const json_t *object, const char *stage, const char *members, int depth, leaf_visitor visit, void *list,
                                bpdq_error *error) {
  if (!object || json_is_null(object)) return BPDQ_OK;
  bpdq_slice type;
  if (!json_is_object(object)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the %s is not an object", stage);
  BPDQ_TRY(bpdq_json_string(object, "type", &type, error));
  if (!type.data) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the %s has no type", stage);
  if (strcmp(type.data, "Sequence") != 0) return visit(object, type.data, list, error);
  const json_t *array = json_object_get(object, members);
  if (!json_is_array(array)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the %s Sequence has no array '%s'", stage, members);
  if (depth == 4) return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the %s nests Sequences more than 4 deep", stage);
  for (size_t i = 0; i < json_array_size(array); i++)
    BPDQ_TRY(visit_leaves(json_array_get(array, i), stage, members, depth + 1, visit, list, error));
  return BPDQ_OK;
}

/* Makes room for one more zeroed step. */
static bpdq_status grow_steps(void **steps, size_t count, size_t size, const char *stage, bpdq_error *error) {
  if (count >= MOST_STEPS) return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the %s has more than %d steps", stage, MOST_STEPS);
  if (!*steps) *steps = calloc(MOST_STEPS, size);
  return *steps ? BPDQ_OK : bpdq_out_of_memory(error);
}

static bpdq_status copy_string(bpdq_slice slice, char **copy, size_t *length, bpdq_error *error) {
  *copy = malloc(slice.length + 1);
  if (!*copy) return bpdq_out_of_memory(error);
  if (slice.length) memcpy(*copy, slice.data, slice.length);
  (*copy)[slice.length] = 0;
  if (length) *length = slice.length;
  return BPDQ_OK;
}

/* {"String": ...} or {"Regex": ...} */
static bpdq_status read_pattern(const json_t *object, const char *stage, bpdq_slice *literal, bpdq_slice *expression, bpdq_error *error) {
  const json_t *pattern = json_object_get(object, "pattern");
  BPDQ_TRY(bpdq_json_string(pattern, "String", literal, error));
  BPDQ_TRY(bpdq_json_string(pattern, "Regex", expression, error));
  if (!literal->data == !expression->data)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the %s has neither a pattern String nor a Regex", stage);
  return BPDQ_OK;
}

/* Of a Replace: a literal pattern and its replacement. */
static bpdq_status read_replacement(const json_t *object, const char *stage, char **pattern, size_t *pattern_length, char **content,
                                    size_t *content_length, bpdq_error *error) {
  bpdq_slice literal, expression, replacement;
  BPDQ_TRY(read_pattern(object, stage, &literal, &expression, error));
  if (expression.data) return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the %s Replace with a Regex is not supported", stage);
  if (!literal.length || literal.length > LONGEST_LITERAL)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the %s Replace has an empty pattern or one above %d bytes", stage, LONGEST_LITERAL);
  BPDQ_TRY(bpdq_json_string(object, "content", &replacement, error));
  if (!replacement.data) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the %s Replace has no content", stage);
  if (replacement.length > LONGEST_LITERAL)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the %s Replace has a content above %d bytes", stage, LONGEST_LITERAL);
  BPDQ_TRY(copy_string(literal, pattern, pattern_length, error));
  return copy_string(replacement, content, content_length, error);
}

/* One Unicode character, as Metaspace's "replacement" and Strip's "content" are. */
static bpdq_status read_character(const json_t *object, const char *key, bpdq_slice *character, bpdq_error *error) {
  size_t size = 0;
  BPDQ_TRY(bpdq_json_string(object, key, character, error));
  if (character->length) bpdq_utf8_decode(character->data, &size);
  if (!size || size != character->length) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "'%s' is not one character", key);
  return BPDQ_OK;
}

/* ---- normalizer ---- */

static bpdq_status add_normalizer(const json_t *object, const char *type, void *target, bpdq_error *error) {
  bpdq_normalizer_list *list = target;
  bpdq_slice content;
  BPDQ_TRY(grow_steps((void **)&list->steps, list->count, sizeof *list->steps, "normalizer", error));
  bpdq_normalizer *step = &list->steps[list->count++];
  if (!strcmp(type, "NFC")) {
    step->kind = BPDQ_NORMALIZE_NFC;
    return BPDQ_OK;
  }
  if (!strcmp(type, "Prepend")) {
    step->kind = BPDQ_NORMALIZE_PREPEND;
    BPDQ_TRY(bpdq_json_string(object, "prepend", &content, error));
    if (!content.data || content.length > LONGEST_LITERAL)
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the normalizer Prepend has no 'prepend' of at most %d bytes", LONGEST_LITERAL);
    return copy_string(content, &step->content, &step->content_length, error);
  }
  if (!strcmp(type, "Replace")) {
    step->kind = BPDQ_NORMALIZE_REPLACE;
    return read_replacement(object, "normalizer", &step->pattern, &step->pattern_length, &step->content, &step->content_length, error);
  }
  return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the normalizer '%.60s' is not supported", type);
}

bpdq_status bpdq_load_normalizers(const json_t *object, bpdq_normalizer_list *list, bpdq_error *error) {
  return visit_leaves(object, "normalizer", "normalizers", 0, add_normalizer, list, error);
}

/* ---- pre-tokenizer ---- */

static bpdq_status load_split(const json_t *object, bpdq_pretokenizer *step, bpdq_error *error) {
  static const char *const behaviors[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
  bpdq_slice literal, expression, behavior;
  step->kind = BPDQ_PRETOKENIZE_SPLIT;
  BPDQ_TRY(read_pattern(object, "pre-tokenizer Split", &literal, &expression, error));
  BPDQ_TRY(bpdq_json_bool(object, "invert", false, &step->invert, error));
  BPDQ_TRY(bpdq_json_string(object, "behavior", &behavior, error));
  int found = -1;
  for (int i = 0; i < 5 && behavior.data; i++) found = strcmp(behavior.data, behaviors[i]) ? found : i;
  if (found < 0)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the pre-tokenizer Split has the unknown behavior '%.60s'",
                     behavior.data ? behavior.data : "");
  step->behavior = (bpdq_split_behavior)found;
  if (expression.data) return bpdq_pattern_compile(expression.data, expression.length, &step->pattern, error);
  if (!literal.length || literal.length > LONGEST_LITERAL)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the pre-tokenizer Split has an empty String or one above %d bytes", LONGEST_LITERAL);
  return bpdq_pattern_compile_literal(literal.data, literal.length, &step->pattern, error);
}

static bpdq_status load_byte_level(const json_t *object, bpdq_pretokenizer *step, bpdq_error *error) {
  bool splits;
  step->kind = BPDQ_PRETOKENIZE_BYTE_LEVEL;
  BPDQ_TRY(bpdq_json_bool(object, "add_prefix_space", true, &step->add_prefix_space, error));
  BPDQ_TRY(bpdq_json_bool(object, "use_regex", true, &splits, error));
  return splits ? bpdq_pattern_compile(GPT2_EXPRESSION, strlen(GPT2_EXPRESSION), &step->pattern, error) : BPDQ_OK;
}

/* "prepend_scheme", or the older "add_prefix_space", which must agree with it. */
static bpdq_status read_prepend_scheme(const json_t *object, bpdq_prepend_scheme *scheme, bpdq_error *error) {
  bpdq_slice name;
  bool add_prefix_space;
  BPDQ_TRY(bpdq_json_string(object, "prepend_scheme", &name, error));
  BPDQ_TRY(bpdq_json_bool(object, "add_prefix_space", true, &add_prefix_space, error));
  if (!name.data || !strcmp(name.data, "always"))
    *scheme = BPDQ_PREPEND_ALWAYS;
  else if (!strcmp(name.data, "first"))
    *scheme = BPDQ_PREPEND_FIRST;
  else if (!strcmp(name.data, "never"))
    *scheme = BPDQ_PREPEND_NEVER;
  else
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "Metaspace has the unknown prepend_scheme '%.60s'", name.data);
  if (!add_prefix_space && *scheme != BPDQ_PREPEND_NEVER)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "Metaspace has add_prefix_space false and a prepend_scheme other than \"never\"");
  return BPDQ_OK;
}

static bpdq_status load_metaspace(const json_t *object, bpdq_pretokenizer *step, bpdq_error *error) {
  bpdq_slice replacement;
  bool splits;
  step->kind = BPDQ_PRETOKENIZE_METASPACE;
  BPDQ_TRY(read_character(object, "replacement", &replacement, error));
  BPDQ_TRY(read_prepend_scheme(object, &step->prepend_scheme, error));
  BPDQ_TRY(bpdq_json_bool(object, "split", true, &splits, error));
  memcpy(step->replacement, replacement.data, replacement.length);
  return splits ? bpdq_pattern_compile_literal(replacement.data, replacement.length, &step->pattern, error) : BPDQ_OK;
}

static bpdq_status add_pretokenizer(const json_t *object, const char *type, void *target, bpdq_error *error) {
  bpdq_pretokenizer_list *list = target;
  BPDQ_TRY(grow_steps((void **)&list->steps, list->count, sizeof *list->steps, "pre-tokenizer", error));
  bpdq_pretokenizer *step = &list->steps[list->count++];
  if (!strcmp(type, "Split")) return load_split(object, step, error);
  if (!strcmp(type, "ByteLevel")) return load_byte_level(object, step, error);
  if (!strcmp(type, "Metaspace")) return load_metaspace(object, step, error);
  return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the pre-tokenizer '%.60s' is not supported", type);
}

bpdq_status bpdq_load_pretokenizers(const json_t *object, bpdq_pretokenizer_list *list, bpdq_error *error) {
  return visit_leaves(object, "pre-tokenizer", "pretokenizers", 0, add_pretokenizer, list, error);
}

/* ---- decoder ---- */

static bpdq_status read_strip_count(const json_t *object, const char *key, size_t *count, bpdq_error *error) {
  const json_t *member = json_object_get(object, key);
  if (!json_is_integer(member) || json_integer_value(member) < 0 || json_integer_value(member) > LONGEST_LITERAL)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the decoder Strip has no '%s' from 0 to %d", key, LONGEST_LITERAL);
  *count = (size_t)json_integer_value(member);
  return BPDQ_OK;
}

static bpdq_status load_character_decoder(const json_t *object, const char *key, bpdq_decoder *step, bpdq_error *error) {
  bpdq_slice character;
  BPDQ_TRY(read_character(object, key, &character, error));
  return copy_string(character, &step->pattern, &step->pattern_length, error);
}

static bpdq_status add_decoder(const json_t *object, const char *type, void *target, bpdq_error *error) {
  bpdq_decoder_list *list = target;
  BPDQ_TRY(grow_steps((void **)&list->steps, list->count, sizeof *list->steps, "decoder", error));
  bpdq_decoder *step = &list->steps[list->count++];
  if (!strcmp(type, "ByteLevel")) {
    step->kind = BPDQ_DECODE_BYTE_LEVEL;
    return BPDQ_OK;
  }
  if (!strcmp(type, "ByteFallback")) {
    step->kind = BPDQ_DECODE_BYTE_FALLBACK;
    return BPDQ_OK;
  }
  if (!strcmp(type, "Fuse")) {
    step->kind = BPDQ_DECODE_FUSE;
    return BPDQ_OK;
  }
  if (!strcmp(type, "Replace")) {
    step->kind = BPDQ_DECODE_REPLACE;
    return read_replacement(object, "decoder", &step->pattern, &step->pattern_length, &step->content, &step->content_length, error);
  }
  if (!strcmp(type, "Strip")) {
    step->kind = BPDQ_DECODE_STRIP;
    BPDQ_TRY(read_strip_count(object, "start", &step->start, error));
    BPDQ_TRY(read_strip_count(object, "stop", &step->stop, error));
    return load_character_decoder(object, "content", step, error);
  }
  if (!strcmp(type, "Metaspace")) {
    bpdq_prepend_scheme scheme;
    step->kind = BPDQ_DECODE_METASPACE;
    BPDQ_TRY(read_prepend_scheme(object, &scheme, error));
    step->strips_first = scheme != BPDQ_PREPEND_NEVER;
    return load_character_decoder(object, "replacement", step, error);
  }
  return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the decoder '%.60s' is not supported", type);
}

/* Streaming needs each step to work on tokens as they come: ByteLevel and Fuse make one text of all tokens, so that only the Strip of
 * Llama 2 (at the start of the text) may follow. */
static bpdq_status check_decoder_order(bpdq_decoder_list *list, bpdq_error *error) {
  bool fused = false, byte_level = false, stripped = false;
  int fallbacks = 0;
  for (size_t i = 0; i < list->count; i++) {
    bpdq_decoder *step = &list->steps[i];
    bool strip = step->kind == BPDQ_DECODE_STRIP;
    fallbacks += step->kind == BPDQ_DECODE_BYTE_FALLBACK || step->kind == BPDQ_DECODE_BYTE_LEVEL;
    if (byte_level || fallbacks > 1 || (fused && (!strip || step->stop || stripped)))
      return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "step %zu of the decoder Sequence is not supported in this place", i + 1);
    step->after_fuse = fused && strip;
    stripped = stripped || step->after_fuse;
    fused = fused || step->kind == BPDQ_DECODE_FUSE;
    byte_level = step->kind == BPDQ_DECODE_BYTE_LEVEL;
  }
  return BPDQ_OK;
}

bpdq_status bpdq_load_decoders(const json_t *object, bpdq_decoder_list *list, bpdq_error *error) {
  list->present = object && !json_is_null(object);
  BPDQ_TRY(visit_leaves(object, "decoder", "decoders", 0, add_decoder, list, error));
  return check_decoder_order(list, error);
}

/* ---- post-processor ---- */

/* Appends the ids that `special_tokens` lists under this name. */
static bpdq_status append_special(const json_t *special_tokens, const char *name, int64_t vocab_size, bpdq_id_list *list,
                                  bpdq_error *error) {
  const json_t *ids = json_object_get(json_object_get(special_tokens, name), "ids");
  if (!json_is_array(ids)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the post-processor does not define its token '%.100s'", name);
  for (size_t i = 0; i < json_array_size(ids); i++) {
    const json_t *id = json_array_get(ids, i);
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab_size)
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the post-processor's token '%.100s' has an id outside of 0 to %lld", name,
                       (long long)vocab_size - 1);
    if (list->count > LONGEST_LITERAL) return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the post-processor adds more than 1024 tokens");
    if (!bpdq_id_list_append(list, &(int32_t){(int32_t)json_integer_value(id)}, 1)) return bpdq_out_of_memory(error);
  }
  return BPDQ_OK;
}

/* "single": special tokens around one Sequence A. */
static bpdq_status read_template(const json_t *object, int64_t vocab_size, bpdq_id_list *before, bpdq_id_list *after, bpdq_error *error) {
  const json_t *pieces = json_object_get(object, "single"), *special_tokens = json_object_get(object, "special_tokens");
  bool seen = false;
  if (!json_is_array(pieces)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the post-processor TemplateProcessing has no array 'single'");
  for (size_t i = 0; i < json_array_size(pieces); i++) {
    const json_t *piece = json_array_get(pieces, i);
    const json_t *special = json_object_get(piece, "SpecialToken"), *sequence = json_object_get(piece, "Sequence");
    bpdq_slice id;
    BPDQ_TRY(bpdq_json_string(special ? special : sequence, "id", &id, error));
    if (!id.data) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "entry %zu of the post-processor's 'single' is broken", i);
    if (special) {
      BPDQ_TRY(append_special(special_tokens, id.data, vocab_size, seen ? after : before, error));
      continue;
    }
    if (seen || strcmp(id.data, "A") != 0)
      return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the post-processor's 'single' must have the Sequence A once and no other");
    seen = true;
  }
  return seen ? BPDQ_OK : bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the post-processor's 'single' leaves out the Sequence A");
}

/* Processors of a Sequence work one on top of the other: a later one goes outside. ByteLevel changes offsets only. */
static bpdq_status add_post_processor(const json_t *object, const char *type, void *target, bpdq_error *error) {
  bpdq_tokenizer *tokenizer = target;
  if (!strcmp(type, "ByteLevel")) return BPDQ_OK;
  if (strcmp(type, "TemplateProcessing") != 0)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "the post-processor '%.60s' is not supported", type);
  bpdq_id_list before = {0}, after = {0};
  bpdq_status status = read_template(object, tokenizer->vocab_size, &before, &after, error);
  if (status == BPDQ_OK && (!bpdq_id_list_append(&before, tokenizer->template_prefix.ids, tokenizer->template_prefix.count) ||
                            !bpdq_id_list_append(&tokenizer->template_suffix, after.ids, after.count)))
    status = bpdq_out_of_memory(error);
  if (status == BPDQ_OK) {
    bpdq_id_list_free(&tokenizer->template_prefix);
    tokenizer->template_prefix = before;
    before = (bpdq_id_list){0};
  }
  bpdq_id_list_free(&before);
  bpdq_id_list_free(&after);
  return status;
}

bpdq_status bpdq_load_post_processor(const json_t *object, bpdq_tokenizer *tokenizer, bpdq_error *error) {
  return visit_leaves(object, "post-processor", "processors", 0, add_post_processor, tokenizer, error);
}
