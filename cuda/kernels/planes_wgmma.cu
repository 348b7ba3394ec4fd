/* The product of planes_gemm.cu on the matrix unit of sm_90a, which four warps drive together (wgmma): the same expansion of weights in
 * registers, which are its A operand, and activations in shared memory, its B operand, that no warp has to load.
 *
 * A block computes 128 outputs x 128 tokens: two groups of four warps, a row tile of 16 outputs to a warp. Activations stream through a
 * ring, 64 columns of all tokens to a stage: a row of 128 bytes per token, its 16-byte chunks swizzled as the matrix unit expects
 * (PTX ISA, "Shared memory matrix layout", 128-byte swizzle, K-major). Activation rows are in the order of k-steps, see
 * bpdq_cuda_half_step_position.
 *
 * Where the tiles of a product leave multiprocessors idle, several blocks share the columns of one: each leaves its sums in memory, and the
 * last to arrive adds them in the order of the columns, so that a run gives the same numbers as the one before. */
#include "kernels/planes_rows.cuh"

#define WARPS 8
#define THREADS (WARPS * 32)
#define TOKENS 128
#define STAGES 4
#define STAGE_BYTES (TOKENS * 128)
#define MAX_SPLITS 4

typedef struct split_arguments {
  int32_t *arrivals; /* [tiles], zero between runs */
  float4 *sums;      /* [tiles, splits, TOKENS / 8, THREADS] */
} split_arguments;

/* Descriptor of a stage: rows of 128 bytes, 1,024 bytes from one eight of rows to the next, 128-byte swizzle. */
__device__ __forceinline__ static uint64_t stage_descriptor(const char *stage) {
  uint64_t address = (uint64_t)__cvta_generic_to_shared(stage);
  return (address >> 4 & 0x3fff) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

__device__ __forceinline__ static void matrix_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ static void matrix_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ static void matrix_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

#define FOUR(x, i) "+f"(x[i][0]), "+f"(x[i][1]), "+f"(x[i][2]), "+f"(x[i][3])
/* sums[64 outputs of the four warps, 128 tokens] += a[64, 16] . stage[16, 128]; a lane's share is that of mma.m16n8k16, for each eight of
 * tokens. */
__device__ __forceinline__ static void multiply_step(float sums[TOKENS / 8][4], const uint32_t a[4], uint64_t stage) {
  asm volatile(
      "{.reg .pred add; setp.eq.u32 add, 0, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63},"
      "{%64,%65,%66,%67}, %68, add, 1, 1, 0;}"
      : FOUR(sums, 0), FOUR(sums, 1), FOUR(sums, 2), FOUR(sums, 3), FOUR(sums, 4), FOUR(sums, 5), FOUR(sums, 6), FOUR(sums, 7),
        FOUR(sums, 8), FOUR(sums, 9), FOUR(sums, 10), FOUR(sums, 11), FOUR(sums, 12), FOUR(sums, 13), FOUR(sums, 14), FOUR(sums, 15)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(stage));
}

/* 64 columns of the block's tokens; zeros where there is no token. */
struct swizzled_share {
  const char *from;
  int64_t row_bytes32;
  int limit, target;

  __device__ swizzled_share(const rows_arguments &a, int first_tile, int first_token, int rows) {
    int token = threadIdx.x >> 3, chunk = threadIdx.x & 7;
    limit = rows - first_token - token;
    from = a.halves + ((int64_t)(limit > 0 ? first_token + token : 0) * a.stride + first_tile * 256 + chunk * 8) * 2;
    row_bytes32 = a.stride * 64;
    target = token * 128 + (chunk ^ (token & 7)) * 16;
  }
  __device__ __forceinline__ void request(char *stage, int slab) const {
#pragma unroll
    for (int i = 0; i < TOKENS / 32; i++) {
      bool valid = i * 32 < limit;
      copy_async_16_or_zero(stage + target + i * 4096, from + slab * 128 + (valid ? i * row_bytes32 : 0), valid);
    }
  }
};

/* True in the last of a tile's blocks, which then has the sums of all of them. */
__device__ static bool add_splits(const split_arguments &split, float sums[TOKENS / 8][4]) {
  __shared__ bool is_last;
  int tile = blockIdx.y * gridDim.x + blockIdx.x;
  float4 *all = split.sums + (int64_t)tile * gridDim.z * (TOKENS / 8 * THREADS) + threadIdx.x;
#pragma unroll
  for (int j = 0; j < TOKENS / 8; j++)
    __stcg(all + (blockIdx.z * (TOKENS / 8) + j) * THREADS, make_float4(sums[j][0], sums[j][1], sums[j][2], sums[j][3]));
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(split.arrivals + tile, 1) == (int)gridDim.z - 1;
    if (is_last) split.arrivals[tile] = 0;
  }
  __syncthreads();
  if (!is_last) return false;
  __threadfence();
#pragma unroll
  for (int j = 0; j < TOKENS / 8; j++) sums[j][0] = sums[j][1] = sums[j][2] = sums[j][3] = 0;
#pragma unroll 1
  for (unsigned s = 0; s < gridDim.z; s++)
#pragma unroll
    for (int j = 0; j < TOKENS / 8; j++) {
      float4 v = __ldcg(all + (s * (TOKENS / 8) + j) * THREADS);
      sums[j][0] += v.x, sums[j][1] += v.y, sums[j][2] += v.z, sums[j][3] += v.w;
    }
  return true;
}

