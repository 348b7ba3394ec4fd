/* Windows run side by side, one per thread; each stage captures a batch of them, then adds the batch to the statistics window by window, so
 * that sums do not depend on the number of threads. */
#include "capture.h"

#include <string.h>

#include "core/checked.h"
#include "core/platform.h"
#include "core/threads.h"

/* Inputs of the quantized stream that were captured for one stage are needed again when its linear is known. They are kept as long as they
 * take no more than this share of the free memory, else computed again. */
static const double KEPT_SHARE = 0.4;

struct bpdq_streams {
  bpdq_forward forward;
  bpdq_pool *pool;
  int threads;
  const volatile int *cancel;
  int64_t windows, length, hidden, widest; /* widest: columns of the widest linear input */
  float *quantized, *dense;                /* residual streams [windows * length, hidden]; dense is NULL when not kept */
  float *kept;                             /* [windows * length, widest], or NULL: computed again */
  float *inputs, *dense_inputs;            /* of one batch of `threads` windows [threads * length, widest] */
  bool dense_target, residual_target;
  float *outputs; /* what o or down should have put out, for one batch [threads * length, hidden] */
  float *scratch; /* [threads][per_thread] */
  int64_t per_thread;
};

/* One pass over all windows, batch by batch. */
typedef struct pass {
  bpdq_streams *streams;
  bpdq_stage stage;
  const bpdq_block *dense, *quantized;
  const float *norm; /* of the stages whose input is the normed residual stream */
  int64_t first;     /* window of the batch's first task */
} pass;

/* Whether a stage's linear adds to the residual stream. */
static bool closes(bpdq_stage stage) { return stage == BPDQ_STAGE_O || stage == BPDQ_STAGE_DOWN; }

bpdq_statistics_desc bpdq_streams_statistics(const bpdq_streams *streams, bpdq_stage stage, const char *name, int64_t rows,
                                             int64_t columns) {
  bpdq_statistics_desc desc = {.name = name, .columns = columns};
  if (!streams->dense) return desc;
  desc.cross = !closes(stage) && streams->dense_target;
  desc.residual_rows = closes(stage) ? rows : 0;
  desc.whole_target = closes(stage) && streams->dense_target;
  return desc;
}

int64_t bpdq_streams_tokens(const bpdq_streams *streams) { return streams->windows * streams->length; }

void bpdq_streams_destroy(bpdq_streams *s) {
  if (!s) return;
  bpdq_forward_free(&s->forward);
  bpdq_pool_destroy(s->pool);
  free(s->quantized);
  free(s->dense);
  free(s->kept);
  free(s->inputs);
  free(s->dense_inputs);
  free(s->outputs);
  free(s->scratch);
  free(s);
}

/* rows * columns floats, or NULL. */
static float *matrix(int64_t rows, int64_t columns) {
  size_t count;
  if (__builtin_mul_overflow((size_t)rows, (size_t)columns, &count)) return NULL;
  return bpdq_alloc_array(count, sizeof(float));
}

static bool allocate(bpdq_streams *s) {
  int64_t tokens = s->windows * s->length, batch = s->threads * s->length;
  s->per_thread = bpdq_forward_scratch(&s->forward) + s->length * s->widest;
  s->quantized = matrix(tokens, s->hidden);
  s->inputs = matrix(batch, s->widest);
  s->scratch = matrix(s->threads, s->per_thread);
  if (s->dense_target || s->residual_target) {
    s->dense = matrix(tokens, s->hidden);
    s->dense_inputs = matrix(batch, s->widest);
    s->outputs = matrix(batch, s->hidden);
    if (!s->dense || !s->dense_inputs || !s->outputs) return false;
  }
  if (!s->quantized || !s->inputs || !s->scratch) return false;
  if ((double)tokens * (double)s->widest * sizeof(float) < KEPT_SHARE * (double)bpdq_host_memory_available())
    s->kept = matrix(tokens, s->widest);
  return true;
}

