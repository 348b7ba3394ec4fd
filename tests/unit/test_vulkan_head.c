/* A large output head on the Vulkan backend: stored in 8 bits, cut into pieces where the device sees little at once, and near lossless for
 * one row and for many. */
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

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(head_in_8_bits)};
  return cmocka_run_group_tests_name("vulkan head", tests, NULL, NULL);
}
