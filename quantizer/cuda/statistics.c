/* H, C and R of a set of inputs. Products of a few thousand tokens run on the tensor cores in TF32 with float32 sums and are added to
 * float64 sums: the result is that of activations rounded to 11 bits (bf16 has 8), so H stays positive semidefinite. */
#include <stdlib.h>

#include "core/checked.h"
#include "gpu_algebra.h"

enum { PIECE = 1 << 26 }; /* floats of a piece of tokens or of a strip of a product: 256 MiB */

void bpdq_gpu_statistics_destroy(bpdq_algebra *algebra, bpdq_statistics *statistics) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  if (!statistics) return;
  bpdq_gpu_free(gpu, statistics->hessian_sum);
  bpdq_gpu_free(gpu, statistics->cross_sum);
  bpdq_gpu_free(gpu, statistics->residual_sum);
  bpdq_gpu_free(gpu, statistics->hessian);
  bpdq_gpu_free(gpu, statistics->cross);
  bpdq_gpu_free(gpu, statistics->residual);
  free(statistics->diagonal);
  free(statistics);
}

static bpdq_status allocate_sum(gpu_algebra *gpu, int64_t rows, int64_t columns, const char *name, double **sum, bpdq_error *error) {
  if (!rows) return BPDQ_OK;
  BPDQ_TRY(bpdq_gpu_allocate(gpu, rows * columns, sizeof **sum, name, sum, error));
  return bpdq_gpu_clear(gpu, *sum, rows * columns, sizeof **sum, name, error);
}

bpdq_status bpdq_gpu_statistics_create(bpdq_algebra *algebra, const bpdq_statistics_desc *desc, bpdq_statistics **statistics,
                                       bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  int64_t k = desc->columns;
  *statistics = NULL;
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(gpu->device), desc->name, error));
  bpdq_statistics *made = calloc(1, sizeof *made);
  if (!made) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", desc->name);
  made->name = desc->name;
  made->columns = k;
  made->residual_rows = desc->residual_rows;
  made->whole_target = desc->whole_target;
  bpdq_status status;
  BPDQ_TRY_GOTO(allocate_sum(gpu, k, k, desc->name, &made->hessian_sum, error), failed);
  BPDQ_TRY_GOTO(allocate_sum(gpu, desc->cross ? k : 0, k, desc->name, &made->cross_sum, error), failed);
  BPDQ_TRY_GOTO(allocate_sum(gpu, desc->residual_rows, k, desc->name, &made->residual_sum, error), failed);
  *statistics = made;
  return BPDQ_OK;
failed:
  bpdq_gpu_statistics_destroy(algebra, made);
  return status;
}

/* ---- sum += left^T right, strip by strip of its rows ---- */

typedef struct product {
  const float *left, *right; /* device [tokens, rows] and [tokens, columns] */
  int64_t tokens, rows, columns;
  bool upper;    /* left == right: only columns from the strip's first row on */
  double *sum;   /* [rows, columns] */
  float *strip;  /* scratch of PIECE floats */
  int64_t limit; /* rows of a strip */
} product;

static bpdq_status accumulate(gpu_algebra *gpu, const product *p, const char *name, bpdq_error *error) {
  const float one = 1, zero = 0;
  for (int64_t row = 0; row < p->rows; row += p->limit) {
    int64_t height = p->rows - row < p->limit ? p->rows - row : p->limit, first = p->upper ? row : 0, width = p->columns - first;
    /* cuBLAS counts by columns: the strip's transpose is right^T left. */
    BPDQ_TRY(bpdq_gpu_check_blas(
        gpu->libraries.gemm_ex(gpu->blas, CUBLAS_OP_N, CUBLAS_OP_T, (int)width, (int)height, (int)p->tokens, &one, p->right + first,
                               CUDA_R_32F, (int)p->columns, p->left + row, CUDA_R_32F, (int)p->rows, &zero, p->strip, CUDA_R_32F,
                               (int)width, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_GEMM_DEFAULT),
        name, error));
    BPDQ_TRY(bpdq_gpu_check(bpdq_gpu_accumulate(p->strip, height, first, width, p->sum + row * p->columns, gpu->stream), name, error));
  }
  return BPDQ_OK;
}

