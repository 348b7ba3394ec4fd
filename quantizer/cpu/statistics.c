/* H, C and R of a set of inputs. Each chunk of tokens is multiplied in float32 and added to float64 sums, tile by tile. */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "cpu/cpu_algebra.h"

enum { TILE = 512 }; /* smaller tiles spend their time packing operands */

void bpdq_cpu_statistics_destroy(bpdq_algebra *algebra, bpdq_statistics *statistics) {
  (void)algebra;
  if (!statistics) return;
  free(statistics->hessian);
  free(statistics->cross);
  free(statistics->residual);
  free(statistics->scratch);
  free(statistics);
}

static double *zeroed_matrix(int64_t rows, int64_t columns) {
  size_t count;
  if (__builtin_mul_overflow((size_t)rows, (size_t)columns, &count)) return NULL;
  return calloc(count ? count : 1, sizeof(double));
}

bpdq_status bpdq_cpu_statistics_create(bpdq_algebra *algebra, const bpdq_statistics_desc *desc, bpdq_statistics **statistics,
                                       bpdq_error *error) {
  bpdq_cpu_algebra *cpu = (bpdq_cpu_algebra *)algebra;
  *statistics = NULL;
  bpdq_statistics *made = calloc(1, sizeof *made);
  if (made) {
    made->name = desc->name;
    made->columns = desc->columns;
    made->residual_rows = desc->residual_rows;
    made->whole_target = desc->whole_target;
    made->hessian = zeroed_matrix(desc->columns, desc->columns);
    if (desc->cross) made->cross = zeroed_matrix(desc->columns, desc->columns);
    if (desc->residual_rows) made->residual = zeroed_matrix(desc->residual_rows, desc->columns);
    made->scratch = bpdq_alloc_array((size_t)cpu->threads * TILE * TILE, sizeof(float));
  }
  if (!made || !made->hessian || !made->scratch || (desc->cross && !made->cross) || (desc->residual_rows && !made->residual)) {
    bpdq_cpu_statistics_destroy(algebra, made);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory for the %lld x %lld Hessian", desc->name, (long long)desc->columns,
                     (long long)desc->columns);
  }
  *statistics = made;
  return BPDQ_OK;
}

/* ---- sum += left^T right, for left [tokens, rows] and right [tokens, columns] ---- */

typedef struct product {
  const float *left, *right;
  double *sum; /* [rows, columns] */
  int64_t rows, columns;
  bool upper; /* left == right: tiles below the diagonal are left out */
} product;

typedef struct accumulation {
  bpdq_statistics *statistics;
  int64_t tokens;
  product products[3];
  int64_t first_task[4]; /* tasks of product i are first_task[i] .. first_task[i + 1] - 1 */
} accumulation;

static void accumulate_tile(void *context, int64_t index, int thread) {
  accumulation *a = context;
  int which = index >= a->first_task[2] ? 2 : index >= a->first_task[1] ? 1 : 0;
  const product *p = &a->products[which];
  int64_t across = (int64_t)bpdq_ceil_div((uint64_t)p->columns, TILE), tile = index - a->first_task[which];
  int64_t row = tile / across * TILE, column = tile % across * TILE;
  if (p->upper && column < row) return;
  int height = (int)(p->rows - row < TILE ? p->rows - row : TILE), width = (int)(p->columns - column < TILE ? p->columns - column : TILE);
  float *scratch = a->statistics->scratch + (int64_t)thread * TILE * TILE;
  bool diagonal = p->upper && row == column;
  if (diagonal)
    cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, width, (int)a->tokens, 1, p->left + row, (int)p->rows, 0, scratch, TILE);
  else
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, height, width, (int)a->tokens, 1, p->left + row, (int)p->rows, p->right + column,
                (int)p->columns, 0, scratch, TILE);
  for (int i = 0; i < height; i++) {
    double *sum = p->sum + (row + i) * p->columns + column;
    for (int j = diagonal ? i : 0; j < width; j++) sum[j] += (double)scratch[i * TILE + j];
  }
}

