/* Rotary embedding with cache writes, then attention over the cache: grouped heads, several sequences, long contexts, both cache types. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "suite.h"

typedef struct attention_case {
  int64_t heads, kv_heads, head_dim, context, sequences;
  int64_t history; /* positions already in each sequence's cache */
  int64_t tokens;  /* rows of the checked run, per sequence */
  bpdq_kv_type kv_type;
  bool norms;
  int64_t stagger; /* each sequence's history is shorter by this than the one's before */
} attention_case;

static int64_t history_of(const attention_case *c, int64_t sequence) { return c->history - sequence * c->stagger; }

/* Everything of one case: qkv rows of all positions, the rotated oracle values, and the tables. */
typedef struct attention_data {
  int64_t width, q_width, kv_width, length; /* length = history + tokens */
  float *qkv;                               /* [sequences, length, width] */
  double *rotated;                          /* [sequences, length, width]: q and k normed and rotated; k, v rounded as the cache does */
  float *table, *q_norm, *k_norm;
} attention_data;

static attention_data make_data(const attention_case *c, uint64_t seed) {
  oracle_random random = {seed};
  attention_data d = {0};
  d.q_width = c->heads * c->head_dim;
  d.kv_width = c->kv_heads * c->head_dim;
  d.width = d.q_width + 2 * d.kv_width;
  d.length = c->history + c->tokens;
  int64_t rows = c->sequences * d.length;
  d.qkv = malloc((size_t)(rows * d.width) * sizeof *d.qkv);
  d.rotated = malloc((size_t)(rows * d.width) * sizeof *d.rotated);
  d.table = malloc((size_t)(c->context * c->head_dim) * sizeof *d.table);
  d.q_norm = malloc((size_t)c->head_dim * sizeof *d.q_norm);
  d.k_norm = malloc((size_t)c->head_dim * sizeof *d.k_norm);
  for (int64_t i = 0; i < rows * d.width; i++) d.qkv[i] = (float)(3 * oracle_uniform(&random));
  for (int64_t i = 0; i < c->head_dim; i++) {
    d.q_norm[i] = (float)(1 + 0.5 * oracle_uniform(&random));
    d.k_norm[i] = (float)(1 + 0.5 * oracle_uniform(&random));
  }
  int64_t half = c->head_dim / 2;
  for (int64_t p = 0; p < c->context; p++)
    for (int64_t i = 0; i < half; i++) {
      double angle = (double)p * pow(10000.0, -(double)i / (double)half);
      d.table[p * c->head_dim + i] = (float)cos(angle);
      d.table[p * c->head_dim + half + i] = (float)sin(angle);
    }
  for (int64_t r = 0; r < rows; r++) {
    double *row = d.rotated + r * d.width;
    const float *table = d.table + r % d.length * c->head_dim;
    for (int64_t i = 0; i < d.width; i++) row[i] = d.qkv[r * d.width + i];
    for (int64_t h = 0; h < c->heads; h++) oracle_rope(row + h * c->head_dim, c->head_dim, table, c->norms ? d.q_norm : NULL, 1e-6);
    for (int64_t h = 0; h < c->kv_heads; h++)
      oracle_rope(row + d.q_width + h * c->head_dim, c->head_dim, table, c->norms ? d.k_norm : NULL, 1e-6);
    if (c->kv_type == BPDQ_KV_F16)
      for (int64_t i = d.q_width; i < d.width; i++) row[i] = oracle_half(row[i]);
  }
  return d;
}

static void free_data(attention_data *d) {
  free(d->qkv);
  free(d->rotated);
  free(d->table);
  free(d->q_norm);
  free(d->k_norm);
}

static void expected_attention(const attention_case *c, const attention_data *d, double scale, double *expected) {
  for (int64_t s = 0; s < c->sequences; s++)
    for (int64_t t = 0; t < c->tokens; t++)
      for (int64_t h = 0; h < c->heads; h++) {
        const double *sequence = d->rotated + s * d->length * d->width;
        const double *query = sequence + (history_of(c, s) + t) * d->width + h * c->head_dim;
        const double *keys = sequence + d->q_width + h / (c->heads / c->kv_heads) * c->head_dim;
        oracle_attention(query, keys, keys + d->kv_width, history_of(c, s) + t + 1, d->width, c->head_dim, scale,
                         expected + ((s * c->tokens + t) * c->heads + h) * c->head_dim);
      }
}

