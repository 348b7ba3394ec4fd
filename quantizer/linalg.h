/* The linear algebra of the quantizer behind one interface, so that each algorithm is written once: a struct of function pointers, the
 * first member of each back end's private struct. Matrices live in the back end's own memory (host or device) inside three objects:
 *
 *   bpdq_statistics   what calibration says about the inputs x of one or several linears (H, C, R)
 *   bpdq_inputs       H made ready for one group size: walk order, damped factor, metric
 *   bpdq_work         one linear while its planes and coefficients are found
 *
 * Rows of a linear are independent of each other in every operation but the reference's choice of one iterate for a whole group.
 */
#ifndef BPDQ_QUANTIZER_LINALG_H
#define BPDQ_QUANTIZER_LINALG_H

#include "core/log.h"
#include "core/status.h"

#define BPDQ_MAX_PLANES 8

typedef struct bpdq_streams bpdq_streams; /* of calibration windows, and their description: capture.h */
typedef struct bpdq_streams_desc bpdq_streams_desc;
typedef struct bpdq_statistics bpdq_statistics;
typedef struct bpdq_inputs bpdq_inputs;
typedef struct bpdq_work bpdq_work;

typedef struct bpdq_statistics_desc {
  const char *name;      /* for messages: the first linear that reads these inputs; outlives the statistics */
  int64_t columns;       /* K */
  bool cross;            /* also C, the cross covariance with the dense stream */
  int64_t residual_rows; /* N of R, or 0 */
  bool whole_target; /* R is fed with dense outputs W x_dense as well: it holds W C + R, and C is not needed. For a linear that alone reads
                        its inputs and has fewer rows than columns this is much less work than C */
} bpdq_statistics_desc;

/* How H becomes the factor of a walk and the metric of the sweeps. */
typedef struct bpdq_inputs_desc {
  int group;
  double damping;        /* share of mean diag H for the factor; raised in steps of 0.01 until the factorisation succeeds */
  double target_damping; /* lambda of target and metric as a share of mean diag H */
  bool factor, metric;   /* what will be used: the factor by walks, the metric by sweeps, refits and keep_best */
  bool reference_dead;   /* dead and padded columns get H_jj = 1 and W = 0 (docs/format.md section 3); else they get no say */
} bpdq_inputs_desc;

typedef struct bpdq_inputs_info {
  double damping; /* the share that was needed */
  int64_t dead_columns;
} bpdq_inputs_info;

typedef struct bpdq_work_desc {
  const char *name;  /* of the linear, for messages; outlives the work */
  int64_t rows;      /* N */
  int64_t first_row; /* of these rows in R; not 0 where several works share one linear */
  int planes;
  const float *weight; /* host, f32 [N, K]; outlives the work */
  bool use_cross;      /* T from C, or from a whole_target R */
  bool use_residual;   /* T from R */
} bpdq_work_desc;

/* Where the refinement of a group starts: bits of several, all tried. */
enum {
  BPDQ_START_MSB = 1,    /* the most significant planes of an 8-bit code */
  BPDQ_START_NARROW = 2, /* a uniform grid 0.8 times as wide as the best one for a normal distribution */
  BPDQ_START_WIDE = 4    /* the same, 1.15 times */
};

typedef struct bpdq_walk_options {
  unsigned starts;
  int iterations;
  double alpha;      /* ridge of the coefficient fit */
  bool best_per_row; /* keep the best iterate of each row; else of each group over all rows */
} bpdq_walk_options;

/* The quantized layer in the host's memory and the natural column order. */
typedef struct bpdq_layer_result {
  int64_t rows, columns, groups; /* N, K, ceil(K / group) */
  int planes, group;
  float *coefficients; /* [groups, planes + 1, N], each exactly a bf16 value */
  uint8_t *codes;      /* [groups * group, N]: bit p is plane p; padded columns are 0 */
} bpdq_layer_result;

typedef struct bpdq_algebra bpdq_algebra;

struct bpdq_algebra {
  const char *name;
  void (*destroy)(bpdq_algebra *algebra);
  /* Until everything asked for so far is done, for clocks; NULL where calls return when they are done. */
  void (*wait)(bpdq_algebra *algebra);
  /* Bytes that may be taken of the device's memory (0: all), and the most that were taken so far; NULL where all memory is the host's. */
  void (*limit_memory)(bpdq_algebra *algebra, uint64_t bytes);
  uint64_t (*peak_memory)(bpdq_algebra *algebra);

  /* ---- residual streams: at the embeddings of the windows in the description. The algebra outlives them ---- */
  bpdq_status (*streams_create)(bpdq_algebra *algebra, const bpdq_streams_desc *desc, bpdq_streams **streams, bpdq_error *error);

