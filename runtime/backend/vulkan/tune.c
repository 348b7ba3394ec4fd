/* Measuring the variants of products on the device, with the program's own weights and tensors of its own. */
#include <stdlib.h>
#include <string.h>

#include "backend/vulkan/builder.h"
#include "backend/vulkan/early.h"
#include "core/checked.h"

#define BUDGET_NANOSECONDS 1000000000ull /* for all products of a program together */
#define LEAST_WEIGHTS ((int64_t)1 << 20) /* smaller products are as fast in any variant */
#define MOST_WEIGHTS 32                  /* of one shape, so that together they exceed the device's cache */
#define MOST_VARIANTS 8
#define ROUNDS 21
#define WARM_UP_NANOSECONDS 150000000ull /* an idle device's clocks take 100 ms to rise; seen on an H200 */

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

/* One variant of a trial. */
typedef struct contestant {
  vulkan_dot_variant variant;
  bpdq_executable *executable;
  uint64_t least; /* nanoseconds of the shortest run; all variants' runs have the same overhead */
} contestant;

/* The usual variant first, then the others that suit. */
static bpdq_status enter(bpdq_vulkan *vulkan, const trial *t, contestant entries[MOST_VARIANTS], size_t *entered, bpdq_error *error) {
  size_t count;
  const vulkan_dot_variant *variants = bpdq_vulkan_dot_variants(&count), usual = bpdq_vulkan_usual_for(vulkan, &t->ops[0].linear, 1);
  for (size_t i = 0; i <= count && *entered < MOST_VARIANTS; i++) {
    contestant *entry = &entries[*entered];
    bool suits;
    if (i > 0 && bpdq_vulkan_same_variant(&variants[i - 1], &usual)) continue;
    *entry = (contestant){.variant = i ? variants[i - 1] : usual, .least = UINT64_MAX};
    BPDQ_TRY(bpdq_vulkan_compile_variant(vulkan, t->state, &t->program, &entry->variant, &suits, &entry->executable, error));
    if (suits || i == 0) /* something takes the usual one's place where it does not suit */
      ++*entered;
    else
      bpdq_vulkan_executable_destroy(vulkan, entry->executable);
  }
  return BPDQ_OK;
}

static bpdq_status time_run(contestant *entry, bpdq_error *error) {
  static const int32_t zero = 0;
  uint64_t start = bpdq_monotonic_nanoseconds();
  BPDQ_TRY(bpdq_vulkan_run(entry->executable, &(bpdq_run){1, &zero, &zero}, error));
  uint64_t taken = bpdq_monotonic_nanoseconds() - start;
  if (taken < entry->least) entry->least = taken;
  return BPDQ_OK;
}

/* Every round visits all variants, so that clocks that still rise favour none; the first one warms up and does not count. */
static bpdq_status compare(contestant *entries, size_t count, uint64_t deadline, bool *complete, bpdq_error *error) {
  *complete = false;
  for (int round = 0; round <= ROUNDS; round++)
    for (size_t i = 0; i < count; i++) {
      if (bpdq_monotonic_nanoseconds() > deadline) return BPDQ_OK; /* half a comparison is none */
      if (round == 1) entries[i].least = UINT64_MAX;
      BPDQ_TRY(time_run(&entries[i], error));
    }
  *complete = true;
  return BPDQ_OK;
}

typedef struct tally {
  int measured, unusual;
} tally;

static bpdq_status choose(bpdq_vulkan *vulkan, const trial *t, const vulkan_tuning_key *key, uint64_t deadline, tally *tally,
                          bpdq_error *error) {
  contestant entries[MOST_VARIANTS];
  size_t count = 0;
  bool complete = false;
  bpdq_status status = enter(vulkan, t, entries, &count, error);
  uint64_t start = bpdq_monotonic_nanoseconds();
  /* For each product: clocks fall while its variants are compiled. */
  while (status == BPDQ_OK && bpdq_monotonic_nanoseconds() - start < WARM_UP_NANOSECONDS) status = time_run(&entries[0], error);
  if (status == BPDQ_OK) status = compare(entries, count, deadline, &complete, error);
  const contestant *best = entries;
  for (size_t i = 0; i < count; i++) {
    if (entries[i].least < best->least) best = &entries[i];
    bpdq_vulkan_executable_destroy(vulkan, entries[i].executable);
  }
  if (status != BPDQ_OK || !complete) return status;
  bool unusual = best->least < entries[0].least / 10 * 9; /* a choice by 5% was wrong by 30% in the whole model, seen on an H200 */
  bpdq_vulkan_tuning_keep(&vulkan->tuning, key, unusual ? &best->variant : &(vulkan_dot_variant){0});
  tally->measured++;
  tally->unusual += unusual;
  return BPDQ_OK;
}

/* Where there is no memory for it, the cache counts as small until there is. */
static bpdq_status tune_cache(bpdq_vulkan *vulkan, bpdq_error *error) {
  bool large;
  bool matters = vulkan->context.limits.bindings >= VULKAN_EARLY_BINDINGS;
  if (!matters || bpdq_vulkan_tuning_cache(&vulkan->tuning) != VULKAN_CACHE_UNKNOWN) return BPDQ_OK;
  bpdq_status status = bpdq_vulkan_measure_cache(vulkan, &large, error);
  if (status == BPDQ_ERROR_MEMORY) return BPDQ_OK;
  if (status == BPDQ_OK) bpdq_vulkan_tuning_keep_cache(&vulkan->tuning, large);
  return status;
}

bpdq_status bpdq_vulkan_tune(bpdq_vulkan *vulkan, const bpdq_program *program, bpdq_error *error) {
  const vulkan_context *context = &vulkan->context;
  vulkan_dot_variant variant;
  bool forced = vulkan->tuning.asked == VULKAN_SWITCH_ON, wide = program->activations == BPDQ_ACTIVATIONS_16;
  if (vulkan->tuning.asked == VULKAN_SWITCH_OFF || program->max_tokens != 1 || program->activations == BPDQ_ACTIVATIONS_F32 ||
      !context->features.integer_dot || (context->is_cpu && !forced) || bpdq_vulkan_forced_variant(&variant))
    return BPDQ_OK;
  BPDQ_TRY(tune_cache(vulkan, error));
  tally tally = {0};
  uint64_t start = bpdq_monotonic_nanoseconds(), deadline = start + BUDGET_NANOSECONDS;
  for (size_t i = 0; i < program->count; i++) {
    if (!is_candidate(&program->ops[i], forced)) continue;
    vulkan_tuning_key key = bpdq_vulkan_tuning_key(&program->ops[i].linear, wide);
    if (bpdq_vulkan_tuning_find(&vulkan->tuning, &key, &variant)) continue;
    if (!forced && bpdq_monotonic_nanoseconds() > deadline) break;
    trial t = {0};
    collect(&t, program, i, wide);
    BPDQ_TRY(bpdq_vulkan_state_create(vulkan, t.tensors, 2, &t.state, error));
    bpdq_status status = choose(vulkan, &t, &key, forced ? UINT64_MAX : deadline, &tally, error);
    bpdq_vulkan_state_destroy(vulkan, t.state);
    BPDQ_TRY(status);
  }
  if (tally.measured)
    bpdq_log_info(&context->log, "vulkan: measured %d products in %.1f s; %d other than usual", tally.measured,
                  (double)(bpdq_monotonic_nanoseconds() - start) * 1e-9, tally.unusual);
  return BPDQ_OK;
}
