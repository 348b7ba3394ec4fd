/* safetensors files: an 8-byte little-endian header length, a JSON header, then raw tensor bytes. Mapped, never read whole. */
#ifndef BPDQ_FORMAT_SAFETENSORS_H
#define BPDQ_FORMAT_SAFETENSORS_H

#include "core/platform.h"

#define BPDQ_MAX_DIMENSIONS 8

typedef enum bpdq_stored_type { /* as spelled in the header */
                                BPDQ_STORED_F64,
                                BPDQ_STORED_F32,
                                BPDQ_STORED_F16,
                                BPDQ_STORED_BF16,
                                BPDQ_STORED_I64,
                                BPDQ_STORED_I32,
                                BPDQ_STORED_I16,
                                BPDQ_STORED_I8,
                                BPDQ_STORED_U8,
                                BPDQ_STORED_BOOL,
                                BPDQ_STORED_OTHER /* a type this runtime has no use for (F8_E4M3 ...); size is checked against the offsets
                                                     only */
} bpdq_stored_type;

/* A tensor in a mapped file. `data` has no alignment; `name` and `data` live as long as the file or collection. */
typedef struct bpdq_stored_tensor {
  const char *name;
  bpdq_stored_type type;
  int dimensions;
  int64_t shape[BPDQ_MAX_DIMENSIONS];
  const uint8_t *data;
  uint64_t bytes;
  int file; /* index of the shard, for messages and release hints */
} bpdq_stored_tensor;

typedef struct bpdq_safetensors bpdq_safetensors; /* one file or all shards of a model */

/* Opens one file. Everything is validated before this returns: header length within the file and at most 100 MB, JSON depth, every
 * offset range inside the data, sizes equal to shape x type, no overlap, no duplicate names, the whole data section covered. */
bpdq_status bpdq_safetensors_open(const char *path, bpdq_safetensors **file, bpdq_error *error);

/* Opens a model folder: model.safetensors.index.json with its shards, or model.safetensors, or a single *.safetensors file. Shards named by
 * the index must exist and hold the tensors that the index puts there; a shard name must not leave the folder. */
bpdq_status bpdq_safetensors_open_folder(const char *folder, bpdq_safetensors **files, bpdq_error *error);
void bpdq_safetensors_close(bpdq_safetensors *file); /* NULL is allowed */

/* NULL where there is none. */
const bpdq_stored_tensor *bpdq_safetensors_find(const bpdq_safetensors *file, const char *name);
size_t bpdq_safetensors_count(const bpdq_safetensors *file);
const bpdq_stored_tensor *bpdq_safetensors_at(const bpdq_safetensors *file, size_t index); /* by name, ascending */
const char *bpdq_safetensors_path(const bpdq_safetensors *file, int shard);
/* Value of a __metadata__ entry, or NULL. */
const char *bpdq_safetensors_metadata(const bpdq_safetensors *file, const char *key);

/* Tells the operating system that `bytes` of a tensor from `offset` will be read soon; may wait for the disk. */
void bpdq_safetensors_will_need(const bpdq_safetensors *file, const bpdq_stored_tensor *tensor, uint64_t offset, uint64_t bytes);
/* The same that a tensor's pages may leave memory. */
void bpdq_safetensors_release(const bpdq_safetensors *file, const bpdq_stored_tensor *tensor);

const char *bpdq_stored_type_name(bpdq_stored_type type); /* "BF16" ... */
size_t bpdq_stored_type_size(bpdq_stored_type type);      /* 0 for OTHER */

/* ---- writing ---- */

typedef struct bpdq_tensor_to_write {
  const char *name;
  bpdq_stored_type type;
  int dimensions;
  int64_t shape[BPDQ_MAX_DIMENSIONS];
  const void *data; /* native little-endian, contiguous */
} bpdq_tensor_to_write;

/* Writes a file (temporary name, sync, rename). `metadata` is NULL or pairs key, value, ..., NULL. Data starts 8-byte aligned. */
bpdq_status bpdq_safetensors_write(const char *path, const bpdq_tensor_to_write *tensors, size_t count, const char *const *metadata,
                                   bpdq_error *error);

#endif
