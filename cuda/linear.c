/* Which kernel a product takes, what it wants of its input, and the work memory for that. */
#include "core/checked.h"
#include "internal.h"

typedef enum linear_method {
  METHOD_BITSERIAL,     /* activations as bit-planes of integers; one row */
  METHOD_PLANES_LEVELS, /* activations as bytes; few rows, or one in formats that the bit-serial kernels leave out */
  METHOD_PLANES_BATCH,  /* the same with f16 activations, and for four planes */
  METHOD_PLANES_GEMM,   /* f16 activations; many rows */
  METHOD_PLANES_EXACT,
  METHOD_DENSE_GEMV, /* f32 activations */
  METHOD_DENSE_GEMM, /* activations as a pair of 16-bit numbers */
  METHOD_DENSE_Q8    /* activations as integers of 16 bits in two bytes */
} linear_method;

#define GEMV_ROWS 16 /* up to this many rows a dense product reads its weights row by row */
#define EXACT_ROWS 4 /* likewise for plane formats without a bit-serial kernel */

static int64_t rows_of(const bpdq_op_linear *op, int64_t max_tokens) { return op->rows == BPDQ_ROWS_LAST ? 1 : max_tokens; }

static linear_method method_of(const bpdq_weight *weight, int64_t rows, bpdq_activations activations) {
  if (weight->kind == BPDQ_WEIGHT_DENSE) {
    if (weight->dense.type == BPDQ_CUDA_Q8) return METHOD_DENSE_Q8;
    bool tensor_cores = weight->dense.type == BPDQ_CUDA_F16 || weight->dense.type == BPDQ_CUDA_BF16;
    return tensor_cores && rows > GEMV_ROWS ? METHOD_DENSE_GEMM : METHOD_DENSE_GEMV;
  }
  if (activations == BPDQ_ACTIVATIONS_F32) return METHOD_PLANES_EXACT;
  if (bpdq_cuda_bitserial_supports(&weight->planes, rows)) return METHOD_BITSERIAL;
  if (activations == BPDQ_ACTIVATIONS_8 && bpdq_cuda_planes_levels_supports(&weight->planes, rows)) return METHOD_PLANES_LEVELS;
  if (bpdq_cuda_planes_batch_supports(&weight->planes, rows)) return METHOD_PLANES_BATCH;
  return rows > EXACT_ROWS && bpdq_cuda_planes_gemm_supports(&weight->planes) ? METHOD_PLANES_GEMM : METHOD_PLANES_EXACT;
}

/* Sizes of the arrays that a method's preparation writes; the second begins at a multiple of 256, what else there is behind it. */
static uint64_t work_arrays(const bpdq_weight *weight, linear_method method, int slices, int64_t rows, uint64_t *second) {
  const bpdq_cuda_planes *p = &weight->planes;
  uint64_t first = 0, then = 0, n = (uint64_t)rows;
  switch (method) {
    case METHOD_BITSERIAL:
      first = n * (uint64_t)p->column_tiles * (uint64_t)slices * 256;
      then = n * ((uint64_t)p->groups * sizeof(float2) + (uint64_t)p->column_tiles * sizeof(float)); /* scales, squares */
      break;
    case METHOD_PLANES_LEVELS:
      first = bpdq_round_up(n, 8) * (uint64_t)p->column_tiles * 256;
      then = bpdq_round_up(n, 8) * (uint64_t)p->column_tiles * 3 * sizeof(float); /* scales, squares */
      break;
    case METHOD_PLANES_BATCH:
      first = bpdq_round_up(n, 8) * (uint64_t)p->column_tiles * 512;
      then = n * (uint64_t)p->column_tiles * sizeof(float);
      break;
    case METHOD_PLANES_GEMM:
      first = n * (uint64_t)p->column_tiles * 512;
      then = n * sizeof(float);
      break;
    case METHOD_PLANES_EXACT:
      first = n * (uint64_t)p->column_tiles * 1024;
      break;
    case METHOD_DENSE_GEMV:
      first = n * (uint64_t)weight->dense.stride * 4;
      break;
    case METHOD_DENSE_GEMM:
      first = then = n * (uint64_t)weight->dense.stride * 2;
      break;
    case METHOD_DENSE_Q8:
      first = n * (uint64_t)weight->dense.stride * 2;
      then = n * (uint64_t)(weight->dense.stride / 256) * sizeof(float);
      break;
  }
  *second = (first + 255) / 256 * 256;
  return *second + then;
}

