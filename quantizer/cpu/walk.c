/* The walk over a variable grid, docs/format.md section 3 steps 4 and 5. Each group of columns is refined from one or several starts; each
 * refinement walks the columns GPTQ-style with the current levels and refits the coefficients against the group's own target. All
 * iterates are kept until the best is known (of all rows together as published, or of each row), then its errors are pushed on.
 *
 * In the metric of the local factor an error row is E = (w - D c) U_loc^-1, so with D and w multiplied by U_loc^-1 once per iterate the
 * fit is an ordinary least-squares problem and E needs no second walk (step 4c follows by itself). */
#include <cblas.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "core/half.h"
#include "cpu/cpu_algebra.h"

enum { INITIAL_BITS = 8, MAX_STARTS = 3, MAX_TERMS = BPDQ_MAX_PLANES + 1, WALK_BLOCK = 16 };

/* Steps, in standard deviations, of the uniform grid of 2^k levels with the least squared error for a normal distribution (Max 1960). */
static const float NORMAL_STEP[BPDQ_MAX_PLANES + 1] = {0, 1.596f, 0.9957f, 0.5860f, 0.3352f, 0.1881f, 0.1041f, 0.0569f, 0.0308f};

typedef float lanes_t[BPDQ_LANES];

typedef struct walk_loop {
  bpdq_work *work;
  const bpdq_walk_options *options;
  float start_width[MAX_STARTS];         /* 0: most significant planes; else the width of the uniform grid */
  int starts, iterates;                  /* iterates = starts * iterations */
  int64_t block_begin, block_end, begin; /* columns of the block, and where the group begins */
  float *current;                        /* [padded][stride]: the target with the errors so far compensated */
  float *errors;                         /* [block][stride]: E */
  float *inverse;                        /* U_loc^-1 [group][group], upper */
  float *ones;                           /* [group]: the bias column times U_loc^-1 */
  float *scores;                         /* [iterates][stride]: sum E^2 */
  uint8_t *codes;                        /* [iterates][group][stride] */
  float *coefficients;                   /* [iterates][planes + 1][stride] */
  int32_t *choice;                       /* [stride]: iterate */
  lanes_t *scratch;                      /* [threads][(planes + 2) * group] */
  int64_t per_thread;
} walk_loop;

/* ---- fit ---- */

/* Solves the symmetric positive definite system a x = b of n <= 9 unknowns in place by Cholesky; false where it breaks down. */
static bool solve_small(double a[MAX_TERMS][MAX_TERMS], double *b, int n) {
  for (int i = 0; i < n; i++) {
    for (int j = 0; j <= i; j++) {
      double sum = a[i][j];
      for (int m = 0; m < j; m++) sum -= a[i][m] * a[j][m];
      if (i > j) {
        a[i][j] = sum / a[j][j];
      } else {
        if (sum <= 0) return false;
        a[i][i] = sqrt(sum);
      }
    }
  }
  for (int i = 0; i < n; i++) {
    for (int m = 0; m < i; m++) b[i] -= a[i][m] * b[m];
    b[i] /= a[i][i];
  }
  for (int i = n - 1; i >= 0; i--) {
    for (int m = i + 1; m < n; m++) b[i] -= a[m][i] * b[m];
    b[i] /= a[i][i];
  }
  return true;
}

/* projected[s] = sum_{t <= s} values[t] inverse[t][s]: 16 rows times U_loc^-1, eight sums in registers at a time. */
BPDQ_VECTOR_CLONES static void project(const float *inverse, int group, const lanes_t *values, lanes_t *projected) {
  for (int s = 0; s < group; s += 8) {
    bpdq_lanes sum[8] = {{0}};
    for (int t = 0; t < s + 8; t++) {
      bpdq_lanes value = *(const bpdq_lanes *)values[t];
      const float *row = inverse + t * group + s;
      for (int i = 0; i < 8; i++) sum[i] += value * row[i];
    }
    for (int i = 0; i < 8; i++) *(bpdq_lanes *)projected[s + i] = sum[i];
  }
}

