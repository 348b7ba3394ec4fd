/* Transform and linear operations: planes of every k and group, dense types, stacked parts, fused transforms, row selection. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "suite.h"

#define SENTINEL 77.25f /* what unwritten outputs hold before the run */

typedef struct linear_case {
  bpdq_weight_kind kind;
  int64_t rows[3]; /* parts; unused ones 0 */
  int64_t columns;
  int planes, group;
  bpdq_dtype type;
  int64_t tokens, max_tokens;
  bpdq_transform_kind transform;
  bool bias, accumulate, last, head;
  int64_t offset, slack; /* output columns before and after the product */
  bpdq_activations activations;
} linear_case;

static double error_limit(const linear_case *c) {
  if (c->head) return 1e-2; /* a backend may store the head in 8 bits */
  if (c->kind == BPDQ_WEIGHT_DENSE) return c->activations == BPDQ_ACTIVATIONS_F32 ? 2e-5 : 2e-3; /* f16 tensor cores */
  switch (c->activations) {
    case BPDQ_ACTIVATIONS_F32:
      return 2e-5;
    case BPDQ_ACTIVATIONS_16:
      return 2e-3; /* int16 per group, or f16 products for several tokens */
    default:
      return 4e-2; /* int8 per group */
  }
}

static void describe(const linear_case *c, char *name, size_t size) {
  static const char *const transforms[] = {"none", "norm", "silu"};
  snprintf(name, size, "linear %s N=%lld+%lld+%lld K=%lld k=%d g=%d type=%d m=%lld/%lld %s%s%s%s%s offset=%lld act=%d",
           c->kind == BPDQ_WEIGHT_DENSE ? "dense" : "planes", (long long)c->rows[0], (long long)c->rows[1], (long long)c->rows[2],
           (long long)c->columns, c->planes, c->group, c->type, (long long)c->tokens, (long long)c->max_tokens, transforms[c->transform],
           c->bias ? " bias" : "", c->accumulate ? " accumulate" : "", c->last ? " last" : "", c->head ? " head" : "", (long long)c->offset,
           (int)c->activations);
}

/* expected [max_tokens, width]: the sentinel or old value everywhere, the product where the operation writes. */
static void expected_output(const linear_case *c, const oracle_matrix *parts, const float *bias, const float *norm,
                            const bpdq_transform *transform, const float *input, const float *before, int64_t width, double *expected) {
  int64_t input_width = c->columns * (c->transform == BPDQ_TRANSFORM_SILU_GATE ? 2 : 1);
  int64_t total = c->rows[0] + c->rows[1] + c->rows[2];
  double *x = malloc((size_t)c->columns * sizeof *x), *y = malloc((size_t)total * sizeof *y);
  for (int64_t i = 0; i < c->max_tokens * width; i++) expected[i] = before[i];
  for (int64_t t = c->last ? c->tokens - 1 : 0; t < c->tokens; t++) {
    double *row = expected + (c->last ? 0 : t) * width + c->offset;
    oracle_transform(transform, norm, input + t * input_width, c->columns, x);
    int64_t first = 0;
    for (int part = 0; part < 3 && c->rows[part]; part++) {
      oracle_product(&parts[part], x, y + first);
      first += c->rows[part];
    }
    for (int64_t n = 0; n < total; n++) row[n] = (c->accumulate ? row[n] : 0) + y[n] + (bias ? bias[n] : 0);
  }
  free(x);
  free(y);
}

static void check_output(suite *s, const char *name, const linear_case *c, const float *actual, const double *expected, int64_t width) {
  int64_t total = c->rows[0] + c->rows[1] + c->rows[2], written = c->last ? 1 : c->tokens;
  float *got = malloc((size_t)(written * total) * sizeof *got);
  double *want = malloc((size_t)(written * total) * sizeof *want);
  bool untouched = true;
  for (int64_t t = 0; t < c->max_tokens; t++)
    for (int64_t i = 0; i < width; i++) {
      bool inside = t < written && i >= c->offset && i < c->offset + total;
      if (inside) {
        got[t * total + i - c->offset] = actual[t * width + i];
        want[t * total + i - c->offset] = expected[t * width + i];
      } else if (actual[t * width + i] != (float)expected[t * width + i]) {
        untouched = false;
      }
    }
  suite_compare(s, name, got, want, written * total, error_limit(c));
  suite_true(s, name, untouched, "wrote outside its rows or columns");
  free(got);
  free(want);
}

