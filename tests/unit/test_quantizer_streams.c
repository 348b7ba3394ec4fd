/* Residual streams on every backend that has a device here, against a forward pass in double precision: after each stage of a block both
 * streams, and the statistics that the stage fed. What is printed names the first step that differs. Arguments: one backend, and the
 * number of its device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>
#include <math.h>

#include "../temporary.h"
#include "backend/registry.h"
#include "tiny_model.h"

static const char *only_backend = NULL;
static int device = -1;

/* ---- the forward pass in double precision ---- */

typedef struct oracle {
  const tiny_model *model;
  int64_t tokens;
  double *x[2];                /* quantized and dense stream [tokens, hidden] */
  double *inputs[2], *targets; /* of the last stage [tokens, width], and what its linear should put out [tokens, hidden] */
} oracle;

static double *numbers(int64_t count) {
  double *values = calloc((size_t)count, sizeof *values);
  assert_non_null(values);
  return values;
}

static void norm_row(const double *x, const float *weights, int64_t width, double *out) {
  double square = 0;
  for (int64_t i = 0; i < width; i++) square += x[i] * x[i];
  double factor = 1 / sqrt(square / (double)width + 1e-6);
  for (int64_t i = 0; i < width; i++) out[i] = x[i] * factor * (double)weights[i];
}

/* out += x W^T + bias */
static void add_product(const bpdq_block_linear *linear, const double *x, bool with_bias, double *out) {
  for (int64_t n = 0; n < linear->rows; n++) {
    double sum = with_bias && linear->bias ? (double)linear->bias[n] : 0;
    for (int64_t j = 0; j < linear->columns; j++) sum += (double)linear->weight[n * linear->columns + j] * x[j];
    out[n] += sum;
  }
}

static void rotate(double *head, const float *norm, int64_t dim, int64_t position) {
  if (norm) norm_row(head, norm, dim, head);
  for (int64_t i = 0; i < dim / 2; i++) {
    double angle = (double)position * pow(10000, -2 * (double)i / (double)dim), a = head[i], b = head[i + dim / 2];
    head[i] = a * cos(angle) - b * sin(angle);
    head[i + dim / 2] = b * cos(angle) + a * sin(angle);
  }
}

/* One query head over the keys and values of positions 0 .. count - 1, `stride` apart. */
static void attend(const double *query, const double *keys, const double *values, int64_t count, int64_t stride, int64_t dim, double *out) {
  double *scores = numbers(count), largest = -INFINITY, sum = 0;
  for (int64_t p = 0; p < count; p++) {
    for (int64_t i = 0; i < dim; i++) scores[p] += query[i] * keys[p * stride + i] / sqrt((double)dim);
    largest = fmax(largest, scores[p]);
  }
  for (int64_t p = 0; p < count; p++) sum += scores[p] = exp(scores[p] - largest);
  for (int64_t p = 0; p < count; p++)
    for (int64_t i = 0; i < dim; i++) out[i] += scores[p] / sum * values[p * stride + i];
  free(scores);
}

/* The input of o_proj for one window. */
static void attention_input(const tiny_model *m, const bpdq_block *block, const double *x, double *out) {
  int64_t dim = m->head_dim, width = (m->heads + 2 * m->kv_heads) * dim;
  double *qkv = numbers(m->length * width), *normed = numbers(m->hidden);
  for (int64_t t = 0; t < m->length; t++) {
    double *row = qkv + t * width;
    norm_row(x + t * m->hidden, block->attention_norm, m->hidden, normed);
    add_product(&block->linears[BPDQ_Q], normed, true, row);
    add_product(&block->linears[BPDQ_K], normed, true, row + m->heads * dim);
    add_product(&block->linears[BPDQ_V], normed, true, row + (m->heads + m->kv_heads) * dim);
    for (int64_t h = 0; h < m->heads; h++) rotate(row + h * dim, block->q_norm, dim, t);
    for (int64_t h = 0; h < m->kv_heads; h++) rotate(row + (m->heads + h) * dim, block->k_norm, dim, t);
    for (int64_t h = 0; h < m->heads; h++) {
      const double *keys = qkv + (m->heads + h / (m->heads / m->kv_heads)) * dim;
      attend(row + h * dim, keys, keys + m->kv_heads * dim, t + 1, width, dim, out + (t * m->heads + h) * dim);
    }
  }
  free(qkv);
  free(normed);
}

