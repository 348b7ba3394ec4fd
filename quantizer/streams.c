/* Residual streams in host memory, moved by forward passes on a backend of the runtime, for the statistics of any algebra.
 *
 * A batch of rows at a time goes to the backend, and what a stage's linears see comes back. Windows are added to the statistics one by
 * one (long ones in the parts in which they ran), so that sums depend neither on the number of threads nor on the size of a batch. */
#include <string.h>

#include "capture.h"
#include "clock.h"
#include "core/checked.h"
#include "core/platform.h"
#include "forward.h"
#include "stream_memory.h"

/* Inputs of the quantized stream that were captured for one stage are needed again when its linear is known. They are kept as long as they
 * take no more than this share of the free memory, else computed again. */
static const double KEPT_SHARE = 0.4;

enum { QUANTIZED, DENSE }; /* streams of the forward pass */

typedef struct host_streams {
  bpdq_streams base;
  bpdq_algebra *algebra;
  bpdq_forward forward;
  bpdq_pool *pool;                /* for what the host does */
  int64_t tokens, hidden, widest; /* tokens: of all windows; widest: columns of the widest linear input */
  bpdq_stream_memory memory;      /* of the residual streams */
  float *quantized, *dense;       /* [tokens, hidden]; dense is NULL when not kept */
  float *kept;                    /* captured inputs of o or down [tokens, their columns], or NULL: computed again */
  float *inputs, *dense_inputs;   /* of one batch [forward.rows, columns]; of the dense stream those behind a norm only */
  float *outputs;                 /* what o or down should have put out, for one batch [forward.rows, hidden] */
} host_streams;

/* What one stage does to all rows. */
typedef struct pass {
  host_streams *streams;
  bpdq_stage stage;
  bool finish; /* only applies down_proj */
  const bpdq_block *dense_block, *quantized_block;
  const float *norm; /* of the stages whose input is the normed residual stream */
  bpdq_statistics *statistics;
  bpdq_forward_program quantized, dense;
} pass;

/* ---- what a pass needs ---- */

/* The stage whose linear a pass applies first, or BPDQ_STAGES for none. */
static bpdq_stage applied_stage(const pass *p) {
  if (p->finish) return BPDQ_STAGE_DOWN;
  return p->stage == BPDQ_STAGE_GATE_UP ? BPDQ_STAGE_O : BPDQ_STAGES;
}

static bool keeps(const pass *p) { return p->streams->kept && !p->finish && bpdq_stage_closes(p->stage); }
static bool captures(const pass *p) { return !p->finish && (p->statistics || keeps(p)); }

/* Whether it looks at the dense stream: to move it, or to feed C. */
static bool uses_dense(const pass *p) {
  const bpdq_streams_desc *desc = &p->streams->base.desc;
  if (p->finish || !bpdq_streams_dense(desc)) return false;
  return bpdq_stage_closes(p->stage) || (p->statistics && desc->dense_target);
}

static bpdq_activation input_of(bpdq_stage stage) {
  return stage == BPDQ_STAGE_O ? BPDQ_HEADS : stage == BPDQ_STAGE_DOWN ? BPDQ_GATED : BPDQ_NORMED;
}

static const bpdq_block_linear *closing_linear(const bpdq_block *block, bpdq_stage stage) {
  return &block->linears[stage == BPDQ_STAGE_O ? BPDQ_O : BPDQ_DOWN];
}

static bpdq_status add_capture(bpdq_forward_program *program, const pass *p, bpdq_stage stage, const bpdq_block *block, bpdq_error *error) {
  if (stage == BPDQ_STAGE_O) return bpdq_forward_add_attention(program, block, error);
  if (stage == BPDQ_STAGE_DOWN) return bpdq_forward_add_gate(program, block, error);
  return bpdq_forward_add_norm(program, p->norm, error);
}

static bpdq_status make_quantized(pass *p, bpdq_error *error) {
  bpdq_stage applied = applied_stage(p);
  p->quantized = bpdq_forward_begin(&p->streams->forward);
  if (applied != BPDQ_STAGES) {
    if (!p->streams->kept) BPDQ_TRY(add_capture(&p->quantized, p, applied, p->quantized_block, error));
    BPDQ_TRY(bpdq_forward_add_residual(&p->quantized, closing_linear(p->quantized_block, applied), input_of(applied), error));
  }
  if (captures(p)) BPDQ_TRY(add_capture(&p->quantized, p, p->stage, p->quantized_block, error));
  return p->quantized.op_count ? bpdq_forward_compile(&p->quantized, error) : BPDQ_OK;
}

