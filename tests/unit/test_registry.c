/* Which device a model gets: devices that do not start, devices that are too small, and devices that were asked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/registry.h"

#define GIB ((uint64_t)1 << 30)

/* ---- two backends that exist on paper: "cuda" with two discrete devices, "vulkan" with an integrated one ---- */

static bpdq_status statuses[3]; /* of creating cuda 0, cuda 1 and vulkan 0 */

static void destroy(bpdq_backend *backend) { free(backend); }

static void describe(const char *backend, const char *kind, int index, uint64_t memory, bpdq_device_info *info) {
  *info = (bpdq_device_info){.index = index, .memory_total = memory, .memory_free = memory};
  snprintf(info->backend, sizeof info->backend, "%s", backend);
  snprintf(info->kind, sizeof info->kind, "%s", kind);
  snprintf(info->name, sizeof info->name, "%s card %d", backend, index);
}

static bpdq_status create(const char *name, bpdq_status status, const bpdq_backend_options *options, bpdq_backend **backend,
                          bpdq_error *error) {
  *backend = NULL;
  if (status != BPDQ_OK) return bpdq_fail(error, status, "%s: no code for this device", name);
  *backend = calloc(1, sizeof **backend);
  assert_non_null(*backend);
  (*backend)->destroy = destroy;
  describe(name, "discrete", options->device, 0, &(*backend)->info);
  return BPDQ_OK;
}

static size_t list_cuda(bpdq_device_info *devices, size_t capacity, const bpdq_log *log) {
  (void)log;
  for (int i = 0; i < 2 && (size_t)i < capacity; i++) describe("cuda", "discrete", i, (i ? 8 : 24) * GIB, &devices[i]);
  return 2;
}

static bpdq_status create_cuda(const bpdq_backend_options *options, bpdq_backend **backend, bpdq_error *error) {
  if (options->device > 1) return bpdq_fail(error, BPDQ_ERROR_DEVICE, "cuda: there is no device %d", options->device);
  return create("cuda", statuses[options->device < 0 ? 0 : options->device], options, backend, error);
}

static size_t list_vulkan(bpdq_device_info *devices, size_t capacity, const bpdq_log *log) {
  (void)log;
  if (capacity) describe("vulkan", "integrated", 0, 16 * GIB, &devices[0]);
  return 1;
}

static bpdq_status create_vulkan(const bpdq_backend_options *options, bpdq_backend **backend, bpdq_error *error) {
  return create("vulkan", statuses[2], options, backend, error);
}

static const bpdq_backend_registration cuda = {"cuda", list_cuda, create_cuda}, vulkan = {"vulkan", list_vulkan, create_vulkan};

/* ---- the choice ---- */

typedef struct outcome {
  bpdq_status status;
  bpdq_error error;
  char choice[256], warnings[1024];
} outcome;

static void collect(void *user, bpdq_log_level level, const char *line) {
  char *text = user;
  if (level == BPDQ_LOG_WARNING) snprintf(text + strlen(text), 1024 - strlen(text), "%s\n", line);
}

static outcome choose(const char *name, uint64_t memory_needed, int device) {
  const bpdq_backend_registration *const backends[] = {&cuda, &vulkan, &bpdq_cpu_registration};
  outcome result = {0};
  bpdq_backend_options options = {.device = device, .threads = 1, .log = {collect, result.warnings}};
  bpdq_backend *backend = NULL;
  result.status = bpdq_backend_choose_from(&(bpdq_backend_list){backends, 3}, name, memory_needed, &options, &backend, result.choice,
                                           sizeof result.choice, &result.error);
  assert_true((result.status == BPDQ_OK) == (backend != NULL));
  if (backend) backend->destroy(backend);
  return result;
}

static void says(const char *text, const char *part) {
  if (!strstr(text, part)) fail_msg("\"%s\" does not say \"%s\"", text, part);
}

static void set_statuses(bpdq_status first, bpdq_status second, bpdq_status third) {
  statuses[0] = first;
  statuses[1] = second;
  statuses[2] = third;
}

