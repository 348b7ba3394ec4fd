/* The residual stream before each block is kept from the dense pass, so that a measurement runs only the blocks from the changed one on. */
#include "sensitivity.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "core/threads.h"
#include "cpu/forward.h"

enum { HEAD_TOKENS = 32 }; /* tokens whose logits are computed at a time */

struct bpdq_sensitivity {
  const bpdq_checkpoint *checkpoint;
  const bpdq_calibration *windows;
  const bpdq_quantize_options *options;
  bpdq_forward forward;
  bpdq_pool *pool;
  int threads;
  bpdq_block *blocks; /* [layers] */
  float *norm;        /* [hidden] */
  bpdq_block_linear head;
  float *residual;      /* [layers + 1][windows * length][hidden]: before each block, and at the end */
  float *probabilities; /* [windows * length][vocab] of the dense model */
  double *entropies;    /* [windows * length]: sum p log p */
  float *scratch;       /* [threads][per_thread] */
  int64_t per_thread, input_size;
  double *divergences; /* [windows] */
};

typedef struct measurement {
  bpdq_sensitivity *s;
  int64_t layer; /* first block that differs, or `layers` for the dense pass */
  const bpdq_block *changed;
  bool dense; /* keep predictions and residual streams instead of comparing with them */
} measurement;

static float *matrix(int64_t rows, int64_t columns) {
  size_t count;
  if (__builtin_mul_overflow((size_t)rows, (size_t)columns, &count)) return NULL;
  return bpdq_alloc_array(count, sizeof(float));
}

void bpdq_sensitivity_destroy(bpdq_sensitivity *s) {
  if (!s) return;
  for (int64_t i = 0; s->blocks && i < s->checkpoint->config.layers; i++) bpdq_block_free(&s->blocks[i]);
  bpdq_forward_free(&s->forward);
  bpdq_pool_destroy(s->pool);
  free(s->blocks);
  free(s->norm);
  free(s->head.weight);
  free(s->residual);
  free(s->probabilities);
  free(s->entropies);
  free(s->scratch);
  free(s->divergences);
  free(s);
}

const bpdq_block *bpdq_sensitivity_block(const bpdq_sensitivity *sensitivity, int64_t layer) { return &sensitivity->blocks[layer]; }

/* Logits to e^(logit - largest) in place; returns the sum, and the largest in *shift. */
static double exponentiate(float *logits, int64_t count, float *shift) {
  float largest = logits[0];
  for (int64_t i = 1; i < count; i++) largest = logits[i] > largest ? logits[i] : largest;
  for (int64_t i = 0; i < count; i++) logits[i] -= largest;
  bpdq_exponentials(logits, count);
  double sum = 0;
  for (int64_t i = 0; i < count; i++) sum += (double)logits[i];
  *shift = largest;
  return sum;
}

/* The dense model's prediction of one token: probabilities in place, and their negative entropy. */
static double keep_prediction(float *logits, int64_t count) {
  float shift;
  double sum = exponentiate(logits, count, &shift), entropy = 0;
  for (int64_t i = 0; i < count; i++) {
    double p = (double)logits[i] / sum;
    logits[i] = (float)p;
    if (p > 0) entropy += p * log(p);
  }
  return entropy;
}

/* sum p log p - sum p log q for one token; destroys the logits. */
static double divergence_of(float *logits, const float *p, double entropy, int64_t count) {
  double expected = (double)cblas_sdot((int)count, p, 1, logits, 1);
  float shift;
  double sum = exponentiate(logits, count, &shift);
  return entropy - expected + log(sum) + (double)shift;
}

static void run_window(void *context, int64_t window, int thread) {
  measurement *m = context;
  bpdq_sensitivity *s = m->s;
  const bpdq_config *c = &s->checkpoint->config;
  int64_t tokens = s->windows->length, values = tokens * c->hidden_size, all = s->windows->count * values, first = m->dense ? 0 : m->layer;
  float *x = s->scratch + thread * s->per_thread, *input = x + values, *rest = input + s->input_size;
  memcpy(x, s->residual + first * all + window * values, (size_t)values * sizeof *x);
  for (int64_t layer = first; layer < c->layers; layer++) {
    const bpdq_block *block = layer == m->layer && m->changed ? m->changed : &s->blocks[layer];
    bpdq_forward_attention(&s->forward, block, x, tokens, input, rest);
    bpdq_forward_add(&block->linears[BPDQ_O], input, tokens, x);
    bpdq_forward_gate(&s->forward, block, x, tokens, input, rest);
    bpdq_forward_add(&block->linears[BPDQ_DOWN], input, tokens, x);
    if (m->dense) memcpy(s->residual + (layer + 1) * all + window * values, x, (size_t)values * sizeof *x);
  }
  bpdq_forward_norm(&s->forward, s->norm, x, tokens, input);
  double total = 0;
  for (int64_t first_token = 0; first_token < tokens; first_token += HEAD_TOKENS) {
    int64_t count = tokens - first_token < HEAD_TOKENS ? tokens - first_token : HEAD_TOKENS, row = window * tokens + first_token;
    float *kept = s->probabilities + row * c->vocab_size, *logits = m->dense ? kept : rest;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)count, (int)c->vocab_size, (int)c->hidden_size, 1,
                input + first_token * c->hidden_size, (int)c->hidden_size, s->head.weight, (int)c->hidden_size, 0, logits,
                (int)c->vocab_size);
    for (int64_t t = 0; t < count; t++)
      if (m->dense)
        s->entropies[row + t] = keep_prediction(logits + t * c->vocab_size, c->vocab_size);
      else
        total += divergence_of(logits + t * c->vocab_size, kept + t * c->vocab_size, s->entropies[row + t], c->vocab_size);
  }
  s->divergences[window] = total;
}

