/* What the tokenizer's files share. Data flow of encode():
 *
 *   text ─ valid UTF-8 ─ raw added tokens cut out ─ normalizer ─ normalized added tokens cut out ─ pre-tokenizer ─ words ─ BPE ─ ids
 *
 * All structs below are filled while loading and read-only afterwards; what changes while encoding lives in bpdq_encoder, one per call. */
#ifndef BPDQ_FORMAT_TOKENIZER_INTERNAL_H
#define BPDQ_FORMAT_TOKENIZER_INTERNAL_H

#include <jansson.h>

#include "core/checked.h"
#include "core/utf8.h"
#include "format/tokenizer.h"

/* ---- growable text and id lists (tokenizer_table.c) ---- */

typedef struct bpdq_text {
  char *data;
  size_t length, capacity;
} bpdq_text;

/* These return false when memory is exhausted; the content is then unchanged. */
bool bpdq_text_reserve(bpdq_text *text, size_t extra);
bool bpdq_text_append(bpdq_text *text, const char *bytes, size_t length);
void bpdq_text_free(bpdq_text *text);

typedef struct bpdq_id_list {
  int32_t *ids;
  size_t count, capacity;
} bpdq_id_list;

bool bpdq_id_list_append(bpdq_id_list *list, const int32_t *ids, size_t count);
void bpdq_id_list_free(bpdq_id_list *list);

/* A counted string that points into memory owned by someone else. */
typedef struct bpdq_slice {
  const char *data;
  size_t length;
} bpdq_slice;

/* ---- string -> id and (left id, right id) -> merge tables (tokenizer_table.c) ---- */

typedef struct bpdq_string_entry {
  uint32_t offset, length; /* in bytes.data */
  uint32_t hash;
  int32_t id;
} bpdq_string_entry;

/* Open addressing, at most half full; `seed` differs per load so that a crafted file cannot choose colliding keys. */
typedef struct bpdq_string_table {
  bpdq_text bytes;            /* all keys behind one another */
  bpdq_string_entry *entries; /* [capacity] */
  uint32_t *slots;            /* [2 * capacity rounded up to a power of two]: entry index + 1, 0 where empty */
  size_t count, capacity, mask;
  uint64_t seed;
} bpdq_string_table;

/* Makes room for `capacity` keys of `bytes` bytes together (below 4 GiB). */
bool bpdq_string_table_create(bpdq_string_table *table, size_t capacity, size_t bytes, uint64_t seed);
/* The key must be new and within the announced sizes. */
void bpdq_string_table_insert(bpdq_string_table *table, const char *key, size_t length, int32_t id);
int32_t bpdq_string_table_find(const bpdq_string_table *table, const char *key, size_t length); /* -1: absent */
void bpdq_string_table_free(bpdq_string_table *table);

typedef struct bpdq_merge {
  uint64_t pair; /* left id << 32 | right id; UINT64_MAX where empty */
  uint32_t rank; /* position in the list of merges: lower first */
  int32_t result;
} bpdq_merge;

typedef struct bpdq_merge_table {
  bpdq_merge *slots; /* [mask + 1] */
  uint64_t mask, seed;
} bpdq_merge_table;

bool bpdq_merge_table_create(bpdq_merge_table *table, size_t capacity, uint64_t seed);
/* A pair that is already there gets the new rank and result: the last one of a file counts. */
void bpdq_merge_table_insert(bpdq_merge_table *table, int32_t left, int32_t right, uint32_t rank, int32_t result);
void bpdq_merge_table_free(bpdq_merge_table *table);

uint64_t bpdq_hash_bytes(const char *bytes, size_t length, uint64_t seed);

static inline uint64_t bpdq_mix(uint64_t value) {
  value ^= value >> 32;
  value *= UINT64_C(0x9e3779b97f4a7c15);
  return value ^ (value >> 29);
}

/* The merge of two adjacent symbols, or NULL. In the header because it is the inner loop of BPE. */
static inline const bpdq_merge *bpdq_merge_find(const bpdq_merge_table *table, int32_t left, int32_t right) {
  uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
  for (uint64_t slot = bpdq_mix(pair ^ table->seed) & table->mask;; slot = (slot + 1) & table->mask) {
    const bpdq_merge *merge = &table->slots[slot];
    if (merge->pair == pair) return merge;
    if (merge->pair == UINT64_MAX) return NULL;
  }
}

/* ---- Unicode (tokenizer_unicode.c) ---- */

/* Of text known to be valid UTF-8, length >= 1. */
uint32_t bpdq_utf8_decode(const char *bytes, size_t *size);
size_t bpdq_utf8_encode(uint32_t codepoint, char bytes[4]);

