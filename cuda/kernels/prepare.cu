/* What happens to activations before a product: RMS norm or gated SiLU, then conversion to what the product's kernel reads. */
#include "kernels/attention_sums.cuh"
#include "kernels/quantize_tile.cuh"

#define THREADS 256

enum { KIND_NONE, KIND_RMS_NORM, KIND_SILU_GATE, KIND_MERGE = BPDQ_CUDA_MERGE_ATTENTION }; /* bpdq_transform_kind, and one more */

__device__ static float block_sum(float value) {
  __shared__ float parts[32];
  value = warp_sum(value);
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = value;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < (int)(blockDim.x >> 5); i++) sum += parts[i];
  __syncthreads();
  return sum;
}

__device__ static float block_max(float value) {
  __shared__ float parts[32];
  value = warp_max(value);
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = value;
  __syncthreads();
  float largest = 0;
  for (int i = 0; i < (int)(blockDim.x >> 5); i++) largest = fmaxf(largest, parts[i]);
  __syncthreads();
  return largest;
}

__device__ static const float *input_row(const bpdq_cuda_prepare &p, int row) {
  int64_t source = p.last ? run_tokens(p.run) - 1 : row;
  return p.input + source * p.width * (p.kind == KIND_SILU_GATE ? 2 : 1);
}

/* This thread's share of the row's sum of squares. Four loads of a thread are on their way at once where the row allows 16 bytes each. */
__device__ static float sum_of_squares(const bpdq_cuda_prepare &p, const float *x) {
  float sum = 0;
  if (p.width & 3) {
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) sum = fmaf(x[i], x[i], sum);
    return sum;
  }
  const int count = (int)(p.width >> 2), batch = 4;
  for (int base = threadIdx.x; base < count; base += batch * blockDim.x) {
    float4 v[batch];
#pragma unroll
    for (int i = 0; i < batch; i++) {
      int at = base + i * blockDim.x;
      v[i] = at < count ? ((const float4 *)x)[at] : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < batch; i++) sum = fmaf(v[i].x, v[i].x, fmaf(v[i].y, v[i].y, fmaf(v[i].z, v[i].z, fmaf(v[i].w, v[i].w, sum))));
  }
  return sum;
}

/* The factor that RMS norm gives the row; 1 for the other kinds. Every block of a row finds the same number. */
__device__ static float row_factor(const bpdq_cuda_prepare &p, const float *x) {
  return p.kind == KIND_RMS_NORM ? 1.0f / sqrtf(block_sum(sum_of_squares(p, x)) / (float)p.width + p.epsilon) : 1.0f;
}

__device__ static float transformed(const bpdq_cuda_prepare &p, const float *x, float factor, int64_t column) {
  if (column >= p.width) return 0;
  if (p.kind == KIND_RMS_NORM) return x[column] * factor * p.norm[column];
  if (p.kind == KIND_SILU_GATE) return x[column] / (1.0f + expf(-x[column])) * x[p.width + column];
  return x[column];
}

__global__ void __launch_bounds__(THREADS) prepare_f32_kernel(bpdq_cuda_prepare p, float *output, int64_t stride) {
  let_dependents_launch();
  wait_for_predecessors();
  int row = blockIdx.y;
  if (row >= row_count(p.run, p.last)) return;
  const float *x = input_row(p, row);
  float factor = row_factor(p, x);
  int64_t column = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (column < stride) output[row * stride + column] = transformed(p, x, factor, column);
}

template <bool BF16>
__global__ void __launch_bounds__(THREADS) prepare_pair_kernel(bpdq_cuda_prepare p, uint16_t *high, uint16_t *low, int64_t stride) {
  let_dependents_launch();
  wait_for_predecessors();
  int row = blockIdx.y;
  if (row >= row_count(p.run, p.last)) return;
  const float *x = input_row(p, row);
  float factor = row_factor(p, x);
  int64_t column = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (column >= stride) return;
  float value = transformed(p, x, factor, column);
  if (BF16) {
    __nv_bfloat16 first = __float2bfloat16(value);
    high[row * stride + column] = __bfloat16_as_ushort(first);
    low[row * stride + column] = __bfloat16_as_ushort(__float2bfloat16(value - __bfloat162float(first)));
  } else {
    __half first = __float2half(value);
    high[row * stride + column] = __half_as_ushort(first);
    low[row * stride + column] = __half_as_ushort(__float2half(value - __half2float(first)));
  }
}

