/* Residual streams on the device against the CPU's: after every stage of a block the statistics that it fed and both streams. What is
 * printed names the first step that differs. Skipped (exit status 77) where there is no CUDA device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>
#include <math.h>

#include "layers.h"
#include "quantizer/capture.h"

/* What is compared with the CPU: an argument names another one, such as cuda:1. */
static const char *other_algebra = "cuda";

typedef struct tiny_model {
  const char *what;
  int64_t hidden, middle, heads, kv_heads, head_dim, windows, length;
  bool bias, qk_norm, dense_target, residual_target;
  uint64_t memory_limit; /* of the device; so little that streams are in a file of the host and inputs are computed again */
  double tolerance;      /* of the Frobenius norm of the difference, relative to the CPU's; products are TF32 on the device */
} tiny_model;

enum { TINY_VOCAB = 50, TINY_BLOCKS = 2 };

static float *random_matrix(int64_t rows, int64_t columns, float scale, float offset, uint64_t *seed) {
  float *values = malloc((size_t)(rows * columns) * sizeof *values);
  assert_non_null(values);
  for (int64_t i = 0; i < rows * columns; i++) values[i] = offset + scale * random_value(seed);
  return values;
}

static bpdq_block random_block(const tiny_model *m, uint64_t *seed) {
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
static double relative_error(const float *values, const float *expected, int64_t count) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < count; i++) {
    double d = (double)values[i] - (double)expected[i];
    difference += d * d;
    norm += (double)expected[i] * (double)expected[i];
  }
  return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

/* Both back ends side by side: [0] the CPU's, [1] CUDA's. */
typedef struct pair {
  const tiny_model *model;
  bpdq_algebra *algebras[2];
  bpdq_streams *streams[2];
  bpdq_block dense, quantized;
  bool failed;
} pair;

static void judge(pair *p, double error, const char *what) {
  if (error < 0) return;
  bool bad = !(error <= p->model->tolerance);
  print_message(" %s %.1e%s", what, error, bad ? " TOO LARGE" : "");
  p->failed = p->failed || bad;
}

static void compare_streams(pair *p) {
  const tiny_model *m = p->model;
  int64_t values = m->length * m->hidden;
  float *rows[4];
  double errors[2] = {-1, -1};
  for (int i = 0; i < 4; i++) assert_non_null(rows[i] = calloc((size_t)values, sizeof(float)));
  bool dense = m->dense_target || m->residual_target;
  for (int64_t window = 0; window < m->windows; window++) {
    for (int i = 0; i < 2; i++) CHECK(p->streams[i]->read(p->streams[i], window, rows[i], dense ? rows[2 + i] : NULL, error));
    errors[0] = fmax(errors[0], relative_error(rows[1], rows[0], values));
    if (dense) errors[1] = fmax(errors[1], relative_error(rows[3], rows[2], values));
  }
  judge(p, errors[0], "quantized stream");
  judge(p, errors[1], "dense stream");
  for (int i = 0; i < 4; i++) free(rows[i]);
}

static void compare_stage(pair *p, bpdq_stage stage, const float *norm) {
  static const int FIRST[] = {BPDQ_Q, BPDQ_O, BPDQ_GATE, BPDQ_DOWN, BPDQ_Q};
  static const char *const NAMES[] = {"q k v", "o", "gate up", "down", "head"};
  const bpdq_block_linear *first = &p->quantized.linears[FIRST[stage]];
  int64_t k = first->columns, n = first->rows, sizes[3] = {k * k, k * k, n * k};
  float *found[2][3];
  bpdq_statistics_desc desc = bpdq_streams_statistics(p->streams[0], stage, "test", n, k);
  bool there[3] = {true, desc.cross, desc.residual_rows > 0};
  print_message("  %-8s", NAMES[stage]);
  for (int i = 0; i < 2; i++) {
    bpdq_statistics *statistics;
    bpdq_algebra *a = p->algebras[i];
    bpdq_streams *s = p->streams[i];
    for (int j = 0; j < 3; j++) assert_non_null(found[i][j] = calloc((size_t)sizes[j], sizeof(float)));
    CHECK(a->statistics_create(a, &desc, &statistics, error));
    if (norm)
      CHECK(s->capture_head(s, norm, statistics, error));
    else
      CHECK(s->capture(s, stage, &p->dense, &p->quantized, statistics, error));
    CHECK(a->statistics_finish(a, statistics, error));
    CHECK(a->statistics_read(a, statistics, found[i][0], found[i][1], found[i][2], error));
    a->statistics_destroy(a, statistics);
  }
  for (int j = 0; j < 3; j++)
    judge(p, there[j] ? relative_error(found[1][j], found[0][j], sizes[j]) : -1, (const char *const[]){"H", "C", "R"}[j]);
  for (int i = 0; i < 6; i++) free(found[i / 3][i % 3]);
  compare_streams(p);
  print_message("\n");
}

