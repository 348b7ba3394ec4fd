/* The decoder block of backend/program.h's operations, over OpenBLAS on one thread: windows run side by side. */
#include "cpu/forward.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "model/rope.h"
#include "vector.h"

enum {
  QUERY_BLOCK = 128, /* queries whose scores are held at a time */
  GATE_BLOCK = 256   /* values of the gate per call of the exponential */
};

bpdq_status bpdq_forward_create(const bpdq_config *config, int64_t positions, bpdq_forward *forward, bpdq_error *error) {
  *forward = (bpdq_forward){.config = config, .positions = positions};
  size_t count;
  if (!__builtin_mul_overflow((size_t)positions, (size_t)config->head_dim, &count)) forward->rope = bpdq_alloc_array(count, sizeof(float));
  if (!forward->rope) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory for %lld positions", (long long)positions);
  bpdq_rope_table(&config->rope, config->head_dim, config->context_length, positions, forward->rope);
  return BPDQ_OK;
}

void bpdq_forward_free(bpdq_forward *forward) {
  free(forward->rope);
  *forward = (bpdq_forward){0};
}

int64_t bpdq_forward_scratch(const bpdq_forward *forward) {
  const bpdq_config *c = forward->config;
  int64_t qkv = (c->heads + 2 * c->kv_heads) * c->head_dim;
  int64_t attention = forward->positions * (c->hidden_size + qkv + QUERY_BLOCK);
  int64_t gate = forward->positions * (c->hidden_size + c->intermediate_size);
  return attention > gate ? attention : gate;
}

void bpdq_forward_norm(const bpdq_forward *forward, const float *norm, const float *x, int64_t tokens, float *out) {
  int64_t n = forward->config->hidden_size;
  for (int64_t t = 0; t < tokens; t++, x += n, out += n) {
    double square = 0;
    for (int64_t i = 0; i < n; i++) square += (double)x[i] * (double)x[i];
    float scale = (float)(1 / sqrt(square / (double)n + forward->config->norm_epsilon));
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * scale * norm[i];
  }
}

/* out[:, 0:N] = input W^T + bias, where `stride` is the width of out. */
static void apply_linear(const bpdq_block_linear *linear, const float *input, int64_t tokens, float *out, int64_t stride) {
  for (int64_t t = 0; t < tokens && linear->bias; t++) memcpy(out + t * stride, linear->bias, (size_t)linear->rows * sizeof *out);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)tokens, (int)linear->rows, (int)linear->columns, 1, input, (int)linear->columns,
              linear->weight, (int)linear->columns, linear->bias ? 1 : 0, out, (int)stride);
}

void bpdq_forward_add(const bpdq_block_linear *linear, const float *input, int64_t tokens, float *x) {
  for (int64_t t = 0; t < tokens && linear->bias; t++)
    for (int64_t i = 0; i < linear->rows; i++) x[t * linear->rows + i] += linear->bias[i];
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)tokens, (int)linear->rows, (int)linear->columns, 1, input, (int)linear->columns,
              linear->weight, (int)linear->columns, 1, x, (int)linear->rows);
}

/* Per head: the norm of Qwen3 where there is one, then the rotation by the row of the table ("rotate half"). */
static void rotate_head(const bpdq_forward *forward, const float *norm, int64_t position, float *head) {
  int64_t n = forward->config->head_dim, half = n / 2;
  if (norm) {
    double square = 0;
    for (int64_t i = 0; i < n; i++) square += (double)head[i] * (double)head[i];
    float scale = (float)(1 / sqrt(square / (double)n + forward->config->norm_epsilon));
    for (int64_t i = 0; i < n; i++) head[i] *= scale * norm[i];
  }
  const float *cosine = forward->rope + position * n, *sine = cosine + half;
  for (int64_t i = 0; i < half; i++) {
    float low = head[i], high = head[i + half];
    head[i] = low * cosine[i] - high * sine[i];
    head[i + half] = high * cosine[i] + low * sine[i];
  }
}

/* e^x in place, to one unit in the last place for x <= 88; a polynomial on [-ln 2 / 2, ln 2 / 2] and an exponent put in as bits. */
BPDQ_VECTOR_CLONES void bpdq_exponentials(float *values, int64_t count) {
  const float round = 12582912.0f; /* 1.5 * 2^23: adding and subtracting it rounds to an integer */
  for (int64_t i = 0; i < count; i++) {
    float x = values[i] < -87.0f ? -87.0f : values[i] > 88.0f ? 88.0f : values[i];
    float n = (x * 1.44269504f + round) - round, r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    values[i] = values[i] == values[i] ? p * power : values[i];
  }
}

/* Sixteen partial sums and maxima, so that the order of additions is the same on every vector unit. */
BPDQ_VECTOR_CLONES static float sum_of(const float *values, int64_t count) {
  float partial[16] = {0}, sum = 0;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (int lane = 0; lane < 16; lane++) partial[lane] += values[i + lane];
  for (; i < count; i++) sum += values[i];
  for (int lane = 0; lane < 16; lane++) sum += partial[lane];
  return sum;
}