bpdq_status bpdq_cpu_statistics_add(bpdq_algebra *algebra, bpdq_statistics *statistics, const float *x, const float *dense_x,
                                    const float *residual, int64_t tokens, bpdq_error *error) {
  if ((statistics->cross && !dense_x) || (statistics->residual && !residual))
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "%s: statistics need an input that was not captured", statistics->name);
  bpdq_cpu_algebra *cpu = (bpdq_cpu_algebra *)algebra;
  int64_t k = statistics->columns, n = statistics->residual_rows;
  accumulation a = {.statistics = statistics, .tokens = tokens};
  a.products[0] = (product){x, x, statistics->hessian, k, k, true};
  a.products[1] = (product){dense_x, x, statistics->cross, statistics->cross ? k : 0, k, false};
  a.products[2] = (product){residual, x, statistics->residual, n, k, false};
  for (int i = 0; i < 3; i++) {
    uint64_t down = bpdq_ceil_div((uint64_t)a.products[i].rows, TILE), across = bpdq_ceil_div((uint64_t)k, TILE);
    a.first_task[i + 1] = a.first_task[i] + (int64_t)(down * across);
  }
  bpdq_pool_run(cpu->pool, a.first_task[3], accumulate_tile, &a);
  statistics->tokens += tokens;
  return BPDQ_OK;
}

bpdq_status bpdq_cpu_statistics_set(bpdq_algebra *algebra, bpdq_statistics *statistics, const float *hessian, const float *cross,
                                    const float *residual, bpdq_error *error) {
  (void)algebra;
  if ((statistics->cross && !cross) || (statistics->residual && !residual))
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "%s: statistics need a matrix that was not given", statistics->name);
  int64_t k = statistics->columns;
  for (int64_t i = 0; i < k * k; i++) statistics->hessian[i] = (double)hessian[i];
  for (int64_t i = 0; statistics->cross && i < k * k; i++) statistics->cross[i] = (double)cross[i];
  for (int64_t i = 0; statistics->residual && i < statistics->residual_rows * k; i++) statistics->residual[i] = (double)residual[i];
  statistics->tokens = 0;
  return BPDQ_OK;
}

/* Scales and looks for values that are not finite. */
static bool finish_matrix(double *matrix, int64_t count, double scale) {
  double check = 0;
  for (int64_t i = 0; matrix && i < count; i++) {
    matrix[i] *= scale;
    check += matrix[i] * 0; /* 0 for finite values, NaN for all others */
  }
  return check == 0;
}

bpdq_status bpdq_cpu_statistics_finish(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_error *error) {
  (void)algebra;
  int64_t k = statistics->columns;
  double scale = statistics->tokens ? 2.0 / (double)statistics->tokens : 1.0;
  bool finite = finish_matrix(statistics->hessian, k * k, scale);
  finite = finish_matrix(statistics->cross, k * k, scale) && finite;
  finite = finish_matrix(statistics->residual, statistics->residual_rows * k, scale) && finite;
  if (!finite)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: its inputs are not all finite (NaN or infinity in the activations or the Hessian)",
                     statistics->name);
  /* Sums of tokens have an upper triangle; a given H may be slightly asymmetric: either way the upper one counts. */
  for (int64_t i = 0; i < k; i++) {
    if (statistics->hessian[i * k + i] < 0)
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: H has a negative diagonal entry at column %lld", statistics->name, (long long)i);
    for (int64_t j = i + 1; j < k; j++) statistics->hessian[j * k + i] = statistics->hessian[i * k + j];
  }
  return BPDQ_OK;
}

static void read_matrix(const double *matrix, int64_t count, float *out) {
  for (int64_t i = 0; matrix && out && i < count; i++) out[i] = (float)matrix[i];
}

bpdq_status bpdq_cpu_statistics_read(bpdq_algebra *algebra, const bpdq_statistics *statistics, float *hessian, float *cross,
                                     float *residual, bpdq_error *error) {
  (void)algebra;
  (void)error;
  int64_t k = statistics->columns;
  read_matrix(statistics->hessian, k * k, hessian);
  read_matrix(statistics->cross, k * k, cross);
  read_matrix(statistics->residual, statistics->residual_rows * k, residual);
  return BPDQ_OK;
}
