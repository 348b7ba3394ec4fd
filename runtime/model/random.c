/* Shapes of known models, and weights of random bits in those shapes. */
#include "model/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"

typedef struct model_shape {
  const char *name;
  bpdq_architecture architecture;
  const char *model_type;
  int64_t layers, hidden, intermediate, vocab, heads, kv_heads, head_dim;
  bool tied;
} model_shape;

static const model_shape shapes[] = {
    {"qwen2.5-0.5b", BPDQ_QWEN2, "qwen2", 24, 896, 4864, 151936, 14, 2, 64, true},
    {"qwen2.5-1.5b", BPDQ_QWEN2, "qwen2", 28, 1536, 8960, 151936, 12, 2, 128, true},
    {"llama-3.2-1b", BPDQ_LLAMA, "llama", 16, 2048, 8192, 128256, 32, 8, 64, true},
    {"qwen2.5-7b", BPDQ_QWEN2, "qwen2", 28, 3584, 18944, 152064, 28, 4, 128, false},
    {"qwen2.5-72b", BPDQ_QWEN2, "qwen2", 80, 8192, 29568, 152064, 64, 8, 128, false},
    {"tiny", BPDQ_QWEN2, "qwen2", 2, 128, 320, 4096, 4, 2, 32, false}, /* of no model: for tests of what measures */
};

static const model_shape *find_shape(const char *name) {
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    if (!strcmp(shapes[i].name, name)) return &shapes[i];
  return NULL;
}

static bpdq_status shape_unknown(const char *name, bpdq_error *error) {
  char known[256] = "";
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    size_t used = strlen(known);
    snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", shapes[i].name);
  }
  return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "unknown shape \"%s\"; there are %s", name, known);
}

static void set_config(bpdq_config *config, const model_shape *shape) {
  config->architecture = shape->architecture;
  snprintf(config->model_type, sizeof config->model_type, "%s", shape->model_type);
  config->layers = shape->layers;
  config->hidden_size = shape->hidden;
  config->intermediate_size = shape->intermediate;
  config->vocab_size = shape->vocab;
  config->heads = shape->heads;
  config->kv_heads = shape->kv_heads;
  config->head_dim = shape->head_dim;
  config->context_length = 131072;
  config->norm_epsilon = 1e-6;
  config->tied_head = shape->tied;
  config->attention_bias = shape->architecture == BPDQ_QWEN2;
  config->rope = (bpdq_rope_config){.kind = BPDQ_ROPE_DEFAULT, .theta = 1e6, .factor = 1};
}

bpdq_status bpdq_random_config(const char *name, bpdq_config *config, bpdq_error *error) {
  const model_shape *shape = find_shape(name);
  if (!shape) return shape_unknown(name, error);
  memset(config, 0, sizeof *config);
  set_config(config, shape);
  return BPDQ_OK;
}

bpdq_status bpdq_random_check(int planes, int group, bpdq_error *error) {
  if (planes < 1 || planes > 8) return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "planes must be 1 to 8, not %d", planes);
  if (group < 32 || group > 256 || group % 32)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "group must be a multiple of 32 from 32 to 256, not %d", group);
  return BPDQ_OK;
}

static void fill_random(void *memory, size_t bytes, uint64_t *state) {
  for (size_t i = 0; i < bytes; i += 8) {
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    *state = x;
    memcpy((char *)memory + i, &x, bytes - i < 8 ? bytes - i : 8);
  }
}

/* bf16 values of magnitude below 2^-5: the upper bits of the exponent are fixed, the rest is random. */
static void fill_small_bf16(uint16_t *values, size_t count, uint64_t *state) {
  fill_random(values, count * 2, state);
  for (size_t i = 0; i < count; i++) values[i] = (uint16_t)((values[i] & 0x80ffu) | 0x3c00u);
}

/* For backends without weight_random: host buffers in checkpoint layout. */
static bpdq_status create_from_host(bpdq_backend *backend, bpdq_weight_desc *desc, bpdq_weight_part *part, uint64_t seed,
                                    bpdq_weight **weight, bpdq_error *error) {
  int64_t groups = (int64_t)bpdq_ceil_div((uint64_t)desc->columns, (uint64_t)(desc->group ? desc->group : 1));
  bool planes = desc->kind == BPDQ_WEIGHT_PLANES;
  size_t data_count = planes ? (size_t)(groups * desc->group / 32 * desc->planes * part->rows) : (size_t)(part->rows * desc->columns);
  size_t coefficient_count = planes ? (size_t)(groups * (desc->planes + 1) * part->rows) : 0;
  void *data = bpdq_alloc_array(data_count, planes ? 4 : 2), *coefficients = bpdq_alloc_array(coefficient_count, 2);
  bpdq_status status = BPDQ_ERROR_MEMORY;
  if (data && coefficients) {
    if (planes)
      fill_random(data, data_count * 4, &seed);
    else
      fill_small_bf16(data, data_count, &seed);
    fill_small_bf16(coefficients, coefficient_count, &seed);
    part->data = data;
    part->coefficients = coefficients;
    status = backend->weight_create(backend, desc, weight, error);
    if (status == BPDQ_OK) status = backend->weights_flush(backend, error);
  } else {
    bpdq_fail(error, status, "out of host memory for random weights");
  }
  free(data);
  free(coefficients);
  return status;
}

bpdq_status bpdq_random_matrix(bpdq_backend *backend, const char *name, int64_t rows, int64_t columns, int planes, int group, uint64_t seed,
                               bpdq_weight **weight, bpdq_error *error) {
  bpdq_weight_part part = {.rows = rows, .dtype = planes ? BPDQ_I32 : BPDQ_BF16, .coefficient_dtype = BPDQ_BF16};
  bpdq_weight_desc desc = {
      planes ? BPDQ_WEIGHT_PLANES : BPDQ_WEIGHT_DENSE, name, columns, planes, planes ? group : 0, &part, 1, false, !planes};
  if (backend->weight_random) return backend->weight_random(backend, &desc, seed, weight, error);
  return create_from_host(backend, &desc, &part, seed, weight, error);
}

bpdq_status bpdq_constant_vector(bpdq_backend *backend, int64_t rows, float value, bpdq_weight **weight, bpdq_error *error) {
  float *values = bpdq_alloc_array((size_t)rows, sizeof *values);
  if (!values) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory for random weights");
  for (int64_t i = 0; i < rows; i++) values[i] = value;
  bpdq_weight_part part = {rows, values, BPDQ_F32, NULL, BPDQ_F32};
  bpdq_weight_desc desc = {BPDQ_WEIGHT_VECTOR, "vector", 1, 0, 0, &part, 1, false, false};
  bpdq_status status = backend->weight_create(backend, &desc, weight, error);
  if (status == BPDQ_OK) status = backend->weights_flush(backend, error);
  free(values);
  return status;
}
