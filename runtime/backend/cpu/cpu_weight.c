/* Weights: repacking from checkpoint layout, and random ones for benchmarks. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "core/checked.h"
#include "core/half.h"

enum { MAXIMUM_COLUMNS = 1 << 26 };

static float value_at(const uint8_t *data, bpdq_dtype dtype, uint64_t index) {
  uint16_t half;
  if (dtype == BPDQ_F32) {
    float value;
    memcpy(&value, data + 4 * index, sizeof value);
    return value;
  }
  memcpy(&half, data + 2 * index, sizeof half);
  return dtype == BPDQ_BF16 ? bpdq_bf16_to_float(half) : bpdq_f16_to_float(half);
}

/* ---- bit-planes ---- */

typedef struct repack_job {
  const bpdq_weight_desc *desc;
  const cpu_planes *planes;
  int64_t rows;
  bool byte_planar;
  uint64_t seed; /* of a random weight */
  atomic_bool not_finite;
} repack_job;

static void store_coefficient(uint8_t *data, bpdq_dtype dtype, int row, float value) {
  if (dtype == BPDQ_F32) {
    memcpy(data + 4 * row, &value, sizeof value);
  } else {
    uint16_t half = dtype == BPDQ_BF16 ? bpdq_float_to_bf16(value) : bpdq_float_to_f16(value);
    memcpy(data + 2 * row, &half, sizeof half);
  }
}

/* Copies rows [first, first + count) of one part into rows `at`... of a tile. */
static void repack_rows(repack_job *job, const bpdq_weight_part *part, int64_t first, int count, uint8_t *tile, int at) {
  const cpu_planes *planes = job->planes;
  int chunks = planes->group / 32;
  uint64_t size = bpdq_dtype_size(planes->coefficient_type), part_rows = (uint64_t)part->rows;
  const uint8_t *bits = part->data;
  for (int64_t q = 0; q < planes->groups; q++) {
    uint8_t *group = tile + (uint64_t)q * planes->group_bytes;
    for (int p = 0; p < planes->planes; p++)
      for (int c = 0; c < chunks; c++) {
        uint64_t source = ((uint64_t)(q * chunks + c) * (uint64_t)planes->planes + (uint64_t)p) * part_rows + (uint64_t)first;
        uint8_t *chunk = group + (uint64_t)(p * chunks + c) * CPU_CHUNK_BYTES;
        uint32_t words[CPU_TILE];
        memcpy(words, bits + 4 * source, (size_t)count * 4);
        if (!job->byte_planar)
          memcpy(chunk + 4 * at, words, (size_t)count * 4);
        else
          for (int r = 0; r < count; r++)
            for (int j = 0; j < 4; j++) chunk[j * CPU_TILE + at + r] = (uint8_t)(words[r] >> (8 * j));
      }
    uint8_t *stored = group + (uint64_t)(planes->planes * chunks) * CPU_CHUNK_BYTES;
    for (int p = 0; p <= planes->planes; p++) {
      uint64_t source = ((uint64_t)q * (uint64_t)(planes->planes + 1) + (uint64_t)p) * part_rows + (uint64_t)first;
      for (int r = 0; r < count; r++) {
        float value = value_at(part->coefficients, part->coefficient_dtype, source + (uint64_t)r);
        if (!isfinite(value)) atomic_store(&job->not_finite, true);
        store_coefficient(stored + (uint64_t)p * CPU_TILE * size, planes->coefficient_type, at + r, value);
      }
    }
  }
}

static void repack_tile(void *context, int64_t index, int thread) {
  (void)thread;
  repack_job *job = context;
  uint8_t *tile = job->planes->tiles + (uint64_t)index * job->planes->tile_bytes;
  int64_t row = index * CPU_TILE, end = row + CPU_TILE, part_first = 0;
  if (end > job->rows) memset(tile, 0, job->planes->tile_bytes);
  for (int i = 0; i < job->desc->part_count; i++) {
    const bpdq_weight_part *part = &job->desc->parts[i];
    int64_t from = row > part_first ? row : part_first, to = part_first + part->rows < end ? part_first + part->rows : end;
    if (from < to) repack_rows(job, part, from - part_first, (int)(to - from), tile, (int)(from - row));
    part_first += part->rows;
  }
}

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static float random_uniform(uint64_t *state) { return (float)(int32_t)(next_random(state) >> 32) * 0x1p-31f; }

