#include "format/template/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 16
#define BLOCK_BYTES 16384

struct bpdq_arena_block {
  bpdq_arena_block *next;
  size_t used, capacity;
  _Alignas(ALIGNMENT) unsigned char bytes[];
};

void *bpdq_arena_alloc(bpdq_arena *arena, size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes) || bytes > arena->limit) return NULL;
  bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  if (bytes > arena->limit - arena->used) return NULL;
  bpdq_arena_block *block = arena->newest;
  if (!block || bytes > block->capacity - block->used) {
    size_t capacity = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
    block = malloc(sizeof *block + capacity);
    if (!block) return NULL;
    *block = (bpdq_arena_block){.next = arena->newest, .capacity = capacity};
    arena->newest = block;
  }
  void *memory = block->bytes + block->used;
  block->used += bytes;
  arena->used += bytes;
  return memset(memory, 0, bytes);
}

void *bpdq_arena_grow(bpdq_arena *arena, void *array, size_t count, size_t *capacity, size_t size) {
  if (count < *capacity) return array;
  size_t wanted = *capacity ? *capacity * 2 : 8;
  void *larger = bpdq_arena_alloc(arena, wanted, size);
  if (!larger) return NULL;
  if (count) memcpy(larger, array, count * size);
  *capacity = wanted;
  return larger;
}

char *bpdq_arena_copy(bpdq_arena *arena, const char *text, size_t length) {
  if (length == SIZE_MAX) return NULL;
  char *copy = bpdq_arena_alloc(arena, length + 1, 1);
  if (copy && length) memcpy(copy, text, length);
  return copy;
}

void bpdq_arena_free(bpdq_arena *arena) {
  while (arena->newest) {
    bpdq_arena_block *next = arena->newest->next;
    free(arena->newest);
    arena->newest = next;
  }
  arena->used = 0;
}
