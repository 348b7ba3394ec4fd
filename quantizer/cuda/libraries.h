/* cuBLAS and cuSOLVER, loaded at run time: both come with the toolkit and not with the driver, so a program that were linked with them
 * would not start on machines without one. Their headers are needed at build time. */
#ifndef BPDQ_QUANTIZER_CUDA_LIBRARIES_H
#define BPDQ_QUANTIZER_CUDA_LIBRARIES_H

#include <cublas_v2.h>
#include <cusolverDn.h>

#include "core/platform.h"

typedef struct bpdq_gpu_libraries {
  bpdq_library *blas_file, *solver_file;

  typeof(&cublasCreate) blas_create;
  typeof(&cublasDestroy) blas_destroy;
  typeof(&cublasSetStream) blas_set_stream;
  typeof(&cublasSgemm) sgemm;
  typeof(&cublasSgemmStridedBatched) sgemm_strided_batched;
  typeof(&cublasGemmEx) gemm_ex;

  typeof(&cusolverDnCreate) solver_create;
  typeof(&cusolverDnDestroy) solver_destroy;
  typeof(&cusolverDnSetStream) solver_set_stream;
  typeof(&cusolverDnXpotrf_bufferSize) potrf_size;
  typeof(&cusolverDnXpotrf) potrf;
  typeof(&cusolverDnXpotrs) potrs;
  typeof(&cusolverDnXtrtri_bufferSize) trtri_size;
  typeof(&cusolverDnXtrtri) trtri;
} bpdq_gpu_libraries;

/* BPDQ_ERROR_DEVICE naming the library that cannot be loaded and where it was looked for. */
bpdq_status bpdq_gpu_libraries_load(bpdq_gpu_libraries *libraries, bpdq_error *error);
void bpdq_gpu_libraries_unload(bpdq_gpu_libraries *libraries); /* safe on a zeroed struct */

#endif
