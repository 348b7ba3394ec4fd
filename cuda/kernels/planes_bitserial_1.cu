/* The bit-serial kernels of 1-plane weights: a file of their own, so that they compile beside the others. */
#include "kernels/planes_bitserial.cuh"

const void *bitserial_kernel_1(int group, int slices, int depth) { return pick_bitserial_kernel<1>(group, slices, depth); }