/* One block of 256 threads per column tile and row: a thread is a column. */
typedef struct tile_column {
  float value;   /* transformed, but for `factor` */
  float largest; /* magnitude of the block's values */
  float factor;  /* of RMS norm: scaling a group does not change its integers, so it can wait until the scales are written */
} tile_column;

/* Merges attention's sums of the block's column tile. */
__device__ __forceinline__ static void merge_tile(const bpdq_cuda_prepare &p, int active, int row, merge_shared &shared) {
  int first = blockIdx.x * 256, head = first / p.attention.head_dim;
  merge_splits(p.attention, active, row, head, first - head * p.attention.head_dim, (int)p.width - first, shared);
}

/* The same for kernels that have a thread for each column; others may look for the result in the input, too. */
__device__ __forceinline__ static float merge_column(const bpdq_cuda_prepare &p, int active, int row, int column) {
  __shared__ merge_shared shared;
  merge_tile(p, active, row, shared);
  if (column >= p.width) return 0;
  float value = merged_number(shared, threadIdx.x);
  p.input[row * p.width + column] = value;
  return value;
}

__device__ static tile_column load_column(const bpdq_cuda_prepare &p, int row) {
  __shared__ float maxima[8], squares[8];
  int warp = threadIdx.x >> 5, column = blockIdx.x * 256 + (int)threadIdx.x;
  const float *x = input_row(p, row);
  float norm = p.kind == KIND_RMS_NORM && column < p.width ? p.norm[column] : 1.0f;
  int active = p.kind == KIND_MERGE ? split_of(p.attention, row).splits : 0;
  wait_for_predecessors();
  float own = p.kind == KIND_RMS_NORM ? warp_sum(sum_of_squares(p, x)) : 0;
  tile_column c;
  if (p.kind == KIND_MERGE)
    c.value = merge_column(p, active, row, column);
  else
    c.value = p.kind != KIND_RMS_NORM ? transformed(p, x, 1.0f, column) : column < p.width ? x[column] * norm : 0;
  c.largest = warp_max(fabsf(c.value));
  if ((threadIdx.x & 31) == 0) {
    maxima[warp] = c.largest;
    squares[warp] = own;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 8; i++) c.largest = fmaxf(c.largest, maxima[i]);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) sum += squares[i];
  c.factor = p.kind == KIND_RMS_NORM ? 1.0f / sqrtf(sum / (float)p.width + p.epsilon) : 1.0f;
  return c;
}

__device__ static int to_integer(const tile_column &c, int limit) {
  int code = c.largest > 0 ? __float2int_rn(c.value * ((float)limit / c.largest)) : 0;
  return max(-limit, min(limit, code));
}

/* Eight columns of the row, transformed but for the norm's factor; returns the sum of their squares before the norm's weights. */
__device__ __forceinline__ static float transform_eight(const bpdq_cuda_prepare &p, const float *row, int64_t column, bool aligned,
                                                        const float norm[EIGHT], float values[EIGHT]) {
  float squares = 0;
  load_eight(row, column, p.width, aligned, values);
  if (p.kind == KIND_RMS_NORM) {
#pragma unroll
    for (int i = 0; i < EIGHT; i++) {
      squares = fmaf(values[i], values[i], squares);
      values[i] *= norm[i];
    }
  } else if (p.kind == KIND_SILU_GATE) {
    float factors[EIGHT];
    load_eight(row + p.width, column, p.width, aligned, factors);
#pragma unroll
    for (int i = 0; i < EIGHT; i++) values[i] *= approximate_inverse(1.0f + __expf(-values[i])) * factors[i];
  }
  return squares;
}

/* The lane's eight columns of attention's result, merged already, go where others may look for them. */
__device__ __forceinline__ static void put_eight(const bpdq_cuda_prepare &p, int row, int column, const float values[EIGHT]) {
  if (column >= p.width) return;
  float4 *output = (float4 *)(p.input + row * p.width + column);
  output[0] = make_float4(values[0], values[1], values[2], values[3]);
  output[1] = make_float4(values[4], values[5], values[6], values[7]);
}

/* Attention's result where it is one sum: there is nothing to merge. */
__device__ __forceinline__ static void normalize_eight(const bpdq_cuda_prepare &p, int row, int column, float values[EIGHT]) {
  const bpdq_cuda_attention_sums &a = p.attention;
  int head = min(column, (int)p.width - EIGHT) / a.head_dim, first = head * a.head_dim;
  int64_t sum = ((int64_t)row * a.heads + head) * a.splits;
  load_eight(a.sums + sum * a.width, column - first, a.head_dim, true, values);
  float inverse = approximate_inverse(__ldcg(a.statistics + sum).y);
#pragma unroll
  for (int i = 0; i < EIGHT; i++) values[i] *= inverse;
}

