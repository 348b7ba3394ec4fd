/* The CUDA back end's private structs. As on the CPU, matrices of a linear are [column in walk order][row]; see kernels.h.
 *
 * Everything of one algebra runs on one stream. Memory comes from the device's stream-ordered pool, so that the scratch of one step is
 * the next one's without a system call.
 *
 * What is alive for K columns and N rows, in units of K^2 bytes: while calibration runs 8 for H, 8 for C, and 8 N K for R; once it is
 * finished 4, 4 and 4 N K; inputs_create adds 8 for a moment and 4 for the factor; work_create 8 for a moment; the first sweep 4 for the
 * metric. So at most 20 K^2 bytes, 17.5 GB for K = 29568, plus what a linear needs (see struct bpdq_work). */
#ifndef BPDQ_QUANTIZER_CUDA_GPU_ALGEBRA_H
#define BPDQ_QUANTIZER_CUDA_GPU_ALGEBRA_H

#include <cuda_runtime_api.h>

#include "kernels.h"
#include "libraries.h"
#include "linalg.h"
#include "staging.h"

typedef struct gpu_algebra {
  bpdq_algebra base;
  int device, multiprocessors;
  cudaStream_t stream;
  cudaMemPool_t pool;
  bpdq_gpu_libraries libraries;
  cublasHandle_t blas;
  cusolverDnHandle_t solver;
  bpdq_gpu_staging staging;
  int *flag;             /* device: one int that kernels set */
  uint64_t memory_limit; /* bytes that may be taken of the device's memory; 0: all */
} gpu_algebra;

struct bpdq_statistics {
  const char *name;
  int64_t columns, residual_rows, tokens;
  bool whole_target;                              /* R holds W C + R */
  double *hessian_sum, *cross_sum, *residual_sum; /* until finished: [K, K] upper strips, [K, K], [residual_rows, K] */
  float *hessian;                                 /* H [K, K] */
  float *cross;                                   /* C - H [K, K], or NULL */
  float *residual;                                /* R [residual_rows, K], or NULL */
  double *diagonal;                               /* host: of H [K] */
};

struct bpdq_inputs {
  const bpdq_statistics *statistics;
  int64_t columns, padded, groups; /* K, groups * group, ceil(K / group) */
  int group;
  bool reference_dead, any_dead;
  double lambda;      /* absolute */
  int32_t *order;     /* host [padded]: walk position -> column; padding is >= columns */
  double *diagonal;   /* host [padded]: of H by walk position, with the substitutes for dead and padded columns */
  bool *damped;       /* host [padded]: whether damping is added at this walk position */
  int32_t *gpu_order; /* device: the same as order */
  uint8_t *gpu_skip;  /* device [padded]: this position's target is 0; NULL where reference_dead is off */
  float *factor;      /* device: U [padded, padded] upper, U^T U = (H + damping)^-1 in walk order; or NULL */
  float *inverse;     /* device: of the factor's diagonal blocks [groups, group, group] */
  float *ones;        /* device: their column sums [groups, group] */
  float *metric;      /* device: Hd [padded, padded] in walk order; NULL until a sweep or refit asks for it */
  float *group_sums;  /* device: of the metric [padded, groups] */
};

/* Device memory of N rows and K columns in bytes: 4 N K each for target and error (and weight, where T is not W), N K for codes. */
struct bpdq_work {
  const bpdq_inputs *inputs;
  const char *name;
  bpdq_gpu_state state, best; /* best: of keep_best; its arrays are NULL until the first call */
  float *weight;              /* W [padded][stride] in walk order; may be the same as target */
  float *target;              /* T [padded][stride] in walk order */
  float *error;               /* T - Q [padded][stride]; valid when error_valid */
  bool error_valid;
  float *residual;        /* Hd error of one block of columns: [splits][BPDQ_GPU_SWEEP_BLOCK][stride] */
  int splits;             /* a block's product is cut along K into so many, to keep the device busy where rows are few */
  double *objective;      /* [stride] */
  double *best_objective; /* [stride], NULL until keep_best */
  uint8_t *better;        /* [stride] */
};

/* ---- algebra.c ---- */

/* BPDQ_ERROR_MEMORY or BPDQ_ERROR_DEVICE naming `what`, the linear that is worked on. */
bpdq_status bpdq_gpu_check(cudaError_t result, const char *what, bpdq_error *error);
bpdq_status bpdq_gpu_check_blas(cublasStatus_t result, const char *what, bpdq_error *error);
bpdq_status bpdq_gpu_check_solver(cusolverStatus_t result, const char *what, bpdq_error *error);

/* *memory = count * size bytes of device memory, ordered on the algebra's stream. Free with bpdq_gpu_free; NULL is allowed there. */
bpdq_status bpdq_gpu_allocate(gpu_algebra *gpu, int64_t count, size_t size, const char *what, void *memory, bpdq_error *error);
void bpdq_gpu_free(gpu_algebra *gpu, void *memory);
/* Bytes that allocations may still take, and bytes of the whole device, both within the limit. */
uint64_t bpdq_gpu_available(gpu_algebra *gpu);
uint64_t bpdq_gpu_memory(gpu_algebra *gpu);

