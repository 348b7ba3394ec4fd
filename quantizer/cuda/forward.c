#include "forward.h"

#include <math.h>
#include <stdlib.h>

#include "core/checked.h"
#include "forward_kernels.h"
#include "model/rope.h"

enum {
  SCORES = 1 << 26,    /* floats of attention scores held at a time, where a few queries of every head fit into it: 256 MiB */
  FEWEST_QUERIES = 16, /* fewer would make products of a few rows */
  MOST_QUERIES = 512   /* more would compute too much above the diagonal */
};

bpdq_status bpdq_gpu_forward_create(gpu_algebra *gpu, const bpdq_config *config, int64_t length, bpdq_gpu_forward *forward,
                                    bpdq_error *error) {
  *forward = (bpdq_gpu_forward){.gpu = gpu, .config = config, .length = length};
  float *table = bpdq_alloc_array((size_t)(length * config->head_dim), sizeof *table);
  if (!table) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory for %lld positions", (long long)length);
  bpdq_rope_table(&config->rope, config->head_dim, config->context_length, length, table);
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_gpu_allocate(gpu, length * config->head_dim, sizeof *table, "rotary positions", &forward->rope, error), done);
  BPDQ_TRY_GOTO(bpdq_gpu_upload(gpu, forward->rope, table, length * config->head_dim, sizeof *table, "rotary positions", error), done);
  status = bpdq_gpu_check(cudaStreamSynchronize(gpu->stream), "rotary positions", error);
done:
  free(table);
  if (status != BPDQ_OK) bpdq_gpu_forward_free(forward);
  return status;
}

void bpdq_gpu_forward_free(bpdq_gpu_forward *forward) {
  if (forward->rope) bpdq_gpu_free(forward->gpu, forward->rope);
  *forward = (bpdq_gpu_forward){0};
}

/* ---- weights ---- */

static bpdq_status load_values(gpu_algebra *gpu, const float *from, int64_t count, const char *name, float **to, bpdq_error *error) {
  *to = NULL;
  if (!from) return BPDQ_OK;
  BPDQ_TRY(bpdq_gpu_allocate(gpu, count, sizeof **to, name, to, error));
  return bpdq_gpu_staging_upload(&gpu->staging, *to, from, (size_t)count * sizeof **to, gpu->stream, name, error);
}

bpdq_status bpdq_gpu_block_load(gpu_algebra *gpu, const bpdq_config *config, const bpdq_block *block, unsigned linears, bpdq_block *out,
                                bpdq_error *error) {
  *out = (bpdq_block){0};
  if (!block) return BPDQ_OK;
  const char *name = block->linears[0].name;
  bpdq_status status = BPDQ_OK;
  BPDQ_TRY_GOTO(load_values(gpu, block->attention_norm, config->hidden_size, name, &out->attention_norm, error), failed);
  BPDQ_TRY_GOTO(load_values(gpu, block->mlp_norm, config->hidden_size, name, &out->mlp_norm, error), failed);
  BPDQ_TRY_GOTO(load_values(gpu, block->q_norm, config->head_dim, name, &out->q_norm, error), failed);
  BPDQ_TRY_GOTO(load_values(gpu, block->k_norm, config->head_dim, name, &out->k_norm, error), failed);
  for (int i = 0; i < BPDQ_LINEARS; i++) {
    const bpdq_block_linear *from = &block->linears[i];
    bpdq_block_linear *to = &out->linears[i];
    *to = (bpdq_block_linear){.name = from->name, .rows = from->rows, .columns = from->columns};
    if (!(linears >> i & 1u)) continue;
    BPDQ_TRY_GOTO(load_values(gpu, from->weight, from->rows * from->columns, from->name, &to->weight, error), failed);
    BPDQ_TRY_GOTO(load_values(gpu, from->bias, from->rows, from->name, &to->bias, error), failed);
  }
  return BPDQ_OK;
failed:
  bpdq_gpu_block_free(gpu, out);
  return status;
}

void bpdq_gpu_block_free(gpu_algebra *gpu, bpdq_block *block) {
  bpdq_gpu_free(gpu, block->attention_norm);
  bpdq_gpu_free(gpu, block->mlp_norm);
  bpdq_gpu_free(gpu, block->q_norm);
  bpdq_gpu_free(gpu, block->k_norm);
  for (int i = 0; i < BPDQ_LINEARS; i++) {
    bpdq_gpu_free(gpu, block->linears[i].weight);
    bpdq_gpu_free(gpu, block->linears[i].bias);
  }
  *block = (bpdq_block){0};
}

/* ---- scratch ---- */

/* Channels of q, k and v together. */
static int64_t qkv_width(const bpdq_config *c) { return (c->heads + 2 * c->kv_heads) * c->head_dim; }

static int64_t wide_width(const bpdq_config *c, bool attention, bool gate) {
  int64_t qkv = attention ? qkv_width(c) : 0, up = gate ? c->intermediate_size : 0;
  return qkv > up ? qkv : up;
}