/* A block has a column tile: one warp, or, where attention's sums are to be merged, eight until that is done. Waits for the predecessors
 * and leaves the first warp's lanes with their eight columns, transformed but for a norm's factor, and the sum of their squares; false in
 * the threads that are not needed any more. */
template <bool MERGES>
__device__ __forceinline__ static bool transform_tile(const bpdq_cuda_prepare &p, int row, float values[EIGHT], float *squares) {
  int lane = threadIdx.x & 31, column = blockIdx.x * 256 + lane_column(lane);
  if (!MERGES) {
    bool aligned = p.width % EIGHT == 0 && ((uintptr_t)p.input | (uintptr_t)p.norm) % 16 == 0;
    float norm[EIGHT];
    if (p.kind == KIND_RMS_NORM) load_eight(p.norm, column, p.width, aligned, norm);
    wait_for_predecessors();
    *squares = transform_eight(p, input_row(p, row), column, aligned, norm, values);
    return true;
  }
  __shared__ merge_shared shared;
  int active = split_of(p.attention, row).splits;
  if (active == 1 && threadIdx.x >= 32) return false;
  wait_for_predecessors();
  if (active == 1) {
    normalize_eight(p, row, column, values);
  } else {
    merge_tile(p, active, row, shared);
    if (threadIdx.x >= 32) return false;
    float4 low = merged_numbers(shared, lane_column(lane)), high = merged_numbers(shared, lane_column(lane) + 4);
    values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
    values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
  }
  put_eight(p, row, column, values);
  return true;
}

__device__ __forceinline__ static void put_squares(const bpdq_cuda_prepare &p, float sum, float *squares) {
  if (p.kind != KIND_RMS_NORM) return;
  sum = warp_sum(sum);
  if ((threadIdx.x & 31) == 0) *squares = sum;
}

template <int SLICES, int GROUP, bool MERGES>
__global__ void __launch_bounds__(MERGES ? THREADS : 32)
    prepare_bits_kernel(bpdq_cuda_prepare p, uint2 *bits, float2 *scales, float *squares) {
  let_dependents_launch();
  int row = blockIdx.y, lane = threadIdx.x & 31;
  if (row >= row_count(p.run, p.last)) return;
  int64_t tile = (int64_t)row * gridDim.x + blockIdx.x;
  float values[EIGHT], sum = 0;
  if (!transform_tile<MERGES>(p, row, values, &sum)) return;
  uint2 operand[SLICES];
  float2 scale = quantize_tile<GROUP, SLICES>(values, lane, operand);
#pragma unroll
  for (int s = 0; s < SLICES; s++) bits[(tile * SLICES + s) * 32 + lane] = operand[s];
  if (leads_group<GROUP>(lane)) scales[tile * (256 / GROUP) + lane_group<GROUP>(lane)] = scale;
  put_squares(p, sum, squares + tile);
}

template <bool MERGES>
__global__ void __launch_bounds__(MERGES ? THREADS : 32)
    prepare_byte_tiles_kernel(bpdq_cuda_prepare p, char *bytes, float *scales, float *squares) {
  let_dependents_launch();
  int row = blockIdx.y, lane = threadIdx.x & 31;
  if (row >= row_count(p.run, p.last)) return;
  float values[EIGHT], sum = 0;
  if (!transform_tile<MERGES>(p, row, values, &sum)) return;
  uint32_t low, high;
  float scale = quantize_bytes(values, &low, &high);
  int64_t tile = (int64_t)(row >> 3) * gridDim.x + blockIdx.x;
  char *to = bytes + tile * 2048 + bpdq_cuda_byte_index(row & 7, lane_column(lane)); /* columns 4 apart are neighbours there */
#pragma unroll
  for (int u = 0; u < 4; u++) *(uint16_t *)(to + bpdq_cuda_byte_index(0, u)) = (uint16_t)__byte_perm(low, high, u | (u + 4) << 4);
  if ((lane & 15) == 0) scales[(tile * 2 + (lane >> 4)) * 8 + (row & 7)] = scale;
  put_squares(p, sum, squares + (int64_t)row * gridDim.x + blockIdx.x);
}

