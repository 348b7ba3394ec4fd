/* The CUDA backend's own structs. Files: backend.c (registration, devices), memory.c (accounting), staging.c (host to device), weights.c,
 * state.c (tensors), compile.c (programs as graphs), linear.c (which kernel a product takes); kernels/ holds the device code. */
#ifndef BPDQ_CUDA_INTERNAL_H
#define BPDQ_CUDA_INTERNAL_H

#include "backend/backend.h"
#include "backend/staging.h"
#include "core/platform.h"
#include "kernels.h"
#include "layout.h"

#define STAGING_SLOTS 4
#define STAGING_SLOT_BYTES ((size_t)8 << 20)
#define CUDA_PENDING_BYTES ((size_t)128 << 10) /* up to this many a write waits for the next run, which takes it along */

/* One slot of the upload ring: pinned host memory and device memory of the same size. */
typedef struct cuda_slot {
  void *host, *device;
  cudaEvent_t free; /* recorded after the last kernel that reads the slot */
} cuda_slot;

typedef struct cuda_staging {
  cuda_slot slots[STAGING_SLOTS];
  int next;
  uint64_t charged;    /* device bytes accounted for the slots; 0 while they are not allocated */
  cudaStream_t stream; /* all uploads */
  uint32_t *word;      /* device: what a first kernel and the measurement of bandwidth write */
} cuda_staging;

typedef struct cuda_backend {
  bpdq_backend base;
  int device;
  bpdq_cuda_queue queue; /* stream is NULL: each state fills in its own */
  bpdq_log log;
  uint64_t memory_cap, memory_current, memory_peak;
  bpdq_mutex *mutex; /* memory counters */
  bpdq_pool *pool;   /* copies into pinned memory */
  cuda_staging staging;
} cuda_backend;

struct bpdq_weight {
  bpdq_weight_kind kind;
  int64_t rows, columns;
  void *memory;
  uint64_t charged, bytes; /* accounted; read by one pass */
  bpdq_cuda_planes planes;
  bpdq_cuda_dense dense;
};

typedef struct cuda_tensor {
  bpdq_tensor_desc desc;
  void *data;
  uint64_t bytes, charged;
  bpdq_cuda_cache cache; /* KV */
  /* Mapped host memory that the sampling kernels write their results to, beside `data`; NULL where nobody asked for it. */
  void *mirror;
  bool mirror_is_current;
} cuda_tensor;

struct bpdq_state {
  cuda_backend *backend;
  cudaStream_t stream;
  cuda_tensor *tensors;
  size_t count;
  char *pinned; /* for small transfers */
  size_t pinned_used;
  /* A small write at the start of `pinned` that is not on its way yet: the next run takes it along with its scalars, which spares a
   * transfer of its own between two tokens. */
  struct pending_write {
    void *target;
    size_t bytes;
  } pending;
};

struct bpdq_executable {
  cuda_backend *backend;
  bpdq_state *state;
  bpdq_op *ops;
  size_t op_count;
  bpdq_activations activations;
  cudaGraphExec_t graph; /* NULL where the driver refuses the capture: each run then launches the kernels itself */
  int64_t max_tokens;
  int64_t context, cache_rows; /* the smallest of the caches used; INT64_MAX without attention */
  int32_t *host_run;           /* mapped host memory: bpdq_cuda_run_header, positions, sequences */
  size_t taken_bytes;          /* of a pending write that a run can take along */
  bpdq_cuda_run run;
  void *memory; /* run scalars and work arrays */
  uint64_t charged;
  struct work_space {
    char *prepared, *gemm, *attention, *sums, *top_k; /* attention keeps counters that are zero between runs, so its sums lie elsewhere */
    uint64_t prepared_bytes, gemm_bytes, attention_bytes, sums_bytes, top_k_bytes;
  } work;
  bpdq_tensor *mirrored; /* tensors whose mirror each run fills */
  size_t mirrored_count;
};

/* ---- memory.c ---- */

