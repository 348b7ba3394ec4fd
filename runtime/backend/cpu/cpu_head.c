/* The output head in 8 bits: half the bytes of what is otherwise the largest matrix of a token, made at load beside the exact rows (which
 * stay mapped from the checkpoint, and are what f32 activations use). Each 64 columns of a row share a bf16 scale that is fixed before the
 * values are rounded, so that its own rounding costs nothing. */
#include <string.h>

#include "backend/cpu/cpu.h"
#include "core/half.h"

typedef struct head_job {
  cpu_backend *backend;
  bpdq_weight *weight;
  int64_t padded;
} head_job;

/* The smallest bf16 that is not below `value`. */
static uint16_t round_up_bf16(float value) {
  uint16_t bits = bpdq_float_to_bf16(value);
  return bpdq_bf16_to_float(bits) < value ? (uint16_t)(bits + 1) : bits;
}

static void quantize_row(void *context, int64_t row, int thread) {
  (void)thread;
  const head_job *job = context;
  const bpdq_weight *weight = job->weight;
  uint8_t *out = weight->head8 + row * cpu_head8_row_bytes(job->padded);
  const cpu_kernels *kernels = job->backend->kernels;
  const uint8_t *stored;
  bpdq_dtype dtype = BPDQ_F32;
  cpu_dense_rows(weight, row, 1, &stored, &dtype);
  for (int64_t first = 0; first < job->padded; first += CPU_HEAD_BLOCK) {
    float values[CPU_HEAD_BLOCK] = {0};
    int64_t count = weight->columns - first < CPU_HEAD_BLOCK ? weight->columns - first : CPU_HEAD_BLOCK;
    if (count > 0) kernels->dense_values(stored, dtype, first, count, values);
    uint16_t scale = round_up_bf16(kernels->largest_magnitude(values, CPU_HEAD_BLOCK) / 127.0f);
    float inverse = bpdq_bf16_to_float(scale) > 0 ? 1.0f / bpdq_bf16_to_float(scale) : 0;
    kernels->round_int8(values, inverse, CPU_HEAD_BLOCK, (int8_t *)out + first);
    memcpy(out + job->padded + first / CPU_HEAD_BLOCK * 2, &scale, sizeof scale);
  }
}

bpdq_status cpu_head8_create(cpu_backend *backend, const char *name, bpdq_weight *weight, bpdq_error *error) {
  head_job job = {backend, weight, cpu_padded_columns(weight)};
  weight->head8_bytes = (uint64_t)weight->rows * (uint64_t)cpu_head8_row_bytes(job.padded);
  BPDQ_TRY(cpu_allocate(backend, weight->head8_bytes, name, &weight->head8, error));
  weight->touched = weight->head8_bytes;
  bpdq_pool_run(backend->pool, weight->rows, quantize_row, &job);
  return BPDQ_OK;
}

void cpu_head8_values(const bpdq_weight *weight, int64_t row, int64_t first_column, int64_t count, float *values) {
  int64_t padded = cpu_padded_columns(weight);
  const uint8_t *data = weight->head8 + row * cpu_head8_row_bytes(padded);
  for (int64_t j = 0; j < count; j++) {
    uint16_t scale;
    memcpy(&scale, data + padded + (first_column + j) / CPU_HEAD_BLOCK * 2, sizeof scale);
    values[j] = (float)(int8_t)data[first_column + j] * bpdq_bf16_to_float(scale);
  }
}