__global__ void __launch_bounds__(THREADS) prepare_bytes_kernel(bpdq_cuda_prepare p, int8_t *bytes, float *scales) {
  let_dependents_launch();
  int row = blockIdx.y;
  if (row >= row_count(p.run, p.last)) return;
  tile_column c = load_column(p, row);
  int code = to_integer(c, 32639); /* so that the high byte ends at 127 */
  int high = (code + 128) >> 8;
  int64_t tile_index = (int64_t)row * gridDim.x + blockIdx.x;
  bytes[tile_index * 512 + threadIdx.x] = (int8_t)high;
  bytes[tile_index * 512 + 256 + threadIdx.x] = (int8_t)(code - high * 256);
  if (threadIdx.x == 0) scales[tile_index] = c.largest / 32639.0f * c.factor;
}

/* The power of two below which the halves stay, far from both ends of f16, and the exponent that takes `largest` there. */
#define HALF_EXPONENT 11
__device__ static int exponent_of(float largest) {
  int exponent = 0;
  if (largest > 0 && largest < INFINITY) frexpf(largest, &exponent);
  return exponent;
}

__global__ void __launch_bounds__(THREADS) prepare_half_tiles_kernel(bpdq_cuda_prepare p, __half *halves, float *scales) {
  let_dependents_launch();
  int row = blockIdx.y;
  if (row >= row_count(p.run, p.last)) return;
  tile_column c = load_column(p, row);
  int exponent = exponent_of(c.largest), column = threadIdx.x;
  int64_t tile_index = (int64_t)row * gridDim.x + blockIdx.x;
  int place = (column & 128) + bpdq_cuda_half_position(column & 127); /* in the order of a row; then eight rows go side by side */
  int64_t eight = (int64_t)(row >> 3) * gridDim.x + blockIdx.x;
  int64_t index = ((eight * 8 + (place >> 5)) * 32 + (row & 7) * 4 + (place >> 3 & 3)) * 8 + (place & 7);
  halves[index] = __float2half(ldexpf(c.value, HALF_EXPONENT - exponent));
  if (threadIdx.x == 0) scales[tile_index] = ldexpf(c.factor, exponent - HALF_EXPONENT);
}

__device__ static int64_t half_position(int64_t column, bool by_steps) {
  int in_block = (int)(column & 127);
  return column - in_block + (by_steps ? bpdq_cuda_half_step_position(in_block) : bpdq_cuda_half_position(in_block));
}

/* One block per row, VALUES columns to a thread, so that the row is read once: the row's largest magnitude gives the power of two. */
template <int VALUES>
__global__ void __launch_bounds__(1024)
    prepare_half_kernel(bpdq_cuda_prepare p, int64_t stride, bool by_steps, __half *halves, float *row_scale) {
  let_dependents_launch();
  int row = blockIdx.x;
  if (row >= row_count(p.run, p.last)) return;
  const float *x = input_row(p, row);
  wait_for_predecessors();
  float factor = row_factor(p, x), values[VALUES], largest = 0;
#pragma unroll
  for (int i = 0; i < VALUES; i++) {
    values[i] = transformed(p, x, factor, (int64_t)i * blockDim.x + threadIdx.x);
    largest = fmaxf(largest, fabsf(values[i]));
  }
  largest = block_max(largest);
  int exponent = exponent_of(largest);
  float shrink = ldexpf(1.0f, HALF_EXPONENT - exponent);
#pragma unroll
  for (int i = 0; i < VALUES; i++) {
    int64_t column = (int64_t)i * blockDim.x + threadIdx.x;
    int64_t position = half_position(column, by_steps);
    if (column < stride) halves[row * stride + position] = __float2half(values[i] * shrink);
  }
  if (threadIdx.x == 0) row_scale[row] = ldexpf(1.0f, exponent - HALF_EXPONENT);
}

/* The same for rows too long for that: the row is read, and transformed, twice. */
__global__ void __launch_bounds__(1024)
    prepare_long_half_kernel(bpdq_cuda_prepare p, int64_t stride, bool by_steps, __half *halves, float *row_scale) {
  let_dependents_launch();
  int row = blockIdx.x;
  if (row >= row_count(p.run, p.last)) return;
  const float *x = input_row(p, row);
  wait_for_predecessors();
  float factor = row_factor(p, x), largest = 0;
  for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) largest = fmaxf(largest, fabsf(transformed(p, x, factor, i)));
  largest = block_max(largest);
  int exponent = exponent_of(largest);
  float shrink = ldexpf(1.0f, HALF_EXPONENT - exponent);
  for (int64_t i = threadIdx.x; i < stride; i += blockDim.x) {
    int64_t position = half_position(i, by_steps);
    halves[row * stride + position] = __float2half(transformed(p, x, factor, i) * shrink);
  }
  if (threadIdx.x == 0) row_scale[row] = ldexpf(1.0f, exponent - HALF_EXPONENT);
}

