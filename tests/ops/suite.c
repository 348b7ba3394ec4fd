/* The operation suite: every operation of every backend against one double-precision oracle.
 *
 *   bpdq-ops [--backend NAME] [--device N] [--filter TEXT] [--quick]
 *
 * Without --backend all built-in backends are tested on their first device; a backend that was named must have one. */
#include "suite.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/registry.h"

void suite_section(suite *s, const char *name) {
  if (s->section[0] && s->section_cases)
    printf("  %-28s %5d checks, largest error %.2f of its limit\n", s->section, s->section_cases, s->section_worst);
  fflush(stdout);
  snprintf(s->section, sizeof s->section, "%s", name ? name : "");
  s->section_cases = 0;
  s->section_worst = 0;
}

bool suite_wants(const suite *s, const char *name) { return !s->filter || strstr(name, s->filter); }

static void count(suite *s, bool good) {
  s->section_cases++;
  if (good)
    s->passed++;
  else
    s->failed++;
}

void suite_compare(suite *s, const char *name, const float *actual, const double *expected, int64_t n, double limit) {
  double largest = 0, worst = 0;
  int64_t where = 0;
  for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(expected[i]));
  for (int64_t i = 0; i < n; i++) {
    double error = fabs(actual[i] - expected[i]);
    if (!(error <= worst)) { /* also catches NaN */
      worst = isnan(error) ? INFINITY : error;
      where = i;
    }
  }
  double relative = largest > 0 ? worst / largest : worst;
  if (relative / limit > s->section_worst) s->section_worst = relative / limit;
  count(s, relative <= limit);
  if (!(relative <= limit))
    printf("  FAILED %s: element %lld is %.8g, expected %.8g (error %.2e of the largest, limit %.0e)\n", name, (long long)where,
           actual[where], expected[where], relative, limit);
}

void suite_true(suite *s, const char *name, bool condition, const char *what) {
  count(s, condition);
  if (!condition) printf("  FAILED %s: %s\n", name, what);
}

bool suite_ok(suite *s, const char *name, bpdq_status status, const bpdq_error *error) {
  if (status == BPDQ_OK) return true;
  count(s, false);
  printf("  FAILED %s: status %d: %s\n", name, (int)status, error->message);
  return false;
}

bpdq_weight *suite_matrix(suite *s, const char *name, const oracle_matrix *matrices, int part_count) {
  bpdq_weight_part parts[3];
  for (int i = 0; i < part_count; i++)
    parts[i] = matrices[i].kind == BPDQ_WEIGHT_PLANES
                   ? (bpdq_weight_part){matrices[i].rows, matrices[i].data, BPDQ_I32, matrices[i].coefficients, matrices[i].dtype}
                   : (bpdq_weight_part){matrices[i].rows, matrices[i].data, matrices[i].dtype, NULL, BPDQ_F32};
  bpdq_weight_desc desc = {matrices[0].kind, name, matrices[0].columns,      matrices[0].planes, matrices[0].group, parts,
                           part_count,       true, strcmp(name, "head") == 0};
  bpdq_weight *weight = NULL;
  bpdq_error error = {0};
  bpdq_status status = s->backend->weight_create(s->backend, &desc, &weight, &error);
  if (status == BPDQ_OK) status = s->backend->weights_flush(s->backend, &error);
  return suite_ok(s, name, status, &error) ? weight : NULL;
}

bpdq_weight *suite_vector(suite *s, const char *name, const float *values, int64_t n) {
  bpdq_weight_part part = {n, values, BPDQ_F32, NULL, BPDQ_F32};
  bpdq_weight_desc desc = {BPDQ_WEIGHT_VECTOR, name, 1, 0, 0, &part, 1, true, false};
  bpdq_weight *weight = NULL;
  bpdq_error error = {0};
  bpdq_status status = s->backend->weight_create(s->backend, &desc, &weight, &error);
  if (status == BPDQ_OK) status = s->backend->weights_flush(s->backend, &error);
  return suite_ok(s, name, status, &error) ? weight : NULL;
}

