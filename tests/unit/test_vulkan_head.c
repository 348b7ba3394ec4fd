/* A large output head on the Vulkan backend: stored in 8 bits, cut into pieces where the device sees little at once, and near lossless for
 * one row and for many. The rows of a batch, which share a reading of the weights, must get what each gets alone; from five on they may be
 * f16 (linear_head_matrix.comp), whose rounding (2e-4 of the logits) is far below what the 8 bits cost (4e-3). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/half.h"
#include "vulkan.h"

#define ROWS 65600 /* with COLUMNS just above the size from which a head is stored in 8 bits */
#define COLUMNS 1024
#define TOKENS 12

/* Error of every 97th logit of each row, relative to the logits' spread. */
static double logits_error(const uint16_t *w, const float *x, const float *logits, int64_t tokens) {
  double wrong = 0, right = 0;
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t n = t; n < ROWS; n += 97) {
      double sum = 0;
      for (int64_t j = 0; j < COLUMNS; j++) sum += (double)bpdq_bf16_to_float(w[n * COLUMNS + j]) * x[t * COLUMNS + j];
      wrong += (logits[t * ROWS + n] - sum) * (logits[t * ROWS + n] - sum);
      right += sum * sum;
    }
  return sqrt(wrong / right);
}

static void run_head(bpdq_backend *backend, const bpdq_weight *weight, const uint16_t *w, int64_t tokens, bpdq_activations activations) {
  bpdq_error error = {0};
  bpdq_tensor_desc tensors[2] = {{.kind = BPDQ_TENSOR_F32, .rows = tokens, .columns = COLUMNS},
                                 {.kind = BPDQ_TENSOR_F32, .rows = tokens, .columns = ROWS}};
  bpdq_state *state = NULL;
  bpdq_executable *executable = NULL;
  check(backend->state_create(backend, tensors, 2, &state, &error), &error);
  bpdq_op op = {.kind = BPDQ_OP_LINEAR, .name = "head"};
  op.linear = (bpdq_op_linear){.input = 0, .output = 1, .weight = weight};
  bpdq_program program = {&op, 1, tokens, activations};
  check(backend->compile(backend, state, &program, &executable, &error), &error);
  static float x[TOKENS * COLUMNS];
  uint32_t seed = 3;
  for (int64_t i = 0; i < tokens * COLUMNS; i++) x[i] = uniform(&seed);
  float *logits = malloc((size_t)(tokens * ROWS) * sizeof *logits);
  int32_t zeros[TOKENS] = {0};
  bpdq_run run = {tokens, zeros, zeros};
  check(backend->tensor_write(state, 0, 0, tokens * COLUMNS, x, &error), &error);
  check(backend->run(executable, &run, &error), &error);
  check(backend->tensor_read(state, 1, 0, tokens * ROWS, logits, &error), &error);
  double relative = logits_error(w, x, logits, tokens);
  assert_true(relative > 0 && relative < 6e-3);
  free(logits);
  backend->executable_destroy(backend, executable);
  backend->state_destroy(backend, state);
}

static void head_in_8_bits(void **unused) {
  (void)unused;
  bpdq_error error = {0};
  bpdq_backend *backend = first_vulkan_device();
  uint16_t *w = malloc((size_t)ROWS * COLUMNS * sizeof *w);
  assert_non_null(w);
  uint32_t seed = 11;
  for (int64_t i = 0; i < (int64_t)ROWS * COLUMNS; i++) w[i] = bpdq_float_to_bf16(0.05f * uniform(&seed));
  bpdq_weight_part part = {ROWS, w, BPDQ_BF16, NULL, BPDQ_F32};
  bpdq_weight_desc desc = {BPDQ_WEIGHT_DENSE, "lm_head", COLUMNS, 0, 0, &part, 1, true, true};
  bpdq_weight *weight = NULL;
  check(backend->weight_create(backend, &desc, &weight, &error), &error);
  check(backend->weights_flush(backend, &error), &error);
  assert_true(backend->weight_bytes(weight) < (uint64_t)ROWS * COLUMNS * 11 / 10);
  run_head(backend, weight, w, 1, BPDQ_ACTIVATIONS_F32);
  run_head(backend, weight, w, TOKENS, BPDQ_ACTIVATIONS_F32);
  run_head(backend, weight, w, 1, BPDQ_ACTIVATIONS_8);
  run_head(backend, weight, w, 3, BPDQ_ACTIVATIONS_8);
  backend->weight_destroy(backend, weight);
  backend->destroy(backend);
  free(w);
}

#define BATCH 8
#define F16_BATCH 5

typedef struct small_head {
  int64_t rows, columns;
  bpdq_transform_kind transform;
} small_head;

