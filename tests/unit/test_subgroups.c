/* How wide subgroups are got, on made-up devices: what they say decides, and CI has none of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/status.h"

#ifndef BPDQ_HAVE_VULKAN

static void no_backend(void **state) {
  (void)state;
  skip();
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(no_backend)};
  return cmocka_run_group_tests_name("vulkan subgroups (not in this build)", tests, NULL, NULL);
}

#else

#include "backend/vulkan/subgroups.h"

#define THREADS 1024

/* A device with everything, whose subgroups have `least` to `most` threads. */
static vulkan_subgroups sizes(uint32_t usual, uint32_t least, uint32_t most) {
  return (vulkan_subgroups){.operations = true,
                            .usual = usual,
                            .least = least,
                            .most = most,
                            .most_in_group = 64,
                            .compute_can_require = true,
                            .size_control = true,
                            .filled = true};
}

static vulkan_subgroup_way wide(vulkan_subgroups subgroups) { return bpdq_vulkan_subgroup_way(&subgroups, VULKAN_SUBGROUP_WIDE, THREADS); }

static vulkan_subgroup_way exact(vulkan_subgroups subgroups) {
  return bpdq_vulkan_subgroup_way(&subgroups, VULKAN_SUBGROUP_EXACT, THREADS);
}

/* The same without the features, as an imported device has it whose owner did not enable them. */
static vulkan_subgroups without_control(vulkan_subgroups subgroups) {
  subgroups.size_control = subgroups.filled = false;
  return subgroups;
}

static void always_wide_is_left_alone(void **unused) {
  (void)unused;
  const vulkan_subgroups devices[] = {sizes(32, 32, 32), sizes(64, 64, 64), sizes(64, 32, 64), sizes(32, 32, 64), sizes(128, 64, 128)};
  for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
    assert_int_equal(wide(devices[i]), VULKAN_SUBGROUP_NATURAL);
    assert_int_equal(wide(without_control(devices[i])), VULKAN_SUBGROUP_NATURAL);
  }
}

/* Intel: 32 is reported, and 8 or 16 may run. */
static void narrow_ones_must_be_required(void **unused) {
  (void)unused;
  assert_int_equal(wide(sizes(32, 8, 32)), VULKAN_SUBGROUP_REQUIRED);
  assert_int_equal(wide(sizes(64, 16, 128)), VULKAN_SUBGROUP_REQUIRED);
  assert_int_equal(wide(without_control(sizes(32, 8, 32))), VULKAN_SUBGROUP_IMPOSSIBLE);
  vulkan_subgroups lacking[] = {sizes(32, 8, 32), sizes(32, 8, 32), sizes(32, 8, 32), sizes(32, 8, 32)};
  lacking[0].filled = false;
  lacking[1].size_control = false;
  lacking[2].compute_can_require = false;
  lacking[3].most_in_group = THREADS / VULKAN_SUBGROUP - 1;
  for (size_t i = 0; i < sizeof lacking / sizeof *lacking; i++) assert_int_equal(wide(lacking[i]), VULKAN_SUBGROUP_IMPOSSIBLE);
  lacking[3].most_in_group++;
  assert_int_equal(wide(lacking[3]), VULKAN_SUBGROUP_REQUIRED);
}

static void others_are_refused(void **unused) {
  (void)unused;
  assert_int_equal(wide(sizes(8, 8, 8)), VULKAN_SUBGROUP_IMPOSSIBLE);                   /* lavapipe */
  assert_int_equal(wide(sizes(16, 4, 16)), VULKAN_SUBGROUP_IMPOSSIBLE);                 /* v3dv */
  assert_int_equal(wide(without_control(sizes(32, 0, 0))), VULKAN_SUBGROUP_IMPOSSIBLE); /* it does not say */
  vulkan_subgroups silent = sizes(32, 32, 32);
  silent.operations = false;
  assert_int_equal(wide(silent), VULKAN_SUBGROUP_IMPOSSIBLE);
  assert_int_equal(bpdq_vulkan_subgroup_way(&silent, VULKAN_SUBGROUP_ANY, THREADS), VULKAN_SUBGROUP_NATURAL);
}

/* Cooperative matrices: AMD runs 64 threads unless it is asked for 32. */
static void matrices_get_32_threads(void **unused) {
  (void)unused;
  assert_int_equal(exact(without_control(sizes(32, 32, 32))), VULKAN_SUBGROUP_NATURAL);
  assert_int_equal(exact(without_control(sizes(32, 32, 64))), VULKAN_SUBGROUP_NATURAL);
  assert_int_equal(exact(sizes(64, 32, 64)), VULKAN_SUBGROUP_REQUIRED);
  assert_int_equal(exact(sizes(32, 8, 32)), VULKAN_SUBGROUP_REQUIRED);
  assert_int_equal(exact(without_control(sizes(64, 32, 64))), VULKAN_SUBGROUP_IMPOSSIBLE);
  assert_int_equal(exact(without_control(sizes(32, 8, 32))), VULKAN_SUBGROUP_IMPOSSIBLE);
  assert_int_equal(exact(sizes(64, 64, 64)), VULKAN_SUBGROUP_IMPOSSIBLE);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(matrices_get_32_threads), cmocka_unit_test(always_wide_is_left_alone),
                                     cmocka_unit_test(narrow_ones_must_be_required), cmocka_unit_test(others_are_refused)};
  return cmocka_run_group_tests_name("vulkan subgroups", tests, NULL, NULL);
}

#endif
