/* What the attention kernels share: merging the sums of several splits of the positions. */
#ifndef BPDQ_CUDA_ATTENTION_CUH
#define BPDQ_CUDA_ATTENTION_CUH

#include "kernels/rope.cuh"

#define MAX_SPLITS 64
#define MAX_SLICES 4

/* One warp: the factors that merge `count` splits of a row. `parts` is the first split's (maximum, denominator). */
__device__ __forceinline__ static void split_factors(const float *parts, int count, int pitch, float factors[MAX_SPLITS]) {
  float2 own[MAX_SPLITS / 32];
  float largest = -INFINITY, total = 0;
#pragma unroll
  for (int i = 0; i < MAX_SPLITS / 32; i++) {
    int split = i * 32 + (threadIdx.x & 31);
    own[i] = split < count ? __ldcg((const float2 *)(parts + (int64_t)split * pitch)) : make_float2(-INFINITY, 0);
    largest = fmaxf(largest, own[i].x);
  }
  largest = warp_max(largest);
  float shift = largest == -INFINITY ? 0 : largest;
#pragma unroll
  for (int i = 0; i < MAX_SPLITS / 32; i++) {
    own[i].x = exp2f(own[i].x - shift);
    total = fmaf(own[i].x, own[i].y, total);
  }
  total = warp_sum(total);
#pragma unroll
  for (int i = 0; i < MAX_SPLITS / 32; i++) factors[i * 32 + (threadIdx.x & 31)] = own[i].x / total;
}

/* The decode of one token (attention_decode.cu). */
typedef struct decode_arguments {
  rope_arguments rope;
  float scale; /* of the scores, times log2(e) */
  int splits;
  int sliced_blocks; /* query heads are divided between blocks while there are no more than these */
  int32_t *arrivals; /* [kv_heads, slices], zero between runs */
  float *partial;    /* [kv_heads, splits, group, width + 2]: sums, then maximum and denominator */
  float *output;     /* [heads * head_dim] */
} decode_arguments;

cudaError_t launch_attention_decode(const bpdq_cuda_queue *queue, const decode_arguments *arguments);

#endif
