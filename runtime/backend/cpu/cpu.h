/* Inner header of the CPU backend: its structs, and what its files offer each other.
 *
 *   cpu_backend.c   registration, limits, memory accounting, bandwidth      cpu_linear.c     products: one row, several rows
 *   cpu_features.c  which kernels this processor can run                    cpu_attention.c  attention over the cache
 *   cpu_weight.c    repacking of weights (cpu_head.c: 8-bit head)                                    cpu_rope.c       rotation and cache
 * writes cpu_state.c     tensors of a session                                    cpu_top_k.c      selection and log-sum-exp cpu_compile.c
 * checking of programs                                    cpu_run.c        the op loop, transforms kernels_*.c     the inner loops, once
 * per instruction set               cpu_kernels.h    their common interface
 */
#ifndef BPDQ_BACKEND_CPU_H
#define BPDQ_BACKEND_CPU_H

#include <stdatomic.h>

#include "backend/backend.h"
#include "backend/cpu/cpu_kernels.h"
#include "core/threads.h"

typedef struct cpu_backend {
  bpdq_backend base;
  const cpu_kernels *kernels;
  bpdq_pool *pool;
  bpdq_log log;
  uint64_t memory_cap; /* 0: none */
  _Atomic uint64_t memory_current, memory_peak;
} cpu_backend;

/* Where one part's rows of a dense matrix are read: the checkpoint's own memory, or a copy in bpdq_weight.memory. */
typedef struct cpu_dense_part {
  int64_t rows;
  const uint8_t *data; /* [rows, columns] of dtype, unaligned */
  bpdq_dtype dtype;
} cpu_dense_part;

struct bpdq_weight {
  bpdq_weight_kind kind;
  int64_t rows, columns; /* all parts together; VECTOR: rows values, columns 1 */
  cpu_planes planes;     /* PLANES */
  cpu_dense_part *parts; /* DENSE */
  int part_count;
  float *vector;  /* VECTOR: [rows] */
  uint8_t *head8; /* a head's rows in 8 bits (cpu_head.c), or NULL; used unless activations are f32 */
  uint64_t head8_bytes;
  uint8_t *memory;  /* what this weight owns: tiles, copied rows or the vector */
  uint64_t bytes;   /* owned, as accounted */
  uint64_t touched; /* bytes that one pass reads */
};

typedef struct cpu_tensor {
  bpdq_tensor_desc desc;
  void *data; /* F32, I32: [rows, columns]; KV: blocks, see cpu_kernels.h */
  uint64_t bytes;
} cpu_tensor;

struct bpdq_state {
  cpu_backend *backend;
  cpu_tensor *tensors;
  size_t count;
};

/* Scratch memory of one executable, sized by compile for its largest operation. */
typedef struct cpu_scratch {
  float *rows; /* transformed inputs of a product: [tokens, columns], or packed for cpu_kernels.multiply */
  cpu_tables tables[CPU_TABLE_TOKENS];
  uint8_t *per_thread; /* [threads][per_thread_bytes] */
  uint64_t per_thread_bytes;
  float *partials; /* attention over splits, top-k over chunks */
  uint8_t *memory; /* the one allocation behind all of them */
  uint64_t bytes;
} cpu_scratch;

struct bpdq_executable {
  cpu_backend *backend;
  bpdq_state *state;
  bpdq_op *ops; /* a copy; names are the caller's and outlive the executable */
  size_t count;
  int64_t max_tokens;
  bpdq_activations activations;
  int64_t context;   /* smallest context of the program's cache operations; 0: none */
  int64_t sequences; /* smallest number of sequences that its caches hold */
  cpu_scratch scratch;
};

static inline float *cpu_floats(const bpdq_state *state, bpdq_tensor tensor) { return state->tensors[tensor].data; }
static inline int64_t cpu_columns(const bpdq_state *state, bpdq_tensor tensor) { return state->tensors[tensor].desc.columns; }

