/* One safetensors file: checks of the header before any tensor is handed out. The collection of shards is in safetensors_folder.c. */
#include "format/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "format/json.h"
#include "format/safetensors_internal.h"

/* The limit of the reference implementation. */
#define MAX_HEADER_BYTES 100000000u
#define LENGTH_BYTES 8u

static const struct {
  const char *name;
  size_t size;
} stored_types[] = {
    [BPDQ_STORED_F64] = {"F64", 8},
    [BPDQ_STORED_F32] = {"F32", 4},
    [BPDQ_STORED_F16] = {"F16", 2},
    [BPDQ_STORED_BF16] = {"BF16", 2},
    [BPDQ_STORED_I64] = {"I64", 8},
    [BPDQ_STORED_I32] = {"I32", 4},
    [BPDQ_STORED_I16] = {"I16", 2},
    [BPDQ_STORED_I8] = {"I8", 1},
    [BPDQ_STORED_U8] = {"U8", 1},
    [BPDQ_STORED_BOOL] = {"BOOL", 1},
    [BPDQ_STORED_OTHER] = {"another type", 0},
};

const char *bpdq_stored_type_name(bpdq_stored_type type) { return stored_types[type].name; }
size_t bpdq_stored_type_size(bpdq_stored_type type) { return stored_types[type].size; }

static bpdq_stored_type type_from_name(const char *name) {
  for (int type = 0; type < BPDQ_STORED_OTHER; type++)
    if (strcmp(name, stored_types[type].name) == 0) return (bpdq_stored_type)type;
  return BPDQ_STORED_OTHER;
}

/* An exact integer >= 0; anything else (a real, a string, a negative number) is refused. */
static bool read_size(const json_t *value, int64_t *size) {
  if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
  *size = json_integer_value(value);
  return true;
}

static bpdq_status read_shape(const json_t *shape, bpdq_stored_tensor *tensor, bpdq_error *error) {
  if (!json_is_array(shape)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "shape is missing or not a list");
  size_t dimensions = json_array_size(shape);
  if (dimensions > BPDQ_MAX_DIMENSIONS)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "has %zu dimensions, more than %d", dimensions, BPDQ_MAX_DIMENSIONS);
  tensor->dimensions = (int)dimensions;
  for (size_t i = 0; i < dimensions; i++)
    if (!read_size(json_array_get(shape, i), &tensor->shape[i]))
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "shape holds something other than integers >= 0");
  return BPDQ_OK;
}

/* Checks the tensor's range in the data section, and that it has exactly the bytes of its shape and type. */
static bpdq_status read_range(const json_t *offsets, uint64_t data_bytes, const uint8_t *data, bpdq_stored_tensor *tensor,
                              bpdq_error *error) {
  int64_t begin, end;
  if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !read_size(json_array_get(offsets, 0), &begin) ||
      !read_size(json_array_get(offsets, 1), &end))
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "data_offsets is not a list of two integers >= 0");
  if (begin > end || (uint64_t)end > data_bytes)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "data_offsets %lld to %lld are outside the %llu bytes of data (truncated file?)",
                     (long long)begin, (long long)end, (unsigned long long)data_bytes);
  tensor->bytes = (uint64_t)(end - begin);
  tensor->data = data + begin;
  if (tensor->type == BPDQ_STORED_OTHER) return BPDQ_OK;
  uint64_t bytes = bpdq_stored_type_size(tensor->type);
  for (int i = 0; i < tensor->dimensions; i++)
    if (!bpdq_mul_u64(bytes, (uint64_t)tensor->shape[i], &bytes)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "shape is too large");
  if (bytes != tensor->bytes)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "shape and type need %llu bytes, data_offsets span %llu", (unsigned long long)bytes,
                     (unsigned long long)tensor->bytes);
  return BPDQ_OK;
}

