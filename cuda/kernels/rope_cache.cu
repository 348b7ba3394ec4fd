/* Rotary embedding and cache writes as a kernel of its own: prefills (attention_decode.cu does it for the decode of few tokens). */
#include "kernels/rope.cuh"

#define WARPS 4

__global__ void __launch_bounds__(WARPS * 32) rope_cache_kernel(rope_arguments a) {
  const bpdq_cuda_heads &h = a.heads;
  int token = blockIdx.y, unit = blockIdx.x * WARPS + (threadIdx.x >> 5);
  let_dependents_launch();
  if (token >= *h.run.tokens || unit >= h.heads + 2 * h.kv_heads) return;
  int position = h.run.positions[token];
  int64_t row = h.run.sequences[token] * h.context + position;
  wait_for_predecessors();
  head_vector<4> vector; /* head_dim <= 256 */
  vector.load(a, token, unit, position);
  if (unit < h.heads + h.kv_heads) vector.rotate(a, unit >= h.heads);
  if (unit < h.heads)
    vector.put(a.rope.qkv + ((int64_t)token * (h.heads + 2 * h.kv_heads) + unit) * h.head_dim, h.head_dim / 2);
  else
    vector.store(a, unit < h.heads + h.kv_heads, (unit - h.heads) % h.kv_heads, row);
}

cudaError_t bpdq_cuda_rope_cache(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, const bpdq_cuda_rope *rope,
                                 const bpdq_cuda_cache *cache) {
  rope_arguments arguments = {*heads, *rope, *cache};
  void *pointers[] = {&arguments};
  return launch(queue, (const void *)rope_cache_kernel,
                dim3(blocks_for(heads->heads + 2 * heads->kv_heads, WARPS), (unsigned)heads->max_tokens), WARPS * 32, 0, pointers);
}
