/* The CPU back end's private structs. Matrices of a linear are stored transposed, [column][row], with rows padded to a multiple of the
 * lanes: a column of sixteen rows is one vector, and rows never mix. Columns are in walk order (see inputs.c) and padded to whole groups.
 *
 * BLAS runs single-threaded inside tasks of fixed size, so that results do not depend on the number of threads. */
#ifndef BPDQ_QUANTIZER_CPU_ALGEBRA_H
#define BPDQ_QUANTIZER_CPU_ALGEBRA_H

#include "core/threads.h"
#include "linalg.h"
#include "vector.h"

enum {
  BPDQ_LANES = 16,    /* rows per tile: one AVX-512 register, two of AVX2 */
  BPDQ_ROW_CHUNK = 64 /* rows per matrix product: enough to keep it compute-bound, few enough to share small layers */
};

/* One value of each row of a tile. Compilers split it where registers are narrower. */
typedef float bpdq_lanes __attribute__((vector_size(4 * BPDQ_LANES), aligned(4), may_alias));

typedef struct bpdq_cpu_algebra {
  bpdq_algebra base;
  bpdq_pool *pool;
  int threads;
} bpdq_cpu_algebra;

struct bpdq_statistics {
  const char *name;
  int64_t columns, residual_rows, tokens;
  double *hessian;  /* [K, K]; the upper triangle of tiles until finished */
  double *cross;    /* C = sum of dense_x x^T [K, K], or NULL */
  double *residual; /* R [residual_rows, K], or NULL */
  bool whole_target;
  float *scratch; /* [threads][BPDQ_STATISTICS_TILE^2] */
};

struct bpdq_inputs {
  const bpdq_statistics *statistics;
  int64_t columns, padded, groups; /* K, groups * group, ceil(K / group) */
  int group;
  bool reference_dead;
  double lambda;       /* absolute */
  int32_t *order;      /* [padded]: walk position -> column; padding is >= columns */
  uint8_t *dead;       /* [padded] by walk position: no calibration token excites this column, or it is padding */
  float *factor;       /* U [padded, padded] upper, U^T U = (H + damping)^-1 in walk order */
  float *metric;       /* Hd [padded, padded] in walk order */
  double *target_root; /* Cholesky factor of H + lambda I [K, K] for T; NULL until a work asks for it */
};

struct bpdq_work {
  const bpdq_inputs *inputs;
  const char *name;
  int64_t rows, stride; /* N, and N padded to the lanes */
  int planes;
  const float *weight; /* host [N, K] */
  float *target;       /* T [padded][stride] in walk order */
  float *coefficients; /* [groups in walk order][planes + 1][stride] */
  uint8_t *codes;      /* [padded][stride] */
  float *residual;     /* Hd (T - Q) [padded][stride]; valid when residual_valid */
  bool residual_valid;
  float *best_coefficients; /* keep_best: as coefficients; NULL until the first call */
  uint8_t *best_codes;
  double *best_objective; /* [stride] */
};

/* Value of a level code with the coefficients c[0..planes] of one row at distance `stride`. */
static inline float bpdq_level_value(const float *coefficients, int64_t stride, int planes, unsigned code) {
  float value = coefficients[planes * stride];
  for (int p = 0; p < planes; p++)
    if (code >> p & 1u) value += coefficients[p * stride];
  return value;
}

/* levels[code][lane] of one tile, coefficients at [plane * stride + lane]. */
void bpdq_tile_levels(const float *coefficients, int64_t stride, int planes, float (*levels)[BPDQ_LANES]);

/* Brings work->residual up to date: Hd (T - Q). */
bpdq_status bpdq_cpu_update_residual(bpdq_cpu_algebra *cpu, bpdq_work *work, bpdq_error *error);

/* The entries of the interface, by file. */
bpdq_status bpdq_cpu_statistics_create(bpdq_algebra *algebra, const bpdq_statistics_desc *desc, bpdq_statistics **statistics,
                                       bpdq_error *error);
void bpdq_cpu_statistics_destroy(bpdq_algebra *algebra, bpdq_statistics *statistics);
bpdq_status bpdq_cpu_statistics_add(bpdq_algebra *algebra, bpdq_statistics *statistics, const float *x, const float *dense_x,
                                    const float *residual, int64_t tokens, bpdq_error *error);
bpdq_status bpdq_cpu_statistics_set(bpdq_algebra *algebra, bpdq_statistics *statistics, const float *hessian, const float *cross,
                                    const float *residual, bpdq_error *error);
bpdq_status bpdq_cpu_statistics_finish(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_error *error);
bpdq_status bpdq_cpu_statistics_read(bpdq_algebra *algebra, const bpdq_statistics *statistics, float *hessian, float *cross,
                                     float *residual, bpdq_error *error);
bpdq_status bpdq_cpu_statistics_merge(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_algebra *other, const bpdq_statistics *from,
                                      bpdq_error *error);
bpdq_status bpdq_cpu_statistics_copy(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_algebra *other, const bpdq_statistics *from,
                                     bpdq_error *error);

bpdq_status bpdq_cpu_inputs_create(bpdq_algebra *algebra, const bpdq_statistics *statistics, const bpdq_inputs_desc *desc,
                                   bpdq_inputs **inputs, bpdq_inputs_info *info, bpdq_error *error);
void bpdq_cpu_inputs_destroy(bpdq_algebra *algebra, bpdq_inputs *inputs);

bpdq_status bpdq_cpu_work_create(bpdq_algebra *algebra, const bpdq_inputs *inputs, const bpdq_work_desc *desc, bpdq_work **work,
                                 bpdq_error *error);
void bpdq_cpu_work_destroy(bpdq_algebra *algebra, bpdq_work *work);
bpdq_status bpdq_cpu_keep_best(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error);
bpdq_status bpdq_cpu_restore_best(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error);
bpdq_status bpdq_cpu_objective(bpdq_algebra *algebra, bpdq_work *work, double *against_weight, double *against_target, double *of_zero,
                               bpdq_error *error);
bpdq_status bpdq_cpu_result(bpdq_algebra *algebra, bpdq_work *work, bpdq_layer_result *result, bpdq_error *error);

bpdq_status bpdq_cpu_uniform(bpdq_algebra *algebra, bpdq_work *work, bool compensate, bpdq_error *error);
bpdq_status bpdq_cpu_walk(bpdq_algebra *algebra, bpdq_work *work, const bpdq_walk_options *options, bpdq_error *error);
bpdq_status bpdq_cpu_sweep(bpdq_algebra *algebra, bpdq_work *work, int64_t *changed, bpdq_error *error);
bpdq_status bpdq_cpu_refit(bpdq_algebra *algebra, bpdq_work *work, bpdq_error *error);

#endif
