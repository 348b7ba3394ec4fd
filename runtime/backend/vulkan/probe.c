/* Known-answer checks of the optional paths. A driver may offer a feature and compute nonsense with it; products and attention of known
 * numbers through the same kernels that models use show it before anything is trusted. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/vulkan/product.h"
#include "core/half.h"

#define ROWS 40
#define COLUMNS 1000 /* in groups of 64: the last one is padded; enough for threads of a subgroup to share a row, and then some */
#define PLANES 2
#define GROUP 64
#define GROUPS 16
#define WORDS (GROUPS * GROUP / 32)
#define TOKENS 20
#define EPSILON 1e-5f

typedef struct question {
  int32_t bits[WORDS][PLANES][ROWS];
  uint16_t coefficients[GROUPS][PLANES + 1][ROWS];
  uint16_t head[ROWS][COLUMNS]; /* the same matrix, dense */
  float x[TOKENS][COLUMNS], norm[COLUMNS];
  double answer[2][TOKENS][ROWS]; /* of x as it is; of its RMS norm */
} question;

/* One way of asking, and how wrong an answer may be. */
typedef struct asked {
  bpdq_activations activations;
  int64_t tokens;
  bool norm, head; /* behind an RMS norm; of a dense matrix in 8 bits */
  double limit;
} asked;

/* Both widths, one token and a batch; all that the products exchange within a subgroup. */
static const asked integer_dot_questions[] = {{BPDQ_ACTIVATIONS_8, 1, true, false, 4e-2},
                                              {BPDQ_ACTIVATIONS_16, 1, false, false, 4e-3},
                                              {BPDQ_ACTIVATIONS_8, 2, true, false, 4e-2},
                                              {BPDQ_ACTIVATIONS_16, 1, true, true, 2e-2},
                                              {BPDQ_ACTIVATIONS_16, 2, true, true, 2e-2}};
/* One and two tiles of tokens, of linear_bits.comp, and of linear_head_matrix.comp if there are integers. */
static const asked known_matrix_questions[] = {{BPDQ_ACTIVATIONS_16, 7, true, false, 4e-3},
                                               {BPDQ_ACTIVATIONS_16, 12, false, false, 4e-3},
                                               {BPDQ_ACTIVATIONS_16, 7, false, true, 2e-2},
                                               {BPDQ_ACTIVATIONS_16, 12, false, true, 2e-2}};
/* Both builds of linear_matrix.comp. */
static const asked matrix_questions[] = {{BPDQ_ACTIVATIONS_16, TOKENS, false, false, 4e-3}, {BPDQ_ACTIVATIONS_16, 7, false, false, 4e-3}};

static uint32_t next_random(uint32_t *seed) {
  *seed ^= *seed << 13;
  *seed ^= *seed >> 17;
  *seed ^= *seed << 5;
  return *seed;
}

/* In -2..2. */
static float next_value(uint32_t *seed) { return (float)(next_random(seed) % 4096) / 1024 - 2; }

static double weight_of(const question *q, int n, int j) {
  int g = j / GROUP;
  double w = bpdq_bf16_to_float(q->coefficients[g][PLANES][n]);
  for (int p = 0; p < PLANES; p++)
    if ((uint32_t)q->bits[j / 32][p][n] >> (j % 32) & 1) w += bpdq_bf16_to_float(q->coefficients[g][p][n]);
  return w;
}

static void make_question(question *q) {
  uint32_t seed = 2463534242u;
  for (int w = 0; w < WORDS; w++)
    for (int p = 0; p < PLANES; p++)
      for (int n = 0; n < ROWS; n++) q->bits[w][p][n] = (int32_t)next_random(&seed);
  for (int g = 0; g < GROUPS; g++)
    for (int p = 0; p <= PLANES; p++)
      for (int n = 0; n < ROWS; n++) q->coefficients[g][p][n] = bpdq_float_to_bf16((float)(next_random(&seed) % 1024) / 1024 - 0.5f);
  double squares[TOKENS] = {0};
  for (int t = 0; t < TOKENS; t++)
    for (int j = 0; j < COLUMNS; j++) {
      q->x[t][j] = next_value(&seed);
      squares[t] += (double)q->x[t][j] * q->x[t][j];
    }
  for (int j = 0; j < COLUMNS; j++) q->norm[j] = next_value(&seed);
  memset(q->answer, 0, sizeof q->answer);
  for (int n = 0; n < ROWS; n++)
    for (int j = 0; j < COLUMNS; j++) {
      double w = weight_of(q, n, j);
      q->head[n][j] = bpdq_float_to_bf16((float)w);
      for (int t = 0; t < TOKENS; t++) {
        q->answer[0][t][n] += w * q->x[t][j];
        q->answer[1][t][n] += w * q->x[t][j] * q->norm[j] / sqrt(squares[t] / COLUMNS + EPSILON);
      }
    }
}

