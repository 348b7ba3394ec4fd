/* Products behind one another on the Vulkan backend, where one prepares the input of the next: a layer's projections with integer
 * activations must agree with the plain kernels of f32 activations, and no product may take an input that has changed since. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/vulkan/early.h"
#include "backend/vulkan/vulkan.h"
#include "model/random.h"
#include "vulkan.h"

#define OPERATIONS 8
#define REPEAT 2

enum { ATTENTION, HIDDEN, GATE_UP, QKV, OTHER, TENSORS };

typedef struct shape {
  int64_t heads, hidden, width, rows; /* columns of the output projection, of the residual, of the gate, of the last products */
  int planes, group;
  int other_group; /* of the second of two products of the same input; 0: the same */
} shape;

typedef struct chain {
  bpdq_backend *backend;
  bpdq_weight *weights[OPERATIONS], *norms[2];
  bpdq_op ops[OPERATIONS];
  bpdq_tensor_desc tensors[TENSORS];
} chain;

static bpdq_weight *matrix(chain *c, const shape *s, int group, int64_t rows, int64_t columns, uint64_t seed) {
  bpdq_weight *weight = NULL;
  bpdq_error error = {0};
  check(bpdq_random_matrix(c->backend, "weight", rows, columns, s->planes, group, seed, &weight, &error), &error);
  return weight;
}

static void build(chain *c, const shape *s) {
  bpdq_error error = {0};
  c->backend = first_vulkan_device();
  check(bpdq_constant_vector(c->backend, s->hidden, 0.75f, &c->norms[0], &error), &error);
  check(bpdq_constant_vector(c->backend, s->hidden, 1.25f, &c->norms[1], &error), &error);
  bpdq_transform none = {0}, first = {BPDQ_TRANSFORM_RMS_NORM, c->norms[0], 1e-5f}, second = {BPDQ_TRANSFORM_RMS_NORM, c->norms[1], 1e-5f};
  bpdq_transform gate = {BPDQ_TRANSFORM_SILU_GATE, NULL, 0};
  const struct {
    bpdq_tensor input, output;
    bpdq_transform transform;
    int64_t rows, columns, offset;
    bool accumulate;
  } forms[OPERATIONS] = {{ATTENTION, HIDDEN, none, s->hidden, s->heads, 0, true},
                         {HIDDEN, GATE_UP, first, 2 * s->width, s->hidden, 0, false},
                         {GATE_UP, HIDDEN, gate, s->hidden, s->width, 0, true},
                         {HIDDEN, QKV, second, s->rows, s->hidden, 0, false},
                         {HIDDEN, QKV, second, s->rows, s->hidden, s->rows, false},
                         {HIDDEN, OTHER, first, s->rows, s->hidden, 0, false}, /* another norm of the same row */
                         {OTHER, HIDDEN, none, s->hidden, s->rows, 0, false},  /* the row changes, for a product not behind it */
                         {HIDDEN, QKV, first, s->rows, s->hidden, s->rows, true}};
  for (int i = 0; i < OPERATIONS; i++) {
    c->weights[i] = matrix(c, s, i == 4 && s->other_group ? s->other_group : s->group, forms[i].rows, forms[i].columns, 11 + (uint64_t)i);
    c->ops[i] = (bpdq_op){.kind = BPDQ_OP_LINEAR, .name = "product"};
    c->ops[i].linear = (bpdq_op_linear){.input = forms[i].input,
                                        .output = forms[i].output,
                                        .transform = forms[i].transform,
                                        .weight = c->weights[i],
                                        .offset = forms[i].offset,
                                        .accumulate = forms[i].accumulate};
  }
  check(c->backend->weights_flush(c->backend, &error), &error);
  const int64_t columns[TENSORS] = {s->heads, s->hidden, 2 * s->width, 2 * s->rows, s->rows};
  for (int i = 0; i < TENSORS; i++) c->tensors[i] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = columns[i]};
}

static void destroy(chain *c) {
  for (int i = 0; i < OPERATIONS; i++) c->backend->weight_destroy(c->backend, c->weights[i]);
  for (int i = 0; i < 2; i++) c->backend->weight_destroy(c->backend, c->norms[i]);
  c->backend->destroy(c->backend);
}

/* All tensors' contents after a run, one behind the other; the caller's. */
static float *run_chain(const chain *c, bpdq_activations activations, int64_t *count) {
  bpdq_error error = {0};
  bpdq_state *state = NULL;
  bpdq_executable *executable = NULL;
  bpdq_program program = {c->ops, OPERATIONS, 1, activations};
  check(c->backend->state_create(c->backend, c->tensors, TENSORS, &state, &error), &error);
  check(c->backend->compile(c->backend, state, &program, &executable, &error), &error);
  *count = 0;
  for (int i = 0; i < TENSORS; i++) *count += c->tensors[i].columns;
  float *results[REPEAT];
  for (int repeat = 0; repeat < REPEAT; repeat++) {
    float *result = results[repeat] = malloc((size_t)*count * sizeof *result);
    uint32_t seed = 5;
    int64_t at = 0;
    for (int i = 0; i < TENSORS; at += c->tensors[i++].columns) {
      for (int64_t j = 0; j < c->tensors[i].columns; j++) result[at + j] = 2 * uniform(&seed);
      check(c->backend->tensor_write(state, i, 0, c->tensors[i].columns, result + at, &error), &error);
    }
    int32_t zero = 0;
    check(c->backend->run(executable, &(bpdq_run){1, &zero, &zero}, &error), &error);
    at = 0;
    for (int i = 0; i < TENSORS; at += c->tensors[i++].columns)
      check(c->backend->tensor_read(state, i, 0, c->tensors[i].columns, result + at, &error), &error);
    if (repeat) assert_memory_equal(result, results[0], (size_t)*count * sizeof *result);
  }
  for (int repeat = 1; repeat < REPEAT; repeat++) free(results[repeat]);
  c->backend->executable_destroy(c->backend, executable);
  c->backend->state_destroy(c->backend, state);
  return results[0];
}

