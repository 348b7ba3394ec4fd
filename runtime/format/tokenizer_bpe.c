/* Byte-pair encoding of one word: characters to symbols, then the adjacent pair with the lowest rank (the leftmost of equals) is merged
 * until none is left. */
#include <string.h>

#include "format/tokenizer_internal.h"

/* Up to here a plain search for the lowest rank beats a heap. */
enum { SHORT_WORD = 40 };

/* One word of the cache; longer words and results are not kept. */
enum { CACHED_BYTES = 32, CACHED_IDS = 12, CACHE_SLOTS = 8192 };
typedef struct cached_word {
  uint8_t length, count; /* length 0: empty slot */
  char bytes[CACHED_BYTES];
  int32_t ids[CACHED_IDS];
} cached_word;

/* A symbol of a long word, in a doubly linked list over an array. */
typedef struct symbol {
  int32_t id; /* -1: merged away */
  uint32_t previous, next;
} symbol;

typedef struct candidate {
  uint32_t rank, position;
  int32_t result;
} candidate;

struct bpdq_bpe_scratch {
  bpdq_id_list initial; /* ids of the characters of the current word */
  symbol *symbols;      /* [symbol_capacity] */
  candidate *heap;      /* [3 * symbol_capacity]: n - 1 pairs at the start, two more per merge */
  size_t symbol_capacity;
  cached_word *cache; /* [CACHE_SLOTS] or NULL */
};

static const uint32_t NOWHERE = UINT32_MAX;

bpdq_bpe_scratch *bpdq_bpe_scratch_create(size_t text_length) {
  bpdq_bpe_scratch *scratch = calloc(1, sizeof *scratch);
  if (!scratch) return NULL;
  if (text_length >= 8192) {
    scratch->cache = calloc(CACHE_SLOTS, sizeof *scratch->cache);
    if (!scratch->cache) {
      free(scratch);
      return NULL;
    }
  }
  return scratch;
}

void bpdq_bpe_scratch_free(bpdq_bpe_scratch *scratch) {
  if (!scratch) return;
  bpdq_id_list_free(&scratch->initial);
  free(scratch->symbols);
  free(scratch->heap);
  free(scratch->cache);
  free(scratch);
}

/* ---- characters to symbols ---- */

static bool bytes_of_character(const bpdq_bpe_model *model, const char *character, size_t size, int32_t ids[4]) {
  for (size_t i = 0; i < size; i++) {
    ids[i] = model->byte_ids[(uint8_t)character[i]];
    if (ids[i] < 0) return false;
  }
  return true;
}

static int32_t character_id(const bpdq_bpe_model *model, const char *character, size_t size, uint32_t codepoint) {
  if (codepoint < BPDQ_DIRECT_CHARACTERS) return model->character_ids[codepoint];
  return bpdq_string_table_find(&model->vocabulary, character, size);
}

/* An unknown symbol waits until the next known character (fuse_unk joins neighbours); bytes of a fallback overtake it, as they do in the
 * Python library. Unknown characters vanish where the model has no unknown token. */
static bpdq_status initial_symbols(const bpdq_bpe_model *model, const char *word, size_t length, bpdq_id_list *ids, bpdq_error *error) {
  bool unknown_waits = false;
  ids->count = 0;
  for (size_t at = 0, size; at < length; at += size) {
    uint32_t codepoint = bpdq_utf8_decode(word + at, &size);
    int32_t id = character_id(model, word + at, size, codepoint);
    if (id >= 0) {
      if (unknown_waits && !bpdq_id_list_append(ids, &model->unknown_id, 1)) return bpdq_out_of_memory(error);
      unknown_waits = false;
      if (!bpdq_id_list_append(ids, &id, 1)) return bpdq_out_of_memory(error);
      continue;
    }
    int32_t bytes[4];
    if (model->byte_fallback && bytes_of_character(model, word + at, size, bytes)) {
      if (!bpdq_id_list_append(ids, bytes, size)) return bpdq_out_of_memory(error);
      continue;
    }
    if (!model->unknown_token) continue;
    if (model->unknown_id < 0)
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the text needs the unknown token '%s', which is not in the tokenizer's vocabulary",
                       model->unknown_token);
    if (unknown_waits && !model->fuse_unknown && !bpdq_id_list_append(ids, &model->unknown_id, 1)) return bpdq_out_of_memory(error);
    unknown_waits = true;
  }
  if (unknown_waits && !bpdq_id_list_append(ids, &model->unknown_id, 1)) return bpdq_out_of_memory(error);
  return BPDQ_OK;
}

