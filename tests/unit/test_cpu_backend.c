/* The CPU backend beyond the operation suite: every instruction set that this processor has against plain C, numbers that do not depend
 * on the number of threads, what it refuses, and what it accounts. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
// clang-format off
#include <cmocka.h>
// clang-format on

#include "backend/backend.h"
#include "core/half.h"
#include "core/platform.h"

enum { ROWS = 300, COLUMNS = 1000, PLANES = 3, GROUP = 96, GROUPS = 11, WORDS = GROUPS * GROUP / 32, TOKENS = 20 };

static uint64_t random_state;

static uint32_t random_bits(void) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(random_state >> 32);
}

static float uniform(void) { return (float)(int32_t)random_bits() * 0x1p-31f; }

static bpdq_backend *create_backend(const char *kernels, int threads, uint64_t cap) {
  bpdq_backend *backend = NULL;
  bpdq_backend_options options = {.device = -1, .threads = threads, .memory_cap = cap};
  if (kernels)
    setenv("BPDQ_CPU_KERNELS", kernels, 1);
  else
    unsetenv("BPDQ_CPU_KERNELS");
  bpdq_status status = bpdq_cpu_registration.create(&options, &backend, NULL);
  unsetenv("BPDQ_CPU_KERNELS");
  assert_true(status == BPDQ_OK || (kernels && status == BPDQ_ERROR_DEVICE && !backend));
  return backend;
}

/* A bit-plane matrix and the exact values that it stands for. */
typedef struct matrix {
  uint32_t bits[WORDS * PLANES * ROWS];
  uint16_t coefficients[GROUPS * (PLANES + 1) * ROWS];
  double values[ROWS * COLUMNS];
} matrix;

static matrix *make_matrix(void) {
  matrix *m = malloc(sizeof *m);
  assert_non_null(m);
  random_state = 7;
  for (size_t i = 0; i < WORDS * PLANES * ROWS; i++) m->bits[i] = random_bits();
  for (size_t i = 0; i < GROUPS * (PLANES + 1) * ROWS; i++) m->coefficients[i] = bpdq_float_to_bf16(uniform());
  for (int n = 0; n < ROWS; n++)
    for (int j = 0; j < COLUMNS; j++) {
      const uint16_t *c = m->coefficients + (size_t)(j / GROUP) * (PLANES + 1) * ROWS + n;
      double value = bpdq_bf16_to_float(c[PLANES * ROWS]);
      for (int p = 0; p < PLANES; p++)
        if (m->bits[((size_t)(j / 32) * PLANES + (size_t)p) * ROWS + (size_t)n] >> (j % 32) & 1) value += bpdq_bf16_to_float(c[p * ROWS]);
      m->values[n * COLUMNS + j] = value;
    }
  return m;
}

static bpdq_weight *upload(bpdq_backend *backend, const matrix *m) {
  bpdq_weight_part part = {ROWS, m->bits, BPDQ_I32, m->coefficients, BPDQ_BF16};
  bpdq_weight_desc desc = {BPDQ_WEIGHT_PLANES, "test", COLUMNS, PLANES, GROUP, &part, 1, true, false};
  bpdq_weight *weight = NULL;
  assert_int_equal(backend->weight_create(backend, &desc, &weight, NULL), BPDQ_OK);
  return weight;
}

