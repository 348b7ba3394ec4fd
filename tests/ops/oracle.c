#include "oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "core/half.h"

uint32_t oracle_bits(oracle_random *random) { /* xorshift64* */
  uint64_t x = random->state ? random->state : 0x9e3779b97f4a7c15u;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  random->state = x;
  return (uint32_t)((x * 0x2545f4914f6cdd1du) >> 32);
}

double oracle_uniform(oracle_random *random) { return oracle_bits(random) * 0x1p-31 - 1.0; }

double oracle_half(double value) { return bpdq_f16_to_float(bpdq_float_to_f16((float)value)); }

/* Stores a value in the type at an unaligned place and returns what was stored. */
static double store(void *base, size_t index, bpdq_dtype type, double value) {
  uint16_t half;
  float single = (float)value;
  switch (type) {
    case BPDQ_F16:
      half = bpdq_float_to_f16(single);
      memcpy((char *)base + 2 * index, &half, 2);
      return bpdq_f16_to_float(half);
    case BPDQ_BF16:
      half = bpdq_float_to_bf16(single);
      memcpy((char *)base + 2 * index, &half, 2);
      return bpdq_bf16_to_float(half);
    default:
      memcpy((char *)base + 4 * index, &single, 4);
      return single;
  }
}

/* One byte off malloc's alignment, as a tensor in a safetensors file may be. */
static void *unaligned_alloc(size_t bytes) {
  return (char *)calloc(bytes + 1, 1) + 1; /* NOLINT(bugprone-misplaced-pointer-arithmetic-in-alloc) */
}
static void unaligned_free(void *memory) {
  if (memory) free((char *)memory - 1);
}

oracle_matrix oracle_planes(oracle_random *random, int64_t rows, int64_t columns, int planes, int group, bpdq_dtype coefficient_type) {
  int64_t groups = (int64_t)bpdq_ceil_div((uint64_t)columns, (uint64_t)group), words = groups * group / 32;
  oracle_matrix m = {BPDQ_WEIGHT_PLANES, rows, columns, planes, group, coefficient_type, NULL, NULL, NULL};
  m.data = unaligned_alloc((size_t)(words * planes * rows) * 4);
  m.coefficients = unaligned_alloc((size_t)(groups * (planes + 1) * rows) * 4);
  m.values = malloc((size_t)(rows * columns) * sizeof *m.values);
  double *c = malloc((size_t)(groups * (planes + 1) * rows) * sizeof *c);
  for (int64_t i = 0; i < groups * (planes + 1) * rows; i++)
    c[i] = store(m.coefficients, (size_t)i, coefficient_type, 0.05 * oracle_uniform(random));
  for (int64_t i = 0; i < words * planes * rows; i++) {
    uint32_t bits = oracle_bits(random);
    memcpy((char *)m.data + 4 * i, &bits, 4);
  }
  for (int64_t n = 0; n < rows; n++)
    for (int64_t j = 0; j < columns; j++) {
      int64_t q = j / group;
      double value = c[(q * (planes + 1) + planes) * rows + n];
      for (int p = 0; p < planes; p++) {
        uint32_t word;
        memcpy(&word, (char *)m.data + 4 * ((j / 32 * planes + p) * rows + n), 4);
        if (word >> (j % 32) & 1) value += c[(q * (planes + 1) + p) * rows + n];
      }
      m.values[n * columns + j] = value;
    }
  free(c);
  return m;
}

oracle_matrix oracle_dense(oracle_random *random, int64_t rows, int64_t columns, bpdq_dtype type) {
  oracle_matrix m = {BPDQ_WEIGHT_DENSE, rows, columns, 0, 0, type, NULL, NULL, NULL};
  m.data = unaligned_alloc((size_t)(rows * columns) * 4);
  m.values = malloc((size_t)(rows * columns) * sizeof *m.values);
  for (int64_t i = 0; i < rows * columns; i++) m.values[i] = store(m.data, (size_t)i, type, 0.1 * oracle_uniform(random));
  return m;
}

void oracle_matrix_free(oracle_matrix *matrix) {
  unaligned_free(matrix->data);
  unaligned_free(matrix->coefficients);
  free(matrix->values);
  memset(matrix, 0, sizeof *matrix);
}

void oracle_transform(const bpdq_transform *transform, const float *norm, const float *x, int64_t width, double *out) {
  double squares = 0;
  switch (transform->kind) {
    case BPDQ_TRANSFORM_NONE:
      for (int64_t i = 0; i < width; i++) out[i] = x[i];
      return;
    case BPDQ_TRANSFORM_RMS_NORM:
      for (int64_t i = 0; i < width; i++) squares += (double)x[i] * x[i];
      for (int64_t i = 0; i < width; i++) out[i] = x[i] / sqrt(squares / (double)width + transform->epsilon) * norm[i];
      return;
    case BPDQ_TRANSFORM_SILU_GATE:
      for (int64_t i = 0; i < width; i++) out[i] = x[i] / (1 + exp(-(double)x[i])) * x[width + i];
      return;
  }
}

void oracle_product(const oracle_matrix *matrix, const double *x, double *out) {
  for (int64_t n = 0; n < matrix->rows; n++) {
    double sum = 0;
    for (int64_t j = 0; j < matrix->columns; j++) sum += matrix->values[n * matrix->columns + j] * x[j];
    out[n] = sum;
  }
}

void oracle_rope(double *head, int64_t head_dim, const float *table, const float *norm, double epsilon) {
  if (norm) {
    double squares = 0;
    for (int64_t i = 0; i < head_dim; i++) squares += head[i] * head[i];
    for (int64_t i = 0; i < head_dim; i++) head[i] = head[i] / sqrt(squares / (double)head_dim + epsilon) * norm[i];
  }
  int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; i++) {
    double a = head[i], b = head[i + half], c = table[i], s = table[half + i];
    head[i] = a * c - b * s;
    head[i + half] = b * c + a * s;
  }
}

void oracle_attention(const double *query, const double *keys, const double *values, int64_t count, int64_t stride, int64_t head_dim,
                      double scale, double *out) {
  double *weight = malloc((size_t)count * sizeof *weight), largest = -INFINITY, total = 0;
  for (int64_t p = 0; p < count; p++) {
    double dot = 0;
    for (int64_t i = 0; i < head_dim; i++) dot += query[i] * keys[p * stride + i];
    weight[p] = dot * scale;
    largest = fmax(largest, weight[p]);
  }
  for (int64_t i = 0; i < head_dim; i++) out[i] = 0;
  for (int64_t p = 0; p < count; p++) {
    double w = exp(weight[p] - largest);
    total += w;
    for (int64_t i = 0; i < head_dim; i++) out[i] += w * values[p * stride + i];
  }
  for (int64_t i = 0; i < head_dim; i++) out[i] /= total;
  free(weight);
}