static void run_linear(suite *s, const linear_case *c, uint64_t seed) {
  char name[200];
  describe(c, name, sizeof name);
  if (!suite_wants(s, name)) return;
  oracle_random random = {seed};
  oracle_matrix parts[3] = {0};
  int part_count = 0;
  for (; part_count < 3 && c->rows[part_count]; part_count++)
    parts[part_count] = c->kind == BPDQ_WEIGHT_DENSE
                            ? oracle_dense(&random, c->rows[part_count], c->columns, c->type)
                            : oracle_planes(&random, c->rows[part_count], c->columns, c->planes, c->group, c->type);
  int64_t total = c->rows[0] + c->rows[1] + c->rows[2], width = c->offset + total + c->slack;
  int64_t input_width = c->columns * (c->transform == BPDQ_TRANSFORM_SILU_GATE ? 2 : 1);
  float *input = malloc((size_t)(c->max_tokens * input_width) * sizeof *input);
  float *before = malloc((size_t)(c->max_tokens * width) * sizeof *before),
        *after = malloc((size_t)(c->max_tokens * width) * sizeof *after);
  float *norm = malloc((size_t)c->columns * sizeof *norm), *bias = malloc((size_t)total * sizeof *bias);
  double *expected = malloc((size_t)(c->max_tokens * width) * sizeof *expected);
  for (int64_t i = 0; i < c->max_tokens * input_width; i++) input[i] = (float)(2 * oracle_uniform(&random));
  for (int64_t i = 0; i < c->max_tokens * width; i++) before[i] = c->accumulate ? (float)oracle_uniform(&random) : SENTINEL;
  for (int64_t i = 0; i < c->columns; i++) norm[i] = (float)(1 + 0.3 * oracle_uniform(&random));
  for (int64_t i = 0; i < total; i++) bias[i] = (float)oracle_uniform(&random);

  bool normed = c->transform == BPDQ_TRANSFORM_RMS_NORM;
  bpdq_weight *weight = suite_matrix(s, c->head ? "head" : name, parts, part_count);
  bpdq_weight *bias_weight = c->bias ? suite_vector(s, name, bias, total) : NULL;
  bpdq_weight *norm_weight = normed ? suite_vector(s, name, norm, c->columns) : NULL;
  bpdq_transform transform = {c->transform, norm_weight, normed ? 1e-5f : 0};
  bpdq_op op = {.kind = BPDQ_OP_LINEAR, .name = "test.linear"};
  op.linear = (bpdq_op_linear){0, 1, transform, weight, bias_weight, c->offset, c->accumulate, c->last ? BPDQ_ROWS_LAST : BPDQ_ROWS_ALL};
  bpdq_tensor_desc tensors[2] = {{.kind = BPDQ_TENSOR_F32, .rows = c->max_tokens, .columns = input_width},
                                 {.kind = BPDQ_TENSOR_F32, .rows = c->max_tokens, .columns = width}};
  const float *images[2] = {input, before};
  bpdq_program program = {&op, 1, c->max_tokens, c->activations};
  suite_run run;
  if (weight && suite_start(s, name, tensors, images, 2, &program, &run)) {
    suite_scalars scalars;
    suite_scalars_fill(&scalars, c->tokens, 0, 0);
    bpdq_error error;
    if (suite_ok(s, name, s->backend->run(run.executable, &scalars.run, &error), &error) &&
        suite_ok(s, name, s->backend->tensor_read(run.state, 1, 0, c->max_tokens * width, after, &error), &error)) {
      expected_output(c, parts, c->bias ? bias : NULL, norm, &transform, input, before, width, expected);
      check_output(s, name, c, after, expected, width);
    }
    suite_stop(s, &run);
  }
  s->backend->weight_destroy(s->backend, weight);
  s->backend->weight_destroy(s->backend, bias_weight);
  s->backend->weight_destroy(s->backend, norm_weight);
  for (int i = 0; i < part_count; i++) oracle_matrix_free(&parts[i]);
  free(input);
  free(before);
  free(after);
  free(norm);
  free(bias);
  free(expected);
}