static void gate_input(const tiny_model *m, const bpdq_block *block, const double *x, double *out) {
  double *normed = numbers(m->hidden), *gate = numbers(m->middle), *up = numbers(m->middle);
  norm_row(x, block->mlp_norm, m->hidden, normed);
  add_product(&block->linears[BPDQ_GATE], normed, true, gate);
  add_product(&block->linears[BPDQ_UP], normed, true, up);
  for (int64_t i = 0; i < m->middle; i++) out[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
  free(normed);
  free(gate);
  free(up);
}

static double *stage_input(const oracle *o, bpdq_stage stage, const bpdq_block *block, const float *norm, const double *x,
                           int64_t columns) {
  const tiny_model *m = o->model;
  double *out = numbers(o->tokens * columns);
  if (stage == BPDQ_STAGE_O)
    for (int64_t w = 0; w < m->windows; w++) attention_input(m, block, x + w * m->length * m->hidden, out + w * m->length * columns);
  for (int64_t t = 0; t < o->tokens && stage != BPDQ_STAGE_O; t++)
    if (stage == BPDQ_STAGE_DOWN)
      gate_input(m, block, x + t * m->hidden, out + t * columns);
    else
      norm_row(x + t * m->hidden, norm, m->hidden, out + t * columns);
  return out;
}

static void free_stage(oracle *o) {
  free(o->inputs[0]);
  free(o->inputs[1]);
  free(o->targets);
  o->inputs[0] = o->inputs[1] = o->targets = NULL;
}

/* The quantized stream takes what the last stage's linear, now quantized, puts out. */
static void apply_quantized(oracle *o, const bpdq_block_linear *linear) {
  for (int64_t t = 0; t < o->tokens; t++) add_product(linear, o->inputs[0] + t * linear->columns, true, o->x[0] + t * o->model->hidden);
}

static void run_oracle(oracle *o, bpdq_stage stage, const bpdq_block *dense, const bpdq_block *quantized, const float *norm,
                       int64_t columns) {
  int64_t hidden = o->model->hidden;
  if (stage == BPDQ_STAGE_GATE_UP) apply_quantized(o, &quantized->linears[BPDQ_O]);
  free_stage(o);
  o->inputs[0] = stage_input(o, stage, quantized, norm, o->x[0], columns);
  o->inputs[1] = stage_input(o, stage, dense, norm, o->x[1], columns);
  if (!bpdq_stage_closes(stage)) return;
  const bpdq_block_linear *linear = &dense->linears[stage == BPDQ_STAGE_O ? BPDQ_O : BPDQ_DOWN];
  o->targets = numbers(o->tokens * hidden);
  for (int64_t t = 0; t < o->tokens; t++) {
    double *target = o->targets + t * hidden, *x = o->x[1] + t * hidden;
    if (o->model->dense_target) add_product(linear, o->inputs[1] + t * columns, false, target);
    for (int64_t i = 0; i < hidden && o->model->residual_target; i++) target[i] += x[i] - o->x[0][t * hidden + i];
    add_product(linear, o->inputs[1] + t * columns, true, x);
  }
}

/* ---- comparing ---- */

typedef struct comparison {
  const tiny_model *model;
  double tolerance;
  oracle expected;
  bpdq_algebra *algebra;
  bpdq_streams *streams;
  bpdq_block dense, quantized;
  bool failed;
} comparison;

/* Frobenius norm of the difference over that of `expected`. */
static double error_of(const float *values, const double *expected, int64_t count) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < count; i++) {
    difference += ((double)values[i] - expected[i]) * ((double)values[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

static void judge(comparison *c, double error, const char *what) {
  bool bad = !(error <= c->tolerance);
  print_message(" %s %.1e%s", what, error, bad ? " TOO LARGE" : "");
  c->failed = c->failed || bad;
}

static void compare_streams(comparison *c) {
  const tiny_model *m = c->model;
  int64_t values = m->length * m->hidden;
  bool dense = m->dense_target || m->residual_target;
  float *rows[2] = {calloc((size_t)(m->windows * values), sizeof(float)), calloc((size_t)(m->windows * values), sizeof(float))};
  assert_true(rows[0] && rows[1]);
  for (int64_t window = 0; window < m->windows; window++)
    CHECK(c->streams->read(c->streams, window, rows[0] + window * values, dense ? rows[1] + window * values : NULL, error));
  judge(c, error_of(rows[0], c->expected.x[0], m->windows * values), "quantized stream");
  if (dense) judge(c, error_of(rows[1], c->expected.x[1], m->windows * values), "dense stream");
  print_message("\n");
  free(rows[0]);
  free(rows[1]);
}

/* 2/tokens left^T right, for left [tokens, rows] and right [tokens, columns], against what was found. */
static void compare_sum(comparison *c, const double *left, int64_t rows, const double *right, int64_t columns, const float *found,
                        const char *what) {
  double *sum = numbers(rows * columns);
  int64_t tokens = c->expected.tokens;
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < columns; j++) sum[i * columns + j] += 2 / (double)tokens * left[t * rows + i] * right[t * columns + j];
  judge(c, error_of(found, sum, rows * columns), what);
  free(sum);
}

static void compare_stage(comparison *c, bpdq_stage stage, const float *head_norm) {
  static const int FIRST[] = {BPDQ_Q, BPDQ_O, BPDQ_GATE, BPDQ_DOWN, BPDQ_Q};
  static const char *const NAMES[] = {"q k v", "o", "gate up", "down", "head"};
  const bpdq_block_linear *first = &c->quantized.linears[FIRST[stage]];
  int64_t k = first->columns, n = first->rows;
  const float *norm = head_norm ? head_norm : stage == BPDQ_STAGE_QKV ? c->quantized.attention_norm : c->quantized.mlp_norm;
  oracle *o = &c->expected;
  run_oracle(o, stage, &c->dense, &c->quantized, norm, k);
  bpdq_statistics_desc desc = bpdq_streams_statistics(c->streams, stage, "test", n, k);
  bpdq_statistics *statistics;
  float *found[3] = {calloc((size_t)(k * k), sizeof(float)), calloc((size_t)(k * k), sizeof(float)),
                     calloc((size_t)(n * k), sizeof(float))};
  assert_true(found[0] && found[1] && found[2]);
  CHECK(c->algebra->statistics_create(c->algebra, &desc, &statistics, error));
  if (head_norm)
    CHECK(c->streams->capture_head(c->streams, head_norm, statistics, error));
  else
    CHECK(c->streams->capture(c->streams, stage, &c->dense, &c->quantized, statistics, error));
  CHECK(c->algebra->statistics_finish(c->algebra, statistics, error));
  CHECK(c->algebra->statistics_read(c->algebra, statistics, found[0], found[1], found[2], error));
  c->algebra->statistics_destroy(c->algebra, statistics);
  print_message("  %-8s", NAMES[stage]);
  compare_sum(c, o->inputs[0], k, o->inputs[0], k, found[0], "H");
  if (desc.cross) compare_sum(c, o->inputs[1], k, o->inputs[0], k, found[1], "C");
  if (desc.residual_rows) compare_sum(c, o->targets, n, o->inputs[0], k, found[2], "R");
  for (int i = 0; i < 3; i++) free(found[i]);
  compare_streams(c);
}

/* A whole block, stage by stage with its statistics, or moved through as a resumed run does. */
static void compare_block(comparison *c, bool replay, uint64_t *seed) {
  c->dense = random_block(c->model, seed);
  c->quantized = changed_block(c->model, &c->dense, seed);
  for (bpdq_stage stage = 0; stage < BPDQ_STAGES; stage++) {
    if (!replay) compare_stage(c, stage, NULL);
    const float *norm = stage == BPDQ_STAGE_QKV ? c->quantized.attention_norm : c->quantized.mlp_norm;
    static const int FIRST[] = {BPDQ_Q, BPDQ_O, BPDQ_GATE, BPDQ_DOWN};
    if (replay) run_oracle(&c->expected, stage, &c->dense, &c->quantized, norm, c->quantized.linears[FIRST[stage]].columns);
  }
  apply_quantized(&c->expected, &c->quantized.linears[BPDQ_DOWN]);
  if (replay)
    CHECK(bpdq_streams_replay(c->streams, &c->dense, &c->quantized, error));
  else
    CHECK(c->streams->finish_block(c->streams, &c->quantized, error));
  print_message("  %-8s", replay ? "replayed" : "block");
  compare_streams(c);
  bpdq_block_free(&c->dense);
  bpdq_block_free(&c->quantized);
}

/* False where the streams are not those of the double-precision pass. */
static bool model_agrees(const tiny_model *m, const char *backend, bool again) {
  uint64_t seed = 17;
  tiny_checkpoint tiny;
  make_tiny_checkpoint(m, &seed, &tiny);
  float *norm = random_matrix(1, m->hidden, 0.3f, 1, &seed);
  comparison c = {.model = m, .tolerance = m->tolerance * (strcmp(backend, "cpu") ? 300 : 1), .algebra = make("cpu")};
  c.expected = (oracle){.model = m, .tokens = m->windows * m->length};
  for (int i = 0; i < 2; i++) {
    c.expected.x[i] = numbers(c.expected.tokens * m->hidden);
    for (int64_t j = 0; j < c.expected.tokens * m->hidden; j++)
      c.expected.x[i][j] = (double)tiny.values[tiny.calibration.ids[j / m->hidden] * m->hidden + j % m->hidden];
  }
  bpdq_streams_desc desc = {.checkpoint = &tiny.checkpoint,
                            .calibration = &tiny.calibration,
                            .dense_target = m->dense_target,
                            .residual_target = m->residual_target,
                            .threads = 2,
                            .backend = backend,
                            .device = device,
                            .spill_folder = temporary_base(),
                            .spill = again};
  CHECK(bpdq_streams_create(c.algebra, &desc, &c.streams, error));
  print_message("%s, %s: relative errors\n", backend, m->what);
  for (int block = 0; block < TINY_BLOCKS; block++) compare_block(&c, block == 1, &seed);
  c.quantized = random_block(m, &seed); /* for its shapes */
  compare_stage(&c, BPDQ_STAGE_HEAD, norm);
  bpdq_block_free(&c.quantized);
  bpdq_streams_destroy(c.streams);
  c.algebra->destroy(c.algebra);
  free_stage(&c.expected);
  free(c.expected.x[0]);
  free(c.expected.x[1]);
  free(norm);
  free_tiny_checkpoint(&tiny);
  return !c.failed;
}

static bool has_device(const bpdq_backend_registration *backend) {
  bpdq_device_info devices[16];
  size_t count = backend->list(devices, 16, &(bpdq_log){0});
  for (size_t i = 0; i < count && i < 16; i++)
    if (!devices[i].unusable[0]) return true;
  return false;
}

/* Tolerances are the CPU's; GPUs keep keys and values in f16. */
static void streams_follow_the_definition(void **unused) {
  (void)unused;
  static const tiny_model MODELS[] = {
      {"llama", 72, 200, 6, 2, 16, 5, 37, false, false, true, true, 0, 3e-6},
      {"qwen2, spilled", 64, 96, 4, 4, 16, 3, 40, true, false, true, true, 1, 3e-6},
      {"qwen3", 40, 104, 4, 1, 32, 2, 130, false, true, true, true, 0, 3e-6},
      {"several batches", 32, 48, 4, 2, 8, 120, 37, true, false, true, true, 0, 3e-6},
      {"windows longer than a batch", 16, 32, 2, 1, 8, 2, 2500, true, true, true, true, 0, 1e-5},
      {"the same, spilled", 16, 32, 2, 1, 8, 2, 2500, true, true, true, true, 1, 1e-5},
      {"residual target only", 72, 200, 6, 2, 16, 5, 37, true, true, false, true, 0, 1e-5},
      {"no dense stream", 72, 200, 6, 2, 16, 5, 37, true, true, false, false, 0, 3e-6},
  };
  size_t count;
  const bpdq_backend_registration *const *backends = bpdq_backend_registrations(&count);
  bool agree = true;
  for (size_t b = 0; b < count; b++) {
    if (only_backend ? strcmp(only_backend, backends[b]->name) != 0 : !has_device(backends[b])) continue;
    bool slow = strcmp(backends[b]->name, "cpu") != 0; /* as long windows are where the Vulkan device is the CPU */
    for (size_t i = 0; i < sizeof MODELS / sizeof *MODELS; i++)
      if (!slow || MODELS[i].length < 1000 || !MODELS[i].memory_limit)
        agree = model_agrees(&MODELS[i], backends[b]->name, MODELS[i].memory_limit > 0) && agree;
  }
  assert_true(agree);
}

/* What windows_do_not_depend_on_each_other and replays_repeat_every_bit change. */
/* The device that was asked for is one of the backend that was asked for; other backends beside it take their own. */
static int device_of(const char *backend) { return backend && only_backend && !strcmp(backend, only_backend) ? device : -1; }

typedef struct way {
  const char *algebra, *backend; /* algebra: NULL is "cpu" */
  int threads;
  int64_t windows; /* the first of the model's */
  uint64_t device_memory;
  bool captured, spilled, alone; /* stage by stage with statistics; inputs computed again instead of kept; without a dense stream */
} way;

static void capture_block(bpdq_algebra *algebra, bpdq_streams *streams, const bpdq_block *dense, const bpdq_block *quantized) {
  static const int FIRST[] = {BPDQ_Q, BPDQ_O, BPDQ_GATE, BPDQ_DOWN};
  for (bpdq_stage stage = 0; stage < BPDQ_STAGES; stage++) {
    const bpdq_block_linear *first = &quantized->linears[FIRST[stage]];
    bpdq_statistics_desc desc = bpdq_streams_statistics(streams, stage, "test", first->rows, first->columns);
    bpdq_statistics *statistics;
    CHECK(algebra->statistics_create(algebra, &desc, &statistics, error));
    CHECK(streams->capture(streams, stage, dense, quantized, statistics, error));
    algebra->statistics_destroy(algebra, statistics);
  }
  CHECK(streams->finish_block(streams, quantized, error));
}

/* The streams behind a block, [2][windows * length * hidden]; malloc'ed. */
static float *move_through_block(const tiny_model *m, const way *way) {
  uint64_t seed = 5;
  tiny_checkpoint tiny;
  make_tiny_checkpoint(m, &seed, &tiny);
  bpdq_block dense = random_block(m, &seed), quantized = changed_block(m, &dense, &seed);
  bpdq_algebra *algebra = make(way->algebra ? way->algebra : "cpu");
  bpdq_streams *streams;
  tiny.calibration.count = way->windows;
  bpdq_streams_desc desc = {.checkpoint = &tiny.checkpoint,
                            .calibration = &tiny.calibration,
                            .dense_target = !way->alone,
                            .residual_target = !way->alone,
                            .threads = way->threads,
                            .backend = way->backend,
                            .device = device_of(way->backend),
                            .device_memory = way->device_memory,
                            .spill_folder = temporary_base(),
                            .spill = way->spilled};
  CHECK(bpdq_streams_create(algebra, &desc, &streams, error));
  if (way->captured)
    capture_block(algebra, streams, &dense, &quantized);
  else
    CHECK(bpdq_streams_replay(streams, &dense, &quantized, error));
  int64_t values = m->length * m->hidden;
  float *out = calloc((size_t)(2 * m->windows * values), sizeof *out);
  assert_non_null(out);
  for (int64_t i = 0; i < way->windows; i++) CHECK(streams->read(streams, i, out + i * values, out + (m->windows + i) * values, error));
  bpdq_streams_destroy(streams);
  algebra->destroy(algebra);
  bpdq_block_free(&dense);
  bpdq_block_free(&quantized);
  free_tiny_checkpoint(&tiny);
  return out;
}

static const tiny_model BITS = {"", 40, 104, 4, 2, 16, 9, 61, true, true, true, false, 0, 0};

/* Neither the threads nor the windows beside it nor how the work is shared change a bit of a window on the CPU. */
static void windows_do_not_depend_on_each_other(void **unused) {
  (void)unused;
  size_t values = (size_t)(BITS.length * BITS.hidden), all = (size_t)BITS.windows * values;
  float *expected = move_through_block(&BITS, &(way){.threads = 1, .windows = BITS.windows});
  const way ways[] = {{.threads = 2, .windows = BITS.windows},
                      {.threads = 3, .windows = BITS.windows},
                      {.threads = 2, .windows = 2},
                      {.algebra = "cpu+cpu", .threads = 2, .windows = BITS.windows},
                      {.algebra = "cpu+cpu", .backend = "cpu", .threads = 2, .windows = BITS.windows, .captured = true},
                      {.algebra = "cpu", .backend = "cpu", .threads = 2, .windows = BITS.windows, .spilled = true}};
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
    float *found = move_through_block(&BITS, &ways[i]);
    size_t same = (size_t)ways[i].windows * values;
    assert_memory_equal(found, expected, same * sizeof *found);
    assert_memory_equal(found + all, expected + all, same * sizeof *found);
    free(found);
  }
  free(expected);
}

/* Batches get smaller where memory is short: when streams are made, and between two stages of a block. */
static void short_memory_makes_small_batches(void **unused) {
  (void)unused;
  size_t bytes = (size_t)(2 * BITS.windows * BITS.length * BITS.hidden) * sizeof(float);
  float *expected = move_through_block(&BITS, &(way){.threads = 1, .windows = BITS.windows});
  for (uint64_t kib = 1000; kib < 2200; kib += 20) { /* about 2 MiB are enough for all rows at once */
    way tight = {
        .backend = "cpu", .threads = 2, .windows = BITS.windows, .device_memory = kib << 10, .captured = true, .alone = kib / 20 % 2};
    float *found = move_through_block(&BITS, &tight);
    assert_memory_equal(found, expected, tight.alone ? bytes / 2 : bytes);
    free(found);
  }
  free(expected);
}

/* A resumed run replays blocks, whether memory has room for the captured inputs or not: every backend gives the same bits again. */
static void replays_repeat_every_bit(void **unused) {
  (void)unused;
  size_t count, bytes = (size_t)(2 * BITS.windows * BITS.length * BITS.hidden) * sizeof(float);
  const bpdq_backend_registration *const *backends = bpdq_backend_registrations(&count);
  for (size_t b = 0; b < count; b++) {
    const char *name = backends[b]->name;
    if (only_backend ? strcmp(only_backend, name) != 0 : !has_device(backends[b])) continue;
    float *expected = move_through_block(&BITS, &(way){.backend = name, .threads = 2, .windows = BITS.windows, .captured = true});
    const way ways[] = {{.backend = name, .threads = 2, .windows = BITS.windows},
                        {.backend = name, .threads = 2, .windows = BITS.windows, .spilled = true},
                        {.backend = name, .threads = 2, .windows = BITS.windows, .captured = true, .spilled = true}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
      float *found = move_through_block(&BITS, &ways[i]);
      assert_memory_equal(found, expected, bytes);
      free(found);
    }
    free(expected);
  }
}

static void too_little_device_memory_is_an_error(void **unused) {
  (void)unused;
  uint64_t seed = 5;
  tiny_checkpoint tiny;
  make_tiny_checkpoint(&BITS, &seed, &tiny);
  bpdq_algebra *algebra = make("cpu");
  bpdq_streams *streams;
  bpdq_error error = {0};
  bpdq_streams_desc desc = {.checkpoint = &tiny.checkpoint, .calibration = &tiny.calibration, .backend = "cpu", .device = -1};
  desc.device_memory = 16 << 10;
  assert_int_equal(bpdq_streams_create(algebra, &desc, &streams, &error), BPDQ_ERROR_MEMORY);
  assert_null(streams);
  assert_non_null(strstr(error.message, "memory cap"));
  algebra->destroy(algebra);
  free_tiny_checkpoint(&tiny);
}

int main(int count, char **arguments) {
  if (count > 1) only_backend = arguments[1];
  if (count > 2) device = atoi(arguments[2]);
  const struct CMUnitTest tests[] = {cmocka_unit_test(streams_follow_the_definition), cmocka_unit_test(windows_do_not_depend_on_each_other),
                                     cmocka_unit_test(short_memory_makes_small_batches), cmocka_unit_test(replays_repeat_every_bit),
                                     cmocka_unit_test(too_little_device_memory_is_an_error)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
