/* The results of attention_decode.cu as its blocks leave them, one sum per split of the positions, and how they are merged. */
#ifndef BPDQ_CUDA_ATTENTION_SUMS_CUH
#define BPDQ_CUDA_ATTENTION_SUMS_CUH

#include "kernels/device.cuh"

#define ATTENTION_MAX_SPLITS 32 /* a lane of a warp has the statistics of one */

/* How the positions of a token's sequence are divided: chunks of whole blocks of 32 cache rows, counted from the latest one back, `share`
 * of them to a split. */
typedef struct split_positions {
  int chunks, share, splits;
} split_positions;

__device__ __forceinline__ static split_positions split_of(const bpdq_cuda_attention_sums &a, int sequence, int position) {
  int64_t start = sequence * a.context;
  int rows = (int)(((start + position) | 31) - (start & ~(int64_t)31)); /* less one */
  split_positions s;
  s.chunks = rows / a.chunk + 1;
  s.share = (s.chunks + a.splits - 1) / a.splits;
  s.splits = (s.chunks + s.share - 1) / s.share;
  return s;
}
__device__ __forceinline__ static split_positions split_of(const bpdq_cuda_attention_sums &a, int token) {
  return split_of(a, __ldcg(a.run.sequences + token), __ldcg(a.run.positions + token));
}

#define MERGE_WARPS 8
#define MERGE_NUMBERS 256

/* Parts of neighbouring blocks of 32 numbers begin at different banks. */
typedef struct merge_shared {
  float factors[MERGE_WARPS][ATTENTION_MAX_SPLITS]; /* what a split's sums count for, over the head's denominator */
  float parts[MERGE_WARPS][MERGE_NUMBERS / 32][36];
} merge_shared;

/* A lane's split of a warp's head. */
__device__ __forceinline__ static float split_factor(float2 own) {
  float largest = warp_max(own.x), factor = exp2f(own.x - (largest == -INFINITY ? 0 : largest));
  return factor / warp_sum(factor * own.y);
}

/* A block of eight warps merges 256 numbers, or fewer, of a token's result. Number i is dim i - first of head `first_head` or of one of the
 * seven behind it, counted on; numbers from `count` on are zeros. Each warp takes every eighth split, and requests all that it needs at
 * once. */
__device__ __forceinline__ static void merge_splits(const bpdq_cuda_attention_sums &a, int active, int token, int first_head, int first,
                                                    int count, merge_shared &shared) {
  constexpr int SHARE = ATTENTION_MAX_SPLITS / MERGE_WARPS;
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, of_warp = min(first_head + warp, a.heads - 1);
  int64_t token_head = (int64_t)token * a.heads + first_head;
  float4 parts[2][SHARE];
  int heads[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int number = half * 128 + lane * 4, dim = min(number, count - 4) + first;
    heads[half] = dim / a.head_dim;
    const float *from = a.sums + ((token_head + heads[half]) * a.splits + warp) * a.width + dim - heads[half] * a.head_dim;
#pragma unroll
    for (int i = 0; i < SHARE; i++) {
      bool there = warp + i * MERGE_WARPS < active && number < count;
      parts[half][i] = there ? __ldcg((const float4 *)(from + i * MERGE_WARPS * a.width)) : make_float4(0, 0, 0, 0);
    }
  }
  float2 statistics = make_float2(-INFINITY, 0);
  if (lane < active) statistics = __ldcg(a.statistics + ((int64_t)token * a.heads + of_warp) * a.splits + lane);
  shared.factors[warp][lane] = split_factor(statistics);
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < SHARE; i++) {
      float factor = shared.factors[heads[half]][warp + i * MERGE_WARPS];
      const float4 &part = parts[half][i];
      sum.x = fmaf(factor, part.x, sum.x), sum.y = fmaf(factor, part.y, sum.y);
      sum.z = fmaf(factor, part.z, sum.z), sum.w = fmaf(factor, part.w, sum.w);
    }
    *(float4 *)&shared.parts[warp][half * 4 + (lane >> 3)][(lane & 7) * 4] = sum;
  }
  __syncthreads();
}

__device__ __forceinline__ static float merged_number(const merge_shared &shared, int number) {
  float total = 0;
#pragma unroll
  for (int warp = 0; warp < MERGE_WARPS; warp++) total += shared.parts[warp][number >> 5][number & 31];
  return total;
}
__device__ __forceinline__ static float4 merged_numbers(const merge_shared &shared, int number) {
  float4 total = make_float4(0, 0, 0, 0);
#pragma unroll
  for (int warp = 0; warp < MERGE_WARPS; warp++) {
    float4 part = *(const float4 *)&shared.parts[warp][number >> 5][number & 31];
    total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
  }
  return total;
}

#endif