/* Fills the caches with each sequence's history, in runs of at most max_tokens rows by `executable`. */
static bool feed_history(suite *s, const char *name, const attention_case *c, const attention_data *d, suite_run *run,
                         bpdq_executable *executable, int64_t max_tokens) {
  bpdq_error error;
  for (int64_t sequence = 0; sequence < c->sequences; sequence++)
    for (int64_t first = 0; first < history_of(c, sequence); first += max_tokens) {
      int64_t left = history_of(c, sequence) - first, count = left < max_tokens ? left : max_tokens;
      suite_scalars scalars;
      suite_scalars_fill(&scalars, count, (int32_t)first, (int32_t)sequence);
      const float *rows = d->qkv + (sequence * d->length + first) * d->width;
      if (!suite_ok(s, name, s->backend->tensor_write(run->state, 0, 0, count * d->width, rows, &error), &error)) return false;
      if (!suite_ok(s, name, s->backend->run(executable, &scalars.run, &error), &error)) return false;
    }
  return true;
}

/* The checked run: all sequences' new rows at once. Then the rotation alone, which a backend may do on the way to attention: not before it,
 * since it fills the caches with the very rows that attention must find by itself. */
static void check_run(suite *s, const char *name, const attention_case *c, const attention_data *d, suite_run *run,
                      bpdq_executable *rotation, double scale) {
  int64_t rows = c->sequences * c->tokens;
  float *qkv = malloc((size_t)(rows * d->width) * sizeof *qkv), *output = malloc((size_t)(rows * d->q_width) * sizeof *output);
  float *both = malloc((size_t)(rows * d->width) * sizeof *both);
  double *queries = malloc((size_t)(rows * d->q_width) * sizeof *queries),
         *expected = malloc((size_t)(rows * d->q_width) * sizeof *expected);
  float *rotated = malloc((size_t)(rows * d->q_width) * sizeof *rotated);
  suite_scalars scalars;
  for (int64_t r = 0; r < rows; r++) {
    int64_t sequence = r / c->tokens, position = history_of(c, sequence) + r % c->tokens, source = sequence * d->length + position;
    scalars.positions[r] = (int32_t)position;
    scalars.sequences[r] = (int32_t)sequence;
    memcpy(qkv + r * d->width, d->qkv + source * d->width, (size_t)d->width * sizeof *qkv);
    memcpy(queries + r * d->q_width, d->rotated + source * d->width, (size_t)d->q_width * sizeof *queries);
  }
  scalars.run = (bpdq_run){rows, scalars.positions, scalars.sequences};
  bpdq_error error;
  expected_attention(c, d, scale, expected);
  if (suite_ok(s, name, s->backend->tensor_write(run->state, 0, 0, rows * d->width, qkv, &error), &error) &&
      suite_ok(s, name, s->backend->run(run->executable, &scalars.run, &error), &error) &&
      suite_ok(s, name, s->backend->tensor_read(run->state, 1, 0, rows * d->q_width, output, &error), &error) &&
      suite_ok(s, name, s->backend->tensor_write(run->state, 0, 0, rows * d->width, qkv, &error), &error) &&
      suite_ok(s, name, s->backend->run(rotation, &scalars.run, &error), &error) &&
      suite_ok(s, name, s->backend->tensor_read(run->state, 0, 0, rows * d->width, both, &error), &error)) {
    for (int64_t r = 0; r < rows; r++) memcpy(rotated + r * d->q_width, both + r * d->width, (size_t)d->q_width * sizeof *rotated);
    suite_compare(s, name, rotated, queries, rows * d->q_width, 1e-5);
    double tolerance = c->kv_type == BPDQ_KV_F32 ? 1e-5 : c->kv_type == BPDQ_KV_F16 ? 3e-3 : 3e-2;
    suite_compare(s, name, output, expected, rows * d->q_width, tolerance);
  }
  free(qkv);
  free(both);
  free(output);
  free(queries);
  free(expected);
  free(rotated);
}

