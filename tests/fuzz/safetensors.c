/* The input is a safetensors file, or, where it starts with '{', the index of a model folder with one small shard. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../temporary.h"
#include "core/platform.h"
#include "format/safetensors.h"

static char folder[192];

static void remove_folder(void) { bpdq_remove_folder(folder, NULL); }

static void write_file(const char *name, const void *data, size_t size) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) abort();
}

static void prepare(void) {
  const char shard[] =
      "\x36\0\0\0\0\0\0\0"
      "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}} x";
  if (!temporary_folder(folder, sizeof folder, "bpdq-fuzz") || atexit(remove_folder) != 0) abort();
  write_file("a.safetensors", shard, sizeof shard - 1);
  bpdq_safetensors *files;
  if (bpdq_safetensors_open_folder(folder, &files, NULL) != BPDQ_OK) abort();
  bpdq_safetensors_close(files);
}

/* Touches what a reader would: every accepted tensor must lie inside its file. */
static void read_all(const bpdq_safetensors *files) {
  volatile uint8_t sum = 0;
  for (size_t i = 0; i < bpdq_safetensors_count(files); i++) {
    const bpdq_stored_tensor *tensor = bpdq_safetensors_at(files, i);
    if (bpdq_safetensors_find(files, tensor->name) != tensor) abort();
    for (uint64_t byte = 0; byte < tensor->bytes; byte++) sum = sum ^ tensor->data[byte];
    uint64_t size = bpdq_stored_type_size(tensor->type);
    for (int d = 0; d < tensor->dimensions; d++) size *= (uint64_t)tensor->shape[d];
    if (tensor->type != BPDQ_STORED_OTHER && size != tensor->bytes) abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static bool prepared;
  if (!prepared) prepare();
  prepared = true;
  bpdq_safetensors *files;
  bpdq_error error;
  bpdq_status status;
  if (size > 0 && data[0] == '{') {
    write_file("model.safetensors.index.json", data, size);
    status = bpdq_safetensors_open_folder(folder, &files, &error);
  } else {
    char path[256];
    write_file("input", data, size);
    snprintf(path, sizeof path, "%s/input", folder);
    status = bpdq_safetensors_open(path, &files, &error);
  }
  if (status != BPDQ_OK) {
    if (files || error.message[0] == '\0') abort();
    return 0;
  }
  read_all(files);
  bpdq_safetensors_metadata(files, "format");
  bpdq_safetensors_close(files);
  return 0;
}
