/* Known-answer checks of the optional paths. A driver may offer a feature and compute nonsense with it; a product of known numbers
 * through the same kernels that models use shows it before anything is trusted. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/vulkan/vulkan.h"
#include "core/half.h"

#define ROWS 40
#define COLUMNS 200 /* in groups of 64: the last one is padded */
#define PLANES 2
#define GROUP 64
#define GROUPS 4
#define WORDS (GROUPS * GROUP / 32)
#define TOKENS 20

typedef struct question {
  int32_t bits[WORDS][PLANES][ROWS];
  uint16_t coefficients[GROUPS][PLANES + 1][ROWS];
  float x[TOKENS][COLUMNS];
  double answer[TOKENS][ROWS];
} question;

static uint32_t next_random(uint32_t *seed) {
  *seed ^= *seed << 13;
  *seed ^= *seed >> 17;
  *seed ^= *seed << 5;
  return *seed;
}

static void make_question(question *q) {
  uint32_t seed = 2463534242u;
  for (int w = 0; w < WORDS; w++)
    for (int p = 0; p < PLANES; p++)
      for (int n = 0; n < ROWS; n++) q->bits[w][p][n] = (int32_t)next_random(&seed);
  for (int g = 0; g < GROUPS; g++)
    for (int p = 0; p <= PLANES; p++)
      for (int n = 0; n < ROWS; n++) q->coefficients[g][p][n] = bpdq_float_to_bf16((float)(next_random(&seed) % 1024) / 1024 - 0.5f);
  for (int t = 0; t < TOKENS; t++)
    for (int j = 0; j < COLUMNS; j++) q->x[t][j] = (float)(next_random(&seed) % 4096) / 1024 - 2;
  for (int t = 0; t < TOKENS; t++)
    for (int n = 0; n < ROWS; n++) {
      double sum = 0;
      for (int j = 0; j < COLUMNS; j++) {
        int g = j / GROUP;
        double w = bpdq_bf16_to_float(q->coefficients[g][PLANES][n]);
        for (int p = 0; p < PLANES; p++)
          if ((uint32_t)q->bits[j / 32][p][n] >> (j % 32) & 1) w += bpdq_bf16_to_float(q->coefficients[g][p][n]);
        sum += w * q->x[t][j];
      }
      q->answer[t][n] = sum;
    }
}

/* The product for the first `tokens` rows, through compile and run as for a model. */
static bpdq_status ask(bpdq_vulkan *vulkan, const question *q, bpdq_activations activations, int64_t tokens, float *answer,
                       bpdq_error *error) {
  bpdq_weight_part part = {ROWS, q->bits, BPDQ_I32, q->coefficients, BPDQ_BF16};
  bpdq_weight_desc desc = {BPDQ_WEIGHT_PLANES, "the device check", COLUMNS, PLANES, GROUP, &part, 1, false, false};
  bpdq_tensor_desc tensors[] = {{.kind = BPDQ_TENSOR_F32, .rows = tokens, .columns = COLUMNS},
                                {.kind = BPDQ_TENSOR_F32, .rows = tokens, .columns = ROWS}};
  bpdq_weight *weight = NULL;
  bpdq_state *state = NULL;
  bpdq_executable *executable = NULL;
  int32_t zeros[TOKENS] = {0};
  bpdq_run run = {tokens, zeros, zeros};
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_vulkan_weight_create(&vulkan->uploader, &desc, &weight, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_state_create(vulkan, tensors, 2, &state, error), done);
  bpdq_op op = {.kind = BPDQ_OP_LINEAR, .name = "the device check"};
  op.linear = (bpdq_op_linear){.input = 0, .output = 1, .weight = weight};
  bpdq_program program = {&op, 1, tokens, activations};
  BPDQ_TRY_GOTO(bpdq_vulkan_compile(vulkan, state, &program, &executable, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_tensor_write(state, 0, 0, tokens * COLUMNS, q->x, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_run(executable, &run, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_tensor_read(state, 1, 0, tokens * ROWS, answer, error), done);
done:
  bpdq_vulkan_executable_destroy(vulkan, executable);
  bpdq_vulkan_state_destroy(vulkan, state);
  bpdq_vulkan_weight_destroy(&vulkan->uploader, weight);
  return status;
}

static bool is_right(bpdq_vulkan *vulkan, const question *q, bpdq_activations activations, int64_t tokens) {
  float answer[TOKENS * ROWS];
  bpdq_error error = {0};
  bpdq_status status = ask(vulkan, q, activations, tokens, answer, &error);
  if (status != BPDQ_OK) {
    bpdq_log_warning(&vulkan->context.log, "vulkan: the device check failed: %s", error.message);
    return false;
  }
  double wrong = 0, right = 0, limit = activations == BPDQ_ACTIVATIONS_8 ? 4e-2 : 4e-3;
  for (int64_t i = 0; i < tokens * ROWS; i++) {
    double expected = q->answer[i / ROWS][i % ROWS];
    wrong += (answer[i] - expected) * (answer[i] - expected);
    right += expected * expected;
  }
  return sqrt(wrong / right) <= limit;
}

/* Integer dot products at both widths, for one token and for a batch. */
static bool integer_dot_is_right(bpdq_vulkan *vulkan, const question *q) {
  return is_right(vulkan, q, BPDQ_ACTIVATIONS_8, 1) && is_right(vulkan, q, BPDQ_ACTIVATIONS_16, 1) &&
         is_right(vulkan, q, BPDQ_ACTIVATIONS_8, 2);
}

static void switch_off(bpdq_vulkan *vulkan, bool *feature, const char *name) {
  *feature = false;
  bpdq_log_warning(&vulkan->context.log, "vulkan: %s gives wrong results on %s (%s) and is switched off", name, vulkan->backend.info.name,
                   vulkan->backend.info.driver);
}

bpdq_status bpdq_vulkan_probe(bpdq_vulkan *vulkan, bpdq_error *error) {
  vulkan_features *features = &vulkan->context.features;
  if (!bpdq_vulkan_shader("linear_dot8")) features->integer_dot = false;
  if (!bpdq_vulkan_shader("matrix_planes")) features->cooperative_matrix = false;
  question *q = malloc(sizeof *q);
  if (!q) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  make_question(q);
  if (features->integer_dot && !integer_dot_is_right(vulkan, q)) {
    /* Either of the two features may be to blame: try without subgroups first. */
    bool had_subgroup = features->subgroup;
    features->subgroup = false;
    if (had_subgroup && integer_dot_is_right(vulkan, q))
      switch_off(vulkan, &features->subgroup, "subgroup arithmetic");
    else
      switch_off(vulkan, &features->integer_dot, "integer dot product");
  }
  if (features->cooperative_matrix && !is_right(vulkan, q, BPDQ_ACTIVATIONS_16, TOKENS))
    switch_off(vulkan, &features->cooperative_matrix, "cooperative matrix");
  free(q);
  bpdq_vulkan_restore_peak(&vulkan->memory, 0); /* the check is no part of what the model holds */
  return BPDQ_OK;
}
