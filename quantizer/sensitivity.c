/* The residual stream before each block is kept from the dense pass, so that a measurement runs only the blocks from the changed one on. A
 * block is on the backend only while all windows pass through it. */
#include "sensitivity.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "core/platform.h"
#include "core/threads.h"
#include "forward.h"
#include "vector.h"

struct bpdq_sensitivity {
  const bpdq_checkpoint *checkpoint;
  const bpdq_calibration *windows;
  const bpdq_quantize_options *options;
  bpdq_log log;
  bpdq_forward forward;
  bpdq_pool *pool;
  bpdq_block *blocks; /* [layers] */
  float *norm;        /* [hidden] */
  bpdq_block_linear head;
  int64_t tokens;       /* windows * length */
  float *residual;      /* [layers + 1][tokens][hidden]: before each block, and at the end */
  float *moved;         /* [tokens][hidden]: the stream of a measurement */
  float *probabilities; /* [tokens][vocab] of the dense model */
  double *entropies;    /* [tokens]: sum p log p */
  float *logits;        /* of one run of the head [BPDQ_FORWARD_HEAD_ROWS][vocab] */
  double *divergences;  /* [tokens] */
};

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
  free(s->moved);
  free(s->probabilities);
  free(s->entropies);
  free(s->logits);
  free(s->divergences);
  free(s);
}

const bpdq_block *bpdq_sensitivity_block(const bpdq_sensitivity *sensitivity, int64_t layer) { return &sensitivity->blocks[layer]; }

/* ---- predictions ---- */

/* e^x in place, to one unit in the last place for x <= 88; a polynomial on [-ln 2 / 2, ln 2 / 2] and an exponent put in as bits. */
BPDQ_VECTOR_CLONES static void exponentials(float *values, int64_t count) {
  const float round = 12582912.0f; /* 1.5 * 2^23: adding and subtracting it rounds to an integer */
  for (int64_t i = 0; i < count; i++) {
    float x = values[i] < -87.0f ? -87.0f : values[i] > 88.0f ? 88.0f : values[i];
    float n = (x * 1.44269504f + round) - round, r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    values[i] = values[i] == values[i] ? p * power : values[i];
  }
}

/* Logits to e^(logit - largest) in place; returns the sum, and the largest in *shift. */
static double exponentiate(float *logits, int64_t count, float *shift) {
  float largest = logits[0];
  for (int64_t i = 1; i < count; i++) largest = logits[i] > largest ? logits[i] : largest;
  for (int64_t i = 0; i < count; i++) logits[i] -= largest;
  exponentials(logits, count);
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

/* ---- forward passes ---- */

/* BPDQ_ERROR_MEMORY where the device has no room for the block, before anything has run. */
static bpdq_status try_block(bpdq_sensitivity *s, const bpdq_block *block, const float *x, float *out, bpdq_error *error) {
  int64_t hidden = s->checkpoint->config.hidden_size;
  bpdq_forward_program program = bpdq_forward_begin(&s->forward);
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_forward_add_attention(&program, block, error), done);
  BPDQ_TRY_GOTO(bpdq_forward_add_residual(&program, &block->linears[BPDQ_O], BPDQ_HEADS, error), done);
  BPDQ_TRY_GOTO(bpdq_forward_add_gate(&program, block, error), done);
  BPDQ_TRY_GOTO(bpdq_forward_add_residual(&program, &block->linears[BPDQ_DOWN], BPDQ_GATED, error), done);
  BPDQ_TRY_GOTO(bpdq_forward_compile(&program, error), done);
  for (int64_t first = 0, rows; first < s->tokens; first += rows) {
    rows = bpdq_forward_batch(&s->forward, first, s->tokens);
    BPDQ_TRY_GOTO(bpdq_forward_write(&s->forward, BPDQ_HIDDEN, rows, x + first * hidden, error), done);
    BPDQ_TRY_GOTO(bpdq_forward_run(&program, 0, first, rows, error), done);
    BPDQ_TRY_GOTO(bpdq_forward_read(&s->forward, BPDQ_HIDDEN, rows, out + first * hidden, error), done);
  }
done:
  bpdq_forward_program_free(&program);
  return status;
}

