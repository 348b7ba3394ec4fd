/* Turning operations into dispatches. ops_*.c append dispatches for one operation each; program.c orders, records and runs them. */
#ifndef BPDQ_VULKAN_BUILDER_H
#define BPDQ_VULKAN_BUILDER_H

#include "backend/vulkan/early.h"
#include "backend/vulkan/vulkan.h"

/* Memory of an executable that operations share one after the other. */
typedef enum vulkan_scratch {
  VULKAN_SCRATCH_RUN,         /* the scalars of the run (run.glsl), and the grids that depend on them */
  VULKAN_SCRATCH_TRANSFORMED, /* f32 [tokens, K]: an input after its transform */
  VULKAN_SCRATCH_PREPARED_A,  /* inputs as integers (prepared.glsl): a product reads one and may write the other */
  VULKAN_SCRATCH_PREPARED_B,
  VULKAN_SCRATCH_PARTIAL,    /* attention over a part of the context */
  VULKAN_SCRATCH_COUNTERS,   /* of its finished parts; zero between runs */
  VULKAN_SCRATCH_LARGEST,    /* of parts of a row of logits */
  VULKAN_SCRATCH_STATISTICS, /* maximum and sum of exponentials of such parts */
  VULKAN_SCRATCHES
} vulkan_scratch;

/* What a grid's extent is multiplied by when a program runs. */
typedef enum vulkan_extent {
  VULKAN_EXTENT_FIXED,
  VULKAN_EXTENT_TOKENS /* grid[axis] = ceil(tokens / per) */
} vulkan_extent;

typedef struct vulkan_slot {
  vulkan_binding memory; /* where `scratch` is negative */
  int scratch;           /* vulkan_scratch, or -1 */
  bool used, written;    /* written: the shader writes it (and may read it) */
} vulkan_slot;

typedef struct vulkan_dispatch {
  const char *name; /* the operation's, for messages */
  VkPipeline pipeline;
  vulkan_slot slots[VULKAN_BINDINGS];
  uint32_t push[VULKAN_PUSH_BYTES / 4], push_words;
  uint32_t grid[3];
  vulkan_extent extent[3];
  uint32_t per; /* tokens per group, for VULKAN_EXTENT_TOKENS */
} vulkan_dispatch;

/* The input that was last made to integers. */
typedef struct vulkan_prepared {
  bpdq_tensor tensor;
  bpdq_transform_kind kind;
  const bpdq_weight *norm;
  int64_t blocks; /* the layout's (prepared.glsl): products of other groups may have more */
  vulkan_scratch scratch;
  bool valid;
} vulkan_prepared;

typedef struct vulkan_builder {
  bpdq_vulkan *vulkan;
  bpdq_state *state;
  const bpdq_program *program;
  const bpdq_op *op; /* the one being built */
  vulkan_dispatch *dispatches;
  size_t count, capacity;
  uint64_t scratch_bytes[VULKAN_SCRATCHES];
  const vulkan_dot_variant *variant; /* for all products of integers, or NULL */
  bool refused;                      /* a product cannot have it */
  bool deep;                         /* for runs that reach VULKAN_DEEP */
  bool minds_depth;                  /* an operation is built otherwise for those */
  vulkan_prepared prepared;
} vulkan_builder;

/* ---- a dispatch's parts ---- */

bpdq_status bpdq_vulkan_dispatch_start(vulkan_builder *builder, vulkan_dispatch *dispatch, const char *shader, const uint32_t *constants,
                                       size_t constant_count, bpdq_error *error);
void bpdq_vulkan_read(vulkan_dispatch *dispatch, int slot, vulkan_binding memory);
void bpdq_vulkan_write(vulkan_dispatch *dispatch, int slot, vulkan_binding memory);
void bpdq_vulkan_read_scratch(vulkan_dispatch *dispatch, int slot, vulkan_scratch scratch);
/* Also reserves `bytes` of the scratch memory. */
void bpdq_vulkan_write_scratch(vulkan_builder *builder, vulkan_dispatch *dispatch, int slot, vulkan_scratch scratch, uint64_t bytes);
void bpdq_vulkan_push(vulkan_dispatch *dispatch, uint32_t value);
void bpdq_vulkan_push_float(vulkan_dispatch *dispatch, float value);
/* Appends it. BPDQ_ERROR_UNSUPPORTED names the operation when the grid is beyond the device's limits. */
bpdq_status bpdq_vulkan_dispatch_add(vulkan_builder *builder, const vulkan_dispatch *dispatch, bpdq_error *error);

