/* The kernels as C functions: each puts one or more launches on a queue and returns the launch status. All pointers are device memory.
 * Work arrays' layouts are those of layout.h. Rows of activations are counted by `run` on the device, so that a captured graph
 * serves every number of tokens up to the `max_rows` it was made for. */
#ifndef BPDQ_CUDA_KERNELS_H
#define BPDQ_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The first launch that failed: both are strings that outlive everything, or NULL. */
typedef struct bpdq_cuda_failure {
  const char *call, *kernel;
} bpdq_cuda_failure;

typedef struct bpdq_cuda_queue {
  cudaStream_t stream;
  bpdq_cuda_failure *failure; /* NULL: nobody asks */
  /* Launches only bring their kernel's code onto the device: code that is loaded lazily may not be loaded while a stream captures. */
  bool load_only;
  bool one_row;          /* the launches are of a program of one row, whose products want the L1 cache (prefer_cache in device.cuh) */
  bool wgmma;            /* products of many rows by planes_wgmma.cu */
  bool dependent_launch; /* programmatic dependent launch (code for 9.0): a kernel starts while the one before it drains */
  int multiprocessors;
  int shared_per_block;          /* bytes that a block may ask for */
  int shared_per_multiprocessor; /* bytes that its blocks may have together */
} bpdq_cuda_queue;

/* The scalars of one run: this header, then int32 positions [max_tokens] and sequences [max_tokens]; in mapped host memory, and as a copy
 * in device memory. The copy is in place before the second kernel of a run starts, so that kernels may read it before they wait for their
 * predecessors. */
typedef struct bpdq_cuda_run_header {
  int32_t tokens, written_bytes; /* a write that the run takes along: a multiple of 16, or 0 */
  void *written_to;              /* device memory */
} bpdq_cuda_run_header;

typedef struct bpdq_cuda_run {
  const int32_t *tokens, *positions, *sequences;
} bpdq_cuda_run;

enum { BPDQ_CUDA_F32, BPDQ_CUDA_F16, BPDQ_CUDA_BF16, BPDQ_CUDA_Q8 };

/* Starts a run: copies `count` int32 (the header and what follows) from mapped host memory to the device, where the kernels that follow
 * read them, and what the header says of `written` (pinned host memory, of which `written_bytes` are read at most) to where it belongs.
 * Never a dependent launch. */
cudaError_t bpdq_cuda_start_run(const bpdq_cuda_queue *queue, const int32_t *host, int32_t *device, int64_t count, const void *written,
                                int64_t written_bytes);

/* ---- results of attention over few tokens, one sum per split of the positions (attention_decode.cu, attention_sums.cuh) ---- */

typedef struct bpdq_cuda_attention_sums {
  float *sums;        /* [tokens, heads, splits, width] */
  float2 *statistics; /* [tokens, heads, splits] of (maximum, denominator) */
  int heads, head_dim, width, splits;
  int chunk; /* positions are divided in chunks of this many cache rows */
  int64_t context;
  bpdq_cuda_run run;
} bpdq_cuda_attention_sums;

/* ---- transforms of the rows of an input before a product (prepare.cu) ---- */

/* Beside bpdq_transform_kind: the rows are still attention's sums, which are merged, and the result is also written to `input`. Heads must
 * be multiples of 32 wide. For preparations of few rows only. */
#define BPDQ_CUDA_MERGE_ATTENTION 3

typedef struct bpdq_cuda_prepare {
  float *input;      /* [tokens, K] or [tokens, 2K] */
  const float *norm; /* [K], RMS norm only */
  float epsilon;
  int kind;      /* bpdq_transform_kind, or BPDQ_CUDA_MERGE_ATTENTION */
  int64_t width; /* K */
  bool last;     /* the only output row is of input row tokens - 1 */
  int64_t max_rows;
  bpdq_cuda_run run;
  bpdq_cuda_attention_sums attention; /* BPDQ_CUDA_MERGE_ATTENTION */
} bpdq_cuda_prepare;

/* f32 [rows, stride]; columns K .. stride-1 become zero. */
cudaError_t bpdq_cuda_prepare_f32(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, float *output, int64_t stride);
/* Two bf16 or f16 (dtype) numbers whose sum is the activation: [rows, stride] each. */
cudaError_t bpdq_cuda_prepare_pair(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, int dtype, void *high, void *low,
                                   int64_t stride);
