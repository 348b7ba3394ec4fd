/* Weights: checked, uploaded piece by piece, repacked on the device. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "core/half.h"
#include "internal.h"

#define MAX_ROWS ((int64_t)1 << 28)
#define MAX_COLUMNS ((int64_t)1 << 22)

static int dtype_of(bpdq_dtype type) { return type == BPDQ_F32 ? BPDQ_CUDA_F32 : type == BPDQ_F16 ? BPDQ_CUDA_F16 : BPDQ_CUDA_BF16; }
static size_t size_of(int type) { return type == BPDQ_CUDA_F32 ? 4 : type == BPDQ_CUDA_Q8 ? 1 : 2; }

static bpdq_status check_desc(const bpdq_weight_desc *desc, bool with_data, int64_t *rows, bpdq_error *error) {
  *rows = 0;
  if (desc->part_count < 1 || desc->columns < 1 || desc->columns > MAX_COLUMNS)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "%s: a weight of %d parts and %lld columns", desc->name, desc->part_count,
                     (long long)desc->columns);
  if (desc->kind == BPDQ_WEIGHT_PLANES &&
      (desc->planes < 1 || desc->planes > 8 || desc->group < 32 || desc->group > 256 || desc->group % 32))
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "%s: %d planes with groups of %d; planes are 1 to 8, groups 32 to 256 in steps of 32",
                     desc->name, desc->planes, desc->group);
  for (int i = 0; i < desc->part_count; i++) {
    const bpdq_weight_part *part = &desc->parts[i];
    bool dtype_fits =
        desc->kind == BPDQ_WEIGHT_PLANES ? part->dtype == BPDQ_I32 && part->coefficient_dtype != BPDQ_I32 : part->dtype != BPDQ_I32;
    bool complete = !with_data || (part->data && (desc->kind != BPDQ_WEIGHT_PLANES || part->coefficients));
    if (part->rows < 1 || part->rows > MAX_ROWS - *rows || (with_data && !dtype_fits) || !complete)
      return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "%s: part %d with %lld rows cannot be loaded", desc->name, i, (long long)part->rows);
    *rows += part->rows;
  }
  return BPDQ_OK;
}

/* The type that holds all parts without loss. */
static int common_type(const bpdq_weight_desc *desc, bool coefficients) {
  int type = -1;
  for (int i = 0; i < desc->part_count; i++) {
    int part = dtype_of(coefficients ? desc->parts[i].coefficient_dtype : desc->parts[i].dtype);
    type = type < 0 || type == part ? part : BPDQ_CUDA_F32;
  }
  return type;
}

/* ---- layout: sizes and pointers of one allocation per weight ---- */

static uint64_t lay_out_planes(bpdq_weight *w, const bpdq_weight_desc *desc, int coefficient_type, uint64_t *coefficients_at) {
  bpdq_cuda_planes *p = &w->planes;
  int64_t groups = (int64_t)bpdq_ceil_div((uint64_t)desc->columns, (uint64_t)desc->group);
  *p = (bpdq_cuda_planes){.planes = desc->planes, .group = desc->group, .rows = w->rows, .columns = w->columns, .half_scale = 1};
  p->coefficient_type = coefficient_type;
  p->column_tiles = (int64_t)bpdq_ceil_div((uint64_t)groups * (uint64_t)desc->group, 256);
  p->groups = (int64_t)bpdq_ceil_div((uint64_t)p->column_tiles * 256, (uint64_t)desc->group);
  uint64_t row_tiles = bpdq_ceil_div((uint64_t)w->rows, 16);
  uint64_t words = row_tiles * (uint64_t)p->column_tiles * (uint64_t)p->planes * 512;
  *coefficients_at = words;
  return words + row_tiles * (uint64_t)p->groups * (uint64_t)(p->planes + 1) * 16 * size_of(coefficient_type);
}

static uint64_t lay_out_dense(bpdq_weight *w, int type, uint64_t *scales_at) {
  w->dense = (bpdq_cuda_dense){.type = type, .rows = w->rows, .columns = w->columns};
  w->dense.stride = (int64_t)bpdq_round_up((uint64_t)w->columns, type == BPDQ_CUDA_Q8 ? 256 : 64);
  uint64_t rows = type == BPDQ_CUDA_Q8 ? bpdq_round_up((uint64_t)w->rows, 16) : (uint64_t)w->rows;
  uint64_t numbers = rows * (uint64_t)w->dense.stride * size_of(type);
  *scales_at = numbers = bpdq_round_up(numbers, 256);
  return numbers + (type == BPDQ_CUDA_Q8 ? rows * (uint64_t)(w->dense.stride / 256) * 4 : 0);
}

