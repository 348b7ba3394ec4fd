/* What the kernels share: launching, programmatic dependent launch, tensor-core and asynchronous-copy instructions, row counts. */
#ifndef BPDQ_CUDA_DEVICE_CUH
#define BPDQ_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "kernels.h"
#include "layout.h"

/* Notes where a launch failed, for the message, and hands the status on. */
static inline cudaError_t launch_status(const bpdq_cuda_queue *queue, cudaError_t result, const void *kernel, const char *call) {
  if (result == cudaSuccess || !queue->failure || queue->failure->call) return result;
  queue->failure->call = call;
  if (cudaFuncGetName(&queue->failure->kernel, kernel) != cudaSuccess) queue->failure->kernel = NULL;
  return result;
}

static inline unsigned blocks_for(int64_t count, int64_t per_block) { return (unsigned)((count + per_block - 1) / per_block); }

/* Asks for as little shared memory as the kernel's blocks leave room for, 32 KiB of a multiprocessor's, so that the rest is L1 cache,
 * through which the blocks of a product share activations: without such a wish a multiprocessor stays as attention left it, which takes
 * nearly all. A step below 32 KiB is asked for: percentages are rounded up. It is a hint, so that a failure changes nothing. */
static inline void prefer_cache(const bpdq_cuda_queue *queue, const void *kernel, dim3 grid, dim3 block) {
  const int step = 32 * 1024, asked = 28 * 1024, reserved = 1024; /* of each block, by the driver */
  cudaFuncAttributes attributes;
  int resident;
  if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess ||
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, (int)(block.x * block.y * block.z), 0) != cudaSuccess)
    return;
  int64_t launched = blocks_for((int64_t)grid.x * grid.y * grid.z, queue->multiprocessors),
          blocks = launched < resident ? launched : resident;
  if (blocks * ((int64_t)attributes.sharedSizeBytes + reserved) > step) return;
  (void)cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, asked * 100 / queue->shared_per_multiprocessor);
}

/* Launches `kernel` with the pointers to its arguments; raises the block's shared-memory limit where that may be needed: without that a
 * kernel has 48 KiB, what it declares itself (16 KiB at most in these kernels) included. The limit is the kernel's on the whole device, for
 * all threads that compile: each kernel must ask for the same size wherever it is launched. `dependent` allows the launch to overlap the
 * kernel before it. */
static inline cudaError_t launch_as(const bpdq_cuda_queue *queue, bool dependent, const void *kernel, dim3 grid, dim3 block, size_t shared,
                                    void **arguments) {
  if (shared > (48 - 16) * 1024) {
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (error != cudaSuccess) return launch_status(queue, error, kernel, "cudaFuncSetAttribute");
  }
  if (queue->load_only) {
    cudaFuncAttributes loaded;
    if (queue->one_row && !shared) prefer_cache(queue, kernel, grid, block);
    return launch_status(queue, cudaFuncGetAttributes(&loaded, kernel), kernel, "cudaFuncGetAttributes");
  }
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = queue->stream;
  config.attrs = &attribute;
  config.numAttrs = dependent ? 1 : 0;
  return launch_status(queue, cudaLaunchKernelExC(&config, kernel, arguments), kernel, "cudaLaunchKernelExC");
}
static inline cudaError_t launch(const bpdq_cuda_queue *queue, const void *kernel, dim3 grid, dim3 block, size_t shared, void **arguments) {
  return launch_as(queue, queue->dependent_launch, kernel, grid, block, shared, arguments);
}

/* Programmatic dependent launch. Every kernel lets the next one start at once, and waits for the one before it before it touches
 * anything that an earlier kernel wrote; because all kernels wait, "the one before" implies all before. No-ops below sm_90. */
__device__ __forceinline__ void let_dependents_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_predecessors() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Scalars of the run come from the L2 cache: another run of the same graph may have left older ones in an L1 cache. */
__device__ __forceinline__ int run_tokens(const bpdq_cuda_run &run) { return __ldcg(run.tokens); }
/* Output rows of an operation: 1 with row selection LAST, else the tokens of the run. */
__device__ __forceinline__ int row_count(const bpdq_cuda_run &run, bool last) { return last ? 1 : run_tokens(run); }

__device__ __forceinline__ void prefetch_l2(const void *address) { asm volatile("prefetch.global.L2 [%0];" ::"l"(address)); }

/* An address in shared memory, made once: in kernels that are short of registers the compiler would make it again wherever it is used. */
__device__ __forceinline__ unsigned kept_shared_address(const float *place) {
  unsigned address = (unsigned)__cvta_generic_to_shared(place);
  asm volatile("" : "+r"(address));
  return address;
}
__device__ __forceinline__ void store_shared(unsigned address, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

__device__ __forceinline__ void copy_async_16(void *shared, const void *global) {
  unsigned address = (unsigned)__cvta_generic_to_shared(shared);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
}
/* Copies 16 bytes, or writes zeros where `valid` is false. */
__device__ __forceinline__ void copy_async_16_or_zero(void *shared, const void *global, bool valid) {
  unsigned address = (unsigned)__cvta_generic_to_shared(shared);
  int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* A pointer some bytes further on: a step in bytes can be added as it comes with the arguments, without a register of its own. */
template <typename type>
__device__ __forceinline__ const type *further(const type *from, int64_t bytes) {
  return (const type *)((const char *)from + bytes);
}

/* a . b on binary operands: the popcount of the AND. */
__device__ __forceinline__ void mma_b1_k256(int d[4], const uint4 &a, uint2 b) {
  asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%10,%10,%10,%10};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y), "r"(0));
}
__device__ __forceinline__ void mma_b1_k128(int d[4], uint32_t a0, uint32_t a1, uint32_t b) {
  asm("mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3},{%4,%5},{%6},{%7,%7,%7,%7};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a0), "r"(a1), "r"(b), "r"(0));
}
/* d += a . b on signed bytes. */
__device__ __forceinline__ void mma_s8(int d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%10,%11,%12,%13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(d[0]), "r"(d[1]), "r"(d[2]), "r"(d[3]));
}
__device__ __forceinline__ void mma_f16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_f16_k8(float d[4], uint32_t a0, uint32_t a1, uint32_t b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(b));
}
__device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Bits of `a` where `mask` has ones, else of `b`; the compiler would take the expression apart and spend more on it. */
__device__ __forceinline__ uint32_t choose_bits(uint32_t a, uint32_t b, uint32_t mask) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xE4;" : "=r"(result) : "r"(a), "r"(b), "r"(mask));
  return result;
}
/* Byte i is number (nibble i of the selector) of the eight in `low` and `high`. In assembly, because the compiler would mask each half of
 * a word of selectors on its own. */
__device__ __forceinline__ uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selector));
  return result;
}

/* 1 / x to within a unit in the last place; 0 and what is below 2^-126 give infinity, what is above 2^126 gives 0. */
__device__ __forceinline__ float approximate_inverse(float x) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  return inverse;
}

/* 2^x to within two units in the last place; results below 2^-126 are 0. */
__device__ __forceinline__ float approximate_exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int step = 16; step; step >>= 1) value += __shfl_xor_sync(~0u, value, step);
  return value;
}
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int step = 16; step; step >>= 1) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
  return value;
}

/* A pair of 16-bit numbers as floats. bf16 is the upper half of a float. */
template <bool BF16>
__device__ __forceinline__ float2 pair_to_floats(uint32_t pair) {
  if (BF16) return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
  return __half22float2(*reinterpret_cast<const __half2 *>(&pair));
}

#endif