static bpdq_status make_dense(pass *p, bpdq_error *error) {
  p->dense = bpdq_forward_begin(&p->streams->forward);
  if (!uses_dense(p)) return BPDQ_OK;
  BPDQ_TRY(add_capture(&p->dense, p, p->stage, p->dense_block, error));
  if (bpdq_stage_closes(p->stage))
    BPDQ_TRY(bpdq_forward_add_product(&p->dense, closing_linear(p->dense_block, p->stage), input_of(p->stage), error));
  return bpdq_forward_compile(&p->dense, error);
}

static void free_programs(pass *p) {
  bpdq_forward_program_free(&p->quantized);
  bpdq_forward_program_free(&p->dense);
}

/* Where the device's memory is short, batches get smaller. */
static bpdq_status make_programs(pass *p, bpdq_error *error) {
  for (;;) {
    bpdq_status status = make_quantized(p, error);
    if (status == BPDQ_OK) status = make_dense(p, error);
    if (status == BPDQ_OK) return status;
    free_programs(p);
    if (status != BPDQ_ERROR_MEMORY) return status;
    BPDQ_TRY(bpdq_forward_shrink(&p->streams->forward, error));
  }
}

/* ---- one batch ---- */

typedef struct batch {
  const pass *pass;
  int64_t first, rows;
} batch;

static float *kept_rows(const batch *b, bpdq_stage stage) {
  const host_streams *s = b->pass->streams;
  return s->kept + b->first * bpdq_forward_width(&s->forward, input_of(stage));
}

/* Rows of the captured input: in the kept memory, or the batch's. */
static float *captured_rows(const batch *b) {
  const host_streams *s = b->pass->streams;
  return keeps(b->pass) ? kept_rows(b, b->pass->stage) : s->inputs;
}

static bpdq_status move_quantized(const batch *b, bpdq_error *error) {
  const pass *p = b->pass;
  const host_streams *s = p->streams;
  const bpdq_forward *f = &s->forward;
  bpdq_stage applied = applied_stage(p);
  float *x = s->quantized + b->first * s->hidden;
  if (!p->quantized.op_count) return BPDQ_OK;
  BPDQ_TRY(bpdq_forward_write(f, BPDQ_HIDDEN, b->rows, x, error));
  if (applied != BPDQ_STAGES && s->kept) BPDQ_TRY(bpdq_forward_write(f, input_of(applied), b->rows, kept_rows(b, applied), error));
  BPDQ_TRY(bpdq_forward_run(&p->quantized, QUANTIZED, b->first, b->rows, error));
  if (applied != BPDQ_STAGES) BPDQ_TRY(bpdq_forward_read(f, BPDQ_HIDDEN, b->rows, x, error));
  return captures(p) ? bpdq_forward_read(f, input_of(p->stage), b->rows, captured_rows(b), error) : BPDQ_OK;
}

/* The dense stream takes what o or down puts out. The output gets what the quantized linear should put out instead: the dense one's, and
 * what the residual streams already differ by. */
static void add_dense_row(void *context, int64_t index, int thread) {
  (void)thread;
  const batch *b = context;
  const host_streams *s = b->pass->streams;
  const float *bias = closing_linear(b->pass->dense_block, b->pass->stage)->bias;
  const float *x = s->quantized + (b->first + index) * s->hidden;
  float *dense = s->dense + (b->first + index) * s->hidden, *output = s->outputs + index * s->hidden;
  for (int64_t i = 0; i < s->hidden; i++) {
    float made = output[i];
    output[i] = (s->base.desc.dense_target ? made : 0) + (s->base.desc.residual_target ? dense[i] - x[i] : 0);
    dense[i] += made + (bias ? bias[i] : 0);
  }
}