bool bpdq_utf8_is_valid(const char *bytes, size_t length);
/* Appends with every maximal invalid sequence replaced by U+FFFD. */
bool bpdq_utf8_append_lossy(bpdq_text *out, const char *bytes, size_t length);

bool bpdq_is_white_space(uint32_t codepoint);
bool bpdq_is_word_character(uint32_t codepoint); /* \w of the Rust regex crate */

/* The regular expressions of a tokenizer.json run in Oniguruma on Unicode 16, whatever Unicode version PCRE2 has here. Where the two can
 * differ, a character is matched as a stand-in of the same UTF-8 length and of the general category that Oniguruma sees. Returns
 * `codepoint` itself almost always. */
uint32_t bpdq_match_stand_in(uint32_t codepoint);

/* Unassigned for the normalizer of the Python library: neither reordered nor composed. */
bool bpdq_is_inert_in_normalization(uint32_t codepoint);

/* ---- normalization (tokenizer_normalize.c) ---- */

typedef enum bpdq_normalizer_kind { BPDQ_NORMALIZE_NFC, BPDQ_NORMALIZE_PREPEND, BPDQ_NORMALIZE_REPLACE } bpdq_normalizer_kind;

typedef struct bpdq_normalizer {
  bpdq_normalizer_kind kind;
  char *pattern; /* REPLACE: literal text, not empty */
  size_t pattern_length;
  char *content; /* PREPEND and REPLACE */
  size_t content_length;
} bpdq_normalizer;

typedef struct bpdq_normalizer_list {
  bpdq_normalizer *steps;
  size_t count;
} bpdq_normalizer_list;

/* Writes the normalized form of valid UTF-8 into *out (replacing what is there); `scratch` is overwritten. */
bpdq_status bpdq_normalize(const bpdq_normalizer_list *list, const char *text, size_t length, bpdq_text *out, bpdq_text *scratch,
                           bpdq_error *error);
/* Appends text[0..length) with every occurrence of `pattern` replaced. */
bool bpdq_append_replaced(bpdq_text *out, const char *text, size_t length, bpdq_slice pattern, bpdq_slice content);

/* ---- regular expressions (tokenizer_regex.c) ---- */

typedef struct bpdq_pattern bpdq_pattern;

/* Compiles an Oniguruma (Ruby syntax) expression. What PCRE2 would read differently is translated or refused by name. */
bpdq_status bpdq_pattern_compile(const char *expression, size_t length, bpdq_pattern **pattern, bpdq_error *error);
/* A pattern that matches this text literally. */
bpdq_status bpdq_pattern_compile_literal(const char *literal, size_t length, bpdq_pattern **pattern, bpdq_error *error);
void bpdq_pattern_free(bpdq_pattern *pattern);
/* The translation alone, malloc'ed and NUL-terminated (for tests). */
bpdq_status bpdq_pattern_translate(const char *expression, size_t length, char **translated, bpdq_error *error);

/* Per-call working memory of the matcher: not shared between threads. */
typedef struct bpdq_matcher bpdq_matcher;
bpdq_status bpdq_matcher_create(bpdq_matcher **matcher, bpdq_error *error);
void bpdq_matcher_free(bpdq_matcher *matcher);

/* Finds the first match in text[from..length). *found false: none. Over the backtracking limit: BPDQ_ERROR_FORMAT. */
bpdq_status bpdq_pattern_find(const bpdq_pattern *pattern, bpdq_matcher *matcher, const char *text, size_t length, size_t from, bool *found,
                              size_t *start, size_t *end, bpdq_error *error);

/* ---- pre-tokenization (tokenizer_pretokenize.c) ---- */

typedef enum bpdq_split_behavior {
  BPDQ_SPLIT_REMOVED,
  BPDQ_SPLIT_ISOLATED,
  BPDQ_SPLIT_MERGED_WITH_PREVIOUS,
  BPDQ_SPLIT_MERGED_WITH_NEXT,
  BPDQ_SPLIT_CONTIGUOUS
} bpdq_split_behavior;

typedef enum bpdq_prepend_scheme { BPDQ_PREPEND_ALWAYS, BPDQ_PREPEND_FIRST, BPDQ_PREPEND_NEVER } bpdq_prepend_scheme;
typedef enum bpdq_pretokenizer_kind {
  BPDQ_PRETOKENIZE_SPLIT,
  BPDQ_PRETOKENIZE_BYTE_LEVEL,
  BPDQ_PRETOKENIZE_METASPACE
} bpdq_pretokenizer_kind;

