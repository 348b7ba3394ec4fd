/* Which linear algebra an option names. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "linalg.h"

/* "cuda" and "cuda:N" give a device number, everything else -1. */
static int cuda_device(const char *name) {
  if (strncmp(name, "cuda", 4)) return -1;
  if (!name[4]) return 0;
  char *end;
  if (name[4] != ':' || name[5] < '0' || name[5] > '9') return -1;
  errno = 0;
  long device = strtol(name + 5, &end, 10);
  return *end || errno || device > 1023 ? -1 : (int)device;
}

bool bpdq_algebra_known(const char *name) { return !name || !strcmp(name, "cpu") || cuda_device(name) >= 0; }

bpdq_status bpdq_algebra_create(const char *name, int threads, bpdq_algebra **algebra, bpdq_error *error) {
  *algebra = NULL;
  if (!bpdq_algebra_known(name))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "algebra: '%s' is unknown, possible are cpu, cuda and cuda:N", name);
  int device = name ? cuda_device(name) : -1;
  if (device < 0) return bpdq_cpu_algebra_create(threads, algebra, error);
#ifdef BPDQ_QUANTIZER_HAS_CUDA
  return bpdq_cuda_algebra_create(device, algebra, error);
#else
  return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "algebra: this program was built without CUDA; use the algebra cpu");
#endif
}
