/* Every variant of a product's integer kernel gives what the plain kernel of f32 activations gives; and what is kept of
 * measurements is read back with suspicion. */
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

#define REPEAT 3 /* runs of one program, with the same results */

typedef struct shape {
  int64_t rows, columns;
  bpdq_transform_kind transform;
  int group;
} shape;

/* The product of the same weight and input in every call; y [rows] is the caller's. */
static float *product(const shape *s, bpdq_activations activations) {
  bpdq_error error = {0};
  bpdq_backend *backend = first_vulkan_device();
  bpdq_weight *weight = NULL, *norm = NULL;
  check(bpdq_random_matrix(backend, "weight", s->rows, s->columns, 2, s->group, 5, &weight, &error), &error);
  check(bpdq_constant_vector(backend, s->columns, 0.75f, &norm, &error), &error);
  check(backend->weights_flush(backend, &error), &error);
  int64_t width = s->columns * (s->transform == BPDQ_TRANSFORM_SILU_GATE ? 2 : 1);
  bpdq_tensor_desc tensors[2] = {{.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = width},
                                 {.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = s->rows}};
  bpdq_state *state = NULL;
  bpdq_executable *executable = NULL;
  check(backend->state_create(backend, tensors, 2, &state, &error), &error);
  bpdq_op op = {.kind = BPDQ_OP_LINEAR, .name = "product"};
  op.linear = (bpdq_op_linear){.output = 1, .weight = weight};
  op.linear.transform = (bpdq_transform){s->transform, s->transform == BPDQ_TRANSFORM_RMS_NORM ? norm : NULL, 1e-6f};
  bpdq_program program = {&op, 1, 1, activations};
  check(backend->compile(backend, state, &program, &executable, &error), &error);
  float *x = malloc((size_t)width * sizeof *x), *y = malloc((size_t)s->rows * sizeof *y), *again = malloc((size_t)s->rows * sizeof *y);
  uint32_t seed = 3;
  for (int64_t i = 0; i < width; i++) x[i] = 2 * uniform(&seed);
  check(backend->tensor_write(state, 0, 0, width, x, &error), &error);
  int32_t zero = 0;
  bpdq_run run = {1, &zero, &zero};
  for (int i = 0; i < REPEAT; i++) {
    check(backend->run(executable, &run, &error), &error);
    check(backend->tensor_read(state, 1, 0, s->rows, i ? again : y, &error), &error);
    if (i) assert_memory_equal(y, again, (size_t)s->rows * sizeof *y);
  }
  free(x);
  free(again);
  backend->executable_destroy(backend, executable);
  backend->state_destroy(backend, state);
  backend->weight_destroy(backend, weight);
  backend->weight_destroy(backend, norm);
  backend->destroy(backend);
  return y;
}

static void expect_near(const float *y, const float *expected, int64_t rows, double limit, const char *what) {
  double wrong = 0, right = 0;
  for (int64_t i = 0; i < rows; i++) {
    wrong += pow((double)y[i] - expected[i], 2);
    right += pow(expected[i], 2);
  }
  if (!(sqrt(wrong / right) < limit)) fail_msg("variant %s: relative error %g, limit %g", what, sqrt(wrong / right), limit);
}

static void every_variant_agrees(void **unused) {
  (void)unused;
  size_t count;
  const vulkan_dot_variant *variants = bpdq_vulkan_dot_variants(&count);
  setenv("BPDQ_VULKAN_CPU_AS_GPU", "1", 1);
  for (size_t i = 0; i < count; i++) {
    char index[24];
    snprintf(index, sizeof index, "%zu", i);
    static const bpdq_transform_kind transforms[] = {BPDQ_TRANSFORM_RMS_NORM, BPDQ_TRANSFORM_NONE, BPDQ_TRANSFORM_SILU_GATE};
    /* More than one work group, and at least one block for each slice. */
    shape s = {2 * variants[i].threads / variants[i].slices + 5, 128 * variants[i].slices + 96, transforms[i % 3], 32};
    float *expected = product(&s, BPDQ_ACTIVATIONS_F32);
    setenv("BPDQ_VULKAN_VARIANT", index, 1);
    float *narrow = product(&s, BPDQ_ACTIVATIONS_8), *wide = product(&s, BPDQ_ACTIVATIONS_16);
    unsetenv("BPDQ_VULKAN_VARIANT");
    expect_near(narrow, expected, s.rows, 3e-2, index);
    expect_near(wide, expected, s.rows, 1e-3, index);
    free(expected);
    free(narrow);
    free(wide);
  }
  unsetenv("BPDQ_VULKAN_CPU_AS_GPU");
}