static void project_target(const walk_loop *loop, int64_t row, lanes_t *values, lanes_t *projected) {
  for (int t = 0; t < loop->work->inputs->group; t++)
    memcpy(values[t], loop->current + (loop->begin + t) * loop->work->stride + row, sizeof values[t]);
  project(loop->inverse, loop->work->inputs->group, values, projected);
}

BPDQ_VECTOR_CLONES static void spread_plane(const uint8_t *codes, int64_t stride, int group, int plane, lanes_t *values) {
  for (int t = 0; t < group; t++)
    for (int lane = 0; lane < BPDQ_LANES; lane++) values[t][lane] = (float)(codes[t * stride + lane] >> plane & 1);
}

static void project_planes(const walk_loop *loop, const uint8_t *codes, lanes_t *values, lanes_t *planes) {
  int group = loop->work->inputs->group;
  for (int p = 0; p < loop->work->planes; p++) {
    spread_plane(codes, loop->work->stride, group, p, values);
    project(loop->inverse, group, values, planes + p * group);
  }
}

BPDQ_VECTOR_CLONES static void dot_lanes(const lanes_t *a, const lanes_t *b, int count, lanes_t sum) {
  lanes_t total = {0};
  for (int s = 0; s < count; s++)
    for (int lane = 0; lane < BPDQ_LANES; lane++) total[lane] += a[s][lane] * b[s][lane];
  memcpy(sum, total, sizeof total);
}

BPDQ_VECTOR_CLONES static void dot_shared(const lanes_t *a, const float *b, int count, lanes_t sum) {
  lanes_t total = {0};
  for (int s = 0; s < count; s++)
    for (int lane = 0; lane < BPDQ_LANES; lane++) total[lane] += a[s][lane] * b[s];
  memcpy(sum, total, sizeof total);
}

/* Least squares for the coefficients of one tile, whose design is in `planes` (projected) and target in `goal` (projected).
 * A lane whose system breaks down keeps the coefficients it has. */
static void fit_tile(const walk_loop *loop, lanes_t *planes, const lanes_t *goal, float *coefficients) {
  int group = loop->work->inputs->group, k = loop->work->planes;
  int64_t stride = loop->work->stride;
  lanes_t gram[MAX_TERMS][MAX_TERMS], right[MAX_TERMS];
  double ones_square = 0;
  for (int s = 0; s < group; s++) ones_square += (double)loop->ones[s] * (double)loop->ones[s];
  for (int p = 0; p < k; p++) {
    for (int o = 0; o <= p; o++) dot_lanes(planes + p * group, planes + o * group, group, gram[p][o]);
    dot_shared(planes + p * group, loop->ones, group, gram[k][p]);
    dot_lanes(planes + p * group, goal, group, right[p]);
  }
  dot_shared(goal, loop->ones, group, right[k]);
  for (int lane = 0; lane < BPDQ_LANES; lane++) {
    double a[MAX_TERMS][MAX_TERMS], b[MAX_TERMS];
    for (int p = 0; p <= k; p++) {
      for (int o = 0; o <= p; o++) a[p][o] = p == k && o == k ? ones_square : (double)gram[p][o][lane];
      a[p][p] += loop->options->alpha;
      b[p] = (double)right[p][lane];
    }
    if (!solve_small(a, b, k + 1)) continue;
    for (int p = 0; p <= k; p++) coefficients[p * stride + lane] = (float)b[p];
  }
}