/* out[tokens, ROWS] = input[tokens, COLUMNS] . W^T */
static void multiply(bpdq_backend *backend, const matrix *m, const float *input, int64_t tokens, bpdq_activations activations, float *out) {
  bpdq_weight *weight = upload(backend, m);
  bpdq_tensor_desc tensors[2] = {{.kind = BPDQ_TENSOR_F32, .rows = TOKENS, .columns = COLUMNS},
                                 {.kind = BPDQ_TENSOR_F32, .rows = TOKENS, .columns = ROWS}};
  bpdq_state *state = NULL;
  bpdq_executable *executable = NULL;
  bpdq_op op = {.kind = BPDQ_OP_LINEAR, .name = "test", .linear = {.input = 0, .output = 1, .weight = weight}};
  bpdq_program program = {&op, 1, TOKENS, activations};
  int32_t positions[TOKENS] = {0}, sequences[TOKENS] = {0};
  bpdq_run run = {tokens, positions, sequences};
  assert_int_equal(backend->state_create(backend, tensors, 2, &state, NULL), BPDQ_OK);
  assert_int_equal(backend->tensor_write(state, 0, 0, tokens * COLUMNS, input, NULL), BPDQ_OK);
  assert_int_equal(backend->compile(backend, state, &program, &executable, NULL), BPDQ_OK);
  assert_int_equal(backend->run(executable, &run, NULL), BPDQ_OK);
  assert_int_equal(backend->tensor_read(state, 1, 0, tokens * ROWS, out, NULL), BPDQ_OK);
  backend->executable_destroy(backend, executable);
  backend->state_destroy(backend, state);
  backend->weight_destroy(backend, weight);
}

/* Root mean square error of a product relative to the root mean square of the exact one. */
static double relative_error(const matrix *m, const float *input, int64_t tokens, const float *out) {
  double error = 0, total = 0;
  for (int64_t t = 0; t < tokens; t++)
    for (int n = 0; n < ROWS; n++) {
      double exact = 0;
      for (int j = 0; j < COLUMNS; j++) exact += m->values[n * COLUMNS + j] * input[t * COLUMNS + j];
      error += (out[t * ROWS + n] - exact) * (out[t * ROWS + n] - exact);
      total += exact * exact;
    }
  return sqrt(error / total);
}

/* Table look-ups with 1, 2 and 4 digits and dequantized blocks, on every instruction set: each within what its precision promises.
 * Activations range over five orders of magnitude between groups, as a per-group scale must bear. */
static void test_precision_of_every_kernel_set(void **unused) {
  (void)unused;
  static const char *const kernels[] = {"plain", "avx2", "avx512", "neon"};
  static const struct {
    bpdq_activations activations;
    double limit;
  } modes[] = {{BPDQ_ACTIVATIONS_F32, 3e-7}, {BPDQ_ACTIVATIONS_16, 1e-4}, {BPDQ_ACTIVATIONS_8, 1.5e-2}};
  matrix *m = make_matrix();
  float *input = malloc(sizeof *input * TOKENS * COLUMNS), *out = malloc(sizeof *out * TOKENS * ROWS);
  for (int i = 0; i < TOKENS * COLUMNS; i++) input[i] = uniform() * powf(10, (float)(i % COLUMNS / GROUP % 5) - 2);
  memset(input + 2 * GROUP, 0, GROUP * sizeof *input); /* a group of zeros has no scale */
  int tried = 0;
  for (size_t k = 0; k < sizeof kernels / sizeof *kernels; k++) {
    bpdq_backend *backend = create_backend(kernels[k], 2, 0);
    if (!backend) continue;
    tried++;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
      for (int64_t tokens = 1; tokens <= TOKENS; tokens += TOKENS - 1) {
        multiply(backend, m, input, tokens, modes[i].activations, out);
        double error = relative_error(m, input, tokens, out);
        if (error > modes[i].limit)
          fail_msg("%s, activations %d, %d tokens: error %.2e", kernels[k], modes[i].activations, (int)tokens, error);
      }
    backend->destroy(backend);
  }
  assert_true(tried >= 1);
  free(input);
  free(out);
  free(m);
}