/* Bit-planes of integers of 8 * slices bits with one scale per group: `bits` as in layout.h, `scales` [rows, groups] of (scale, scale *
 * sum of the integers). group is 64, 128 or 256; columns beyond K count as zero. The factor of an RMS norm is left to the product:
 * `squares` [rows, column_tiles] are the sums of a tile's squares. */
cudaError_t bpdq_cuda_prepare_bits(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, int slices, int group,
                                   int64_t column_tiles, uint32_t *bits, float2 *scales, float *squares);
/* f16 rows in eights (layout.h; room for a whole last eight) with one scale per row and 256 columns: `scales` [rows, column_tiles] multiply
 * back. */
cudaError_t bpdq_cuda_prepare_half_tiles(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, int64_t column_tiles, void *halves,
                                         float *scales);
/* Rows in eights as bytes (layout.h; room for a whole last eight) with one scale per row and 128 columns: `scales` [eights, column_tiles,
 * 2, 8 rows]; `squares` as above. */
cudaError_t bpdq_cuda_prepare_byte_tiles(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, int64_t column_tiles, void *bytes,
                                         float *scales, float *squares);
/* Integers of 16 bits as a high and a low signed byte, with one scale per 256 columns: `bytes` [rows, column_tiles, 2, 256] and `scales`
 * [rows, column_tiles]. */
cudaError_t bpdq_cuda_prepare_bytes(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, int64_t column_tiles, void *bytes,
                                    float *scales);
/* f16 rows in the order of layout.h (`by_steps`: that of planes_wgmma.cu), divided by a power of two per row that keeps them in range:
 * `row_scale` [rows] multiplies back. */
cudaError_t bpdq_cuda_prepare_half(const bpdq_cuda_queue *queue, const bpdq_cuda_prepare *prepare, int64_t column_tiles, bool by_steps,
                                   void *halves, float *row_scale);

/* ---- where a product goes: y[row, offset + n] (+)= value + bias[n] ---- */

typedef struct bpdq_cuda_output {
  float *data; /* y + offset of row 0 */
  int64_t stride;
  const float *bias; /* [N] or NULL */
  bool accumulate;
  bool last; /* one row whatever run.tokens is */
  int64_t max_rows;
  bpdq_cuda_run run;
} bpdq_cuda_output;

typedef struct bpdq_cuda_planes {
  const uint32_t *words;
  const void *coefficients;
  int coefficient_type; /* BPDQ_CUDA_BF16, F16 or F32 */
  int planes, group;
  int64_t rows, columns; /* N, K */
  int64_t column_tiles, groups;
  float half_scale; /* a power of two: coefficients * half_scale are in the comfortable range of f16 */
} bpdq_cuda_planes;

/* What a bit-serial launch may vary; 0 takes the default for the shape. */
typedef struct bpdq_cuda_tuning {
  int warps, depth; /* depth: 1 or 2 */
} bpdq_cuda_tuning;

/* An input as bpdq_cuda_prepare_bits leaves it. */
typedef struct bpdq_cuda_bits {
  const uint32_t *bits;
  const float2 *scales;
  const float *squares; /* RMS norm: its factor is to be applied; else NULL */
  float epsilon;
} bpdq_cuda_bits;

/* One as bpdq_cuda_prepare_byte_tiles leaves it. */
typedef struct bpdq_cuda_bytes {
  const void *bytes;
  const float *scales, *squares;
  float epsilon;
} bpdq_cuda_bytes;

/* Bit-serial tensor-core product (planes_bitserial.cuh): one row, planes 1..4, group 64, 128 or 256, 16-bit coefficients. */
bool bpdq_cuda_bitserial_supports(const bpdq_cuda_planes *planes, int64_t max_rows);
cudaError_t bpdq_cuda_bitserial(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, int slices, const bpdq_cuda_bits *input,
                                const bpdq_cuda_output *output, const bpdq_cuda_tuning *tuning);
/* f16 tensor-core product of 2..16 rows (one row in formats without a bit-serial kernel): planes 1..4, any group, 16-bit coefficients. */
bool bpdq_cuda_planes_batch_supports(const bpdq_cuda_planes *planes, int64_t max_rows);
cudaError_t bpdq_cuda_planes_batch(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, const void *halves, const float *scales,
                                   const bpdq_cuda_output *output);
/* Counters (int32) at the start of the scratch of products whose blocks share rows: in one place for all kernels, as they must stay zero.
 */
