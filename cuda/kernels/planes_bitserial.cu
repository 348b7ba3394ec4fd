/* Choice of the bit-serial kernel and of its launch shape. */
#include "kernels/planes_bitserial.cuh"

bool bpdq_cuda_bitserial_supports(const bpdq_cuda_planes *planes, int64_t max_rows) {
  bool group = planes->group == 64 || planes->group == 128 || planes->group == 256;
  return group && planes->planes <= 4 && max_rows == 1 && planes->coefficient_type != BPDQ_CUDA_F32;
}

/* From sweeps on an H200 (docs/benchmarks/cuda.md). Where all row tiles fit on the device at once, as two blocks to a multiprocessor, few
 * long rows want nearly all the warps there are, and short ones a warp for each column tile; else many light blocks keep the memory busy.
 * Two tiles of each warp on their way, where registers allow. */
static void choose_shape(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, int slices, const bpdq_cuda_tuning *tuning,
                         int *warps, int *depth) {
  int64_t column_tiles = planes->column_tiles;
  bool at_once = (planes->rows + 15) / 16 <= 2 * queue->multiprocessors, long_rows = column_tiles > BITSERIAL_MAX_WARPS;
  *depth = fits_twice(planes->planes, planes->group, slices, 2) ? 2 : 1;
  *warps = 8;
  if (at_once && long_rows) {
    *warps = *depth == 2 ? 14 : BITSERIAL_MAX_WARPS;
    if (planes->planes == 4) *warps = 8, *depth = 2;
  } else if (column_tiles <= 8 || (at_once && !long_rows)) {
    *warps = (int)column_tiles;
    *depth = 1;
  }
  if (tuning && tuning->warps) *warps = tuning->warps;
  if (tuning && tuning->depth) *depth = tuning->depth;
}

/* Threads and blocks of the stream over row tiles, or false: it needs two tiles in registers, and more row tiles than blocks fit at once,
 * else there is no next one whose weights could be on their way. */
static bool streams_rows(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, int slices, int *threads, int *blocks) {
  if (!can_stream(planes->planes, planes->group) || planes->column_tiles < 4 || planes->column_tiles > 2 * BITSERIAL_MAX_WARPS)
    return false;
  *threads = ((int)planes->column_tiles + 1) / 2 * 32;
  *blocks = stream_threads(planes->planes, planes->group, slices) / *threads * queue->multiprocessors;
  return (planes->rows + 15) / 16 > *blocks;
}

cudaError_t bpdq_cuda_bitserial(const bpdq_cuda_queue *queue, const bpdq_cuda_planes *planes, int slices, const bpdq_cuda_bits *input,
                                const bpdq_cuda_output *output, const bpdq_cuda_tuning *tuning) {
  typedef const void *(*kernel_choice)(int group, int slices, int depth);
  static const kernel_choice choices[] = {bitserial_kernel_1, bitserial_kernel_2, bitserial_kernel_3, bitserial_kernel_4};
  bitserial_arguments arguments = {};
  arguments.words = planes->words;
  arguments.coefficients = (const uint16_t *)planes->coefficients;
  arguments.input = *input;
  arguments.inverse_width = 1.0f / (float)planes->columns;
  arguments.row_tiles = (int)((planes->rows + 15) / 16);
  arguments.column_tiles = (int)planes->column_tiles;
  arguments.rows = (int)planes->rows;
  arguments.bf16 = planes->coefficient_type == BPDQ_CUDA_BF16;
  arguments.output = *output;
  void *pointers[] = {&arguments};
  int threads, blocks, warps, depth;
  if (!(tuning && tuning->warps) && streams_rows(queue, planes, slices, &threads, &blocks)) {
    arguments.words_step = blocks * planes->column_tiles * (planes->planes * 512);
    arguments.coefficients_step = blocks * planes->column_tiles * (256 / planes->group * (planes->planes + 1) * 32);
    const void *kernel = choices[planes->planes - 1](planes->group, slices, 0);
    return launch(queue, kernel, dim3((unsigned)blocks), dim3((unsigned)threads), 0, pointers);
  }
  choose_shape(queue, planes, slices, tuning, &warps, &depth);
  const void *kernel = choices[planes->planes - 1](planes->group, slices, depth);
  return launch(queue, kernel, dim3((unsigned)arguments.row_tiles), dim3((unsigned)warps * 32), 0, pointers);
}
