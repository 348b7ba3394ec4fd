/* Writing a safetensors file: checks, layout, JSON header, then the tensors' bytes through a file that appears when it is complete. */
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "format/json.h"
#include "format/safetensors.h"

typedef struct placed_tensor {
  const bpdq_tensor_to_write *tensor;
  uint64_t bytes;
} placed_tensor;

static bpdq_status measure(const bpdq_tensor_to_write *tensor, uint64_t *bytes, bpdq_error *error) {
  if (!tensor->name || strcmp(tensor->name, "__metadata__") == 0)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "a tensor has no name or a reserved one");
  if (tensor->type < 0 || tensor->type >= BPDQ_STORED_OTHER || tensor->dimensions < 0 || tensor->dimensions > BPDQ_MAX_DIMENSIONS)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "tensor '%.200s' has no writable type or too many dimensions", tensor->name);
  *bytes = bpdq_stored_type_size(tensor->type);
  for (int i = 0; i < tensor->dimensions; i++)
    if (tensor->shape[i] < 0 || !bpdq_mul_u64(*bytes, (uint64_t)tensor->shape[i], bytes) || *bytes > INT64_MAX)
      return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "tensor '%.200s' has a negative or too large shape", tensor->name);
  if (*bytes > 0 && !tensor->data) return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "tensor '%.200s' has no data", tensor->name);
  return BPDQ_OK;
}

/* Wide types first, then by name, as the reference implementation orders them: every tensor is then aligned to its type. */
static int by_width_and_name(const void *left, const void *right) {
  const bpdq_tensor_to_write *a = ((const placed_tensor *)left)->tensor, *b = ((const placed_tensor *)right)->tensor;
  size_t a_size = bpdq_stored_type_size(a->type), b_size = bpdq_stored_type_size(b->type);
  if (a_size != b_size) return a_size > b_size ? -1 : 1;
  return strcmp(a->name, b->name);
}

static json_t *describe_tensor(const bpdq_tensor_to_write *tensor, uint64_t begin, uint64_t end) {
  json_t *shape = json_array();
  if (!shape) return NULL;
  for (int i = 0; i < tensor->dimensions; i++)
    if (json_array_append_new(shape, json_integer(tensor->shape[i])) != 0) {
      json_decref(shape);
      return NULL;
    }
  return json_pack("{s:s, s:o, s:[I, I]}", "dtype", bpdq_stored_type_name(tensor->type), "shape", shape, "data_offsets", (json_int_t)begin,
                   (json_int_t)end);
}

static bpdq_status describe_metadata(const char *const *metadata, json_t *header, bpdq_error *error) {
  if (!metadata) return BPDQ_OK;
  json_t *entries = json_object();
  if (json_object_set_new(header, "__metadata__", entries) != 0) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory");
  for (; metadata[0]; metadata += 2)
    if (json_object_set_new(entries, metadata[0], json_string(metadata[1])) != 0)
      return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "metadata entry '%.200s' is not UTF-8", metadata[0]);
  return BPDQ_OK;
}

/* Fills `header` and, in the order of the file, `placed`. */
static bpdq_status lay_out(const bpdq_tensor_to_write *tensors, size_t count, placed_tensor *placed, json_t *header, bpdq_error *error) {
  for (size_t i = 0; i < count; i++) {
    placed[i].tensor = &tensors[i];
    BPDQ_TRY(measure(&tensors[i], &placed[i].bytes, error));
  }
  qsort(placed, count, sizeof *placed, by_width_and_name);
  uint64_t offset = 0;
  for (size_t i = 0; i < count; i++) {
    const bpdq_tensor_to_write *tensor = placed[i].tensor;
    uint64_t end;
    if (!bpdq_add_u64(offset, placed[i].bytes, &end) || end > INT64_MAX)
      return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "the tensors are too large for one file");
    if (json_object_get(header, tensor->name)) return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "tensor '%.200s' is given twice", tensor->name);
    if (json_object_set_new(header, tensor->name, describe_tensor(tensor, offset, end)) != 0)
      return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "the name of tensor '%.200s' is not UTF-8", tensor->name);
    offset = end;
  }
  return BPDQ_OK;
}

static bpdq_status write_header(bpdq_output_file *file, const json_t *header, bpdq_error *error) {
  char *text = json_dumps(header, JSON_COMPACT);
  if (!text) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for the header");
  size_t length = strlen(text);
  uint64_t padded = bpdq_round_up(length, 8); /* blanks behind the JSON align the data */
  uint8_t prefix[8];
  for (int i = 0; i < 8; i++) prefix[i] = (uint8_t)(padded >> (8 * i));
  bpdq_status status = bpdq_output_write(file, prefix, sizeof prefix, error);
  if (status == BPDQ_OK) status = bpdq_output_write(file, text, length, error);
  if (status == BPDQ_OK) status = bpdq_output_write(file, "        ", (size_t)(padded - length), error);
  free(text);
  return status;
}

static bpdq_status write_file(const char *path, const placed_tensor *placed, size_t count, const json_t *header, bpdq_error *error) {
  bpdq_output_file *file;
  BPDQ_TRY(bpdq_output_open(path, &file, error));
  bpdq_status status = write_header(file, header, error);
  for (size_t i = 0; i < count && status == BPDQ_OK; i++)
    if (placed[i].bytes > 0) status = bpdq_output_write(file, placed[i].tensor->data, (size_t)placed[i].bytes, error);
  if (status == BPDQ_OK) return bpdq_output_commit(file, error);
  bpdq_output_discard(file);
  return status;
}

bpdq_status bpdq_safetensors_write(const char *path, const bpdq_tensor_to_write *tensors, size_t count, const char *const *metadata,
                                   bpdq_error *error) {
  placed_tensor *placed = bpdq_alloc_array(count, sizeof *placed);
  json_t *header = json_object();
  bpdq_status status = placed && header ? BPDQ_OK : bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory");
  if (status == BPDQ_OK) status = describe_metadata(metadata, header, error);
  if (status == BPDQ_OK) status = lay_out(tensors, count, placed, header, error);
  if (status != BPDQ_OK) {
    bpdq_fail_context(error, status, "%s", path);
  } else {
    status = write_file(path, placed, count, header, error);
  }
  free(placed);
  json_decref(header);
  return status;
}