bool suite_start(suite *s, const char *name, const bpdq_tensor_desc *tensors, const float *const *images, size_t n,
                 const bpdq_program *program, suite_run *run) {
  bpdq_error error = {0};
  memset(run, 0, sizeof *run);
  if (!suite_ok(s, name, s->backend->state_create(s->backend, tensors, n, &run->state, &error), &error)) return false;
  for (size_t i = 0; i < n; i++)
    if (images[i] &&
        !suite_ok(s, name, s->backend->tensor_write(run->state, (bpdq_tensor)i, 0, tensors[i].rows * tensors[i].columns, images[i], &error),
                  &error)) {
      suite_stop(s, run);
      return false;
    }
  if (suite_ok(s, name, s->backend->compile(s->backend, run->state, program, &run->executable, &error), &error)) return true;
  suite_stop(s, run);
  return false;
}

void suite_stop(suite *s, suite_run *run) {
  s->backend->executable_destroy(s->backend, run->executable);
  s->backend->state_destroy(s->backend, run->state);
}

void suite_scalars_fill(suite_scalars *scalars, int64_t tokens, int32_t first, int32_t sequence) {
  for (int64_t t = 0; t < tokens; t++) {
    scalars->positions[t] = first + (int32_t)t;
    scalars->sequences[t] = sequence;
  }
  scalars->run = (bpdq_run){tokens, scalars->positions, scalars->sequences};
}

static void print_log(void *user, bpdq_log_level level, const char *line) {
  (void)user;
  printf("  %s%s\n", level == BPDQ_LOG_WARNING ? "warning: " : "", line);
}

static void test_backend(suite *s, const bpdq_backend_registration *registration, int device) {
  bpdq_backend_options options = {.device = device, .log = {print_log, NULL}};
  bpdq_error error = {0};
  printf("%s:\n", registration->name);
  bpdq_status status = registration->create(&options, &s->backend, &error);
  if (!suite_ok(s, registration->name, status, &error)) return;
  printf("  %s (%s)\n", s->backend->info.name, s->backend->info.features);
  suite_linear(s);
  suite_attention(s);
  suite_layers(s);
  suite_top_k(s);
  suite_programs(s);
  suite_section(s, NULL);
  uint64_t current = 0, peak = 0;
  s->backend->memory(s->backend, &current, &peak);
  suite_true(s, "memory", current == 0, "memory is still accounted after everything was destroyed");
  s->backend->destroy(s->backend);
}

int main(int argc, char **argv) {
  suite s = {0};
  const char *only = NULL;
  int device = -1;
  for (int i = 1; i < argc; i++) {
    bool more = i + 1 < argc;
    if (!strcmp(argv[i], "--quick"))
      s.quick = true;
    else if (!strcmp(argv[i], "--backend") && more)
      only = argv[++i];
    else if (!strcmp(argv[i], "--device") && more)
      device = atoi(argv[++i]);
    else if (!strcmp(argv[i], "--filter") && more)
      s.filter = argv[++i];
    else {
      fprintf(stderr, "usage: bpdq-ops [--backend NAME] [--device N] [--filter TEXT] [--quick]\n");
      return 2;
    }
  }
  size_t registered;
  const bpdq_backend_registration *const *registrations = bpdq_backend_registrations(&registered);
  bool found = false;
  for (size_t i = 0; i < registered; i++) {
    if (only && strcmp(only, registrations[i]->name)) continue;
    bpdq_log log = {print_log, NULL};
    bool usable = registrations[i]->list(NULL, 0, &log) > 0;
    if (!usable && !only) {
      printf("%s: no device\n", registrations[i]->name);
      continue;
    }
    found = true;
    test_backend(&s, registrations[i], device);
  }
  suite_true(&s, "backends", found, only ? "the backend is not built in" : "no backend has a device");
  printf("%d passed, %d failed\n", s.passed, s.failed);
  return s.failed ? 1 : 0;
}
