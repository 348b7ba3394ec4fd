/* Added tokens: texts that are ids by themselves wherever they are written, before BPE sees anything. */
#include <string.h>

#include "format/tokenizer_internal.h"

enum { LONGEST_ADDED_TOKEN = 1024 };

/* ---- sets of literals ---- */

static int compare_slices(bpdq_slice a, bpdq_slice b) {
  int order = memcmp(a.data, b.data, a.length < b.length ? a.length : b.length);
  return order ? order : (a.length > b.length) - (a.length < b.length);
}

static int compare_literals(const void *a, const void *b) {
  const bpdq_literal *first = a, *second = b;
  int order = compare_slices(first->text, second->text);
  return order ? order : (first->token > second->token) - (first->token < second->token);
}

/* Tokens that the normalizer makes equal: the library's choice differs from run to run (it walks a hash map); here the last one of the
 * file counts, special tokens before the others. */
static bool comes_later(const bpdq_added_token *tokens, const bpdq_literal *a, const bpdq_literal *b) {
  bool first = tokens[a->token].special, second = tokens[b->token].special;
  return first != second ? second : a->token > b->token;
}

static void finish_literals(bpdq_literal_set *set, const bpdq_added_token *tokens) {
  if (set->count > 1) qsort(set->literals, set->count, sizeof *set->literals, compare_literals);
  size_t kept = 0;
  for (size_t i = 0; i < set->count; i++) {
    bpdq_literal *last = kept ? &set->literals[kept - 1] : NULL;
    if (!last || compare_slices(last->text, set->literals[i].text))
      set->literals[kept++] = set->literals[i];
    else if (comes_later(tokens, &set->literals[i], last))
      *last = set->literals[i];
  }
  set->count = kept;
  size_t next = 0;
  for (int byte = 0; byte < 256; byte++) {
    set->first_byte[byte] = (uint32_t)next;
    while (next < kept && (uint8_t)set->literals[next].text.data[0] == byte) next++;
  }
  set->first_byte[256] = (uint32_t)kept;
}

/* The longest literal at the start of text, or NULL: the sorted list is narrowed to those with the same beginning, byte by byte. */
static const bpdq_literal *longest_at(const bpdq_literal_set *set, const char *text, size_t length) {
  size_t low = set->first_byte[(uint8_t)text[0]], high = set->first_byte[(uint8_t)text[0] + 1];
  const bpdq_literal *longest = NULL;
  for (size_t depth = 1; low < high; depth++) {
    if (set->literals[low].text.length == depth) longest = &set->literals[low++];
    if (depth == length) break;
    uint8_t byte = (uint8_t)text[depth];
    size_t from = low, to = high;
    while (from < to) {
      size_t middle = from + (to - from) / 2;
      if ((uint8_t)set->literals[middle].text.data[depth] < byte)
        from = middle + 1;
      else
        to = middle;
    }
    low = from;
    to = high;
    while (from < to) {
      size_t middle = from + (to - from) / 2;
      if ((uint8_t)set->literals[middle].text.data[depth] <= byte)
        from = middle + 1;
      else
        to = middle;
    }
    high = from;
  }
  return longest;
}

/* ---- loading ---- */

static bpdq_status read_token(const json_t *object, bpdq_added_token *token, bpdq_error *error) {
  bpdq_slice content;
  if (!json_is_object(object)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "an entry of added_tokens is not an object");
  BPDQ_TRY(bpdq_json_string(object, "content", &content, error));
  if (!content.data) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "an entry of added_tokens has no content");
  if (content.length > LONGEST_ADDED_TOKEN)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the added token '%.40s...' has %zu bytes; the limit is %d", content.data, content.length,
                     LONGEST_ADDED_TOKEN);
  if (!json_is_integer(json_object_get(object, "id")))
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the added token '%.100s' has no integer id", content.data);
  BPDQ_TRY(bpdq_json_bool(object, "single_word", false, &token->single_word, error));
  BPDQ_TRY(bpdq_json_bool(object, "lstrip", false, &token->lstrip, error));
  BPDQ_TRY(bpdq_json_bool(object, "rstrip", false, &token->rstrip, error));
  BPDQ_TRY(bpdq_json_bool(object, "normalized", true, &token->normalized, error));
  BPDQ_TRY(bpdq_json_bool(object, "special", false, &token->special, error));
  token->length = content.length;
  token->content = malloc(content.length + 1); /* may hold a NUL inside */
  if (!token->content) return bpdq_out_of_memory(error);
  memcpy(token->content, content.data, content.length + 1);
  return BPDQ_OK;
}