static bpdq_status read_tensor(const json_t *entry, uint64_t data_bytes, const uint8_t *data, bpdq_stored_tensor *tensor,
                               bpdq_error *error) {
  if (!json_is_object(entry)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the header entry is not an object");
  const json_t *type = json_object_get(entry, "dtype");
  if (!json_is_string(type)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "dtype is missing or not a string");
  tensor->type = type_from_name(json_string_value(type));
  BPDQ_TRY(read_shape(json_object_get(entry, "shape"), tensor, error));
  return read_range(json_object_get(entry, "data_offsets"), data_bytes, data, tensor, error);
}

static bpdq_status read_metadata(const json_t *metadata, bpdq_safetensors *files, bpdq_error *error) {
  if (!json_is_object(metadata)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "__metadata__ is not an object");
  const char *key;
  const json_t *value;
  json_object_foreach((json_t *)metadata, key, value) {
    if (!json_is_string(value)) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "__metadata__ entry '%.200s' is not a string", key);
    if (!files->metadata && !(files->metadata = json_object()))
      return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for the metadata");
    /* The first shard's entry stays where several have one of the same name. */
    if (json_object_get(files->metadata, key)) continue;
    if (json_object_set(files->metadata, key, (json_t *)value) != 0)
      return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for the metadata");
  }
  return BPDQ_OK;
}

static int by_offset(const void *left, const void *right) {
  const bpdq_stored_tensor *a = left, *b = right;
  if (a->data != b->data) return a->data < b->data ? -1 : 1;
  return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

/* The tensors of one file must cover its data exactly, one behind the other (the format forbids holes, so that a file cannot
 * carry something else between tensors). */
static bpdq_status check_coverage(bpdq_stored_tensor *tensors, size_t count, const uint8_t *data, uint64_t data_bytes, bpdq_error *error) {
  qsort(tensors, count, sizeof *tensors, by_offset);
  uint64_t covered = 0;
  for (size_t i = 0; i < count; i++) {
    uint64_t begin = (uint64_t)(tensors[i].data - data);
    if (begin < covered)
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "tensor '%.200s' overlaps '%.200s'", tensors[i].name, tensors[i - 1].name);
    if (begin > covered) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "no tensor covers the bytes before '%.200s'", tensors[i].name);
    covered = begin + tensors[i].bytes;
  }
  if (covered != data_bytes)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%llu bytes behind the last tensor", (unsigned long long)(data_bytes - covered));
  return BPDQ_OK;
}

static bpdq_status append_tensors(const json_t *header, const bpdq_mapping *mapping, uint64_t data_start, bpdq_safetensors *files,
                                  bpdq_error *error) {
  size_t first = files->count;
  size_t added = json_object_size(header);
  bpdq_stored_tensor *grown = NULL;
  if (added <= SIZE_MAX / sizeof *grown - first - 1) grown = realloc(files->tensors, (first + added + 1) * sizeof *grown);
  if (!grown) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for %zu tensors", added);
  files->tensors = grown;

  const uint8_t *data = mapping->data + data_start;
  uint64_t data_bytes = mapping->size - data_start;
  const char *name;
  const json_t *entry;
  json_object_foreach((json_t *)header, name, entry) {
    if (strcmp(name, "__metadata__") == 0) {
      BPDQ_TRY(read_metadata(entry, files, error));
      continue;
    }
    bpdq_stored_tensor tensor = {.file = files->shard_count - 1};
    bpdq_status status = read_tensor(entry, data_bytes, data, &tensor, error);
    if (status != BPDQ_OK) return bpdq_fail_context(error, status, "tensor '%.200s'", name);
    tensor.name = strdup(name);
    if (!tensor.name) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for %zu tensors", added);
    files->tensors[files->count++] = tensor;
  }
  return check_coverage(files->tensors + first, files->count - first, data, data_bytes, error);
}

static bpdq_status read_file_header(const bpdq_mapping *mapping, bpdq_safetensors *files, bpdq_error *error) {
  if (mapping->size < LENGTH_BYTES)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "is too short for a safetensors file (%llu bytes)", (unsigned long long)mapping->size);
  uint64_t header_bytes = 0;
  for (unsigned i = 0; i < LENGTH_BYTES; i++) header_bytes |= (uint64_t)mapping->data[i] << (8 * i);
  if (header_bytes > MAX_HEADER_BYTES)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "claims a header of %llu bytes, more than %u (not a safetensors file?)",
                     (unsigned long long)header_bytes, MAX_HEADER_BYTES);
  if (header_bytes > mapping->size - LENGTH_BYTES)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "header of %llu bytes does not fit into the file of %llu bytes (truncated?)",
                     (unsigned long long)header_bytes, (unsigned long long)mapping->size);
  const char *text = (const char *)mapping->data + LENGTH_BYTES;
  if (header_bytes == 0 || text[0] != '{') return bpdq_fail(error, BPDQ_ERROR_FORMAT, "the header does not start with '{'");
  json_t *header;
  BPDQ_TRY(bpdq_json_parse(text, (size_t)header_bytes, "header", &header, error));
  bpdq_status status = append_tensors(header, mapping, LENGTH_BYTES + header_bytes, files, error);
  json_decref(header);
  return status;
}

