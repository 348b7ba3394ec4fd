/* Executables: a program's dispatches recorded once, with barriers only where data flows, and run with one submission. */
#include <stdlib.h>
#include <string.h>

#include "backend/vulkan/builder.h"
#include "core/checked.h"

/* The run buffer (run.glsl): 4 words of scalars, positions [max_tokens], sequences [max_tokens], then the grids. */
#define RUN_HEADER_WORDS 4

struct bpdq_executable {
  bpdq_vulkan *vulkan;
  bpdq_state *state;
  int64_t max_tokens;
  int64_t context, cache_rows; /* the smallest of the caches used; INT64_MAX without attention */
  vulkan_dispatch *dispatches;
  size_t count;
  vulkan_buffer scratch[VULKAN_SCRATCHES];
  VkDescriptorPool pool;
  vulkan_commands commands;
  int64_t grid_tokens;   /* of the run that the grids in the run buffer are for */
  bpdq_executable *deep; /* the same for runs that reach VULKAN_DEEP, or NULL where it makes no difference */
};

bpdq_vulkan *bpdq_vulkan_of_executable(const bpdq_executable *executable) { return executable->vulkan; }

/* ---- grids ---- */

static bool varies(const vulkan_dispatch *dispatch, const bpdq_executable *executable) {
  for (int i = 0; i < 3; i++)
    if (dispatch->extent[i] == VULKAN_EXTENT_TOKENS && executable->max_tokens > 1) return true;
  return false;
}

static uint32_t extent_of(const vulkan_dispatch *dispatch, int axis, int64_t tokens) {
  if (dispatch->extent[axis] == VULKAN_EXTENT_TOKENS) return (uint32_t)bpdq_ceil_div((uint64_t)tokens, dispatch->per);
  return dispatch->grid[axis];
}

static uint64_t grid_offset(const bpdq_executable *executable, size_t index) {
  return (uint64_t)(RUN_HEADER_WORDS + 2 * executable->max_tokens + 3 * (int64_t)index) * 4;
}

/* ---- barriers ---- */

/* Memory that dispatches since the last barrier have touched. */
typedef struct hazards {
  struct {
    vulkan_binding memory;
    bool written;
  } * touched;
  size_t count;
} hazards;

static bool overlap(const vulkan_binding *a, const vulkan_binding *b) {
  return a->buffer == b->buffer && a->offset < b->offset + b->size && b->offset < a->offset + a->size;
}

static bool must_wait(const hazards *pending, const vulkan_dispatch *dispatch) {
  for (size_t i = 0; i < pending->count; i++)
    for (int slot = 0; slot < VULKAN_BINDINGS; slot++)
      if (dispatch->slots[slot].used && (pending->touched[i].written || dispatch->slots[slot].written) &&
          overlap(&pending->touched[i].memory, &dispatch->slots[slot].memory))
        return true;
  return false;
}

static void note(hazards *pending, const vulkan_dispatch *dispatch) {
  for (int slot = 0; slot < VULKAN_BINDINGS; slot++)
    if (dispatch->slots[slot].used) {
      pending->touched[pending->count].memory = dispatch->slots[slot].memory;
      pending->touched[pending->count++].written = dispatch->slots[slot].written;
    }
}

/* ---- recording ---- */