/* On a device with work groups of `most` threads the usual variant has full subgroups and whole tiles, and a block for each slice. */
static void check_usual(int64_t rows, int64_t blocks, bpdq_transform_kind transform, uint32_t most) {
  vulkan_dot_variant v = bpdq_vulkan_usual_variant(&(vulkan_dot_shape){rows, blocks, 1, transform, most, false});
  if (v.threads % 32 || v.threads > most || !v.slices || v.slices > blocks || v.threads % (8 * v.slices) || !v.ahead)
    fail_msg("%lld rows of %lld blocks, at most %u threads: %u threads, %u slices", (long long)rows, (long long)blocks, most, v.threads,
             v.slices);
}

static void usual_variants_are_possible(void **unused) {
  (void)unused;
  static const int64_t rows[] = {8, 1000, 3584, 37888, 200000};
  static const bpdq_transform_kind transforms[] = {BPDQ_TRANSFORM_RMS_NORM, BPDQ_TRANSFORM_NONE, BPDQ_TRANSFORM_SILU_GATE};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    for (int64_t blocks = 1; blocks <= 300; blocks++)
      for (int j = 0; j < 3; j++)
        for (uint32_t most = 256; most <= 1024; most *= 2) check_usual(rows[i], blocks, transforms[j], most);
  /* Slices that end together: one block of 28 each, or four; five of 148 each; 231 are eight or seven for each of 32. */
  vulkan_dot_variant v = bpdq_vulkan_usual_variant(&(vulkan_dot_shape){3584, 28, 1, BPDQ_TRANSFORM_NONE, 1024, false});
  assert_int_equal(v.slices, 28);
  v = bpdq_vulkan_usual_variant(&(vulkan_dot_shape){37888, 28, 1, BPDQ_TRANSFORM_RMS_NORM, 1024, false});
  assert_int_equal(v.slices, 7);
  v = bpdq_vulkan_usual_variant(&(vulkan_dot_shape){3584, 148, 1, BPDQ_TRANSFORM_SILU_GATE, 1024, false});
  assert_int_equal(v.slices, 30);
  v = bpdq_vulkan_usual_variant(&(vulkan_dot_shape){8192, 231, 1, BPDQ_TRANSFORM_SILU_GATE, 1024, false});
  assert_int_equal(v.slices, 32);
}

/* The sectors of a part lie inside what the weight has (words in all), and there is a load for each. */
static void check_part(const vulkan_early_part *part, uint64_t words, uint32_t threads) {
  uint64_t tiles = part->count / part->chunk;
  assert_int_equal(tiles * part->chunk, part->count);
  assert_true((tiles - 1) * part->stride + (part->chunk - 1) * 8 < words);
  assert_true((uint64_t)part->loads * threads >= part->count);
}

/* What is read early of a weight of any shape is there, and is what `slices` threads begin with. */
static void early_reads_stay_inside(void **unused) {
  (void)unused;
  static const vulkan_number numbers[] = {VULKAN_NUMBER_F32, VULKAN_NUMBER_F16};
  int planned = 0;
  for (int planes = 1; planes <= 8; planes++)
    for (int group = 32; group <= 256; group += 32)
      for (int64_t blocks = 1; blocks <= 231; blocks += 23)
        for (uint32_t slices = 1; slices <= 32; slices += 31)
          for (int i = 0; i < 2; i++) {
            vulkan_piece piece = {0};
            bpdq_weight weight = {.rows = 3580, .planes = planes, .group = group, .blocks = blocks, .number = numbers[i], .pieces = &piece};
            weight.piece_count = 1;
            weight.groups = (128 * blocks + group - 1) / group;
            vulkan_early early = bpdq_vulkan_plan_early(&weight, slices, 300, 256);
            if (!early.piece) continue;
            planned++;
            uint64_t tiles = (3580 + 7) / 8, first = slices < blocks ? slices : (uint64_t)blocks;
            assert_int_equal(early.planes.chunk, first * (uint64_t)planes * 4); /* 128 bytes of a plane for a block of a tile */
            check_part(&early.planes, tiles * (uint64_t)(blocks * planes) * 32, 300 * 256);
            uint64_t group_words = (uint64_t)(planes + 1) * (numbers[i] == VULKAN_NUMBER_F32 ? 8 : 4);
            check_part(&early.coefficients, tiles * (uint64_t)weight.groups * group_words, 300 * 256);
          }
  assert_true(planned > 1000);
  bpdq_weight cut = {.rows = 64, .planes = 2, .group = 64, .blocks = 4, .groups = 8, .piece_count = 2};
  assert_null(bpdq_vulkan_plan_early(&cut, 4, 300, 256).piece);
}