static int slices_of(bpdq_activations activations) { return activations == BPDQ_ACTIVATIONS_8 ? 1 : 2; }

uint64_t cuda_linear_work(const bpdq_op_linear *op, int64_t max_tokens, bpdq_activations activations) {
  int64_t rows = rows_of(op, max_tokens);
  uint64_t second;
  return work_arrays(op->weight, method_of(op->weight, rows, activations), slices_of(activations), rows, &second);
}

uint64_t cuda_linear_scratch(const bpdq_executable *e, const bpdq_op_linear *op) {
  int64_t rows = rows_of(op, e->max_tokens);
  linear_method method = method_of(op->weight, rows, e->activations);
  if (method == METHOD_PLANES_LEVELS) return bpdq_cuda_planes_levels_scratch(&e->backend->queue, &op->weight->planes, rows);
  if (method != METHOD_PLANES_GEMM) return 0;
  return bpdq_cuda_planes_gemm_scratch(&e->backend->queue, &op->weight->planes, rows);
}

bpdq_cuda_prepare cuda_prepare_of(const bpdq_executable *executable, bpdq_tensor input, const bpdq_transform *transform, int64_t width,
                                  bool last) {
  return (bpdq_cuda_prepare){.input = (float *)executable->state->tensors[input].data,
                             .norm = transform->kind == BPDQ_TRANSFORM_RMS_NORM ? transform->norm->memory : NULL,
                             .epsilon = transform->epsilon,
                             .kind = (int)transform->kind,
                             .width = width,
                             .last = last,
                             .max_rows = last ? 1 : executable->max_tokens,
                             .run = executable->run};
}

bool cuda_linear_merges(const bpdq_executable *executable, const bpdq_op_linear *op, const bpdq_cuda_attention_sums *attention) {
  linear_method method = method_of(op->weight, rows_of(op, executable->max_tokens), executable->activations);
  bool of_few_rows = method == METHOD_BITSERIAL || method == METHOD_PLANES_LEVELS || method == METHOD_PLANES_BATCH;
  return of_few_rows && op->rows == BPDQ_ROWS_ALL && op->transform.kind == BPDQ_TRANSFORM_NONE && attention->head_dim % 32 == 0 &&
         op->weight->columns == (int64_t)attention->heads * attention->head_dim;
}

static cudaError_t launch_bitserial(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, const bpdq_cuda_prepare *prepare,
                                    int slices, void *bits, void *scales, const bpdq_cuda_output *output) {
  float *squares = (float *)((float2 *)scales + planes->groups);
  cudaError_t result = bpdq_cuda_prepare_bits(queue, prepare, slices, planes->group, planes->column_tiles, bits, scales, squares);
  bpdq_cuda_bits input = {bits, scales, prepare->kind == BPDQ_TRANSFORM_RMS_NORM ? squares : NULL, prepare->epsilon};
  return result == cudaSuccess ? bpdq_cuda_bitserial(queue, planes, slices, &input, output, NULL) : result;
}