static bpdq_status move_dense(batch *b, bpdq_error *error) {
  const pass *p = b->pass;
  const host_streams *s = p->streams;
  const bpdq_forward *f = &s->forward;
  if (!p->dense.op_count) return BPDQ_OK;
  BPDQ_TRY(bpdq_forward_write(f, BPDQ_HIDDEN, b->rows, s->dense + b->first * s->hidden, error));
  BPDQ_TRY(bpdq_forward_run(&p->dense, DENSE, b->first, b->rows, error));
  if (bpdq_stage_closes(p->stage)) {
    BPDQ_TRY(bpdq_forward_read(f, BPDQ_OUTPUT, b->rows, s->outputs, error));
    bpdq_pool_run(s->pool, b->rows, add_dense_row, b);
  }
  bool cross = p->statistics && !bpdq_stage_closes(p->stage);
  return cross ? bpdq_forward_read(f, input_of(p->stage), b->rows, s->dense_inputs, error) : BPDQ_OK;
}

static bpdq_status add_to_statistics(const batch *b, bpdq_error *error) {
  const pass *p = b->pass;
  const host_streams *s = p->streams;
  int64_t length = s->base.desc.calibration->length, columns = bpdq_forward_width(&s->forward, input_of(p->stage));
  const float *inputs = captured_rows(b);
  bool dense = uses_dense(p), closes = bpdq_stage_closes(p->stage);
  for (int64_t row = 0; row < b->rows; row += length) {
    int64_t count = b->rows - row < length ? b->rows - row : length;
    BPDQ_TRY(s->algebra->statistics_add(s->algebra, p->statistics, inputs + row * columns,
                                        dense && !closes ? s->dense_inputs + row * columns : NULL,
                                        dense && closes ? s->outputs + row * s->hidden : NULL, count, error));
  }
  return BPDQ_OK;
}

/* ---- a pass over all rows ---- */

static bpdq_status move_rows(pass *p, bpdq_error *error) {
  host_streams *s = p->streams;
  bpdq_clock clock = bpdq_clock_start(s->algebra);
  for (batch b = {.pass = p}; b.first < s->tokens; b.first += b.rows) {
    BPDQ_TRY(bpdq_streams_check_cancelled(&s->base, error));
    b.rows = bpdq_forward_batch(&s->forward, b.first, s->tokens);
    BPDQ_TRY(move_quantized(&b, error));
    BPDQ_TRY(move_dense(&b, error));
    bpdq_clock_add(&clock, &s->base.forward_seconds);
    if (!p->statistics) continue;
    BPDQ_TRY(add_to_statistics(&b, error));
    bpdq_clock_add(&clock, &s->base.statistics_seconds);
  }
  return BPDQ_OK;
}

static void note_peak(host_streams *s) {
  uint64_t current;
  if (strcmp(s->forward.backend->info.backend, "cpu")) s->forward.backend->memory(s->forward.backend, &current, &s->base.peak_device_bytes);
}

static bpdq_status run_pass(pass *p, bpdq_error *error) {
  bpdq_clock clock = bpdq_clock_start(p->streams->algebra);
  BPDQ_TRY(make_programs(p, error));
  bpdq_clock_add(&clock, &p->streams->base.forward_seconds);
  bpdq_status status = move_rows(p, error);
  free_programs(p);
  note_peak(p->streams);
  return status;
}

static bpdq_status capture(bpdq_streams *streams, bpdq_stage stage, const bpdq_block *dense, const bpdq_block *quantized,
                           bpdq_statistics *statistics, bpdq_error *error) {
  pass p = {
      .streams = (host_streams *)streams, .stage = stage, .dense_block = dense, .quantized_block = quantized, .statistics = statistics};
  p.norm = stage == BPDQ_STAGE_QKV ? quantized->attention_norm : quantized->mlp_norm;
  return run_pass(&p, error);
}

static bpdq_status capture_head(bpdq_streams *streams, const float *norm, bpdq_statistics *statistics, bpdq_error *error) {
  pass p = {.streams = (host_streams *)streams, .stage = BPDQ_STAGE_HEAD, .norm = norm, .statistics = statistics};
  return run_pass(&p, error);
}

static bpdq_status finish_block(bpdq_streams *streams, const bpdq_block *quantized, bpdq_error *error) {
  pass p = {.streams = (host_streams *)streams, .finish = true, .quantized_block = quantized};
  return run_pass(&p, error);
}

