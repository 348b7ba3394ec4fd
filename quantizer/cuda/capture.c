/* Streams on the device: forward passes of a batch of windows at a time, whose inputs go into the statistics where they are.
 *
 * Each stage holds the weights that it alone needs. Residual streams live in device memory where all of them leave room for the algebra,
 * else on the host (stream_memory.h) and pass through page-locked buffers. The size of a batch follows from the model and the device's
 * memory, not from what happens to be free, so that a resumed run repeats every sum. */
#include <stdlib.h>
#include <string.h>

#include "capture.h"
#include "core/checked.h"
#include "core/platform.h"
#include "forward.h"
#include "forward_kernels.h"
#include "stream_memory.h"

enum {
  BATCH_TOKENS = 8192, /* more do not make the products faster */
  MOST_HEADS = 32768   /* of a strided batch: windows times key heads */
};

/* A residual stream f32 [windows * length, hidden]: all of it on the device, or all of it on the host. */
typedef struct gpu_stream {
  float *device, *host;
} gpu_stream;

typedef struct gpu_streams {
  bpdq_streams base;
  gpu_algebra *gpu;
  bpdq_gpu_forward forward;
  int64_t windows, length, hidden;
  gpu_stream quantized, dense; /* dense: all NULL where it is not kept */
  bpdq_stream_memory memory;   /* of those on the host */
  float *kept;                 /* device: inputs of o or down, needed again when their linear is known; NULL: computed again */
  int64_t batch;               /* windows */
} gpu_streams;

/* What one stage does to all windows, with the memory that it needs. */
typedef struct pass {
  bpdq_stage stage; /* BPDQ_STAGE_HEAD: of the head */
  bool finish;      /* only applies down_proj */
  bpdq_statistics *statistics;
  bpdq_block quantized, dense;          /* on the device */
  float *norm;                          /* device [hidden]: of stages whose input is the normed residual stream; of a block or own_norm */
  float *own_norm;                      /* the head's */
  int64_t columns;                      /* of the captured input */
  float *x, *dense_x;                   /* of one batch [tokens, hidden], where streams are on the host */
  float *input, *dense_input, *outputs; /* [tokens, columns], the same, [tokens, hidden] */
  bpdq_gpu_scratch scratch;
} pass;

static bool has_dense(const gpu_streams *s) { return bpdq_streams_dense(&s->base.desc); }

/* Whether a pass looks at the dense stream: to move it, or to feed C. */
static bool uses_dense(const gpu_streams *s, const pass *p) {
  if (p->finish || !has_dense(s)) return false;
  return bpdq_stage_closes(p->stage) || (p->statistics && s->base.desc.dense_target);
}

/* The stage whose captured input a pass applies first, or BPDQ_STAGES for none. */
static bpdq_stage applied_stage(const pass *p) {
  if (p->finish) return BPDQ_STAGE_DOWN;
  return p->stage == BPDQ_STAGE_GATE_UP ? BPDQ_STAGE_O : BPDQ_STAGES;
}

static int64_t input_columns(const gpu_streams *s, bpdq_stage stage) {
  const bpdq_config *c = s->forward.config;
  return stage == BPDQ_STAGE_O ? c->heads * c->head_dim : stage == BPDQ_STAGE_DOWN ? c->intermediate_size : s->hidden;
}

/* Whether a pass computes a step of a block: for its own capture, or again for the one before. */
static bool computes(const gpu_streams *s, const pass *p, bpdq_stage stage) {
  return (!p->finish && p->stage == stage) || (!s->kept && applied_stage(p) == stage);
}

/* ---- memory of one pass ---- */

static void free_batch(gpu_streams *s, pass *p) {
  bpdq_gpu_free(s->gpu, p->x);
  bpdq_gpu_free(s->gpu, p->dense_x);
  bpdq_gpu_free(s->gpu, p->input);
  bpdq_gpu_free(s->gpu, p->dense_input);
  bpdq_gpu_free(s->gpu, p->outputs);
  bpdq_gpu_scratch_free(s->gpu, &p->scratch);
  p->x = p->dense_x = p->input = p->dense_input = p->outputs = NULL;
}