/* error = goal - sum_p c_p planes[p] - c_bias ones, into `error` unless it is NULL; sum error^2 per lane into `score`. */
BPDQ_VECTOR_CLONES static void find_errors(const walk_loop *loop, const lanes_t *planes, const lanes_t *goal, const float *coefficients,
                                           lanes_t *error, lanes_t score) {
  int group = loop->work->inputs->group, k = loop->work->planes;
  int64_t stride = loop->work->stride;
  lanes_t total = {0};
  for (int s = 0; s < group; s++) {
    lanes_t e;
    for (int lane = 0; lane < BPDQ_LANES; lane++) e[lane] = goal[s][lane] - coefficients[k * stride + lane] * loop->ones[s];
    for (int p = 0; p < k; p++)
      for (int lane = 0; lane < BPDQ_LANES; lane++) e[lane] -= coefficients[p * stride + lane] * planes[p * group + s][lane];
    for (int lane = 0; lane < BPDQ_LANES; lane++) total[lane] += e[lane] * e[lane];
    if (error) memcpy(error[s], e, sizeof e);
  }
  memcpy(score, total, sizeof total);
}

/* ---- start and walk ---- */

/* The kept planes of an asymmetric 8-bit code of each row (docs/format.md section 3 step 4, first bullet). */
static void start_from_code(const walk_loop *loop, int64_t row, uint8_t *codes) {
  const bpdq_work *work = loop->work;
  const float *values = loop->current + loop->begin * work->stride + row;
  const float top = (1 << INITIAL_BITS) - 1;
  for (int lane = 0; lane < BPDQ_LANES; lane++) {
    float low = 0, high = 0;
    for (int t = 0; t < work->inputs->group; t++) {
      low = fminf(low, values[t * work->stride + lane]);
      high = fmaxf(high, values[t * work->stride + lane]);
    }
    if (low == 0 && high == 0) low = -1, high = 1;
    float scale = (high - low) / top, zero = rintf(-low / scale);
    for (int t = 0; t < work->inputs->group; t++) {
      float code = fminf(fmaxf(rintf(values[t * work->stride + lane] / scale) + zero, 0), top);
      codes[t * work->stride + lane] = (uint8_t)((unsigned)code >> (INITIAL_BITS - work->planes));
    }
  }
}

/* A uniform grid around the mean, `width` times as wide as the best one for a normal distribution. */
static void start_from_grid(const walk_loop *loop, int64_t row, float width, float *coefficients) {
  const bpdq_work *work = loop->work;
  const float *values = loop->current + loop->begin * work->stride + row;
  int group = work->inputs->group, k = work->planes;
  for (int lane = 0; lane < BPDQ_LANES; lane++) {
    double sum = 0, square = 0;
    for (int t = 0; t < group; t++) {
      double value = (double)values[t * work->stride + lane];
      sum += value;
      square += value * value;
    }
    double mean = sum / group, deviation = sqrt(fmax(square / group - mean * mean, 0));
    double step = (double)width * (double)NORMAL_STEP[k] * deviation;
    for (int p = 0; p < k; p++) coefficients[p * work->stride + lane] = (float)(step * (1 << p));
    coefficients[k * work->stride + lane] = (float)(mean - step * ((1 << k) - 1) / 2);
  }
}

/* Nearest level column by column, each error spread over the rest of the group (step 4a): at once within sixteen columns, for the
 * columns behind them sixteen errors at a time. */
