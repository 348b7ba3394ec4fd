/* Linear layers for the tests of linear algebras: the reference vectors, and made ones of any shape. Include after cmocka.h. */
#ifndef BPDQ_TESTS_UNIT_LAYERS_H
#define BPDQ_TESTS_UNIT_LAYERS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bpdq_quantizer.h"
#include "format/safetensors.h"
#include "quantizer/method.h"

typedef struct layer {
  int64_t rows, columns;
  float *weight, *hessian, *cross, *residual; /* W [N, K], H and C [K, K], R [N, K]; C and R may be NULL */
  bool whole;                                 /* R holds W C + R */
} layer;

static inline void free_layer(layer *l) {
  free(l->weight);
  free(l->hessian);
  free(l->cross);
  free(l->residual);
}

static inline bpdq_algebra *make(const char *name) {
  bpdq_algebra *algebra = NULL;
  bpdq_error error = {0};
  if (bpdq_algebra_create(name, 2, &algebra, &error) != BPDQ_OK) fail_msg("%s", error.message);
  return algebra;
}

#define CHECK(call)                                                   \
  do {                                                                \
    bpdq_error error_ = {0}, *error = &error_;                        \
    if ((call) != BPDQ_OK) fail_msg("%s: %s", #call, error_.message); \
  } while (0)

static inline bpdq_statistics *make_statistics(bpdq_algebra *algebra, const layer *l) {
  bpdq_statistics_desc desc = {"test", l->columns, l->cross != NULL, l->residual ? l->rows : 0, l->whole};
  bpdq_statistics *statistics;
  CHECK(algebra->statistics_create(algebra, &desc, &statistics, error));
  return statistics;
}

/* Finishes the statistics, quantizes the layer, and destroys statistics and algebra. Returns the report, and the dequantized weights in
 * `values` unless it is NULL. */
static inline bpdq_layer_report quantize_with(bpdq_algebra *algebra, bpdq_statistics *statistics, const layer *l,
                                              const bpdq_quantize_options *options, float *values) {
  bpdq_inputs *inputs;
  bpdq_inputs_info info;
  bpdq_layer_result result = {0};
  bpdq_layer_report report = {0};
  CHECK(algebra->statistics_finish(algebra, statistics, error));
  bpdq_inputs_desc inputs_desc = bpdq_method_inputs(bpdq_method_of(options->method), options, options->group);
  inputs_desc.factor = true;
  CHECK(algebra->inputs_create(algebra, statistics, &inputs_desc, &inputs, &info, error));
  bpdq_linear_job job = {"test", l->weight, l->rows, options->planes};
  CHECK(bpdq_quantize_linear(algebra, inputs, &info, &job, options, &result, &report, error));
  if (values) bpdq_dequantize_result(&result, NULL, values);
  bpdq_layer_result_free(&result);
  algebra->inputs_destroy(algebra, inputs);
  algebra->statistics_destroy(algebra, statistics);
  algebra->destroy(algebra);
  return report;
}

/* With the layer's own H, C and R. */
static inline bpdq_layer_report quantize(const char *name, const layer *l, const bpdq_quantize_options *options, float *values) {
  bpdq_algebra *algebra = make(name);
  bpdq_statistics *statistics = make_statistics(algebra, l);
  CHECK(algebra->statistics_set(algebra, statistics, l->hessian, l->cross, l->residual, error));
  return quantize_with(algebra, statistics, l, options, values);
}

/* With H, C and R from tokens, in calls of unequal size: x and dense f32 [tokens, columns], residual f32 [tokens, rows]. */
static inline bpdq_layer_report quantize_tokens(const char *name, const layer *l, const float *x, const float *dense, const float *residual,
                                                int64_t tokens, const bpdq_quantize_options *options, float *values) {
  bpdq_algebra *algebra = make(name);
  bpdq_statistics *statistics = make_statistics(algebra, l);
  for (int64_t done = 0, count = 1; done < tokens; done += count, count *= 5) {
    if (count > tokens - done) count = tokens - done;
    CHECK(algebra->statistics_add(algebra, statistics, x + done * l->columns, dense + done * l->columns, residual + done * l->rows, count,
                                  error));
  }
  return quantize_with(algebra, statistics, l, options, values);
}

/* tr((W - Q) H (W - Q)^T) in float64. */
static inline double objective(const layer *l, const float *values) {
  double total = 0;
  for (int64_t row = 0; row < l->rows; row++)
    for (int64_t i = 0; i < l->columns; i++) {
      double sum = 0;
      for (int64_t j = 0; j < l->columns; j++)
        sum += (double)l->hessian[i * l->columns + j] * ((double)l->weight[row * l->columns + j] - (double)values[row * l->columns + j]);
      total += sum * ((double)l->weight[row * l->columns + i] - (double)values[row * l->columns + i]);
    }
  return total;
}

static inline float *read_tensor(const bpdq_safetensors *file, const char *name, int64_t shape[2]) {
  const bpdq_stored_tensor *tensor = bpdq_safetensors_find(file, name);
  assert_non_null(tensor);
  float *data = malloc(tensor->bytes);
  assert_non_null(data);
  memcpy(data, tensor->data, tensor->bytes);
  shape[0] = tensor->shape[0];
  shape[1] = tensor->shape[1];
  return data;
}

typedef struct vector {
  const char *name;
  int planes, group;
} vector;

static const vector VECTORS[] = {{"k2_g64", 2, 64}, {"k3_g128", 3, 128}, {"k4_g32", 4, 32}, {"k2_g256_pad", 2, 256}};

/* W and H of a reference vector. */
static inline layer read_vector(const vector *v) {
  const char *shared = getenv("BPDQ_SHARED");
  char path[512];
  snprintf(path, sizeof path, "%s/vectors/%s.safetensors", shared ? shared : BPDQ_SHARED, v->name);
  bpdq_safetensors *file;
  CHECK(bpdq_safetensors_open(path, &file, error));
  int64_t shape[2];
  layer l = {0};
  l.hessian = read_tensor(file, "H", shape);
  l.weight = read_tensor(file, "W", shape);
  l.rows = shape[0];
  l.columns = shape[1];
  bpdq_safetensors_close(file);
  return l;
}

/* ---- made layers ---- */

/* Uniform in [-1, 1), the same on every machine. */
static inline float random_value(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (float)((double)(*state >> 11) / 4503599627370496.0 - 1.0);
}

/* Tokens with correlated columns of unequal size; column `dead` is 0 (-1: none). */
static inline float *make_tokens(int64_t tokens, int64_t columns, int64_t dead, uint64_t seed) {
  float *x = malloc((size_t)(tokens * columns) * sizeof *x);
  assert_non_null(x);
  for (int64_t t = 0; t < tokens; t++) {
    float common = random_value(&seed);
    for (int64_t j = 0; j < columns; j++)
      x[t * columns + j] = j == dead ? 0 : (common + random_value(&seed)) * (1 + 3 * (float)(j % 7 == 0));
  }
  return x;
}

static inline float *outer(const float *a, const float *b, int64_t tokens, int64_t rows, int64_t columns) {
  float *sum = malloc((size_t)(rows * columns) * sizeof *sum);
  assert_non_null(sum);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) {
      double total = 0;
      for (int64_t t = 0; t < tokens; t++) total += (double)a[t * rows + i] * (double)b[t * columns + j];
      sum[i * columns + j] = (float)(2 * total / (double)tokens);
    }
  return sum;
}