static bpdq_status record(bpdq_executable *executable, bpdq_error *error) {
  bpdq_vulkan *vulkan = executable->vulkan;
  vulkan_context *context = &vulkan->context;
  VkCommandBuffer commands = executable->commands.buffer;
  size_t count = executable->count ? executable->count : 1;
  VkDescriptorSet *sets = bpdq_alloc_array(count, sizeof *sets);
  hazards pending = {.touched = bpdq_alloc_array(count * VULKAN_BINDINGS, sizeof *pending.touched)};
  bpdq_status status = BPDQ_OK;
  if (!sets || !pending.touched) {
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
    goto done;
  }
  BPDQ_TRY_GOTO(bpdq_vulkan_create_sets(&vulkan->pipelines, (uint32_t)count, &executable->pool, sets, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_commands_begin(context, &executable->commands, true, error), done);
  bpdq_vulkan_begin_barrier(context, commands, executable->max_tokens > 1);
  for (size_t i = 0; i < executable->count; i++) {
    const vulkan_dispatch *dispatch = &executable->dispatches[i];
    vulkan_binding bindings[VULKAN_BINDINGS] = {0};
    for (int slot = 0; slot < VULKAN_BINDINGS; slot++)
      if (dispatch->slots[slot].used) bindings[slot] = dispatch->slots[slot].memory;
    if (must_wait(&pending, dispatch)) {
      bpdq_vulkan_compute_barrier(context, commands);
      pending.count = 0;
    }
    note(&pending, dispatch);
    bpdq_vulkan_write_set(context, sets[i], bindings);
    bpdq_vulkan_bind(&vulkan->pipelines, commands, dispatch->pipeline, sets[i], dispatch->push, dispatch->push_words);
    if (varies(dispatch, executable)) {
      const vulkan_buffer *run = &executable->scratch[VULKAN_SCRATCH_RUN];
      context->vk.CmdDispatchIndirect(commands, run->buffer, run->offset + grid_offset(executable, i));
    } else {
      context->vk.CmdDispatch(commands, dispatch->grid[0], dispatch->grid[1], dispatch->grid[2]);
    }
  }
  bpdq_vulkan_end_barrier(context, commands);
  status = bpdq_vulkan_commands_end(context, &executable->commands, error);
done:
  free(sets);
  free(pending.touched);
  return status;
}

/* ---- compiling ---- */

static bpdq_status add_op(vulkan_builder *builder, const bpdq_op *op, bpdq_error *error) {
  builder->op = op;
  if (op->kind != BPDQ_OP_LINEAR) builder->prepared.valid = false; /* it may write the tensor */
  switch (op->kind) {
    case BPDQ_OP_TRANSFORM:
      return bpdq_vulkan_add_transform(builder, &op->transform, error);
    case BPDQ_OP_LINEAR:
      return bpdq_vulkan_add_linear(builder, &op->linear, error);
    case BPDQ_OP_ROPE_CACHE:
      return bpdq_vulkan_add_rope_cache(builder, &op->rope_cache, error);
    case BPDQ_OP_ATTENTION:
      return bpdq_vulkan_add_attention(builder, op, error);
    case BPDQ_OP_TOP_K:
      return bpdq_vulkan_add_top_k(builder, &op->top_k, error);
  }
  return bpdq_vulkan_unsupported(builder, "unknown kind", error);
}

/* Of an operation that has been added, whose operands are there. */
static void note_cache(bpdq_executable *executable, const bpdq_op *op) {
  bool rope = op->kind == BPDQ_OP_ROPE_CACHE;
  if (!rope && op->kind != BPDQ_OP_ATTENTION) return;
  int64_t context = rope ? op->rope_cache.context : op->attention.context;
  int64_t rows = executable->state->tensors[rope ? op->rope_cache.k_cache : op->attention.k_cache].desc.rows;
  if (context < executable->context) executable->context = context;
  if (rows < executable->cache_rows) executable->cache_rows = rows;
}

/* Names are only for error messages of compile; nothing refers to the program afterwards. */
static bpdq_status build(vulkan_builder *builder, bpdq_executable *executable, bpdq_error *error) {
  bpdq_vulkan *vulkan = builder->vulkan;
  const bpdq_program *program = builder->program;
  for (size_t i = 0; i < program->count; i++) {
    const bpdq_op *op = &program->ops[i];
    if (i + 1 < program->count && bpdq_vulkan_can_fuse_rope(builder, op, op + 1)) {
      builder->op = op;
      builder->prepared.valid = false;
      BPDQ_TRY(bpdq_vulkan_add_rope_attention(builder, op, op + 1, error));
      i++;
    } else {
      BPDQ_TRY(add_op(builder, op, error));
    }
    note_cache(executable, op);
  }
  builder->scratch_bytes[VULKAN_SCRATCH_RUN] = (RUN_HEADER_WORDS + 2 * (uint64_t)program->max_tokens + 3 * (uint64_t)builder->count) * 4;
  for (int i = 0; i < VULKAN_SCRATCHES; i++) {
    bool mapped = i == VULKAN_SCRATCH_RUN || i == VULKAN_SCRATCH_COUNTERS;
    if (!builder->scratch_bytes[i]) continue;
    BPDQ_TRY(bpdq_vulkan_allocate(&vulkan->memory, mapped ? VULKAN_MEMORY_SHARED : VULKAN_MEMORY_DEVICE, builder->scratch_bytes[i],
                                  "scratch memory", &executable->scratch[i], error));
    if (mapped) memset(executable->scratch[i].mapped, 0, executable->scratch[i].size);
  }
  for (size_t i = 0; i < builder->count; i++)
    for (int slot = 0; slot < VULKAN_BINDINGS; slot++) {
      vulkan_slot *bound = &builder->dispatches[i].slots[slot];
      if (bound->used && bound->scratch >= 0) bound->memory = bpdq_vulkan_whole(&executable->scratch[bound->scratch]);
    }
  return BPDQ_OK;
}

static bpdq_status compile(vulkan_builder *builder, bpdq_executable **result, bpdq_error *error) {
  bpdq_vulkan *vulkan = builder->vulkan;
  bpdq_executable *executable = calloc(1, sizeof *executable);
  if (!executable) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  executable->vulkan = vulkan;
  executable->state = builder->state;
  executable->max_tokens = builder->program->max_tokens;
  executable->context = executable->cache_rows = INT64_MAX;
  bpdq_status status = build(builder, executable, error);
  executable->dispatches = builder->dispatches;
  executable->count = builder->count;
  if (status == BPDQ_OK) status = bpdq_vulkan_commands_create(&vulkan->context, &executable->commands, error);
  if (status == BPDQ_OK) status = record(executable, error);
  if (status == BPDQ_OK)
    *result = executable;
  else
    bpdq_vulkan_executable_destroy(vulkan, executable);
  return status;
}

bpdq_status bpdq_vulkan_compile(bpdq_vulkan *vulkan, bpdq_state *state, const bpdq_program *program, bpdq_executable **executable,
                                bpdq_error *error) {
  *executable = NULL;
  if (program->max_tokens < 1 || program->max_tokens > 65535)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "vulkan: %lld tokens per run; 1 to 65535 are supported",
                     (long long)program->max_tokens);
  BPDQ_TRY(bpdq_vulkan_tune(vulkan, program, error));
  vulkan_builder builder = {.vulkan = vulkan, .state = state, .program = program};
  bpdq_executable *shallow = NULL;
  BPDQ_TRY(compile(&builder, &shallow, error));
  if (builder.minds_depth) {
    builder = (vulkan_builder){.vulkan = vulkan, .state = state, .program = program, .deep = true};
    bpdq_status status = compile(&builder, &shallow->deep, error);
    if (status != BPDQ_OK) {
      bpdq_vulkan_executable_destroy(vulkan, shallow);
      return status;
    }
  }
  *executable = shallow;
  return BPDQ_OK;
}