bpdq_status bpdq_safetensors_append(bpdq_safetensors *files, const char *path, bpdq_error *error) {
  bpdq_safetensors_shard *grown = realloc(files->shards, ((size_t)files->shard_count + 1) * sizeof *grown);
  if (grown) files->shards = grown;
  char *copy = grown ? strdup(path) : NULL;
  if (!copy) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of memory", path);
  bpdq_safetensors_shard *shard = &files->shards[files->shard_count++];
  *shard = (bpdq_safetensors_shard){.path = copy};
  BPDQ_TRY(bpdq_map_file(path, &shard->mapping, error));
  bpdq_status status = read_file_header(&shard->mapping, files, error);
  if (status != BPDQ_OK) return bpdq_fail_context(error, status, "%s", path);
  return BPDQ_OK;
}

static int by_name(const void *left, const void *right) {
  return strcmp(((const bpdq_stored_tensor *)left)->name, ((const bpdq_stored_tensor *)right)->name);
}

bpdq_status bpdq_safetensors_sort(bpdq_safetensors *files, bpdq_error *error) {
  if (files->count > 0) qsort(files->tensors, files->count, sizeof *files->tensors, by_name);
  for (size_t i = 1; i < files->count; i++) {
    const bpdq_stored_tensor *a = &files->tensors[i - 1], *b = &files->tensors[i];
    if (strcmp(a->name, b->name) == 0)
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "tensor '%.200s' is both in %s and in %s", a->name, bpdq_safetensors_path(files, a->file),
                       bpdq_safetensors_path(files, b->file));
  }
  return BPDQ_OK;
}

bpdq_status bpdq_safetensors_open(const char *path, bpdq_safetensors **file, bpdq_error *error) {
  *file = NULL;
  bpdq_safetensors *files = calloc(1, sizeof *files);
  if (!files) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of memory", path);
  bpdq_status status = bpdq_safetensors_append(files, path, error);
  if (status == BPDQ_OK) status = bpdq_safetensors_sort(files, error);
  if (status != BPDQ_OK) {
    bpdq_safetensors_close(files);
    return status;
  }
  *file = files;
  return BPDQ_OK;
}

void bpdq_safetensors_close(bpdq_safetensors *files) {
  if (!files) return;
  for (size_t i = 0; i < files->count; i++) free((char *)files->tensors[i].name);
  free(files->tensors);
  for (int i = 0; i < files->shard_count; i++) {
    bpdq_unmap_file(&files->shards[i].mapping);
    free(files->shards[i].path);
  }
  free(files->shards);
  json_decref(files->metadata);
  free(files);
}

const bpdq_stored_tensor *bpdq_safetensors_find(const bpdq_safetensors *files, const char *name) {
  if (files->count == 0) return NULL;
  bpdq_stored_tensor key = {.name = name};
  return bsearch(&key, files->tensors, files->count, sizeof key, by_name);
}

size_t bpdq_safetensors_count(const bpdq_safetensors *files) { return files->count; }

const bpdq_stored_tensor *bpdq_safetensors_at(const bpdq_safetensors *files, size_t index) {
  return index < files->count ? &files->tensors[index] : NULL;
}

const char *bpdq_safetensors_path(const bpdq_safetensors *files, int shard) {
  return shard >= 0 && shard < files->shard_count ? files->shards[shard].path : "";
}

const char *bpdq_safetensors_metadata(const bpdq_safetensors *files, const char *key) {
  return json_string_value(json_object_get(files->metadata, key));
}

void bpdq_safetensors_will_need(const bpdq_safetensors *files, const bpdq_stored_tensor *tensor, uint64_t offset, uint64_t bytes) {
  const bpdq_mapping *mapping = &files->shards[tensor->file].mapping;
  if (offset > tensor->bytes) return;
  if (bytes > tensor->bytes - offset) bytes = tensor->bytes - offset;
  bpdq_map_will_need(mapping, (uint64_t)(tensor->data - mapping->data) + offset, bytes);
}

void bpdq_safetensors_release(const bpdq_safetensors *files, const bpdq_stored_tensor *tensor) {
  const bpdq_mapping *mapping = &files->shards[tensor->file].mapping;
  bpdq_map_release(mapping, (uint64_t)(tensor->data - mapping->data), tensor->bytes);
}