#define LONG_HISTORY 512 /* what is longer is fed by the rotation alone, in larger runs than the checked one */
#define PRODUCT_ROWS 48
/* The product behind attention in a program of one row, of what attention gave: a backend may prepare its input in attention, or merge
 * attention's sums in the preparation. */
static void check_product(suite *s, const char *name, const attention_case *c, const oracle_matrix *weight, suite_run *run) {
  int64_t width = c->heads * c->head_dim;
  float *input = malloc((size_t)width * sizeof *input), got[PRODUCT_ROWS];
  double *exact = malloc((size_t)width * sizeof *exact), expected[PRODUCT_ROWS];
  bpdq_error error;
  if (suite_ok(s, name, s->backend->tensor_read(run->state, 1, 0, width, input, &error), &error) &&
      suite_ok(s, name, s->backend->tensor_read(run->state, 5, 0, PRODUCT_ROWS, got, &error), &error)) {
    for (int64_t i = 0; i < width; i++) exact[i] = input[i];
    oracle_product(weight, exact, expected);
    suite_compare(s, name, got, expected, PRODUCT_ROWS, 3e-2);
  }
  free(input);
  free(exact);
}

/* A row behind the context, before it, or of a sequence that does not exist has no place in the caches. */
static void refuse_other_places(suite *s, const char *name, const attention_case *c, const suite_run *run) {
  const int32_t places[][2] = {{(int32_t)c->context, 0}, {-1, 0}, {0, (int32_t)c->sequences}, {0, -1}};
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    bpdq_error error;
    bpdq_run wrong = {1, &places[i][0], &places[i][1]};
    suite_true(s, name, s->backend->run(run->executable, &wrong, &error) != BPDQ_OK, "a row outside the caches was run");
  }
}