bpdq_status bpdq_streams_create(const bpdq_checkpoint *checkpoint, const bpdq_calibration *calibration, bool dense_target,
                                bool residual_target, int threads, const volatile int *cancel, bpdq_streams **streams, bpdq_error *error) {
  *streams = NULL;
  const bpdq_config *config = &checkpoint->config;
  bpdq_streams *s = calloc(1, sizeof *s);
  if (!s) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  s->cancel = cancel;
  s->dense_target = dense_target;
  s->residual_target = residual_target;
  s->windows = calibration->count;
  s->length = calibration->length;
  s->hidden = config->hidden_size;
  s->widest = config->intermediate_size > s->hidden ? config->intermediate_size : s->hidden;
  if (config->heads * config->head_dim > s->widest) s->widest = config->heads * config->head_dim;
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_pool_create(threads, &s->pool, error), failed);
  s->threads = bpdq_pool_threads(s->pool);
  BPDQ_TRY_GOTO(bpdq_forward_create(config, s->length, &s->forward, error), failed);
  if (!allocate(s)) {
    status =
        bpdq_fail(error, BPDQ_ERROR_MEMORY,
                  "out of host memory for the activations of %lld calibration windows of %lld tokens; use fewer (--samples) or shorter "
                  "ones (--seqlen)",
                  (long long)s->windows, (long long)s->length);
    goto failed;
  }
  for (int64_t i = 0; i < s->windows * s->length; i++)
    bpdq_stored_row_to_f32(checkpoint->embedding, calibration->ids[i], s->hidden, s->quantized + i * s->hidden);
  if (s->dense) memcpy(s->dense, s->quantized, (size_t)(s->windows * s->length * s->hidden) * sizeof(float));
  *streams = s;
  return BPDQ_OK;
failed:
  bpdq_streams_destroy(s);
  return status;
}

/* ---- steps of one window ---- */

/* Where the captured input of a window goes: the kept memory, or the batch's. */
static float *input_place(const pass *p, int64_t window, bpdq_stage stage) {
  bpdq_streams *s = p->streams;
  bool keep = s->kept && (stage == BPDQ_STAGE_O || stage == BPDQ_STAGE_DOWN);
  return keep ? s->kept + window * s->length * s->widest : s->inputs + (window - p->first) * s->length * s->widest;
}

/* The input that stage `stage` (o or down) captured for a window: kept, or computed again. */
static const float *captured_input(const pass *p, bpdq_stage stage, int64_t window, float *scratch) {
  bpdq_streams *s = p->streams;
  if (s->kept) return s->kept + window * s->length * s->widest;
  const float *x = s->quantized + window * s->length * s->hidden;
  float *input = scratch, *rest = scratch + s->length * s->widest;
  if (stage == BPDQ_STAGE_O)
    bpdq_forward_attention(&s->forward, p->quantized, x, s->length, input, rest);
  else
    bpdq_forward_gate(&s->forward, p->quantized, x, s->length, input, rest);
  return input;
}

/* Adds o_proj or down_proj to a window's dense stream. `output` gets what the quantized linear should put out instead of W x: the dense
 * output, and what the residual streams already differ by. */
static void add_dense(const bpdq_streams *s, const bpdq_block_linear *linear, const float *dense_input, const float *x, float *dense_x,
                      float *output) {
  int64_t length = s->length, hidden = s->hidden;
  memset(output, 0, (size_t)(length * hidden) * sizeof *output);
  bpdq_block_linear plain = *linear;
  plain.bias = NULL;
  bpdq_forward_add(&plain, dense_input, length, output);
  for (int64_t t = 0; t < length; t++)
    for (int64_t i = 0; i < hidden; i++) {
      float *wanted = &output[t * hidden + i], *dense = &dense_x[t * hidden + i], made = *wanted;
      *wanted = (s->dense_target ? made : 0) + (s->residual_target ? *dense - x[t * hidden + i] : 0);
      *dense += made + (linear->bias ? linear->bias[i] : 0);
    }
}