bpdq_status bpdq_gpu_upload(gpu_algebra *gpu, void *to, const void *from, int64_t count, size_t size, const char *what, bpdq_error *error);
/* Waits for it. */
bpdq_status bpdq_gpu_download(gpu_algebra *gpu, void *to, const void *from, int64_t count, size_t size, const char *what,
                              bpdq_error *error);
bpdq_status bpdq_gpu_clear(gpu_algebra *gpu, void *memory, int64_t count, size_t size, const char *what, bpdq_error *error);

/* ---- the entries of the interface, and what they share, by file ---- */

bpdq_status bpdq_gpu_streams_create(bpdq_algebra *algebra, const bpdq_streams_desc *desc, bpdq_streams **streams, bpdq_error *error);

bpdq_status bpdq_gpu_statistics_create(bpdq_algebra *algebra, const bpdq_statistics_desc *desc, bpdq_statistics **statistics,
                                       bpdq_error *error);
void bpdq_gpu_statistics_destroy(bpdq_algebra *algebra, bpdq_statistics *statistics);
bpdq_status bpdq_gpu_statistics_add(bpdq_algebra *algebra, bpdq_statistics *statistics, const float *x, const float *dense_x,
                                    const float *residual, int64_t tokens, bpdq_error *error);
/* The same for inputs in device memory, ordered on the algebra's stream. */
bpdq_status bpdq_gpu_statistics_add_device(gpu_algebra *gpu, bpdq_statistics *statistics, const float *x, const float *dense_x,
                                           const float *residual, int64_t tokens, bpdq_error *error);
bpdq_status bpdq_gpu_statistics_set(bpdq_algebra *algebra, bpdq_statistics *statistics, const float *hessian, const float *cross,
                                    const float *residual, bpdq_error *error);
bpdq_status bpdq_gpu_statistics_finish(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_error *error);
bpdq_status bpdq_gpu_statistics_read(bpdq_algebra *algebra, const bpdq_statistics *statistics, float *hessian, float *cross,
                                     float *residual, bpdq_error *error);
bpdq_status bpdq_gpu_statistics_merge(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_algebra *other, const bpdq_statistics *from,
                                      bpdq_error *error);
bpdq_status bpdq_gpu_statistics_copy(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_algebra *other, const bpdq_statistics *from,
                                     bpdq_error *error);

bpdq_status bpdq_gpu_inputs_create(bpdq_algebra *algebra, const bpdq_statistics *statistics, const bpdq_inputs_desc *desc,
                                   bpdq_inputs **inputs, bpdq_inputs_info *info, bpdq_error *error);
void bpdq_gpu_inputs_destroy(bpdq_algebra *algebra, bpdq_inputs *inputs);
/* Makes inputs->metric and inputs->group_sums. */
bpdq_status bpdq_gpu_need_metric(gpu_algebra *gpu, bpdq_inputs *inputs, bpdq_error *error);
/* Cholesky of the float64 matrix [n, n] in place: row-major lower L with L L^T = matrix. *definite says whether there is one. */
bpdq_status bpdq_gpu_cholesky(gpu_algebra *gpu, double *matrix, int64_t n, const char *what, bool *definite, bpdq_error *error);

bpdq_status bpdq_gpu_work_create(bpdq_algebra *algebra, const bpdq_inputs *inputs, const bpdq_work_desc *desc, bpdq_work **work,
                                 bpdq_error *error);
void bpdq_gpu_work_destroy(bpdq_algebra *algebra, bpdq_work *work);
bpdq_status bpdq_gpu_result(bpdq_algebra *algebra, bpdq_work *work, bpdq_layer_result *result, bpdq_error *error);
/* T (and W where it differs) of a new work. */
bpdq_status bpdq_gpu_find_target(gpu_algebra *gpu, bpdq_work *work, const bpdq_work_desc *desc, bpdq_error *error);

bpdq_status bpdq_gpu_keep_best(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error);
bpdq_status bpdq_gpu_restore_best(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error);
bpdq_status bpdq_gpu_objective(bpdq_algebra *algebra, bpdq_work *work, double *against_weight, double *against_target, double *of_zero,
                               bpdq_error *error);

bpdq_status bpdq_gpu_uniform(bpdq_algebra *algebra, bpdq_work *work, bool compensate, bpdq_error *error);
bpdq_status bpdq_gpu_walk_all(bpdq_algebra *algebra, bpdq_work *work, const bpdq_walk_options *options, bpdq_error *error);

bpdq_status bpdq_gpu_sweep(bpdq_algebra *algebra, bpdq_work *work, int64_t *changed, bpdq_error *error);
/* Brings work->error up to date, and inputs->metric into being. */
bpdq_status bpdq_gpu_need_error(gpu_algebra *gpu, bpdq_work *work, bpdq_error *error);
/* work->residual = rows begin .. begin + count - 1 of matrix [n, n] times work->error [n][stride], in *splits parts [count][stride]. */
bpdq_status bpdq_gpu_residual_block(gpu_algebra *gpu, bpdq_work *work, const float *matrix, int64_t n, int64_t begin, int64_t count,
                                    int *splits, bpdq_error *error);

bpdq_status bpdq_gpu_refit_all(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error);

#endif
