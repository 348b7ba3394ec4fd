/* Decoder layers as one program: a backend may join operations, or keep what passes between them on the way. The whole program must give
 * what its operations give one by one, each a program of its own, token after token. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "suite.h"

#define LAYERS 2
#define LAYER_OPS 6
#define OPS (LAYERS * LAYER_OPS)

enum { HIDDEN, QKV, MIXED, GATE_UP, ROPE_TABLE, CACHES, TENSORS = CACHES + 2 * LAYERS };

typedef struct layers_case {
  int64_t hidden, heads, kv_heads, head_dim, intermediate;
  int planes, group;
  bpdq_activations activations;
  bool norms;            /* of queries and keys */
  int64_t first, tokens; /* positions; those before `first` hold zeros */
} layers_case;

typedef struct layers_weights {
  bpdq_weight *norm, *head_norm, *qkv_bias, *qkv, *output, *gate_up, *down; /* all layers have the same */
} layers_weights;

static bpdq_weight *random_matrix(suite *s, const char *name, oracle_random *random, int64_t rows, int64_t columns, const layers_case *c) {
  oracle_matrix matrix = oracle_planes(random, rows, columns, c->planes, c->group, BPDQ_BF16);
  bpdq_weight *weight = suite_matrix(s, name, &matrix, 1);
  oracle_matrix_free(&matrix);
  return weight;
}

static bpdq_weight *random_vector(suite *s, const char *name, oracle_random *random, int64_t count, double center) {
  float *values = malloc((size_t)count * sizeof *values);
  for (int64_t i = 0; i < count; i++) values[i] = (float)(center + 0.3 * oracle_uniform(random));
  bpdq_weight *weight = suite_vector(s, name, values, count);
  free(values);
  return weight;
}

static layers_weights make_weights(suite *s, const char *name, oracle_random *random, const layers_case *c) {
  int64_t q_width = c->heads * c->head_dim, qkv_width = q_width + 2 * c->kv_heads * c->head_dim;
  return (layers_weights){.norm = random_vector(s, name, random, c->hidden, 1),
                          .head_norm = random_vector(s, name, random, c->head_dim, 1),
                          .qkv_bias = random_vector(s, name, random, qkv_width, 0),
                          .qkv = random_matrix(s, name, random, qkv_width, c->hidden, c),
                          .output = random_matrix(s, name, random, c->hidden, q_width, c),
                          .gate_up = random_matrix(s, name, random, 2 * c->intermediate, c->hidden, c),
                          .down = random_matrix(s, name, random, c->hidden, c->intermediate, c)};
}

static void destroy_weights(suite *s, const layers_weights *w) {
  bpdq_weight *all[] = {w->norm, w->head_norm, w->qkv_bias, w->qkv, w->output, w->gate_up, w->down};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) s->backend->weight_destroy(s->backend, all[i]);
}

