/* A model folder: which safetensors files belong to it, and whether they hold what its index promises. */
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "format/safetensors_internal.h"

#define INDEX_FILE "model.safetensors.index.json"
#define SINGLE_FILE "model.safetensors"
#define MAX_INDEX_BYTES (64u << 20)
#define MAX_SHARDS 4096u

/* A relative path whose components all go downwards. Backslashes and colons are separators elsewhere, so they are refused too. */
static bool stays_inside(const char *name) {
  if (name[0] == '\0' || strpbrk(name, "\\:")) return false;
  for (const char *part = name; part;) {
    size_t length = strcspn(part, "/");
    if (length == 0 || (length == 1 && part[0] == '.') || (length == 2 && part[0] == '.' && part[1] == '.')) return false;
    part = part[length] == '/' ? part + length + 1 : NULL;
  }
  return true;
}

static bpdq_status append_in_folder(bpdq_safetensors *files, const char *folder, const char *name, bpdq_error *error) {
  char *path = bpdq_path_join(folder, name);
  if (!path) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of memory", folder);
  bpdq_status status = bpdq_safetensors_append(files, path, error);
  free(path);
  return status;
}

/* Opens every shard that the map names, once each. `shard_numbers` receives name -> index of the shard. */
static bpdq_status open_mapped_shards(const json_t *map, const char *folder, json_t *shard_numbers, bpdq_safetensors *files,
                                      bpdq_error *error) {
  const char *tensor;
  const json_t *value;
  json_object_foreach((json_t *)map, tensor, value) {
    const char *shard = json_string_value(value);
    if (!shard) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the shard of tensor '%.200s' is not a string", tensor);
    if (json_object_get(shard_numbers, shard)) continue;
    if (!stays_inside(shard))
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "shard '%.200s' of tensor '%.200s' is not a file name inside the folder", shard, tensor);
    if (json_object_size(shard_numbers) >= MAX_SHARDS) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "names more than %u shards", MAX_SHARDS);
    if (json_object_set_new(shard_numbers, shard, json_integer(files->shard_count)) != 0)
      return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory");
    BPDQ_TRY(append_in_folder(files, folder, shard, error));
  }
  return BPDQ_OK;
}

static bpdq_status check_map(const json_t *map, const json_t *shard_numbers, const bpdq_safetensors *files, bpdq_error *error) {
  const char *name;
  const json_t *value;
  json_object_foreach((json_t *)map, name, value) {
    const bpdq_stored_tensor *tensor = bpdq_safetensors_find(files, name);
    const char *shard = json_string_value(value);
    if (!tensor || tensor->file != json_integer_value(json_object_get(shard_numbers, shard)))
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "tensor '%.200s' is not in the shard '%.200s' that the index names", name, shard);
  }
  return BPDQ_OK;
}

static bpdq_status open_map(const json_t *map, const char *folder, bpdq_safetensors *files, bpdq_error *error) {
  if (!json_is_object(map)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "weight_map is missing or not an object");
  json_t *shard_numbers = json_object();
  if (!shard_numbers) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory");
  bpdq_status status = open_mapped_shards(map, folder, shard_numbers, files, error);
  if (status == BPDQ_OK) status = bpdq_safetensors_sort(files, error);
  if (status == BPDQ_OK) status = check_map(map, shard_numbers, files, error);
  json_decref(shard_numbers);
  return status;
}

static bpdq_status open_index(const char *index_path, const char *folder, bpdq_safetensors *files, bpdq_error *error) {
  json_t *index;
  BPDQ_TRY(bpdq_json_load(index_path, MAX_INDEX_BYTES, &index, error));
  bpdq_status status = open_map(json_object_get(index, "weight_map"), folder, files, error);
  json_decref(index);
  if (status != BPDQ_OK) return bpdq_fail_context(error, status, "%s", index_path);
  return BPDQ_OK;
}

typedef struct name_list {
  char **names;
  size_t count;
  bool failed;
} name_list;

static bool collect_safetensors(void *user, const char *name) {
  name_list *list = user;
  size_t length = strlen(name), suffix = strlen(".safetensors");
  if (length <= suffix || strcmp(name + length - suffix, ".safetensors") != 0) return true;
  char **grown = list->count < MAX_SHARDS ? realloc(list->names, (list->count + 1) * sizeof *grown) : NULL;
  if (grown) list->names = grown;
  char *copy = grown ? strdup(name) : NULL;
  if (!copy) {
    list->failed = true;
    return false;
  }
  list->names[list->count++] = copy;
  return true;
}

static int by_text(const void *left, const void *right) { return strcmp(*(char *const *)left, *(char *const *)right); }

/* Every *.safetensors file of the folder, in the order of their names. */
static bpdq_status open_all(const char *folder, bpdq_safetensors *files, bpdq_error *error) {
  name_list list = {0};
  bpdq_status status = bpdq_list_folder(folder, collect_safetensors, &list, error);
  if (status == BPDQ_OK && list.failed)
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of memory, or more than %u safetensors files", folder, MAX_SHARDS);
  if (status == BPDQ_OK && list.count == 0)
    status = bpdq_fail(error, BPDQ_ERROR_IO, "%s: no " SINGLE_FILE ", " INDEX_FILE " or other safetensors file in this folder", folder);
  if (list.count > 0) qsort(list.names, list.count, sizeof *list.names, by_text);
  for (size_t i = 0; i < list.count && status == BPDQ_OK; i++) status = append_in_folder(files, folder, list.names[i], error);
  for (size_t i = 0; i < list.count; i++) free(list.names[i]);
  free(list.names);
  return status == BPDQ_OK ? bpdq_safetensors_sort(files, error) : status;
}

static bpdq_status open_any(const char *folder, bpdq_safetensors *files, bpdq_error *error) {
  char *index_path = bpdq_path_join(folder, INDEX_FILE);
  char *single_path = bpdq_path_join(folder, SINGLE_FILE);
  bpdq_status status;
  if (!index_path || !single_path) {
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of memory", folder);
  } else if (!bpdq_path_is_folder(folder)) {
    status = bpdq_fail(error, BPDQ_ERROR_IO, "%s: no such folder", folder);
  } else if (bpdq_path_exists(index_path)) {
    status = open_index(index_path, folder, files, error);
  } else if (bpdq_path_exists(single_path)) {
    status = bpdq_safetensors_append(files, single_path, error);
    if (status == BPDQ_OK) status = bpdq_safetensors_sort(files, error);
  } else {
    status = open_all(folder, files, error);
  }
  free(index_path);
  free(single_path);
  return status;
}

bpdq_status bpdq_safetensors_open_folder(const char *folder, bpdq_safetensors **result, bpdq_error *error) {
  *result = NULL;
  bpdq_safetensors *files = calloc(1, sizeof *files);
  if (!files) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of memory", folder);
  bpdq_status status = open_any(folder, files, error);
  if (status != BPDQ_OK) {
    bpdq_safetensors_close(files);
    return status;
  }
  *result = files;
  return BPDQ_OK;
}