static const bpdq_activations all_activations[] = {BPDQ_ACTIVATIONS_F32, BPDQ_ACTIVATIONS_16, BPDQ_ACTIVATIONS_8};

/* Every number of planes and every group size, with K padded, at one and at several tokens. */
static void sweep_formats(suite *s) {
  suite_section(s, "linear: planes x groups");
  for (int planes = 1; planes <= 8; planes++)
    for (int group = 32; group <= 256; group += 32)
      for (int a = 0; a < 3; a++) {
        if (s->quick && (planes + group / 32 + a) % 3) continue;
        linear_case c = {BPDQ_WEIGHT_PLANES, {67}, 2 * group + 40, planes, group, BPDQ_BF16, 1, 1, 0, 0, 0, 0, 0, 0, 0, all_activations[a]};
        run_linear(s, &c, (uint64_t)(planes * 1000 + group));
        c.tokens = 5;
        c.max_tokens = 8;
        run_linear(s, &c, (uint64_t)(planes * 1000 + group + 1));
      }
}

/* Odd sizes and every number of tokens from 1 to past a tile. */
static void sweep_shapes(suite *s) {
  suite_section(s, "linear: shapes x tokens");
  static const int64_t rows[] = {1, 15, 16, 33, 128, 257}, columns[] = {32, 64, 200, 512, 777, 1600};
  static const int64_t tokens[] = {1, 2, 3, 4, 7, 8, 9, 16, 17, 31, 33, 64};
  int index = 0;
  for (size_t t = 0; t < sizeof tokens / sizeof *tokens; t++)
    for (size_t i = 0; i < 6; i++, index++) {
      if (s->quick && index % 3) continue;
      int planes = 1 + index % 4, group = (index / 4 % 4 + 1) * 64;
      int64_t slack = index % 2 ? 3 : 0;
      linear_case c = {BPDQ_WEIGHT_PLANES,
                       {rows[i]},
                       columns[(i + t) % 6],
                       planes,
                       group,
                       index % 3 == 0   ? BPDQ_F16
                       : index % 3 == 1 ? BPDQ_BF16
                                        : BPDQ_F32,
                       tokens[t],
                       tokens[t] + index % 4,
                       0,
                       index % 2,
                       index % 5 == 0,
                       0,
                       0,
                       slack,
                       slack,
                       all_activations[index % 3]};
      run_linear(s, &c, 5000 + (uint64_t)index);
      c.kind = BPDQ_WEIGHT_DENSE;
      run_linear(s, &c, 6000 + (uint64_t)index);
    }
}

/* What the model uses: fused norm and gate, q/k/v stacked, residual add, the head on the last row. */
static void model_like(suite *s) {
  suite_section(s, "linear: fused forms");
  for (int index = 0; index < 24; index++) {
    int64_t tokens = index % 4 == 0 ? 1 : index % 4 == 1 ? 2 : index % 4 == 2 ? 13 : 40;
    bpdq_weight_kind kind = index / 4 % 2 ? BPDQ_WEIGHT_DENSE : BPDQ_WEIGHT_PLANES;
    bpdq_activations activations = all_activations[index / 8];
    linear_case qkv = {kind, {96, 32, 32}, 288,   2,     64, BPDQ_BF16, tokens,     tokens + 3, BPDQ_TRANSFORM_RMS_NORM,
                       true, false,        false, false, 0,  0,         activations};
    linear_case part = {kind, {32},  288,   3,     128, BPDQ_BF16, tokens,     tokens, BPDQ_TRANSFORM_RMS_NORM,
                        true, false, false, false, 96,  32,        activations};
    linear_case down = {kind,  {96}, 640,   2,     128, BPDQ_BF16, tokens,     tokens + 1, BPDQ_TRANSFORM_SILU_GATE,
                        false, true, false, false, 0,   0,         activations};
    linear_case head = {kind,  {1003}, 256,  4,    64, BPDQ_BF16, tokens,     tokens + 2, BPDQ_TRANSFORM_RMS_NORM,
                        false, false,  true, true, 0,  0,         activations};
    run_linear(s, &qkv, 9000 + (uint64_t)index);
    run_linear(s, &part, 9100 + (uint64_t)index);
    run_linear(s, &down, 9200 + (uint64_t)index);
    run_linear(s, &head, 9300 + (uint64_t)index);
  }
}

