/* Memory of one template or one rendering: allocated in blocks, freed all at once, with a ceiling. */
#ifndef BPDQ_FORMAT_TEMPLATE_ARENA_H
#define BPDQ_FORMAT_TEMPLATE_ARENA_H

#include <stddef.h>

typedef struct bpdq_arena_block bpdq_arena_block;

typedef struct bpdq_arena {
  bpdq_arena_block *newest;
  size_t used, limit; /* bytes; the limit bounds what a hostile template can make us allocate */
} bpdq_arena;

/* 16-byte aligned, cleared memory, or NULL when the limit or the machine's memory is reached. */
void *bpdq_arena_alloc(bpdq_arena *arena, size_t count, size_t size);

/* The array with room for one more element of `size` bytes, grown by doubling (the old memory stays in the arena); NULL on failure. */
void *bpdq_arena_grow(bpdq_arena *arena, void *array, size_t count, size_t *capacity, size_t size);

/* A NUL-terminated copy. */
char *bpdq_arena_copy(bpdq_arena *arena, const char *text, size_t length);

void bpdq_arena_free(bpdq_arena *arena);

#endif