static void capture_window(void *context, int64_t index, int thread) {
  pass *p = context;
  bpdq_streams *s = p->streams;
  int64_t window = p->first + index, length = s->length, values = length * s->hidden;
  float *x = s->quantized + window * values, *dense_x = s->dense ? s->dense + window * values : NULL;
  float *scratch = s->scratch + thread * s->per_thread, *input = input_place(p, window, p->stage);
  float *dense_input = s->dense ? s->dense_inputs + index * length * s->widest : NULL;
  if (p->stage == BPDQ_STAGE_GATE_UP)
    bpdq_forward_add(&p->quantized->linears[BPDQ_O], captured_input(p, BPDQ_STAGE_O, window, scratch), length, x);
  if (p->stage == BPDQ_STAGE_O) {
    bpdq_forward_attention(&s->forward, p->quantized, x, length, input, scratch);
    if (!dense_x) return;
    bpdq_forward_attention(&s->forward, p->dense, dense_x, length, dense_input, scratch);
    add_dense(s, &p->dense->linears[BPDQ_O], dense_input, x, dense_x, s->outputs + index * values);
  } else if (p->stage == BPDQ_STAGE_DOWN) {
    bpdq_forward_gate(&s->forward, p->quantized, x, length, input, scratch);
    if (!dense_x) return;
    bpdq_forward_gate(&s->forward, p->dense, dense_x, length, dense_input, scratch);
    add_dense(s, &p->dense->linears[BPDQ_DOWN], dense_input, x, dense_x, s->outputs + index * values);
  } else {
    bpdq_forward_norm(&s->forward, p->norm, x, length, input);
    if (dense_x) bpdq_forward_norm(&s->forward, p->norm, dense_x, length, dense_input);
  }
}

static void finish_window(void *context, int64_t index, int thread) {
  pass *p = context;
  bpdq_streams *s = p->streams;
  int64_t window = p->first + index;
  bpdq_forward_add(&p->quantized->linears[BPDQ_DOWN], captured_input(p, BPDQ_STAGE_DOWN, window, s->scratch + thread * s->per_thread),
                   s->length, s->quantized + window * s->length * s->hidden);
}

static bpdq_status check_cancelled(const bpdq_streams *s, bpdq_error *error) {
  return s->cancel && *s->cancel ? bpdq_fail(error, BPDQ_ERROR_CANCELLED, "quantize: interrupted") : BPDQ_OK;
}

/* Runs one stage over all windows; statistics may be NULL. */
static bpdq_status run_stage(pass *p, bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_error *error) {
  bpdq_streams *s = p->streams;
  for (p->first = 0; p->first < s->windows; p->first += s->threads) {
    BPDQ_TRY(check_cancelled(s, error));
    int64_t count = s->windows - p->first < s->threads ? s->windows - p->first : s->threads;
    bpdq_pool_run(s->pool, count, capture_window, p);
    for (int64_t i = 0; i < count && statistics; i++) {
      const float *dense = s->dense ? s->dense_inputs + i * s->length * s->widest : NULL;
      const float *outputs = s->dense && closes(p->stage) ? s->outputs + i * s->length * s->hidden : NULL;
      BPDQ_TRY(algebra->statistics_add(algebra, statistics, input_place(p, p->first + i, p->stage), dense, outputs, s->length, error));
    }
  }
  return BPDQ_OK;
}

bpdq_status bpdq_streams_capture(bpdq_streams *streams, bpdq_stage stage, const bpdq_block *dense, const bpdq_block *quantized,
                                 bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_error *error) {
  pass p = {.streams = streams, .stage = stage, .dense = dense, .quantized = quantized};
  p.norm = stage == BPDQ_STAGE_QKV ? quantized->attention_norm : quantized->mlp_norm;
  return run_stage(&p, algebra, statistics, error);
}

bpdq_status bpdq_streams_capture_head(bpdq_streams *streams, const float *norm, bpdq_algebra *algebra, bpdq_statistics *statistics,
                                      bpdq_error *error) {
  pass p = {.streams = streams, .stage = BPDQ_STAGE_HEAD, .norm = norm};
  return run_stage(&p, algebra, statistics, error);
}

bpdq_status bpdq_streams_finish_block(bpdq_streams *streams, const bpdq_block *quantized, bpdq_error *error) {
  pass p = {.streams = streams, .quantized = quantized};
  BPDQ_TRY(check_cancelled(streams, error));
  bpdq_pool_run(streams->pool, streams->windows, finish_window, &p);
  return BPDQ_OK;
}

bpdq_status bpdq_streams_replay(bpdq_streams *streams, const bpdq_block *dense, const bpdq_block *quantized, bpdq_error *error) {
  for (bpdq_stage stage = BPDQ_STAGE_O; stage < BPDQ_STAGES; stage++)
    BPDQ_TRY(bpdq_streams_capture(streams, stage, dense, quantized, NULL, NULL, error));
  return bpdq_streams_finish_block(streams, quantized, error);
}
