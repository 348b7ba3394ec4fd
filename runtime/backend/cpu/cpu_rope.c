/* Rotation of queries and keys, and the writes to the KV cache. */
#include <string.h>

#include "backend/cpu/cpu.h"

typedef struct rope_job {
  bpdq_executable *executable;
  const bpdq_op_rope_cache *op;
  const bpdq_run *run;
} rope_job;

void cpu_rope_cache_needs(const bpdq_op_rope_cache *op, cpu_needs *needs) {
  cpu_raise(&needs->per_thread_bytes, (uint64_t)op->head_dim * 4);
}

static void rotate(const rope_job *job, const bpdq_weight *norm, const float *table, float *head) {
  const bpdq_op_rope_cache *op = job->op;
  const cpu_kernels *kernels = job->executable->backend->kernels;
  int64_t half = op->head_dim / 2;
  if (norm) {
    bpdq_transform transform = {BPDQ_TRANSFORM_RMS_NORM, norm, op->norm_epsilon};
    cpu_transform_row(kernels, &transform, head, op->head_dim, head);
  }
  for (int64_t i = 0; i < half; i++) {
    float a = head[i], b = head[half + i], c = table[i], s = table[half + i];
    head[i] = a * c - b * s;
    head[half + i] = b * c + a * s;
  }
}

/* Returns the scale. */
static float quantize(const cpu_kernels *kernels, const float *x, int64_t count, int8_t *out) {
  float largest = kernels->largest_magnitude(x, count);
  kernels->round_int8(x, largest > 0 ? 127.0f / largest : 0, count, out);
  return largest / 127.0f;
}

/* Keys lie with the 64 positions of a block side by side, values with the dimensions side by side (cpu_kernels.h: attend). */
static void store_key(const cpu_kernels *kernels, const float *key, int64_t head_dim, bpdq_kv_type type, uint8_t *block, int lane,
                      uint16_t *halves) {
  if (type == BPDQ_KV_F16) {
    uint16_t *out = (uint16_t *)(void *)block;
    kernels->store_f16(key, head_dim, halves);
    for (int64_t d = 0; d < head_dim; d++) out[d * CPU_BLOCK + lane] = halves[d];
  } else if (type == BPDQ_KV_F32) {
    float *out = (float *)(void *)block;
    for (int64_t d = 0; d < head_dim; d++) out[d * CPU_BLOCK + lane] = key[d];
  } else {
    float *scales = (float *)(void *)(block + CPU_BLOCK * cpu_padded_dim(head_dim));
    int8_t *bytes = (int8_t *)(void *)halves, *out = (int8_t *)block;
    scales[lane] = quantize(kernels, key, head_dim, bytes);
    for (int64_t d = 0; d < head_dim; d++) out[d * CPU_BLOCK + lane] = bytes[d];
  }
}

static void store_value(const cpu_kernels *kernels, const float *value, int64_t head_dim, bpdq_kv_type type, uint8_t *block, int lane) {
  uint64_t padded = cpu_padded_dim(head_dim);
  if (type == BPDQ_KV_F16) {
    kernels->store_f16(value, head_dim, (uint16_t *)(void *)block + (uint64_t)lane * padded);
  } else if (type == BPDQ_KV_F32) {
    memcpy((float *)(void *)block + (uint64_t)lane * padded, value, (size_t)head_dim * sizeof *value);
  } else {
    float *scales = (float *)(void *)(block + CPU_BLOCK * padded);
    scales[lane] = quantize(kernels, value, head_dim, (int8_t *)block + (uint64_t)lane * padded);
  }
}

static void rope_task(void *context, int64_t token, int thread) {
  const rope_job *job = context;
  const bpdq_op_rope_cache *op = job->op;
  const bpdq_state *state = job->executable->state;
  const cpu_kernels *kernels = job->executable->backend->kernels;
  int64_t position = job->run->positions[token], row = job->run->sequences[token] * op->context + position;
  const float *table = cpu_floats(state, op->rope_table) + position * cpu_columns(state, op->rope_table);
  float *q = cpu_floats(state, op->qkv) + token * cpu_columns(state, op->qkv);
  float *k = q + op->heads * op->head_dim, *v = k + op->kv_heads * op->head_dim;
  const cpu_tensor *k_cache = &state->tensors[op->k_cache], *v_cache = &state->tensors[op->v_cache];
  bpdq_kv_type type = k_cache->desc.kv_type;
  uint64_t bytes = cpu_kv_block_bytes(op->head_dim, type);
  uint16_t *halves =
      (uint16_t *)(void *)(job->executable->scratch.per_thread + (uint64_t)thread * job->executable->scratch.per_thread_bytes);
  for (int64_t h = 0; h < op->heads; h++) rotate(job, op->q_norm, table, q + h * op->head_dim);
  for (int64_t h = 0; h < op->kv_heads; h++) {
    uint64_t at = (uint64_t)(row / CPU_BLOCK * op->kv_heads + h) * bytes;
    rotate(job, op->k_norm, table, k + h * op->head_dim);
    store_key(kernels, k + h * op->head_dim, op->head_dim, type, (uint8_t *)k_cache->data + at, (int)(row % CPU_BLOCK), halves);
    store_value(kernels, v + h * op->head_dim, op->head_dim, type, (uint8_t *)v_cache->data + at, (int)(row % CPU_BLOCK));
  }
}

void cpu_run_rope_cache(bpdq_executable *executable, const bpdq_op_rope_cache *op, const bpdq_run *run) {
  rope_job job = {executable, op, run};
  bpdq_pool_run(executable->backend->pool, run->tokens, rope_task, &job);
}
