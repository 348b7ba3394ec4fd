/* Products. Few tokens: each output is one dot product, planes by table look-up. Many tokens: blocks of 32 rows are dequantized into a
 * panel that stays in the cache and multiplied with all tokens. Every output is computed by one task, so that numbers do not depend on
 * the number of threads. */
#include <string.h>

#include "backend/cpu/cpu.h"
#include "core/checked.h"

enum {
  CPU_DENSE_TOKENS = 12, /* dense rows: up to this many tokens as dot products */
  CPU_CHUNK_TOKENS = 240 /* multiplied at a time: their inputs stay in the second-level cache, results in the first */
};

typedef struct linear_job {
  const bpdq_executable *executable;
  const bpdq_op_linear *op;
  const cpu_kernels *kernels;
  const float *input; /* first input row that takes part */
  float *output;      /* first output column of output row 0 */
  int64_t input_stride, output_stride;
  int64_t tokens;
  int64_t padded; /* columns of a prepared row, with zeros at the end */
  int64_t piece;  /* columns that one task prepares when there is one token */
  int64_t chunk;  /* tokens that one task multiplies when there are many */
  bool head8;     /* read the 8-bit copy of a head */
  float factor;   /* of the RMS norm when there is one token */
  int64_t tiles_per_task, tile_count;
} linear_job;

static bool is_few(const bpdq_weight *weight, int64_t tokens) {
  return tokens <= (weight->kind == BPDQ_WEIGHT_PLANES ? (int64_t)CPU_TABLE_TOKENS : CPU_DENSE_TOKENS);
}

/* Tokens of a chunk: whole blocks, about as many in each. */
static int64_t chunk_tokens(int64_t tokens, int64_t block) {
  int64_t chunks = (tokens + CPU_CHUNK_TOKENS - 1) / CPU_CHUNK_TOKENS;
  return (int64_t)bpdq_round_up((uint64_t)((tokens + chunks - 1) / chunks), (uint64_t)block);
}

static float *thread_memory(const bpdq_executable *executable, int thread) {
  return (float *)(void *)(executable->scratch.per_thread + (uint64_t)thread * executable->scratch.per_thread_bytes);
}

void cpu_linear_needs(const cpu_backend *backend, const bpdq_op_linear *op, int64_t max_tokens, cpu_needs *needs) {
  uint64_t padded = (uint64_t)cpu_padded_columns(op->weight), block = (uint64_t)backend->kernels->token_block;
  uint64_t tokens = op->rows == BPDQ_ROWS_LAST ? 1 : (uint64_t)max_tokens, packed = bpdq_round_up(tokens, block);
  uint64_t chunk = packed < CPU_CHUNK_TOKENS ? packed : bpdq_round_up(CPU_CHUNK_TOKENS, block);
  uint64_t few = tokens < CPU_DENSE_TOKENS ? tokens : CPU_DENSE_TOKENS;
  cpu_raise(&needs->rows_floats, few * padded);
  cpu_raise(&needs->rows_floats, packed * (uint64_t)op->weight->columns);
  if (op->weight->kind == BPDQ_WEIGHT_PLANES) cpu_raise(&needs->table_columns, padded);
  cpu_raise(&needs->per_thread_bytes, padded * 4 * 4); /* transformed rows before they are packed */
  /* panel, results of a chunk's tokens for 32 rows, and four rows' values on their way into the panel */
  cpu_raise(&needs->per_thread_bytes, 4 * (CPU_PANEL_COLUMNS * CPU_TILE + chunk * CPU_TILE + 4 * CPU_PANEL_COLUMNS));
}

/* ---- few tokens ---- */