BPDQ_VECTOR_CLONES static float largest_of(const float *values, int64_t count) {
  float partial[16], largest = values[0];
  for (int lane = 0; lane < 16; lane++) partial[lane] = largest;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (int lane = 0; lane < 16; lane++) partial[lane] = values[i + lane] > partial[lane] ? values[i + lane] : partial[lane];
  for (; i < count; i++) largest = values[i] > largest ? values[i] : largest;
  for (int lane = 0; lane < 16; lane++) largest = partial[lane] > largest ? partial[lane] : largest;
  return largest;
}

/* Causal softmax of rows first..first+count-1 of one head; scores [count, stride], entries beyond the row's own position become 0. */
static void softmax_rows(float *scores, int64_t first, int64_t count, int64_t stride) {
  for (int64_t i = 0; i < count; i++) {
    int64_t visible = first + i + 1;
    float *row = scores + i * stride, largest = largest_of(row, visible);
    for (int64_t j = 0; j < visible; j++) row[j] -= largest;
    bpdq_exponentials(row, visible);
    float scale = 1 / sum_of(row, visible);
    for (int64_t j = 0; j < visible; j++) row[j] *= scale;
    memset(row + visible, 0, (size_t)(stride - visible) * sizeof *row);
  }
}

static void attend_head(const bpdq_forward *forward, const float *qkv, int64_t head, int64_t tokens, float *out, float *scores) {
  const bpdq_config *c = forward->config;
  int dim = (int)c->head_dim, stride = (int)((c->heads + 2 * c->kv_heads) * c->head_dim), out_stride = (int)(c->heads * c->head_dim);
  int64_t kv_head = head / (c->heads / c->kv_heads);
  const float *q = qkv + head * dim, *k = qkv + (c->heads + kv_head) * dim, *v = qkv + (c->heads + c->kv_heads + kv_head) * dim;
  float scale = (float)(1 / sqrt((double)dim));
  for (int64_t first = 0; first < tokens; first += QUERY_BLOCK) {
    int count = (int)(tokens - first < QUERY_BLOCK ? tokens - first : QUERY_BLOCK), visible = (int)first + count;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, count, visible, dim, scale, q + first * stride, stride, k, stride, 0, scores,
                visible);
    softmax_rows(scores, first, count, visible);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, count, dim, visible, 1, scores, visible, v, stride, 0,
                out + first * out_stride + head * dim, out_stride);
  }
}

void bpdq_forward_attention(const bpdq_forward *forward, const bpdq_block *block, const float *x, int64_t tokens, float *out,
                            float *scratch) {
  const bpdq_config *c = forward->config;
  int64_t dim = c->head_dim, stride = (c->heads + 2 * c->kv_heads) * dim;
  float *normed = scratch, *qkv = normed + tokens * c->hidden_size, *scores = qkv + tokens * stride;
  bpdq_forward_norm(forward, block->attention_norm, x, tokens, normed);
  apply_linear(&block->linears[BPDQ_Q], normed, tokens, qkv, stride);
  apply_linear(&block->linears[BPDQ_K], normed, tokens, qkv + c->heads * dim, stride);
  apply_linear(&block->linears[BPDQ_V], normed, tokens, qkv + (c->heads + c->kv_heads) * dim, stride);
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t head = 0; head < c->heads + c->kv_heads; head++)
      rotate_head(forward, head < c->heads ? block->q_norm : block->k_norm, t, qkv + t * stride + head * dim);
  for (int64_t head = 0; head < c->heads; head++) attend_head(forward, qkv, head, tokens, out, scores);
}

void bpdq_forward_gate(const bpdq_forward *forward, const bpdq_block *block, const float *x, int64_t tokens, float *out, float *scratch) {
  const bpdq_config *c = forward->config;
  float *normed = scratch, *up = normed + tokens * c->hidden_size;
  bpdq_forward_norm(forward, block->mlp_norm, x, tokens, normed);
  apply_linear(&block->linears[BPDQ_GATE], normed, tokens, out, c->intermediate_size);
  apply_linear(&block->linears[BPDQ_UP], normed, tokens, up, c->intermediate_size);
  for (int64_t i = 0; i < tokens * c->intermediate_size; i += GATE_BLOCK) {
    int64_t count = tokens * c->intermediate_size - i < GATE_BLOCK ? tokens * c->intermediate_size - i : GATE_BLOCK;
    float power[GATE_BLOCK];
    for (int64_t j = 0; j < count; j++) power[j] = -out[i + j];
    bpdq_exponentials(power, count);
    for (int64_t j = 0; j < count; j++) out[i + j] = out[i + j] / (1 + power[j]) * up[i + j];
  }
}