static void free_pass(gpu_streams *s, pass *p) {
  free_batch(s, p);
  bpdq_gpu_block_free(s->gpu, &p->quantized);
  bpdq_gpu_block_free(s->gpu, &p->dense);
  bpdq_gpu_free(s->gpu, p->own_norm);
  p->own_norm = NULL;
}

static int64_t input_width(const gpu_streams *s, const pass *p) {
  bool own = !p->finish && !(s->kept && bpdq_stage_closes(p->stage)), again = !s->kept && applied_stage(p) != BPDQ_STAGES;
  int64_t width = own ? p->columns : 0, earlier = again ? input_columns(s, applied_stage(p)) : 0;
  return width > earlier ? width : earlier;
}

static bpdq_status allocate_batch(gpu_streams *s, pass *p, int64_t windows, bpdq_error *error) {
  gpu_algebra *gpu = s->gpu;
  const char *name = "calibration forward pass";
  bool dense = uses_dense(s, p);
  int64_t tokens = windows * s->length, width = input_width(s, p);
  bpdq_status status;
  if (s->quantized.host) BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, tokens * s->hidden, sizeof(float), name, &p->x, error), failed);
  if (width) BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, tokens * width, sizeof(float), name, &p->input, error), failed);
  if (dense) {
    if (s->dense.host) BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, tokens * s->hidden, sizeof(float), name, &p->dense_x, error), failed);
    BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, tokens * p->columns, sizeof(float), name, &p->dense_input, error), failed);
    if (bpdq_stage_closes(p->stage))
      BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, tokens * s->hidden, sizeof(float), name, &p->outputs, error), failed);
  }
  BPDQ_TRY_GOTO(
      bpdq_gpu_scratch_create(&s->forward, windows, computes(s, p, BPDQ_STAGE_O), computes(s, p, BPDQ_STAGE_DOWN), &p->scratch, error),
      failed);
  return BPDQ_OK;
failed:
  free_batch(s, p);
  return status;
}

static unsigned linears_of(const gpu_streams *s, const pass *p) {
  unsigned linears = 0;
  if (computes(s, p, BPDQ_STAGE_O)) linears |= 1u << BPDQ_Q | 1u << BPDQ_K | 1u << BPDQ_V;
  if (computes(s, p, BPDQ_STAGE_DOWN)) linears |= 1u << BPDQ_GATE | 1u << BPDQ_UP;
  return linears;
}

static bpdq_status load_weights(gpu_streams *s, pass *p, const bpdq_block *dense, const bpdq_block *quantized, bpdq_error *error) {
  const bpdq_config *c = s->forward.config;
  unsigned linears = linears_of(s, p), applied = 0;
  if (applied_stage(p) == BPDQ_STAGE_O) applied = 1u << BPDQ_O;
  if (applied_stage(p) == BPDQ_STAGE_DOWN) applied = 1u << BPDQ_DOWN;
  BPDQ_TRY(bpdq_gpu_block_load(s->gpu, c, quantized, linears | applied, &p->quantized, error));
  if (!has_dense(s) || p->finish || !bpdq_stage_closes(p->stage)) return BPDQ_OK;
  return bpdq_gpu_block_load(s->gpu, c, dense, linears | 1u << (p->stage == BPDQ_STAGE_O ? BPDQ_O : BPDQ_DOWN), &p->dense, error);
}

static bpdq_status allocate_pass(gpu_streams *s, pass *p, const bpdq_block *dense, const bpdq_block *quantized, bpdq_error *error) {
  if (quantized) {
    BPDQ_TRY(load_weights(s, p, dense, quantized, error));
    p->norm = p->stage == BPDQ_STAGE_QKV ? p->quantized.attention_norm : p->quantized.mlp_norm;
  }
  return allocate_batch(s, p, s->batch, error);
}

/* Where memory is short, inputs are computed again instead of kept, and then batches get smaller. */
static bpdq_status fit_pass(gpu_streams *s, pass *p, const bpdq_block *dense, const bpdq_block *quantized, bpdq_error *error) {
  bpdq_status status;
  while ((status = allocate_pass(s, p, dense, quantized, error)) == BPDQ_ERROR_MEMORY && (s->kept || s->batch > 1)) {
    free_pass(s, p);
    if (!s->kept) s->batch = (s->batch + 1) / 2;
    bpdq_gpu_free(s->gpu, s->kept);
    s->kept = NULL;
  }
  return status;
}