static void test_numbers_do_not_depend_on_threads(void **unused) {
  (void)unused;
  matrix *m = make_matrix();
  float *input = malloc(sizeof *input * TOKENS * COLUMNS);
  float *first = malloc(sizeof *first * TOKENS * ROWS), *other = malloc(sizeof *other * TOKENS * ROWS);
  for (int i = 0; i < TOKENS * COLUMNS; i++) input[i] = uniform();
  for (int64_t tokens = 1; tokens <= TOKENS; tokens += TOKENS - 1)
    for (int threads = 1; threads <= 5; threads += 2) {
      bpdq_backend *backend = create_backend(NULL, threads, 0);
      multiply(backend, m, input, tokens, BPDQ_ACTIVATIONS_8, threads == 1 ? first : other);
      backend->destroy(backend);
      if (threads > 1) assert_memory_equal(first, other, sizeof *first * (size_t)(tokens * ROWS));
    }
  free(input);
  free(first);
  free(other);
  free(m);
}

/* A NaN or infinity among the activations must reach the output, not vanish in integer tables. */
static void test_not_finite_activations_show(void **unused) {
  (void)unused;
  matrix *m = make_matrix();
  float *input = calloc(COLUMNS, sizeof *input), *out = malloc(sizeof *out * ROWS);
  static const bpdq_activations modes[] = {BPDQ_ACTIVATIONS_F32, BPDQ_ACTIVATIONS_16, BPDQ_ACTIVATIONS_8};
  bpdq_backend *backend = create_backend(NULL, 2, 0);
  for (size_t i = 0; i < 6; i++) {
    input[500] = i % 2 ? NAN : INFINITY;
    multiply(backend, m, input, 1, modes[i / 2], out);
    for (int n = 0; n < ROWS; n++) assert_false(isfinite(out[n]));
  }
  backend->destroy(backend);
  free(input);
  free(out);
  free(m);
}

static void test_memory_is_accounted_and_capped(void **unused) {
  (void)unused;
  bpdq_backend *backend = create_backend(NULL, 1, 1 << 20);
  bpdq_tensor_desc small = {.kind = BPDQ_TENSOR_F32, .rows = 100, .columns = 1000},
                   large = {.kind = BPDQ_TENSOR_F32, .rows = 1000, .columns = 1000};
  bpdq_tensor_desc impossible = {.kind = BPDQ_TENSOR_F32, .rows = INT64_MAX, .columns = INT64_MAX};
  bpdq_state *state = NULL, *second = NULL;
  bpdq_error error = {0};
  uint64_t current, peak;
  assert_int_equal(backend->state_create(backend, &small, 1, &state, NULL), BPDQ_OK);
  assert_int_equal(backend->state_create(backend, &large, 1, &second, &error), BPDQ_ERROR_MEMORY);
  assert_null(second);
  assert_non_null(strstr(error.message, "cap"));
  assert_int_equal(backend->state_create(backend, &impossible, 1, &second, NULL), BPDQ_ERROR_UNSUPPORTED);
  backend->memory(backend, &current, &peak);
  assert_int_equal(current, 400000);
  backend->state_destroy(backend, state);
  backend->memory(backend, &current, &peak);
  assert_int_equal(current, 0);
  assert_int_equal(peak, 400000);
  backend->destroy(backend);
}

/* Without a cap, whatever the system promises: one row too many. */
static void test_more_than_the_machine_has_is_refused(void **unused) {
  (void)unused;
  bpdq_backend *backend = create_backend(NULL, 1, 0);
  bpdq_tensor_desc small = {.kind = BPDQ_TENSOR_F32, .rows = 1024, .columns = 1024};
  bpdq_tensor_desc rest = {.kind = BPDQ_TENSOR_F32, .rows = (int64_t)(bpdq_host_memory_total() >> 12) - 1023, .columns = 1024};
  bpdq_state *state = NULL, *second = NULL;
  bpdq_error error = {0};
  uint64_t current, peak;
  assert_int_equal(backend->state_create(backend, &small, 1, &state, NULL), BPDQ_OK);
  assert_int_equal(backend->state_create(backend, &rest, 1, &second, &error), BPDQ_ERROR_MEMORY);
  assert_null(second);
  assert_non_null(strstr(error.message, "more than this machine has left"));
  assert_non_null(strstr(error.message, "--ctx"));
  backend->memory(backend, &current, &peak);
  assert_int_equal(current, 4 << 20);
  backend->state_destroy(backend, state);
  backend->destroy(backend);
}

