/* Attention over the cache with a running softmax (FlashAttention, arXiv 2205.14135), queries that share a KV head together. Few tokens:
 * a long context is split into pieces of fixed size that are combined afterwards (flash decoding), so that there is work for all threads
 * and numbers still do not depend on how many there are. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "core/checked.h"

enum {
  SPLIT_TOKENS = 16,    /* up to this many tokens the context is split */
  SMALLEST_SPLIT = 512, /* positions */
  MAXIMUM_SPLITS = 64,
  QUERIES_PER_TASK = 16
};

typedef struct attention_job {
  bpdq_executable *executable;
  const bpdq_op_attention *op;
  const bpdq_run *run;
  int64_t group;      /* query heads per KV head */
  int64_t batches;    /* of QUERIES_PER_TASK (token, query head) pairs of one KV head */
  int64_t split_rows; /* positions of a split */
  int64_t splits;     /* 1: results go straight to the output */
  int64_t record;     /* floats of a partial result: accumulator, largest, sum */
} attention_job;

static int64_t split_rows(int64_t context) {
  int64_t rows = (int64_t)bpdq_round_up(((uint64_t)context + MAXIMUM_SPLITS - 1) / MAXIMUM_SPLITS, CPU_BLOCK);
  return rows < SMALLEST_SPLIT ? SMALLEST_SPLIT : rows;
}

void cpu_attention_needs(const bpdq_op_attention *op, int64_t max_tokens, cpu_needs *needs) {
  uint64_t padded = cpu_padded_dim(op->head_dim), tokens = (uint64_t)(max_tokens < SPLIT_TOKENS ? max_tokens : SPLIT_TOKENS);
  uint64_t splits = bpdq_ceil_div((uint64_t)op->context, (uint64_t)split_rows(op->context));
  cpu_raise(&needs->per_thread_bytes, CPU_QUERIES * 2 * padded * 4);
  if (splits > 1) cpu_raise(&needs->partial_floats, tokens * (uint64_t)op->heads * splits * (padded + 2));
}

/* Runs up to CPU_QUERIES queries over one split. pairs are (token * group + head in group) of KV head `kv_head`, all of one sequence. */
static void attend_queries(const attention_job *job, int64_t kv_head, int64_t first_pair, int count, int64_t split, float *memory) {
  const bpdq_op_attention *op = job->op;
  const bpdq_state *state = job->executable->state;
  const cpu_kernels *kernels = job->executable->backend->kernels;
  const cpu_tensor *k = &state->tensors[op->k_cache], *v = &state->tensors[op->v_cache];
  uint64_t bytes = cpu_kv_block_bytes(op->head_dim, k->desc.kv_type), padded = cpu_padded_dim(op->head_dim);
  cpu_queries queries = {.count = count, .head_dim = op->head_dim, .padded_dim = (int64_t)padded};
  int64_t from = INT64_MAX, to = 0;
  memset(memory, 0, CPU_QUERIES * 2 * padded * sizeof *memory);
  for (int q = 0; q < count; q++) {
    int64_t token = (first_pair + q) / job->group, head = kv_head * job->group + (first_pair + q) % job->group;
    const float *query = cpu_floats(state, op->qkv) + token * cpu_columns(state, op->qkv) + head * op->head_dim;
    float *scaled = memory + (uint64_t)q * padded;
    int64_t base = job->run->sequences[token] * op->context, seen = job->run->positions[token] + 1;
    int64_t split_end = job->splits > 1 && (split + 1) * job->split_rows < seen ? (split + 1) * job->split_rows : seen;
    for (int64_t d = 0; d < op->head_dim; d++) scaled[d] = query[d] * op->scale;
    queries.query[q] = scaled;
    queries.accumulator[q] = memory + (CPU_QUERIES + (uint64_t)q) * padded;
    queries.largest[q] = -INFINITY;
    queries.first[q] = base + split * job->split_rows;
    queries.end[q] = base + split_end;
    from = queries.first[q] < from ? queries.first[q] : from;
    to = queries.end[q] > to ? queries.end[q] : to;
  }
  for (int64_t block = from / CPU_BLOCK; block * CPU_BLOCK < to; block++) {
    uint64_t at = (uint64_t)(block * op->kv_heads + kv_head) * bytes;
    kernels->attend(&queries, (const uint8_t *)k->data + at, (const uint8_t *)v->data + at, k->desc.kv_type, block * CPU_BLOCK);
  }
  for (int q = 0; q < count; q++) {
    int64_t token = (first_pair + q) / job->group, head = kv_head * job->group + (first_pair + q) % job->group;
    if (job->splits > 1) {
      float *record = job->executable->scratch.partials + ((token * op->heads + head) * job->splits + split) * job->record;
      memcpy(record, queries.accumulator[q], padded * sizeof *record);
      record[padded] = queries.largest[q];
      record[padded + 1] = queries.sum[q];
    } else {
      float *out = cpu_floats(state, op->output) + token * cpu_columns(state, op->output) + head * op->head_dim;
      for (int64_t d = 0; d < op->head_dim; d++) out[d] = queries.accumulator[q][d] / queries.sum[q];
    }
  }
}