typedef struct bpdq_pretokenizer {
  bpdq_pretokenizer_kind kind;
  bpdq_pattern *pattern;              /* SPLIT; BYTE_LEVEL where it splits, else NULL; METASPACE where it splits, else NULL */
  bpdq_split_behavior behavior;       /* SPLIT */
  bool invert;                        /* SPLIT */
  bool add_prefix_space;              /* BYTE_LEVEL */
  bpdq_prepend_scheme prepend_scheme; /* METASPACE */
  char replacement[5];                /* METASPACE: one character, NUL-terminated */
} bpdq_pretokenizer;

typedef struct bpdq_pretokenizer_list {
  bpdq_pretokenizer *steps;
  size_t count;
} bpdq_pretokenizer_list;

typedef struct bpdq_span {
  size_t start, length;
} bpdq_span;

/* A text cut into spans, in order; between two steps of pre-tokenization. */
typedef struct bpdq_pieces {
  bpdq_text text;
  bpdq_span *spans;
  size_t count, capacity;
} bpdq_pieces;

typedef struct bpdq_pretokenize_scratch {
  bpdq_pieces pieces[2];
  bpdq_text stand_in; /* copy of a piece with stand-in characters */
  bpdq_matcher *matcher;
} bpdq_pretokenize_scratch;

/* Cuts valid UTF-8 into words; `at_text_start`: text begins where the whole input begins. The result lives in the scratch. */
bpdq_status bpdq_pretokenize(const bpdq_pretokenizer_list *list, const char *text, size_t length, bool at_text_start,
                             bpdq_pretokenize_scratch *scratch, const bpdq_pieces **words, bpdq_error *error);
void bpdq_pretokenize_scratch_free(bpdq_pretokenize_scratch *scratch);

/* GPT-2's bijection between bytes and printable characters. */
uint32_t bpdq_byte_level_character(uint8_t byte);
int bpdq_byte_level_byte(uint32_t codepoint); /* -1: not one of the 256 characters */

/* ---- BPE (tokenizer_bpe.c) ---- */

enum { BPDQ_DIRECT_CHARACTERS = 0x800 };

typedef struct bpdq_bpe_model {
  bpdq_string_table vocabulary;
  bpdq_merge_table merges;
  /* Pairs of characters (ids of their tokens) at which some merge joins its two parts. Between two characters that are not among them no
   * merge ever happens, so that a long word can be cut there into independent pieces. */
  bpdq_merge_table junctions;
  bool cuttable;                                 /* false where byte tokens take part in merges: junctions then says nothing */
  int32_t character_ids[BPDQ_DIRECT_CHARACTERS]; /* id of each one-character token below U+0800, -1: none */
  int32_t byte_ids[256];                         /* ids of <0x00>..<0xFF>, -1: none; used where byte_fallback is set */
  bool byte_fallback, fuse_unknown, ignore_merges;
  char *unknown_token; /* or NULL */
  int32_t unknown_id;  /* -1 where unknown_token is not in the vocabulary: an error once it is needed */
} bpdq_bpe_model;

typedef struct bpdq_bpe_scratch bpdq_bpe_scratch;
/* `text_length`: of the whole input; a long one is worth a cache of words. NULL when out of memory. */
bpdq_bpe_scratch *bpdq_bpe_scratch_create(size_t text_length);
void bpdq_bpe_scratch_free(bpdq_bpe_scratch *scratch);
/* Appends the ids of one word (valid UTF-8). */
bpdq_status bpdq_bpe_encode_word(const bpdq_bpe_model *model, bpdq_bpe_scratch *scratch, const char *word, size_t length, bpdq_id_list *ids,
                                 bpdq_error *error);

/* ---- added tokens (tokenizer_added.c) ---- */

typedef struct bpdq_added_token {
  char *content;
  size_t length;
  bpdq_slice text; /* what its id decodes to: the content, normalized where the token is */
  int32_t id;
  bool single_word, lstrip, rstrip, normalized, special;
} bpdq_added_token;

/* Finds the leftmost, longest of a set of literal texts. */
typedef struct bpdq_literal {
  bpdq_slice text;
  uint32_t token; /* index into added.tokens */
} bpdq_literal;

typedef struct bpdq_literal_set {
  bpdq_literal *literals; /* sorted by text; no two texts are equal */
  size_t count;
  uint32_t first_byte[257];  /* literals that start with byte b: first_byte[b]..first_byte[b+1] */
  bpdq_text normalized_text; /* storage of normalized contents */
} bpdq_literal_set;