template <int PLANES>
__global__ void __launch_bounds__(THREADS, 2) planes_wgmma_kernel(rows_arguments a, split_arguments split) {
  extern __shared__ __align__(1024) char shared[];
  char *ring = shared + (1024 - __cvta_generic_to_shared(shared) % 1024) % 1024;
  int lane = threadIdx.x & 31, first_token = blockIdx.y * TOKENS;
  int64_t own_tile = (int64_t)blockIdx.x * WARPS + (threadIdx.x >> 5), row_tile = min(own_tile, (a.planes.rows + 15) / 16 - 1);
  int first_tile = (int)(a.planes.column_tiles * blockIdx.z / gridDim.z);
  int slabs = ((int)(a.planes.column_tiles * (blockIdx.z + 1) / gridDim.z) - first_tile) * 4;
  let_dependents_launch();
  int rows = row_count(a.output.run, a.output.last);
  if (first_token >= rows) return;
  half_weights<PLANES> next;
  next.load(a.planes, row_tile, first_tile * 2, lane);
  wait_for_predecessors();
  swizzled_share share(a, first_tile, first_token, rows);
#pragma unroll
  for (int s = 0; s < 2; s++) {
    share.request(ring + s * STAGE_BYTES, s); /* there are four slabs at least */
    copy_async_commit();
  }

  float sums[TOKENS / 8][4];
#pragma unroll
  for (int j = 0; j < TOKENS / 8; j++) sums[j][0] = sums[j][1] = sums[j][2] = sums[j][3] = 0;
  uint32_t weights[2][2][4]; /* of this unit of 32 columns, and of the one before: the matrix unit may still read those */
#pragma unroll 1
  for (int slab = 0; slab < slabs; slab += 2) {
    half_coefficients<PLANES> coefficients;
    uint32_t words[2][PLANES];
    next.expand(a.planes, coefficients, words);
    next.load(a.planes, row_tile, first_tile * 2 + (min(slab + 2, slabs - 2) >> 1), lane);
#pragma unroll
    for (int part = 0; part < 2; part++) {
      copy_async_wait<1>();
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); /* the copies were made for this thread, the matrix unit reads them */
      __syncthreads();
      /* All products but those of the slab before are finished: the stage of two slabs before is free. */
      if (slab + part + 2 < slabs) share.request(ring + (slab + part + 2) % STAGES * STAGE_BYTES, slab + part + 2);
      copy_async_commit();
      uint64_t stage = stage_descriptor(ring + (slab + part) % STAGES * STAGE_BYTES);
#pragma unroll
      for (int unit = 0; unit < 2; unit++) {
        matrix_wait<1>();
        expand_words<PLANES>(coefficients, words, part * 2 + unit, weights[unit]);
        matrix_fence();
        multiply_step(sums, weights[unit][0], stage + unit * 4);
        multiply_step(sums, weights[unit][1], stage + unit * 4 + 2);
        matrix_commit();
      }
    }
  }
  matrix_wait<0>();
  if (gridDim.z > 1 && !add_splits(split, sums)) return;
  store_sums<TOKENS>(a, sums, own_tile * 16, first_token, rows, lane);
}