static void make_ops(const layers_case *c, const layers_weights *w, bpdq_op ops[OPS]) {
  const bpdq_weight *head_norm = c->norms ? w->head_norm : NULL;
  for (int layer = 0; layer < LAYERS; layer++, ops += LAYER_OPS) {
    bpdq_tensor keys = CACHES + 2 * layer, values = keys + 1;
    bpdq_transform norm = {BPDQ_TRANSFORM_RMS_NORM, w->norm, 1e-6f}, none = {0}, gated = {BPDQ_TRANSFORM_SILU_GATE, NULL, 0};
    ops[0] = (bpdq_op){.kind = BPDQ_OP_LINEAR, .name = "qkv", .linear = {HIDDEN, QKV, norm, w->qkv, w->qkv_bias, 0, false, 0}};
    ops[1] = (bpdq_op){.kind = BPDQ_OP_ROPE_CACHE, .name = "rope"};
    ops[1].rope_cache = (bpdq_op_rope_cache){QKV,         ROPE_TABLE,           keys,      values,    c->heads, c->kv_heads,
                                             c->head_dim, c->first + c->tokens, head_norm, head_norm, 1e-6f};
    ops[2] = (bpdq_op){.kind = BPDQ_OP_ATTENTION, .name = "attention"};
    ops[2].attention = (bpdq_op_attention){
        QKV, MIXED, keys, values, c->heads, c->kv_heads, c->head_dim, c->first + c->tokens, 1.0f / sqrtf((float)c->head_dim)};
    ops[3] = (bpdq_op){.kind = BPDQ_OP_LINEAR, .name = "output", .linear = {MIXED, HIDDEN, none, w->output, NULL, 0, true, 0}};
    ops[4] = (bpdq_op){.kind = BPDQ_OP_LINEAR, .name = "gate_up", .linear = {HIDDEN, GATE_UP, norm, w->gate_up, NULL, 0, false, 0}};
    ops[5] = (bpdq_op){.kind = BPDQ_OP_LINEAR, .name = "down", .linear = {GATE_UP, HIDDEN, gated, w->down, NULL, 0, true, 0}};
  }
}

/* The same token through the whole program and through the single ones; what they leave in each activation tensor agrees. */
static bool compare_token(suite *s, const char *name, const layers_case *c, int32_t position, const float *hidden, suite_run *whole,
                          suite_run *steps, double limit) {
  const bpdq_backend *b = s->backend;
  int64_t qkv_width = (c->heads + 2 * c->kv_heads) * c->head_dim;
  const int64_t sizes[] = {c->hidden, qkv_width, c->heads * c->head_dim, 2 * c->intermediate};
  bpdq_error error;
  suite_scalars scalars;
  suite_scalars_fill(&scalars, 1, position, 0);
  bool good = suite_ok(s, name, b->tensor_write(whole->state, HIDDEN, 0, c->hidden, hidden, &error), &error) &&
              suite_ok(s, name, b->tensor_write(steps->state, HIDDEN, 0, c->hidden, hidden, &error), &error) &&
              suite_ok(s, name, b->run(whole->executable, &scalars.run, &error), &error);
  for (int i = 0; i < OPS && good; i++) good = suite_ok(s, name, b->run(steps[i].executable, &scalars.run, &error), &error);
  for (int tensor = HIDDEN; tensor <= GATE_UP && good; tensor++) {
    if (tensor == QKV) continue; /* joined with attention, the rotation may leave it as it was */
    int64_t count = sizes[tensor];
    float *got = malloc((size_t)count * sizeof *got), *want = malloc((size_t)count * sizeof *want);
    double *expected = malloc((size_t)count * sizeof *expected);
    good = suite_ok(s, name, b->tensor_read(whole->state, tensor, 0, count, got, &error), &error) &&
           suite_ok(s, name, b->tensor_read(steps->state, tensor, 0, count, want, &error), &error);
    for (int64_t i = 0; i < count && good; i++) expected[i] = want[i];
    if (good) suite_compare(s, name, got, expected, count, limit);
    free(got);
    free(want);
    free(expected);
  }
  return good;
}

static bool start_runs(suite *s, const char *name, const layers_case *c, const bpdq_op ops[OPS], const float *table, suite_run *whole,
                       suite_run steps[OPS]) {
  bpdq_tensor_desc tensors[TENSORS] = {{.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = c->hidden},
                                       {.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = (c->heads + 2 * c->kv_heads) * c->head_dim},
                                       {.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = c->heads * c->head_dim},
                                       {.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = 2 * c->intermediate},
                                       {.kind = BPDQ_TENSOR_F32, .rows = c->first + c->tokens, .columns = c->head_dim}};
  const float *images[TENSORS] = {[ROPE_TABLE] = table};
  for (int i = CACHES; i < TENSORS; i++)
    tensors[i] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_KV,
                                    .rows = c->first + c->tokens,
                                    .columns = c->kv_heads * c->head_dim,
                                    .kv_type = BPDQ_KV_F16,
                                    .head_dim = c->head_dim};
  bpdq_program program = {ops, OPS, 1, c->activations};
  if (!suite_start(s, name, tensors, images, TENSORS, &program, whole)) return false;
  program.count = 1;
  if (!suite_start(s, name, tensors, images, TENSORS, &program, &steps[0])) return false;
  for (int i = 1; i < OPS; i++) { /* programs over one state */
    bpdq_error error;
    program.ops = &ops[i];
    steps[i].state = steps[0].state;
    if (!suite_ok(s, name, s->backend->compile(s->backend, steps[0].state, &program, &steps[i].executable, &error), &error)) return false;
  }
  return true;
}

