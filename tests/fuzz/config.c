/* The input is the text of a config.json. */
#include <stdlib.h>

#include "format/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  bpdq_config config;
  bpdq_error error;
  if (bpdq_config_parse((const char *)data, size, &config, NULL, &error) != BPDQ_OK) {
    if (error.message[0] == '\0' || config.quantization.dynamic) abort();
    return 0;
  }
  /* What the rest of the program relies on. */
  if (config.heads < 1 || config.kv_heads < 1 || config.heads % config.kv_heads != 0 || config.head_dim < 2 || config.head_dim % 2 != 0)
    abort();
  if (config.layers < 1 || config.hidden_size < 1 || config.vocab_size < 1 || config.context_length < 1) abort();
  if (!(config.rope.theta > 1) || !(config.norm_epsilon > 0)) abort();
  int planes, group;
  bpdq_config_module(&config, "model.layers.0.self_attn.q_proj", &planes, &group);
  bpdq_config_module(&config, "lm_head", &planes, &group);
  bpdq_config_free(&config);
  return 0;
}