BPDQ_VECTOR_CLONES static void walk_group(const walk_loop *loop, int64_t row, const float *coefficients, lanes_t *values, lanes_t *errors,
                                          uint8_t *codes) {
  const bpdq_work *work = loop->work;
  int group = work->inputs->group;
  int64_t stride = work->stride, n = work->inputs->padded;
  lanes_t levels[1 << BPDQ_MAX_PLANES];
  bpdq_tile_levels(coefficients, stride, work->planes, levels);
  for (int t = 0; t < group; t++) memcpy(values[t], loop->current + (loop->begin + t) * stride + row, sizeof values[t]);
  for (int t = 0; t < group; t++) {
    const float *factor = work->inputs->factor + (loop->begin + t) * n + loop->begin;
    lanes_t distance, nearest;
    int32_t code[BPDQ_LANES] = {0};
    for (int lane = 0; lane < BPDQ_LANES; lane++) {
      nearest[lane] = levels[0][lane];
      distance[lane] = fabsf(values[t][lane] - nearest[lane]);
    }
    for (int level = 1; level < 1 << work->planes; level++)
      for (int lane = 0; lane < BPDQ_LANES; lane++) {
        float other = fabsf(values[t][lane] - levels[level][lane]);
        bool closer = other < distance[lane];
        code[lane] = closer ? level : code[lane];
        nearest[lane] = closer ? levels[level][lane] : nearest[lane];
        distance[lane] = closer ? other : distance[lane];
      }
    for (int lane = 0; lane < BPDQ_LANES; lane++) {
      errors[t][lane] = (values[t][lane] - nearest[lane]) / factor[t];
      codes[t * stride + lane] = (uint8_t)code[lane];
    }
    int end = t / WALK_BLOCK * WALK_BLOCK + WALK_BLOCK;
    bpdq_lanes error = *(const bpdq_lanes *)errors[t];
    for (int s = t + 1; s < end; s++) *(bpdq_lanes *)values[s] -= error * factor[s];
    if (t + 1 < end) continue;
    factor -= (WALK_BLOCK - 1) * n;
    for (int s = end; s < group; s++) {
      bpdq_lanes value = *(bpdq_lanes *)values[s];
      for (int i = 0; i < WALK_BLOCK; i++) value -= *(const bpdq_lanes *)errors[end - WALK_BLOCK + i] * factor[i * n + s];
      *(bpdq_lanes *)values[s] = value;
    }
  }
}

static uint8_t *iterate_codes(const walk_loop *loop, int iterate, int64_t row) {
  return loop->codes + (int64_t)iterate * loop->work->inputs->group * loop->work->stride + row;
}
static float *iterate_coefficients(const walk_loop *loop, int iterate, int64_t row) {
  return loop->coefficients + (int64_t)iterate * (loop->work->planes + 1) * loop->work->stride + row;
}

/* All iterates of all starts of one group, for one tile of rows. */
static void refine_tile(void *context, int64_t index, int thread) {
  walk_loop *loop = context;
  const bpdq_work *work = loop->work;
  int group = work->inputs->group, k = work->planes;
  int64_t row = index * BPDQ_LANES, stride = work->stride;
  lanes_t *goal = loop->scratch + (int64_t)thread * loop->per_thread, *values = goal + group, *planes = values + group;
  project_target(loop, row, values, goal);
  for (int start = 0; start < loop->starts; start++) {
    float *first = iterate_coefficients(loop, start * loop->options->iterations, row);
    for (int p = 0; p <= k; p++) memset(first + p * stride, 0, sizeof(lanes_t));
    if (loop->start_width[start] > 0) {
      start_from_grid(loop, row, loop->start_width[start], first);
    } else {
      uint8_t *codes = iterate_codes(loop, start * loop->options->iterations, row);
      start_from_code(loop, row, codes);
      project_planes(loop, codes, values, planes);
      fit_tile(loop, planes, goal, first);
    }
    for (int iteration = 0; iteration < loop->options->iterations; iteration++) {
      int iterate = start * loop->options->iterations + iteration;
      const float *before = iteration ? iterate_coefficients(loop, iterate - 1, row) : first;
      float *after = iterate_coefficients(loop, iterate, row);
      uint8_t *codes = iterate_codes(loop, iterate, row);
      walk_group(loop, row, before, values, planes, codes); /* planes hold the errors for the moment */
      for (int p = 0; p <= k && after != before; p++) memcpy(after + p * stride, before + p * stride, sizeof(lanes_t));
      project_planes(loop, codes, values, planes);
      fit_tile(loop, planes, goal, after);
      find_errors(loop, planes, goal, after, NULL, loop->scores + iterate * stride + row);
    }
  }
}