static bpdq_status upload(gpu_algebra *gpu, float *to, const float *from, int64_t count, const char *name, bpdq_error *error) {
  return bpdq_gpu_staging_upload(&gpu->staging, to, from, (size_t)count * sizeof *to, gpu->stream, name, error);
}

static int64_t pieces_of(int64_t width) { return PIECE / width > 64 ? PIECE / width : 64; }

/* Tokens of a piece whose inputs, of either kind, are on the device at a time. */
static int64_t piece_of(const bpdq_statistics *s) { return pieces_of(s->columns > s->residual_rows ? s->columns : s->residual_rows); }

static bpdq_status need_inputs(const bpdq_statistics *s, const float *dense_x, const float *residual, bpdq_error *error) {
  if ((s->cross_sum && !dense_x) || (s->residual_sum && !residual))
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "%s: statistics need an input that was not captured", s->name);
  return BPDQ_OK;
}

/* *rows rows of K columns; fewer where memory is short, which only makes more of the same products. */
static bpdq_status allocate_strip(gpu_algebra *gpu, const bpdq_statistics *s, int64_t *rows, float **strip, bpdq_error *error) {
  enum { LEAST_ROWS = 64 };
  bpdq_status status;
  while ((status = bpdq_gpu_allocate(gpu, *rows * s->columns, sizeof **strip, s->name, strip, error)) == BPDQ_ERROR_MEMORY &&
         *rows > LEAST_ROWS)
    *rows = (*rows + 1) / 2;
  return status;
}

bpdq_status bpdq_gpu_statistics_add_device(gpu_algebra *gpu, bpdq_statistics *s, const float *x, const float *dense_x,
                                           const float *residual, int64_t tokens, bpdq_error *error) {
  BPDQ_TRY(need_inputs(s, dense_x, residual, error));
  int64_t k = s->columns, n = s->residual_rows, limit = piece_of(s), strip_rows = k > n ? k : n;
  float *strip = NULL;
  if (strip_rows > pieces_of(k)) strip_rows = pieces_of(k);
  BPDQ_TRY(allocate_strip(gpu, s, &strip_rows, &strip, error));
  bpdq_status status = BPDQ_OK;
  for (int64_t begin = 0; begin < tokens; begin += limit) {
    int64_t count = tokens - begin < limit ? tokens - begin : limit;
    const float *inputs = x + begin * k;
    product p = {inputs, inputs, count, k, k, true, s->hessian_sum, strip, strip_rows};
    BPDQ_TRY_GOTO(accumulate(gpu, &p, s->name, error), done);
    if (s->cross_sum) {
      p = (product){dense_x + begin * k, inputs, count, k, k, false, s->cross_sum, strip, strip_rows};
      BPDQ_TRY_GOTO(accumulate(gpu, &p, s->name, error), done);
    }
    if (s->residual_sum) {
      p = (product){residual + begin * n, inputs, count, n, k, false, s->residual_sum, strip, strip_rows};
      BPDQ_TRY_GOTO(accumulate(gpu, &p, s->name, error), done);
    }
  }
  s->tokens += tokens;
done:
  bpdq_gpu_free(gpu, strip);
  return status;
}