/* The library does not take the id that the file states: a token of the vocabulary keeps its id, any other one gets the size of the
 * vocabulary or the number behind the largest added id. */
static int64_t assigned_id(const bpdq_bpe_model *model, const bpdq_added_token *token, int64_t largest) {
  int32_t known = bpdq_string_table_find(&model->vocabulary, token->content, token->length);
  if (known >= 0) return known;
  int64_t size = (int64_t)model->vocabulary.count;
  return largest >= size || (!size && largest >= 0) ? largest + 1 : size;
}

static bool same_settings(const bpdq_added_token *a, const bpdq_added_token *b) {
  return a->single_word == b->single_word && a->lstrip == b->lstrip && a->rstrip == b->rstrip && a->normalized == b->normalized &&
         a->special == b->special;
}

static bpdq_status read_tokens(const json_t *array, const bpdq_bpe_model *model, int64_t vocab_size, uint64_t seed,
                               bpdq_added_tokens *added, bpdq_error *error) {
  size_t count = json_array_size(array), bytes = 0;
  for (size_t i = 0; i < count; i++) bytes += json_string_length(json_object_get(json_array_get(array, i), "content"));
  added->tokens = calloc(count ? count : 1, sizeof *added->tokens);
  if (!added->tokens || !bpdq_string_table_create(&added->by_content, count, bytes, seed)) return bpdq_out_of_memory(error);
  int64_t largest = -1;
  for (size_t i = 0; i < count; i++) {
    bpdq_added_token *token = &added->tokens[added->count];
    bpdq_status status = read_token(json_array_get(array, i), token, error);
    int32_t known = status == BPDQ_OK ? bpdq_string_table_find(&added->by_content, token->content, token->length) : -1;
    if (known >= 0 && !same_settings(token, &added->tokens[known]))
      status = bpdq_fail(error, BPDQ_ERROR_FORMAT, "the added token '%.100s' is listed twice with different settings", token->content);
    if (status != BPDQ_OK || known >= 0 || !token->length) {
      free(token->content);
      *token = (bpdq_added_token){0};
      if (status != BPDQ_OK) return status;
      continue;
    }
    int64_t id = assigned_id(model, token, largest);
    bpdq_string_table_insert(&added->by_content, token->content, token->length, (int32_t)added->count++);
    if (id >= vocab_size)
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the added token '%.100s' has id %lld, but the model's vocabulary ends at %lld",
                       token->content, (long long)id, (long long)vocab_size);
    token->id = (int32_t)id;
    if (id > largest) largest = id;
  }
  return BPDQ_OK;
}

/* Normalized tokens are looked for in normalized text, so their own contents are normalized too. */
static bpdq_status build_normalized_set(bpdq_added_tokens *added, const bpdq_normalizer_list *normalizers, bpdq_error *error) {
  bpdq_literal_set *set = &added->normalized;
  bpdq_text result = {0}, scratch = {0};
  size_t *starts = bpdq_alloc_array(added->count + 1, sizeof *starts);
  if (!starts) return bpdq_out_of_memory(error);
  bpdq_status status = BPDQ_OK;
  for (size_t i = 0; i < added->count && status == BPDQ_OK; i++) {
    const bpdq_added_token *token = &added->tokens[i];
    starts[i] = set->normalized_text.length;
    if (!token->normalized) continue;
    status = bpdq_normalize(normalizers, token->content, token->length, &result, &scratch, error);
    if (status == BPDQ_OK && !bpdq_text_append(&set->normalized_text, result.data, result.length)) status = bpdq_out_of_memory(error);
  }
  for (size_t i = 0; i < added->count && status == BPDQ_OK; i++) {
    size_t end = i + 1 < added->count ? starts[i + 1] : set->normalized_text.length;
    bpdq_added_token *token = &added->tokens[i];
    token->text = (bpdq_slice){token->content, token->length};
    if (!token->normalized) continue;
    token->text = (bpdq_slice){set->normalized_text.data ? set->normalized_text.data + starts[i] : "", end - starts[i]};
    if (token->text.length) set->literals[set->count++] = (bpdq_literal){.text = token->text, .token = (uint32_t)i};
  }
  free(starts);
  bpdq_text_free(&result);
  bpdq_text_free(&scratch);
  return status;
}