static void prepare_columns(const linear_job *job, int64_t token, int64_t first, int64_t end) {
  const bpdq_op_linear *op = job->op;
  const float *input = job->input + token * job->input_stride;
  float *row = job->executable->scratch.rows + token * job->padded;
  int64_t width = op->weight->columns, stop = end < width ? end : width;
  if (first < stop) {
    switch (op->transform.kind) {
      case BPDQ_TRANSFORM_NONE:
        memcpy(row + first, input + first, (size_t)(stop - first) * sizeof *row);
        break;
      case BPDQ_TRANSFORM_RMS_NORM: {
        float factor = job->tokens == 1 ? job->factor : cpu_rms_factor(job->kernels, &op->transform, input, width);
        job->kernels->scale_by(input + first, factor, op->transform.norm->vector + first, stop - first, row + first);
        break;
      }
      case BPDQ_TRANSFORM_SILU_GATE:
        job->kernels->silu_gate(input + first, input + width + first, stop - first, row + first);
        break;
    }
  }
  for (int64_t j = stop > first ? stop : first; j < end; j++) row[j] = 0;
  if (op->weight->kind != BPDQ_WEIGHT_PLANES) return;
  int group = op->weight->planes.group;
  int64_t last = end / group < op->weight->planes.groups ? end / group : op->weight->planes.groups;
  cpu_tables tables = job->executable->scratch.tables[token];
  job->kernels->tabulate(row, group, first / group, last - first / group, &tables);
}

/* One token: a piece of its columns each; several: a row each. */
static void prepare_task(void *context, int64_t index, int thread) {
  (void)thread;
  const linear_job *job = context;
  if (job->tokens > 1) {
    prepare_columns(job, index, 0, job->padded);
  } else {
    int64_t first = index * job->piece, end = first + job->piece;
    prepare_columns(job, 0, first, end < job->padded ? end : job->padded);
  }
}

static void prepare(linear_job *job) {
  bpdq_pool *pool = job->executable->backend->pool;
  const bpdq_op_linear *op = job->op;
  if (job->tokens > 1) {
    bpdq_pool_run(pool, job->tokens, prepare_task, job);
    return;
  }
  int64_t group = op->weight->kind == BPDQ_WEIGHT_PLANES ? op->weight->planes.group : CPU_HEAD_BLOCK;
  job->piece = (int64_t)bpdq_round_up(2048, (uint64_t)group);
  if (op->transform.kind == BPDQ_TRANSFORM_RMS_NORM)
    job->factor = cpu_rms_factor(job->kernels, &op->transform, job->input, op->weight->columns);
  bpdq_pool_run(pool, (job->padded + job->piece - 1) / job->piece, prepare_task, job);
}

static void write_rows(const linear_job *job, int64_t token, int64_t first, int64_t count, const float *y) {
  float *out = job->output + token * job->output_stride + first;
  const float *bias = job->op->bias ? job->op->bias->vector + first : NULL;
  for (int64_t r = 0; r < count; r++) {
    float value = bias ? y[r] + bias[r] : y[r];
    out[r] = job->op->accumulate ? out[r] + value : value;
  }
}

static void planes_task(void *context, int64_t index, int thread) {
  (void)thread;
  const linear_job *job = context;
  const cpu_planes *planes = &job->op->weight->planes;
  int64_t end = (index + 1) * job->tiles_per_task < job->tile_count ? (index + 1) * job->tiles_per_task : job->tile_count;
  for (int64_t tile = index * job->tiles_per_task; tile < end; tile++) {
    int64_t first = tile * CPU_TILE, rows = job->op->weight->rows - first < CPU_TILE ? job->op->weight->rows - first : CPU_TILE;
    for (int64_t token = 0; token < job->tokens; token++) {
      float y[CPU_TILE] __attribute__((aligned(64)));
      job->kernels->planes_product(planes, planes->tiles + (uint64_t)tile * planes->tile_bytes, &job->executable->scratch.tables[token], y);
      write_rows(job, token, first, rows, y);
    }
  }
}