/* The output head for one sequence and for batches, of every number of rows that a backend may take together. A backend that stores only
 * large heads in 8 bits can be made to store these so (BPDQ_VULKAN_SMALL_HEADS). */
static void heads(suite *s) {
  suite_section(s, "linear: heads");
  static const struct { int64_t rows, columns; } shapes[] = {{1003, 256}, {37, 40}, {70, 777}, {515, 1100}, {21, 130}, {130, 33}};
  int index = 0;
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    for (int64_t tokens = 1; tokens <= 8; tokens++, index++) {
      if (s->quick && index % 3 == 2) continue;
      linear_case c = {.kind = BPDQ_WEIGHT_DENSE,
                       .rows = {shapes[i].rows},
                       .columns = shapes[i].columns,
                       .group = 64,
                       .type = index % 3 ? BPDQ_BF16 : BPDQ_F32,
                       .tokens = tokens,
                       .max_tokens = tokens + index % 2,
                       .transform = (bpdq_transform_kind)((index + 1) % 3),
                       .bias = index % 4 == 1,
                       .accumulate = index % 5 == 2,
                       .last = index % 7 == 6,
                       .head = true,
                       .offset = index % 3,
                       .slack = index % 2,
                       .activations = all_activations[1 + index % 2]};
      run_linear(s, &c, 9900 + (uint64_t)index);
    }
  /* Long enough for several steps through shared memory. */
  linear_case exact = {BPDQ_WEIGHT_DENSE,   {70},  2208,  2,     64,   BPDQ_BF16, 2, 2,
                       BPDQ_TRANSFORM_NONE, false, false, false, true, 0,         0, BPDQ_ACTIVATIONS_F32};
  run_linear(s, &exact, 9999);
}

/* Real shapes: long K, many rows, and a batch that fills a prefill tile. */
static void large_shapes(suite *s) {
  suite_section(s, "linear: large");
  for (int a = 0; a < 3; a++) {
    linear_case wide = {
        BPDQ_WEIGHT_PLANES, {1024, 128, 128}, 1536, 2, 128, BPDQ_BF16, 1, 1, BPDQ_TRANSFORM_RMS_NORM, true, false, false, false, 0, 0,
        all_activations[a]};
    linear_case deep = {BPDQ_WEIGHT_PLANES,       {512}, 4864 + 32, 2,     256,   BPDQ_BF16, 1, 1,
                        BPDQ_TRANSFORM_SILU_GATE, false, true,      false, false, 0,         0, all_activations[a]};
    linear_case tall = wide; /* more rows than the work groups of a persistent kernel take at once */
    tall.rows[0] = 40003;
    tall.columns = 160;
    run_linear(s, &wide, 9400);
    run_linear(s, &deep, 9401);
    run_linear(s, &tall, 9406);
    tall.columns = 1100; /* and those of one that keeps a row's activations */
    run_linear(s, &tall, 9407);
    if (s->quick) continue;
    wide.tokens = wide.max_tokens = 200;
    run_linear(s, &wide, 9402);
    deep.tokens = deep.max_tokens = 130;
    run_linear(s, &deep, 9403);
    wide.kind = deep.kind = BPDQ_WEIGHT_DENSE;
    run_linear(s, &wide, 9404);
    run_linear(s, &deep, 9405);
  }
}