static void run_layers(suite *s, const layers_case *c, uint64_t seed) {
  char name[200];
  snprintf(name, sizeof name, "layers hidden=%lld heads=%lld/%lld dim=%lld k=%d g=%d act=%d%s", (long long)c->hidden, (long long)c->heads,
           (long long)c->kv_heads, (long long)c->head_dim, c->planes, c->group, (int)c->activations, c->norms ? " norms" : "");
  if (!suite_wants(s, name)) return;
  oracle_random random = {seed};
  layers_weights weights = make_weights(s, name, &random, c);
  bpdq_op ops[OPS];
  make_ops(c, &weights, ops);
  int64_t context = c->first + c->tokens;
  float *table = malloc((size_t)(context * c->head_dim) * sizeof *table), *hidden = malloc((size_t)c->hidden * sizeof *hidden);
  for (int64_t i = 0; i < context * c->head_dim; i++) {
    int64_t position = i / c->head_dim;
    double angle = (double)position * pow(1e4, -2.0 * (double)(i % (c->head_dim / 2)) / (double)c->head_dim);
    table[i] = (float)(i % c->head_dim < c->head_dim / 2 ? cos(angle) : sin(angle));
  }
  /* Sums in another order move some activations to the next integer of their 8 or 16 bits. */
  double limit = c->activations == BPDQ_ACTIVATIONS_8 ? 2e-2 : 1e-3;
  suite_run whole = {0}, steps[OPS] = {{0}};
  bool good = weights.down && start_runs(s, name, c, ops, table, &whole, steps);
  for (int64_t t = 0; t < c->tokens && good; t++) {
    for (int64_t i = 0; i < c->hidden; i++) hidden[i] = (float)(2 * oracle_uniform(&random));
    good = compare_token(s, name, c, (int32_t)(c->first + t), hidden, &whole, steps, limit);
  }
  for (int i = 1; i < OPS; i++) s->backend->executable_destroy(s->backend, steps[i].executable);
  suite_stop(s, &steps[0]);
  suite_stop(s, &whole);
  destroy_weights(s, &weights);
  free(table);
  free(hidden);
}

void suite_layers(suite *s) {
  suite_section(s, "layers");
  static const layers_case cases[] = {
      {256, 4, 2, 64, 384, 2, 128, BPDQ_ACTIVATIONS_8, false, 0, 24},     {320, 2, 1, 128, 600, 3, 64, BPDQ_ACTIVATIONS_16, true, 120, 20},
      {512, 6, 3, 64, 768, 2, 256, BPDQ_ACTIVATIONS_16, true, 700, 3},    {256, 4, 4, 64, 5000, 1, 128, BPDQ_ACTIVATIONS_8, true, 1020, 8},
      {288, 3, 1, 96, 320, 4, 128, BPDQ_ACTIVATIONS_8, false, 0, 5},      {256, 2, 2, 64, 256, 5, 32, BPDQ_ACTIVATIONS_F32, false, 0, 5},
      {1024, 8, 2, 128, 2048, 2, 128, BPDQ_ACTIVATIONS_8, false, 250, 10}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) run_layers(s, &cases[i], 1200 + i);
}