/* Products that are measured before they are compiled; on GPUs and on CPU devices, which are measured only on request. */
static void measured_products_agree(void **unused) {
  (void)unused;
  static const shape shapes[] = {{40, 416, BPDQ_TRANSFORM_RMS_NORM, 32}, {37, 64 * 128, BPDQ_TRANSFORM_SILU_GATE, 128}};
  setenv("BPDQ_VULKAN_TUNE", "1", 1);
  setenv("BPDQ_VULKAN_CPU_AS_GPU", "1", 1);
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    float *expected = product(&shapes[i], BPDQ_ACTIVATIONS_F32), *narrow = product(&shapes[i], BPDQ_ACTIVATIONS_8);
    expect_near(narrow, expected, shapes[i].rows, 3e-2, "measured");
    free(expected);
    free(narrow);
  }
  unsetenv("BPDQ_VULKAN_CPU_AS_GPU");
  unsetenv("BPDQ_VULKAN_TUNE");
}

static void collect(void *user, bpdq_log_level level, const char *line) {
  char *text = user;
  if (level == BPDQ_LOG_WARNING) snprintf(text + strlen(text), 1024 - strlen(text), "%s\n", line);
}

/* How many products are measured when one that is large enough is compiled, with what the environment says; -1 where the device or the
 * build knows no products of integers. */
static int measured(const char *tune, const char *as_gpu, const char *variant, char warnings[1024]) {
  bpdq_error error = {0};
  bpdq_backend_options options = {.device = -1, .log = {collect, warnings}};
  bpdq_backend *backend = NULL;
  bpdq_weight *weight = NULL;
  bpdq_state *state = NULL;
  bpdq_executable *executable = NULL;
  warnings[0] = 0;
  if (tune) setenv("BPDQ_VULKAN_TUNE", tune, 1);
  if (as_gpu) setenv("BPDQ_VULKAN_CPU_AS_GPU", as_gpu, 1);
  if (variant) setenv("BPDQ_VULKAN_VARIANT", variant, 1);
  check(bpdq_vulkan_registration.create(&options, &backend, &error), &error);
  check(bpdq_random_matrix(backend, "weight", 2048, 512, 2, 64, 5, &weight, &error), &error);
  bpdq_tensor_desc tensors[2] = {{.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = 512},
                                 {.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = 2048}};
  check(backend->state_create(backend, tensors, 2, &state, &error), &error);
  bpdq_op op = {.kind = BPDQ_OP_LINEAR, .name = "product"};
  op.linear = (bpdq_op_linear){.output = 1, .weight = weight};
  bpdq_program program = {&op, 1, 1, BPDQ_ACTIVATIONS_8};
  const bpdq_vulkan *vulkan = (const bpdq_vulkan *)(const void *)backend;
  size_t before = vulkan->tuning.count;
  check(backend->compile(backend, state, &program, &executable, &error), &error);
  int count = vulkan->context.features.integer_dot ? (int)(vulkan->tuning.count - before) : -1;
  backend->executable_destroy(backend, executable);
  backend->state_destroy(backend, state);
  backend->weight_destroy(backend, weight);
  backend->destroy(backend);
  unsetenv("BPDQ_VULKAN_TUNE");
  unsetenv("BPDQ_VULKAN_CPU_AS_GPU");
  unsetenv("BPDQ_VULKAN_VARIANT");
  return count;
}

static void switches_are_off_at_zero(void **unused) {
  (void)unused;
  char warnings[1024];
  if (measured("1", NULL, NULL, warnings) < 0) skip();
  assert_int_equal(measured("1", NULL, NULL, warnings), 1);
  assert_int_equal(measured("0", NULL, NULL, warnings), 0);
  assert_int_equal(measured("0", "1", NULL, warnings), 0);
  assert_string_equal(warnings, "");
  /* A device that is a CPU measures nothing by itself. */
  bpdq_device_info device;
  bool is_cpu = bpdq_vulkan_registration.list(&device, 1, NULL) > 0 && !strcmp(device.kind, "cpu");
  if (is_cpu) assert_int_equal(measured(NULL, "0", NULL, warnings), 0);
}

