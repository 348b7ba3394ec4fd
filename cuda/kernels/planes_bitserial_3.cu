/* The bit-serial kernels of 3-plane weights: a file of their own, so that they compile beside the others. */
#include "kernels/planes_bitserial.cuh"

const void *bitserial_kernel_3(int group, int slices, int depth) { return pick_bitserial_kernel<3>(group, slices, depth); }