cudaError_t bpdq_cuda_prepare_f32(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, float *output, int64_t stride) {
  void *arguments[] = {(void *)prepare, &output, &stride};
  return launch(queue, (const void *)prepare_f32_kernel, dim3(blocks_for(stride, THREADS), (unsigned)prepare->max_rows), THREADS, 0,
                arguments);
}

cudaError_t bpdq_cuda_prepare_pair(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, int dtype, void *high, void *low,
                                   int64_t stride) {
  const void *kernel = dtype == BPDQ_CUDA_BF16 ? (const void *)prepare_pair_kernel<true> : (const void *)prepare_pair_kernel<false>;
  void *arguments[] = {(void *)prepare, &high, &low, &stride};
  return launch(queue, kernel, dim3(blocks_for(stride, THREADS), (unsigned)prepare->max_rows), THREADS, 0, arguments);
}

template <int SLICES, bool MERGES>
static const void *bits_kernel(int group) {
  if (group == 64) return (const void *)prepare_bits_kernel<SLICES, 64, MERGES>;
  if (group == 128) return (const void *)prepare_bits_kernel<SLICES, 128, MERGES>;
  return (const void *)prepare_bits_kernel<SLICES, 256, MERGES>;
}

cudaError_t bpdq_cuda_prepare_bits(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, int slices, int group,
                                   int64_t column_tiles, uint32_t *bits, float2 *scales, float *squares) {
  bool merges = prepare->kind == KIND_MERGE;
  const void *kernel = slices == 1 ? merges ? bits_kernel<1, true>(group) : bits_kernel<1, false>(group)
                       : merges ? bits_kernel<2, true>(group)
                                   : bits_kernel<2, false>(group);
  void *arguments[] = {(void *)prepare, &bits, &scales, &squares};
  return launch(queue, kernel, dim3((unsigned)column_tiles, (unsigned)prepare->max_rows), merges ? THREADS : 32, 0, arguments);
}

cudaError_t bpdq_cuda_prepare_bytes(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, int64_t column_tiles, void *bytes,
                                    float *scales) {
  void *arguments[] = {(void *)prepare, &bytes, &scales};
  return launch(queue, (const void *)prepare_bytes_kernel, dim3((unsigned)column_tiles, (unsigned)prepare->max_rows), THREADS, 0,
                arguments);
}

cudaError_t bpdq_cuda_prepare_byte_tiles(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, int64_t column_tiles, void *bytes,
                                         float *scales, float *squares) {
  bool merges = prepare->kind == KIND_MERGE;
  const void *kernel = merges ? (const void *)prepare_byte_tiles_kernel<true> : (const void *)prepare_byte_tiles_kernel<false>;
  void *arguments[] = {(void *)prepare, &bytes, &scales, &squares};
  return launch(queue, kernel, dim3((unsigned)column_tiles, (unsigned)prepare->max_rows), merges ? THREADS : 32, 0, arguments);
}

cudaError_t bpdq_cuda_prepare_half_tiles(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, int64_t column_tiles, void *halves,
                                         float *scales) {
  void *arguments[] = {(void *)prepare, &halves, &scales};
  return launch(queue, (const void *)prepare_half_tiles_kernel, dim3((unsigned)column_tiles, (unsigned)prepare->max_rows), THREADS, 0,
                arguments);
}

cudaError_t bpdq_cuda_prepare_half(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, int64_t column_tiles, bool by_steps,
                                   void *halves, float *row_scale) {
  int64_t stride = column_tiles * 256;
  unsigned threads = stride >= 1024 ? 1024 : 256;
  int64_t values = (stride + threads - 1) / threads;
  void *arguments[] = {(void *)prepare, &stride, &by_steps, &halves, &row_scale};
  const void *kernel = values <= 4    ? (const void *)prepare_half_kernel<4>
                       : values <= 8  ? (const void *)prepare_half_kernel<8>
                       : values <= 20 ? (const void *)prepare_half_kernel<20>
                       : values <= 32 ? (const void *)prepare_half_kernel<32>
                                      : (const void *)prepare_long_half_kernel;
  return launch(queue, kernel, dim3((unsigned)prepare->max_rows), threads, 0, arguments);
}
