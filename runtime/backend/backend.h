/* The dispatch layer: what every backend offers.
 *
 * A backend's private struct starts with a bpdq_backend. One instance drives one device. A backend never sees a checkpoint file or
 * a model: it gets matrices, vectors, tensors and programs.
 *
 * Threads: weight_* calls come from one thread at a time while a model loads. After that, states and their executables are
 * used by one thread each, different states from different threads at once; the backend serializes its device where it must.
 */
#ifndef BPDQ_BACKEND_BACKEND_H
#define BPDQ_BACKEND_BACKEND_H

#include "backend/program.h"
#include "core/log.h"
#include "core/status.h"

typedef struct bpdq_state bpdq_state;           /* the tensors of one session on a device */
typedef struct bpdq_executable bpdq_executable; /* a compiled program bound to a state */

typedef enum bpdq_dtype { BPDQ_F32, BPDQ_F16, BPDQ_BF16, BPDQ_I32 } bpdq_dtype;

static inline size_t bpdq_dtype_size(bpdq_dtype type) { return type == BPDQ_F32 || type == BPDQ_I32 ? 4 : 2; }

typedef enum bpdq_weight_kind {
  BPDQ_WEIGHT_VECTOR, /* [N] (norms, biases): kept as f32 */
  BPDQ_WEIGHT_DENSE,  /* [N, K] row-major */
  BPDQ_WEIGHT_PLANES  /* [N, K] as bit-planes (docs/format.md section 2) */
} bpdq_weight_kind;

/* One matrix or vector in checkpoint layout. A weight may be stacked from several parts along N (q, k and v in one product): parts
 * agree in kind, K, planes and group; dtypes may differ. Pointers may be unaligned (safetensors offsets are). */
typedef struct bpdq_weight_part {
  int64_t rows;             /* N of this part */
  const void *data;         /* DENSE: [N, K]; VECTOR: [N]; PLANES: B, int32 [ceil(K_pad/32), planes, N], K_pad = groups * group */
  bpdq_dtype dtype;         /* of data (BPDQ_I32 for planes) */
  const void *coefficients; /* PLANES: c [groups, planes + 1, N] */
  bpdq_dtype coefficient_dtype;
} bpdq_weight_part;

/* From so many weights on, every GPU backend stores a head (is_head) in 8 bits; what is estimated before one is chosen goes by it. */
#define BPDQ_HEAD_ELEMENTS ((int64_t)1 << 26)

typedef struct bpdq_weight_desc {
  bpdq_weight_kind kind;
  const char *name;  /* for messages */
  int64_t columns;   /* K; 1 for vectors */
  int planes, group; /* PLANES: planes 1..8; group 32..256, a multiple of 32; groups = ceil(K / group) */
  const bpdq_weight_part *parts;
  int part_count;
  bool data_outlives_weight; /* the parts' memory stays valid until weight_destroy: the CPU backend may then read dense rows in place */
  bool is_head;              /* the output head: a backend may store it in 8 bits where that is measured near lossless */
} bpdq_weight_desc;

typedef struct bpdq_backend_options {
  int device;               /* index within the backend, or -1: the best */
  int threads;              /* CPU: 0 = one per core */
  uint64_t memory_cap;      /* bytes; 0: none */
  const char *cache_folder; /* NULL: nothing is cached on disk */
  const bpdq_vulkan_import *vulkan;
  bpdq_log log;
} bpdq_backend_options;

typedef struct bpdq_backend bpdq_backend;

struct bpdq_backend {
  bpdq_device_info info;
  int64_t prefill_tokens;               /* the number of rows per run that suits prefill best, e.g. 512 */
  int64_t batch_tokens;                 /* up to this many rows a run costs about as much as one row */
  bpdq_activations default_activations; /* fastest whose KL is within the limit (bpdq.h) */

  void (*destroy)(bpdq_backend *backend);

  /* Repacks one weight into device memory, streaming from the parts' memory with bounded host memory. May return before the copy is
   * complete only when data_outlives_weight; weights_flush waits. Verifies that coefficients are finite: BPDQ_ERROR_FORMAT names
   * desc->name otherwise. BPDQ_ERROR_MEMORY says how much was needed, what is in use and what to change. */
  bpdq_status (*weight_create)(bpdq_backend *backend, const bpdq_weight_desc *desc, bpdq_weight **weight, bpdq_error *error);
  void (*weight_destroy)(bpdq_backend *backend, bpdq_weight *weight); /* NULL is allowed */
  bpdq_status (*weights_flush)(bpdq_backend *backend, bpdq_error *error);
  /* Bytes of device memory that one pass over this weight reads. */
  uint64_t (*weight_bytes)(const bpdq_weight *weight);

  /* Optional (may be NULL): a weight of random bits and small random coefficients made on the device; parts carry rows only. */
  bpdq_status (*weight_random)(bpdq_backend *backend, const bpdq_weight_desc *desc, uint64_t seed, bpdq_weight **weight, bpdq_error *error);

  /* Allocates zeroed tensors. */
  bpdq_status (*state_create)(bpdq_backend *backend, const bpdq_tensor_desc *tensors, size_t count, bpdq_state **state, bpdq_error *error);
  void (*state_destroy)(bpdq_backend *backend, bpdq_state *state); /* NULL is allowed; executables bound to it are gone before */
  /* Host access to F32 and I32 tensors: `count` elements from element `first`. Ordered with runs on the same state; returns
   * when the host memory may be reused. */
  bpdq_status (*tensor_write)(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, const void *data, bpdq_error *error);
  bpdq_status (*tensor_read)(bpdq_state *state, bpdq_tensor tensor, int64_t first, int64_t count, void *data, bpdq_error *error);

  /* Compiles a program once. The ops array and names are copied where needed; weights and the state must outlive the executable. An
   * operation or shape that this backend cannot do is BPDQ_ERROR_UNSUPPORTED naming the operation. */
  bpdq_status (*compile)(bpdq_backend *backend, bpdq_state *state, const bpdq_program *program, bpdq_executable **executable,
                         bpdq_error *error);
  void (*executable_destroy)(bpdq_backend *backend, bpdq_executable *executable); /* NULL is allowed */
  /* Runs and waits. No allocation, no pipeline creation. */
  bpdq_status (*run)(bpdq_executable *executable, const bpdq_run *run, bpdq_error *error);

  /* Bytes of device memory allocated now and at the peak (CPU: weights repacked and states). */
  void (*memory)(bpdq_backend *backend, uint64_t *current, uint64_t *peak);
  /* Bytes/s of a plain read of a large buffer. */
  bpdq_status (*measure_bandwidth)(bpdq_backend *backend, double *bytes_per_second, bpdq_error *error);
};

/* ---- what each backend registers (registry.c holds the list) ---- */

typedef struct bpdq_backend_registration {
  const char *name; /* "cpu", "vulkan", "cuda" */
  /* Lists up to `capacity` devices, returns how many there are; 0 where the backend cannot start, saying why in one log line. */
  size_t (*list)(bpdq_device_info *devices, size_t capacity, const bpdq_log *log);
  bpdq_status (*create)(const bpdq_backend_options *options, bpdq_backend **backend, bpdq_error *error);
} bpdq_backend_registration;

extern const bpdq_backend_registration bpdq_cpu_registration;
extern const bpdq_backend_registration bpdq_vulkan_registration; /* built when BPDQ_HAVE_VULKAN */
extern const bpdq_backend_registration bpdq_cuda_registration;   /* built when BPDQ_HAVE_CUDA */

#endif
