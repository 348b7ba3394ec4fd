/* What the host code of the CUDA back end asks of its kernels. Each function launches on `stream` and returns the launch's error.
 *
 * All pointers are device memory. Matrices of a linear are [column in walk order][row], rows padded to `stride`, a multiple of
 * BPDQ_GPU_LANES: one thread is one row, so that a warp reads consecutive memory and rows never mix. */
#ifndef BPDQ_QUANTIZER_CUDA_KERNELS_H
#define BPDQ_QUANTIZER_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

enum {
  BPDQ_GPU_LANES = 32,       /* rows per thread block of the row kernels */
  BPDQ_GPU_SWEEP_BLOCK = 128 /* columns whose residual is computed at once */
};

#ifdef __cplusplus
extern "C" {
#endif

/* ---- statistics ---- */

/* sum[i, first + j] += product[i, j] for product [rows, width] and sum [rows, columns] with columns = first + width. */
cudaError_t bpdq_gpu_accumulate(const float *product, int64_t rows, int64_t first, int64_t width, double *sum, cudaStream_t stream);

/* sum[i] += values[i]. */
cudaError_t bpdq_gpu_add_sums(const double *values, int64_t count, double *sum, cudaStream_t stream);

/* out = scale * sum - subtract, float32 [rows, columns]; `symmetric`: from the upper triangle; `subtract` may be NULL. Sets *not_finite
 * where a value is not. */
cudaError_t bpdq_gpu_finish(const double *sum, int64_t rows, int64_t columns, double scale, bool symmetric, const float *subtract,
                            float *out, int *not_finite, cudaStream_t stream);

/* ---- inputs ---- */

/* H [K, K] in the order `order` [n] (walk position -> column; >= K is padding), off the diagonal; on it `diagonal` [n], by walk position.
 * `order` NULL: the natural one. */
typedef struct bpdq_gpu_gather_args {
  const float *hessian;
  const int32_t *order;
  const double *diagonal;
  int64_t columns, padded; /* K, n */
} bpdq_gpu_gather_args;

cudaError_t bpdq_gpu_gather_metric(const bpdq_gpu_gather_args *args, float *out, cudaStream_t stream);
/* `reversed`: position i of the output is walk position n - 1 - i. */
cudaError_t bpdq_gpu_gather_double(const bpdq_gpu_gather_args *args, bool reversed, double *out, cudaStream_t stream);

/* factor[i, j] = inverse_root[n - 1 - i, n - 1 - j] for j >= i, else 0. */
cudaError_t bpdq_gpu_take_factor(const double *inverse_root, int64_t n, float *factor, cudaStream_t stream);

/* For each group the inverse of its block of the factor, [groups, group, group] upper, and its column sums `ones` [groups, group]. */
cudaError_t bpdq_gpu_invert_local(const float *factor, int64_t n, int group, float *inverse, float *ones, cudaStream_t stream);

/* sums[i, q] = sum of metric[i, j] over the columns j of group q. */
cudaError_t bpdq_gpu_group_sums(const float *metric, int64_t n, int group, float *sums, cudaStream_t stream);

/* ---- the state of one linear ---- */

typedef struct bpdq_gpu_state {
  int64_t padded, stride, rows;
  int group, planes;
  float *coefficients; /* [groups in walk order][planes + 1][stride] */
  uint8_t *codes;      /* [padded][stride] */
} bpdq_gpu_state;

cudaError_t bpdq_gpu_widen(const float *in, int64_t count, double *out, cudaStream_t stream);

/* out[i, first + r] = weight[r, order[i]] + step[r, order[i]] for r < rows; 0 where order[i] >= columns or skip[i]. `step` may be NULL. */
cudaError_t bpdq_gpu_to_walk_order(const float *weight, const double *step, int64_t rows, int64_t columns, const int32_t *order,
                                   const uint8_t *skip, const bpdq_gpu_state *state, int64_t first, float *out, cudaStream_t stream);

/* out[i] = source[i] - Q[i]; with `order` at out[order[i]], padding left out. `zero`: Q = 0. */
cudaError_t bpdq_gpu_difference(const bpdq_gpu_state *state, const float *source, bool zero, const int32_t *order, int64_t columns,
                                float *out, cudaStream_t stream);

/* sums[row] += sum over count columns of error[j, row] * residual[j, row]; the residual is the sum of `splits` parts [count, stride]. */
cudaError_t bpdq_gpu_add_objective(const bpdq_gpu_state *state, const float *error, const float *residual, int splits, int64_t count,
                                   double *sums, cudaStream_t stream);

/* *total = sum of sums[0 .. rows - 1], in a fixed order. */
cudaError_t bpdq_gpu_total(const double *sums, int64_t rows, double *total, cudaStream_t stream);

/* better[row] = objective[row] < best[row], and takes it over. */
cudaError_t bpdq_gpu_mark_better(const double *objective, int64_t rows, double *best, uint8_t *better, cudaStream_t stream);
/* marked[row] = whether values[row] is finite. */
cudaError_t bpdq_gpu_mark_finite(const double *values, int64_t rows, uint8_t *marked, cudaStream_t stream);
/* Copies the rows with marked[row] != 0 from one state into another of the same shape. */
cudaError_t bpdq_gpu_copy_rows(const bpdq_gpu_state *from, const bpdq_gpu_state *to, const uint8_t *marked, cudaStream_t stream);

/* ---- walk and uniform grids ---- */

typedef struct bpdq_gpu_walk {
  bpdq_gpu_state state;
  const float *factor;  /* U [padded, padded] */
  const float *inverse; /* of this group [group, group] */
  const float *ones;    /* of this group [group] */
  int64_t begin;        /* first column of the group */
  int starts, iterations;
  float width[3];      /* of each start: 0 for the most significant planes, else of the uniform grid */
  double alpha;        /* ridge of the fit */
  bool best_per_row;   /* of all iterates; else the best for all rows together */
  float *current;      /* [padded][stride]: the target with the errors so far compensated */
  float *errors;       /* [group][stride]: out */
  float *goal;         /* [group][stride]: the group's target in the metric of the factor */
  float *projected;    /* [starts][planes][group][stride] */
  float *scores;       /* [starts * iterations][stride] */
  uint8_t *codes;      /* [starts * iterations][group][stride] */
  float *coefficients; /* [starts * iterations][planes + 1][stride] */
  double *totals;      /* [starts * iterations] */
} bpdq_gpu_walk;

/* Refines one group from every start, takes the best iterate and leaves its errors. */
cudaError_t bpdq_gpu_walk_group(const bpdq_gpu_walk *walk, cudaStream_t stream);

/* A uniform grid for one group; with `compensate` the errors as the walk does. Reads state, factor, begin, current, errors. */
cudaError_t bpdq_gpu_uniform_group(const bpdq_gpu_walk *walk, bool compensate, cudaStream_t stream);

/* ---- sweep ---- */

/* Sweeps columns begin .. begin + count - 1 of all rows; residual as in bpdq_gpu_add_objective. Updates codes and error = T - Q. */
cudaError_t bpdq_gpu_sweep_block(const bpdq_gpu_state *state, const float *metric, const float *residual, int splits, int64_t begin,
                                 int64_t count, float *error, unsigned long long *changed, cudaStream_t stream);

/* ---- refit: P = groups * (planes + 1) unknowns per row ---- */

typedef struct bpdq_gpu_refit {
  bpdq_gpu_state state;
  int64_t first, count; /* this chunk of rows */
  int64_t unknowns;     /* P */
  float *right;         /* D^T R [P][stride], all rows */
  float *design;        /* bits as 0 and 1 [padded][planes][count] */
  float *product;       /* Hd D of one group [padded - its first column][planes][count] */
  const float *sums;    /* [padded][groups] */
  float *systems;       /* [count][P + 1][P]: lower triangle of the Gram matrix, then the right-hand side as a last row */
  float *ridges;        /* [count]; NAN where the factorisation failed */
} bpdq_gpu_refit;

/* right += D^T R for the columns begin .. begin + columns - 1. */
cudaError_t bpdq_gpu_add_right(const bpdq_gpu_refit *refit, const float *residual, int splits, int64_t begin, int64_t columns,
                               cudaStream_t stream);
cudaError_t bpdq_gpu_design(const bpdq_gpu_refit *refit, cudaStream_t stream);
/* The block column of `group` of all Gram matrices of the chunk. */
cudaError_t bpdq_gpu_gram_column(const bpdq_gpu_refit *refit, int64_t group, cudaStream_t stream);
/* Adds the ridge, factorises, solves with rounding, and takes the coefficients where the objective falls. */
cudaError_t bpdq_gpu_solve(const bpdq_gpu_refit *refit, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
