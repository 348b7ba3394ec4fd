/* The input is the model.safetensors of a folder with a fixed config: one layer, hidden 32, one head, 4 tokens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../temporary.h"
#include "core/platform.h"
#include "format/checkpoint.h"

static char folder[192];

static const char config[] =
    "{\"model_type\":\"llama\",\"vocab_size\":4,\"hidden_size\":32,\"intermediate_size\":40,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":1,\"tie_word_embeddings\":true,"
    "\"quantization_config\":{\"quant_method\":\"bpdq\",\"group_size\":32,\"msbits\":2}}";

static void remove_folder(void) { bpdq_remove_folder(folder, NULL); }

static void write_file(const char *name, const void *data, size_t size) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) abort();
}

/* What the backends rely on when they repack a linear without further checks. */
static void check_linear(const bpdq_linear_source *linear) {
  if (linear->weight) {
    uint64_t width = bpdq_stored_type_size(linear->weight->type);
    if (linear->weight->bytes != (uint64_t)(linear->rows * linear->columns) * width) abort();
    return;
  }
  int64_t groups = linear->coefficients->shape[0];
  if (linear->planes < 1 || linear->planes > 8 || linear->group < 32 || linear->group > 256 || linear->group % 32 != 0) abort();
  if (groups != (linear->columns + linear->group - 1) / linear->group) abort();
  if (linear->bits->bytes != (uint64_t)(groups * linear->group / 8 * linear->planes * linear->rows)) abort();
  uint64_t width = bpdq_stored_type_size(linear->coefficients->type);
  if (linear->coefficients->bytes != (uint64_t)(groups * (linear->planes + 1) * linear->rows) * width) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static bool prepared;
  if (!prepared) {
    if (!temporary_folder(folder, sizeof folder, "bpdq-fuzz") || atexit(remove_folder) != 0) abort();
    write_file("config.json", config, sizeof config - 1);
    prepared = true;
  }
  write_file("model.safetensors", data, size);
  bpdq_checkpoint checkpoint;
  bpdq_error error;
  if (bpdq_checkpoint_open(folder, &checkpoint, NULL, &error) != BPDQ_OK) {
    if (error.message[0] == '\0' || checkpoint.tensors) abort();
    return 0;
  }
  const bpdq_layer_source *layer = &checkpoint.layers[0];
  const bpdq_linear_source *linears[] = {&layer->q,    &layer->k,  &layer->v,    &layer->o,
                                         &layer->gate, &layer->up, &layer->down, &checkpoint.head};
  for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) check_linear(linears[i]);
  bpdq_checkpoint_close(&checkpoint);
  return 0;
}
