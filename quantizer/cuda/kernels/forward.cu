/* The steps of a decoder block between its matrix products, in the order of operations of ../forward.c. */
#include "forward_kernels.h"

enum { THREADS = 256, ROW_THREADS = 128, WARP = 32 };

static __device__ __forceinline__ double warp_sum(double value) {
  for (int offset = WARP / 2; offset; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

static unsigned blocks_for(int64_t count) { return (unsigned)((count + THREADS - 1) / THREADS); }

/* ---- norm and bias ---- */

static __global__ void rms_norm(const float *x, const float *norm, int64_t width, double epsilon, float *out) {
  __shared__ double partial[THREADS / WARP];
  const float *from = x + blockIdx.x * width;
  float *to = out + blockIdx.x * width;
  double square = 0;
  for (int64_t i = threadIdx.x; i < width; i += THREADS) square += (double)from[i] * (double)from[i];
  square = warp_sum(square);
  if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = square;
  __syncthreads();
  square = 0;
  for (int i = 0; i < THREADS / WARP; i++) square += partial[i];
  float scale = (float)(1 / sqrt(square / (double)width + epsilon));
  for (int64_t i = threadIdx.x; i < width; i += THREADS) to[i] = from[i] * scale * norm[i];
}

cudaError_t bpdq_gpu_rms_norm(const float *x, const float *norm, int64_t tokens, int64_t width, double epsilon, float *out,
                              cudaStream_t stream) {
  rms_norm<<<(unsigned)tokens, THREADS, 0, stream>>>(x, norm, width, epsilon, out);
  return cudaGetLastError();
}

static __global__ void put_bias(const float *bias, int64_t width, int64_t stride, bool add, float *out) {
  float *to = out + blockIdx.x * stride;
  for (int64_t i = threadIdx.x; i < width; i += THREADS) to[i] = add ? to[i] + bias[i] : bias[i];
}

cudaError_t bpdq_gpu_put_bias(const float *bias, int64_t tokens, int64_t width, int64_t stride, bool add, float *out, cudaStream_t stream) {
  put_bias<<<(unsigned)tokens, THREADS, 0, stream>>>(bias, width, stride, add, out);
  return cudaGetLastError();
}

/* ---- heads: one thread block per token, one warp per head ---- */

static __global__ void split_heads(const float *qkv, const float *rope, const float *q_norm, const float *k_norm, double epsilon,
                                   bpdq_gpu_heads h) {
  const int64_t token = blockIdx.x, window = token / h.length, position = token % h.length;
  const int lane = (int)threadIdx.x % WARP, group = h.heads / h.kv_heads, half = h.dim / 2, all = h.heads + 2 * h.kv_heads;
  const float *cosine = rope + position * h.dim, *sine = cosine + half;
  for (int head = (int)threadIdx.x / WARP; head < all; head += THREADS / WARP) {
    const bool query = head < h.heads, key = !query && head < h.heads + h.kv_heads;
    const float *from = qkv + (token * all + head) * h.dim, *norm = query ? q_norm : key ? k_norm : nullptr;
    const int64_t kv_head = query ? head / group : (head - h.heads) % h.kv_heads,
                  row = (window * h.kv_heads + kv_head) * h.length + position;
    float *to = query ? h.q + (row * group + head % group) * h.dim : (key ? h.k : h.v) + row * h.dim;
    if (!query && !key) {
      for (int i = lane; i < h.dim; i += WARP) to[i] = from[i];
      continue;
    }
    float scale = 1;
    if (norm) {
      double square = 0;
      for (int i = lane; i < h.dim; i += WARP) square += (double)from[i] * (double)from[i];
      scale = (float)(1 / sqrt(warp_sum(square) / (double)h.dim + epsilon));
    }
    for (int i = lane; i < half; i += WARP) {
      float low = norm ? from[i] * (scale * norm[i]) : from[i], high = norm ? from[i + half] * (scale * norm[i + half]) : from[i + half];
      to[i] = low * cosine[i] - high * sine[i];
      to[i + half] = high * cosine[i] + low * sine[i];
    }
  }
}

cudaError_t bpdq_gpu_split_heads(const float *qkv, const float *rope, const float *q_norm, const float *k_norm, double epsilon,
                                 const bpdq_gpu_heads *heads, cudaStream_t stream) {
  split_heads<<<(unsigned)heads->tokens, THREADS, 0, stream>>>(qkv, rope, q_norm, k_norm, epsilon, *heads);
  return cudaGetLastError();
}

static __global__ void merge_heads(bpdq_gpu_heads h, float *out) {
  const int64_t token = blockIdx.x, window = token / h.length, position = token % h.length;
  const int group = h.heads / h.kv_heads, width = h.heads * h.dim;
  for (int i = (int)threadIdx.x; i < width; i += THREADS) {
    const int head = i / h.dim;
    const int64_t row = ((window * h.kv_heads + head / group) * h.length + position) * group + head % group;
    out[token * width + i] = h.q[row * h.dim + i % h.dim];
  }
}

cudaError_t bpdq_gpu_merge_heads(const bpdq_gpu_heads *heads, float *out, cudaStream_t stream) {
  merge_heads<<<(unsigned)heads->tokens, THREADS, 0, stream>>>(*heads, out);
  return cudaGetLastError();
}

/* ---- softmax: one thread block per row, largest score and sum of exponentials in one pass ---- */

typedef struct partial_sum {
  float largest, sum; /* sum of e^(score - largest) */
} partial_sum;

static __device__ __forceinline__ partial_sum combine(partial_sum a, partial_sum b) {
  float largest = fmaxf(a.largest, b.largest);
  if (largest == -INFINITY) return {largest, a.sum + b.sum}; /* nothing yet on either side */
  return {largest, a.sum * expf(a.largest - largest) + b.sum * expf(b.largest - largest)};
}

static __global__ void causal_softmax(float *scores, int64_t per_head, int64_t first, int group, int64_t stride) {
  __shared__ partial_sum partial[ROW_THREADS / WARP];
  const int64_t visible = first + blockIdx.x % per_head / group + 1;
  float *row = scores + blockIdx.x * stride;
  partial_sum mine = {-INFINITY, 0};
  for (int64_t j = threadIdx.x; j < visible; j += ROW_THREADS) {
    float score = row[j];
    if (score > mine.largest) {
      mine.sum = mine.sum * expf(mine.largest - score) + 1;
      mine.largest = score;
    } else {
      mine.sum += expf(score - mine.largest); /* a score that is not a number makes the whole row so */
    }
  }
  for (int offset = WARP / 2; offset; offset /= 2) {
    partial_sum other = {__shfl_xor_sync(0xffffffffu, mine.largest, offset), __shfl_xor_sync(0xffffffffu, mine.sum, offset)};
    mine = combine(mine, other);
  }
  if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = mine;
  __syncthreads();
  mine = partial[0];
  for (int i = 1; i < ROW_THREADS / WARP; i++) mine = combine(mine, partial[i]);
  float scale = 1 / mine.sum;
  for (int64_t j = threadIdx.x; j < stride; j += ROW_THREADS) row[j] = j < visible ? expf(row[j] - mine.largest) * scale : 0.0f;
}

cudaError_t bpdq_gpu_causal_softmax(float *scores, int64_t rows, int64_t per_head, int64_t first, int group, int64_t stride,
                                    cudaStream_t stream) {
  causal_softmax<<<(unsigned)rows, ROW_THREADS, 0, stream>>>(scores, per_head, first, group, stride);
  return cudaGetLastError();
}

/* ---- elementwise ---- */

static __global__ void silu_gate(float *gate, const float *up, int64_t count) {
  int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < count) gate[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

cudaError_t bpdq_gpu_silu_gate(float *gate, const float *up, int64_t count, cudaStream_t stream) {
  silu_gate<<<blocks_for(count), THREADS, 0, stream>>>(gate, up, count);
  return cudaGetLastError();
}

static __global__ void make_targets(bpdq_gpu_targets t) {
  int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= t.tokens * t.width) return;
  float made = t.outputs[i], dense = t.dense[i];
  t.outputs[i] = (t.dense_target ? made : 0.0f) + (t.residual_target ? dense - t.x[i] : 0.0f);
  t.dense[i] = dense + (made + (t.bias ? t.bias[i % t.width] : 0.0f));
}

cudaError_t bpdq_gpu_make_targets(const bpdq_gpu_targets *targets, cudaStream_t stream) {
  make_targets<<<blocks_for(targets->tokens * targets->width), THREADS, 0, stream>>>(*targets);
  return cudaGetLastError();
}
