/* Which variant of a product's kernel is fastest on this device, and whether its cache is large: measured once, kept in memory and beside
 * the pipeline cache. */
#ifndef BPDQ_VULKAN_TUNING_H
#define BPDQ_VULKAN_TUNING_H

#include "backend/vulkan/context.h"
#include "backend/vulkan/variants.h"

/* What the speed of a one-row product depends on. All members are 32 bits wide: keys are compared as memory. */
typedef struct vulkan_tuning_key {
  uint32_t rows, columns, planes, group;
  uint32_t number;    /* vulkan_number of the coefficients */
  uint32_t transform; /* bpdq_transform_kind */
  uint32_t wide;      /* 16-bit activations */
} vulkan_tuning_key;

typedef struct vulkan_choice {
  vulkan_tuning_key key;
  vulkan_dot_variant variant;
} vulkan_choice;

typedef enum vulkan_cache { VULKAN_CACHE_UNKNOWN, VULKAN_CACHE_SMALL, VULKAN_CACHE_LARGE } vulkan_cache;

typedef struct vulkan_tuning {
  const vulkan_context *context;
  char *path; /* NULL: not kept on disk */
  vulkan_choice *choices;
  size_t count, capacity;
  vulkan_switch asked; /* BPDQ_VULKAN_TUNE. OFF: every product takes its usual variant, whatever was measured before */
  vulkan_cache cache;  /* the device's; BPDQ_VULKAN_EARLY=0 says small, any other value large, whatever was measured */
  bool grew;
  bpdq_mutex *mutex;
} vulkan_tuning;

/* Reads what an earlier run measured; a missing, foreign or damaged file counts as empty. `cache_folder` may be NULL. Warns of a
 * BPDQ_VULKAN_VARIANT that is none. */
bpdq_status bpdq_vulkan_tuning_create(vulkan_tuning *tuning, const vulkan_context *context, const char *cache_folder, bpdq_error *error);
/* Writes the file when choices were added. */
void bpdq_vulkan_tuning_destroy(vulkan_tuning *tuning);

/* Any thread. A variant of all zeros is the usual one. */
bool bpdq_vulkan_tuning_find(vulkan_tuning *tuning, const vulkan_tuning_key *key, vulkan_dot_variant *variant);
void bpdq_vulkan_tuning_keep(vulkan_tuning *tuning, const vulkan_tuning_key *key, const vulkan_dot_variant *variant);
vulkan_cache bpdq_vulkan_tuning_cache(vulkan_tuning *tuning);
void bpdq_vulkan_tuning_keep_cache(vulkan_tuning *tuning, bool large);

/* The file's text and back. Parsing takes only what formatting gives, with variants of this build; else it returns false. */
bool bpdq_vulkan_tuning_parse(vulkan_tuning *tuning, const char *text, size_t size);

#endif
