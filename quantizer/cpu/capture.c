/* Windows run side by side, one per thread; each stage captures a batch of them, then adds the batch to the statistics window by window, so
 * that sums do not depend on the number of threads. */
#include "capture.h"

#include <string.h>

#include "clock.h"
#include "core/checked.h"
#include "core/platform.h"
#include "cpu/cpu_algebra.h"
#include "cpu/forward.h"
#include "stream_memory.h"

/* Inputs of the quantized stream that were captured for one stage are needed again when its linear is known. They are kept as long as they
 * take no more than this share of the free memory, else computed again. */
static const double KEPT_SHARE = 0.4;

typedef struct cpu_streams {
  bpdq_streams base;
  bpdq_algebra *algebra;
  bpdq_forward forward;
  bpdq_pool *pool;
  int threads;
  int64_t windows, length, hidden, widest; /* widest: columns of the widest linear input */
  bpdq_stream_memory memory;               /* of the residual streams */
  float *quantized, *dense;                /* [windows * length, hidden]; dense is NULL when not kept */
  float *kept;                             /* [windows * length, widest], or NULL: computed again */
  float *inputs, *dense_inputs;            /* of one batch of `threads` windows [threads * length, widest] */
  float *outputs;                          /* what o or down should have put out, for one batch [threads * length, hidden] */
  float *scratch;                          /* [threads][per_thread] */
  int64_t per_thread;
} cpu_streams;

/* One pass over all windows, batch by batch. */
typedef struct pass {
  cpu_streams *streams;
  bpdq_stage stage;
  const bpdq_block *dense, *quantized;
  const float *norm; /* of the stages whose input is the normed residual stream */
  int64_t first;     /* window of the batch's first task */
} pass;