/* ---- one batch ---- */

typedef struct batch {
  int64_t first, windows, tokens; /* first: its first token */
} batch;

/* A batch of a stream on the device: in its place, or copied into `buffer`. */
static bpdq_status open_rows(gpu_streams *s, const gpu_stream *stream, const batch *b, float *buffer, float **rows, bpdq_error *error) {
  *rows = stream->device ? stream->device + b->first * s->hidden : buffer;
  if (stream->device) return BPDQ_OK;
  return bpdq_gpu_staging_upload(&s->gpu->staging, buffer, stream->host + b->first * s->hidden,
                                 (size_t)(b->tokens * s->hidden) * sizeof(float), s->gpu->stream, "residual stream", error);
}

/* Brings a changed batch back. */
static bpdq_status close_rows(gpu_streams *s, const gpu_stream *stream, const batch *b, const float *rows, bpdq_error *error) {
  if (stream->device) return BPDQ_OK;
  return bpdq_gpu_staging_download(&s->gpu->staging, stream->host + b->first * s->hidden, rows,
                                   (size_t)(b->tokens * s->hidden) * sizeof(float), s->gpu->stream, "residual stream", error);
}

/* The input of o or down from one stream. */
static bpdq_status compute_input(gpu_streams *s, const pass *p, bpdq_stage stage, const bpdq_block *block, const float *x, const batch *b,
                                 float *out, bpdq_error *error) {
  return stage == BPDQ_STAGE_O ? bpdq_gpu_forward_attention(&s->forward, block, x, b->windows, out, &p->scratch, error)
                               : bpdq_gpu_forward_gate(&s->forward, block, x, b->tokens, out, &p->scratch, error);
}

/* Adds the quantized linear of the stage before to the quantized stream. */
static bpdq_status apply_quantized(gpu_streams *s, const pass *p, const batch *b, float *x, bpdq_error *error) {
  bpdq_stage stage = applied_stage(p);
  const float *input = s->kept ? s->kept + b->first * input_columns(s, stage) : p->input;
  if (!s->kept) BPDQ_TRY(compute_input(s, p, stage, &p->quantized, x, b, p->input, error));
  const bpdq_block_linear *linear = &p->quantized.linears[stage == BPDQ_STAGE_O ? BPDQ_O : BPDQ_DOWN];
  BPDQ_TRY(bpdq_gpu_forward_add(&s->forward, linear, input, b->tokens, x, error));
  return close_rows(s, &s->quantized, b, x, error);
}

/* The dense stream through o or down, and what the quantized linear should put out. */
static bpdq_status move_dense(gpu_streams *s, const pass *p, const batch *b, const float *x, bpdq_error *error) {
  const bpdq_block_linear *linear = &p->dense.linears[p->stage == BPDQ_STAGE_O ? BPDQ_O : BPDQ_DOWN];
  float *dense_x;
  BPDQ_TRY(open_rows(s, &s->dense, b, p->dense_x, &dense_x, error));
  BPDQ_TRY(compute_input(s, p, p->stage, &p->dense, dense_x, b, p->dense_input, error));
  BPDQ_TRY(bpdq_gpu_forward_product(&s->forward, linear, p->dense_input, b->tokens, p->outputs, error));
  bpdq_gpu_targets targets = {.x = x,
                              .bias = linear->bias,
                              .dense = dense_x,
                              .outputs = p->outputs,
                              .tokens = b->tokens,
                              .width = s->hidden,
                              .dense_target = s->base.desc.dense_target,
                              .residual_target = s->base.desc.residual_target};
  BPDQ_TRY(bpdq_gpu_check(bpdq_gpu_make_targets(&targets, s->gpu->stream), linear->name, error));
  return close_rows(s, &s->dense, b, dense_x, error);
}