typedef struct bpdq_added_tokens {
  bpdq_added_token *tokens;
  size_t count;
  bpdq_string_table by_content; /* id = index into tokens */
  bpdq_literal_set raw;         /* matched in the text as written */
  bpdq_literal_set normalized;  /* matched after the normalizer */
} bpdq_added_tokens;

/* Reads the "added_tokens" array and gives ids as the Python library does (its place in the vocabulary, else the next free id). */
bpdq_status bpdq_added_tokens_load(const json_t *array, const bpdq_bpe_model *model, const bpdq_normalizer_list *normalizers,
                                   int64_t vocab_size, uint64_t seed, bpdq_added_tokens *added, bpdq_error *error);
void bpdq_added_tokens_free(bpdq_added_tokens *added);

/* A part of a text: an added token (token set) or plain text (token NULL). */
typedef struct bpdq_segment {
  size_t start, end;
  const bpdq_added_token *token;
} bpdq_segment;

typedef struct bpdq_segment_list {
  bpdq_segment *segments;
  size_t count, capacity;
} bpdq_segment_list;

/* Cuts text at the added tokens of `set`; the segments replace what is in *list. False: out of memory. */
bool bpdq_split_added_tokens(const bpdq_added_tokens *added, const bpdq_literal_set *set, const char *text, size_t length,
                             bpdq_segment_list *list);

/* ---- decoding (tokenizer_decode.c) ---- */

typedef enum bpdq_decoder_kind {
  BPDQ_DECODE_BYTE_LEVEL,
  BPDQ_DECODE_BYTE_FALLBACK,
  BPDQ_DECODE_FUSE,
  BPDQ_DECODE_STRIP,
  BPDQ_DECODE_REPLACE,
  BPDQ_DECODE_METASPACE
} bpdq_decoder_kind;

typedef struct bpdq_decoder {
  bpdq_decoder_kind kind;
  char *pattern; /* REPLACE: literal; METASPACE, STRIP: one character */
  size_t pattern_length;
  char *content; /* REPLACE */
  size_t content_length;
  size_t start, stop; /* STRIP: how many characters at either end */
  bool strips_first;  /* METASPACE: drop the replacement in the first token */
  bool after_fuse;    /* STRIP: works on the whole text, not on each token */
} bpdq_decoder;

typedef struct bpdq_decoder_list {
  bpdq_decoder *steps;
  size_t count;
  bool present; /* false: the file has no decoder; tokens are joined with blanks */
} bpdq_decoder_list;

/* ---- the tokenizer ---- */

typedef struct bpdq_token {
  bpdq_slice text; /* data NULL: no token has this id */
  bool special;    /* left out by decode(skip_special) */
} bpdq_token;

struct bpdq_tokenizer {
  int64_t vocab_size; /* of the model: ids are below it */
  bpdq_bpe_model model;
  bpdq_added_tokens added;
  bpdq_normalizer_list normalizers;
  bpdq_pretokenizer_list pretokenizers;
  bpdq_decoder_list decoders;
  bpdq_id_list template_prefix, template_suffix; /* what the post-processor puts around a text */
  bpdq_token *tokens;                            /* [token_count], by id */
  int64_t token_count;
};

/* Ids above this are refused, so that a small file cannot ask for a huge table. */
enum { BPDQ_TOKEN_ID_LIMIT = 1 << 22 };

/* ---- loading (tokenizer_load.c, tokenizer_load_stages.c) ---- */

/* Each fills its part of a zeroed tokenizer; on failure the caller frees everything with bpdq_tokenizer_free. */
bpdq_status bpdq_load_bpe_model(const json_t *object, int64_t vocab_size, uint64_t seed, bpdq_bpe_model *model, bpdq_error *error);
bpdq_status bpdq_load_normalizers(const json_t *object, bpdq_normalizer_list *list, bpdq_error *error);
bpdq_status bpdq_load_pretokenizers(const json_t *object, bpdq_pretokenizer_list *list, bpdq_error *error);
bpdq_status bpdq_load_decoders(const json_t *object, bpdq_decoder_list *list, bpdq_error *error);
bpdq_status bpdq_load_post_processor(const json_t *object, bpdq_tokenizer *tokenizer, bpdq_error *error);

/* Typed access to a JSON member: absent or null gives the default, another type BPDQ_ERROR_FORMAT. */
bpdq_status bpdq_json_bool(const json_t *object, const char *key, bool fallback, bool *value, bpdq_error *error);
bpdq_status bpdq_json_string(const json_t *object, const char *key, bpdq_slice *value, bpdq_error *error); /* data NULL where absent */

bpdq_status bpdq_out_of_memory(bpdq_error *error);

#endif