static void make_and_destroy(void *argument) {
  bpdq_backend *backend = argument;
  const bpdq_tensor_desc tensor = {.kind = BPDQ_TENSOR_F32, .rows = 150, .columns = 1000};
  for (int i = 0; i < 2000; i++) {
    bpdq_state *state = NULL;
    if (backend->state_create(backend, &tensor, 1, &state, NULL) == BPDQ_OK) backend->state_destroy(backend, state);
  }
}

/* Either of the sessions fits under the cap, both do not. */
static void test_sessions_made_at_once_respect_the_cap(void **unused) {
  (void)unused;
  bpdq_backend *backend = create_backend(NULL, 1, 1000000);
  bpdq_thread *threads[4];
  uint64_t current, peak;
  for (int i = 0; i < 4; i++) threads[i] = bpdq_thread_start(make_and_destroy, backend);
  for (int i = 0; i < 4; i++) bpdq_thread_join(threads[i]);
  backend->memory(backend, &current, &peak);
  assert_int_equal(current, 0);
  assert_int_equal(peak, 600000);
  backend->destroy(backend);
}

/* Tensors of a small decoder step: 0 qkv, 1 rope table, 2 and 3 caches, 4 attention output, 5 logits, 6 values, 7 ids. */
typedef struct step {
  bpdq_backend *backend;
  bpdq_state *state;
  bpdq_op op;
} step;

static step make_step(void) {
  bpdq_tensor_desc tensors[] = {{.kind = BPDQ_TENSOR_F32, .rows = 4, .columns = 256},
                                {.kind = BPDQ_TENSOR_F32, .rows = 32, .columns = 32},
                                {.kind = BPDQ_TENSOR_KV, .rows = 64, .columns = 64, .kv_type = BPDQ_KV_F16, .head_dim = 32},
                                {.kind = BPDQ_TENSOR_KV, .rows = 64, .columns = 64, .kv_type = BPDQ_KV_F16, .head_dim = 32},
                                {.kind = BPDQ_TENSOR_F32, .rows = 4, .columns = 128},
                                {.kind = BPDQ_TENSOR_F32, .rows = 4, .columns = 50},
                                {.kind = BPDQ_TENSOR_F32, .rows = 4, .columns = 9},
                                {.kind = BPDQ_TENSOR_I32, .rows = 4, .columns = 8}};
  step s = {.backend = create_backend(NULL, 1, 0)};
  assert_int_equal(s.backend->state_create(s.backend, tensors, 8, &s.state, NULL), BPDQ_OK);
  return s;
}

static bpdq_status try_compile(step *s, const bpdq_op *op, int64_t max_tokens) {
  bpdq_executable *executable = NULL;
  bpdq_error error = {0};
  bpdq_program program = {op, 1, max_tokens, BPDQ_ACTIVATIONS_F32};
  bpdq_status status = s->backend->compile(s->backend, s->state, &program, &executable, &error);
  assert_true((status == BPDQ_OK) == (executable != NULL));
  if (status != BPDQ_OK && max_tokens > 0) assert_non_null(strstr(error.message, "step"));
  s->backend->executable_destroy(s->backend, executable);
  return status;
}

static const bpdq_op good_attention = {.kind = BPDQ_OP_ATTENTION, .name = "step", .attention = {0, 4, 2, 3, 4, 2, 32, 32, 1.0f}};
static const bpdq_op good_rope = {.kind = BPDQ_OP_ROPE_CACHE, .name = "step", .rope_cache = {0, 1, 2, 3, 4, 2, 32, 32, NULL, NULL, 0}};
static const bpdq_op good_top_k = {.kind = BPDQ_OP_TOP_K, .name = "step", .top_k = {5, 6, 7, 50, 8, BPDQ_ROWS_ALL}};