bpdq_status bpdq_gpu_statistics_add(bpdq_algebra *algebra, bpdq_statistics *statistics, const float *x, const float *dense_x,
                                    const float *residual, int64_t tokens, bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  const bpdq_statistics *s = statistics;
  int64_t k = s->columns, n = s->residual_rows, most = tokens < piece_of(s) ? tokens : piece_of(s);
  BPDQ_TRY(need_inputs(s, dense_x, residual, error));
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(gpu->device), s->name, error));
  float *inputs = NULL, *dense = NULL, *outputs = NULL;
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, most * k, sizeof *inputs, s->name, &inputs, error), done);
  if (s->cross_sum) BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, most * k, sizeof *dense, s->name, &dense, error), done);
  if (s->residual_sum) BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, most * n, sizeof *outputs, s->name, &outputs, error), done);
  for (int64_t begin = 0; begin < tokens; begin += most) {
    int64_t count = tokens - begin < most ? tokens - begin : most;
    BPDQ_TRY_GOTO(upload(gpu, inputs, x + begin * k, count * k, s->name, error), done);
    if (dense) BPDQ_TRY_GOTO(upload(gpu, dense, dense_x + begin * k, count * k, s->name, error), done);
    if (outputs) BPDQ_TRY_GOTO(upload(gpu, outputs, residual + begin * n, count * n, s->name, error), done);
    BPDQ_TRY_GOTO(bpdq_gpu_statistics_add_device(gpu, statistics, inputs, dense, outputs, count, error), done);
  }
done:
  bpdq_gpu_free(gpu, inputs);
  bpdq_gpu_free(gpu, dense);
  bpdq_gpu_free(gpu, outputs);
  return status;
}

/* sum = matrix, a host f32 [rows, K]. */
static bpdq_status set_sum(gpu_algebra *gpu, double *sum, const float *matrix, int64_t rows, int64_t k, const char *name,
                           bpdq_error *error) {
  float *strip = NULL;
  int64_t limit = pieces_of(k) < rows ? pieces_of(k) : rows;
  BPDQ_TRY(bpdq_gpu_allocate(gpu, limit * k, sizeof *strip, name, &strip, error));
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_gpu_clear(gpu, sum, rows * k, sizeof *sum, name, error), done);
  for (int64_t row = 0; row < rows; row += limit) {
    int64_t height = rows - row < limit ? rows - row : limit;
    BPDQ_TRY_GOTO(bpdq_gpu_upload(gpu, strip, matrix + row * k, height * k, sizeof *matrix, name, error), done);
    BPDQ_TRY_GOTO(bpdq_gpu_check(bpdq_gpu_accumulate(strip, height, 0, k, sum + row * k, gpu->stream), name, error), done);
  }
  status = bpdq_gpu_check(cudaStreamSynchronize(gpu->stream), name, error);
done:
  bpdq_gpu_free(gpu, strip);
  return status;
}

bpdq_status bpdq_gpu_statistics_set(bpdq_algebra *algebra, bpdq_statistics *statistics, const float *hessian, const float *cross,
                                    const float *residual, bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  const char *name = statistics->name;
  int64_t k = statistics->columns;
  if ((statistics->cross_sum && !cross) || (statistics->residual_sum && !residual))
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "%s: statistics need a matrix that was not given", name);
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(gpu->device), name, error));
  BPDQ_TRY(set_sum(gpu, statistics->hessian_sum, hessian, k, k, name, error));
  if (statistics->cross_sum) BPDQ_TRY(set_sum(gpu, statistics->cross_sum, cross, k, k, name, error));
  if (statistics->residual_sum) BPDQ_TRY(set_sum(gpu, statistics->residual_sum, residual, statistics->residual_rows, k, name, error));
  statistics->tokens = 0;
  return BPDQ_OK;
}

/* ---- finish ---- */

/* Turns a float64 sum into its float32 matrix and frees the sum. */
static bpdq_status finish_sum(gpu_algebra *gpu, bpdq_statistics *s, double **sum, int64_t rows, bool symmetric, const float *subtract,
                              float **out, bpdq_error *error) {
  if (!*sum) return BPDQ_OK;
  double scale = s->tokens ? 2.0 / (double)s->tokens : 1.0;
  BPDQ_TRY(bpdq_gpu_allocate(gpu, rows * s->columns, sizeof **out, s->name, out, error));
  BPDQ_TRY(
      bpdq_gpu_check(bpdq_gpu_finish(*sum, rows, s->columns, scale, symmetric, subtract, *out, gpu->flag, gpu->stream), s->name, error));
  bpdq_gpu_free(gpu, *sum);
  *sum = NULL;
  return BPDQ_OK;
}

