#include "libraries.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* By the loader's own search, then where toolkits are installed. The exact major version: another one has another interface. */
static bpdq_status open_library(const char *name, int version, bpdq_library **library, bpdq_error *error) {
  const char *const folders[] = {"", getenv("CUDA_PATH"), getenv("CUDA_HOME"), "/usr/local/cuda", "/opt/cuda"};
  for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
    char path[1024];
    if (!folders[i]) continue;
    int length = *folders[i] ? snprintf(path, sizeof path, "%s/lib64/lib%s.so.%d", folders[i], name, version)
                             : snprintf(path, sizeof path, "lib%s.so.%d", name, version);
    if (length < 0 || (size_t)length >= sizeof path) continue;
    if (bpdq_library_open(path, library, NULL) == BPDQ_OK) return BPDQ_OK;
  }
  return bpdq_fail(
      error, BPDQ_ERROR_DEVICE,
      "lib%s.so.%d cannot be loaded: install the CUDA toolkit's libraries and name their folder in LD_LIBRARY_PATH, or use the "
      "algebra cpu",
      name, version);
}

typedef struct wanted {
  const char *name;
  size_t offset; /* of the pointer in bpdq_gpu_libraries */
} wanted;

/* cublas_v2.h renames functions, so the exported names are spelt out. */
static const wanted BLAS[] = {
    {"cublasCreate_v2", offsetof(bpdq_gpu_libraries, blas_create)},
    {"cublasDestroy_v2", offsetof(bpdq_gpu_libraries, blas_destroy)},
    {"cublasSetStream_v2", offsetof(bpdq_gpu_libraries, blas_set_stream)},
    {"cublasSgemm_v2", offsetof(bpdq_gpu_libraries, sgemm)},
    {"cublasSgemmStridedBatched", offsetof(bpdq_gpu_libraries, sgemm_strided_batched)},
    {"cublasGemmEx", offsetof(bpdq_gpu_libraries, gemm_ex)},
};
static const wanted SOLVER[] = {
    {"cusolverDnCreate", offsetof(bpdq_gpu_libraries, solver_create)},
    {"cusolverDnDestroy", offsetof(bpdq_gpu_libraries, solver_destroy)},
    {"cusolverDnSetStream", offsetof(bpdq_gpu_libraries, solver_set_stream)},
    {"cusolverDnXpotrf_bufferSize", offsetof(bpdq_gpu_libraries, potrf_size)},
    {"cusolverDnXpotrf", offsetof(bpdq_gpu_libraries, potrf)},
    {"cusolverDnXpotrs", offsetof(bpdq_gpu_libraries, potrs)},
    {"cusolverDnXtrtri_bufferSize", offsetof(bpdq_gpu_libraries, trtri_size)},
    {"cusolverDnXtrtri", offsetof(bpdq_gpu_libraries, trtri)},
};

static bpdq_status find_symbols(bpdq_gpu_libraries *libraries, bpdq_library *library, const char *what, const wanted *list, size_t count,
                                bpdq_error *error) {
  for (size_t i = 0; i < count; i++) {
    void *symbol = bpdq_library_symbol(library, list[i].name);
    if (!symbol) return bpdq_fail(error, BPDQ_ERROR_DEVICE, "%s has no function %s: install a newer CUDA toolkit", what, list[i].name);
    memcpy((char *)libraries + list[i].offset, &symbol, sizeof symbol);
  }
  return BPDQ_OK;
}

bpdq_status bpdq_gpu_libraries_load(bpdq_gpu_libraries *libraries, bpdq_error *error) {
  BPDQ_TRY(open_library("cublas", CUBLAS_VER_MAJOR, &libraries->blas_file, error));
  BPDQ_TRY(open_library("cusolver", CUSOLVER_VER_MAJOR, &libraries->solver_file, error));
  BPDQ_TRY(find_symbols(libraries, libraries->blas_file, "cuBLAS", BLAS, sizeof BLAS / sizeof *BLAS, error));
  return find_symbols(libraries, libraries->solver_file, "cuSOLVER", SOLVER, sizeof SOLVER / sizeof *SOLVER, error);
}

void bpdq_gpu_libraries_unload(bpdq_gpu_libraries *libraries) {
  bpdq_library_close(libraries->solver_file);
  bpdq_library_close(libraries->blas_file);
  *libraries = (bpdq_gpu_libraries){0};
}