bpdq_status bpdq_added_tokens_load(const json_t *array, const bpdq_bpe_model *model, const bpdq_normalizer_list *normalizers,
                                   int64_t vocab_size, uint64_t seed, bpdq_added_tokens *added, bpdq_error *error) {
  if (array && !json_is_null(array) && !json_is_array(array)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "added_tokens is not an array");
  BPDQ_TRY(read_tokens(array, model, vocab_size, seed, added, error));
  added->raw.literals = bpdq_alloc_array(added->count, sizeof *added->raw.literals);
  added->normalized.literals = bpdq_alloc_array(added->count, sizeof *added->normalized.literals);
  if (!added->raw.literals || !added->normalized.literals) return bpdq_out_of_memory(error);
  for (size_t i = 0; i < added->count; i++) {
    const bpdq_added_token *token = &added->tokens[i];
    if (!token->normalized)
      added->raw.literals[added->raw.count++] = (bpdq_literal){.text = {token->content, token->length}, .token = (uint32_t)i};
  }
  BPDQ_TRY(build_normalized_set(added, normalizers, error));
  finish_literals(&added->raw, added->tokens);
  finish_literals(&added->normalized, added->tokens);
  return BPDQ_OK;
}

void bpdq_added_tokens_free(bpdq_added_tokens *added) {
  for (size_t i = 0; i < added->count; i++) free(added->tokens[i].content);
  free(added->tokens);
  bpdq_string_table_free(&added->by_content);
  free(added->raw.literals);
  free(added->normalized.literals);
  bpdq_text_free(&added->normalized.normalized_text);
  *added = (bpdq_added_tokens){0};
}

/* ---- splitting ---- */

static bool add_segment(bpdq_segment_list *list, size_t start, size_t end, const bpdq_added_token *token) {
  if (end <= start) return true;
  if (list->count == list->capacity) {
    size_t capacity = list->capacity ? list->capacity * 2 : 16;
    bpdq_segment *segments = capacity <= SIZE_MAX / sizeof *segments ? realloc(list->segments, capacity * sizeof *segments) : NULL;
    if (!segments) return false;
    list->segments = segments;
    list->capacity = capacity;
  }
  list->segments[list->count++] = (bpdq_segment){.start = start, .end = end, .token = token};
  return true;
}

/* Start of the last character before `at`. */
static size_t step_back(const char *text, size_t at) {
  at--;
  while (at && ((uint8_t)text[at] & 0xc0) == 0x80) at--;
  return at;
}

static bool word_before(const char *text, size_t at) {
  size_t size;
  return at && bpdq_is_word_character(bpdq_utf8_decode(text + step_back(text, at), &size));
}

static bool word_after(const char *text, size_t length, size_t at) {
  size_t size;
  return at < length && bpdq_is_word_character(bpdq_utf8_decode(text + at, &size));
}

/* Where the blanks before `at` start, but not before `done`. */
static size_t blanks_start(const char *text, size_t done, size_t at) {
  size_t size;
  if (at < done) return done;
  while (at > done) {
    size_t before = step_back(text, at);
    if (!bpdq_is_white_space(bpdq_utf8_decode(text + before, &size))) break;
    at = before;
  }
  return at;
}

static size_t blanks_end(const char *text, size_t length, size_t at) {
  for (size_t size; at < length && bpdq_is_white_space(bpdq_utf8_decode(text + at, &size)); at += size) continue;
  return at;
}

/* Matches are found leftmost-longest and without overlap first; single_word then discards some and lstrip and rstrip widen others, so that
 * a widened token can reach over the next one: the library then gives both, and so does this. */
bool bpdq_split_added_tokens(const bpdq_added_tokens *added, const bpdq_literal_set *set, const char *text, size_t length,
                             bpdq_segment_list *list) {
  size_t done = 0;
  bpdq_segment blanks = {.start = SIZE_MAX}; /* the last run looked at, so that a run of blank tokens is not scanned again and again */
  list->count = 0;
  for (size_t at = 0; set->count && at < length;) {
    const bpdq_literal *literal = longest_at(set, text + at, length - at);
    if (!literal) {
      at++;
      continue;
    }
    const bpdq_added_token *token = &added->tokens[literal->token];
    size_t start = at, end = at + literal->text.length;
    at = end;
    if (token->single_word && (word_before(text, start) || word_after(text, length, end))) continue;
    if (token->lstrip) start = blanks_start(text, done, start);
    if (token->rstrip) {
      if (end < blanks.start || end > blanks.end) blanks = (bpdq_segment){.start = end, .end = blanks_end(text, length, end)};
      end = blanks.end;
    }
    if (!add_segment(list, done, start, NULL) || !add_segment(list, start, end, token)) return false;
    done = end;
  }
  return done >= length || add_segment(list, done, length, NULL);
}