/* A whole block, stage by stage with its statistics, or moved through as a resumed run does. */
static void compare_block(pair *p, bool replay, uint64_t *seed) {
  p->dense = random_block(p->model, seed);
  p->quantized = random_block(p->model, seed);
  for (int i = 0; i < BPDQ_LINEARS; i++) { /* the dense weights with some noise */
    bpdq_block_linear *q = &p->quantized.linears[i], *d = &p->dense.linears[i];
    for (int64_t j = 0; j < q->rows * q->columns; j++) q->weight[j] = d->weight[j] + 0.2f * q->weight[j];
    if (q->bias) memcpy(q->bias, d->bias, (size_t)q->rows * sizeof(float));
  }
  for (bpdq_stage stage = 0; stage < BPDQ_STAGES && !replay; stage++) compare_stage(p, stage, NULL);
  for (int i = 0; i < 2; i++) {
    bpdq_streams *s = p->streams[i];
    if (replay)
      CHECK(bpdq_streams_replay(s, &p->dense, &p->quantized, error));
    else
      CHECK(s->finish_block(s, &p->quantized, error));
  }
  print_message("  %-8s", replay ? "replayed" : "block");
  compare_streams(p);
  print_message("\n");
  bpdq_block_free(&p->dense);
  bpdq_block_free(&p->quantized);
}

static void streams_agree(void **unused) {
  (void)unused;
  static const tiny_model MODELS[] = {
      {"llama", 72, 200, 6, 2, 12, 5, 37, false, false, true, true, 0, 3e-3},
      {"qwen2", 64, 96, 4, 4, 16, 3, 40, true, false, true, true, 0, 3e-3},
      {"qwen3, long windows", 40, 104, 4, 1, 32, 2, 700, false, true, true, true, 0, 3e-3},
      {"several batches", 32, 48, 4, 2, 8, 230, 37, true, false, true, true, 0, 3e-3},
      {"residual target only", 72, 200, 6, 2, 12, 5, 37, true, true, false, true, 0, 2e-2},
      {"no dense stream", 72, 200, 6, 2, 12, 5, 37, true, true, false, false, 0, 3e-3},
      {"little device memory", 72, 200, 6, 2, 12, 230, 37, true, true, true, true, (uint64_t)256 << 20, 3e-3},
  };
  bool failed = false;
  for (size_t i = 0; i < sizeof MODELS / sizeof *MODELS; i++) {
    const tiny_model *m = &MODELS[i];
    uint64_t seed = 11 + i;
    float *embedding = random_matrix(TINY_VOCAB, m->hidden, 1, 0, &seed), *norm = random_matrix(1, m->hidden, 0.3f, 1, &seed);
    bpdq_stored_tensor tensor = {.name = "embedding", .type = BPDQ_STORED_F32, .dimensions = 2, .data = (const uint8_t *)embedding};
    tensor.shape[0] = TINY_VOCAB;
    tensor.shape[1] = m->hidden;
    bpdq_checkpoint checkpoint = {.embedding = &tensor};
    checkpoint.config = (bpdq_config){.vocab_size = TINY_VOCAB,
                                      .hidden_size = m->hidden,
                                      .intermediate_size = m->middle,
                                      .heads = m->heads,
                                      .kv_heads = m->kv_heads,
                                      .head_dim = m->head_dim,
                                      .context_length = 1024,
                                      .norm_epsilon = 1e-6,
                                      .rope = {.theta = 10000, .factor = 1}};
    bpdq_calibration calibration = {calloc((size_t)(m->windows * m->length), sizeof(int32_t)), m->windows, m->length};
    assert_non_null(calibration.ids);
    for (int64_t t = 0; t < m->windows * m->length; t++) calibration.ids[t] = (int32_t)((random_value(&seed) + 1) * TINY_VOCAB / 2);
    pair p = {.model = m, .algebras = {make("cpu"), make(other_algebra)}};
    if (m->memory_limit && p.algebras[1]->limit_memory) p.algebras[1]->limit_memory(p.algebras[1], m->memory_limit);
    bpdq_streams_desc desc = {.checkpoint = &checkpoint,
                              .calibration = &calibration,
                              .dense_target = m->dense_target,
                              .residual_target = m->residual_target,
                              .threads = 2,
                              .spill_folder = "/tmp"};
    CHECK(bpdq_streams_create(p.algebras[0], &desc, &p.streams[0], error));
    desc.spill = m->memory_limit > 0;
    CHECK(bpdq_streams_create(p.algebras[1], &desc, &p.streams[1], error));
    print_message("%s: relative errors\n", m->what);
    for (int block = 0; block < TINY_BLOCKS; block++) compare_block(&p, block == 1, &seed);
    p.quantized = random_block(m, &seed); /* for its shapes */
    compare_stage(&p, BPDQ_STAGE_HEAD, norm);
    bpdq_block_free(&p.quantized);
    for (int j = 0; j < 2; j++) {
      bpdq_streams_destroy(p.streams[j]);
      p.algebras[j]->destroy(p.algebras[j]);
    }
    failed = failed || p.failed;
    free(calibration.ids);
    free(embedding);
    free(norm);
  }
  assert_false(failed);
}

int main(int count, char **arguments) {
  if (count > 1) other_algebra = arguments[1];
  bpdq_algebra *algebra;
  bpdq_error error = {0};
  bpdq_status status = bpdq_algebra_create(other_algebra, 0, &algebra, &error);
  if (status == BPDQ_ERROR_DEVICE || status == BPDQ_ERROR_UNSUPPORTED) {
    printf("skipped: %s\n", error.message);
    return 77;
  }
  if (status == BPDQ_OK) algebra->destroy(algebra);
  const struct CMUnitTest tests[] = {cmocka_unit_test(streams_agree)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