static void dense_task(void *context, int64_t index, int thread) {
  (void)thread;
  const linear_job *job = context;
  const bpdq_weight *weight = job->op->weight;
  int64_t row = index * job->tiles_per_task * CPU_TILE, end = row + job->tiles_per_task * CPU_TILE;
  if (end > weight->rows) end = weight->rows;
  while (row < end) {
    const uint8_t *rows[4];
    bpdq_dtype dtype = BPDQ_F32;
    int count = end - row < 4 ? (int)(end - row) : 4;
    if (job->head8)
      for (int r = 0; r < count; r++) rows[r] = weight->head8 + (row + r) * cpu_head8_row_bytes(job->padded);
    else
      count = cpu_dense_rows(weight, row, count, rows, &dtype);
    for (int64_t token = 0; token < job->tokens; token++) {
      const float *x = job->executable->scratch.rows + token * job->padded;
      float y[4];
      if (job->head8)
        job->kernels->head8_product(rows, count, x, job->padded, y);
      else
        job->kernels->dense_product(rows, count, dtype, x, weight->columns, y);
      write_rows(job, token, row, count, y);
    }
    row += count;
  }
}

/* ---- many tokens ---- */

typedef float quad __attribute__((vector_size(16), aligned(4)));

/* out[j * out_stride + r] = rows[r * stride + j] for four rows r */
static void transpose_rows(const float *rows, int64_t stride, int64_t columns, float *out, int64_t out_stride) {
  int64_t j = 0;
  for (; j + 4 <= columns; j += 4) {
    quad a, b, c, d;
    memcpy(&a, rows + j, sizeof a);
    memcpy(&b, rows + stride + j, sizeof b);
    memcpy(&c, rows + 2 * stride + j, sizeof c);
    memcpy(&d, rows + 3 * stride + j, sizeof d);
    quad ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    quad ef = __builtin_shufflevector(a, b, 2, 6, 3, 7), gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    const quad columns_of[4] = {__builtin_shufflevector(ab, cd, 0, 1, 4, 5), __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
                                __builtin_shufflevector(ef, gh, 0, 1, 4, 5), __builtin_shufflevector(ef, gh, 2, 3, 6, 7)};
    for (int i = 0; i < 4; i++) memcpy(out + (j + i) * out_stride, &columns_of[i], sizeof(quad));
  }
  for (; j < columns; j++)
    for (int r = 0; r < 4; r++) out[j * out_stride + r] = rows[r * stride + j];
}

/* Transforms the rows of one token block and packs them column by column: [columns][token_block]. */
static void pack_task(void *context, int64_t index, int thread) {
  const linear_job *job = context;
  int64_t columns = job->op->weight->columns, block = job->kernels->token_block;
  float *rows = thread_memory(job->executable, thread), *packed = job->executable->scratch.rows + index * block * columns;
  for (int64_t t = 0; t < block; t++) {
    int64_t token = index * block + t;
    float *row = rows + t % 4 * columns;
    if (token < job->tokens)
      cpu_transform_row(job->kernels, &job->op->transform, job->input + token * job->input_stride, columns, row);
    else
      memset(row, 0, (size_t)columns * sizeof *row);
    if (t % 4 == 3) transpose_rows(rows, columns, columns, packed + t - 3, block);
  }
  for (int64_t t = block - block % 4; t < block; t++)
    for (int64_t j = 0; j < columns; j++) packed[j * block + t] = rows[t % 4 * columns + j];
}

/* values: [4][CPU_PANEL_COLUMNS] */
static void dense_panel(const linear_job *job, int64_t tile, int64_t first_column, int64_t columns, float *values, float *panel) {
  const bpdq_weight *weight = job->op->weight;
  for (int r = 0; r < CPU_TILE; r++) {
    const uint8_t *row;
    bpdq_dtype dtype = BPDQ_F32;
    float *of_row = values + r % 4 * CPU_PANEL_COLUMNS;
    if (job->head8 && tile * CPU_TILE + r < weight->rows)
      cpu_head8_values(weight, tile * CPU_TILE + r, first_column, columns, of_row);
    else if (cpu_dense_rows(weight, tile * CPU_TILE + r, 1, &row, &dtype))
      job->kernels->dense_values(row, dtype, first_column, columns, of_row);
    else
      memset(of_row, 0, (size_t)columns * sizeof *of_row);
    if (r % 4 == 3) transpose_rows(values, CPU_PANEL_COLUMNS, columns, panel + r - 3, CPU_TILE);
  }
}