static void test_broken_programs_are_refused(void **unused) {
  (void)unused;
  step s = make_step();
  assert_int_equal(try_compile(&s, &good_attention, 4), BPDQ_OK);
  assert_int_equal(try_compile(&s, &good_rope, 4), BPDQ_OK);
  assert_int_equal(try_compile(&s, &good_top_k, 4), BPDQ_OK);
  bpdq_op op = good_attention;
  assert_int_equal(try_compile(&s, &op, 5), BPDQ_ERROR_UNSUPPORTED); /* more rows than the tensors have */
  assert_int_equal(try_compile(&s, &op, 0), BPDQ_ERROR_UNSUPPORTED);
  op.attention.k_cache = 99;
  assert_int_equal(try_compile(&s, &op, 4), BPDQ_ERROR_UNSUPPORTED);
  op.attention.k_cache = -1;
  assert_int_equal(try_compile(&s, &op, 4), BPDQ_ERROR_UNSUPPORTED);
  op.attention.k_cache = 0; /* not a cache */
  assert_int_equal(try_compile(&s, &op, 4), BPDQ_ERROR_UNSUPPORTED);
  op = good_attention;
  op.attention.heads = 8; /* output too narrow */
  assert_int_equal(try_compile(&s, &op, 4), BPDQ_ERROR_UNSUPPORTED);
  op.attention.heads = 3; /* not a multiple of the KV heads */
  assert_int_equal(try_compile(&s, &op, 4), BPDQ_ERROR_UNSUPPORTED);
  op = good_attention;
  op.attention.context = 33; /* caches do not hold whole sequences */
  assert_int_equal(try_compile(&s, &op, 4), BPDQ_ERROR_UNSUPPORTED);
  op = good_rope;
  op.rope_cache.context = 64; /* more than the rope table */
  assert_int_equal(try_compile(&s, &op, 4), BPDQ_ERROR_UNSUPPORTED);
  op = good_top_k;
  op.top_k.k = 129;
  assert_int_equal(try_compile(&s, &op, 4), BPDQ_ERROR_UNSUPPORTED);
  op = good_top_k;
  op.top_k.vocab = 51;
  assert_int_equal(try_compile(&s, &op, 4), BPDQ_ERROR_UNSUPPORTED);
  op = (bpdq_op){.kind = BPDQ_OP_LINEAR, .name = "step", .linear = {.input = 0, .output = 4}};
  assert_int_equal(try_compile(&s, &op, 4), BPDQ_ERROR_UNSUPPORTED); /* no weight */
  op = (bpdq_op){.kind = (bpdq_op_kind)77, .name = "step"};
  assert_int_equal(try_compile(&s, &op, 4), BPDQ_ERROR_UNSUPPORTED);
  s.backend->state_destroy(s.backend, s.state);
  s.backend->destroy(s.backend);
}

static void test_runs_outside_the_cache_are_refused(void **unused) {
  (void)unused;
  step s = make_step();
  bpdq_executable *executable = NULL;
  bpdq_program program = {&good_rope, 1, 4, BPDQ_ACTIVATIONS_F32};
  assert_int_equal(s.backend->compile(s.backend, s.state, &program, &executable, NULL), BPDQ_OK);
  static const struct {
    int64_t tokens;
    int32_t position, sequence;
    bpdq_status status;
  } runs[] = {{1, 31, 1, BPDQ_OK},
              {1, 32, 0, BPDQ_ERROR_CONTEXT_FULL},
              {1, -1, 0, BPDQ_ERROR_CONTEXT_FULL},
              {1, 0, 2, BPDQ_ERROR_INTERNAL},
              {1, 0, -1, BPDQ_ERROR_INTERNAL},
              {0, 0, 0, BPDQ_ERROR_INTERNAL},
              {5, 0, 0, BPDQ_ERROR_INTERNAL}};
  for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
    int32_t positions[5], sequences[5];
    for (int t = 0; t < 5; t++) positions[t] = runs[i].position, sequences[t] = runs[i].sequence;
    bpdq_run run = {runs[i].tokens, positions, sequences};
    assert_int_equal(s.backend->run(executable, &run, NULL), runs[i].status);
  }
  s.backend->executable_destroy(s.backend, executable);
  s.backend->state_destroy(s.backend, s.state);
  s.backend->destroy(s.backend);
}