static bpdq_status move_batch(gpu_streams *s, const pass *p, const batch *b, const float **input, bpdq_error *error) {
  float *x, *dense_x;
  *input = p->input;
  BPDQ_TRY(open_rows(s, &s->quantized, b, p->x, &x, error));
  if (applied_stage(p) != BPDQ_STAGES) BPDQ_TRY(apply_quantized(s, p, b, x, error));
  if (p->finish) return BPDQ_OK;
  if (bpdq_stage_closes(p->stage)) {
    float *place = s->kept ? s->kept + b->first * p->columns : p->input;
    *input = place;
    if (s->kept || p->statistics) BPDQ_TRY(compute_input(s, p, p->stage, &p->quantized, x, b, place, error));
    return has_dense(s) ? move_dense(s, p, b, x, error) : BPDQ_OK;
  }
  if (!p->statistics) return BPDQ_OK;
  BPDQ_TRY(bpdq_gpu_forward_norm(&s->forward, p->norm, x, b->tokens, p->input, error));
  if (!uses_dense(s, p)) return BPDQ_OK;
  BPDQ_TRY(open_rows(s, &s->dense, b, p->dense_x, &dense_x, error));
  return bpdq_gpu_forward_norm(&s->forward, p->norm, dense_x, b->tokens, p->dense_input, error);
}

/* ---- all batches ---- */

static bpdq_status wait_counting(gpu_streams *s, uint64_t *begin, double *seconds, bpdq_error *error) {
  BPDQ_TRY(bpdq_gpu_check(cudaStreamSynchronize(s->gpu->stream), "calibration forward pass", error));
  uint64_t now = bpdq_monotonic_nanoseconds();
  *seconds += (double)(now - *begin) * 1e-9;
  *begin = now;
  return BPDQ_OK;
}

static bpdq_status run_pass(gpu_streams *s, pass *p, bpdq_error *error) {
  uint64_t begin = bpdq_monotonic_nanoseconds();
  for (int64_t window = 0; window < s->windows; window += s->batch) {
    batch b = {.first = window * s->length, .windows = s->windows - window < s->batch ? s->windows - window : s->batch};
    b.tokens = b.windows * s->length;
    const float *input;
    BPDQ_TRY(bpdq_streams_check_cancelled(&s->base, error));
    BPDQ_TRY(move_batch(s, p, &b, &input, error));
    BPDQ_TRY(wait_counting(s, &begin, &s->base.forward_seconds, error));
    if (!p->statistics) continue;
    BPDQ_TRY(bpdq_gpu_statistics_add_device(s->gpu, p->statistics, input, p->dense_input, p->outputs, b.tokens, error));
    BPDQ_TRY(wait_counting(s, &begin, &s->base.statistics_seconds, error));
  }
  return BPDQ_OK;
}

static bpdq_status run_block(bpdq_streams *streams, bpdq_stage stage, bool finish, const bpdq_block *dense, const bpdq_block *quantized,
                             bpdq_statistics *statistics, bpdq_error *error) {
  gpu_streams *s = (gpu_streams *)streams;
  pass p = {.stage = stage, .finish = finish, .statistics = statistics, .columns = input_columns(s, stage)};
  uint64_t begin = bpdq_monotonic_nanoseconds();
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(s->gpu->device), "calibration forward pass", error));
  bpdq_status status = fit_pass(s, &p, dense, quantized, error);
  if (status == BPDQ_OK) status = wait_counting(s, &begin, &s->base.forward_seconds, error);
  if (status == BPDQ_OK) status = run_pass(s, &p, error);
  free_pass(s, &p);
  return status;
}

static bpdq_status capture(bpdq_streams *streams, bpdq_stage stage, const bpdq_block *dense, const bpdq_block *quantized,
                           bpdq_statistics *statistics, bpdq_error *error) {
  return run_block(streams, stage, false, dense, quantized, statistics, error);
}

static bpdq_status finish_block(bpdq_streams *streams, const bpdq_block *quantized, bpdq_error *error) {
  return run_block(streams, BPDQ_STAGE_DOWN, true, NULL, quantized, NULL, error);
}