/* One tile of rows times one chunk of tokens; the tasks of a chunk follow each other. */
static void panel_task(void *context, int64_t index, int thread) {
  const linear_job *job = context;
  const bpdq_weight *weight = job->op->weight;
  int64_t tile = index % job->tile_count, first_token = index / job->tile_count * job->chunk;
  int64_t tokens = job->tokens - first_token < job->chunk ? job->tokens - first_token : job->chunk;
  int64_t columns = weight->columns, block = job->kernels->token_block, blocks = (tokens + block - 1) / block;
  const float *packed = job->executable->scratch.rows + first_token * columns;
  float *panel = thread_memory(job->executable, thread), *results = panel + CPU_PANEL_COLUMNS * CPU_TILE;
  float *values = results + blocks * block * CPU_TILE;
  for (int64_t first = 0; first < columns; first += CPU_PANEL_COLUMNS) {
    int64_t count = columns - first < CPU_PANEL_COLUMNS ? columns - first : CPU_PANEL_COLUMNS;
    if (weight->kind == BPDQ_WEIGHT_PLANES)
      job->kernels->planes_panel(&weight->planes, weight->planes.tiles + (uint64_t)tile * weight->planes.tile_bytes, first,
                                 (int64_t)bpdq_round_up((uint64_t)count, 32), panel);
    else
      dense_panel(job, tile, first, count, values, panel);
    for (int64_t b = 0; b < blocks; b++)
      job->kernels->multiply(panel, packed + (b * columns + first) * block, count, first > 0, results + b * block * CPU_TILE);
  }
  int64_t rows = weight->rows - tile * CPU_TILE < CPU_TILE ? weight->rows - tile * CPU_TILE : CPU_TILE;
  for (int64_t t = 0; t < tokens; t++) write_rows(job, first_token + t, tile * CPU_TILE, rows, results + t * CPU_TILE);
}

/* ---- the operation ---- */

/* Enough tasks to keep the threads even, few enough that handing them out costs nothing. */
static int64_t tiles_per_task(int64_t tiles, int threads) {
  int64_t per_task = tiles / ((int64_t)threads * 8);
  return per_task < 1 ? 1 : per_task;
}

void cpu_run_linear(bpdq_executable *executable, const bpdq_op_linear *op, const bpdq_run *run) {
  const bpdq_state *state = executable->state;
  bpdq_pool *pool = executable->backend->pool;
  bool last = op->rows == BPDQ_ROWS_LAST;
  linear_job job = {.executable = executable, .op = op, .kernels = executable->backend->kernels};
  job.tokens = last ? 1 : run->tokens;
  job.input_stride = cpu_columns(state, op->input);
  job.output_stride = cpu_columns(state, op->output);
  job.input = cpu_floats(state, op->input) + (last ? run->tokens - 1 : 0) * job.input_stride;
  job.output = cpu_floats(state, op->output) + op->offset;
  job.padded = cpu_padded_columns(op->weight);
  job.head8 = op->weight->head8 && executable->activations != BPDQ_ACTIVATIONS_F32;
  job.tile_count = (op->weight->rows + CPU_TILE - 1) / CPU_TILE;
  if (is_few(op->weight, job.tokens)) {
    job.tiles_per_task = tiles_per_task(job.tile_count, bpdq_pool_threads(pool));
    prepare(&job);
    int64_t tasks = (job.tile_count + job.tiles_per_task - 1) / job.tiles_per_task;
    bpdq_pool_run(pool, tasks, op->weight->kind == BPDQ_WEIGHT_PLANES ? planes_task : dense_task, &job);
  } else {
    int64_t block = job.kernels->token_block;
    job.chunk = chunk_tokens(job.tokens, block);
    bpdq_pool_run(pool, (job.tokens + block - 1) / block, pack_task, &job);
    bpdq_pool_run(pool, (job.tokens + job.chunk - 1) / job.chunk * job.tile_count, panel_task, &job);
  }
}
