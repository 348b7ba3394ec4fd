/* The k largest logits of a row and its log-sum-exp, found in chunks of the vocabulary that are combined afterwards. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"

enum { CHUNK = 8192, STEP = 64, PARALLEL_ROWS = 4 };

/* The best of one chunk, in descending order (ties: lower id first). */
typedef struct selection {
  double sum; /* of exp(logit - largest) */
  float largest;
  int count;
  float values[128];
  int32_t ids[128];
} selection;

typedef struct top_k_job {
  bpdq_executable *executable;
  const bpdq_op_top_k *op;
  int64_t chunks;
} top_k_job;

static int64_t chunk_count(const bpdq_op_top_k *op) { return (op->vocab + CHUNK - 1) / CHUNK; }

/* Up to PARALLEL_ROWS rows are handled at once, with a selection per chunk; with more rows each thread handles whole rows. */
void cpu_top_k_needs(const cpu_backend *backend, const bpdq_op_top_k *op, cpu_needs *needs) {
  int threads = bpdq_pool_threads(backend->pool);
  uint64_t rows = (uint64_t)(threads > PARALLEL_ROWS ? threads : PARALLEL_ROWS);
  cpu_raise(&needs->partial_floats, rows * (uint64_t)chunk_count(op) * sizeof(selection) / 4);
}

static void insert(selection *best, int k, float value, int32_t id) {
  int at = best->count < k ? best->count++ : k - 1;
  for (; at > 0 && best->values[at - 1] < value; at--) {
    best->values[at] = best->values[at - 1];
    best->ids[at] = best->ids[at - 1];
  }
  best->values[at] = value;
  best->ids[at] = id;
}

/* Whether a value that comes after all of best's belongs among the k. NaN and -inf never do. */
static bool belongs(const selection *best, int k, float value) { return best->count < k ? value > -INFINITY : value > best->values[k - 1]; }

static void select_chunk(const top_k_job *job, const float *logits, int64_t chunk, selection *best) {
  const cpu_kernels *kernels = job->executable->backend->kernels;
  int64_t first = chunk * CHUNK, end = first + CHUNK < job->op->vocab ? first + CHUNK : job->op->vocab;
  best->count = 0;
  for (int64_t i = first; i < end; i += STEP) {
    int64_t stop = i + STEP < end ? i + STEP : end;
    if (!belongs(best, job->op->k, kernels->largest(logits + i, stop - i))) continue;
    for (int64_t j = i; j < stop; j++)
      if (belongs(best, job->op->k, logits[j])) insert(best, job->op->k, logits[j], (int32_t)j);
  }
  best->largest = best->count ? best->values[0] : -INFINITY;
  best->sum = best->count ? kernels->sum_exp(logits + first, end - first, best->largest) : 0;
}

static void combine(const top_k_job *job, int64_t row, const selection *chunks) {
  const bpdq_op_top_k *op = job->op;
  const bpdq_state *state = job->executable->state;
  float *values = cpu_floats(state, op->values) + row * cpu_columns(state, op->values);
  int32_t *ids = (int32_t *)state->tensors[op->ids].data + row * cpu_columns(state, op->ids);
  selection best = {.largest = -INFINITY};
  bool finite = false;
  for (int64_t c = 0; c < job->chunks; c++) {
    best.largest = fmaxf(best.largest, chunks[c].largest);
    for (int j = 0; j < chunks[c].count && belongs(&best, op->k, chunks[c].values[j]); j++)
      insert(&best, op->k, chunks[c].values[j], chunks[c].ids[j]);
  }
  for (int64_t c = 0; c < job->chunks; c++)
    if (chunks[c].count) best.sum += chunks[c].sum * exp((double)chunks[c].largest - best.largest);
  for (int j = 0; j < best.count; j++) finite = finite || isfinite(best.values[j]);
  for (int j = 0; j < op->k; j++) {
    bool there = finite && j < best.count;
    values[j] = there ? best.values[j] : -INFINITY;
    ids[j] = there ? best.ids[j] : -1;
  }
  values[op->k] = (float)(best.largest + log(best.sum));
}

static selection *selections(const top_k_job *job, int64_t slot) {
  return (selection *)(void *)job->executable->scratch.partials + slot * job->chunks;
}

static const float *logits_of(const top_k_job *job, int64_t row) {
  return cpu_floats(job->executable->state, job->op->logits) + row * cpu_columns(job->executable->state, job->op->logits);
}

static void chunk_task(void *context, int64_t index, int thread) {
  (void)thread;
  const top_k_job *job = context;
  int64_t row = index / job->chunks, chunk = index % job->chunks;
  select_chunk(job, logits_of(job, row), chunk, &selections(job, row)[chunk]);
}

static void row_task(void *context, int64_t row, int thread) {
  const top_k_job *job = context;
  selection *mine = selections(job, thread);
  for (int64_t chunk = 0; chunk < job->chunks; chunk++) select_chunk(job, logits_of(job, row), chunk, &mine[chunk]);
  combine(job, row, mine);
}

void cpu_run_top_k(bpdq_executable *executable, const bpdq_op_top_k *op, const bpdq_run *run) {
  top_k_job job = {executable, op, chunk_count(op)};
  int64_t rows = op->rows == BPDQ_ROWS_LAST ? 1 : run->tokens;
  if (rows > PARALLEL_ROWS) {
    bpdq_pool_run(executable->backend->pool, rows, row_task, &job);
    return;
  }
  bpdq_pool_run(executable->backend->pool, rows * job.chunks, chunk_task, &job);
  for (int64_t row = 0; row < rows; row++) combine(&job, row, selections(&job, row));
}
