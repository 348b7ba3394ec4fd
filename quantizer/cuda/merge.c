/* Statistics of several devices become those of one, straight from device to device: over NVLink or PCIe where the devices reach each
 * other, else through host memory by the driver. */
#include <string.h>

#include "core/checked.h"
#include "gpu_algebra.h"

enum { PIECE = 1 << 24 }; /* sums of a strip: 128 MiB */

/* Where the devices reach each other directly the pool's memory must be opened for that; where they do not the driver copies by way of the
 * host, so a refusal is no error. */
static void open_pool(const gpu_algebra *gpu, const gpu_algebra *other) {
  struct cudaMemAccessDesc access = {.location = {.type = cudaMemLocationTypeDevice, .id = gpu->device},
                                     .flags = cudaMemAccessFlagsProtReadWrite};
  int reaches = 0;
  if (gpu->device == other->device) return;
  if (cudaDeviceCanAccessPeer(&reaches, gpu->device, other->device) == cudaSuccess && reaches)
    (void)cudaMemPoolSetAccess(other->pool, &access, 1);
  (void)cudaGetLastError();
}

/* Waits for what `from` was made of, and checks that it fits. */
static bpdq_status meet(gpu_algebra *gpu, const bpdq_statistics *s, gpu_algebra *other, const bpdq_statistics *from, bpdq_error *error) {
  if (from->columns != s->columns || from->residual_rows != s->residual_rows)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "%s: statistics of different kinds cannot be merged", s->name);
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(other->device), s->name, error));
  BPDQ_TRY(bpdq_gpu_check(cudaStreamSynchronize(other->stream), s->name, error));
  BPDQ_TRY(bpdq_gpu_check(cudaSetDevice(gpu->device), s->name, error));
  open_pool(gpu, other);
  return BPDQ_OK;
}

static bpdq_status fetch(gpu_algebra *gpu, void *to, const gpu_algebra *other, const void *from, size_t bytes, const char *name,
                         bpdq_error *error) {
  if (gpu->device == other->device) return bpdq_gpu_upload(gpu, to, from, (int64_t)bytes, 1, name, error);
  return bpdq_gpu_check(cudaMemcpyPeerAsync(to, gpu->device, from, other->device, bytes, gpu->stream), name, error);
}

/* sum += from [rows, columns], strip by strip. */
static bpdq_status add_sum(gpu_algebra *gpu, double *sum, const gpu_algebra *other, const double *from, int64_t rows, int64_t columns,
                           const char *name, bpdq_error *error) {
  if (!sum) return BPDQ_OK;
  int64_t limit = PIECE / columns > 1 ? PIECE / columns : 1;
  double *strip = NULL;
  BPDQ_TRY(bpdq_gpu_allocate(gpu, (rows < limit ? rows : limit) * columns, sizeof *strip, name, &strip, error));
  bpdq_status status = BPDQ_OK;
  for (int64_t row = 0; row < rows && status == BPDQ_OK; row += limit) {
    int64_t count = (rows - row < limit ? rows - row : limit) * columns;
    BPDQ_TRY_GOTO(fetch(gpu, strip, other, from + row * columns, (size_t)count * sizeof *strip, name, error), done);
    status = bpdq_gpu_check(bpdq_gpu_add_sums(strip, count, sum + row * columns, gpu->stream), name, error);
  }
done:
  bpdq_gpu_free(gpu, strip);
  return status;
}

bpdq_status bpdq_gpu_statistics_merge(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_algebra *other, const bpdq_statistics *from,
                                      bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra, *there = (gpu_algebra *)other;
  bpdq_statistics *s = statistics;
  int64_t k = s->columns;
  BPDQ_TRY(meet(gpu, s, there, from, error));
  if (!from->hessian_sum || !s->hessian_sum || !from->cross_sum != !s->cross_sum)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "%s: statistics of different kinds cannot be merged", s->name);
  BPDQ_TRY(add_sum(gpu, s->hessian_sum, there, from->hessian_sum, k, k, s->name, error));
  BPDQ_TRY(add_sum(gpu, s->cross_sum, there, from->cross_sum, k, k, s->name, error));
  BPDQ_TRY(add_sum(gpu, s->residual_sum, there, from->residual_sum, s->residual_rows, k, s->name, error));
  s->tokens += from->tokens;
  return bpdq_gpu_check(cudaStreamSynchronize(gpu->stream), s->name, error);
}

/* A finished matrix takes the place of the sums. */
static bpdq_status take_matrix(gpu_algebra *gpu, double **sum, float **to, const gpu_algebra *other, const float *from, int64_t count,
                               const char *name, bpdq_error *error) {
  bpdq_gpu_free(gpu, *sum);
  *sum = NULL;
  if (!from) return BPDQ_OK;
  if (!*to) BPDQ_TRY(bpdq_gpu_allocate(gpu, count, sizeof **to, name, to, error));
  return fetch(gpu, *to, other, from, (size_t)count * sizeof **to, name, error);
}

bpdq_status bpdq_gpu_statistics_copy(bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_algebra *other, const bpdq_statistics *from,
                                     bpdq_error *error) {
  gpu_algebra *gpu = (gpu_algebra *)algebra, *there = (gpu_algebra *)other;
  bpdq_statistics *s = statistics;
  int64_t k = s->columns;
  BPDQ_TRY(meet(gpu, s, there, from, error));
  if (!from->diagonal) return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "%s: only finished statistics can be copied", s->name);
  if (!s->diagonal) s->diagonal = bpdq_alloc_array((size_t)k, sizeof *s->diagonal);
  if (!s->diagonal) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", s->name);
  memcpy(s->diagonal, from->diagonal, (size_t)k * sizeof *s->diagonal);
  BPDQ_TRY(take_matrix(gpu, &s->hessian_sum, &s->hessian, there, from->hessian, k * k, s->name, error));
  BPDQ_TRY(take_matrix(gpu, &s->cross_sum, &s->cross, there, from->cross, k * k, s->name, error));
  BPDQ_TRY(take_matrix(gpu, &s->residual_sum, &s->residual, there, from->residual, s->residual_rows * k, s->name, error));
  s->tokens = from->tokens;
  return bpdq_gpu_check(cudaStreamSynchronize(gpu->stream), s->name, error);
}
