/* What the CUDA forward pass of calibration does besides matrix products. Each function launches on `stream` and returns the launch's
 * error.
 *
 * All pointers are device memory; activations are f32 [tokens, channels], row-major, windows of `length` tokens one behind the other. */
#ifndef BPDQ_QUANTIZER_CUDA_FORWARD_KERNELS_H
#define BPDQ_QUANTIZER_CUDA_FORWARD_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* out = rms_norm(x) * norm for x, out [tokens, width]. */
cudaError_t bpdq_gpu_rms_norm(const float *x, const float *norm, int64_t tokens, int64_t width, double epsilon, float *out,
                              cudaStream_t stream);

/* out[t, i] = bias[i], or += with `add`, for t < tokens, i < width; rows of out are `stride` apart. */
cudaError_t bpdq_gpu_put_bias(const float *bias, int64_t tokens, int64_t width, int64_t stride, bool add, float *out, cudaStream_t stream);

/* Heads apart, so that one strided product serves all query heads of a key head: q [windows, kv_heads, length * heads / kv_heads,
 * head_dim], where row token * heads / kv_heads + g is query head g of the key head; k and v [windows, kv_heads, length, head_dim]. */
typedef struct bpdq_gpu_heads {
  int64_t tokens, length; /* tokens: windows * length */
  int heads, kv_heads, dim;
  float *q, *k, *v;
} bpdq_gpu_heads;

/* From qkv [tokens, (heads + 2 kv_heads) * dim]: the norms of Qwen3 where q_norm and k_norm [dim] are given, then the rotation by `rope`
 * [length, dim] (model/rope.h). */
cudaError_t bpdq_gpu_split_heads(const float *qkv, const float *rope, const float *q_norm, const float *k_norm, double epsilon,
                                 const bpdq_gpu_heads *heads, cudaStream_t stream);
/* out [tokens, heads * dim] from what stands in the place of q. */
cudaError_t bpdq_gpu_merge_heads(const bpdq_gpu_heads *heads, float *out, cudaStream_t stream);

/* Causal softmax in place over `rows` rows of `stride` scores, in runs of `per_head` rows that each begin with query position `first`;
 * `group` rows belong to one position. Scores behind a row's own position become 0. */
cudaError_t bpdq_gpu_causal_softmax(float *scores, int64_t rows, int64_t per_head, int64_t first, int group, int64_t stride,
                                    cudaStream_t stream);

/* gate = silu(gate) * up, elementwise. */
cudaError_t bpdq_gpu_silu_gate(float *gate, const float *up, int64_t count, cudaStream_t stream);

/* The dense stream's o_proj or down_proj. `outputs` [tokens, width] is W x_dense without bias and becomes what the quantized linear should
 * put out: that (with dense_target) plus dense - x (with residual_target). dense += W x_dense + bias; bias [width] or NULL. */
typedef struct bpdq_gpu_targets {
  const float *x, *bias;
  float *dense, *outputs;
  int64_t tokens, width;
  bool dense_target, residual_target;
} bpdq_gpu_targets;

cudaError_t bpdq_gpu_make_targets(const bpdq_gpu_targets *targets, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