static void destroy(bpdq_streams *streams) {
  cpu_streams *s = (cpu_streams *)streams;
  bpdq_forward_free(&s->forward);
  bpdq_pool_destroy(s->pool);
  bpdq_stream_memory_free(&s->memory);
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

static bool allocate(cpu_streams *s) {
  int64_t tokens = s->windows * s->length, batch = s->threads * s->length;
  s->quantized = s->memory.values;
  s->per_thread = bpdq_forward_scratch(&s->forward) + s->length * s->widest;
  s->inputs = matrix(batch, s->widest);
  s->scratch = matrix(s->threads, s->per_thread);
  if (bpdq_streams_dense(&s->base.desc)) {
    s->dense = s->quantized + tokens * s->hidden;
    s->dense_inputs = matrix(batch, s->widest);
    s->outputs = matrix(batch, s->hidden);
    if (!s->dense_inputs || !s->outputs) return false;
  }
  if (!s->inputs || !s->scratch) return false;
  double spare = (double)bpdq_host_memory_available() - (double)s->memory.bytes; /* which nothing has touched yet */
  if (!s->memory.on_disk && (double)tokens * (double)s->widest * sizeof(float) < KEPT_SHARE * spare) s->kept = matrix(tokens, s->widest);
  return true;
}

static bpdq_status start(cpu_streams *s, bpdq_error *error) {
  const bpdq_streams_desc *desc = &s->base.desc;
  const bpdq_config *config = &desc->checkpoint->config;
  s->windows = desc->window_count;
  s->length = desc->calibration->length;
  s->hidden = config->hidden_size;
  s->widest = config->intermediate_size > s->hidden ? config->intermediate_size : s->hidden;
  if (config->heads * config->head_dim > s->widest) s->widest = config->heads * config->head_dim;
  BPDQ_TRY(bpdq_pool_create(desc->threads, &s->pool, error));
  s->threads = bpdq_pool_threads(s->pool);
  BPDQ_TRY(bpdq_forward_create(config, s->length, &s->forward, error));
  BPDQ_TRY(bpdq_stream_memory_create(desc, bpdq_streams_dense(desc) ? 2 : 1, &s->memory, error));
  if (!allocate(s))
    return bpdq_fail(error, BPDQ_ERROR_MEMORY,
                     "out of host memory for the activations of %lld calibration windows of %lld tokens; use fewer (--samples) or shorter "
                     "ones (--seqlen)",
                     (long long)s->windows, (long long)s->length);
  int64_t tokens = s->windows * s->length;
  const int32_t *ids = desc->calibration->ids + desc->first_window * s->length;
  for (int64_t i = 0; i < tokens; i++) bpdq_stored_row_to_f32(desc->checkpoint->embedding, ids[i], s->hidden, s->quantized + i * s->hidden);
  if (s->dense) memcpy(s->dense, s->quantized, (size_t)(tokens * s->hidden) * sizeof(float));
  return BPDQ_OK;
}

/* ---- steps of one window ---- */

/* Where the captured input of a window goes: the kept memory, or the batch's. */
static float *input_place(const pass *p, int64_t window, bpdq_stage stage) {
  cpu_streams *s = p->streams;
  bool keep = s->kept && (stage == BPDQ_STAGE_O || stage == BPDQ_STAGE_DOWN);
  return keep ? s->kept + window * s->length * s->widest : s->inputs + (window - p->first) * s->length * s->widest;
}

/* The input that stage `stage` (o or down) captured for a window: kept, or computed again. */
static const float *captured_input(const pass *p, bpdq_stage stage, int64_t window, float *scratch) {
  cpu_streams *s = p->streams;
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
static void add_dense(const cpu_streams *s, const bpdq_block_linear *linear, const float *dense_input, const float *x, float *dense_x,
                      float *output) {
  int64_t length = s->length, hidden = s->hidden;
  memset(output, 0, (size_t)(length * hidden) * sizeof *output);
  bpdq_block_linear plain = *linear;
  plain.bias = NULL;
  bpdq_forward_add(&plain, dense_input, length, output);
  for (int64_t t = 0; t < length; t++)
    for (int64_t i = 0; i < hidden; i++) {
      float *wanted = &output[t * hidden + i], *dense = &dense_x[t * hidden + i], made = *wanted;
      *wanted = (s->base.desc.dense_target ? made : 0) + (s->base.desc.residual_target ? *dense - x[t * hidden + i] : 0);
      *dense += made + (linear->bias ? linear->bias[i] : 0);
    }
}

static void capture_window(void *context, int64_t index, int thread) {
  pass *p = context;
  cpu_streams *s = p->streams;
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
  cpu_streams *s = p->streams;
  int64_t window = p->first + index;
  bpdq_forward_add(&p->quantized->linears[BPDQ_DOWN], captured_input(p, BPDQ_STAGE_DOWN, window, s->scratch + thread * s->per_thread),
                   s->length, s->quantized + window * s->length * s->hidden);
}

/* Runs one stage over all windows; statistics may be NULL. */
static bpdq_status run_stage(pass *p, bpdq_statistics *statistics, bpdq_error *error) {
  cpu_streams *s = p->streams;
  bpdq_clock clock = bpdq_clock_start(s->algebra);
  for (p->first = 0; p->first < s->windows; p->first += s->threads) {
    BPDQ_TRY(bpdq_streams_check_cancelled(&s->base, error));
    int64_t count = s->windows - p->first < s->threads ? s->windows - p->first : s->threads;
    bpdq_pool_run(s->pool, count, capture_window, p);
    bpdq_clock_add(&clock, &s->base.forward_seconds);
    for (int64_t i = 0; i < count && statistics; i++) {
      const float *dense = s->dense ? s->dense_inputs + i * s->length * s->widest : NULL;
      const float *outputs = s->dense && bpdq_stage_closes(p->stage) ? s->outputs + i * s->length * s->hidden : NULL;
      BPDQ_TRY(
          s->algebra->statistics_add(s->algebra, statistics, input_place(p, p->first + i, p->stage), dense, outputs, s->length, error));
    }
    bpdq_clock_add(&clock, &s->base.statistics_seconds);
  }
  return BPDQ_OK;
}

static bpdq_status capture(bpdq_streams *streams, bpdq_stage stage, const bpdq_block *dense, const bpdq_block *quantized,
                           bpdq_statistics *statistics, bpdq_error *error) {
  pass p = {.streams = (cpu_streams *)streams, .stage = stage, .dense = dense, .quantized = quantized};
  p.norm = stage == BPDQ_STAGE_QKV ? quantized->attention_norm : quantized->mlp_norm;
  return run_stage(&p, statistics, error);
}

static bpdq_status capture_head(bpdq_streams *streams, const float *norm, bpdq_statistics *statistics, bpdq_error *error) {
  pass p = {.streams = (cpu_streams *)streams, .stage = BPDQ_STAGE_HEAD, .norm = norm};
  return run_stage(&p, statistics, error);
}

static bpdq_status finish_block(bpdq_streams *streams, const bpdq_block *quantized, bpdq_error *error) {
  pass p = {.streams = (cpu_streams *)streams, .quantized = quantized};
  BPDQ_TRY(bpdq_streams_check_cancelled(streams, error));
  bpdq_clock clock = bpdq_clock_start(p.streams->algebra);
  bpdq_pool_run(p.streams->pool, p.streams->windows, finish_window, &p);
  bpdq_clock_add(&clock, &streams->forward_seconds);
  return BPDQ_OK;
}

static bpdq_status read_window(bpdq_streams *streams, int64_t window, float *quantized, float *dense, bpdq_error *error) {
  cpu_streams *s = (cpu_streams *)streams;
  (void)error;
  int64_t values = s->length * s->hidden;
  memcpy(quantized, s->quantized + window * values, (size_t)values * sizeof *quantized);
  if (dense && s->dense) memcpy(dense, s->dense + window * values, (size_t)values * sizeof *dense);
  return BPDQ_OK;
}

bpdq_status bpdq_cpu_streams_create(bpdq_algebra *algebra, const bpdq_streams_desc *desc, bpdq_streams **streams, bpdq_error *error) {
  *streams = NULL;
  cpu_streams *s = calloc(1, sizeof *s);
  if (!s) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  s->base = (bpdq_streams){.desc = *desc,
                           .destroy = destroy,
                           .capture = capture,
                           .capture_head = capture_head,
                           .finish_block = finish_block,
                           .read = read_window};
  s->algebra = algebra;
  bpdq_status status = start(s, error);
  if (status != BPDQ_OK) {
    destroy(&s->base);
    return status;
  }
  *streams = &s->base;
  return BPDQ_OK;
}
