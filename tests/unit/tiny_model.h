/* Tiny models with random weights whose residual streams are compared. Include after cmocka.h and math.h. */
#ifndef BPDQ_TESTS_UNIT_TINY_MODEL_H
#define BPDQ_TESTS_UNIT_TINY_MODEL_H

#include "layers.h"
#include "quantizer/capture.h"

typedef struct tiny_model {
  const char *what;
  int64_t hidden, middle, heads, kv_heads, head_dim, windows, length;
  bool bias, qk_norm, dense_target, residual_target;
  uint64_t memory_limit; /* of the device; so little that streams are in a file of the host and inputs are computed again */
  double tolerance;      /* of the Frobenius norm of the difference, relative to the CPU's; products are TF32 on the device */
} tiny_model;

enum { TINY_VOCAB = 50, TINY_BLOCKS = 2 };

static inline float *random_matrix(int64_t rows, int64_t columns, float scale, float offset, uint64_t *seed) {
  float *values = malloc((size_t)(rows * columns) * sizeof *values);
  assert_non_null(values);
  for (int64_t i = 0; i < rows * columns; i++) values[i] = offset + scale * random_value(seed);
  return values;
}

static inline bpdq_block random_block(const tiny_model *m, uint64_t *seed) {
  int64_t q = m->heads * m->head_dim, k = m->kv_heads * m->head_dim;
  const int64_t shapes[BPDQ_LINEARS][2] = {{q, m->hidden},         {k, m->hidden},         {k, m->hidden},        {m->hidden, q},
                                           {m->middle, m->hidden}, {m->middle, m->hidden}, {m->hidden, m->middle}};
  bpdq_block block = {.attention_norm = random_matrix(1, m->hidden, 0.3f, 1, seed), .mlp_norm = random_matrix(1, m->hidden, 0.3f, 1, seed)};
  if (m->qk_norm) block.q_norm = random_matrix(1, m->head_dim, 0.3f, 1, seed);
  if (m->qk_norm) block.k_norm = random_matrix(1, m->head_dim, 0.3f, 1, seed);
  for (int i = 0; i < BPDQ_LINEARS; i++) {
    int64_t n = shapes[i][0], columns = shapes[i][1];
    block.linears[i] = (bpdq_block_linear){.name = "test", .rows = n, .columns = columns};
    block.linears[i].weight = random_matrix(n, columns, 2 / sqrtf((float)columns), 0, seed);
    if (m->bias) block.linears[i].bias = random_matrix(1, n, 0.5f, 0, seed);
  }
  return block;
}

/* Frobenius norm of the difference over that of `expected`. */
static inline double relative_error(const float *values, const float *expected, int64_t count) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < count; i++) {
    double d = (double)values[i] - (double)expected[i];
    difference += d * d;
    norm += (double)expected[i] * (double)expected[i];
  }
  return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

/* The dense weights with some noise. */
static inline bpdq_block changed_block(const tiny_model *m, const bpdq_block *dense, uint64_t *seed) {
  bpdq_block block = random_block(m, seed);
  for (int i = 0; i < BPDQ_LINEARS; i++) {
    bpdq_block_linear *q = &block.linears[i];
    const bpdq_block_linear *d = &dense->linears[i];
    for (int64_t j = 0; j < q->rows * q->columns; j++) q->weight[j] = d->weight[j] + 0.2f * q->weight[j];
    if (q->bias) memcpy(q->bias, d->bias, (size_t)q->rows * sizeof(float));
  }
  return block;
}

/* What streams are made of: an embedding, the shapes, and token ids. */
typedef struct tiny_checkpoint {
  bpdq_checkpoint checkpoint;
  bpdq_stored_tensor embedding;
  float *values;
  bpdq_calibration calibration;
} tiny_checkpoint;

static inline void make_tiny_checkpoint(const tiny_model *m, uint64_t *seed, tiny_checkpoint *tiny) {
  tiny->values = random_matrix(TINY_VOCAB, m->hidden, 1, 0, seed);
  tiny->embedding =
      (bpdq_stored_tensor){.name = "embedding", .type = BPDQ_STORED_F32, .dimensions = 2, .data = (const uint8_t *)tiny->values};
  tiny->embedding.shape[0] = TINY_VOCAB;
  tiny->embedding.shape[1] = m->hidden;
  tiny->checkpoint = (bpdq_checkpoint){.embedding = &tiny->embedding};
  tiny->checkpoint.config = (bpdq_config){.vocab_size = TINY_VOCAB,
                                          .hidden_size = m->hidden,
                                          .intermediate_size = m->middle,
                                          .heads = m->heads,
                                          .kv_heads = m->kv_heads,
                                          .head_dim = m->head_dim,
                                          .context_length = 4096,
                                          .norm_epsilon = 1e-6,
                                          .rope = {.theta = 10000, .factor = 1}};
  tiny->calibration = (bpdq_calibration){calloc((size_t)(m->windows * m->length), sizeof(int32_t)), m->windows, m->length};
  assert_non_null(tiny->calibration.ids);
  for (int64_t t = 0; t < m->windows * m->length; t++) tiny->calibration.ids[t] = (int32_t)((random_value(seed) + 1) * TINY_VOCAB / 2);
}

static inline void free_tiny_checkpoint(tiny_checkpoint *tiny) {
  free(tiny->calibration.ids);
  free(tiny->values);
}

#endif