/* Coefficients 2^p / (2^k sqrt(K)) with some spread, and a bias that centres them. */
static void random_tile(void *context, int64_t index, int thread) {
  (void)thread;
  repack_job *job = context;
  const cpu_planes *planes = job->planes;
  uint64_t state = job->seed + (uint64_t)index * 0x632be59bd9b4e019u;
  uint8_t *tile = planes->tiles + (uint64_t)index * planes->tile_bytes;
  uint64_t bits = (uint64_t)planes->planes * (uint64_t)planes->group / 32 * CPU_CHUNK_BYTES;
  uint64_t size = bpdq_dtype_size(planes->coefficient_type);
  float unit = ldexpf(1.0f, -planes->planes) / sqrtf((float)job->desc->columns);
  for (int64_t q = 0; q < planes->groups; q++, tile += planes->group_bytes) {
    for (uint64_t i = 0; i < bits; i += 8) {
      uint64_t value = next_random(&state);
      memcpy(tile + i, &value, sizeof value);
    }
    for (int r = 0; r < CPU_TILE; r++) {
      float total = 0;
      for (int p = 0; p < planes->planes; p++) {
        float value = ldexpf(unit, p) * (1.0f + 0.25f * random_uniform(&state));
        total += value;
        store_coefficient(tile + bits + (uint64_t)p * CPU_TILE * size, planes->coefficient_type, r, value);
      }
      store_coefficient(tile + bits + (uint64_t)planes->planes * CPU_TILE * size, planes->coefficient_type, r, -0.5f * total);
    }
  }
}

/* Sizes of the tiled form. The desc has been checked, so that nothing overflows before the tile count is multiplied in. */
static bool layout_planes(const bpdq_weight_desc *desc, int64_t rows, bool random, cpu_planes *planes, uint64_t *bytes) {
  bpdq_dtype type = random ? BPDQ_BF16 : desc->parts[0].coefficient_dtype;
  for (int i = 1; !random && i < desc->part_count; i++)
    if (desc->parts[i].coefficient_dtype != type) type = BPDQ_F32;
  *planes = (cpu_planes){.planes = desc->planes, .group = desc->group, .coefficient_type = type};
  planes->groups = (desc->columns + desc->group - 1) / desc->group;
  planes->tile_count = (rows + CPU_TILE - 1) / CPU_TILE;
  planes->group_bytes = (uint64_t)desc->planes * (uint64_t)desc->group / 32 * CPU_CHUNK_BYTES +
                        (uint64_t)(desc->planes + 1) * CPU_TILE * bpdq_dtype_size(type);
  planes->tile_bytes = (uint64_t)planes->groups * planes->group_bytes;
  return bpdq_mul_u64((uint64_t)planes->tile_count, planes->tile_bytes, bytes);
}

static bpdq_status make_planes(cpu_backend *backend, const bpdq_weight_desc *desc, bool random, uint64_t seed, bpdq_weight *weight,
                               bpdq_error *error) {
  if (!layout_planes(desc, weight->rows, random, &weight->planes, &weight->bytes))
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "%s is too large", desc->name);
  BPDQ_TRY(cpu_allocate(backend, weight->bytes, desc->name, &weight->memory, error));
  weight->planes.tiles = weight->memory;
  weight->touched = weight->bytes;
  repack_job job = {desc, &weight->planes, weight->rows, backend->kernels->byte_planar, seed, false};
  bpdq_pool_run(backend->pool, weight->planes.tile_count, random ? random_tile : repack_tile, &job);
  if (!atomic_load(&job.not_finite)) return BPDQ_OK;
  return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: a coefficient is NaN or infinite; the checkpoint is damaged", desc->name);
}

/* ---- dense matrices and vectors ---- */

