/* Growable text and id lists, and the two hash tables of a BPE model. */
#include <string.h>

#include "format/tokenizer_internal.h"

bpdq_status bpdq_out_of_memory(bpdq_error *error) {
  return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory in the tokenizer; shorten the text or free memory");
}

static bool grow(void **data, size_t *capacity, size_t needed, size_t item) {
  if (needed <= *capacity) return true;
  size_t wanted = *capacity < 32 ? 64 : *capacity * 2;
  if (wanted < needed) wanted = needed;
  size_t bytes;
  if (__builtin_mul_overflow(wanted, item, &bytes)) return false;
  void *larger = realloc(*data, bytes);
  if (!larger) return false;
  *data = larger;
  *capacity = wanted;
  return true;
}

bool bpdq_text_reserve(bpdq_text *text, size_t extra) {
  size_t needed;
  if (__builtin_add_overflow(text->length, extra, &needed)) return false;
  return grow((void **)&text->data, &text->capacity, needed, 1);
}

bool bpdq_text_append(bpdq_text *text, const char *bytes, size_t length) {
  if (!bpdq_text_reserve(text, length)) return false;
  if (length) memcpy(text->data + text->length, bytes, length);
  text->length += length;
  return true;
}

void bpdq_text_free(bpdq_text *text) {
  free(text->data);
  *text = (bpdq_text){0};
}

bool bpdq_id_list_append(bpdq_id_list *list, const int32_t *ids, size_t count) {
  size_t needed;
  if (__builtin_add_overflow(list->count, count, &needed)) return false;
  if (!grow((void **)&list->ids, &list->capacity, needed, sizeof *list->ids)) return false;
  if (count) memcpy(list->ids + list->count, ids, count * sizeof *ids);
  list->count = needed;
  return true;
}

void bpdq_id_list_free(bpdq_id_list *list) {
  free(list->ids);
  *list = (bpdq_id_list){0};
}

uint64_t bpdq_hash_bytes(const char *bytes, size_t length, uint64_t seed) {
  uint64_t hash = seed ^ (length * UINT64_C(0xff51afd7ed558ccd));
  for (; length >= 8; bytes += 8, length -= 8) {
    uint64_t word;
    memcpy(&word, bytes, 8);
    hash = bpdq_mix(hash ^ word) * UINT64_C(0xc4ceb9fe1a85ec53);
  }
  uint64_t rest = 0;
  if (length) memcpy(&rest, bytes, length);
  return bpdq_mix(hash ^ rest ^ (uint64_t)length << 56);
}

/* The smallest power of two that leaves a table of `capacity` keys at most half full. */
static size_t slot_count(size_t capacity) {
  size_t slots = 16;
  while (slots / 2 < capacity) slots *= 2;
  return slots;
}

bool bpdq_string_table_create(bpdq_string_table *table, size_t capacity, size_t bytes, uint64_t seed) {
  if (capacity > UINT32_MAX / 4 || bytes > UINT32_MAX) return false;
  size_t slots = slot_count(capacity);
  *table = (bpdq_string_table){.capacity = capacity, .mask = slots - 1, .seed = seed};
  table->entries = bpdq_alloc_array(capacity, sizeof *table->entries);
  table->slots = calloc(slots, sizeof *table->slots);
  if (!table->entries || !table->slots || !bpdq_text_reserve(&table->bytes, bytes)) {
    bpdq_string_table_free(table);
    return false;
  }
  return true;
}

void bpdq_string_table_insert(bpdq_string_table *table, const char *key, size_t length, int32_t id) {
  uint32_t hash = (uint32_t)bpdq_hash_bytes(key, length, table->seed);
  size_t slot = hash & table->mask;
  while (table->slots[slot]) slot = (slot + 1) & table->mask;
  table->entries[table->count] =
      (bpdq_string_entry){.offset = (uint32_t)table->bytes.length, .length = (uint32_t)length, .hash = hash, .id = id};
  table->slots[slot] = (uint32_t)++table->count;
  if (length) memcpy(table->bytes.data + table->bytes.length, key, length);
  table->bytes.length += length;
}

int32_t bpdq_string_table_find(const bpdq_string_table *table, const char *key, size_t length) {
  if (!table->count) return -1;
  uint32_t hash = (uint32_t)bpdq_hash_bytes(key, length, table->seed);
  for (size_t slot = hash & table->mask; table->slots[slot]; slot = (slot + 1) & table->mask) {
    const bpdq_string_entry *entry = &table->entries[table->slots[slot] - 1];
    if (entry->hash == hash && entry->length == length && !memcmp(table->bytes.data + entry->offset, key, length)) return entry->id;
  }
  return -1;
}

void bpdq_string_table_free(bpdq_string_table *table) {
  bpdq_text_free(&table->bytes);
  free(table->entries);
  free(table->slots);
  *table = (bpdq_string_table){0};
}

bool bpdq_merge_table_create(bpdq_merge_table *table, size_t capacity, uint64_t seed) {
  if (capacity > UINT32_MAX / 4) return false;
  size_t slots = slot_count(capacity);
  *table = (bpdq_merge_table){.mask = slots - 1, .seed = seed, .slots = bpdq_alloc_array(slots, sizeof *table->slots)};
  if (!table->slots) return false;
  for (size_t slot = 0; slot < slots; slot++) table->slots[slot].pair = UINT64_MAX;
  return true;
}

void bpdq_merge_table_insert(bpdq_merge_table *table, int32_t left, int32_t right, uint32_t rank, int32_t result) {
  uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
  uint64_t slot = bpdq_mix(pair ^ table->seed) & table->mask;
  while (table->slots[slot].pair != UINT64_MAX && table->slots[slot].pair != pair) slot = (slot + 1) & table->mask;
  table->slots[slot] = (bpdq_merge){.pair = pair, .rank = rank, .result = result};
}

void bpdq_merge_table_free(bpdq_merge_table *table) {
  free(table->slots);
  *table = (bpdq_merge_table){0};
}