static cudaError_t launch_levels(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, const bpdq_cuda_prepare *prepare,
                                 void *bytes, float *scales, void *scratch, const bpdq_cuda_output *output) {
  float *squares = scales + bpdq_round_up((uint64_t)prepare->max_rows, 8) * (uint64_t)planes->column_tiles * 2;
  cudaError_t result = bpdq_cuda_prepare_byte_tiles(queue, prepare, planes->column_tiles, bytes, scales, squares);
  bpdq_cuda_bytes input = {bytes, scales, prepare->kind == BPDQ_TRANSFORM_RMS_NORM ? squares : NULL, prepare->epsilon};
  return result == cudaSuccess ? bpdq_cuda_planes_levels(queue, planes, &input, scratch, output) : result;
}

cudaError_t cuda_linear_launch(const bpdq_cuda_queue *queue, const bpdq_executable *executable, const bpdq_op_linear *op,
                               const bpdq_cuda_attention_sums *attention) {
  const bpdq_weight *w = op->weight;
  bool last = op->rows == BPDQ_ROWS_LAST;
  int64_t rows = rows_of(op, executable->max_tokens);
  int slices = slices_of(executable->activations);
  const cuda_tensor *output_tensor = &executable->state->tensors[op->output];
  bpdq_cuda_prepare prepare = cuda_prepare_of(executable, op->input, &op->transform, w->columns, last);
  bpdq_cuda_output output = {.data = (float *)output_tensor->data + op->offset,
                             .stride = output_tensor->desc.columns,
                             .bias = op->bias ? op->bias->memory : NULL,
                             .accumulate = op->accumulate,
                             .last = last,
                             .max_rows = rows,
                             .run = executable->run};
  if (attention) {
    prepare.kind = BPDQ_CUDA_MERGE_ATTENTION;
    prepare.attention = *attention;
  }
  linear_method method = method_of(w, rows, executable->activations);
  uint64_t at;
  work_arrays(w, method, slices, rows, &at);
  void *first = executable->work.prepared, *second = executable->work.prepared + at;
  cudaError_t result;
  switch (method) {
    case METHOD_BITSERIAL:
      return launch_bitserial(queue, &w->planes, &prepare, slices, first, second, &output);
    case METHOD_PLANES_LEVELS:
      return launch_levels(queue, &w->planes, &prepare, first, second, executable->work.gemm_bytes ? executable->work.gemm : NULL, &output);
    case METHOD_PLANES_BATCH:
      result = bpdq_cuda_prepare_half_tiles(queue, &prepare, w->planes.column_tiles, first, second);
      if (result != cudaSuccess) return result;
      return bpdq_cuda_planes_batch(queue, &w->planes, first, second, &output);
    case METHOD_PLANES_GEMM:
      result = bpdq_cuda_prepare_half(queue, &prepare, w->planes.column_tiles, queue->wgmma, first, second);
      if (result != cudaSuccess) return result;
      return bpdq_cuda_planes_gemm(queue, &w->planes, first, second, executable->work.gemm_bytes ? executable->work.gemm : NULL, &output);
    case METHOD_PLANES_EXACT:
      result = bpdq_cuda_prepare_f32(queue, &prepare, first, w->planes.column_tiles * 256);
      if (result != cudaSuccess) return result;
      return bpdq_cuda_planes_exact(queue, &w->planes, first, &output);
    case METHOD_DENSE_GEMV:
      result = bpdq_cuda_prepare_f32(queue, &prepare, first, w->dense.stride);
      if (result != cudaSuccess) return result;
      return bpdq_cuda_dense_gemv(queue, &w->dense, first, &output);
    case METHOD_DENSE_Q8:
      result = bpdq_cuda_prepare_bytes(queue, &prepare, w->dense.stride / 256, first, second);
      if (result != cudaSuccess) return result;
      return bpdq_cuda_dense_q8(queue, &w->dense, first, second, &output);
    default:
      result = bpdq_cuda_prepare_pair(queue, &prepare, w->dense.type, first, second, w->dense.stride);
      if (result != cudaSuccess) return result;
      return bpdq_cuda_dense_gemm(queue, &w->dense, first, second, &output);
  }
}