static bpdq_status capture_head(bpdq_streams *streams, const float *norm, bpdq_statistics *statistics, bpdq_error *error) {
  gpu_streams *s = (gpu_streams *)streams;
  pass p = {.stage = BPDQ_STAGE_HEAD, .statistics = statistics, .columns = s->hidden};
  const char *name = "the final norm";
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(s->gpu->device), name, error));
  bpdq_status status = fit_pass(s, &p, NULL, NULL, error);
  if (status != BPDQ_OK) goto done;
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(s->gpu, s->hidden, sizeof *norm, name, &p.own_norm, error), done);
  BPDQ_TRY_GOTO(bpdq_gpu_staging_upload(&s->gpu->staging, p.own_norm, norm, (size_t)s->hidden * sizeof *norm, s->gpu->stream, name, error),
                done);
  p.norm = p.own_norm;
  status = run_pass(s, &p, error);
done:
  free_pass(s, &p);
  return status;
}

static bpdq_status read_window(bpdq_streams *streams, int64_t window, float *quantized, float *dense, bpdq_error *error) {
  gpu_streams *s = (gpu_streams *)streams;
  const gpu_stream *from[2] = {&s->quantized, &s->dense};
  float *to[2] = {quantized, dense};
  int64_t values = s->length * s->hidden;
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(s->gpu->device), "residual stream", error));
  for (int i = 0; i < 2; i++) {
    if (!to[i]) continue;
    if (from[i]->device)
      BPDQ_TRY(bpdq_gpu_download(s->gpu, to[i], from[i]->device + window * values, values, sizeof(float), "residual stream", error));
    else if (from[i]->host)
      memcpy(to[i], from[i]->host + window * values, (size_t)values * sizeof(float));
  }
  return BPDQ_OK;
}

/* ---- life ---- */

static void destroy(bpdq_streams *streams) {
  gpu_streams *s = (gpu_streams *)streams;
  (void)cudaSetDevice(s->gpu->device);
  bpdq_gpu_forward_free(&s->forward);
  bpdq_gpu_free(s->gpu, s->quantized.device);
  bpdq_gpu_free(s->gpu, s->dense.device);
  bpdq_gpu_free(s->gpu, s->kept);
  bpdq_stream_memory_free(&s->memory);
  free(s);
}

/* What a linear of [rows, columns] and its statistics take at most, in bytes (see gpu_algebra.h): while it is quantized, and while its
 * inputs are summed up with both copies of `captured` weights on the device. */
static double linear_bytes(double rows, double columns, double captured) {
  double quantizing = 20 * columns * columns + 18 * rows * columns, capturing = 8 * columns * (columns + rows) + 8 * captured;
  return quantizing > capturing ? quantizing : capturing;
}

static double algebra_bytes(const bpdq_config *c) {
  double hidden = (double)c->hidden_size, middle = (double)c->intermediate_size, heads = (double)(c->heads * c->head_dim);
  double most = linear_bytes(hidden, middle, 3 * hidden * middle), other = linear_bytes(middle, hidden, 0);
  if (other > most) most = other;
  other = linear_bytes(hidden, heads, 4 * hidden * heads);
  return other > most ? other : most;
}

/* Windows of a batch by what the largest stage needs, if `bytes` are there for it. */
static int64_t choose_batch(const gpu_streams *s, double bytes) {
  const bpdq_config *c = s->forward.config;
  int64_t most = BATCH_TOKENS / s->length, widest = input_columns(s, BPDQ_STAGE_DOWN), o = input_columns(s, BPDQ_STAGE_O);
  if (widest < o) widest = o;
  if (most > MOST_HEADS / c->kv_heads) most = MOST_HEADS / c->kv_heads;
  double per_window = sizeof(float) * (double)s->length * (double)(3 * s->hidden + 2 * widest);
  per_window += (double)bpdq_gpu_scratch_bytes(&s->forward, 1, true, true);
  int64_t fitting = (int64_t)(bytes / per_window);
  if (most > fitting) most = fitting;
  if (most > s->windows) most = s->windows;
  return most > 1 ? most : 1;
}

/* On the device, if it is to have a place there. */
static bpdq_status place_stream(gpu_streams *s, gpu_stream *stream, double *spare, int *on_host, bpdq_error *error) {
  int64_t values = s->windows * s->length * s->hidden;
  if ((double)values * sizeof(float) > *spare) {
    ++*on_host;
    return BPDQ_OK;
  }
  *spare -= (double)values * sizeof(float);
  return bpdq_gpu_allocate(s->gpu, values, sizeof(float), "residual stream", &stream->device, error);
}