/* Few rows of activations: long K, which several work groups may share, more outputs than they take at once, every kind of group. */
static void batches(suite *s) {
  suite_section(s, "linear: batches");
  static const struct {
    int64_t rows, columns;
    int planes, group;
    int64_t tokens, max_tokens;
  } shapes[] = {{100, 20000, 2, 128, 8, 8},  {230, 9000, 2, 64, 5, 6},     {40, 12345, 3, 256, 16, 16}, {33, 11000, 1, 96, 2, 2},
                {70001, 64, 2, 64, 3, 4},    {5000, 1100, 2, 256, 13, 16}, {2200, 300, 3, 224, 8, 16},  {64, 9100, 3, 32, 9, 9},
                {1000, 3000, 4, 128, 8, 8},  {48, 8192, 2, 160, 11, 12},   {512, 2048, 1, 128, 7, 8},   {17, 30000, 2, 128, 16, 16},
                {3584, 1000, 2, 128, 4, 64}, {300, 4096, 2, 192, 1, 1},    {1000, 13420, 2, 128, 8, 8}, {1300, 10860, 2, 64, 3, 4}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    for (int a = 1; a < 3; a++) {
      if (s->quick && a == 1 && i % 3) continue;
      linear_case c = {BPDQ_WEIGHT_PLANES,
                       {shapes[i].rows},
                       shapes[i].columns,
                       shapes[i].planes,
                       shapes[i].group,
                       i % 2 ? BPDQ_F16 : BPDQ_BF16,
                       shapes[i].tokens,
                       shapes[i].max_tokens,
                       (bpdq_transform_kind)(i % 3),
                       i % 2,
                       i % 4 == 3,
                       false,
                       false,
                       i % 5,
                       i % 3,
                       all_activations[a]};
      run_linear(s, &c, 9800 + i);
    }
}

/* What a gated pair is made of: gate_up [2K, H] behind an RMS norm, then down [N, K] behind gated SiLU. */
typedef struct gated_case {
  int64_t hidden, width, rows; /* H, K, N */
  int planes, group;
  bpdq_activations activations;
} gated_case;

static void expected_pair(const gated_case *c, const oracle_matrix weights[2], const bpdq_transform transforms[2], const float *norm,
                          const float *bias, const float *input, const float *before, double *middle, double *expected) {
  double *x = malloc((size_t)(c->hidden > c->width ? c->hidden : c->width) * sizeof *x);
  float *rounded = malloc((size_t)(2 * c->width) * sizeof *rounded);
  oracle_transform(&transforms[0], norm, input, c->hidden, x);
  oracle_product(&weights[0], x, middle);
  for (int64_t i = 0; i < 2 * c->width; i++) rounded[i] = (float)(middle[i] += bias[i]);
  oracle_transform(&transforms[1], NULL, rounded, c->width, x);
  oracle_product(&weights[1], x, expected);
  for (int64_t i = 0; i < c->rows; i++) expected[i] += before[i];
  free(x);
  free(rounded);
}

/* The two products as one program: a backend may do the work of the second one's transform in the first. */
static void run_pair(suite *s, const gated_case *c, uint64_t seed) {
  char name[120];
  snprintf(name, sizeof name, "gated pair H=%lld K=%lld N=%lld k=%d g=%d act=%d", (long long)c->hidden, (long long)c->width,
           (long long)c->rows, c->planes, c->group, (int)c->activations);
  if (!suite_wants(s, name)) return;
  oracle_random random = {seed};
  oracle_matrix weights[2] = {oracle_planes(&random, 2 * c->width, c->hidden, c->planes, c->group, BPDQ_BF16),
                              oracle_planes(&random, c->rows, c->width, c->planes, c->group, BPDQ_BF16)};
  int64_t counts[5] = {c->hidden, 2 * c->width, c->rows, c->hidden, 2 * c->width}; /* input, middle, result before, norm, bias */
  float *vectors[5];
  for (int v = 0; v < 5; v++) {
    vectors[v] = malloc((size_t)counts[v] * sizeof(float));
    for (int64_t i = 0; i < counts[v]; i++) vectors[v][i] = (float)((v == 3) + oracle_uniform(&random) * (v == 3 ? 0.3 : 1));
  }
  double *middle = malloc((size_t)counts[1] * sizeof *middle), *expected = malloc((size_t)c->rows * sizeof *expected);
  float *got = malloc((size_t)(counts[1] > c->rows ? counts[1] : c->rows) * sizeof *got);
  bpdq_weight *gate_up = suite_matrix(s, name, &weights[0], 1), *down = suite_matrix(s, name, &weights[1], 1);
  bpdq_weight *norm = suite_vector(s, name, vectors[3], c->hidden), *bias = suite_vector(s, name, vectors[4], 2 * c->width);
  bpdq_transform transforms[2] = {{BPDQ_TRANSFORM_RMS_NORM, norm, 1e-5f}, {BPDQ_TRANSFORM_SILU_GATE, NULL, 0}};
  bpdq_op ops[2] = {{.kind = BPDQ_OP_LINEAR, .name = "test.gate_up", .linear = {0, 1, transforms[0], gate_up, bias, 0, false, 0}},
                    {.kind = BPDQ_OP_LINEAR, .name = "test.down", .linear = {1, 2, transforms[1], down, NULL, 0, true, 0}}};
  bpdq_tensor_desc tensors[3];
  for (int i = 0; i < 3; i++) tensors[i] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = counts[i]};
  const float *images[3] = {vectors[0], vectors[1], vectors[2]};
  bpdq_program program = {ops, 2, 1, c->activations};
  suite_run run;
  double limit = c->activations == BPDQ_ACTIVATIONS_F32 ? 5e-5 : c->activations == BPDQ_ACTIVATIONS_16 ? 4e-3 : 8e-2;
  if (gate_up && down && norm && bias && suite_start(s, name, tensors, images, 3, &program, &run)) {
    suite_scalars scalars;
    suite_scalars_fill(&scalars, 1, 0, 0);
    bpdq_error error;
    expected_pair(c, weights, transforms, vectors[3], vectors[4], vectors[0], vectors[2], middle, expected);
    for (int repeat = 0; repeat < 2; repeat++) { /* what a run leaves behind must not disturb the next */
      if (!suite_ok(s, name, s->backend->tensor_write(run.state, 2, 0, c->rows, vectors[2], &error), &error) ||
          !suite_ok(s, name, s->backend->run(run.executable, &scalars.run, &error), &error))
        break;
      if (suite_ok(s, name, s->backend->tensor_read(run.state, 2, 0, c->rows, got, &error), &error))
        suite_compare(s, name, got, expected, c->rows, limit);
      if (suite_ok(s, name, s->backend->tensor_read(run.state, 1, 0, counts[1], got, &error), &error))
        suite_compare(s, name, got, middle, counts[1], limit);
    }
    suite_stop(s, &run);
  }
  bpdq_weight *made[4] = {gate_up, down, norm, bias};
  for (int i = 0; i < 4; i++) s->backend->weight_destroy(s->backend, made[i]);
  for (int v = 0; v < 5; v++) free(vectors[v]);
  for (int i = 0; i < 2; i++) oracle_matrix_free(&weights[i]);
  free(middle);
  free(expected);
  free(got);
}

