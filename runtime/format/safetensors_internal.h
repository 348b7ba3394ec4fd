/* What safetensors.c (one file) and safetensors_folder.c (a model's shards) share. */
#ifndef BPDQ_FORMAT_SAFETENSORS_INTERNAL_H
#define BPDQ_FORMAT_SAFETENSORS_INTERNAL_H

#include <jansson.h>

#include "format/safetensors.h"

typedef struct bpdq_safetensors_shard {
  char *path;
  bpdq_mapping mapping;
} bpdq_safetensors_shard;

struct bpdq_safetensors {
  bpdq_safetensors_shard *shards;
  int shard_count;
  bpdq_stored_tensor *tensors; /* names are owned here */
  size_t count;
  json_t *metadata; /* strings of all shards' __metadata__, or NULL */
};

/* Maps one more file and appends its checked tensors, unsorted. On failure close the collection. */
bpdq_status bpdq_safetensors_append(bpdq_safetensors *files, const char *path, bpdq_error *error);

/* Sorts the tensors by name once all files are in; the same name in two files is an error. */
bpdq_status bpdq_safetensors_sort(bpdq_safetensors *files, bpdq_error *error);

#endif