static bpdq_status create_matrix(bpdq_vulkan *vulkan, const question *q, bool head, bpdq_weight **weight, bpdq_error *error) {
  bpdq_weight_part planes = {ROWS, q->bits, BPDQ_I32, q->coefficients, BPDQ_BF16}, dense = {ROWS, q->head, BPDQ_BF16, NULL, BPDQ_F32};
  bpdq_weight_desc desc = {BPDQ_WEIGHT_PLANES, "the device check", COLUMNS, PLANES, GROUP, &planes, 1, false, false};
  if (head) desc = (bpdq_weight_desc){BPDQ_WEIGHT_DENSE, "the device check", COLUMNS, 0, 0, &dense, 1, false, true};
  vulkan->uploader.any_head = head;
  bpdq_status status = bpdq_vulkan_weight_create(&vulkan->uploader, &desc, weight, error);
  vulkan->uploader.any_head = false;
  return status;
}

/* The product of the first rows, through compile and run as for a model. */
static bpdq_status ask(bpdq_vulkan *vulkan, const question *q, const asked *how, float *answer, bpdq_error *error) {
  bpdq_weight_part part = {COLUMNS, q->norm, BPDQ_F32, NULL, BPDQ_F32};
  bpdq_weight_desc desc = {BPDQ_WEIGHT_VECTOR, "the device check", 1, 0, 0, &part, 1, false, false};
  bpdq_tensor_desc tensors[] = {{.kind = BPDQ_TENSOR_F32, .rows = how->tokens, .columns = COLUMNS},
                                {.kind = BPDQ_TENSOR_F32, .rows = how->tokens, .columns = ROWS}};
  bpdq_weight *weight = NULL, *norm = NULL;
  bpdq_state *state = NULL;
  bpdq_executable *executable = NULL;
  int32_t zeros[TOKENS] = {0};
  bpdq_run run = {how->tokens, zeros, zeros};
  bpdq_status status;
  BPDQ_TRY_GOTO(create_matrix(vulkan, q, how->head, &weight, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_weight_create(&vulkan->uploader, &desc, &norm, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_state_create(vulkan, tensors, 2, &state, error), done);
  bpdq_op op = {.kind = BPDQ_OP_LINEAR, .name = "the device check"};
  op.linear = (bpdq_op_linear){.input = 0, .output = 1, .weight = weight};
  if (how->norm) op.linear.transform = (bpdq_transform){BPDQ_TRANSFORM_RMS_NORM, norm, EPSILON};
  bpdq_program program = {&op, 1, how->tokens, how->activations};
  BPDQ_TRY_GOTO(bpdq_vulkan_compile(vulkan, state, &program, &executable, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_tensor_write(state, 0, 0, how->tokens * COLUMNS, q->x, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_run(executable, &run, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_tensor_read(state, 1, 0, how->tokens * ROWS, answer, error), done);
done:
  bpdq_vulkan_executable_destroy(vulkan, executable);
  bpdq_vulkan_state_destroy(vulkan, state);
  bpdq_vulkan_weight_destroy(&vulkan->uploader, weight);
  bpdq_vulkan_weight_destroy(&vulkan->uploader, norm);
  return status;
}

/* Whether `count` values are as expected. A failure of the device is a wrong answer, and is logged. */
static bool is_near(const bpdq_vulkan *vulkan, bpdq_status status, const bpdq_error *error, const float *answer, const double *expected,
                    int64_t count, double limit) {
  if (status != BPDQ_OK) {
    bpdq_log_warning(&vulkan->context.log, "vulkan: the device check failed: %s", error->message);
    return false;
  }
  double wrong = 0, right = 0;
  for (int64_t i = 0; i < count; i++) {
    wrong += (answer[i] - expected[i]) * (answer[i] - expected[i]);
    right += expected[i] * expected[i];
  }
  return sqrt(wrong / right) <= limit;
}

static bool is_right(bpdq_vulkan *vulkan, const question *q, const asked *how) {
  float answer[TOKENS * ROWS];
  bpdq_error error = {0};
  bpdq_status status = ask(vulkan, q, how, answer, &error);
  return is_near(vulkan, status, &error, answer, q->answer[how->norm][0], how->tokens * ROWS, how->limit);
}

static bool known_matrix_is_right(bpdq_vulkan *vulkan, const question *q) {
  size_t count = sizeof known_matrix_questions / sizeof *known_matrix_questions;
  if (!vulkan->context.features.integer_dot) count -= 2; /* then no head has 8 bits */
  for (size_t i = 0; i < count; i++)
    if (!is_right(vulkan, q, &known_matrix_questions[i])) return false;
  return true;
}

/* Small batches go to known matrices, which have been asked: nothing else would be learnt. */
static bool others_are_right(bpdq_vulkan *vulkan, const question *q, const asked *questions, size_t count) {
  for (size_t i = 0; i < count; i++) {
    bool batch = questions[i].tokens > 1 && questions[i].tokens <= VULKAN_BITS_TOKENS && !questions[i].head;
    if (!(batch && vulkan->context.features.known_matrix) && !is_right(vulkan, q, &questions[i])) return false;
  }
  return true;
}

static bool integer_dot_is_right(bpdq_vulkan *vulkan, const question *q) {
  return others_are_right(vulkan, q, integer_dot_questions, sizeof integer_dot_questions / sizeof *integer_dot_questions);
}

static bool matrix_is_right(bpdq_vulkan *vulkan, const question *q) {
  return others_are_right(vulkan, q, matrix_questions, sizeof matrix_questions / sizeof *matrix_questions);
}

/* ---- attention: maxima and sums over all threads of a subgroup ---- */

#define HEADS 2
#define DIM 32
#define POSITIONS 65                     /* every thread of a subgroup has a score, and there is a second turn */
#define DEEP_POSITIONS (VULKAN_DEEP + 2) /* the last one reaches that */
#define QKV ((HEADS + 2) * DIM)
#define ATTENTION_LIMIT 1e-2 /* keys and values are kept in f16 */

enum { T_QKV, T_OUTPUT, T_TABLE, T_KEYS, T_VALUES, T_COUNT };

typedef struct attention_question {
  int positions;
  bpdq_activations activations;
  float qkv[DEEP_POSITIONS][QKV]; /* queries of HEADS heads, a key, a value */
  float table[DEEP_POSITIONS][DIM];
  double answer[HEADS][DIM]; /* of the last row */
} attention_question;

static void make_attention_question(attention_question *q) {
  uint32_t seed = 2463534242u;
  for (int i = 0; i < q->positions; i++)
    for (int j = 0; j < QKV; j++) q->qkv[i][j] = next_value(&seed);
  for (int i = 0; i < q->positions; i++) /* cosines, then sines: no rotation */
    for (int j = 0; j < DIM; j++) q->table[i][j] = j < DIM / 2 ? 1 : 0;
  memset(q->answer, 0, sizeof q->answer);
  for (int h = 0; h < HEADS; h++) {
    double total = 0;
    for (int i = 0; i < q->positions; i++) {
      double score = 0;
      for (int j = 0; j < DIM; j++) score += (double)q->qkv[q->positions - 1][h * DIM + j] * q->qkv[i][HEADS * DIM + j];
      double weight = exp(score / DIM);
      total += weight;
      for (int j = 0; j < DIM; j++) q->answer[h][j] += weight * q->qkv[i][(HEADS + 1) * DIM + j];
    }
    for (int j = 0; j < DIM; j++) q->answer[h][j] /= total;
  }
}

/* All rows but the last go to the caches, which the last one attends to. */
static bpdq_status ask_attention(bpdq_vulkan *vulkan, const attention_question *q, float *answer, bpdq_error *error) {
  const int64_t positions = q->positions, before = positions - 1;
  bpdq_tensor_desc tensors[T_COUNT] = {
      [T_QKV] = {.kind = BPDQ_TENSOR_F32, .rows = before, .columns = QKV},
      [T_OUTPUT] = {.kind = BPDQ_TENSOR_F32, .rows = 1, .columns = HEADS * DIM},
      [T_TABLE] = {.kind = BPDQ_TENSOR_F32, .rows = positions, .columns = DIM},
      [T_KEYS] = {.kind = BPDQ_TENSOR_KV, .rows = positions, .columns = DIM, .kv_type = BPDQ_KV_F16, .head_dim = DIM},
      [T_VALUES] = {.kind = BPDQ_TENSOR_KV, .rows = positions, .columns = DIM, .kv_type = BPDQ_KV_F16, .head_dim = DIM}};
  bpdq_op ops[2] = {{.kind = BPDQ_OP_ROPE_CACHE, .name = "the device check"}, {.kind = BPDQ_OP_ATTENTION, .name = "the device check"}};
  ops[0].rope_cache = (bpdq_op_rope_cache){T_QKV, T_TABLE, T_KEYS, T_VALUES, HEADS, 1, DIM, positions, NULL, NULL, 0};
  ops[1].attention = (bpdq_op_attention){T_QKV, T_OUTPUT, T_KEYS, T_VALUES, HEADS, 1, DIM, positions, 1.0f / DIM};
  bpdq_program fill = {ops, 1, before, q->activations}, attend = {ops, 2, 1, q->activations};
  bpdq_state *state = NULL;
  bpdq_executable *filling = NULL, *attending = NULL;
  int32_t places[DEEP_POSITIONS], sequences[DEEP_POSITIONS] = {0};
  for (int i = 0; i < q->positions; i++) places[i] = i;
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_vulkan_state_create(vulkan, tensors, T_COUNT, &state, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_compile(vulkan, state, &fill, &filling, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_compile(vulkan, state, &attend, &attending, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_tensor_write(state, T_TABLE, 0, positions * DIM, q->table, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_tensor_write(state, T_QKV, 0, before * QKV, q->qkv, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_run(filling, &(bpdq_run){before, places, sequences}, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_tensor_write(state, T_QKV, 0, QKV, q->qkv[before], error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_run(attending, &(bpdq_run){1, places + before, sequences}, error), done);
  BPDQ_TRY_GOTO(bpdq_vulkan_tensor_read(state, T_OUTPUT, 0, HEADS * DIM, answer, error), done);
done:
  bpdq_vulkan_executable_destroy(vulkan, filling);
  bpdq_vulkan_executable_destroy(vulkan, attending);
  bpdq_vulkan_state_destroy(vulkan, state);
  return status;
}

static bool attention_is_right(bpdq_vulkan *vulkan, int positions, bpdq_activations activations) {
  attention_question *q = malloc(sizeof *q);
  float answer[HEADS * DIM];
  bpdq_error error = {0};
  if (!q) return false;
  q->positions = positions;
  q->activations = activations;
  make_attention_question(q);
  bpdq_status status = ask_attention(vulkan, q, answer, &error);
  bool right = is_near(vulkan, status, &error, answer, q->answer[0], HEADS * DIM, ATTENTION_LIMIT);
  free(q);
  return right;
}

/* ---- the verdict ---- */

static void switch_off(bpdq_vulkan *vulkan, bool *feature, const char *name) {
  *feature = false;
  bpdq_log_warning(&vulkan->context.log, "vulkan: %s gives wrong results on %s (%s) and is switched off", name, vulkan->backend.info.name,
                   vulkan->backend.info.driver);
}

bpdq_status bpdq_vulkan_probe(bpdq_vulkan *vulkan, bpdq_error *error) {
  vulkan_features *features = &vulkan->context.features;
  if (!bpdq_vulkan_shader("linear_dot8")) features->integer_dot = false;
  if (!bpdq_vulkan_shader("matrix_planes")) features->cooperative_matrix = features->narrow_matrix = features->known_matrix = false;
  question *q = malloc(sizeof *q);
  if (!q) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  make_question(q);
  if (features->subgroup && !attention_is_right(vulkan, POSITIONS, BPDQ_ACTIVATIONS_F32))
    switch_off(vulkan, &features->subgroup, "subgroup arithmetic");
  if (features->known_matrix && !known_matrix_is_right(vulkan, q)) { /* no mistake: Vulkan leaves the layout to the driver */
    features->known_matrix = false;
    bpdq_log_info(&vulkan->context.log,
                  "vulkan: %s (%s) lays out cooperative matrices in a way that is not known: small batches are slower",
                  vulkan->backend.info.name, vulkan->backend.info.driver);
  }
  if (features->integer_dot && !integer_dot_is_right(vulkan, q)) {
    /* Either of the two features may be to blame: try without subgroups first. */
    bool had_subgroup = features->subgroup;
    features->subgroup = false;
    if (had_subgroup && integer_dot_is_right(vulkan, q)) {
      switch_off(vulkan, &features->subgroup, "subgroup arithmetic");
    } else {
      switch_off(vulkan, &features->integer_dot, "integer dot product");
      features->subgroup = had_subgroup; /* attention was right with it */
    }
  }
  if (features->cooperative_matrix && !matrix_is_right(vulkan, q)) switch_off(vulkan, &features->cooperative_matrix, "cooperative matrix");
  if (features->narrow_matrix && !attention_is_right(vulkan, DEEP_POSITIONS, BPDQ_ACTIVATIONS_8))
    switch_off(vulkan, &features->narrow_matrix, "cooperative matrix 16x8x16");
  free(q);
  bpdq_vulkan_restore_peak(&vulkan->memory, 0); /* the check is no part of what the model holds */
  return BPDQ_OK;
}