/* max_tokens: of the program; 0 is a size that prefills suit. Other activations than f32 allow queries of 16 bits. */
static void run_attention(suite *s, const attention_case *c, uint64_t seed, int64_t max_tokens, bpdq_activations activations) {
  char name[200], limit[40] = "";
  if (max_tokens) snprintf(limit, sizeof limit, " program of %lld", (long long)max_tokens);
  snprintf(name, sizeof name, "attention heads=%lld/%lld dim=%lld history=%lld tokens=%lld sequences=%lld %s%s act=%d%s",
           (long long)c->heads, (long long)c->kv_heads, (long long)c->head_dim, (long long)c->history, (long long)c->tokens,
           (long long)c->sequences,
           c->kv_type == BPDQ_KV_F32   ? "f32"
           : c->kv_type == BPDQ_KV_F16 ? "f16"
                                       : "q8",
           c->norms ? " norms" : "", (int)activations, limit);
  if (!suite_wants(s, name)) return;
  attention_data d = make_data(c, seed);
  if (!max_tokens) max_tokens = c->sequences * c->tokens > 64 ? c->sequences * c->tokens : 64;
  float scale = 1.0f / sqrtf((float)c->head_dim);
  bpdq_weight *q_norm = c->norms ? suite_vector(s, name, d.q_norm, c->head_dim) : NULL;
  bpdq_weight *k_norm = c->norms ? suite_vector(s, name, d.k_norm, c->head_dim) : NULL;
  oracle_random random = {seed + 5000};
  oracle_matrix matrix = oracle_planes(&random, PRODUCT_ROWS, d.q_width, 2, seed & 1 ? 128 : 64, BPDQ_BF16);
  bpdq_weight *weight = suite_matrix(s, name, &matrix, 1);
  int64_t feed_tokens = c->history > LONG_HISTORY && max_tokens < SUITE_MAX_TOKENS ? SUITE_MAX_TOKENS : max_tokens;
  bpdq_tensor_desc tensors[6] = {
      {.kind = BPDQ_TENSOR_F32, .rows = feed_tokens, .columns = d.width},
      {.kind = BPDQ_TENSOR_F32, .rows = feed_tokens, .columns = d.q_width},
      {.kind = BPDQ_TENSOR_F32, .rows = c->context, .columns = c->head_dim},
      {.kind = BPDQ_TENSOR_KV, .rows = c->sequences * c->context, .columns = d.kv_width, .kv_type = c->kv_type, .head_dim = c->head_dim},
      {.kind = BPDQ_TENSOR_KV, .rows = c->sequences * c->context, .columns = d.kv_width, .kv_type = c->kv_type, .head_dim = c->head_dim},
      {.kind = BPDQ_TENSOR_F32, .rows = max_tokens, .columns = PRODUCT_ROWS}};
  const float *images[6] = {NULL, NULL, d.table, NULL, NULL, NULL};
  bpdq_op ops[3] = {
      {.kind = BPDQ_OP_ROPE_CACHE, .name = "test.rope"},
      {.kind = BPDQ_OP_ATTENTION, .name = "test.attention"},
      {.kind = BPDQ_OP_LINEAR, .name = "test.product", .linear = {1, 5, {BPDQ_TRANSFORM_NONE, NULL, 0}, weight, NULL, 0, false, 0}}};
  ops[0].rope_cache = (bpdq_op_rope_cache){0, 2, 3, 4, c->heads, c->kv_heads, c->head_dim, c->context, q_norm, k_norm, 1e-6f};
  ops[1].attention = (bpdq_op_attention){0, 1, 3, 4, c->heads, c->kv_heads, c->head_dim, c->context, scale};
  bool single = max_tokens == 1;
  bpdq_program program = {ops, single ? 3 : 2, max_tokens, activations}, rotation = {ops, 1, max_tokens, activations};
  bpdq_program feeding = {ops, 1, feed_tokens, activations};
  suite_run run;
  if (weight && suite_start(s, name, tensors, images, 6, &program, &run)) {
    bpdq_executable *alone = NULL, *feed = NULL;
    bpdq_error error;
    if (suite_ok(s, name, s->backend->compile(s->backend, run.state, &rotation, &alone, &error), &error) &&
        (feed_tokens == max_tokens || suite_ok(s, name, s->backend->compile(s->backend, run.state, &feeding, &feed, &error), &error)) &&
        feed_history(s, name, c, &d, &run, feed ? feed : run.executable, feed_tokens)) {
      check_run(s, name, c, &d, &run, alone, scale);
      if (single) check_product(s, name, c, &matrix, &run);
      refuse_other_places(s, name, c, &run);
    }
    s->backend->executable_destroy(s->backend, feed);
    s->backend->executable_destroy(s->backend, alone);
    suite_stop(s, &run);
  }
  s->backend->weight_destroy(s->backend, weight);
  s->backend->weight_destroy(s->backend, q_norm);
  s->backend->weight_destroy(s->backend, k_norm);
  oracle_matrix_free(&matrix);
  free_data(&d);
}

/* Whether the backend has caches that round nothing. */
static bool keeps_f32(const suite *s) {
  bpdq_tensor_desc tensor = {.kind = BPDQ_TENSOR_KV, .rows = 4, .columns = 16, .kv_type = BPDQ_KV_F32, .head_dim = 16};
  bpdq_state *state = NULL;
  bpdq_error error;
  bool kept = s->backend->state_create(s->backend, &tensor, 1, &state, &error) == BPDQ_OK;
  s->backend->state_destroy(s->backend, state);
  return kept;
}