/* The best iterate of each row, or of all rows together. */
static void choose(walk_loop *loop) {
  const bpdq_work *work = loop->work;
  int together = 0;
  double least = DBL_MAX;
  for (int iterate = 0; iterate < loop->iterates && !loop->options->best_per_row; iterate++) {
    double sum = 0;
    for (int64_t row = 0; row < work->rows; row++) sum += (double)loop->scores[iterate * work->stride + row];
    if (sum < least) least = sum, together = iterate;
  }
  for (int64_t row = 0; row < work->stride; row++) {
    loop->choice[row] = together;
    for (int iterate = 0; iterate < loop->iterates && loop->options->best_per_row; iterate++)
      if (loop->scores[iterate * work->stride + row] < loop->scores[loop->choice[row] * work->stride + row]) loop->choice[row] = iterate;
  }
}

BPDQ_VECTOR_CLONES static void push_errors(const walk_loop *loop, const lanes_t *error, int64_t row) {
  const bpdq_work *work = loop->work;
  int group = work->inputs->group;
  for (int t = 0; t < group; t++) {
    const float *factor = work->inputs->factor + (loop->begin + t) * work->inputs->padded;
    for (int64_t j = loop->begin + group; j < loop->block_end; j++)
      for (int lane = 0; lane < BPDQ_LANES; lane++) loop->current[j * work->stride + row + lane] -= error[t][lane] * factor[j];
  }
}

/* Takes the chosen iterates over and pushes their errors into the rest of the block. */
static void apply_tile(void *context, int64_t index, int thread) {
  walk_loop *loop = context;
  bpdq_work *work = loop->work;
  int group = work->inputs->group, k = work->planes;
  int64_t row = index * BPDQ_LANES, stride = work->stride, q = loop->begin / group;
  float *coefficients = work->coefficients + q * (k + 1) * stride + row;
  for (int lane = 0; lane < BPDQ_LANES; lane++) {
    int iterate = loop->choice[row + lane];
    const uint8_t *codes = iterate_codes(loop, iterate, row);
    for (int t = 0; t < group; t++) work->codes[(loop->begin + t) * stride + row + lane] = codes[t * stride + lane];
    const float *chosen = iterate_coefficients(loop, iterate, row);
    for (int p = 0; p <= k; p++) coefficients[p * stride + lane] = chosen[p * stride + lane];
  }
  lanes_t *goal = loop->scratch + (int64_t)thread * loop->per_thread, *error = goal + group, *planes = error + group, score;
  project_target(loop, row, error, goal);
  project_planes(loop, work->codes + loop->begin * stride + row, error, planes);
  find_errors(loop, planes, goal, coefficients, error, score);
  for (int t = 0; t < group; t++) memcpy(loop->errors + (loop->begin - loop->block_begin + t) * stride + row, error[t], sizeof(lanes_t));
  push_errors(loop, error, row);
  for (int p = 0; p <= k; p++)
    for (int lane = 0; lane < BPDQ_LANES; lane++)
      coefficients[p * stride + lane] = bpdq_bf16_to_float(bpdq_float_to_bf16(coefficients[p * stride + lane]));
}

/* current[block_end:] -= U[block, block_end:]^T E for one chunk of rows (step 5). */
static void propagate(void *context, int64_t index, int thread) {
  (void)thread;
  walk_loop *loop = context;
  bpdq_work *work = loop->work;
  int64_t first = index * BPDQ_ROW_CHUNK, n = work->inputs->padded;
  int rows = (int)(work->stride - first < BPDQ_ROW_CHUNK ? work->stride - first : BPDQ_ROW_CHUNK);
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)(n - loop->block_end), rows, (int)(loop->block_end - loop->block_begin), -1,
              work->inputs->factor + loop->block_begin * n + loop->block_end, (int)n, loop->errors + first, (int)work->stride, 1,
              loop->current + loop->block_end * work->stride + first, (int)work->stride);
}

/* U_loc^-1 by back substitution in float64, and its column sums. */
static void invert_local_factor(walk_loop *loop) {
  int group = loop->work->inputs->group;
  int64_t n = loop->work->inputs->padded;
  const float *factor = loop->work->inputs->factor + loop->begin * n + loop->begin;
  for (int s = 0; s < group; s++) {
    double column[256], total = 0;
    for (int t = s; t >= 0; t--) {
      double sum = t == s;
      for (int m = t + 1; m <= s; m++) sum -= (double)factor[t * n + m] * column[m];
      column[t] = sum / (double)factor[t * n + t];
      total += column[t];
    }
    for (int t = 0; t < group; t++) loop->inverse[t * group + s] = t <= s ? (float)column[t] : 0;
    loop->ones[s] = (float)total;
  }
}