static bpdq_status allocate_weight(cuda_backend *backend, const bpdq_weight_desc *desc, int64_t rows, int type, bpdq_weight **result,
                                   bpdq_error *error) {
  bpdq_weight *w = calloc(1, sizeof *w);
  if (!w) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", desc->name);
  w->kind = desc->kind;
  w->rows = rows;
  w->columns = desc->columns;
  uint64_t second = 0;
  if (desc->kind == BPDQ_WEIGHT_PLANES)
    w->bytes = lay_out_planes(w, desc, type, &second);
  else if (desc->kind == BPDQ_WEIGHT_DENSE)
    w->bytes = lay_out_dense(w, type, &second);
  else
    w->bytes = (uint64_t)rows * 4;
  bpdq_status status = cuda_allocate(backend, w->bytes, desc->name, &w->memory, &w->charged, error);
  if (status != BPDQ_OK) {
    free(w);
    return status;
  }
  w->planes.words = w->memory;
  w->planes.coefficients = (char *)w->memory + second;
  w->dense.data = w->memory;
  w->dense.scales = (const float *)((char *)w->memory + second);
  *result = w;
  return BPDQ_OK;
}

/* A power of two that brings the largest coefficient to [8, 16): room for the sum of eight, and far from subnormal. */
static float half_scale_for(float largest) {
  int exponent;
  if (!(largest > 0)) return 1;
  frexpf(largest, &exponent);
  int shift = 4 - exponent;
  return ldexpf(1.0f, shift < -100 ? -100 : shift > 100 ? 100 : shift);
}

/* ---- upload ---- */

static bpdq_status upload_words(cuda_backend *backend, const bpdq_weight_desc *desc, const bpdq_weight *w, int64_t n_first,
                                const bpdq_weight_part *part, bpdq_error *error) {
  int64_t groups = (desc->columns + desc->group - 1) / desc->group, words = groups * desc->group / 32, planes = desc->planes;
  /* Whole column tiles (8 words) of all rows where they fit a slot, else of some rows. */
  int64_t slot = (int64_t)STAGING_SLOT_BYTES / 4, n_step = part->rows, t_step = slot / (planes * n_step) / 8 * 8;
  if (t_step < 8) {
    t_step = 8;
    n_step = slot / (planes * 8) / 16 * 16;
  }
  for (int64_t t = 0; t < words; t += t_step) {
    int64_t t_count = words - t < t_step ? words - t : t_step;
    for (int64_t n = 0; n < part->rows; n += n_step) {
      int64_t n_count = part->rows - n < n_step ? part->rows - n : n_step;
      const char *source = (const char *)part->data + (t * planes * part->rows + n) * 4;
      cuda_slot *slot;
      BPDQ_TRY(cuda_stage(backend, source, (size_t)(t_count * planes), (size_t)n_count * 4, (size_t)part->rows * 4, &slot, error));
      cudaError_t result = bpdq_cuda_repack_words(backend->staging.stream, slot->device, t, t_count, n_first + n, n_count, &w->planes);
      BPDQ_TRY(cuda_check(result, error, "repacking planes"));
      BPDQ_TRY(cuda_staging_done(backend, error));
    }
  }
  return BPDQ_OK;
}

static bpdq_status upload_coefficients(cuda_backend *backend, const bpdq_weight_desc *desc, const bpdq_weight *w, int64_t n_first,
                                       const bpdq_weight_part *part, bpdq_error *error) {
  int64_t groups = (desc->columns + desc->group - 1) / desc->group, slots = desc->planes + 1;
  int64_t size = (int64_t)bpdq_dtype_size(part->coefficient_dtype), room = (int64_t)STAGING_SLOT_BYTES / size;
  int64_t n_step = part->rows, step = room / (slots * n_step);
  if (step < 1) {
    step = 1;
    n_step = room / slots;
  }
  for (int64_t group = 0; group < groups; group += step) {
    int64_t count = groups - group < step ? groups - group : step;
    for (int64_t n = 0; n < part->rows; n += n_step) {
      int64_t n_count = part->rows - n < n_step ? part->rows - n : n_step;
      const char *source = (const char *)part->coefficients + (group * slots * part->rows + n) * size;
      cuda_slot *slot;
      BPDQ_TRY(cuda_stage(backend, source, (size_t)(count * slots), (size_t)(n_count * size), (size_t)(part->rows * size), &slot, error));
      cudaError_t result = bpdq_cuda_repack_coefficients(backend->staging.stream, slot->device, dtype_of(part->coefficient_dtype), group,
                                                         count, n_first + n, n_count, &w->planes);
      BPDQ_TRY(cuda_check(result, error, "repacking coefficients"));
      BPDQ_TRY(cuda_staging_done(backend, error));
    }
  }
  return BPDQ_OK;
}

