/* Coordinate descent, block by block of columns. A block's residual Hd (T - Q) comes fresh from one matrix product that reads T - Q once
 * and writes little, so that no error builds up in it and a block costs half the traffic of updating the residual of all columns. */
#include "gpu_algebra.h"

bpdq_status bpdq_gpu_need_error(gpu_algebra *gpu, bpdq_work *work, bpdq_error *error) {
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(gpu->device), work->name, error));
  BPDQ_TRY(bpdq_gpu_need_metric(gpu, (bpdq_inputs *)work->inputs, error));
  if (work->error_valid) return BPDQ_OK;
  BPDQ_TRY(bpdq_gpu_check(bpdq_gpu_difference(&work->state, work->target, false, NULL, 0, work->error, gpu->stream), work->name, error));
  work->error_valid = true;
  return BPDQ_OK;
}

bpdq_status bpdq_gpu_residual_block(gpu_algebra *gpu, bpdq_work *work, const float *matrix, int64_t n, int64_t begin, int64_t count,
                                    int *splits, bpdq_error *error) {
  const float one = 1, zero = 0;
  int64_t stride = work->state.stride;
  *splits = n % work->splits ? 1 : work->splits;
  int64_t depth = n / *splits;
  /* cuBLAS counts by columns: the block's transpose is error^T matrix^T. */
  return bpdq_gpu_check_blas(
      gpu->libraries.sgemm_strided_batched(gpu->blas, CUBLAS_OP_N, CUBLAS_OP_N, (int)stride, (int)count, (int)depth, &one, work->error,
                                           (int)stride, depth * stride, matrix + begin * n, (int)n, depth, &zero, work->residual,
                                           (int)stride, count * stride, *splits),
      work->name, error);
}

bpdq_status bpdq_gpu_sweep(bpdq_algebra *algebra, bpdq_work *work, int64_t *changed, bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra;
  const float *metric;
  int64_t n = work->state.padded;
  unsigned long long *counter = NULL, count_of_changes = 0;
  *changed = 0;
  BPDQ_TRY(bpdq_gpu_need_error(gpu, work, error));
  metric = work->inputs->metric;
  BPDQ_TRY(bpdq_gpu_allocate(gpu, 1, sizeof *counter, work->name, &counter, error));
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_gpu_clear(gpu, counter, 1, sizeof *counter, work->name, error), done);
  for (int64_t begin = 0; begin < n; begin += BPDQ_GPU_SWEEP_BLOCK) {
    int64_t count = n - begin < BPDQ_GPU_SWEEP_BLOCK ? n - begin : BPDQ_GPU_SWEEP_BLOCK;
    int splits;
    BPDQ_TRY_GOTO(bpdq_gpu_residual_block(gpu, work, metric, n, begin, count, &splits, error), done);
    BPDQ_TRY_GOTO(
        bpdq_gpu_check(bpdq_gpu_sweep_block(&work->state, metric, work->residual, splits, begin, count, work->error, counter, gpu->stream),
                       work->name, error),
        done);
  }
  BPDQ_TRY_GOTO(bpdq_gpu_download(gpu, &count_of_changes, counter, 1, sizeof *counter, work->name, error), done);
  *changed = (int64_t)count_of_changes;
done:
  bpdq_gpu_free(gpu, counter);
  return status;
}
