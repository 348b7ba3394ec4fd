/* Shapes of known models, and weights of random bits in those shapes, for benchmarks. */
#ifndef BPDQ_MODEL_RANDOM_H
#define BPDQ_MODEL_RANDOM_H

#include "model/model.h"

/* The configuration of a named shape (bpdq_model_random lists them). */
bpdq_status bpdq_random_config(const char *shape, bpdq_config *config, bpdq_error *error);

/* planes 1..8, group a multiple of 32 from 32 to 256. */
bpdq_status bpdq_random_check(int planes, int group, bpdq_error *error);

/* A matrix [rows, columns] of random bits and small coefficients; planes == 0: dense bf16, stored as an output head. */
bpdq_status bpdq_random_matrix(bpdq_backend *backend, const char *name, int64_t rows, int64_t columns, int planes, int group, uint64_t seed,
                               bpdq_weight **weight, bpdq_error *error);

/* A vector [rows] that holds one value. */
bpdq_status bpdq_constant_vector(bpdq_backend *backend, int64_t rows, float value, bpdq_weight **weight, bpdq_error *error);

#endif