static bpdq_status read_diagonal(gpu_algebra *gpu, bpdq_statistics *s, bpdq_error *error) {
  int64_t k = s->columns;
  float *diagonal = bpdq_alloc_array((size_t)k, sizeof *diagonal);
  s->diagonal = bpdq_alloc_array((size_t)k, sizeof *s->diagonal);
  bpdq_status status = BPDQ_OK;
  if (diagonal && s->diagonal) {
    BPDQ_TRY_GOTO(bpdq_gpu_check(cudaMemcpy2DAsync(diagonal, sizeof *diagonal, s->hessian, (size_t)(k + 1) * sizeof *diagonal,
                                                   sizeof *diagonal, (size_t)k, cudaMemcpyDeviceToHost, gpu->stream),
                                 s->name, error),
                  done);
    BPDQ_TRY_GOTO(bpdq_gpu_check(cudaStreamSynchronize(gpu->stream), s->name, error), done);
  } else {
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", s->name);
    goto done;
  }
  for (int64_t j = 0; j < k; j++) {
    s->diagonal[j] = (double)diagonal[j];
    if (diagonal[j] >= 0) continue;
    status = bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: H has a negative diagonal entry at column %lld", s->name, (long long)j);
    goto done;
  }
done:
  free(diagonal);
  return status;
}

bpdq_status bpdq_gpu_statistics_finish(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  bpdq_statistics *s = statistics;
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(gpu->device), s->name, error));
  BPDQ_TRY(bpdq_gpu_clear(gpu, gpu->flag, 1, sizeof *gpu->flag, s->name, error));
  BPDQ_TRY(finish_sum(gpu, s, &s->hessian_sum, s->columns, true, NULL, &s->hessian, error));
  BPDQ_TRY(finish_sum(gpu, s, &s->cross_sum, s->columns, false, s->hessian, &s->cross, error));
  BPDQ_TRY(finish_sum(gpu, s, &s->residual_sum, s->residual_rows, false, NULL, &s->residual, error));
  int not_finite = 0;
  BPDQ_TRY(bpdq_gpu_download(gpu, &not_finite, gpu->flag, 1, sizeof not_finite, s->name, error));
  if (not_finite)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: its inputs are not all finite (NaN or infinity in the activations or the Hessian)",
                     s->name);
  return read_diagonal(gpu, s, error);
}

bpdq_status bpdq_gpu_statistics_read(bpdq_algebra *algebra, const bpdq_statistics *statistics, float *hessian, float *cross,
                                     float *residual, bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  const bpdq_statistics *s = statistics;
  int64_t square = s->columns * s->columns;
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(gpu->device), s->name, error));
  if (hessian) BPDQ_TRY(bpdq_gpu_download(gpu, hessian, s->hessian, square, sizeof *hessian, s->name, error));
  if (residual && s->residual)
    BPDQ_TRY(bpdq_gpu_download(gpu, residual, s->residual, s->residual_rows * s->columns, sizeof *residual, s->name, error));
  if (!cross || !s->cross) return BPDQ_OK;
  float *copy = bpdq_alloc_array((size_t)square, sizeof *copy); /* what is stored is C - H */
  if (!copy) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", s->name);
  bpdq_status status = bpdq_gpu_download(gpu, copy, s->hessian, square, sizeof *copy, s->name, error);
  if (status == BPDQ_OK) status = bpdq_gpu_download(gpu, cross, s->cross, square, sizeof *cross, s->name, error);
  for (int64_t i = 0; i < square && status == BPDQ_OK; i++) cross[i] += copy[i];
  free(copy);
  return status;
}
