/* The double-precision oracle of the operation suite: every operation of backend/program.h, written as its definition reads. */
#ifndef BPDQ_TESTS_ORACLE_H
#define BPDQ_TESTS_ORACLE_H

#include "backend/backend.h"

/* A matrix in checkpoint layout (one part) and, beside it, the values it stands for. */
typedef struct oracle_matrix {
  bpdq_weight_kind kind;
  int64_t rows, columns;
  int planes, group;
  bpdq_dtype dtype; /* dense data or coefficients */
  void *data;       /* as bpdq_weight_part.data, deliberately unaligned */
  void *coefficients;
  double *values; /* [rows, columns] */
} oracle_matrix;

/* Deterministic random numbers: uniform in [-1, 1). */
typedef struct oracle_random {
  uint64_t state;
} oracle_random;
double oracle_uniform(oracle_random *random);
uint32_t oracle_bits(oracle_random *random);

oracle_matrix oracle_planes(oracle_random *random, int64_t rows, int64_t columns, int planes, int group, bpdq_dtype coefficient_type);
oracle_matrix oracle_dense(oracle_random *random, int64_t rows, int64_t columns, bpdq_dtype type);
void oracle_matrix_free(oracle_matrix *matrix);

/* out[width] = transform(x), x as the row of the input tensor. `norm` is NULL unless RMS_NORM. */
void oracle_transform(const bpdq_transform *transform, const float *norm, const float *x, int64_t width, double *out);

/* out[n] = sum_j values[n, j] * x[j] */
void oracle_product(const oracle_matrix *matrix, const double *x, double *out);

/* Rotates one head in place by a row of the rope table, after an optional RMS norm with weights norm[head_dim]. */
void oracle_rope(double *head, int64_t head_dim, const float *table, const float *norm, double epsilon);

/* One query head over `count` cached rows: keys and values are [count, head_dim] with the given row stride. */
void oracle_attention(const double *query, const double *keys, const double *values, int64_t count, int64_t stride, int64_t head_dim,
                      double scale, double *out);

/* Rounds to f16 and back. */
double oracle_half(double value);

#endif