bpdq_status bpdq_vulkan_compile_variant(bpdq_vulkan *vulkan, bpdq_state *state, const bpdq_program *program,
                                        const vulkan_dot_variant *variant, bool *suits, bpdq_executable **executable, bpdq_error *error) {
  *executable = NULL;
  vulkan_builder builder = {.vulkan = vulkan, .state = state, .program = program, .variant = variant};
  BPDQ_TRY(compile(&builder, executable, error));
  *suits = !builder.refused;
  return BPDQ_OK;
}

void bpdq_vulkan_executable_destroy(bpdq_vulkan *vulkan, bpdq_executable *executable) {
  if (!executable) return;
  bpdq_vulkan_executable_destroy(vulkan, executable->deep);
  bpdq_vulkan_commands_destroy(&vulkan->context, &executable->commands);
  if (executable->pool) vulkan->context.vk.DestroyDescriptorPool(vulkan->context.device, executable->pool, NULL);
  for (int i = 0; i < VULKAN_SCRATCHES; i++) bpdq_vulkan_release(&vulkan->memory, &executable->scratch[i]);
  free(executable->dispatches);
  free(executable);
}

/* ---- running ---- */

static void write_grids(bpdq_executable *executable, int64_t tokens) {
  if (executable->grid_tokens == tokens) return;
  uint8_t *base = executable->scratch[VULKAN_SCRATCH_RUN].mapped;
  for (size_t i = 0; i < executable->count; i++) {
    const vulkan_dispatch *dispatch = &executable->dispatches[i];
    if (!varies(dispatch, executable)) continue;
    uint32_t grid[3];
    for (int axis = 0; axis < 3; axis++) grid[axis] = extent_of(dispatch, axis, tokens);
    memcpy(base + grid_offset(executable, i), grid, sizeof grid);
  }
  executable->grid_tokens = tokens;
}

static bool is_deep(const bpdq_run *run) {
  for (int64_t i = 0; i < run->tokens; i++)
    if (run->positions[i] >= VULKAN_DEEP) return true;
  return false;
}

/* Shaders check no index, and drivers need not (pipeline.c): a row outside the caches would be written into other memory. */
static bpdq_status check_run(const bpdq_executable *executable, const bpdq_run *run, bpdq_error *error) {
  bool attends = executable->context != INT64_MAX;
  int64_t context = attends ? executable->context : 0, sequences = attends ? executable->cache_rows / context : 0;
  return bpdq_check_run(run, executable->max_tokens, context, sequences, error);
}

bpdq_status bpdq_vulkan_run(bpdq_executable *executable, const bpdq_run *run, bpdq_error *error) {
  BPDQ_TRY(check_run(executable, run, error));
  if (executable->deep && is_deep(run)) executable = executable->deep;
  uint32_t *words = (uint32_t *)(void *)executable->scratch[VULKAN_SCRATCH_RUN].mapped;
  words[0] = (uint32_t)run->tokens;
  if (run->positions) memcpy(words + RUN_HEADER_WORDS, run->positions, (size_t)run->tokens * 4);
  if (run->sequences) memcpy(words + RUN_HEADER_WORDS + executable->max_tokens, run->sequences, (size_t)run->tokens * 4);
  write_grids(executable, run->tokens);
  return bpdq_vulkan_state_submit(executable->state, &executable->commands, error);
}