static void walk_all(bpdq_cpu_algebra *cpu, walk_loop *loop) {
  bpdq_work *work = loop->work;
  int64_t n = work->inputs->padded, block = (int64_t)bpdq_round_up(128, (uint64_t)work->inputs->group);
  memcpy(loop->current, work->target, (size_t)(n * work->stride) * sizeof(float));
  for (loop->block_begin = 0; loop->block_begin < n; loop->block_begin = loop->block_end) {
    loop->block_end = loop->block_begin + block < n ? loop->block_begin + block : n;
    for (loop->begin = loop->block_begin; loop->begin < loop->block_end; loop->begin += work->inputs->group) {
      invert_local_factor(loop);
      bpdq_pool_run(cpu->pool, work->stride / BPDQ_LANES, refine_tile, loop);
      choose(loop);
      bpdq_pool_run(cpu->pool, work->stride / BPDQ_LANES, apply_tile, loop);
    }
    if (loop->block_end < n) bpdq_pool_run(cpu->pool, (int64_t)bpdq_ceil_div((uint64_t)work->stride, BPDQ_ROW_CHUNK), propagate, loop);
  }
}

bpdq_status bpdq_cpu_walk(bpdq_algebra *algebra, bpdq_work *work, const bpdq_walk_options *options, bpdq_error *error) {
  bpdq_cpu_algebra *cpu = (bpdq_cpu_algebra *)algebra;
  walk_loop loop = {.work = work, .options = options};
  if (options->starts & BPDQ_START_MSB) loop.start_width[loop.starts++] = 0;
  if (options->starts & BPDQ_START_NARROW) loop.start_width[loop.starts++] = 0.8f;
  if (options->starts & BPDQ_START_WIDE) loop.start_width[loop.starts++] = 1.15f;
  if (!loop.starts || options->iterations < 1)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "%s: the walk needs a start and at least one iteration", work->name);
  loop.iterates = loop.starts * options->iterations;
  int64_t group = work->inputs->group, terms = work->planes + 1, block = (int64_t)bpdq_round_up(128, (uint64_t)group);
  loop.per_thread = (terms + 1) * group;
  loop.current = bpdq_alloc_array((size_t)(work->inputs->padded * work->stride), sizeof(float));
  loop.errors = bpdq_alloc_array((size_t)(block * work->stride), sizeof(float));
  loop.inverse = bpdq_alloc_array((size_t)(group * group), sizeof(float));
  loop.ones = bpdq_alloc_array((size_t)group, sizeof(float));
  loop.scores = bpdq_alloc_array((size_t)(loop.iterates * work->stride), sizeof(float));
  loop.codes = bpdq_alloc_array((size_t)(loop.iterates * group * work->stride), 1);
  loop.coefficients = bpdq_alloc_array((size_t)(loop.iterates * terms * work->stride), sizeof(float));
  loop.choice = bpdq_alloc_array((size_t)work->stride, sizeof(int32_t));
  loop.scratch = bpdq_alloc_array((size_t)(cpu->threads * loop.per_thread), sizeof(lanes_t));
  bpdq_status status = BPDQ_OK;
  if (loop.current && loop.errors && loop.inverse && loop.ones && loop.scores && loop.codes && loop.coefficients && loop.choice &&
      loop.scratch)
    walk_all(cpu, &loop);
  else
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", work->name);
  free(loop.current);
  free(loop.errors);
  free(loop.inverse);
  free(loop.ones);
  free(loop.scores);
  free(loop.codes);
  free(loop.coefficients);
  free(loop.choice);
  free(loop.scratch);
  work->residual_valid = false;
  return status;
}
