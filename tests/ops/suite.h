/* Shared by the files of the operation suite: one backend under test, and checks that count. */
#ifndef BPDQ_TESTS_SUITE_H
#define BPDQ_TESTS_SUITE_H

#include "backend/backend.h"
#include "oracle.h"

typedef struct suite {
  bpdq_backend *backend;
  const char *filter; /* run only the cases whose name contains this; NULL: all */
  bool quick;         /* a thinner sweep, for slow devices and instrumented builds */
  int passed, failed;
  char section[64];
  int section_cases;
  double section_worst; /* largest error relative to its limit in this section */
} suite;

/* Starts a section ("linear planes"); the previous one's summary line is printed. NULL ends the last one. */
void suite_section(suite *s, const char *name);
bool suite_wants(const suite *s, const char *name);

/* Counts one case: max |actual - expected| <= limit * max |expected|. */
void suite_compare(suite *s, const char *name, const float *actual, const double *expected, int64_t count, double limit);
void suite_true(suite *s, const char *name, bool condition, const char *what);
/* Counts a failed case when status is not BPDQ_OK; returns whether it was. */
bool suite_ok(suite *s, const char *name, bpdq_status status, const bpdq_error *error);

/* Uploads one matrix, or a vector of f32. NULL (and a failed case) on error. */
bpdq_weight *suite_matrix(suite *s, const char *name, const oracle_matrix *matrices, int count);
bpdq_weight *suite_vector(suite *s, const char *name, const float *values, int64_t count);

/* Builds a state, writes `inputs` (one f32 image per tensor or NULL), compiles and runs the program `repeats` times. */
typedef struct suite_run {
  bpdq_state *state;
  bpdq_executable *executable;
} suite_run;
bool suite_start(suite *s, const char *name, const bpdq_tensor_desc *tensors, const float *const *images, size_t count,
                 const bpdq_program *program, suite_run *run);
void suite_stop(suite *s, suite_run *run);

/* Run scalars of `tokens` rows at first..first+tokens-1 of one sequence, in static-size arrays. */
#define SUITE_MAX_TOKENS 512
typedef struct suite_scalars {
  int32_t positions[SUITE_MAX_TOKENS], sequences[SUITE_MAX_TOKENS];
  bpdq_run run;
} suite_scalars;
void suite_scalars_fill(suite_scalars *scalars, int64_t tokens, int32_t first, int32_t sequence);

void suite_linear(suite *s);
void suite_attention(suite *s);
void suite_layers(suite *s);
void suite_top_k(suite *s);
void suite_programs(suite *s);

#endif
