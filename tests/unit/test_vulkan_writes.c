/* Host writes on a Vulkan device whose tensors are not mapped, as without resizable BAR: a token takes one submission, whatever is written
 * for it, and runs and reads see every write in its order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/vulkan/vulkan.h"
#include "model/random.h"
#include "model/session.h"
#include "vulkan.h"

#define COLUMNS 200
#define ROWS 40
#define TOKENS 4
#define LONG 300000 /* columns of a tensor that is written in more than one way */

enum { INPUT, OUTPUT, OTHER, WIDE, TENSORS };

typedef struct fixture {
  bpdq_backend *backend;
  bpdq_weight *weight;
  bpdq_state *state;
  bpdq_executable *executable; /* OUTPUT = weight x INPUT */
} fixture;

static unsigned submissions(const bpdq_backend *backend) {
  return atomic_load(&((const bpdq_vulkan *)(const void *)backend)->context.submissions);
}

static void start(fixture *f) {
  bpdq_error error = {0};
  f->backend = first_vulkan_device();
  bpdq_tensor_desc tensors[TENSORS] = {{.kind = BPDQ_TENSOR_F32, .rows = TOKENS, .columns = COLUMNS},
                                       {.kind = BPDQ_TENSOR_F32, .rows = TOKENS, .columns = ROWS},
                                       {.kind = BPDQ_TENSOR_F32, .rows = TOKENS, .columns = COLUMNS},
                                       {.kind = BPDQ_TENSOR_F32, .rows = 2, .columns = LONG}};
  check(bpdq_random_matrix(f->backend, "weight", ROWS, COLUMNS, 2, 64, 3, &f->weight, &error), &error);
  check(f->backend->weights_flush(f->backend, &error), &error);
  check(f->backend->state_create(f->backend, tensors, TENSORS, &f->state, &error), &error);
  bpdq_op op = {.kind = BPDQ_OP_LINEAR, .name = "product"};
  op.linear = (bpdq_op_linear){.input = INPUT, .output = OUTPUT, .weight = f->weight};
  bpdq_program program = {&op, 1, TOKENS, BPDQ_ACTIVATIONS_F32};
  check(f->backend->compile(f->backend, f->state, &program, &f->executable, &error), &error);
}

static void stop(fixture *f) {
  f->backend->executable_destroy(f->backend, f->executable);
  f->backend->state_destroy(f->backend, f->state);
  f->backend->weight_destroy(f->backend, f->weight);
  f->backend->destroy(f->backend);
}

static void put(fixture *f, bpdq_tensor tensor, int64_t first, int64_t count, const float *data) {
  bpdq_error error = {0};
  check(f->backend->tensor_write(f->state, tensor, first, count, data, &error), &error);
}

static void get(fixture *f, bpdq_tensor tensor, int64_t first, int64_t count, float *data) {
  bpdq_error error = {0};
  check(f->backend->tensor_read(f->state, tensor, first, count, data, &error), &error);
}

static void run(fixture *f, int64_t tokens) {
  static const int32_t zeros[TOKENS];
  bpdq_error error = {0};
  check(f->backend->run(f->executable, &(bpdq_run){tokens, zeros, zeros}, &error), &error);
}

/* What the products of 6 runs are, of 1 to TOKENS rows that change from run to run. */
static void products(fixture *f, float *results) {
  static float x[TOKENS * COLUMNS];
  uint32_t seed = 17;
  for (int i = 0; i < 6; i++, results += TOKENS * ROWS) {
    int64_t tokens = 1 + i / 2 % TOKENS;
    unsigned before = submissions(f->backend);
    for (int64_t j = 0; j < tokens * COLUMNS; j++) x[j] = uniform(&seed);
    put(f, INPUT, 0, tokens * COLUMNS, x);
    memset(x, 0, sizeof x); /* the caller's memory is its own again */
    run(f, tokens);
    assert_int_equal(submissions(f->backend) - before, 1);
    get(f, OUTPUT, 0, tokens * ROWS, results);
  }
}

static void a_run_takes_one_submission(void **unused) {
  (void)unused;
  static float mapped[6 * TOKENS * ROWS], unmapped[6 * TOKENS * ROWS];
  fixture f;
  start(&f);
  products(&f, mapped);
  stop(&f);
  setenv("BPDQ_VULKAN_UNMAPPED", "1", 1);
  start(&f);
  assert_null(f.state->tensors[INPUT].buffer.mapped);
  products(&f, unmapped);
  stop(&f);
  unsetenv("BPDQ_VULKAN_UNMAPPED");
  assert_memory_equal(mapped, unmapped, sizeof mapped);
}