/* Where everything lives: first the algebra's share, then a batch, then streams, then inputs that would have to be computed again. */
static bpdq_status place(gpu_streams *s, bpdq_error *error) {
  double spare = (double)bpdq_gpu_available(s->gpu) - algebra_bytes(s->forward.config) - (256 << 20);
  int64_t widest = input_columns(s, BPDQ_STAGE_DOWN), o = input_columns(s, BPDQ_STAGE_O);
  int64_t kept = s->windows * s->length * (widest > o ? widest : o);
  s->batch = choose_batch(s, (double)bpdq_gpu_memory(s->gpu) / 8);
  spare -= (double)bpdq_gpu_memory(s->gpu) / 8;
  int on_host = 0;
  BPDQ_TRY(place_stream(s, &s->quantized, &spare, &on_host, error));
  if (has_dense(s)) BPDQ_TRY(place_stream(s, &s->dense, &spare, &on_host, error));
  if (on_host) {
    BPDQ_TRY(bpdq_stream_memory_create(&s->base.desc, on_host, &s->memory, error));
    float *next = s->memory.values;
    if (!s->quantized.device) s->quantized.host = next, next += s->windows * s->length * s->hidden;
    if (has_dense(s) && !s->dense.device) s->dense.host = next;
  }
  if ((double)kept * sizeof(float) > spare) return BPDQ_OK;
  return bpdq_gpu_allocate(s->gpu, kept, sizeof(float), "inputs of o_proj and down_proj", &s->kept, error);
}

/* The embeddings of all windows into both streams. */
static bpdq_status embed(gpu_streams *s, bpdq_error *error) {
  const bpdq_streams_desc *desc = &s->base.desc;
  const int32_t *ids = desc->calibration->ids + desc->first_window * s->length;
  const gpu_stream *streams[2] = {&s->quantized, &s->dense};
  float *rows = bpdq_alloc_array((size_t)(s->length * s->hidden), sizeof *rows);
  if (!rows) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  bpdq_status status = BPDQ_OK;
  for (int64_t window = 0; window < s->windows; window++) {
    int64_t first = window * s->length, values = s->length * s->hidden;
    for (int64_t t = 0; t < s->length; t++)
      bpdq_stored_row_to_f32(desc->checkpoint->embedding, ids[first + t], s->hidden, rows + t * s->hidden);
    for (int i = 0; i < 2; i++) {
      if (streams[i]->host) memcpy(streams[i]->host + first * s->hidden, rows, (size_t)values * sizeof *rows);
      if (streams[i]->device)
        BPDQ_TRY_GOTO(bpdq_gpu_staging_upload(&s->gpu->staging, streams[i]->device + first * s->hidden, rows, (size_t)values * sizeof *rows,
                                              s->gpu->stream, "residual stream", error),
                      done);
    }
  }
  status = bpdq_gpu_check(cudaStreamSynchronize(s->gpu->stream), "residual stream", error);
done:
  free(rows);
  return status;
}

bpdq_status bpdq_gpu_streams_create(bpdq_algebra *algebra, const bpdq_streams_desc *desc, bpdq_streams **streams, bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  *streams = NULL;
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(gpu->device), "residual stream", error));
  gpu_streams *s = calloc(1, sizeof *s);
  if (!s) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  s->base = (bpdq_streams){.desc = *desc,
                           .destroy = destroy,
                           .capture = capture,
                           .capture_head = capture_head,
                           .finish_block = finish_block,
                           .read = read_window};
  s->gpu = gpu;
  s->windows = desc->window_count;
  s->length = desc->calibration->length;
  s->hidden = desc->checkpoint->config.hidden_size;
  bpdq_status status = bpdq_gpu_forward_create(gpu, &desc->checkpoint->config, s->length, &s->forward, error);
  if (status == BPDQ_OK) status = place(s, error);
  if (status == BPDQ_OK) status = embed(s, error);
  if (status != BPDQ_OK) {
    destroy(&s->base);
    return status;
  }
  *streams = &s->base;
  return BPDQ_OK;
}