  /* ---- statistics: x and dense_x are host f32 [tokens, K], residual is host f32 [tokens, residual_rows] (dense minus quantized) ---- */
  bpdq_status (*statistics_create)(bpdq_algebra *algebra, const bpdq_statistics_desc *desc, bpdq_statistics **statistics,
                                   bpdq_error *error);
  void (*statistics_destroy)(bpdq_algebra *algebra, bpdq_statistics *statistics); /* NULL is allowed */
  bpdq_status (*statistics_add)(bpdq_algebra *algebra, bpdq_statistics *statistics, const float *x, const float *dense_x,
                                const float *residual, int64_t tokens, bpdq_error *error);
  /* Takes a finished H (host f32 [K, K]), and C [K, K] and R [rows, K] where the description asks for them. */
  bpdq_status (*statistics_set)(bpdq_algebra *algebra, bpdq_statistics *statistics, const float *hessian, const float *cross,
                                const float *residual, bpdq_error *error);
  /* Scales by 2/tokens and checks: BPDQ_ERROR_FORMAT naming the layer when something is not finite. Once, before inputs_create. */
  bpdq_status (*statistics_finish)(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_error *error);
  /* For algebras of one kind that share the tokens (multi/). `from` are statistics of the same description in the algebra `other`; nothing
   * else uses that one meanwhile, but for other copies. merge: adds its sums, neither being finished. copy: makes `statistics` the same as
   * the finished `from`, whatever they have summed. */
  bpdq_status (*statistics_merge)(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_algebra *other, const bpdq_statistics *from,
                                  bpdq_error *error);
  bpdq_status (*statistics_copy)(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_algebra *other, const bpdq_statistics *from,
                                 bpdq_error *error);

  /* Finished H and C [K, K] and R [residual_rows, K] as host f32, for tests and diagnosis; NULL: not wanted. */
  bpdq_status (*statistics_read)(bpdq_algebra *algebra, const bpdq_statistics *statistics, float *hessian, float *cross, float *residual,
                                 bpdq_error *error);

  /* ---- inputs: keep reading the statistics, which outlive them ---- */
  bpdq_status (*inputs_create)(bpdq_algebra *algebra, const bpdq_statistics *statistics, const bpdq_inputs_desc *desc, bpdq_inputs **inputs,
                               bpdq_inputs_info *info, bpdq_error *error);
  void (*inputs_destroy)(bpdq_algebra *algebra, bpdq_inputs *inputs); /* NULL is allowed */

  /* ---- work: one linear ---- */
  bpdq_status (*work_create)(bpdq_algebra *algebra, const bpdq_inputs *inputs, const bpdq_work_desc *desc, bpdq_work **work,
                             bpdq_error *error);
  void (*work_destroy)(bpdq_algebra *algebra, bpdq_work *work); /* NULL is allowed */
  int64_t (*weights)(const bpdq_work *work);                    /* N * K */

  /* Uniform grid of 2^planes levels per row and group, found where the group starts. With `compensate` GPTQ, else round to nearest. */
  bpdq_status (*uniform)(bpdq_algebra *algebra, bpdq_work *work, bool compensate, bpdq_error *error);
  /* The variable grid of docs/format.md section 3. Leaves coefficients rounded to bf16. */
  bpdq_status (*walk)(bpdq_algebra *algebra, bpdq_work *work, const bpdq_walk_options *options, bpdq_error *error);
  /* One sweep of coordinate descent over all columns in the metric Hd = H + lambda I towards T; *changed weights took another level. */
  bpdq_status (*sweep)(bpdq_algebra *algebra, bpdq_work *work, int64_t *changed, bpdq_error *error);
  /* Least squares over all coefficients of each row in the same metric, rounded to bf16 one by one with the later ones making up for
   * the earlier ones' rounding. A row keeps its old coefficients unless the objective falls. */
  bpdq_status (*refit)(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error);
  /* Per row, remembers the state with the least (T - Q) Hd (T - Q)^T seen by this call; `restore` makes it the current one again. */
  bpdq_status (*keep_best)(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error);
  bpdq_status (*restore_best)(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error);

  /* tr((W - Q) H (W - Q)^T) in float64 with the undamped H, against W, against T, and for Q = 0; NULL: not wanted. */
  bpdq_status (*objective)(bpdq_algebra *algebra, bpdq_work *work, double *against_weight, double *against_target, double *of_zero,
                           bpdq_error *error);
  /* Allocates the result's arrays; free with bpdq_layer_result_free. */
  bpdq_status (*result)(bpdq_algebra *algebra, bpdq_work *work, bpdq_layer_result *result, bpdq_error *error);
};

/* OpenBLAS and LAPACK on all cores. threads 0: one per core. Results do not depend on the number of threads. */
bpdq_status bpdq_cpu_algebra_create(int threads, bpdq_algebra **algebra, bpdq_error *error);

/* cuBLAS, cuSOLVER and own kernels on CUDA device number `device`. BPDQ_ERROR_DEVICE ("no usable CUDA device") where there is none or
 * the toolkit's libraries cannot be loaded. Only in builds with CUDA: use bpdq_algebra_create. */
bpdq_status bpdq_cuda_algebra_create(int device, bpdq_algebra **algebra, bpdq_error *error);

/* By name: "cpu" (also for NULL), "cuda" (device 0) or "cuda:N", or several of one kind that share the work, joined by '+':
 * "cuda:0+cuda:1" (multi/multi.h). `threads` is for the CPU; "cpu+cpu" splits them. BPDQ_ERROR_UNSUPPORTED where CUDA was left out of the
 * build. */
bpdq_status bpdq_algebra_create(const char *name, int threads, bpdq_algebra **algebra, bpdq_error *error);

void bpdq_layer_result_free(bpdq_layer_result *result); /* safe on a zeroed struct */

#endif