/* x [tokens, hidden] through one block; `out` may be `x`. */
static bpdq_status run_block(bpdq_sensitivity *s, const bpdq_block *block, const float *x, float *out, bpdq_error *error) {
  for (;;) {
    bpdq_status status = try_block(s, block, x, out, error);
    if (status != BPDQ_ERROR_MEMORY) return status;
    BPDQ_TRY(bpdq_forward_shrink(&s->forward, error));
  }
}

typedef struct comparison {
  bpdq_sensitivity *s;
  int64_t first; /* row of the first logits */
  bool dense;    /* keep predictions instead of comparing with them */
} comparison;

static void compare_row(void *context, int64_t index, int thread) {
  (void)thread;
  const comparison *c = context;
  bpdq_sensitivity *s = c->s;
  int64_t vocab = s->checkpoint->config.vocab_size, row = c->first + index;
  float *logits = s->logits + index * vocab, *kept = s->probabilities + row * vocab;
  if (c->dense) {
    s->entropies[row] = keep_prediction(logits, vocab);
    memcpy(kept, logits, (size_t)vocab * sizeof *kept);
  } else {
    s->divergences[row] = divergence_of(logits, kept, s->entropies[row], vocab);
  }
}

/* The predictions of x [tokens, hidden], the stream behind the last block: kept, or compared with those that are kept. */
static bpdq_status run_head(bpdq_sensitivity *s, const float *x, bool dense, bpdq_error *error) {
  bpdq_forward_program program = bpdq_forward_begin(&s->forward);
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_forward_add_head(&program, s->norm, &s->head, error), done);
  BPDQ_TRY_GOTO(bpdq_forward_compile(&program, error), done);
  for (comparison c = {.s = s, .dense = dense}; c.first < s->tokens; c.first += program.rows) {
    int64_t rows = s->tokens - c.first < program.rows ? s->tokens - c.first : program.rows;
    BPDQ_TRY_GOTO(bpdq_forward_write(&s->forward, BPDQ_HIDDEN, rows, x + c.first * s->checkpoint->config.hidden_size, error), done);
    BPDQ_TRY_GOTO(bpdq_forward_run(&program, 0, c.first, rows, error), done);
    BPDQ_TRY_GOTO(bpdq_forward_read(&s->forward, BPDQ_LOGITS, rows, s->logits, error), done);
    bpdq_pool_run(s->pool, rows, compare_row, &c);
  }
done:
  bpdq_forward_program_free(&program);
  return status;
}

/* ---- life ---- */

/* Bytes of the largest parts: the weights as float32, and what is kept per token. */
static double bytes_needed(const bpdq_sensitivity *s) {
  const bpdq_config *c = &s->checkpoint->config;
  double values =
      (double)c->vocab_size * (double)(c->hidden_size + s->tokens) + (double)(c->layers + 2) * (double)s->tokens * (double)c->hidden_size;
  for (int64_t layer = 0; layer < c->layers; layer++)
    for (int i = 0; i < BPDQ_LINEARS; i++) {
      const bpdq_linear_source *linear = bpdq_block_source(&s->checkpoint->layers[layer], i);
      values += (double)linear->rows * (double)linear->columns;
    }
  return sizeof(float) * values;
}

static bpdq_status out_of_memory(const bpdq_sensitivity *s, bpdq_error *error) {
  return bpdq_fail(
      error, BPDQ_ERROR_MEMORY,
      "out of host memory: measuring the sensitivity of the layers holds the whole model as float32, %.1f GiB, and this machine "
      "has %.1f GiB: give the same planes to all layers (--planes instead of --bits), or use a larger machine",
      bytes_needed(s) / 0x1p30, (double)bpdq_host_memory_total() / 0x1p30);
}