/* In how many parts the columns are taken. Measured: two blocks on a multiprocessor take 5/4 of the time per column tile that one takes,
 * and to leave and add up the sums of a device full of blocks costs about as much as three column tiles. */
static int choose_splits(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, int64_t max_rows) {
  int64_t tiles = (int64_t)blocks_for(planes->rows, WARPS * 16) * blocks_for(max_rows, TOKENS), all = queue->multiprocessors;
  int best = 1;
  double best_cost = 0;
  if (tiles > BPDQ_CUDA_SCRATCH_COUNTERS) return 1;
  for (int splits = 1; splits <= MAX_SPLITS && splits <= planes->column_tiles; splits++) {
    int64_t blocks = tiles * splits, full = blocks / (2 * all), rest = blocks % (2 * all);
    double waves = (double)full + (rest == 0 ? 0 : rest <= all ? 0.8 : 1);
    double cost = waves * (double)((planes->column_tiles + splits - 1) / splits) + (splits > 1 ? 1.2 * (double)blocks / (double)all : 0);
    if (splits == 1 || cost < best_cost) best = splits, best_cost = cost;
  }
  return best;
}

bool bpdq_cuda_planes_wgmma_loads(void) {
  cudaFuncAttributes attributes;
  bool loads = cudaFuncGetAttributes(&attributes, (const void *)planes_wgmma_kernel<1>) == cudaSuccess;
  if (!loads) cudaGetLastError();
  return loads;
}

uint64_t bpdq_cuda_planes_wgmma_scratch(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, int64_t max_rows) {
  int splits = choose_splits(queue, planes, max_rows);
  uint64_t tiles = (uint64_t)blocks_for(planes->rows, WARPS * 16) * blocks_for(max_rows, TOKENS);
  return splits == 1 ? 0
                     : BPDQ_CUDA_SCRATCH_COUNTERS * sizeof(int32_t) + tiles * (uint64_t)splits * (TOKENS / 8 * THREADS * sizeof(float4));
}

cudaError_t bpdq_cuda_planes_wgmma(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, const void *halves, const float *row_scale,
                                   void *scratch, const bpdq_cuda_output *output) {
  rows_arguments arguments = {*planes, (const char *)halves, planes->column_tiles * 256, row_scale, *output};
  split_arguments split = {(int32_t *)scratch, (float4 *)((char *)scratch + BPDQ_CUDA_SCRATCH_COUNTERS * sizeof(int32_t))};
  void *pointers[] = {&arguments, &split};
  unsigned splits = scratch ? (unsigned)choose_splits(queue, planes, output->max_rows) : 1;
  const void *kernel = planes->planes == 1   ? (const void *)planes_wgmma_kernel<1>
                       : planes->planes == 2 ? (const void *)planes_wgmma_kernel<2>
                       : planes->planes == 3 ? (const void *)planes_wgmma_kernel<3>
                                             : (const void *)planes_wgmma_kernel<4>;
  return launch(queue, kernel, dim3(blocks_for(planes->rows, WARPS * 16), blocks_for(output->max_rows, TOKENS), splits), THREADS,
                STAGES * STAGE_BYTES + 1024, pointers);
}