static void gated_pairs(suite *s) {
  suite_section(s, "linear: gated pairs");
  static const int64_t widths[] = {32, 160, 320, 1040, 2176}, hidden[] = {64, 288, 520, 1100, 256};
  int index = 0;
  for (int w = 0; w < 5; w++)
    for (int group = 64; group <= 256; group *= 2)
      for (int a = 0; a < 3; a++, index++) {
        if (s->quick && w > 3) continue;
        gated_case c = {hidden[(w + a) % 5], widths[w], 33 + 16 * (index % 5), 1 + index % 4, group, all_activations[a]};
        run_pair(s, &c, 9600 + (uint64_t)index);
      }
}

static void transforms(suite *s) {
  suite_section(s, "transform");
  for (int kind = BPDQ_TRANSFORM_NONE; kind <= BPDQ_TRANSFORM_SILU_GATE; kind++)
    for (int64_t width = 33; width <= 1100; width += 533) {
      char name[100];
      snprintf(name, sizeof name, "transform %d K=%lld", kind, (long long)width);
      if (!suite_wants(s, name)) continue;
      oracle_random random = {(uint64_t)(width + kind)};
      int64_t input_width = kind == BPDQ_TRANSFORM_SILU_GATE ? 2 * width : width, tokens = 5;
      float *input = malloc((size_t)(tokens * input_width) * 4), *norm = malloc((size_t)width * 4),
            *output = malloc((size_t)(tokens * width) * 4);
      double *expected = malloc((size_t)(tokens * width) * sizeof *expected);
      for (int64_t i = 0; i < tokens * input_width; i++) input[i] = (float)(4 * oracle_uniform(&random));
      for (int64_t i = 0; i < width; i++) norm[i] = (float)oracle_uniform(&random);
      bpdq_weight *norm_weight = kind == BPDQ_TRANSFORM_RMS_NORM ? suite_vector(s, name, norm, width) : NULL;
      bpdq_transform transform = {(bpdq_transform_kind)kind, norm_weight, 1e-6f};
      for (int64_t t = 0; t < tokens; t++) oracle_transform(&transform, norm, input + t * input_width, width, expected + t * width);
      bpdq_op op = {.kind = BPDQ_OP_TRANSFORM, .name = "test.transform", .transform = {0, 1, transform, width}};
      bpdq_tensor_desc tensors[2] = {{.kind = BPDQ_TENSOR_F32, .rows = tokens, .columns = input_width},
                                     {.kind = BPDQ_TENSOR_F32, .rows = tokens, .columns = width}};
      const float *images[2] = {input, NULL};
      bpdq_program program = {&op, 1, tokens, BPDQ_ACTIVATIONS_F32};
      suite_run run;
      bpdq_error error;
      if (suite_start(s, name, tensors, images, 2, &program, &run)) {
        suite_scalars scalars;
        suite_scalars_fill(&scalars, tokens, 0, 0);
        if (suite_ok(s, name, s->backend->run(run.executable, &scalars.run, &error), &error) &&
            suite_ok(s, name, s->backend->tensor_read(run.state, 1, 0, tokens * width, output, &error), &error))
          suite_compare(s, name, output, expected, tokens * width, 1e-5);
        suite_stop(s, &run);
      }
      s->backend->weight_destroy(s->backend, norm_weight);
      free(input);
      free(norm);
      free(output);
      free(expected);
    }
}