/* Backends may give many rows a kernel of their own: tiles that end within a sequence, heads of every size, deep and fresh caches. */
static void many_rows(suite *s) {
  static const attention_case cases[] = {
      {14, 2, 64, 200, 1, 0, 150, BPDQ_KV_F16, false, 0}, {4, 4, 80, 150, 1, 70, 70, BPDQ_KV_F16, true, 0},
      {6, 2, 96, 170, 1, 100, 65, BPDQ_KV_Q8, false, 0},  {28, 4, 128, 120, 1, 0, 100, BPDQ_KV_F16, false, 0},
      {8, 8, 128, 300, 1, 257, 33, BPDQ_KV_Q8, false, 0}, {2, 1, 256, 150, 1, 64, 65, BPDQ_KV_F16, false, 0},
      {4, 2, 72, 100, 1, 17, 64, BPDQ_KV_F16, false, 0},  {6, 2, 128, 200, 3, 90, 37, BPDQ_KV_F16, false, 0},
      {10, 2, 64, 90, 7, 63, 9, BPDQ_KV_Q8, true, 0},     {12, 1, 32, 70, 20, 48, 1, BPDQ_KV_F16, false, 0},
      {40, 1, 64, 60, 1, 20, 18, BPDQ_KV_F16, false, 0},  {72, 1, 32, 60, 1, 20, 18, BPDQ_KV_Q8, false, 0},
      {64, 1, 16, 260, 1, 250, 5, BPDQ_KV_F16, false, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    if (s->quick && i % 2) continue;
    run_attention(s, &cases[i], 1000 + i, SUITE_MAX_TOKENS, BPDQ_ACTIVATIONS_F32);
    run_attention(s, &cases[i], 1000 + i, SUITE_MAX_TOKENS, BPDQ_ACTIVATIONS_16);
    run_attention(s, &cases[i], 1000 + i, 0, BPDQ_ACTIVATIONS_8);
  }
  static const attention_case few = {8, 2, 64, 150, 2, 120, 4, BPDQ_KV_F16, false, 0};
  run_attention(s, &few, 990, 8, BPDQ_ACTIVATIONS_16);
}

/* Batches of sequences of different lengths, and several rows of a sequence: backends may do few rows as they do one. */
static void few_rows(suite *s) {
  static const attention_case cases[] = {
      {28, 4, 128, 40, 8, 38, 1, BPDQ_KV_F16, false, 5},    {28, 4, 128, 90, 8, 77, 1, BPDQ_KV_Q8, false, 11},
      {28, 4, 128, 300, 3, 280, 5, BPDQ_KV_F16, true, 100}, {7, 1, 80, 130, 5, 100, 3, BPDQ_KV_F16, false, 19},
      {8, 1, 96, 200, 2, 160, 8, BPDQ_KV_Q8, true, 33},     {4, 4, 32, 70, 16, 60, 1, BPDQ_KV_F16, false, 4},
      {6, 2, 256, 90, 2, 62, 3, BPDQ_KV_Q8, false, 1},      {5, 1, 64, 1400, 2, 1380, 2, BPDQ_KV_F16, false, 700},
      {8, 2, 256, 70, 3, 60, 1, BPDQ_KV_F16, true, 30},     {3, 3, 48, 50, 4, 31, 4, BPDQ_KV_Q8, false, 10},
      {16, 16, 32, 700, 2, 690, 4, BPDQ_KV_Q8, false, 300}, {16, 16, 32, 700, 2, 690, 4, BPDQ_KV_F16, false, 300},
      {1, 1, 32, 4500, 1, 4400, 4, BPDQ_KV_F16, false, 0}}; /* shares of several chunks; more than 16 shares */
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    run_attention(s, &cases[i], 1100 + i, cases[i].sequences * cases[i].tokens, BPDQ_ACTIVATIONS_8);
}

/* Backends may have a kernel of its own for rows far into the context, alone, as a batch, or beside others that are not. */
static void deep_rows(suite *s) {
  static const attention_case cases[] = {
      {28, 4, 128, 1300, 1, 1200, 1, BPDQ_KV_F16, false, 0}, {7, 1, 128, 1200, 1, 1150, 1, BPDQ_KV_Q8, false, 0},
      {8, 1, 64, 1100, 1, 1024, 1, BPDQ_KV_Q8, false, 0},    {3, 1, 80, 1100, 1, 1060, 1, BPDQ_KV_F16, false, 0},
      {5, 1, 96, 1030, 1, 1023, 1, BPDQ_KV_F16, false, 0},   {2, 1, 112, 1100, 1, 1041, 1, BPDQ_KV_Q8, false, 0},
      {7, 1, 32, 4500, 1, 4430, 1, BPDQ_KV_F16, true, 0},    {9, 1, 32, 1100, 1, 1030, 1, BPDQ_KV_F16, false, 0},
      {7, 1, 64, 1100, 3, 1050, 1, BPDQ_KV_F16, false, 500}, {4, 2, 64, 1100, 2, 1080, 3, BPDQ_KV_Q8, true, 1000},
      {5, 1, 64, 8200, 1, 8191, 1, BPDQ_KV_Q8, false, 0}}; /* as many parts as a backend may make of it */
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    run_attention(s, &cases[i], 940 + i, cases[i].sequences * cases[i].tokens, BPDQ_ACTIVATIONS_8);
}

void suite_attention(suite *s) {
  suite_section(s, "rope and attention");
  static const attention_case cases[] = {
      {4, 4, 32, 40, 1, 0, 1, BPDQ_KV_F16, false, 0},     {6, 2, 64, 64, 1, 0, 13, BPDQ_KV_F16, false, 0},
      {8, 2, 128, 300, 1, 255, 1, BPDQ_KV_F16, false, 0}, {8, 2, 128, 300, 1, 255, 1, BPDQ_KV_Q8, false, 0},
      {7, 1, 64, 128, 1, 100, 9, BPDQ_KV_F16, true, 0},   {4, 2, 128, 700, 1, 600, 70, BPDQ_KV_F16, false, 0},
      {4, 2, 64, 200, 1, 130, 33, BPDQ_KV_Q8, true, 0},   {4, 2, 64, 70, 5, 60, 1, BPDQ_KV_F16, false, 0},
      {12, 3, 96, 90, 3, 40, 4, BPDQ_KV_F16, false, 0},   {28, 4, 128, 40, 8, 31, 1, BPDQ_KV_Q8, false, 0},
      {2, 1, 80, 64, 1, 33, 2, BPDQ_KV_F16, false, 0},    {2, 2, 256, 64, 1, 20, 3, BPDQ_KV_F16, false, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) run_attention(s, &cases[i], 700 + i, 0, BPDQ_ACTIVATIONS_F32);
  /* Backends may decode one token in another way. */
  static const attention_case single[] = {
      {4, 4, 32, 40, 1, 5, 1, BPDQ_KV_F16, false, 0},    {8, 2, 64, 150, 1, 140, 1, BPDQ_KV_F16, true, 0},
      {28, 4, 128, 300, 1, 0, 1, BPDQ_KV_F16, false, 0}, {28, 4, 128, 300, 1, 63, 1, BPDQ_KV_Q8, true, 0},
      {3, 1, 96, 64, 1, 40, 1, BPDQ_KV_F16, true, 0},    {4, 2, 256, 300, 1, 200, 1, BPDQ_KV_Q8, false, 0}};
  for (size_t i = 0; i < sizeof single / sizeof *single; i++) run_attention(s, &single[i], 900 + i, 1, BPDQ_ACTIVATIONS_8);
  few_rows(s);
  many_rows(s);
  static const attention_case exact[] = {{4, 4, 32, 40, 1, 0, 1, BPDQ_KV_F32, false, 0},
                                         {7, 1, 64, 128, 1, 100, 9, BPDQ_KV_F32, true, 0},
                                         {2, 1, 80, 64, 1, 33, 2, BPDQ_KV_F32, false, 0},
                                         {12, 3, 12, 90, 3, 40, 4, BPDQ_KV_F32, false, 0},
                                         {4, 2, 128, 700, 1, 600, 70, BPDQ_KV_F32, false, 0}};
  for (size_t i = 0; i < sizeof exact / sizeof *exact && keeps_f32(s); i++) run_attention(s, &exact[i], 960 + i, 0, BPDQ_ACTIVATIONS_F32);
  if (s->quick) return;
  static const attention_case long_cases[] = {{8, 2, 128, 5000, 1, 4500, 1, BPDQ_KV_F16, false, 0},
                                              {8, 2, 128, 5000, 1, 4400, 3, BPDQ_KV_Q8, false, 0},
                                              {4, 1, 64, 3000, 1, 2000, 300, BPDQ_KV_F16, false, 0}};
  for (size_t i = 0; i < sizeof long_cases / sizeof *long_cases; i++)
    run_attention(s, &long_cases[i], 800 + i, 0, i ? BPDQ_ACTIVATIONS_16 : BPDQ_ACTIVATIONS_F32);
  deep_rows(s);
}