static int64_t queries_for(const bpdq_gpu_forward *f, int64_t windows) {
  int64_t queries = SCORES / (windows * f->config->heads * f->length);
  if (queries > MOST_QUERIES) queries = MOST_QUERIES;
  if (queries < FEWEST_QUERIES) queries = FEWEST_QUERIES;
  return queries < f->length ? queries : f->length;
}

uint64_t bpdq_gpu_scratch_bytes(const bpdq_gpu_forward *f, int64_t windows, bool attention, bool gate) {
  const bpdq_config *c = f->config;
  int64_t per_token = c->hidden_size + wide_width(c, attention, gate) + (attention ? qkv_width(c) : 0);
  int64_t scores = attention ? windows * c->heads * queries_for(f, windows) * f->length : 0;
  return sizeof(float) * (uint64_t)(windows * f->length * per_token + scores);
}

bpdq_status bpdq_gpu_scratch_create(const bpdq_gpu_forward *f, int64_t windows, bool attention, bool gate, bpdq_gpu_scratch *scratch,
                                    bpdq_error *error) {
  const bpdq_config *c = f->config;
  const char *name = "calibration forward pass";
  int64_t tokens = windows * f->length;
  *scratch = (bpdq_gpu_scratch){.queries = queries_for(f, windows)};
  bpdq_status status = BPDQ_OK;
  if (attention || gate) {
    BPDQ_TRY_GOTO(bpdq_gpu_allocate(f->gpu, tokens * c->hidden_size, sizeof(float), name, &scratch->normed, error), failed);
    BPDQ_TRY_GOTO(bpdq_gpu_allocate(f->gpu, tokens * wide_width(c, attention, gate), sizeof(float), name, &scratch->wide, error), failed);
  }
  if (attention) {
    BPDQ_TRY_GOTO(bpdq_gpu_allocate(f->gpu, tokens * qkv_width(c), sizeof(float), name, &scratch->heads, error), failed);
    BPDQ_TRY_GOTO(
        bpdq_gpu_allocate(f->gpu, windows * c->heads * scratch->queries * f->length, sizeof(float), name, &scratch->scores, error), failed);
  }
  return BPDQ_OK;
failed:
  bpdq_gpu_scratch_free(f->gpu, scratch);
  return status;
}

void bpdq_gpu_scratch_free(gpu_algebra *gpu, bpdq_gpu_scratch *scratch) {
  bpdq_gpu_free(gpu, scratch->normed);
  bpdq_gpu_free(gpu, scratch->wide);
  bpdq_gpu_free(gpu, scratch->heads);
  bpdq_gpu_free(gpu, scratch->scores);
  *scratch = (bpdq_gpu_scratch){0};
}

/* ---- steps ---- */

bpdq_status bpdq_gpu_forward_norm(const bpdq_gpu_forward *f, const float *norm, const float *x, int64_t tokens, float *out,
                                  bpdq_error *error) {
  const bpdq_config *c = f->config;
  return bpdq_gpu_check(bpdq_gpu_rms_norm(x, norm, tokens, c->hidden_size, c->norm_epsilon, out, f->gpu->stream),
                        "calibration forward pass", error);
}

/* out[:, 0:N] = keep * out + input W^T, rows of out `stride` apart. cuBLAS counts by columns, so all matrices are transposes to it. */
static bpdq_status multiply(const bpdq_gpu_forward *f, const bpdq_block_linear *linear, const float *input, int64_t tokens, float keep,
                            float *out, int64_t stride, bpdq_error *error) {
  const float one = 1;
  return bpdq_gpu_check_blas(
      f->gpu->libraries.gemm_ex(f->gpu->blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)linear->rows, (int)tokens, (int)linear->columns, &one,
                                linear->weight, CUDA_R_32F, (int)linear->columns, input, CUDA_R_32F, (int)linear->columns, &keep, out,
                                CUDA_R_32F, (int)stride, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_GEMM_DEFAULT),
      linear->name, error);
}

/* out[:, 0:N] = input W^T + bias. */
static bpdq_status apply_linear(const bpdq_gpu_forward *f, const bpdq_block_linear *linear, const float *input, int64_t tokens, float *out,
                                int64_t stride, bpdq_error *error) {
  if (linear->bias)
    BPDQ_TRY(
        bpdq_gpu_check(bpdq_gpu_put_bias(linear->bias, tokens, linear->rows, stride, false, out, f->gpu->stream), linear->name, error));
  return multiply(f, linear, input, tokens, linear->bias ? 1 : 0, out, stride, error);
}

bpdq_status bpdq_gpu_forward_add(const bpdq_gpu_forward *f, const bpdq_block_linear *linear, const float *input, int64_t tokens, float *x,
                                 bpdq_error *error) {
  if (linear->bias)
    BPDQ_TRY(
        bpdq_gpu_check(bpdq_gpu_put_bias(linear->bias, tokens, linear->rows, linear->rows, true, x, f->gpu->stream), linear->name, error));
  return multiply(f, linear, input, tokens, 1, x, linear->rows, error);
}