/* ---- merging ---- */

static size_t merge_short(const bpdq_merge_table *merges, int32_t *ids, size_t count) {
  const bpdq_merge *pairs[SHORT_WORD]; /* pairs[i]: the merge of ids[i] and ids[i + 1], or NULL */
  for (size_t i = 0; i + 1 < count; i++) pairs[i] = bpdq_merge_find(merges, ids[i], ids[i + 1]);
  while (count > 1) {
    size_t best = count;
    uint32_t rank = UINT32_MAX;
    for (size_t i = 0; i + 1 < count; i++) {
      if (pairs[i] && pairs[i]->rank < rank) {
        rank = pairs[i]->rank;
        best = i;
      }
    }
    if (best == count) break;
    ids[best] = pairs[best]->result;
    count--;
    memmove(ids + best + 1, ids + best + 2, (count - best - 1) * sizeof *ids);
    if (best + 1 < count) {
      memmove(pairs + best + 1, pairs + best + 2, (count - best - 2) * sizeof *pairs);
      pairs[best] = bpdq_merge_find(merges, ids[best], ids[best + 1]);
    }
    if (best) pairs[best - 1] = bpdq_merge_find(merges, ids[best - 1], ids[best]);
  }
  return count;
}

static bool comes_before(const candidate *a, const candidate *b) {
  return a->rank != b->rank ? a->rank < b->rank : a->position < b->position;
}

static void heap_push(candidate *heap, size_t *count, candidate item) {
  size_t at = (*count)++;
  while (at && comes_before(&item, &heap[(at - 1) / 2])) {
    heap[at] = heap[(at - 1) / 2];
    at = (at - 1) / 2;
  }
  heap[at] = item;
}

static candidate heap_pop(candidate *heap, size_t *count) {
  candidate top = heap[0], item = heap[--*count];
  size_t at = 0;
  for (size_t child; (child = 2 * at + 1) < *count; at = child) {
    if (child + 1 < *count && comes_before(&heap[child + 1], &heap[child])) child++;
    if (!comes_before(&heap[child], &item)) break;
    heap[at] = heap[child];
  }
  heap[at] = item;
  return top;
}

static void push_pair(const bpdq_merge_table *merges, const symbol *symbols, uint32_t position, candidate *heap, size_t *count) {
  if (position == NOWHERE || symbols[position].next == NOWHERE) return;
  const bpdq_merge *merge = bpdq_merge_find(merges, symbols[position].id, symbols[symbols[position].next].id);
  if (merge) heap_push(heap, count, (candidate){.rank = merge->rank, .position = position, .result = merge->result});
}

static bool reserve_symbols(bpdq_bpe_scratch *scratch, size_t count) {
  if (count <= scratch->symbol_capacity) return true;
  free(scratch->symbols);
  free(scratch->heap);
  scratch->symbol_capacity = 0;
  scratch->symbols = bpdq_alloc_array(count, sizeof *scratch->symbols);
  scratch->heap = count <= SIZE_MAX / 3 ? bpdq_alloc_array(3 * count, sizeof *scratch->heap) : NULL;
  if (!scratch->symbols || !scratch->heap) return false;
  scratch->symbol_capacity = count;
  return true;
}

