#include "backend/vulkan/tuning.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/vulkan/cache_file.h"

#define HEADER "bpdq product variants 7\n"
#define FILE_LIMIT 65536
#define LINE_BYTES 160
#define NUMBERS 11 /* of a line: the key, then the variant */

/* One that is measured, or all zeros: the usual one. */
static bool is_known(const vulkan_dot_variant *variant) {
  size_t count;
  const vulkan_dot_variant *known = bpdq_vulkan_dot_variants(&count);
  for (size_t i = 0; i < count; i++)
    if (bpdq_vulkan_same_variant(&known[i], variant)) return true;
  return bpdq_vulkan_same_variant(&(vulkan_dot_variant){0}, variant);
}

static vulkan_choice *find(const vulkan_tuning *tuning, const vulkan_tuning_key *key) {
  for (size_t i = 0; i < tuning->count; i++)
    if (!memcmp(&tuning->choices[i].key, key, sizeof *key)) return &tuning->choices[i];
  return NULL;
}

/* Without memory a choice is simply not remembered. */
static void keep(vulkan_tuning *tuning, const vulkan_choice *choice) {
  vulkan_choice *known = find(tuning, &choice->key);
  if (known) {
    *known = *choice;
    return;
  }
  if (tuning->count == tuning->capacity) {
    size_t capacity = tuning->capacity ? 2 * tuning->capacity : 16;
    vulkan_choice *grown = realloc(tuning->choices, capacity * sizeof *grown);
    if (!grown) return;
    tuning->choices = grown;
    tuning->capacity = capacity;
  }
  tuning->choices[tuning->count++] = *choice;
}

/* ---- the file: a header, a line of the cache where it was measured, then a line of numbers per choice ---- */

static const char *const cache_lines[] = {[VULKAN_CACHE_SMALL] = "cache small\n", [VULKAN_CACHE_LARGE] = "cache large\n"};

static void to_numbers(const vulkan_choice *choice, uint32_t numbers[NUMBERS]) {
  const vulkan_dot_variant *v = &choice->variant;
  memcpy(numbers, &choice->key, sizeof choice->key);
  memcpy(numbers + 7, (uint32_t[]){v->threads, v->slices, v->ahead, v->copied}, 4 * sizeof *numbers);
}

/* One line of decimal numbers with single blanks. */
static bool parse_line(const char *line, vulkan_choice *choice) {
  uint32_t numbers[NUMBERS];
  for (int i = 0; i < NUMBERS; i++) {
    if (*line < '0' || *line > '9') return false;
    uint64_t number = 0;
    for (; *line >= '0' && *line <= '9' && number <= UINT32_MAX; line++) number = number * 10 + (uint64_t)(*line - '0');
    if (number > UINT32_MAX || *line != (i == NUMBERS - 1 ? '\n' : ' ')) return false;
    numbers[i] = (uint32_t)number;
    line++;
  }
  memcpy(&choice->key, numbers, sizeof choice->key);
  choice->variant = (vulkan_dot_variant){numbers[7], numbers[8], numbers[9], numbers[10] == 1};
  return numbers[10] <= 1 && is_known(&choice->variant);
}

bool bpdq_vulkan_tuning_parse(vulkan_tuning *tuning, const char *text, size_t size) {
  const char *end = text + size, *header_end = text + sizeof HEADER - 1;
  if (size < sizeof HEADER - 1 || size > FILE_LIMIT || memcmp(text, HEADER, sizeof HEADER - 1) != 0 || end[-1] != '\n') return false;
  const char *line = header_end;
  for (int i = VULKAN_CACHE_SMALL; i <= VULKAN_CACHE_LARGE; i++)
    if ((size_t)(end - header_end) >= strlen(cache_lines[i]) && !memcmp(header_end, cache_lines[i], strlen(cache_lines[i]))) {
      tuning->cache = (vulkan_cache)i;
      line += strlen(cache_lines[i]);
    }
  while (line < end) {
    vulkan_choice choice;
    if (!parse_line(line, &choice)) {
      tuning->count = 0;
      tuning->cache = VULKAN_CACHE_UNKNOWN;
      return false;
    }
    keep(tuning, &choice);
    line = (const char *)memchr(line, '\n', (size_t)(end - line)) + 1;
  }
  return true;
}