bpdq_status bpdq_gpu_forward_product(const bpdq_gpu_forward *f, const bpdq_block_linear *linear, const float *input, int64_t tokens,
                                     float *out, bpdq_error *error) {
  return multiply(f, linear, input, tokens, 0, out, linear->rows, error);
}

/* Attention of `count` positions from `first` on, of all heads; their rows of q become the heads' outputs. */
static bpdq_status attend(const bpdq_gpu_forward *f, const bpdq_gpu_heads *h, int64_t first, int64_t count, float *scores,
                          bpdq_error *error) {
  gpu_algebra *gpu = f->gpu;
  const char *name = "calibration attention";
  const float scale = (float)(1 / sqrt((double)h->dim)), one = 1, zero = 0;
  int64_t group = h->heads / h->kv_heads, rows = count * group, visible = first + count;
  int64_t batch = h->tokens / h->length * h->kv_heads, of_key = h->length * h->dim, of_query = of_key * group;
  float *queries = h->q + first * group * h->dim;
  BPDQ_TRY(bpdq_gpu_check_blas(
      gpu->libraries.sgemm_strided_batched(gpu->blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)visible, (int)rows, h->dim, &scale, h->k, h->dim,
                                           of_key, queries, h->dim, of_query, &zero, scores, (int)visible, rows * visible, (int)batch),
      name, error));
  BPDQ_TRY(bpdq_gpu_check(bpdq_gpu_causal_softmax(scores, batch * rows, rows, first, (int)group, visible, gpu->stream), name, error));
  return bpdq_gpu_check_blas(
      gpu->libraries.sgemm_strided_batched(gpu->blas, CUBLAS_OP_N, CUBLAS_OP_N, h->dim, (int)rows, (int)visible, &one, h->v, h->dim, of_key,
                                           scores, (int)visible, rows * visible, &zero, queries, h->dim, of_query, (int)batch),
      name, error);
}

bpdq_status bpdq_gpu_forward_attention(const bpdq_gpu_forward *f, const bpdq_block *block, const float *x, int64_t windows, float *out,
                                       const bpdq_gpu_scratch *scratch, bpdq_error *error) {
  const bpdq_config *c = f->config;
  const char *name = "calibration attention";
  cudaStream_t stream = f->gpu->stream;
  int64_t tokens = windows * f->length, width = qkv_width(c), q_width = c->heads * c->head_dim, k_width = c->kv_heads * c->head_dim;
  bpdq_gpu_heads heads = {tokens,
                          f->length,
                          (int)c->heads,
                          (int)c->kv_heads,
                          (int)c->head_dim,
                          scratch->heads,
                          scratch->heads + tokens * q_width,
                          scratch->heads + tokens * (q_width + k_width)};
  BPDQ_TRY(bpdq_gpu_forward_norm(f, block->attention_norm, x, tokens, scratch->normed, error));
  BPDQ_TRY(apply_linear(f, &block->linears[BPDQ_Q], scratch->normed, tokens, scratch->wide, width, error));
  BPDQ_TRY(apply_linear(f, &block->linears[BPDQ_K], scratch->normed, tokens, scratch->wide + q_width, width, error));
  BPDQ_TRY(apply_linear(f, &block->linears[BPDQ_V], scratch->normed, tokens, scratch->wide + q_width + k_width, width, error));
  BPDQ_TRY(bpdq_gpu_check(bpdq_gpu_split_heads(scratch->wide, f->rope, block->q_norm, block->k_norm, c->norm_epsilon, &heads, stream), name,
                          error));
  for (int64_t first = 0; first < f->length; first += scratch->queries) {
    int64_t count = f->length - first < scratch->queries ? f->length - first : scratch->queries;
    BPDQ_TRY(attend(f, &heads, first, count, scratch->scores, error));
  }
  return bpdq_gpu_check(bpdq_gpu_merge_heads(&heads, out, stream), name, error);
}

bpdq_status bpdq_gpu_forward_gate(const bpdq_gpu_forward *f, const bpdq_block *block, const float *x, int64_t tokens, float *out,
                                  const bpdq_gpu_scratch *scratch, bpdq_error *error) {
  int64_t width = f->config->intermediate_size;
  BPDQ_TRY(bpdq_gpu_forward_norm(f, block->mlp_norm, x, tokens, scratch->normed, error));
  BPDQ_TRY(apply_linear(f, &block->linears[BPDQ_GATE], scratch->normed, tokens, out, width, error));
  BPDQ_TRY(apply_linear(f, &block->linears[BPDQ_UP], scratch->normed, tokens, scratch->wide, width, error));
  return bpdq_gpu_check(bpdq_gpu_silu_gate(out, scratch->wide, tokens * width, f->gpu->stream), block->linears[BPDQ_GATE].name, error);
}