/* Logits [BATCH, rows] of the rows of x, in runs of `batch` and a rest. */
static void run_batches(bpdq_backend *backend, const small_head *s, const bpdq_weight *weight, const bpdq_weight *norm, const float *x,
                        int64_t batch, float *logits) {
  bpdq_error error = {0};
  int64_t width = s->columns * (s->transform == BPDQ_TRANSFORM_SILU_GATE ? 2 : 1);
  bpdq_tensor_desc tensors[2] = {{.kind = BPDQ_TENSOR_F32, .rows = batch, .columns = width},
                                 {.kind = BPDQ_TENSOR_F32, .rows = batch, .columns = s->rows}};
  bpdq_state *state = NULL;
  bpdq_executable *executable = NULL;
  check(backend->state_create(backend, tensors, 2, &state, &error), &error);
  bpdq_op op = {.kind = BPDQ_OP_LINEAR, .name = "head"};
  op.linear = (bpdq_op_linear){.input = 0, .output = 1, .weight = weight, .transform = {s->transform, norm, 1e-5f}};
  bpdq_program program = {&op, 1, batch, BPDQ_ACTIVATIONS_8};
  check(backend->compile(backend, state, &program, &executable, &error), &error);
  static const int32_t zeros[BATCH];
  for (int64_t done = 0; done < BATCH; done += batch) {
    int64_t tokens = BATCH - done < batch ? BATCH - done : batch;
    check(backend->tensor_write(state, 0, 0, tokens * width, x + done * width, &error), &error);
    check(backend->run(executable, &(bpdq_run){tokens, zeros, zeros}, &error), &error);
    check(backend->tensor_read(state, 1, 0, tokens * s->rows, logits + done * s->rows, &error), &error);
  }
  backend->executable_destroy(backend, executable);
  backend->state_destroy(backend, state);
}

static void check_batches(bpdq_backend *backend, const small_head *s) {
  bpdq_error error = {0};
  uint32_t seed = 29;
  int64_t width = s->columns * (s->transform == BPDQ_TRANSFORM_SILU_GATE ? 2 : 1);
  float *w = malloc((size_t)(s->rows * s->columns) * sizeof *w), *norm_values = malloc((size_t)s->columns * sizeof *norm_values);
  float *x = malloc((size_t)(BATCH * width) * sizeof *x), *alone = malloc((size_t)(BATCH * s->rows) * sizeof *alone);
  float *together = malloc((size_t)(BATCH * s->rows) * sizeof *together);
  for (int64_t i = 0; i < s->rows * s->columns; i++) w[i] = uniform(&seed);
  for (int64_t i = 0; i < s->columns; i++) norm_values[i] = 1 + 0.3f * uniform(&seed);
  for (int64_t t = 0; t < BATCH; t++) /* each row has another 1 / rms */
    for (int64_t i = 0; i < width; i++) x[t * width + i] = (float)(t + 1) * uniform(&seed);
  bpdq_weight_part part = {s->rows, w, BPDQ_F32, NULL, BPDQ_F32}, norm_part = {s->columns, norm_values, BPDQ_F32, NULL, BPDQ_F32};
  bpdq_weight_desc desc = {BPDQ_WEIGHT_DENSE, "lm_head", s->columns, 0, 0, &part, 1, true, true};
  bpdq_weight_desc norm_desc = {BPDQ_WEIGHT_VECTOR, "norm", 1, 0, 0, &norm_part, 1, true, false};
  bpdq_weight *weight = NULL, *norm = NULL;
  check(backend->weight_create(backend, &desc, &weight, &error), &error);
  check(backend->weight_create(backend, &norm_desc, &norm, &error), &error);
  check(backend->weights_flush(backend, &error), &error);
  int64_t row_bytes = (s->columns + 63) / 64 * 64;
  assert_int_equal(backend->weight_bytes(weight), (s->rows + 7) / 8 * 8 * (row_bytes + row_bytes / 16)); /* 8 bits and their scales */
  run_batches(backend, s, weight, norm, x, 1, alone);
  for (int64_t batch = 2; batch <= BATCH; batch++) {
    run_batches(backend, s, weight, norm, x, batch, together);
    for (int64_t t = 0; t < BATCH; t++) {
      double wrong = 0, right = 0;
      for (int64_t n = t * s->rows; n < (t + 1) * s->rows; n++) {
        wrong += pow((double)together[n] - alone[n], 2);
        right += pow(alone[n], 2);
      }
      if (!(right > 0 && sqrt(wrong / right) < (batch < F16_BATCH ? 1e-5 : 1e-3)))
        fail_msg("[%d, %d], row %d in batches of %d: relative error %g", (int)s->rows, (int)s->columns, (int)t, (int)batch,
                 sqrt(wrong / right));
    }
  }
  backend->weight_destroy(backend, weight);
  backend->weight_destroy(backend, norm);
  free(w);
  free(norm_values);
  free(x);
  free(alone);
  free(together);
}

/* Columns that end within a word, a group of scales, a block of 128 and at none; rows beside those of a work group and below them. */
static void batches_agree_with_single_rows(void **unused) {
  (void)unused;
  static const small_head shapes[] = {{70, 33, BPDQ_TRANSFORM_RMS_NORM},     {37, 256, BPDQ_TRANSFORM_NONE},
                                      {1003, 777, BPDQ_TRANSFORM_RMS_NORM},  {1, 130, BPDQ_TRANSFORM_RMS_NORM},
                                      {129, 1100, BPDQ_TRANSFORM_SILU_GATE}, {64, 2112, BPDQ_TRANSFORM_RMS_NORM}};
  setenv("BPDQ_VULKAN_SMALL_HEADS", "1", 1);
  bpdq_backend *backend = first_vulkan_device();
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_batches(backend, &shapes[i]);
  backend->destroy(backend);
  unsetenv("BPDQ_VULKAN_SMALL_HEADS");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(head_in_8_bits), cmocka_unit_test(batches_agree_with_single_rows)};
  return cmocka_run_group_tests_name("vulkan head", tests, NULL, NULL);
}