/* O(n log n): a heap of candidates, where one that its neighbourhood has outlived is recognized when it comes up. */
static bpdq_status merge_long(const bpdq_merge_table *merges, bpdq_bpe_scratch *scratch, int32_t *ids, size_t *count, bpdq_error *error) {
  if (*count >= NOWHERE) return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "a word of the text has more than 4 billion characters; shorten it");
  if (!reserve_symbols(scratch, *count)) return bpdq_out_of_memory(error);
  symbol *symbols = scratch->symbols;
  size_t candidates = 0;
  for (uint32_t i = 0; i < *count; i++)
    symbols[i] = (symbol){.id = ids[i], .previous = i ? i - 1 : NOWHERE, .next = i + 1 < *count ? i + 1 : NOWHERE};
  for (uint32_t i = 0; i < *count; i++) push_pair(merges, symbols, i, scratch->heap, &candidates);
  while (candidates) {
    candidate top = heap_pop(scratch->heap, &candidates);
    symbol *left = &symbols[top.position];
    if (left->id < 0 || left->next == NOWHERE) continue;
    symbol *right = &symbols[left->next];
    const bpdq_merge *merge = bpdq_merge_find(merges, left->id, right->id);
    if (!merge || merge->result != top.result) continue;
    left->id = top.result;
    left->next = right->next;
    right->id = -1;
    if (left->next != NOWHERE) symbols[left->next].previous = top.position;
    push_pair(merges, symbols, left->previous, scratch->heap, &candidates);
    push_pair(merges, symbols, top.position, scratch->heap, &candidates);
  }
  size_t kept = 0;
  for (uint32_t i = 0; i != NOWHERE; i = symbols[i].next) ids[kept++] = symbols[i].id;
  *count = kept;
  return BPDQ_OK;
}

/* ---- words ---- */

static bpdq_status encode_uncached(const bpdq_bpe_model *model, bpdq_bpe_scratch *scratch, const char *word, size_t length,
                                   bpdq_error *error) {
  bpdq_id_list *ids = &scratch->initial;
  BPDQ_TRY(initial_symbols(model, word, length, ids, error));
  if (ids->count > SHORT_WORD) return merge_long(&model->merges, scratch, ids->ids, &ids->count, error);
  ids->count = merge_short(&model->merges, ids->ids, ids->count);
  return BPDQ_OK;
}

static bpdq_status encode_piece(const bpdq_bpe_model *model, bpdq_bpe_scratch *scratch, const char *word, size_t length, bpdq_id_list *ids,
                                bpdq_error *error) {
  cached_word *cached = NULL;
  if (scratch->cache && length <= CACHED_BYTES) {
    cached = &scratch->cache[bpdq_hash_bytes(word, length, model->vocabulary.seed) % CACHE_SLOTS];
    if (cached->length == length && !memcmp(cached->bytes, word, length))
      return bpdq_id_list_append(ids, cached->ids, cached->count) ? BPDQ_OK : bpdq_out_of_memory(error);
  }
  BPDQ_TRY(encode_uncached(model, scratch, word, length, error));
  const bpdq_id_list *result = &scratch->initial;
  if (cached && result->count <= CACHED_IDS) {
    cached->length = (uint8_t)length;
    cached->count = (uint8_t)result->count;
    memcpy(cached->bytes, word, length);
    if (result->count) memcpy(cached->ids, result->ids, result->count * sizeof *result->ids);
  }
  return bpdq_id_list_append(ids, result->ids, result->count) ? BPDQ_OK : bpdq_out_of_memory(error);
}

bpdq_status bpdq_bpe_encode_word(const bpdq_bpe_model *model, bpdq_bpe_scratch *scratch, const char *word, size_t length, bpdq_id_list *ids,
                                 bpdq_error *error) {
  if (!length) return BPDQ_OK;
  if (model->ignore_merges) {
    int32_t id = bpdq_string_table_find(&model->vocabulary, word, length);
    if (id >= 0) return bpdq_id_list_append(ids, &id, 1) ? BPDQ_OK : bpdq_out_of_memory(error);
  }
  if (length <= CACHED_BYTES || !model->cuttable) return encode_piece(model, scratch, word, length, ids, error);
  /* SentencePiece-style models get whole texts as one word: cut it where no merge can reach across. Both sides must be known characters,
   * since unknown ones are joined across whatever is between them. */
  size_t start = 0, size;
  int32_t previous = -1;
  for (size_t at = 0; at < length; at += size) {
    uint32_t codepoint = bpdq_utf8_decode(word + at, &size);
    int32_t current = character_id(model, word + at, size, codepoint);
    if (previous >= 0 && current >= 0 && !bpdq_merge_find(&model->junctions, previous, current)) {
      BPDQ_TRY(encode_piece(model, scratch, word + start, at - start, ids, error));
      start = at;
    }
    previous = current;
  }
  return encode_piece(model, scratch, word + start, length - start, ids, error);
}