static bpdq_status load(bpdq_sensitivity *s, bpdq_error *error) {
  const bpdq_config *c = &s->checkpoint->config;
  int64_t hidden = c->hidden_size;
  s->tokens = s->windows->count * s->windows->length;
  if (bytes_needed(s) > (double)bpdq_host_memory_total()) return out_of_memory(s, error);
  BPDQ_TRY(bpdq_pool_create(s->options->threads, &s->pool, error));
  bpdq_forward_desc desc = {.backend = s->options->backend,
                            .device = s->options->device,
                            .memory_cap = s->options->backend ? (uint64_t)s->options->device_memory : 0,
                            .threads = s->options->threads,
                            .config = c,
                            .length = s->windows->length,
                            .most_tokens = s->tokens,
                            .head = true,
                            .log = &s->log};
  BPDQ_TRY(bpdq_forward_create(&desc, &s->forward, error));
  s->blocks = calloc((size_t)c->layers, sizeof *s->blocks);
  s->norm = matrix(1, hidden);
  s->head = (bpdq_block_linear){.name = "lm_head", .rows = c->vocab_size, .columns = hidden, .weight = matrix(c->vocab_size, hidden)};
  s->residual = matrix((c->layers + 1) * s->tokens, hidden);
  s->moved = matrix(s->tokens, hidden);
  s->probabilities = matrix(s->tokens, c->vocab_size);
  s->logits = matrix(BPDQ_FORWARD_HEAD_ROWS, c->vocab_size);
  s->entropies = bpdq_alloc_array((size_t)s->tokens, sizeof *s->entropies);
  s->divergences = bpdq_alloc_array((size_t)s->tokens, sizeof *s->divergences);
  if (!s->blocks || !s->norm || !s->head.weight || !s->residual || !s->moved || !s->probabilities || !s->logits || !s->entropies ||
      !s->divergences)
    return out_of_memory(s, error);
  for (int64_t layer = 0; layer < c->layers; layer++) {
    bpdq_status status = bpdq_block_load(s->checkpoint, layer, s->pool, &s->blocks[layer], error);
    if (status != BPDQ_OK) return status == BPDQ_ERROR_MEMORY ? out_of_memory(s, error) : status;
  }
  bpdq_stored_row_to_f32(s->checkpoint->final_norm, 0, hidden, s->norm);
  for (int64_t row = 0; row < c->vocab_size; row++)
    bpdq_stored_row_to_f32(s->checkpoint->head.weight, row, hidden, s->head.weight + row * hidden);
  for (int64_t i = 0; i < s->tokens; i++)
    bpdq_stored_row_to_f32(s->checkpoint->embedding, s->windows->ids[i], hidden, s->residual + i * hidden);
  return BPDQ_OK;
}

/* The dense model's residual streams and predictions. */
static bpdq_status run_dense(bpdq_sensitivity *s, bpdq_error *error) {
  int64_t layers = s->checkpoint->config.layers, values = s->tokens * s->checkpoint->config.hidden_size;
  for (int64_t layer = 0; layer < layers; layer++)
    BPDQ_TRY(run_block(s, &s->blocks[layer], s->residual + layer * values, s->residual + (layer + 1) * values, error));
  return run_head(s, s->residual + layers * values, true, error);
}

bpdq_status bpdq_sensitivity_create(const bpdq_checkpoint *checkpoint, const bpdq_calibration *windows,
                                    const bpdq_quantize_options *options, bpdq_sensitivity **sensitivity, bpdq_error *error) {
  *sensitivity = NULL;
  bpdq_sensitivity *s = calloc(1, sizeof *s);
  if (!s) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  s->checkpoint = checkpoint;
  s->windows = windows;
  s->options = options;
  s->log = (bpdq_log){options->log, options->log_user};
  bpdq_status status = load(s, error);
  if (status == BPDQ_OK) status = run_dense(s, error);
  if (status != BPDQ_OK) {
    bpdq_sensitivity_destroy(s);
    return status;
  }
  *sensitivity = s;
  return BPDQ_OK;
}

bpdq_status bpdq_sensitivity_measure(bpdq_sensitivity *s, int64_t layer, int linear, float *weight, double *divergence, bpdq_error *error) {
  int64_t layers = s->checkpoint->config.layers, values = s->tokens * s->checkpoint->config.hidden_size;
  bpdq_block changed = s->blocks[layer];
  changed.linears[linear].weight = weight;
  for (int64_t i = layer; i < layers; i++) {
    if (bpdq_quantize_cancelled(s->options)) return bpdq_fail(error, BPDQ_ERROR_CANCELLED, "quantize: interrupted");
    bool first = i == layer;
    BPDQ_TRY(run_block(s, first ? &changed : &s->blocks[i], first ? s->residual + i * values : s->moved, s->moved, error));
  }
  BPDQ_TRY(run_head(s, s->moved, false, error));
  double sum = 0;
  for (int64_t i = 0; i < s->tokens; i++) sum += s->divergences[i];
  *divergence = sum / (double)s->tokens;
  if (!isfinite(*divergence))
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: predictions are not finite when it alone is quantized", changed.linears[linear].name);
  return BPDQ_OK;
}