static bpdq_status upload_planes(cuda_backend *backend, const bpdq_weight_desc *desc, bpdq_weight *w, bpdq_error *error) {
  float largest = 0;
  BPDQ_TRY(bpdq_check_coefficients(backend->pool, desc, &largest, error));
  w->planes.half_scale = half_scale_for(largest);
  BPDQ_TRY(cuda_check(cudaMemsetAsync(w->memory, 0, w->bytes, backend->staging.stream), error, "clearing a weight"));
  int64_t n = 0;
  for (int i = 0; i < desc->part_count; n += desc->parts[i++].rows) {
    BPDQ_TRY(upload_coefficients(backend, desc, w, n, &desc->parts[i], error));
    BPDQ_TRY(upload_words(backend, desc, w, n, &desc->parts[i], error));
  }
  return BPDQ_OK;
}

static bpdq_status upload_dense(cuda_backend *backend, const bpdq_weight_desc *desc, const bpdq_weight *w, bpdq_error *error) {
  cudaStream_t stream = backend->staging.stream;
  if (w->dense.stride != w->columns) BPDQ_TRY(cuda_check(cudaMemsetAsync(w->memory, 0, w->bytes, stream), error, "clearing a weight"));
  int64_t n_first = 0;
  for (int i = 0; i < desc->part_count; i++) {
    const bpdq_weight_part *part = &desc->parts[i];
    int64_t row_bytes = desc->columns * (int64_t)bpdq_dtype_size(part->dtype), step = (int64_t)STAGING_SLOT_BYTES / row_bytes;
    if (step < 1) return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "%s: rows of %lld bytes are too long", desc->name, (long long)row_bytes);
    for (int64_t n = 0; n < part->rows; n += step) {
      int64_t count = part->rows - n < step ? part->rows - n : step;
      cuda_slot *slot;
      BPDQ_TRY(
          cuda_stage(backend, (const char *)part->data + n * row_bytes, (size_t)count, (size_t)row_bytes, (size_t)row_bytes, &slot, error));
      cudaError_t result = bpdq_cuda_repack_dense(stream, slot->device, dtype_of(part->dtype), n_first + n, count, &w->dense);
      BPDQ_TRY(cuda_check(result, error, "repacking a matrix"));
      BPDQ_TRY(cuda_staging_done(backend, error));
    }
    n_first += part->rows;
  }
  return BPDQ_OK;
}

static void to_floats(const bpdq_weight_part *part, int64_t first, int64_t count, float *values) {
  const char *source = (const char *)part->data + first * (int64_t)bpdq_dtype_size(part->dtype);
  if (part->dtype == BPDQ_F32) memcpy(values, source, (size_t)count * 4);
  for (int64_t i = 0; i < count && part->dtype != BPDQ_F32; i++) {
    uint16_t bits;
    memcpy(&bits, source + i * 2, 2);
    values[i] = part->dtype == BPDQ_F16 ? bpdq_f16_to_float(bits) : bpdq_bf16_to_float(bits);
  }
}

static bpdq_status upload_vector(cuda_backend *backend, const bpdq_weight_desc *desc, const bpdq_weight *w, bpdq_error *error) {
  const int64_t step = (int64_t)(STAGING_SLOT_BYTES / sizeof(float));
  float *target = w->memory;
  for (int i = 0; i < desc->part_count; i++) {
    const bpdq_weight_part *part = &desc->parts[i];
    for (int64_t n = 0; n < part->rows; n += step) {
      int64_t count = part->rows - n < step ? part->rows - n : step;
      cuda_slot *slot;
      BPDQ_TRY(cuda_staging_next(backend, &slot, error));
      to_floats(part, n, count, slot->host);
      cudaError_t result = cudaMemcpyAsync(target, slot->host, (size_t)count * 4, cudaMemcpyHostToDevice, backend->staging.stream);
      BPDQ_TRY(cuda_check(result, error, "uploading a vector"));
      BPDQ_TRY(cuda_staging_done(backend, error));
      target += count;
    }
  }
  return BPDQ_OK;
}