#define BPDQ_CUDA_SCRATCH_COUNTERS 2048

/* 8-bit integer tensor-core product of up to 16 rows (planes_levels.cu): planes 1..3, any group, 16-bit coefficients. Scratch: zeroed once
 * by the caller; NULL where that is 0. */
bool bpdq_cuda_planes_levels_supports(const bpdq_cuda_planes *planes, int64_t max_rows);
uint64_t bpdq_cuda_planes_levels_scratch(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, int64_t max_rows);
cudaError_t bpdq_cuda_planes_levels(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, const bpdq_cuda_bytes *input,
                                    void *scratch, const bpdq_cuda_output *output);
/* Exact f32 product of every format and any number of rows: x is f32 [rows, column_tiles * 256]. */
cudaError_t bpdq_cuda_planes_exact(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, const float *x,
                                   const bpdq_cuda_output *output);
/* f16 tensor-core product for many rows: planes 1..4, any group. On sm_90a the halves are `by_steps`. Scratch: zeroed once by the caller,
 * its size that of the largest product that shares it; NULL where that is 0. */
bool bpdq_cuda_planes_gemm_supports(const bpdq_cuda_planes *planes);
uint64_t bpdq_cuda_planes_gemm_scratch(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, int64_t max_rows);
cudaError_t bpdq_cuda_planes_gemm(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, const void *halves, const float *row_scale,
                                  void *scratch, const bpdq_cuda_output *output);
/* The same by the matrix unit of sm_90a (planes_wgmma.cu); planes_gemm takes it where queue->wgmma says so. Only the device that it was
 * compiled for loads it. bpdq_cuda_uses_wgmma: it is in this build, the present device loads it, and BPDQ_CUDA_WGMMA is not 0, by which a
 * Hopper device runs, and the operation suite checks there, the mma.sync kernel of every other device. */
bool bpdq_cuda_uses_wgmma(void);
bool bpdq_cuda_planes_wgmma_loads(void);
uint64_t bpdq_cuda_planes_wgmma_scratch(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, int64_t max_rows);
cudaError_t bpdq_cuda_planes_wgmma(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, const void *halves, const float *row_scale,
                                   void *scratch, const bpdq_cuda_output *output);

typedef struct bpdq_cuda_dense {
  const void *data;    /* [N, stride] of type; columns K .. stride-1 are zero. Q8: as in layout.h */
  const float *scales; /* Q8: [N / 16 rounded up, stride / 256, 16] */
  int type;            /* BPDQ_CUDA_F32, F16, BF16, Q8 */
  int64_t rows, columns, stride;
} bpdq_cuda_dense;

/* Few rows, f32 activations [rows, stride]; every type but Q8. */
cudaError_t bpdq_cuda_dense_gemv(const bpdq_cuda_queue *queue, const bpdq_cuda_dense *dense, const float *x,
                                 const bpdq_cuda_output *output);
/* Q8 and any number of rows, on integer tensor cores. */
cudaError_t bpdq_cuda_dense_q8(const bpdq_cuda_queue *queue, const bpdq_cuda_dense *dense, const void *bytes, const float *scales,
                               const bpdq_cuda_output *output);
/* Many rows on tensor cores, F16 and BF16 only, activations as a pair. */
cudaError_t bpdq_cuda_dense_gemm(const bpdq_cuda_queue *queue, const bpdq_cuda_dense *dense, const void *high, const void *low,
                                 const bpdq_cuda_output *output);

/* ---- attention ---- */

typedef struct bpdq_cuda_cache {
  void *keys, *values;              /* f16 or int8, layout.h */
  float *key_scales, *value_scales; /* int8: [kv_heads, rows] */
  int64_t rows;                     /* rounded up to 32 */
  int width;                        /* head_dim rounded up: 32, 64, 96, 128 or 256 */
  int type;                         /* BPDQ_CUDA_F16 or Q8 */
} bpdq_cuda_cache;

typedef struct bpdq_cuda_heads {
  int heads, kv_heads, head_dim;
  int64_t context, max_tokens;
  bpdq_cuda_run run;
} bpdq_cuda_heads;

typedef struct bpdq_cuda_rope {
  float *qkv;                   /* [tokens, (heads + 2 kv_heads) * head_dim] */
  const float *table;           /* [context, head_dim] */
  const float *q_norm, *k_norm; /* [head_dim] or NULL */
  float epsilon;
} bpdq_cuda_rope;