static bpdq_status read_window(bpdq_streams *streams, int64_t window, float *quantized, float *dense, bpdq_error *error) {
  host_streams *s = (host_streams *)streams;
  (void)error;
  int64_t values = s->base.desc.calibration->length * s->hidden;
  memcpy(quantized, s->quantized + window * values, (size_t)values * sizeof *quantized);
  if (dense && s->dense) memcpy(dense, s->dense + window * values, (size_t)values * sizeof *dense);
  return BPDQ_OK;
}

/* ---- life ---- */

static void destroy(bpdq_streams *streams) {
  host_streams *s = (host_streams *)streams;
  bpdq_forward_free(&s->forward);
  bpdq_pool_destroy(s->pool);
  bpdq_stream_memory_free(&s->memory);
  free(s->kept);
  free(s->inputs);
  free(s->dense_inputs);
  free(s->outputs);
  free(s);
}

/* rows * columns floats, or NULL. */
static float *matrix(int64_t rows, int64_t columns) {
  size_t count;
  if (__builtin_mul_overflow((size_t)rows, (size_t)columns, &count)) return NULL;
  return bpdq_alloc_array(count, sizeof(float));
}

static bool allocate(host_streams *s) {
  s->quantized = s->memory.values;
  double spare = (double)bpdq_host_memory_available() - (double)s->memory.bytes; /* which nothing has touched yet */
  if (!s->memory.on_disk && (double)s->tokens * (double)s->widest * sizeof(float) < KEPT_SHARE * spare)
    s->kept = matrix(s->tokens, s->widest);
  s->inputs = matrix(s->forward.rows, s->kept ? s->hidden : s->widest);
  if (!bpdq_streams_dense(&s->base.desc)) return s->inputs;
  s->dense = s->quantized + s->tokens * s->hidden;
  s->dense_inputs = matrix(s->forward.rows, s->hidden);
  s->outputs = matrix(s->forward.rows, s->hidden);
  return s->inputs && s->dense_inputs && s->outputs;
}

/* Both streams at the embeddings. */
static void embed(host_streams *s) {
  const bpdq_streams_desc *desc = &s->base.desc;
  const int32_t *ids = desc->calibration->ids + desc->first_window * desc->calibration->length;
  for (int64_t i = 0; i < s->tokens; i++)
    bpdq_stored_row_to_f32(desc->checkpoint->embedding, ids[i], s->hidden, s->quantized + i * s->hidden);
  if (s->dense) memcpy(s->dense, s->quantized, (size_t)(s->tokens * s->hidden) * sizeof(float));
}

static bpdq_status start(host_streams *s, bpdq_error *error) {
  const bpdq_streams_desc *desc = &s->base.desc;
  const bpdq_config *config = &desc->checkpoint->config;
  BPDQ_TRY(bpdq_pool_create(desc->threads, &s->pool, error));
  BPDQ_TRY(bpdq_stream_memory_create(desc, bpdq_streams_dense(desc) ? 2 : 1, &s->memory, error));
  s->tokens = desc->window_count * desc->calibration->length;
  s->hidden = config->hidden_size;
  bpdq_forward_desc forward = {.backend = desc->backend,
                               .device = desc->device,
                               .memory_cap = desc->device_memory,
                               .threads = desc->threads,
                               .config = config,
                               .length = desc->calibration->length,
                               .most_tokens = s->tokens,
                               .log = desc->log};
  BPDQ_TRY(bpdq_forward_create(&forward, &s->forward, error));
  if (desc->backend && desc->first_window == 0) bpdq_log_info(desc->log, "forward passes: %s", s->forward.choice);
  for (int i = BPDQ_HIDDEN; i <= BPDQ_GATED; i++) {
    int64_t width = bpdq_forward_width(&s->forward, (bpdq_activation)i);
    if (width > s->widest) s->widest = width;
  }
  if (!allocate(s))
    return bpdq_fail(error, BPDQ_ERROR_MEMORY,
                     "out of host memory for the activations of %lld calibration windows of %lld tokens; use fewer (--samples) or shorter "
                     "ones (--seqlen)",
                     (long long)desc->window_count, (long long)desc->calibration->length);
  embed(s);
  return BPDQ_OK;
}

bpdq_status bpdq_host_streams_create(bpdq_algebra *algebra, const bpdq_streams_desc *desc, bpdq_streams **streams, bpdq_error *error) {
  *streams = NULL;
  host_streams *s = calloc(1, sizeof *s);
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
