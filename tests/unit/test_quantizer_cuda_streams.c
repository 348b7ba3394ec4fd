/* Residual streams on the device against the CPU's: after every stage of a block the statistics that it fed and both streams. What is
 * printed names the first step that differs. Skipped (exit status 77) where there is no CUDA device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>
#include <math.h>

#include "../temporary.h"
#include "tiny_model.h"

/* What is compared with the CPU: an argument names another one, such as cuda:1. */
static const char *other_algebra = "cuda";

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
  p->quantized = changed_block(p->model, &p->dense, seed);
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
    tiny_checkpoint tiny;
    make_tiny_checkpoint(m, &seed, &tiny);
    float *norm = random_matrix(1, m->hidden, 0.3f, 1, &seed);
    pair p = {.model = m, .algebras = {make("cpu"), make(other_algebra)}};
    if (m->memory_limit && p.algebras[1]->limit_memory) p.algebras[1]->limit_memory(p.algebras[1], m->memory_limit);
    bpdq_streams_desc desc = {.checkpoint = &tiny.checkpoint,
                              .calibration = &tiny.calibration,
                              .dense_target = m->dense_target,
                              .residual_target = m->residual_target,
                              .threads = 2,
                              .spill_folder = temporary_base()};
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
    free_tiny_checkpoint(&tiny);
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
