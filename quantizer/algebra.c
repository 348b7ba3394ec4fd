/* Which linear algebra an option names. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/platform.h"
#include "multi/multi.h"

enum { CPU = -1, LAST_DEVICE = 1023 };

typedef struct algebra_parts {
  int devices[BPDQ_MULTI_MOST]; /* CUDA device numbers, or CPU for all */
  int count;
} algebra_parts;

/* "cpu", "cuda" or "cuda:N" at the start of `text`; returns what follows, or NULL. */
static const char *read_part(const char *text, int *device) {
  *device = CPU;
  if (!strncmp(text, "cpu", 3)) return text + 3;
  if (strncmp(text, "cuda", 4)) return NULL;
  *device = 0;
  if (text[4] != ':') return text + 4;
  char *end;
  if (text[5] < '0' || text[5] > '9') return NULL;
  errno = 0;
  long number = strtol(text + 5, &end, 10);
  *device = (int)number;
  return errno || number > LAST_DEVICE ? NULL : end;
}

static bool read_parts(const char *name, algebra_parts *parts) {
  const char *rest = name ? name : "cpu";
  for (parts->count = 0; parts->count < BPDQ_MULTI_MOST; rest++) {
    int *device = &parts->devices[parts->count++];
    rest = read_part(rest, device);
    if (!rest || (*device == CPU) != (parts->devices[0] == CPU)) return false;
    if (!*rest) return true;
    if (*rest != '+') return false;
  }
  return false;
}

bool bpdq_quantize_algebra_known(const char *name) {
  algebra_parts parts;
  return read_parts(name, &parts);
}

static bpdq_status create_part(int device, int threads, bpdq_algebra **algebra, bpdq_error *error) {
  if (device == CPU) return bpdq_cpu_algebra_create(threads, algebra, error);
#ifdef BPDQ_QUANTIZER_HAS_CUDA
  return bpdq_cuda_algebra_create(device, algebra, error);
#else
  return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "algebra: this program was built without CUDA; use the algebra cpu");
#endif
}

bpdq_status bpdq_algebra_create(const char *name, int threads, bpdq_algebra **algebra, bpdq_error *error) {
  algebra_parts parts;
  bpdq_algebra *made[BPDQ_MULTI_MOST];
  *algebra = NULL;
  if (!read_parts(name, &parts))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT,
                     "algebra: '%s' is unknown, possible are cpu, cuda, cuda:N and up to %d of a kind joined by +, like cuda:0+cuda:1",
                     name, BPDQ_MULTI_MOST);
  if (parts.count == 1) return create_part(parts.devices[0], threads, algebra, error);
  int all = threads ? threads : bpdq_cpu_count();
  for (int i = 0; i < parts.count; i++) {
    bpdq_status status = create_part(parts.devices[i], bpdq_multi_threads(all, parts.count, i), &made[i], error);
    if (status == BPDQ_OK) continue;
    while (i--) made[i]->destroy(made[i]);
    return status;
  }
  return bpdq_multi_algebra_create(name, made, parts.count, algebra, error);
}
