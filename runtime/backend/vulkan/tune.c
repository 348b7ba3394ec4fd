/* Measuring the variants of products on the device, with the program's own weights and tensors of its own. */
#include <stdlib.h>
#include <string.h>

#include "backend/vulkan/builder.h"
#include "core/checked.h"

#define BUDGET_NANOSECONDS 1000000000ull /* for all products of a program together */
#define LEAST_WEIGHTS ((int64_t)1 << 20) /* smaller products are as fast in any variant */
#define MOST_WEIGHTS 32                  /* of one shape, so that together they exceed the device's cache */
#define RUNS 6
#define WARM_UP_NANOSECONDS 100000000ull /* an idle device's clocks take about so long to rise; seen on an H200 */

/* The products of one shape, as a program over two tensors: 0 is the input, 1 the output. */
typedef struct trial {
  bpdq_op ops[MOST_WEIGHTS];
  bpdq_tensor_desc tensors[2];
  bpdq_program program;
  bpdq_state *state;
} trial;

static bool is_candidate(const bpdq_op *op, bool any_size) {
  const bpdq_weight *weight = op->linear.weight;
  return op->kind == BPDQ_OP_LINEAR && weight && weight->kind == BPDQ_WEIGHT_PLANES &&
         (any_size || weight->rows * weight->columns >= LEAST_WEIGHTS);
}

static void collect(trial *t, const bpdq_program *program, size_t first, bool wide) {
  const bpdq_op_linear *op = &program->ops[first].linear;
  vulkan_tuning_key key = bpdq_vulkan_tuning_key(op, wide);
  int64_t columns = op->weight->columns * (op->transform.kind == BPDQ_TRANSFORM_SILU_GATE ? 2 : 1), width = op->weight->rows;
  t->program = (bpdq_program){t->ops, 0, 1, program->activations};
  for (size_t i = first; i < program->count && t->program.count < MOST_WEIGHTS; i++) {
    if (!is_candidate(&program->ops[i], true)) continue;
    vulkan_tuning_key other = bpdq_vulkan_tuning_key(&program->ops[i].linear, wide);
    if (memcmp(&other, &key, sizeof key) != 0) continue;
    bpdq_op *copy = &t->ops[t->program.count++];
    *copy = program->ops[i];
    copy->linear.input = 0;
    copy->linear.output = 1;
    if (copy->linear.offset + width > t->tensors[1].columns) t->tensors[1].columns = copy->linear.offset + width;
  }
  t->tensors[0] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = columns};
  t->tensors[1].kind = BPDQ_TENSOR_F32;
  t->tensors[1].rows = 1;
}

/* Shortest time of a run; all variants' runs have the same overhead. UINT64_MAX where the variant does not suit. */
static bpdq_status measure(bpdq_vulkan *vulkan, const trial *t, const vulkan_dot_variant *variant, uint64_t *nanoseconds,
                           bpdq_error *error) {
  static const int32_t zero = 0;
  const bpdq_run run = {1, &zero, &zero};
  bpdq_executable *executable;
  bool suits;
  *nanoseconds = UINT64_MAX;
  BPDQ_TRY(bpdq_vulkan_compile_variant(vulkan, t->state, &t->program, variant, &suits, &executable, error));
  bpdq_status status = BPDQ_OK;
  for (int i = 0; i <= RUNS && suits && status == BPDQ_OK; i++) { /* the first one warms up */
    uint64_t start = bpdq_monotonic_nanoseconds();
    status = bpdq_vulkan_run(executable, &run, error);
    uint64_t taken = bpdq_monotonic_nanoseconds() - start;
    if (i > 0 && taken < *nanoseconds) *nanoseconds = taken;
  }
  bpdq_vulkan_executable_destroy(vulkan, executable);
  return status;
}

/* Runs a trial until the device's clocks have risen. */
static bpdq_status warm_up(bpdq_vulkan *vulkan, const trial *t, bpdq_error *error) {
  uint64_t nanoseconds, start = bpdq_monotonic_nanoseconds();
  size_t count;
  const vulkan_dot_variant *variants = bpdq_vulkan_dot_variants(&count);
  while (bpdq_monotonic_nanoseconds() - start < WARM_UP_NANOSECONDS) BPDQ_TRY(measure(vulkan, t, &variants[0], &nanoseconds, error));
  return BPDQ_OK;
}

static bpdq_status choose(bpdq_vulkan *vulkan, const trial *t, const vulkan_tuning_key *key, uint64_t deadline, bpdq_error *error) {
  size_t count;
  const vulkan_dot_variant *variants = bpdq_vulkan_dot_variants(&count), *best = NULL;
  uint64_t least = UINT64_MAX;
  for (size_t i = 0; i < count; i++) {
    uint64_t nanoseconds;
    if (bpdq_monotonic_nanoseconds() > deadline) return BPDQ_OK; /* half a comparison is none */
    BPDQ_TRY(measure(vulkan, t, &variants[i], &nanoseconds, error));
    if (nanoseconds >= least) continue;
    least = nanoseconds;
    best = &variants[i];
  }
  if (!best) return BPDQ_OK;
  bpdq_vulkan_tuning_keep(&vulkan->tuning, key, best);
  bpdq_log_info(&vulkan->context.log, "vulkan: %u x %u, k=%u g=%u: %u threads, %u per row, %u ahead, %u parts, %u groups%s: %.1f us",
                key->rows, key->columns, key->planes, key->group, best->threads, best->slices, best->ahead, best->parts, best->groups,
                best->fused ? "" : ", prepared apart", (double)least * 1e-3 / (double)t->program.count);
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_tune(bpdq_vulkan *vulkan, const bpdq_program *program, bpdq_error *error) {
  const vulkan_context *context = &vulkan->context;
  vulkan_dot_variant variant;
  bool warm = false, forced = getenv("BPDQ_VULKAN_TUNE") != NULL, wide = program->activations == BPDQ_ACTIVATIONS_16;
  if (program->max_tokens != 1 || program->activations == BPDQ_ACTIVATIONS_F32 || !context->features.integer_dot ||
      (context->is_cpu && !forced) || bpdq_vulkan_forced_variant(&variant))
    return BPDQ_OK;
  uint64_t deadline = bpdq_monotonic_nanoseconds() + BUDGET_NANOSECONDS;
  for (size_t i = 0; i < program->count; i++) {
    if (!is_candidate(&program->ops[i], forced)) continue;
    vulkan_tuning_key key = bpdq_vulkan_tuning_key(&program->ops[i].linear, wide);
    if (bpdq_vulkan_tuning_find(&vulkan->tuning, &key, &variant)) continue;
    if (!forced && bpdq_monotonic_nanoseconds() > deadline) break;
    trial t = {0};
    collect(&t, program, i, wide);
    BPDQ_TRY(bpdq_vulkan_state_create(vulkan, t.tensors, 2, &t.state, error));
    bpdq_status status = warm ? BPDQ_OK : warm_up(vulkan, &t, error);
    warm = true;
    if (status == BPDQ_OK) status = choose(vulkan, &t, &key, forced ? UINT64_MAX : deadline, error);
    bpdq_vulkan_state_destroy(vulkan, t.state);
    BPDQ_TRY(status);
  }
  return BPDQ_OK;
}