/* Accounted, 64-byte aligned memory (large blocks start on a huge page). `what` completes "... for WHAT" in the message. */
bpdq_status cpu_allocate(cpu_backend *backend, uint64_t bytes, const char *what, uint8_t **memory, bpdq_error *error);
void cpu_release(cpu_backend *backend, uint8_t *memory, uint64_t bytes);

bpdq_status cpu_weight_create(bpdq_backend *backend, const bpdq_weight_desc *desc, bpdq_weight **weight, bpdq_error *error);
bpdq_status cpu_weight_random(bpdq_backend *backend, const bpdq_weight_desc *desc, uint64_t seed, bpdq_weight **weight, bpdq_error *error);
void cpu_weight_destroy(bpdq_backend *backend, bpdq_weight *weight);
uint64_t cpu_weight_bytes(const bpdq_weight *weight);

/* Columns of a matrix row as products want it: whole groups and whole head blocks. */
int64_t cpu_padded_columns(const bpdq_weight *weight);
/* Pointers to up to `wanted` stored rows of a dense matrix from `row` on that lie in one part; returns how many. */
int cpu_dense_rows(const bpdq_weight *weight, int64_t row, int wanted, const uint8_t **rows, bpdq_dtype *dtype);

/* Adds the 8-bit copy to a dense matrix. */
bpdq_status cpu_head8_create(cpu_backend *backend, const char *name, bpdq_weight *weight, bpdq_error *error);
/* values[count] of one row from `first_column`, a multiple of CPU_HEAD_BLOCK. */
void cpu_head8_values(const bpdq_weight *weight, int64_t row, int64_t first_column, int64_t count, float *values);

bpdq_status cpu_state_create(bpdq_backend *backend, const bpdq_tensor_desc *tensors, size_t count, bpdq_state **state, bpdq_error *error);
void cpu_state_destroy(bpdq_backend *backend, bpdq_state *state);
bpdq_status cpu_tensor_write(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, const void *data, bpdq_error *error);
bpdq_status cpu_tensor_read(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, void *data, bpdq_error *error);

bpdq_status cpu_compile(bpdq_backend *backend, bpdq_state *state, const bpdq_program *program, bpdq_executable **executable,
                        bpdq_error *error);
void cpu_executable_destroy(bpdq_backend *backend, bpdq_executable *executable);
bpdq_status cpu_run(bpdq_executable *executable, const bpdq_run *run, bpdq_error *error);

/* Checked operations, run on rows 0..run->tokens-1. */
void cpu_run_linear(bpdq_executable *executable, const bpdq_op_linear *op, const bpdq_run *run);
void cpu_run_rope_cache(bpdq_executable *executable, const bpdq_op_rope_cache *op, const bpdq_run *run);
void cpu_run_attention(bpdq_executable *executable, const bpdq_op_attention *op, const bpdq_run *run);
void cpu_run_top_k(bpdq_executable *executable, const bpdq_op_top_k *op, const bpdq_run *run);

/* out[width] = transform of one input row; `out` may be `input`. */
void cpu_transform_row(const cpu_kernels *kernels, const bpdq_transform *transform, const float *input, int64_t width, float *out);

float cpu_rms_factor(const cpu_kernels *kernels, const bpdq_transform *transform, const float *input, int64_t width);

/* What an operation needs of the scratch memory, known to the file that runs it: each call raises the maxima in `needs`. */
typedef struct cpu_needs {
  uint64_t rows_floats, table_columns, per_thread_bytes, partial_floats;
} cpu_needs;

static inline void cpu_raise(uint64_t *need, uint64_t value) {
  if (value > *need) *need = value;
}

void cpu_linear_needs(const cpu_backend *backend, const bpdq_op_linear *op, int64_t max_tokens, cpu_needs *needs);
void cpu_rope_cache_needs(const bpdq_op_rope_cache *op, cpu_needs *needs);
void cpu_attention_needs(const bpdq_op_attention *op, int64_t max_tokens, cpu_needs *needs);
void cpu_top_k_needs(const cpu_backend *backend, const bpdq_op_top_k *op, cpu_needs *needs);

#endif