static void test_top_k_without_finite_logits(void **unused) {
  (void)unused;
  step s = make_step();
  bpdq_executable *executable = NULL;
  bpdq_program program = {&good_top_k, 1, 4, BPDQ_ACTIVATIONS_F32};
  float logits[4 * 50], values[4 * 9];
  int32_t ids[4 * 8], zeros[4] = {0};
  for (int i = 0; i < 200; i++) logits[i] = i < 50 ? NAN : i < 100 ? -INFINITY : i < 150 ? (i == 120 ? 1.0f : NAN) : 2.0f;
  assert_int_equal(s.backend->compile(s.backend, s.state, &program, &executable, NULL), BPDQ_OK);
  assert_int_equal(s.backend->tensor_write(s.state, 5, 0, 200, logits, NULL), BPDQ_OK);
  assert_int_equal(s.backend->run(executable, &(bpdq_run){4, zeros, zeros}, NULL), BPDQ_OK);
  assert_int_equal(s.backend->tensor_read(s.state, 7, 0, 32, ids, NULL), BPDQ_OK);
  assert_int_equal(s.backend->tensor_read(s.state, 6, 0, 36, values, NULL), BPDQ_OK);
  for (int j = 0; j < 16; j++) assert_int_equal(ids[j], -1);
  assert_int_equal(ids[16], 20); /* the one finite logit of row 2 */
  assert_int_equal(ids[17], -1);
  assert_float_equal(values[2 * 9 + 8], 1.0f, 1e-6);
  for (int j = 0; j < 8; j++) assert_int_equal(ids[24 + j], j); /* ties: lower id first */
  assert_float_equal(values[3 * 9 + 8], 2.0f + logf(50.0f), 1e-5);
  s.backend->executable_destroy(s.backend, executable);
  s.backend->state_destroy(s.backend, s.state);
  s.backend->destroy(s.backend);
}

static void test_unknown_kernels_and_devices_are_refused(void **unused) {
  (void)unused;
  bpdq_backend *backend = NULL;
  bpdq_error error = {0};
  bpdq_backend_options options = {.device = 1};
  assert_int_equal(bpdq_cpu_registration.create(&options, &backend, &error), BPDQ_ERROR_DEVICE);
  assert_null(backend);
  setenv("BPDQ_CPU_KERNELS", "mmx", 1);
  options.device = -1;
  assert_int_equal(bpdq_cpu_registration.create(&options, &backend, &error), BPDQ_ERROR_DEVICE);
  assert_non_null(strstr(error.message, "mmx"));
  unsetenv("BPDQ_CPU_KERNELS");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_precision_of_every_kernel_set),        cmocka_unit_test(test_numbers_do_not_depend_on_threads),
      cmocka_unit_test(test_not_finite_activations_show),          cmocka_unit_test(test_memory_is_accounted_and_capped),
      cmocka_unit_test(test_more_than_the_machine_has_is_refused), cmocka_unit_test(test_sessions_made_at_once_respect_the_cap),
      cmocka_unit_test(test_broken_programs_are_refused),          cmocka_unit_test(test_runs_outside_the_cache_are_refused),
      cmocka_unit_test(test_top_k_without_finite_logits),          cmocka_unit_test(test_unknown_kernels_and_devices_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
