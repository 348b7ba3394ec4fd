/* Programs that no backend may take: running one would divide by nothing, or reach memory outside its caches. */
#include <stdio.h>
#include <string.h>

#include "suite.h"

#define HEADS 4
#define KV_HEADS 2
#define DIM 32
#define CONTEXT 32
#define SEQUENCES 2

enum { QKV, OUTPUT, TABLE, KEYS, VALUES, BYTES, SHORT, TENSORS };

static const bpdq_tensor_desc tensors[TENSORS] = {
    [QKV] = {.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = (HEADS + 2 * KV_HEADS) * DIM},
    [OUTPUT] = {.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = HEADS * DIM},
    [TABLE] = {.kind = BPDQ_TENSOR_F32, .rows = CONTEXT, .columns = DIM},
    [KEYS] = {.kind = BPDQ_TENSOR_KV, .rows = SEQUENCES * CONTEXT, .columns = KV_HEADS * DIM, .kv_type = BPDQ_KV_F16, .head_dim = DIM},
    [VALUES] = {.kind = BPDQ_TENSOR_KV, .rows = SEQUENCES * CONTEXT, .columns = KV_HEADS * DIM, .kv_type = BPDQ_KV_F16, .head_dim = DIM},
    [BYTES] = {.kind = BPDQ_TENSOR_KV, .rows = SEQUENCES * CONTEXT, .columns = KV_HEADS * DIM, .kv_type = BPDQ_KV_Q8, .head_dim = DIM},
    [SHORT] = {.kind = BPDQ_TENSOR_KV, .rows = CONTEXT, .columns = KV_HEADS * DIM, .kv_type = BPDQ_KV_F16, .head_dim = DIM}};

typedef struct caches_case {
  const char *name;
  bpdq_tensor values;
  int64_t context;
} caches_case;

/* The rotation, the attention, and both in one program, which a backend may join. */
static void try_caches(suite *s, bpdq_state *state, const caches_case *c, bpdq_status expected) {
  bpdq_op ops[2] = {{.kind = BPDQ_OP_ROPE_CACHE, .name = "test.caches"}, {.kind = BPDQ_OP_ATTENTION, .name = "test.caches"}};
  ops[0].rope_cache = (bpdq_op_rope_cache){QKV, TABLE, KEYS, c->values, HEADS, KV_HEADS, DIM, c->context, NULL, NULL, 0};
  ops[1].attention = (bpdq_op_attention){QKV, OUTPUT, KEYS, c->values, HEADS, KV_HEADS, DIM, c->context, 1};
  const bpdq_program programs[] = {
      {ops, 1, 1, BPDQ_ACTIVATIONS_F32}, {ops + 1, 1, 1, BPDQ_ACTIVATIONS_F32}, {ops, 2, 1, BPDQ_ACTIVATIONS_F32}};
  for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
    bpdq_executable *executable = NULL;
    bpdq_error error = {0};
    char what[300];
    bpdq_status status = s->backend->compile(s->backend, state, &programs[i], &executable, &error);
    snprintf(what, sizeof what, "program %zu gives status %d: %s", i, (int)status, error.message);
    suite_true(s, c->name, status == expected && (status == BPDQ_OK || strstr(error.message, "test.caches")), what);
    s->backend->executable_destroy(s->backend, executable);
  }
}

void suite_programs(suite *s) {
  static const caches_case good = {"programs: good caches", VALUES, CONTEXT};
  static const caches_case broken[] = {{"programs: no context", VALUES, 0},
                                       {"programs: a negative context", VALUES, -CONTEXT},
                                       {"programs: no whole sequences", VALUES, CONTEXT - 2},
                                       {"programs: values of another type", BYTES, CONTEXT},
                                       {"programs: values of fewer rows", SHORT, CONTEXT},
                                       {"programs: keys and values in one place", KEYS, CONTEXT}};
  suite_section(s, "programs");
  if (!suite_wants(s, "programs")) return;
  bpdq_state *state = NULL;
  bpdq_error error = {0};
  if (!suite_ok(s, "programs", s->backend->state_create(s->backend, tensors, TENSORS, &state, &error), &error)) return;
  try_caches(s, state, &good, BPDQ_OK);
  for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) try_caches(s, state, &broken[i], BPDQ_ERROR_UNSUPPORTED);
  s->backend->state_destroy(s->backend, state);
}
