/* Why there is no CUDA device, in words; for the backend and for the quantizer's algebra. */
#ifndef BPDQ_CUDA_NO_DEVICE_H
#define BPDQ_CUDA_NO_DEVICE_H

#include <cuda_runtime_api.h>
#include <stdio.h>

/* `result` is what cudaGetDeviceCount returned, with a count of 0 where it is cudaSuccess. The CUDA runtime calls a missing driver an
 * insufficient one. */
static inline void bpdq_cuda_no_device(cudaError_t result, char *text, size_t size) {
  int driver = 0, needed = CUDART_VERSION;
  (void)cudaDriverGetVersion(&driver);
  if (result == cudaErrorInsufficientDriver && !driver)
    snprintf(text, size, "no NVIDIA driver is installed");
  else if (result == cudaErrorInsufficientDriver)
    snprintf(text, size, "the driver is for CUDA %d.%d and this program needs %d.%d: install a newer driver", driver / 1000,
             driver % 1000 / 10, needed / 1000, needed % 1000 / 10);
  else
    snprintf(text, size, "%s", result == cudaSuccess ? "the driver finds none" : cudaGetErrorString(result));
}

#endif
