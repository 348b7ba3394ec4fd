/* Decoding on the Vulkan backend: a program of one row fuses rope, cache write and attention and splits the context over work groups. It
 * must agree with attention in double precision at every length around the splits' edges, run after run. With integer activations the
 * attention also prepares the input of the product behind it, which must agree with the product of what the attention gives. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/random.h"
#include "vulkan.h"

#define HEADS 12 /* 3 to a kv head; 3 blocks of 128 columns */
#define KV_HEADS 4
#define DIM 32
#define CONTEXT 1300
#define WIDTH ((HEADS + 2 * KV_HEADS) * DIM)
#define PREFILL 260
#define PROJECTED 40

enum { QKV, OUTPUT, TABLE, KEYS, VALUES, PROJECTION, TENSORS };

typedef struct decode_test {
  bpdq_backend *backend;
  bpdq_state *state;
  bpdq_executable *prefill, *decode;
  bpdq_weight *weight; /* [PROJECTED, HEADS * DIM] */
  float table[CONTEXT][DIM];
  float qkv[CONTEXT][WIDTH];
} decode_test;

static bpdq_executable *compile(decode_test *t, int64_t max_tokens, bpdq_activations activations) {
  bpdq_op ops[] = {{.kind = BPDQ_OP_ROPE_CACHE, .name = "rope"},
                   {.kind = BPDQ_OP_ATTENTION, .name = "attention"},
                   {.kind = BPDQ_OP_LINEAR, .name = "projection"}};
  ops[0].rope_cache = (bpdq_op_rope_cache){QKV, TABLE, KEYS, VALUES, HEADS, KV_HEADS, DIM, CONTEXT, NULL, NULL, 0};
  ops[1].attention = (bpdq_op_attention){QKV, OUTPUT, KEYS, VALUES, HEADS, KV_HEADS, DIM, CONTEXT, 1 / sqrtf(DIM)};
  ops[2].linear = (bpdq_op_linear){.input = OUTPUT, .output = PROJECTION, .weight = t->weight};
  bpdq_program program = {ops, 3, max_tokens, activations};
  bpdq_executable *executable = NULL;
  bpdq_error error = {0};
  check(t->backend->compile(t->backend, t->state, &program, &executable, &error), &error);
  return executable;
}

static void start(decode_test *t, bpdq_kv_type kv_type, bpdq_activations activations) {
  bpdq_error error = {0};
  uint32_t seed = 7;
  t->backend = first_vulkan_device();
  for (int p = 0; p < CONTEXT; p++)
    for (int i = 0; i < DIM / 2; i++) {
      double angle = p * pow(10000, -2.0 * i / DIM);
      t->table[p][i] = (float)cos(angle);
      t->table[p][DIM / 2 + i] = (float)sin(angle);
    }
  for (int p = 0; p < CONTEXT; p++)
    for (int i = 0; i < WIDTH; i++) t->qkv[p][i] = 2 * uniform(&seed);
  bpdq_tensor_desc tensors[TENSORS] = {
      {.kind = BPDQ_TENSOR_F32, .rows = PREFILL, .columns = WIDTH},
      {.kind = BPDQ_TENSOR_F32, .rows = PREFILL, .columns = HEADS * DIM},
      {.kind = BPDQ_TENSOR_F32, .rows = CONTEXT, .columns = DIM},
      {.kind = BPDQ_TENSOR_KV, .rows = CONTEXT, .columns = KV_HEADS * DIM, .kv_type = kv_type, .head_dim = DIM},
      {.kind = BPDQ_TENSOR_KV, .rows = CONTEXT, .columns = KV_HEADS * DIM, .kv_type = kv_type, .head_dim = DIM},
      {.kind = BPDQ_TENSOR_F32, .rows = PREFILL, .columns = PROJECTED}};
  check(bpdq_random_matrix(t->backend, "weight", PROJECTED, HEADS * DIM, 2, 64, 9, &t->weight, &error), &error);
  check(t->backend->weights_flush(t->backend, &error), &error);
  check(t->backend->state_create(t->backend, tensors, TENSORS, &t->state, &error), &error);
  check(t->backend->tensor_write(t->state, TABLE, 0, CONTEXT * DIM, t->table, &error), &error);
  t->prefill = compile(t, PREFILL, activations);
  t->decode = compile(t, 1, activations);
}

static void stop(decode_test *t) {
  t->backend->executable_destroy(t->backend, t->prefill);
  t->backend->executable_destroy(t->backend, t->decode);
  t->backend->state_destroy(t->backend, t->state);
  t->backend->weight_destroy(t->backend, t->weight);
  t->backend->destroy(t->backend);
}

/* Runs positions first .. first + count - 1; the last row's output goes to `output`. */
static void run_rows(decode_test *t, bpdq_executable *executable, int first, int count, float *output) {
  static int32_t positions[PREFILL], sequences[PREFILL];
  bpdq_error error = {0};
  for (int i = 0; i < count; i++) positions[i] = first + i;
  bpdq_run run = {count, positions, sequences};
  check(t->backend->tensor_write(t->state, QKV, 0, (int64_t)count * WIDTH, t->qkv[first], &error), &error);
  check(t->backend->run(executable, &run, &error), &error);
  check(t->backend->tensor_read(t->state, OUTPUT, (int64_t)(count - 1) * HEADS * DIM, HEADS * DIM, output, &error), &error);
}