bpdq_status cuda_weight_create(bpdq_backend *base, const bpdq_weight_desc *desc, bpdq_weight **weight, bpdq_error *error) {
  cuda_backend *backend = (cuda_backend *)base;
  *weight = NULL;
  int64_t rows;
  BPDQ_TRY(check_desc(desc, true, &rows, error));
  BPDQ_TRY(cuda_check(cudaSetDevice(backend->device), error, "selecting the device"));
  int type = common_type(desc, desc->kind == BPDQ_WEIGHT_PLANES);
  if (desc->kind == BPDQ_WEIGHT_DENSE && desc->is_head) type = BPDQ_CUDA_Q8;
  bpdq_weight *w;
  BPDQ_TRY(allocate_weight(backend, desc, rows, type, &w, error));
  bpdq_status status = desc->kind == BPDQ_WEIGHT_PLANES  ? upload_planes(backend, desc, w, error)
                       : desc->kind == BPDQ_WEIGHT_DENSE ? upload_dense(backend, desc, w, error)
                                                         : upload_vector(backend, desc, w, error);
  if (status != BPDQ_OK) {
    cuda_weight_destroy(base, w);
    return status;
  }
  *weight = w;
  return BPDQ_OK;
}

static cudaError_t fill_randomly(cuda_backend *backend, const bpdq_weight *w, uint64_t seed) {
  cudaStream_t stream = backend->staging.stream;
  float magnitude = 1.0f / sqrtf((float)w->columns);
  if (w->kind == BPDQ_WEIGHT_VECTOR) return bpdq_cuda_fill_f32(stream, w->memory, (uint64_t)w->rows, 1);
  if (w->kind == BPDQ_WEIGHT_PLANES) {
    uint64_t words = (uint64_t)((const char *)w->planes.coefficients - (const char *)w->planes.words);
    cudaError_t result = bpdq_cuda_random_words(stream, w->memory, words / 4, seed);
    if (result != cudaSuccess) return result;
    return bpdq_cuda_random_numbers(stream, (void *)w->planes.coefficients, w->planes.coefficient_type, (w->bytes - words) / 2, magnitude,
                                    seed + 1);
  }
  uint64_t count = (uint64_t)w->rows * (uint64_t)w->dense.stride;
  if (w->dense.type != BPDQ_CUDA_Q8) return bpdq_cuda_random_numbers(stream, w->memory, w->dense.type, count, magnitude, seed);
  cudaError_t result = bpdq_cuda_random_words(stream, w->memory, count / 4, seed);
  if (result != cudaSuccess) return result;
  return bpdq_cuda_fill_f32(stream, (float *)w->dense.scales, bpdq_round_up((uint64_t)w->rows, 16) * (uint64_t)(w->dense.stride / 256),
                            magnitude / 127);
}

bpdq_status cuda_weight_random(bpdq_backend *base, const bpdq_weight_desc *desc, uint64_t seed, bpdq_weight **weight, bpdq_error *error) {
  cuda_backend *backend = (cuda_backend *)base;
  *weight = NULL;
  int64_t rows;
  BPDQ_TRY(check_desc(desc, false, &rows, error));
  BPDQ_TRY(cuda_check(cudaSetDevice(backend->device), error, "selecting the device"));
  int type = desc->is_head && desc->kind == BPDQ_WEIGHT_DENSE ? BPDQ_CUDA_Q8 : BPDQ_CUDA_BF16;
  bpdq_weight *w;
  BPDQ_TRY(allocate_weight(backend, desc, rows, type, &w, error));
  bpdq_status status = cuda_check(fill_randomly(backend, w, seed), error, "making random weights");
  if (status != BPDQ_OK) {
    cuda_weight_destroy(base, w);
    return status;
  }
  w->planes.half_scale = half_scale_for(1.0f / sqrtf((float)w->columns));
  *weight = w;
  return BPDQ_OK;
}

void cuda_weight_destroy(bpdq_backend *base, bpdq_weight *weight) {
  if (!weight) return;
  cuda_backend *backend = (cuda_backend *)base;
  cudaSetDevice(backend->device);
  cudaStreamSynchronize(backend->staging.stream);
  cuda_release(backend, weight->memory, weight->charged);
  free(weight);
}

uint64_t cuda_weight_bytes(const bpdq_weight *weight) { return weight->bytes; }
