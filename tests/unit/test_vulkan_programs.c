/* Programs that the Vulkan backend refuses, as its shaders check nothing, and one that needs no places of a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vulkan.h"

#define HEADS 2
#define DIM 32
#define CONTEXT 32

enum { QKV, OUTPUT, TABLE, KEYS, VALUES, BYTES, LONG, TENSORS };

static const bpdq_tensor_desc tensors[TENSORS] = {
    [QKV] = {.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = 3 * HEADS * DIM},
    [OUTPUT] = {.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = HEADS * DIM},
    [TABLE] = {.kind = BPDQ_TENSOR_F32, .rows = CONTEXT, .columns = DIM},
    [KEYS] = {.kind = BPDQ_TENSOR_KV, .rows = CONTEXT, .columns = HEADS * DIM, .kv_type = BPDQ_KV_F16, .head_dim = DIM},
    [VALUES] = {.kind = BPDQ_TENSOR_KV, .rows = CONTEXT, .columns = HEADS * DIM, .kv_type = BPDQ_KV_F16, .head_dim = DIM},
    [BYTES] = {.kind = BPDQ_TENSOR_KV, .rows = CONTEXT, .columns = HEADS * DIM, .kv_type = BPDQ_KV_Q8, .head_dim = DIM},
    [LONG] = {.kind = BPDQ_TENSOR_KV, .rows = 2 * CONTEXT, .columns = HEADS * DIM, .kv_type = BPDQ_KV_F16, .head_dim = DIM}};

static bpdq_status try_compile(bpdq_backend *backend, bpdq_state *state, const bpdq_op *ops, size_t count, bpdq_error *error) {
  bpdq_executable *executable = NULL;
  bpdq_program program = {ops, count, 1, BPDQ_ACTIVATIONS_F32};
  bpdq_status status = backend->compile(backend, state, &program, &executable, error);
  backend->executable_destroy(backend, executable);
  return status;
}

/* Where keys go to is worked out from the cache of keys alone, and so is where values go to. */
static void refuses_caches_that_differ(void **unused) {
  (void)unused;
  static const bpdq_tensor pairs[][2] = {{KEYS, VALUES}, {KEYS, BYTES}, {BYTES, VALUES}, {KEYS, LONG}, {LONG, VALUES}};
  bpdq_backend *backend = first_vulkan_device();
  bpdq_state *state = NULL;
  bpdq_error error = {0};
  check(backend->state_create(backend, tensors, TENSORS, &state, &error), &error);
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    bpdq_op ops[2] = {{.kind = BPDQ_OP_ROPE_CACHE, .name = "rotation"}, {.kind = BPDQ_OP_ATTENTION, .name = "attention"}};
    ops[0].rope_cache = (bpdq_op_rope_cache){QKV, TABLE, pairs[i][0], pairs[i][1], HEADS, HEADS, DIM, CONTEXT, NULL, NULL, 0};
    ops[1].attention = (bpdq_op_attention){QKV, OUTPUT, pairs[i][0], pairs[i][1], HEADS, HEADS, DIM, CONTEXT, 1};
    bpdq_status expected = i ? BPDQ_ERROR_UNSUPPORTED : BPDQ_OK;
    assert_int_equal(try_compile(backend, state, ops, 2, &error), expected); /* one dispatch */
    assert_int_equal(try_compile(backend, state, ops + 1, 1, &error), expected);
    assert_int_equal(try_compile(backend, state, ops, 1, &error), expected);
    if (i) assert_non_null(strstr(error.message, "operation rotation: its caches must agree"));
  }
  backend->state_destroy(backend, state);
  backend->destroy(backend);
}

static void runs_without_places(void **unused) {
  (void)unused;
  bpdq_backend *backend = first_vulkan_device();
  bpdq_state *state = NULL;
  bpdq_executable *executable = NULL;
  bpdq_error error = {0};
  float row[3 * HEADS * DIM], got[HEADS * DIM];
  for (int i = 0; i < 3 * HEADS * DIM; i++) row[i] = (float)i;
  check(backend->state_create(backend, tensors, TENSORS, &state, &error), &error);
  bpdq_op op = {.kind = BPDQ_OP_TRANSFORM, .name = "copy", .transform = {QKV, OUTPUT, {BPDQ_TRANSFORM_NONE, NULL, 0}, HEADS * DIM}};
  bpdq_program program = {&op, 1, 1, BPDQ_ACTIVATIONS_F32};
  check(backend->compile(backend, state, &program, &executable, &error), &error);
  check(backend->tensor_write(state, QKV, 0, 3 * HEADS * DIM, row, &error), &error);
  check(backend->run(executable, &(bpdq_run){.tokens = 1}, &error), &error);
  check(backend->tensor_read(state, OUTPUT, 0, HEADS * DIM, got, &error), &error);
  assert_memory_equal(got, row, sizeof got);
  backend->executable_destroy(backend, executable);
  backend->state_destroy(backend, state);
  backend->destroy(backend);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(refuses_caches_that_differ), cmocka_unit_test(runs_without_places)};
  return cmocka_run_group_tests_name("vulkan programs", tests, NULL, NULL);
}