cudaError_t bpdq_cuda_rope_cache(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, const bpdq_cuda_rope *rope,
                                 const bpdq_cuda_cache *cache);
/* Bytes of scratch (zeroed once by the caller) that attention needs. */
uint64_t bpdq_cuda_attention_scratch(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads);
cudaError_t bpdq_cuda_attention(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, const float *qkv, float scale,
                                const bpdq_cuda_cache *cache, void *scratch, float *output);

/* Attention of up to 16 tokens, and at most 8 query heads to a kv head, with the rotation of the heads and the cache writes; qkv stays as
 * it was. Its result is what bpdq_cuda_attention_sums_of describes, in `scratch`, until it is merged: by the preparation of a product, or
 * by bpdq_cuda_attention_merge. */
bool bpdq_cuda_attention_decodes(const bpdq_cuda_heads *heads);
/* type: of the caches. */
uint64_t bpdq_cuda_attention_decode_scratch(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, int type);
cudaError_t bpdq_cuda_attention_decode(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, const bpdq_cuda_rope *rope, float scale,
                                       const bpdq_cuda_cache *cache, void *scratch);
bpdq_cuda_attention_sums bpdq_cuda_attention_sums_of(const bpdq_cuda_queue *queue, const bpdq_cuda_heads *heads, int type, void *scratch);
cudaError_t bpdq_cuda_attention_merge(const bpdq_cuda_queue *queue, const bpdq_cuda_attention_sums *sums, int64_t max_tokens,
                                      float *output);

/* ---- sampling ---- */

/* `host_values` and `host_ids` (may be NULL) are mapped host memory that gets the same results. */
typedef struct bpdq_cuda_top_k {
  const float *logits; /* [rows, vocab] */
  int64_t vocab, stride;
  int k;
  float *values, *host_values; /* [rows, k + 1] */
  int32_t *ids, *host_ids;     /* [rows, k] */
  bool last;
  int64_t max_rows;
  bpdq_cuda_run run;
} bpdq_cuda_top_k;

uint64_t bpdq_cuda_top_k_scratch(int64_t vocab, int k, int64_t max_rows); /* bytes, zeroed once by the caller */
cudaError_t bpdq_cuda_top_k_launch(const bpdq_cuda_queue *queue, const bpdq_cuda_top_k *top_k, void *scratch);

/* ---- loading (repack.cu) and measuring (bandwidth.cu) ---- */

/* Puts the words of `words` [t_count * planes, n_count] (word rows t_first.., rows n_first.. of the weight) into place. */
cudaError_t bpdq_cuda_repack_words(cudaStream_t stream, const uint32_t *words, int64_t t_first, int64_t t_count, int64_t n_first,
                                   int64_t n_count, const bpdq_cuda_planes *planes);
/* The same for coefficients [group_count * (planes + 1), n_count] of `type`. */
cudaError_t bpdq_cuda_repack_coefficients(cudaStream_t stream, const void *source, int type, int64_t group_first, int64_t group_count,
                                          int64_t n_first, int64_t n_count, const bpdq_cuda_planes *planes);
/* Rows of a dense matrix of `type`, `columns` wide, to dense rows n_first.. (type conversion, padding, or 8 bits). */
cudaError_t bpdq_cuda_repack_dense(cudaStream_t stream, const void *source, int type, int64_t n_first, int64_t n_count,
                                   const bpdq_cuda_dense *dense);
cudaError_t bpdq_cuda_random_words(cudaStream_t stream, uint32_t *words, uint64_t count, uint64_t seed);
cudaError_t bpdq_cuda_random_numbers(cudaStream_t stream, void *data, int type, uint64_t count, float magnitude, uint64_t seed);
cudaError_t bpdq_cuda_fill_f32(cudaStream_t stream, float *data, uint64_t count, float value);
/* The architecture that the code loaded on the present device was compiled for, as 80 or 90: a newer device may translate older PTX, which
 * lacks what the device could do. Fails where this build has no code for the device. */
cudaError_t bpdq_cuda_code_version(int *version);
/* Reads `bytes` (a multiple of 16) once; *sink gets a sum that keeps the reads alive. */
cudaError_t bpdq_cuda_read(cudaStream_t stream, const void *data, uint64_t bytes, int multiprocessors, uint32_t *sink);

#ifdef __cplusplus
}
#endif
#endif