/* A NaN among the coefficients is refused with the weight's name. */
static void bad_coefficients(suite *s) {
  suite_section(s, "linear: bad weights");
  oracle_random random = {42};
  oracle_matrix m = oracle_planes(&random, 48, 128, 2, 64, BPDQ_F32);
  memcpy((char *)m.coefficients + 4 * 133, "\x00\x00\xc0\x7f", 4);
  bpdq_weight_part part = {48, m.data, BPDQ_I32, m.coefficients, BPDQ_F32};
  bpdq_weight_desc desc = {BPDQ_WEIGHT_PLANES, "layers.9.bad", 128, 2, 64, &part, 1, false, false};
  bpdq_weight *weight = NULL;
  bpdq_error error = {0};
  bpdq_status status = s->backend->weight_create(s->backend, &desc, &weight, &error);
  suite_true(s, "NaN coefficient", status == BPDQ_ERROR_FORMAT && !weight && strstr(error.message, "layers.9.bad"),
             "was not refused with the weight's name");
  oracle_matrix_free(&m);
}

void suite_linear(suite *s) {
  transforms(s);
  sweep_formats(s);
  sweep_shapes(s);
  model_like(s);
  heads(s);
  large_shapes(s);
  batches(s);
  gated_pairs(s);
  bad_coefficients(s);
}