static bpdq_status make_dense(cpu_backend *backend, const bpdq_weight_desc *desc, bpdq_weight *weight, bpdq_error *error) {
  uint64_t at = 0;
  weight->parts = calloc((size_t)desc->part_count, sizeof *weight->parts);
  if (!weight->parts) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for %s", desc->name);
  weight->part_count = desc->part_count;
  for (int i = 0; i < desc->part_count; i++)
    weight->touched += (uint64_t)desc->parts[i].rows * (uint64_t)desc->columns * bpdq_dtype_size(desc->parts[i].dtype);
  if (!desc->data_outlives_weight) {
    BPDQ_TRY(cpu_allocate(backend, weight->touched, desc->name, &weight->memory, error));
    weight->bytes = weight->touched;
  }
  for (int i = 0; i < desc->part_count; i++) {
    const bpdq_weight_part *part = &desc->parts[i];
    uint64_t bytes = (uint64_t)part->rows * (uint64_t)desc->columns * bpdq_dtype_size(part->dtype);
    weight->parts[i] = (cpu_dense_part){part->rows, part->data, part->dtype};
    if (!weight->memory) continue;
    memcpy(weight->memory + at, part->data, bytes);
    weight->parts[i].data = weight->memory + at;
    at += bytes;
  }
  return BPDQ_OK;
}

typedef struct random_dense_job {
  uint16_t *values;
  int64_t columns;
  uint64_t seed;
} random_dense_job;

static void random_row(void *context, int64_t row, int thread) {
  (void)thread;
  const random_dense_job *job = context;
  uint64_t state = job->seed + (uint64_t)row * 0x632be59bd9b4e019u;
  float unit = 1.0f / sqrtf((float)job->columns);
  for (int64_t j = 0; j < job->columns; j++) job->values[row * job->columns + j] = bpdq_float_to_bf16(unit * random_uniform(&state));
}

static bpdq_status make_random_dense(cpu_backend *backend, const bpdq_weight_desc *desc, uint64_t seed, bpdq_weight *weight,
                                     bpdq_error *error) {
  weight->parts = calloc(1, sizeof *weight->parts);
  if (!weight->parts) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for %s", desc->name);
  weight->part_count = 1;
  weight->bytes = weight->touched = (uint64_t)weight->rows * (uint64_t)weight->columns * 2;
  BPDQ_TRY(cpu_allocate(backend, weight->bytes, desc->name, &weight->memory, error));
  weight->parts[0] = (cpu_dense_part){weight->rows, weight->memory, BPDQ_BF16};
  random_dense_job job = {(uint16_t *)(void *)weight->memory, weight->columns, seed};
  bpdq_pool_run(backend->pool, weight->rows, random_row, &job);
  return BPDQ_OK;
}

static bpdq_status make_vector(cpu_backend *backend, const bpdq_weight_desc *desc, bool random, uint64_t seed, bpdq_weight *weight,
                               bpdq_error *error) {
  weight->bytes = weight->touched = (uint64_t)weight->rows * 4;
  BPDQ_TRY(cpu_allocate(backend, weight->bytes, desc->name, &weight->memory, error));
  weight->vector = (float *)(void *)weight->memory;
  int64_t at = 0;
  for (int i = 0; i < desc->part_count; i++)
    for (int64_t r = 0; r < desc->parts[i].rows; r++)
      weight->vector[at++] =
          random ? 1.0f + 0.1f * random_uniform(&seed) : value_at(desc->parts[i].data, desc->parts[i].dtype, (uint64_t)r);
  return BPDQ_OK;
}

int64_t cpu_padded_columns(const bpdq_weight *weight) {
  uint64_t columns = (uint64_t)weight->columns;
  if (weight->kind == BPDQ_WEIGHT_PLANES) columns = (uint64_t)weight->planes.groups * (uint64_t)weight->planes.group;
  return (int64_t)bpdq_round_up(columns, CPU_HEAD_BLOCK);
}

int cpu_dense_rows(const bpdq_weight *weight, int64_t row, int wanted, const uint8_t **rows, bpdq_dtype *dtype) {
  for (int i = 0; i < weight->part_count; i++) {
    const cpu_dense_part *part = &weight->parts[i];
    if (row < part->rows) {
      int count = part->rows - row < wanted ? (int)(part->rows - row) : wanted;
      uint64_t bytes = (uint64_t)weight->columns * bpdq_dtype_size(part->dtype);
      for (int r = 0; r < count; r++) rows[r] = part->data + (uint64_t)(row + r) * bytes;
      *dtype = part->dtype;
      return count;
    }
    row -= part->rows;
  }
  return 0;
}