static void the_best_device_is_taken(void **unused) {
  (void)unused;
  set_statuses(BPDQ_OK, BPDQ_OK, BPDQ_OK);
  assert_string_equal(choose(NULL, GIB, -1).choice, "cuda on cuda card 0 (the best device found)");
  outcome result = choose(NULL, 30 * GIB, -1);
  assert_int_equal(result.status, BPDQ_OK);
  assert_true(!strncmp(result.choice, "cpu on ", 7));
  says(result.choice, "the model needs 30.0 GiB");
  assert_string_equal(result.warnings, "");
}

static void what_does_not_start_is_passed_over(void **unused) {
  (void)unused;
  set_statuses(BPDQ_ERROR_DEVICE, BPDQ_OK, BPDQ_OK);
  outcome result = choose(NULL, GIB, -1);
  assert_int_equal(result.status, BPDQ_OK);
  says(result.choice, "cuda on cuda card 1");
  says(result.choice, "cuda card 0: cuda: no code for this device");
  says(result.warnings, "cuda device 0, cuda card 0, does not start and is passed over: cuda: no code for this device");

  result = choose(NULL, 12 * GIB, -1); /* too much for card 1 */
  assert_true(!strncmp(result.choice, "vulkan on vulkan card 0 (", 25));
  says(result.choice, "no code for this device");

  set_statuses(BPDQ_ERROR_DEVICE, BPDQ_ERROR_DEVICE, BPDQ_ERROR_DEVICE);
  result = choose(NULL, GIB, -1);
  assert_int_equal(result.status, BPDQ_OK);
  assert_true(!strncmp(result.choice, "cpu on ", 7));
  says(result.choice, "cuda card 0: cuda: no code");
}

/* Only a device that cannot be used is a reason to go on. */
static void other_errors_end_the_choice(void **unused) {
  (void)unused;
  set_statuses(BPDQ_ERROR_MEMORY, BPDQ_OK, BPDQ_OK);
  outcome result = choose(NULL, GIB, -1);
  assert_int_equal(result.status, BPDQ_ERROR_MEMORY);
  says(result.error.message, "no code for this device");
}

static void what_is_asked_for_must_start(void **unused) {
  (void)unused;
  set_statuses(BPDQ_ERROR_DEVICE, BPDQ_OK, BPDQ_OK);
  assert_int_equal(choose("cuda", GIB, -1).status, BPDQ_ERROR_DEVICE);
  assert_int_equal(choose("cuda", GIB, 0).status, BPDQ_ERROR_DEVICE);
  outcome result = choose(NULL, GIB, 0);
  assert_int_equal(result.status, BPDQ_ERROR_DEVICE);
  says(result.error.message, "no code for this device");
  says(choose(NULL, GIB, 1).choice, "cuda on cuda card 1");
  setenv("BPDQ_BACKEND", "cuda", 1);
  assert_int_equal(choose(NULL, GIB, -1).status, BPDQ_ERROR_DEVICE);
  unsetenv("BPDQ_BACKEND");
}

/* Neither quietly another device nor quietly the CPU. */
static void a_device_that_is_not_there_is_refused(void **unused) {
  (void)unused;
  set_statuses(BPDQ_OK, BPDQ_OK, BPDQ_OK);
  outcome result = choose(NULL, GIB, 7);
  assert_int_equal(result.status, BPDQ_ERROR_DEVICE);
  says(result.error.message, "device 7");
  says(result.error.message, "no cuda device 7; no vulkan device 7");
  setenv("BPDQ_DEVICE", "7", 1);
  assert_int_equal(choose(NULL, GIB, -1).status, BPDQ_ERROR_DEVICE);
  unsetenv("BPDQ_DEVICE");
  result = choose(NULL, 12 * GIB, 1);
  assert_int_equal(result.status, BPDQ_ERROR_DEVICE);
  says(result.error.message, "has 8.0 GiB free");
  assert_true(!strncmp(choose(NULL, 30 * GIB, 0).choice, "cpu on ", 7)); /* the CPU is device 0 too, and the line says why */
}

int main(void) {
  unsetenv("BPDQ_BACKEND");
  unsetenv("BPDQ_DEVICE");
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_best_device_is_taken),
      cmocka_unit_test(what_does_not_start_is_passed_over),
      cmocka_unit_test(other_errors_end_the_choice),
      cmocka_unit_test(what_is_asked_for_must_start),
      cmocka_unit_test(a_device_that_is_not_there_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