/* One KV head, one batch of its queries, one split. */
static void attention_task(void *context, int64_t index, int thread) {
  const attention_job *job = context;
  float *memory = (float *)(void *)(job->executable->scratch.per_thread + (uint64_t)thread * job->executable->scratch.per_thread_bytes);
  int64_t split = index % job->splits, batch = index / job->splits % job->batches, kv_head = index / job->splits / job->batches;
  int64_t pair = batch * QUERIES_PER_TASK, end = pair + QUERIES_PER_TASK, pairs = job->run->tokens * job->group;
  if (end > pairs) end = pairs;
  while (pair < end) {
    int32_t sequence = job->run->sequences[pair / job->group];
    int count = 1;
    while (count < CPU_QUERIES && pair + count < end && job->run->sequences[(pair + count) / job->group] == sequence) count++;
    attend_queries(job, kv_head, pair, count, split, memory);
    pair += count;
  }
}

/* Combines the splits of one token and query head. */
static void combine_task(void *context, int64_t index, int thread) {
  (void)thread;
  const attention_job *job = context;
  const bpdq_op_attention *op = job->op;
  int64_t token = index / op->heads, head = index % op->heads, padded = job->record - 2;
  const float *records = job->executable->scratch.partials + index * job->splits * job->record;
  float *out =
      cpu_floats(job->executable->state, op->output) + token * cpu_columns(job->executable->state, op->output) + head * op->head_dim;
  float largest = -INFINITY, sum = 0;
  for (int64_t s = 0; s < job->splits; s++) largest = fmaxf(largest, records[s * job->record + padded]);
  if (largest == -INFINITY) largest = 0;
  memset(out, 0, (size_t)op->head_dim * sizeof *out);
  for (int64_t s = 0; s < job->splits; s++) {
    const float *record = records + s * job->record;
    if (s * job->split_rows > job->run->positions[token]) break; /* this row sees nothing of the split */
    float weight = expf(record[padded] - largest);
    sum += record[padded + 1] * weight;
    for (int64_t d = 0; d < op->head_dim; d++) out[d] += record[d] * weight;
  }
  for (int64_t d = 0; d < op->head_dim; d++) out[d] /= sum;
}

void cpu_run_attention(bpdq_executable *executable, const bpdq_op_attention *op, const bpdq_run *run) {
  attention_job job = {.executable = executable, .op = op, .run = run, .group = op->heads / op->kv_heads, .splits = 1};
  job.batches = (run->tokens * job.group + QUERIES_PER_TASK - 1) / QUERIES_PER_TASK;
  job.record = (int64_t)cpu_padded_dim(op->head_dim) + 2;
  job.split_rows = split_rows(op->context);
  if (run->tokens <= SPLIT_TOKENS) {
    int64_t seen = 0;
    for (int64_t t = 0; t < run->tokens; t++) seen = run->positions[t] >= seen ? run->positions[t] + 1 : seen;
    job.splits = (seen + job.split_rows - 1) / job.split_rows;
  }
  bpdq_pool_run(executable->backend->pool, op->kv_heads * job.batches * job.splits, attention_task, &job);
  if (job.splits > 1) bpdq_pool_run(executable->backend->pool, run->tokens * op->heads, combine_task, &job);
}