static bpdq_status load(bpdq_sensitivity *s, bpdq_error *error) {
  const bpdq_config *c = &s->checkpoint->config;
  int64_t tokens = s->windows->count * s->windows->length, hidden = c->hidden_size;
  BPDQ_TRY(bpdq_pool_create(s->options->threads, &s->pool, error));
  s->threads = bpdq_pool_threads(s->pool);
  BPDQ_TRY(bpdq_forward_create(c, s->windows->length, &s->forward, error));
  int64_t widest = c->intermediate_size > c->heads * c->head_dim ? c->intermediate_size : c->heads * c->head_dim;
  s->input_size = s->windows->length * (widest > hidden ? widest : hidden);
  int64_t rest = bpdq_forward_scratch(&s->forward), logits = HEAD_TOKENS * c->vocab_size;
  if (rest < logits) rest = logits;
  s->per_thread = s->windows->length * hidden + s->input_size + rest;
  s->blocks = calloc((size_t)c->layers, sizeof *s->blocks);
  s->norm = matrix(1, hidden);
  s->head = (bpdq_block_linear){.rows = c->vocab_size, .columns = hidden, .weight = matrix(c->vocab_size, hidden)};
  s->residual = matrix((c->layers + 1) * tokens, hidden);
  s->probabilities = matrix(tokens, c->vocab_size);
  s->entropies = bpdq_alloc_array((size_t)tokens, sizeof *s->entropies);
  s->scratch = matrix(s->threads, s->per_thread);
  s->divergences = bpdq_alloc_array((size_t)s->windows->count, sizeof *s->divergences);
  if (!s->blocks || !s->norm || !s->head.weight || !s->residual || !s->probabilities || !s->entropies || !s->scratch || !s->divergences)
    return bpdq_fail(error, BPDQ_ERROR_MEMORY,
                     "out of host memory: measuring the sensitivity of the layers holds the whole model as float32");
  for (int64_t layer = 0; layer < c->layers; layer++) BPDQ_TRY(bpdq_block_load(s->checkpoint, layer, s->pool, &s->blocks[layer], error));
  bpdq_stored_row_to_f32(s->checkpoint->final_norm, 0, hidden, s->norm);
  for (int64_t row = 0; row < c->vocab_size; row++)
    bpdq_stored_row_to_f32(s->checkpoint->head.weight, row, hidden, s->head.weight + row * hidden);
  for (int64_t i = 0; i < tokens; i++)
    bpdq_stored_row_to_f32(s->checkpoint->embedding, s->windows->ids[i], hidden, s->residual + i * hidden);
  return BPDQ_OK;
}

bpdq_status bpdq_sensitivity_create(const bpdq_checkpoint *checkpoint, const bpdq_calibration *windows,
                                    const bpdq_quantize_options *options, bpdq_sensitivity **sensitivity, bpdq_error *error) {
  *sensitivity = NULL;
  bpdq_sensitivity *s = calloc(1, sizeof *s);
  if (!s) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  s->checkpoint = checkpoint;
  s->windows = windows;
  s->options = options;
  bpdq_status status = load(s, error);
  if (status != BPDQ_OK) {
    bpdq_sensitivity_destroy(s);
    return status;
  }
  measurement m = {.s = s, .layer = checkpoint->config.layers, .dense = true};
  bpdq_pool_run(s->pool, windows->count, run_window, &m);
  *sensitivity = s;
  return BPDQ_OK;
}

bpdq_status bpdq_sensitivity_measure(bpdq_sensitivity *s, int64_t layer, int linear, float *weight, double *divergence, bpdq_error *error) {
  if (bpdq_quantize_cancelled(s->options)) return bpdq_fail(error, BPDQ_ERROR_CANCELLED, "quantize: interrupted");
  bpdq_block changed = s->blocks[layer];
  changed.linears[linear].weight = weight;
  measurement m = {.s = s, .layer = layer, .changed = &changed};
  bpdq_pool_run(s->pool, s->windows->count, run_window, &m);
  *divergence = 0;
  for (int64_t i = 0; i < s->windows->count; i++) *divergence += s->divergences[i] / (double)(s->windows->count * s->windows->length);
  if (!isfinite(*divergence))
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: predictions are not finite when it alone is quantized", changed.linears[linear].name);
  return BPDQ_OK;
}