/* ---- creation ---- */

static bool is_float(bpdq_dtype type) { return type == BPDQ_F32 || type == BPDQ_F16 || type == BPDQ_BF16; }

static bool sound_part(const bpdq_weight_desc *desc, const bpdq_weight_part *part, bool random) {
  if (part->rows < 1 || part->rows > INT32_MAX) return false;
  if (random) return true;
  if (!part->data) return false;
  if (desc->kind == BPDQ_WEIGHT_PLANES) return part->dtype == BPDQ_I32 && part->coefficients && is_float(part->coefficient_dtype);
  return is_float(part->dtype);
}

static bpdq_status check_desc(const bpdq_weight_desc *desc, bool random, int64_t *rows, bpdq_error *error) {
  bool sound = desc->part_count >= 1 && desc->parts && desc->columns >= 1 && desc->columns <= MAXIMUM_COLUMNS;
  if (sound && desc->kind == BPDQ_WEIGHT_VECTOR) sound = desc->columns == 1;
  if (sound && desc->kind == BPDQ_WEIGHT_PLANES)
    sound = desc->planes >= 1 && desc->planes <= 8 && desc->group >= 32 && desc->group <= 256 && desc->group % 32 == 0;
  *rows = 0;
  for (int i = 0; sound && i < desc->part_count; i++) {
    sound = sound_part(desc, &desc->parts[i], random) && *rows <= INT32_MAX - desc->parts[i].rows;
    if (sound) *rows += desc->parts[i].rows;
  }
  if (sound) return BPDQ_OK;
  return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED,
                   "%s: a weight of this shape or type does not run on the CPU (columns %lld, planes %d, group %d)", desc->name,
                   (long long)desc->columns, desc->planes, desc->group);
}

static bpdq_status create_weight(cpu_backend *backend, const bpdq_weight_desc *desc, bool random, uint64_t seed, bpdq_weight **result,
                                 bpdq_error *error) {
  *result = NULL;
  int64_t rows;
  BPDQ_TRY(check_desc(desc, random, &rows, error));
  bpdq_weight *weight = calloc(1, sizeof *weight);
  if (!weight) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for %s", desc->name);
  weight->kind = desc->kind;
  weight->rows = rows;
  weight->columns = desc->columns;
  bpdq_status status;
  if (desc->kind == BPDQ_WEIGHT_PLANES)
    status = make_planes(backend, desc, random, seed, weight, error);
  else if (desc->kind == BPDQ_WEIGHT_VECTOR)
    status = make_vector(backend, desc, random, seed, weight, error);
  else if (random)
    status = make_random_dense(backend, desc, seed, weight, error);
  else
    status = make_dense(backend, desc, weight, error);
  if (status == BPDQ_OK && desc->kind == BPDQ_WEIGHT_DENSE && desc->is_head) status = cpu_head8_create(backend, desc->name, weight, error);
  if (status != BPDQ_OK) {
    cpu_weight_destroy(&backend->base, weight);
    return status;
  }
  *result = weight;
  return BPDQ_OK;
}

bpdq_status cpu_weight_create(bpdq_backend *backend, const bpdq_weight_desc *desc, bpdq_weight **weight, bpdq_error *error) {
  return create_weight((cpu_backend *)backend, desc, false, 0, weight, error);
}

bpdq_status cpu_weight_random(bpdq_backend *backend, const bpdq_weight_desc *desc, uint64_t seed, bpdq_weight **weight, bpdq_error *error) {
  return create_weight((cpu_backend *)backend, desc, true, seed, weight, error);
}

void cpu_weight_destroy(bpdq_backend *backend, bpdq_weight *weight) {
  if (!weight) return;
  cpu_release((cpu_backend *)backend, weight->memory, weight->bytes);
  cpu_release((cpu_backend *)backend, weight->head8, weight->head8_bytes);
  free(weight->parts);
  free(weight);
}

uint64_t cpu_weight_bytes(const bpdq_weight *weight) { return weight->touched; }