static void expect_near(const chain *c, const float *got, const float *expected, double limit) {
  for (int i = 0; i < TENSORS; got += c->tensors[i].columns, expected += c->tensors[i].columns, i++) {
    double wrong = 0, right = 0;
    for (int64_t j = 0; j < c->tensors[i].columns; j++) {
      wrong += pow((double)got[j] - expected[j], 2);
      right += pow(expected[j], 2);
    }
    if (!(sqrt(wrong / right) < limit)) fail_msg("tensor %d: relative error %g, limit %g", i, sqrt(wrong / right), limit);
  }
}

static void check_width(const chain *c, bpdq_activations activations, const float *expected, double limit) {
  int64_t count;
  float *got = run_chain(c, activations, &count);
  expect_near(c, got, expected, limit);
  free(got);
}

/* A chain of the shape in both widths: by the usual variants, or in turns by all that can be had. */
static void check_chain(const shape *s, bool by_all) {
  chain c;
  int64_t count;
  size_t variants;
  bpdq_vulkan_dot_variants(&variants);
  build(&c, s);
  float *expected = run_chain(&c, BPDQ_ACTIVATIONS_F32, &count);
  for (size_t i = 0; i < (by_all ? variants : 1); i++) {
    char index[24];
    snprintf(index, sizeof index, "%zu", i);
    if (by_all) setenv("BPDQ_VULKAN_VARIANT", index, 1);
    check_width(&c, BPDQ_ACTIVATIONS_8, expected, 4e-2);
    if (!by_all || i % 2 == 0) check_width(&c, BPDQ_ACTIVATIONS_16, expected, 1e-3);
  }
  unsetenv("BPDQ_VULKAN_VARIANT");
  free(expected);
  destroy(&c);
}

static void prepared_inputs_agree(void **unused) {
  (void)unused;
  /* Ends within a word, within a block and at neither; groups that end within a block, and one that spans two. */
  static const shape shapes[] = {{96, 200, 112, 40, 2, 32, 0},
                                 {260, 384, 1040, 72, 2, 128, 0},
                                 {128, 1001, 100, 33, 3, 64, 0},
                                 {192, 520, 2176, 16, 1, 256, 0},
                                 {64, 128, 96, 64, 4, 96, 0}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_chain(&shapes[i], false);
}

/* Two products of one input whose groups make seven blocks of it, and eight. */
static void other_groups_prepare_again(void **unused) {
  (void)unused;
  static const shape shape = {96, 896, 112, 40, 2, 128, 256};
  check_chain(&shape, false);
}

/* Rows with more blocks than any variant has slices: of the residual, and of the gate. */
static void every_variant_prepares(void **unused) {
  (void)unused;
  static const shape shapes[] = {{96, 4224, 160, 72, 2, 128, 0}, {96, 520, 4200, 40, 2, 64, 0}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_chain(&shapes[i], true);
}

/* What a product reads of the one behind it changes no result. */
static void early_reading_changes_nothing(void **unused) {
  (void)unused;
  static const shape shapes[] = {{260, 384, 1040, 72, 2, 128, 0}, {128, 1001, 100, 33, 3, 64, 0}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    for (int wide = 0; wide < 2; wide++) {
      chain c;
      int64_t count;
      build(&c, &shapes[i]);
      const bpdq_vulkan *vulkan = (const bpdq_vulkan *)(const void *)c.backend;
      bpdq_activations activations = wide ? BPDQ_ACTIVATIONS_16 : BPDQ_ACTIVATIONS_8;
      setenv("BPDQ_VULKAN_EARLY", "0", 1);
      float *expected = run_chain(&c, activations, &count);
      const vulkan_pipeline_entry *newest = vulkan->pipelines.entries;
      setenv("BPDQ_VULKAN_EARLY", "1", 1);
      float *got = run_chain(&c, activations, &count);
      unsetenv("BPDQ_VULKAN_EARLY");
      bool possible = vulkan->context.features.integer_dot && vulkan->context.limits.bindings >= VULKAN_EARLY_BINDINGS;
      if (possible) assert_ptr_not_equal(vulkan->pipelines.entries, newest); /* other kernels */
      assert_memory_equal(got, expected, (size_t)count * sizeof *got);
      free(expected);
      free(got);
      destroy(&c);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(prepared_inputs_agree), cmocka_unit_test(other_groups_prepare_again),
                                     cmocka_unit_test(every_variant_prepares), cmocka_unit_test(early_reading_changes_nothing)};
  return cmocka_run_group_tests_name("vulkan chain", tests, NULL, NULL);
}