/* Writes at random, some over earlier ones, more than wait at a time and larger than what waits, against a copy on the host. */
static void writes_keep_their_order(void **unused) {
  (void)unused;
  setenv("BPDQ_VULKAN_UNMAPPED", "1", 1);
  fixture f;
  start(&f);
  const int64_t sizes[TENSORS] = {TOKENS * COLUMNS, TOKENS * ROWS, TOKENS * COLUMNS, 2 * LONG};
  float *expected[TENSORS], *data = malloc(2 * LONG * sizeof *data);
  for (int i = 0; i < TENSORS; i++) expected[i] = calloc((size_t)sizes[i], sizeof *expected[i]);
  uint32_t seed = 23;
  for (int step = 0; step < 200; step++) {
    seed = seed * 1664525u + 1013904223u;
    int tensor = step % 41 == 40 ? WIDE : seed >> 16 & 1 ? INPUT : OTHER;
    int64_t first = (int64_t)(seed >> 8) % sizes[tensor], count = (int64_t)(seed >> 4) % (sizes[tensor] - first + 1);
    for (int64_t i = 0; i < count; i++) data[i] = uniform(&seed);
    memcpy(expected[tensor] + first, data, (size_t)count * sizeof *data);
    put(&f, tensor, first, count, data);
    if (step % 7 == 6) run(&f, 1 + step % TOKENS);
    if (step % 10 != 9) continue;
    for (int i = 0; i < TENSORS; i++) {
      if (i == OUTPUT) continue;
      get(&f, i, 0, sizes[i], data);
      assert_memory_equal(data, expected[i], (size_t)sizes[i] * sizeof *data);
    }
  }
  for (int i = 0; i < TENSORS; i++) free(expected[i]);
  free(data);
  put(&f, INPUT, 0, 1, &(float){1}); /* and one that nothing waits for any more */
  stop(&f);
  unsetenv("BPDQ_VULKAN_UNMAPPED");
}

/* Tokens after a prompt, each with the candidates that a sampler asks for: one or many. */
static void generate(bpdq_model *model, bool unmapped, float temperature, int32_t *tokens, size_t count) {
  bpdq_error error = {0};
  bpdq_session *session;
  bpdq_sampling sampling = bpdq_sampling_default();
  sampling.temperature = temperature;
  sampling.seed = 5;
  static const int32_t prompt[] = {5, 100, 300};
  check(bpdq_session_create(model, NULL, &session, &error), &error);
  assert_int_equal(!session->state->tensors[TENSOR_HIDDEN].buffer.mapped, unmapped);
  check(bpdq_evaluate(session, prompt, 3, &error), &error);
  for (size_t i = 0; i < count; i++) {
    check(bpdq_sample(session, 0, &sampling, &tokens[i], &error), &error);
    unsigned before = submissions(model->backend);
    check(bpdq_evaluate(session, &tokens[i], 1, &error), &error);
    assert_int_equal(submissions(model->backend) - before, 1);
    int32_t next;
    check(bpdq_sample(session, 0, &sampling, &next, &error), &error); /* reads the results that it needs */
    assert_int_equal(submissions(model->backend) - before, 1);
  }
  bpdq_session_free(session);
}

static void a_token_takes_one_submission(void **unused) {
  (void)unused;
  int32_t tokens[2][2][5]; /* mapped or not, greedy or not */
  for (int unmapped = 0; unmapped < 2; unmapped++) {
    bpdq_error error = {0};
    bpdq_model *model;
    bpdq_model_options options = bpdq_model_default_options();
    options.backend = "vulkan";
    if (unmapped) setenv("BPDQ_VULKAN_UNMAPPED", "1", 1);
    check(bpdq_model_load(BPDQ_SHARED "/vectors/ckpt-qwen2-k2-g256-padded", &options, &model, &error), &error);
    for (int i = 0; i < 2; i++) generate(model, unmapped, i ? 0.8f : 0, tokens[unmapped][i], 5);
    bpdq_model_free(model);
  }
  unsetenv("BPDQ_VULKAN_UNMAPPED");
  assert_memory_equal(tokens[0], tokens[1], sizeof tokens[0]);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(a_run_takes_one_submission), cmocka_unit_test(writes_keep_their_order),
                                     cmocka_unit_test(a_token_takes_one_submission)};
  return cmocka_run_group_tests_name("vulkan writes", tests, NULL, NULL);
}