static void a_variant_that_is_none_is_named(void **unused) {
  (void)unused;
  char warnings[1024];
  measured("0", NULL, "0", warnings);
  assert_string_equal(warnings, "");
  measured("0", NULL, "99", warnings);
  assert_non_null(strstr(warnings, "BPDQ_VULKAN_VARIANT=99 is ignored"));
  measured("0", NULL, "fast", warnings);
  assert_non_null(strstr(warnings, "BPDQ_VULKAN_VARIANT=fast is ignored"));
}

/* Whether a file of this text is taken; what it holds is counted in *choices. */
static bool taken(const char *text, size_t size, size_t *choices) {
  vulkan_tuning tuning = {0};
  char *copy = malloc(size ? size : 1); /* exactly as long as the file: a read past its end shows under a sanitizer */
  memcpy(copy, text, size);
  bool good = bpdq_vulkan_tuning_parse(&tuning, copy, size);
  *choices = tuning.count;
  free(copy);
  free(tuning.choices);
  return good;
}

static void damaged_measurements_are_dropped(void **unused) {
  (void)unused;
  size_t count, choices;
  const vulkan_dot_variant *v = &bpdq_vulkan_dot_variants(&count)[0];
  char good[400], bad[400];
  const char *header = "bpdq product variants 7\n";
  int size = snprintf(good, sizeof good, "%s1 2 3 4 5 6 0 %u %u %u %u\n", header, v->threads, v->slices, v->ahead, v->copied);
  assert_true(taken(good, (size_t)size, &choices));
  assert_int_equal(choices, 1);
  assert_true(taken(header, strlen(header), &choices));
  const char *usual = "bpdq product variants 7\n1 2 3 4 5 6 0 0 0 0 0\n";
  assert_true(taken(usual, strlen(usual), &choices));
  assert_int_equal(choices, 1);
  const char *cache = "bpdq product variants 7\ncache large\n1 2 3 4 5 6 0 0 0 0 0\n";
  assert_true(taken(cache, strlen(cache), &choices));
  assert_int_equal(choices, 1);
  for (int end = 0; end < size; end++) /* cut short anywhere */
    if (end != (int)strlen(header)) assert_false(taken(good, (size_t)end, &choices));
  for (int i = 0; i < size; i++) { /* one byte wrong */
    if (good[i] >= '0' && good[i] <= '9') continue;
    memcpy(bad, good, (size_t)size);
    bad[i] = i % 2 ? '\0' : 'x';
    assert_false(taken(bad, (size_t)size, &choices));
    assert_int_equal(choices, 0);
  }
  static const char *const lines[] = {"1 2 3 4 5 6 0 7 4 1 1\n",
                                      "1 2 3 4 5 6 0 256 4 1 2\n",
                                      "-1 2 3 4 5 6 0 256 4 1 1\n",
                                      "99999999999999999999999 2 3 4 5 6 0 256 4 1 1\n",
                                      "1 2 3 4 5 6 0 256 4 1 1 1\n",
                                      "1  2 3 4 5 6 0 256 4 1 1\n",
                                      "1 2 3 4 5 6 0 256 0 1 1\n",
                                      "\n",
                                      "cache large\n",
                                      "cache medium\n",
                                      "1 2 3 4 5 6 0 256 4 4294967297 1\n"};
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
    int length = snprintf(bad, sizeof bad, "%s%s", good, lines[i]);
    assert_false(taken(bad, (size_t)length, &choices));
    assert_int_equal(choices, 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_variant_agrees),
                                     cmocka_unit_test(usual_variants_are_possible),
                                     cmocka_unit_test(early_reads_stay_inside),
                                     cmocka_unit_test(measured_products_agree),
                                     cmocka_unit_test(switches_are_off_at_zero),
                                     cmocka_unit_test(a_variant_that_is_none_is_named),
                                     cmocka_unit_test(damaged_measurements_are_dropped)};
  return cmocka_run_group_tests_name("vulkan variants", tests, NULL, NULL);
}