static void rotate(const decode_test *t, int position, const float *head, double *rotated) {
  for (int i = 0; i < DIM / 2; i++) {
    double c = t->table[position][i], s = t->table[position][DIM / 2 + i];
    rotated[i] = head[i] * c - head[i + DIM / 2] * s;
    rotated[i + DIM / 2] = head[i + DIM / 2] * c + head[i] * s;
  }
}

/* Largest error of a row's attention, relative to its largest value. */
static double row_error(const decode_test *t, int position, const float *output) {
  double worst = 0, largest = 0;
  for (int h = 0; h < HEADS; h++) {
    double q[DIM], scores[CONTEXT], total = 0, maximum = -INFINITY, expected[DIM] = {0};
    int kv = h / (HEADS / KV_HEADS);
    rotate(t, position, &t->qkv[position][h * DIM], q);
    for (int p = 0; p <= position; p++) {
      double k[DIM];
      rotate(t, p, &t->qkv[p][(HEADS + kv) * DIM], k);
      scores[p] = 0;
      for (int i = 0; i < DIM; i++) scores[p] += q[i] * k[i] / sqrt(DIM);
      maximum = fmax(maximum, scores[p]);
    }
    for (int p = 0; p <= position; p++) {
      double weight = exp(scores[p] - maximum);
      total += weight;
      for (int i = 0; i < DIM; i++) expected[i] += weight * t->qkv[p][(HEADS + KV_HEADS + kv) * DIM + i];
    }
    for (int i = 0; i < DIM; i++) {
      worst = fmax(worst, fabs(output[h * DIM + i] - expected[i] / total));
      largest = fmax(largest, fabs(expected[i] / total));
    }
  }
  return worst / largest;
}

static void check_decode(bpdq_kv_type kv_type, double limit) {
  static decode_test t;
  float output[HEADS * DIM], again[HEADS * DIM];
  start(&t, kv_type, BPDQ_ACTIVATIONS_F32);
  int filled = 0;
  static const int lengths[] = {0, 1, 62, 63, 64, 65, 127, 128, 500, 511, 512, 513, 1023, 1024, 1025, 1299};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    for (; filled < lengths[i];) {
      int count = lengths[i] - filled < PREFILL ? lengths[i] - filled : PREFILL;
      run_rows(&t, t.prefill, filled, count, output);
      assert_true(row_error(&t, filled + count - 1, output) < limit);
      filled += count;
    }
    run_rows(&t, t.decode, filled, 1, output);
    if (row_error(&t, filled, output) >= limit) fail_msg("position %d: error %g", filled, row_error(&t, filled, output));
    run_rows(&t, t.decode, filled, 1, again);
    assert_memory_equal(output, again, sizeof output);
    filled++;
  }
  stop(&t);
}

/* The projection of the decoded row, after `length` rows before it; q8 caches would differ by the queries' rounding. */
static void project(bpdq_activations activations, int length, float *projection) {
  static decode_test t;
  float output[HEADS * DIM];
  bpdq_error error = {0};
  start(&t, BPDQ_KV_F16, activations);
  run_rows(&t, t.prefill, 0, length, output);
  run_rows(&t, t.decode, length, 1, output);
  check(t.backend->tensor_read(t.state, PROJECTION, 0, PROJECTED, projection, &error), &error);
  stop(&t);
}

static void expect_projections(int length) {
  float expected[PROJECTED], narrow[PROJECTED], wide[PROJECTED];
  project(BPDQ_ACTIVATIONS_F32, length, expected);
  project(BPDQ_ACTIVATIONS_8, length, narrow);
  project(BPDQ_ACTIVATIONS_16, length, wide);
  double wrong_narrow = 0, wrong_wide = 0, right = 0;
  for (int i = 0; i < PROJECTED; i++) {
    wrong_narrow += pow((double)narrow[i] - expected[i], 2);
    wrong_wide += pow((double)wide[i] - expected[i], 2);
    right += pow(expected[i], 2);
  }
  if (!(wrong_narrow < right * 3e-2 * 3e-2)) fail_msg("8 bits: relative error %g", sqrt(wrong_narrow / right));
  if (!(wrong_wide < right * 1e-3 * 1e-3)) fail_msg("16 bits: relative error %g", sqrt(wrong_wide / right));
}

/* In one part, and in parts that the last work group to finish merges; by the kernels of CPU devices, then by those of GPUs. */
static void attention_prepares_the_projection(void **unused) {
  (void)unused;
  expect_projections(20);
  setenv("BPDQ_VULKAN_CPU_AS_GPU", "1", 1);
  expect_projections(20);
  expect_projections(PREFILL);
  unsetenv("BPDQ_VULKAN_CPU_AS_GPU");
}

static void decodes_with_f16(void **unused) {
  (void)unused;
  check_decode(BPDQ_KV_F16, 3e-3);
}

static void decodes_with_q8(void **unused) {
  (void)unused;
  check_decode(BPDQ_KV_Q8, 3e-2);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(decodes_with_f16), cmocka_unit_test(decodes_with_q8),
                                     cmocka_unit_test(attention_prepares_the_projection)};
  return cmocka_run_group_tests_name("vulkan decode", tests, NULL, NULL);
}
