/* Which kernels this processor can run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_kernels.h"

#if defined(__x86_64__)

#include <cpuid.h>

/* clang 14's __builtin_cpu_supports does not know the name: CPUID leaf 1, ECX bit 29. AVX2 being usable says that the system saves the
 * registers. */
static bool has_f16c(void) {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

static bool has_avx2(void) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void) {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
}

#endif

static bool always(void) { return true; }

static const struct candidate {
  const cpu_kernels *kernels;
  bool (*usable)(void);
  const char *features;
} candidates[] = {
#if defined(__x86_64__)
    {&cpu_kernels_avx512, has_avx512, "avx512 vbmi vnni"},
    {&cpu_kernels_avx2, has_avx2, "avx2 fma f16c"},
#elif defined(__aarch64__)
    {&cpu_kernels_neon, always, "neon"},
#endif
    {&cpu_kernels_plain, always, "plain"},
};

const cpu_kernels *cpu_choose_kernels(char *features, size_t size, const char **asked) {
  *asked = getenv("BPDQ_CPU_KERNELS");
  if (*asked && !**asked) *asked = NULL;
  for (size_t i = 0; i < sizeof candidates / sizeof *candidates; i++) {
    const struct candidate *c = &candidates[i];
    if ((*asked && strcmp(*asked, c->kernels->name)) || !c->usable()) continue;
    snprintf(features, size, "%s", c->features);
    return c->kernels;
  }
  return NULL;
}