static void save(const vulkan_tuning *tuning) {
  size_t capacity = sizeof HEADER + (tuning->count + 1) * LINE_BYTES, used = sizeof HEADER - 1;
  char *text = capacity <= FILE_LIMIT ? malloc(capacity) : NULL;
  if (!text) return;
  memcpy(text, HEADER, sizeof HEADER);
  if (tuning->cache != VULKAN_CACHE_UNKNOWN) used += (size_t)snprintf(text + used, capacity - used, "%s", cache_lines[tuning->cache]);
  for (size_t i = 0; i < tuning->count; i++) {
    uint32_t numbers[NUMBERS];
    to_numbers(&tuning->choices[i], numbers);
    for (int j = 0; j < NUMBERS; j++)
      used += (size_t)snprintf(text + used, capacity - used, "%u%c", numbers[j], j == NUMBERS - 1 ? '\n' : ' ');
  }
  bpdq_vulkan_cache_write(tuning->context, tuning->path, "what was measured of kernels", text, used);
  free(text);
}

/* ---- life cycle ---- */

static void warn_of_variant(const bpdq_log *log) {
  const char *text = getenv("BPDQ_VULKAN_VARIANT");
  vulkan_dot_variant variant;
  size_t count;
  if (!text || !*text || bpdq_vulkan_forced_variant(&variant)) return;
  bpdq_vulkan_dot_variants(&count);
  bpdq_log_warning(log, "vulkan: BPDQ_VULKAN_VARIANT=%.40s is ignored: the variants are 0 to %zu", text, count - 1);
}

bpdq_status bpdq_vulkan_tuning_create(vulkan_tuning *tuning, const vulkan_context *context, const char *cache_folder, bpdq_error *error) {
  *tuning = (vulkan_tuning){.context = context, .mutex = bpdq_mutex_create()};
  if (!tuning->mutex) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  warn_of_variant(&context->log);
  tuning->asked = bpdq_vulkan_switch("BPDQ_VULKAN_TUNE");
  if (tuning->asked == VULKAN_SWITCH_OFF) return BPDQ_OK;
  if (cache_folder) tuning->path = bpdq_vulkan_cache_path(context, cache_folder, context->device_uuid, "variants");
  char *text = NULL;
  size_t size = 0;
  if (tuning->path && bpdq_path_exists(tuning->path) && bpdq_read_file(tuning->path, FILE_LIMIT, &text, &size, NULL) == BPDQ_OK)
    bpdq_vulkan_tuning_parse(tuning, text, size);
  free(text);
  return BPDQ_OK;
}

void bpdq_vulkan_tuning_destroy(vulkan_tuning *tuning) {
  if (tuning->path && tuning->grew) save(tuning);
  bpdq_mutex_destroy(tuning->mutex);
  free(tuning->choices);
  free(tuning->path);
  memset(tuning, 0, sizeof *tuning);
}

bool bpdq_vulkan_tuning_find(vulkan_tuning *tuning, const vulkan_tuning_key *key, vulkan_dot_variant *variant) {
  bpdq_mutex_lock(tuning->mutex);
  const vulkan_choice *known = find(tuning, key);
  if (known) *variant = known->variant;
  bpdq_mutex_unlock(tuning->mutex);
  return known != NULL;
}

void bpdq_vulkan_tuning_keep(vulkan_tuning *tuning, const vulkan_tuning_key *key, const vulkan_dot_variant *variant) {
  bpdq_mutex_lock(tuning->mutex);
  keep(tuning, &(vulkan_choice){*key, *variant});
  tuning->grew = true;
  bpdq_mutex_unlock(tuning->mutex);
}

vulkan_cache bpdq_vulkan_tuning_cache(vulkan_tuning *tuning) {
  vulkan_switch asked = bpdq_vulkan_switch("BPDQ_VULKAN_EARLY");
  if (asked != VULKAN_SWITCH_UNSET) return asked == VULKAN_SWITCH_ON ? VULKAN_CACHE_LARGE : VULKAN_CACHE_SMALL;
  bpdq_mutex_lock(tuning->mutex);
  vulkan_cache cache = tuning->cache;
  bpdq_mutex_unlock(tuning->mutex);
  return cache;
}

void bpdq_vulkan_tuning_keep_cache(vulkan_tuning *tuning, bool large) {
  bpdq_mutex_lock(tuning->mutex);
  tuning->cache = large ? VULKAN_CACHE_LARGE : VULKAN_CACHE_SMALL;
  tuning->grew = true;
  bpdq_mutex_unlock(tuning->mutex);
}
