/* Decoding on the Vulkan backend: a program of one row fuses rope, cache write and attention and splits the context over work groups. It
 * must agree with attention in double precision at every length around the splits' edges, run after run. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vulkan.h"

#define HEADS 6
#define KV_HEADS 2
#define DIM 32
#define CONTEXT 1300
#define WIDTH ((HEADS + 2 * KV_HEADS) * DIM)
#define PREFILL 260

enum { QKV, OUTPUT, TABLE, KEYS, VALUES, TENSORS };

typedef struct decode_test {
  bpdq_backend *backend;
  bpdq_state *state;
  bpdq_executable *prefill, *decode;
  float table[CONTEXT][DIM];
  float qkv[CONTEXT][WIDTH];
} decode_test;

static bpdq_executable *compile(decode_test *t, int64_t max_tokens) {
  bpdq_op ops[2] = {{.kind = BPDQ_OP_ROPE_CACHE, .name = "rope"}, {.kind = BPDQ_OP_ATTENTION, .name = "attention"}};
  ops[0].rope_cache = (bpdq_op_rope_cache){QKV, TABLE, KEYS, VALUES, HEADS, KV_HEADS, DIM, CONTEXT, NULL, NULL, 0};
  ops[1].attention = (bpdq_op_attention){QKV, OUTPUT, KEYS, VALUES, HEADS, KV_HEADS, DIM, CONTEXT, 1 / sqrtf(DIM)};
  bpdq_program program = {ops, 2, max_tokens, BPDQ_ACTIVATIONS_F32};
  bpdq_executable *executable = NULL;
  bpdq_error error = {0};
  check(t->backend->compile(t->backend, t->state, &program, &executable, &error), &error);
  return executable;
}

static void start(decode_test *t, bpdq_kv_type kv_type) {
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
  bpdq_tensor_desc tensors[TENSORS] = {{.kind = BPDQ_TENSOR_F32, .rows = PREFILL, .columns = WIDTH},
                                       {.kind = BPDQ_TENSOR_F32, .rows = PREFILL, .columns = HEADS * DIM},
                                       {.kind = BPDQ_TENSOR_F32, .rows = CONTEXT, .columns = DIM},
                                       {BPDQ_TENSOR_KV, CONTEXT, KV_HEADS * DIM, kv_type, DIM},
                                       {BPDQ_TENSOR_KV, CONTEXT, KV_HEADS * DIM, kv_type, DIM}};
  check(t->backend->state_create(t->backend, tensors, TENSORS, &t->state, &error), &error);
  check(t->backend->tensor_write(t->state, TABLE, 0, CONTEXT * DIM, t->table, &error), &error);
  t->prefill = compile(t, PREFILL);
  t->decode = compile(t, 1);
}

static void stop(decode_test *t) {
  t->backend->executable_destroy(t->backend, t->prefill);
  t->backend->executable_destroy(t->backend, t->decode);
  t->backend->state_destroy(t->backend, t->state);
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
  start(&t, kv_type);
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

static void decodes_with_f16(void **unused) {
  (void)unused;
  check_decode(BPDQ_KV_F16, 3e-3);
}

static void decodes_with_q8(void **unused) {
  (void)unused;
  check_decode(BPDQ_KV_Q8, 3e-2);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(decodes_with_f16), cmocka_unit_test(decodes_with_q8)};
  return cmocka_run_group_tests_name("vulkan decode", tests, NULL, NULL);
}