static inline layer make_layer(int64_t rows, int64_t columns, int64_t dead, bool streams) {
  enum { TOKENS = 300 };
  uint64_t seed = 7;
  layer l = {.rows = rows, .columns = columns};
  float *x = make_tokens(TOKENS, columns, dead, 1);
  l.hessian = outer(x, x, TOKENS, columns, columns);
  l.weight = malloc((size_t)(rows * columns) * sizeof(float));
  assert_non_null(l.weight);
  for (int64_t i = 0; i < rows * columns; i++) l.weight[i] = random_value(&seed) * random_value(&seed);
  if (streams) {
    float *dense = make_tokens(TOKENS, columns, dead, 1), *residual = make_tokens(TOKENS, rows, -1, 3);
    for (int64_t i = 0; i < TOKENS * columns; i++) dense[i] += 0.05f * random_value(&seed) * (dense[i] != 0);
    for (int64_t i = 0; i < TOKENS * rows; i++) residual[i] *= 0.05f;
    l.cross = outer(dense, x, TOKENS, columns, columns);
    l.residual = outer(residual, x, TOKENS, rows, columns);
    free(dense);
    free(residual);
  }
  free(x);
  return l;
}

/* outputs [tokens, rows] += W x. */
static inline void add_outputs(const layer *l, const float *x, int64_t tokens, float *outputs) {
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t row = 0; row < l->rows; row++)
      for (int64_t j = 0; j < l->columns; j++) outputs[t * l->rows + row] += l->weight[row * l->columns + j] * x[t * l->columns + j];
}

/* R becomes W C + R, and C is gone. */
static inline void join_targets(layer *l) {
  for (int64_t row = 0; row < l->rows; row++)
    for (int64_t j = 0; j < l->columns; j++) {
      double sum = (double)l->residual[row * l->columns + j];
      for (int64_t i = 0; i < l->columns; i++) sum += (double)l->weight[row * l->columns + i] * (double)l->cross[i * l->columns + j];
      l->residual[row * l->columns + j] = (float)sum;
    }
  free(l->cross);
  l->cross = NULL;
  l->whole = true;
}

#endif
