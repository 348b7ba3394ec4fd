/* Choice of the bit-serial kernel and of its launch shape. */
#include "kernels/planes_row.cuh"

#define MAX_STAGES 8
#define ROWS 8
#define MAX_TILES_PER_BLOCK 4 /* bounds the partial sums in shared memory */

bool bpdq_cuda_bitserial_supports(const bpdq_cuda_planes *planes, int64_t max_rows) {
  bool group = planes->group == 64 || planes->group == 128 || planes->group == 256;
  return group && planes->planes <= 4 && max_rows <= 8 && planes->coefficient_type != BPDQ_CUDA_F32;
}

typedef struct launch_shape {
  int warps, stages;
  unsigned blocks;
  size_t shared;
} launch_shape;

/* Persistent blocks, one per multiprocessor: with programmatic dependent launch two kernels share a multiprocessor, so that each
 * may take somewhat less than half of its shared memory. */
static launch_shape choose_shape(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, const bpdq_cuda_tuning *tuning) {
  launch_shape shape;
  int row_tiles = (int)((planes->rows + 15) / 16);
  int groups = 256 / planes->group;
  size_t tile = (size_t)planes->planes * 512 + (size_t)groups * (planes->planes + 1) * 32;
  int per_multiprocessor = tuning && tuning->blocks_per_multiprocessor ? tuning->blocks_per_multiprocessor : 1;
  int capacity = queue->multiprocessors * per_multiprocessor;
  shape.warps = tuning && tuning->warps ? tuning->warps : 12;
  int limit = MAX_TILES_PER_BLOCK;
  int rounds = (row_tiles + capacity - 1) / capacity;
  shape.blocks = (unsigned)(rounds > limit ? (row_tiles + limit - 1) / limit : row_tiles < capacity ? row_tiles : capacity);
  int tiles = (row_tiles + (int)shape.blocks - 1) / (int)shape.blocks;
  size_t fixed = (size_t)tiles * shape.warps * ROWS * 64;
  size_t half = (size_t)(queue->shared_per_multiprocessor / 2 / per_multiprocessor - 2048);
  size_t budget = queue->dependent_launch || per_multiprocessor > 1 ? half : (size_t)queue->shared_per_block;
  if (budget > (size_t)queue->shared_per_block) budget = (size_t)queue->shared_per_block;
  shape.stages = tuning && tuning->stages ? tuning->stages : MAX_STAGES;
  while (shape.stages > 2 && fixed + tile * shape.stages * shape.warps > budget) shape.stages -= 2;
  shape.shared = fixed + tile * shape.stages * shape.warps;
  return shape;
}

/* From the sweep on an H200 (docs/benchmarks/cuda.md): where 8 warps hold a whole row tile in two steps, all of it is requested at once;
 * few and long rows want all the warps there are; else many light blocks keep the memory busy. */
static void choose_row_shape(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, const bpdq_cuda_tuning *tuning, int *warps,
                             int *depth) {
  int64_t row_tiles = (planes->rows + 15) / 16;
  bool long_rows = planes->column_tiles > 32 && row_tiles < 4 * queue->multiprocessors;
  *warps = tuning && tuning->warps ? tuning->warps : long_rows ? 16 : planes->column_tiles < 8 ? (int)planes->column_tiles : 8;
  *depth = tuning && tuning->stages ? tuning->stages : planes->column_tiles > 8 && planes->column_tiles <= 16 ? 2 : 1;
}

cudaError_t bpdq_cuda_bitserial(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, int slices, const uint32_t *bits,
                                const float2 *scales, const bpdq_cuda_output *output, const bpdq_cuda_tuning *tuning) {
  typedef const void *(*row_choice)(int group, int slices, int depth);
  typedef const void *(*kernel_choice)(int group, int slices);
  static const row_choice row_choices[] = {row_kernel_1, row_kernel_2, row_kernel_3, row_kernel_4};
  static const kernel_choice choices[] = {bitserial_kernel_1, bitserial_kernel_2, bitserial_kernel_3, bitserial_kernel_4};
  bitserial_arguments arguments = {};
  arguments.words = planes->words;
  arguments.coefficients = (const uint16_t *)planes->coefficients;
  arguments.bits = bits;
  arguments.scales = scales;
  arguments.row_tiles = (int)((planes->rows + 15) / 16);
  arguments.column_tiles = (int)planes->column_tiles;
  arguments.rows = (int)planes->rows;
  arguments.bf16 = planes->coefficient_type == BPDQ_CUDA_BF16;
  arguments.output = *output;
  void *pointers[] = {&arguments};
  if (output->max_rows == 1) {
    int warps, depth;
    choose_row_shape(queue, planes, tuning, &warps, &depth);
    return launch(queue, row_choices[planes->planes - 1](planes->group, slices, depth), dim3((unsigned)arguments.row_tiles),
                  dim3((unsigned)warps * 32), 0, pointers);
  }
  launch_shape shape = choose_shape(queue, planes, tuning);
  arguments.stages = shape.stages;
  return launch(queue, choices[planes->planes - 1](planes->group, slices), dim3(shape.blocks), dim3((unsigned)shape.warps * 32),
                shape.shared, pointers);
}
