/* Rotary embedding and cache writes as a kernel of its own: prefills, and more query heads per kv head than attention_decode.cu takes
 * (which does it itself). */
#include "kernels/rope.cuh"

#define WARPS 4

template <bool Q8>
__device__ static void store_head(const rope_arguments &a, const head_vector<4> &vector, bool key, int head, int64_t row) {
  cache_row_writer<Q8> writer(a, key, head, row);
  float inverse = 0, scale = Q8 ? vector.byte_scale(&inverse) : 0;
  if (Q8 && (threadIdx.x & 31) == 0) writer.put_scale(scale);
  vector.for_each(a.heads.head_dim / 2, [&](int dim, float value) { writer.put(dim, cache_row_writer<Q8>::round(value, inverse)); });
}

__global__ void __launch_bounds__(WARPS * 32) rope_cache_kernel(rope_arguments a) {
  const bpdq_cuda_heads &h = a.heads;
  int token = blockIdx.y, unit = blockIdx.x * WARPS + (threadIdx.x >> 5);
  let_dependents_launch();
  if (token >= run_tokens(h.run) || unit >= h.heads + 2 * h.kv_heads) return;
  int position = __ldcg(h.run.positions + token);
  int64_t row = __ldcg(h.run.sequences + token) * h.context + position;
  wait_for_predecessors();
  head_vector<4> vector; /* head_dim <= 256 */
  vector.load(a, token, unit, position);
  if (unit < h.heads + h.kv_heads) vector.rotate(a, unit >= h.heads);
  bool key = unit < h.heads + h.kv_heads;
  if (unit < h.heads) {
    float *target = a.rope.qkv + ((int64_t)token * (h.heads + 2 * h.kv_heads) + unit) * h.head_dim;
    vector.for_each(h.head_dim / 2, [&](int dim, float value) { target[dim] = value; });
  } else if (a.cache.type == BPDQ_CUDA_Q8) {
    store_head<true>(a, vector, key, (unit - h.heads) % h.kv_heads, row);
  } else {
    store_head<false>(a, vector, key, (unit - h.heads) % h.kv_heads, row);
  }
}

cudaError_t bpdq_cuda_rope_cache(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, const bpdq_cuda_rope *rope,
                                 const bpdq_cuda_cache *cache) {
  rope_arguments arguments = {*heads, *rope, *cache};
  void *pointers[] = {&arguments};
  return launch(queue, (const void *)rope_cache_kernel,
                dim3(blocks_for(heads->heads + 2 * heads->kv_heads, WARPS), (unsigned)heads->max_tokens), WARPS * 32, 0, pointers);
}