/* Device memory under the cap; `what` names it in messages. *charged is what to hand back. */
bpdq_status cuda_allocate(cuda_backend *backend, uint64_t bytes, const char *what, void **memory, uint64_t *charged, bpdq_error *error);
void cuda_release(cuda_backend *backend, void *memory, uint64_t charged);
/* BPDQ_OK for cudaSuccess; else BPDQ_ERROR_DEVICE (or _MEMORY) with what was being done. */
bpdq_status cuda_check(cudaError_t result, bpdq_error *error, const char *doing);

/* ---- staging.c ---- */

bpdq_status cuda_staging_create(cuda_backend *backend, bpdq_error *error);
void cuda_staging_destroy(cuda_backend *backend);
/* The next slot of the ring, once its last use is over. Put transfers from slot->host and kernels that read slot->device on the upload
 * stream, then call cuda_staging_done. */
bpdq_status cuda_staging_next(cuda_backend *backend, cuda_slot **slot, bpdq_error *error);
/* The same with `rows` rows of `row_bytes`, `pitch` bytes apart in host memory, packed into the slot and on their way to the device. */
bpdq_status cuda_stage(cuda_backend *backend, const void *source, size_t rows, size_t row_bytes, size_t pitch, cuda_slot **slot,
                       bpdq_error *error);
bpdq_status cuda_staging_done(cuda_backend *backend, bpdq_error *error);
/* Waits for all uploads and gives the slots' device memory back. */
bpdq_status cuda_staging_flush(cuda_backend *backend, bpdq_error *error);

/* ---- weights.c ---- */

bpdq_status cuda_weight_create(bpdq_backend *base, const bpdq_weight_desc *desc, bpdq_weight **weight, bpdq_error *error);
bpdq_status cuda_weight_random(bpdq_backend *base, const bpdq_weight_desc *desc, uint64_t seed, bpdq_weight **weight, bpdq_error *error);
void cuda_weight_destroy(bpdq_backend *base, bpdq_weight *weight);
uint64_t cuda_weight_bytes(const bpdq_weight *weight);

/* ---- state.c ---- */

bpdq_status cuda_state_create(bpdq_backend *base, const bpdq_tensor_desc *tensors, size_t count, bpdq_state **state, bpdq_error *error);
void cuda_state_destroy(bpdq_backend *base, bpdq_state *state);
bpdq_status cuda_tensor_write(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, const void *data, bpdq_error *error);
bpdq_status cuda_tensor_read(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, void *data, bpdq_error *error);
/* Puts a pending write on its way. */
bpdq_status cuda_flush_pending(bpdq_state *state, bpdq_error *error);
/* Gives the tensor mapped host memory for its contents. */
bpdq_status cuda_tensor_mirror(bpdq_state *state, bpdq_tensor tensor, bpdq_error *error);

/* ---- linear.c ---- */

/* Bytes of work memory that the transformed input of this product takes. */
uint64_t cuda_linear_work(const bpdq_op_linear *op, int64_t max_tokens, bpdq_activations activations);
/* Bytes of scratch, zeroed once, that the product itself takes. */
uint64_t cuda_linear_scratch(const bpdq_executable *executable, const bpdq_op_linear *op);
/* Puts the transform and the product on the queue. `attention`: what the input still is, where cuda_linear_merges says that the transform
 * can merge it; else NULL. */
cudaError_t cuda_linear_launch(const bpdq_cuda_queue *queue, const bpdq_executable *executable, const bpdq_op_linear *op,
                               const bpdq_cuda_attention_sums *attention);
bool cuda_linear_merges(const bpdq_executable *executable, const bpdq_op_linear *op, const bpdq_cuda_attention_sums *attention);
bpdq_cuda_prepare cuda_prepare_of(const bpdq_executable *executable, bpdq_tensor input, const bpdq_transform *transform, int64_t width,
                                  bool last);

/* ---- compile.c ---- */

bpdq_status cuda_compile(bpdq_backend *base, bpdq_state *state, const bpdq_program *program, bpdq_executable **executable,
                         bpdq_error *error);
void cuda_executable_destroy(bpdq_backend *base, bpdq_executable *executable);
bpdq_status cuda_run(bpdq_executable *executable, const bpdq_run *run, bpdq_error *error);

#endif