/* The tensor of an operand, checked: an F32 or I32 (or KV) tensor with at least these rows and columns. */
bpdq_status bpdq_vulkan_operand(const vulkan_builder *builder, bpdq_tensor tensor, bpdq_tensor_kind kind, int64_t rows, int64_t columns,
                                const vulkan_tensor **operand, bpdq_error *error);
bpdq_status bpdq_vulkan_unsupported(const vulkan_builder *builder, const char *what, bpdq_error *error);

/* ---- one per kind of operation ---- */

bpdq_status bpdq_vulkan_add_transform(vulkan_builder *builder, const bpdq_op_transform *op, bpdq_error *error);
bpdq_status bpdq_vulkan_add_linear(vulkan_builder *builder, const bpdq_op_linear *op, bpdq_error *error);
/* The product behind operation `op`, where it takes the integers of a plain row of `columns` that `op` can write beside `output`; else
 * NULL. */
const bpdq_op_linear *bpdq_vulkan_plain_follower(const vulkan_builder *builder, const bpdq_op *op, bpdq_tensor output, int64_t columns);
/* The dispatch writes the input of that product as integers (prepared.glsl) at `slot`; the builder notes it, so that the product is built
 * to read them. */
void bpdq_vulkan_prepare_for(vulkan_builder *builder, vulkan_dispatch *dispatch, int slot, const bpdq_op_linear *next);
/* What a dispatch of one row for `op`, of `groups` work groups of `threads`, reads of the product right behind it. */
vulkan_early bpdq_vulkan_early_behind(const vulkan_builder *builder, const bpdq_op *op, uint32_t groups, uint32_t threads);
vulkan_tuning_key bpdq_vulkan_tuning_key(const bpdq_op_linear *op, bool wide);
vulkan_dot_variant bpdq_vulkan_usual_for(const bpdq_vulkan *vulkan, const bpdq_op_linear *op, int64_t tokens);
bpdq_status bpdq_vulkan_add_rope_cache(vulkan_builder *builder, const bpdq_op_rope_cache *op, bpdq_error *error);
/* How attention.comp shares the query heads of a kv head. */
typedef struct vulkan_attention_cut {
  uint32_t threads, heads; /* of a work group */
  uint32_t chunks;         /* work groups per kv head; as even as they come: 5 heads are 3 + 2 */
  uint32_t merge;          /* heads merged at once */
} vulkan_attention_cut;
/* `shallow`: for short contexts alone. */
vulkan_attention_cut bpdq_vulkan_cut_attention(const vulkan_limits *limits, bool is_cpu, bool subgroup, bool shallow, uint32_t group,
                                               uint32_t head_dim);
/* Parts of a long context for attention on cooperative matrices: a work group per part and kv head has a multiprocessor to itself. */
uint32_t bpdq_vulkan_matrix_parts(uint32_t multiprocessors, uint32_t kv_heads);
/* Whether attention reads what the product behind it begins with, as far as anyone does. */
bool bpdq_vulkan_attention_reads_early(const vulkan_builder *builder, const bpdq_op_attention *op);
bpdq_status bpdq_vulkan_add_attention(vulkan_builder *builder, const bpdq_op *op, bpdq_error *error);
/* Both in one dispatch: for programs of one row, where no other row's key is needed. */
bool bpdq_vulkan_can_fuse_rope(const vulkan_builder *builder, const bpdq_op *first, const bpdq_op *second);
bpdq_status bpdq_vulkan_add_rope_attention(vulkan_builder *builder, const bpdq_op *first, const bpdq_op *second, bpdq_error *error);
bpdq_status bpdq_vulkan_add_top_k(vulkan_builder *builder, const bpdq_op_top_k *op, bpdq_error *error);

/* The input of an operation with a transform, checked: f32 [max_tokens, width], or twice as wide for a gate; the norm's weight too. */
bpdq_status bpdq_vulkan_transform_input(const vulkan_builder *builder, const bpdq_transform *transform, bpdq_tensor input, int64_t width,
                                        const vulkan_tensor **operand, bpdq_error *error);

/* Writes the transformed input to VULKAN_SCRATCH_TRANSFORMED: f32 [max_tokens, width], or f16 [padded_rows, padded_width] in the order of
 * transform_half.comp with zeros past the width (rows beyond the run's hold anything). */
bpdq_status bpdq_vulkan_add_transform_f32(vulkan_builder *builder, const bpdq_transform *transform, bpdq_tensor input, int64_t width,
                                          bpdq_error *error);
bpdq_status bpdq_vulkan_add_transform_f16(vulkan_builder *builder, const bpdq_transform *transform, bpdq_tensor input, int64_t width,
                                          int64_t padded_width, int64_t padded_rows, bpdq_error *error);

#endif
