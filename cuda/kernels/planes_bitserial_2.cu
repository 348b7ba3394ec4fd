/* The bit-serial kernels of 2-plane weights: a file of their own, so that they compile beside the others. */
#include "kernels/planes_bitserial.cuh"

const void *bitserial_kernel_2(int group, int slices, int depth) { return pick_bitserial_kernel<2>(group, slices, depth); }
