/* Times the CUDA linear algebra on the linears of one block of a Qwen2.5 model with random weights and inputs, stage by stage, adds them
 * up to a whole model and 128 x 2048 calibration tokens, and states the peak of device memory.
 *
 * `bpdq-quantizer-bench --help` says what it takes. */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"
#include "core/checked.h"
#include "core/platform.h"
#include "method.h"

enum { CALIBRATION_TOKENS = 128 * 2048, FACTORS = 6, STAGES = 9 };
enum { STATISTICS, FINISH, INPUTS, TARGET, WALK, SWEEPS, REFITS, OBJECTIVES, RESULT };
static const char *const STAGE_NAMES[STAGES] = {"stats", "finish", "inputs", "target", "walk", "sweeps", "refits", "report", "result"};

typedef struct model {
  const char *name;
  int blocks;
  int64_t hidden, heads, middle; /* K of q; N of k and v; N of gate and up */
} model;

static const model MODELS[] = {{"7b", 28, 3584, 512, 18944}, {"72b", 80, 8192, 1024, 29568}};

typedef struct shape {
  const char *name;
  int64_t rows, columns;
  int linears; /* of this shape in a block */
  int inputs;  /* of these K in a block that this shape stands for */
  bool whole;  /* its statistics hold W C + R; else C */
} shape;

typedef struct bench {
  bpdq_algebra *algebra;
  bpdq_error error;
  uint64_t seed;
  double seconds[STAGES], whole_model[STAGES];
} bench;

static float uniform(uint64_t *seed) {
  *seed ^= *seed << 13;
  *seed ^= *seed >> 7;
  *seed ^= *seed << 17;
  return (float)(int64_t)*seed * 0x1p-63f;
}

/* Columns of unequal size that share a few factors, as activations do. */
static void fill_tokens(uint64_t *seed, int64_t tokens, int64_t columns, float *x) {
  float *loadings = bpdq_alloc_array((size_t)(columns * (FACTORS + 1)), sizeof *loadings);
  if (!loadings) return;
  for (int64_t j = 0; j < columns; j++) {
    for (int f = 0; f < FACTORS; f++) loadings[j * (FACTORS + 1) + f] = uniform(seed);
    loadings[j * (FACTORS + 1) + FACTORS] = expf(2 * uniform(seed));
  }
  for (int64_t t = 0; t < tokens; t++) {
    float common[FACTORS];
    for (int f = 0; f < FACTORS; f++) common[f] = uniform(seed);
    for (int64_t j = 0; j < columns; j++) {
      const float *loading = loadings + j * (FACTORS + 1);
      float value = uniform(seed);
      for (int f = 0; f < FACTORS; f++) value += common[f] * loading[f];
      x[t * columns + j] = value * loading[FACTORS];
    }
  }
  free(loadings);
}

static double now(void) {
  int devices = 0;
  cudaGetDeviceCount(&devices);
  for (int i = devices - 1; i >= 0; i--) { /* an algebra may use several */
    cudaSetDevice(i);
    cudaDeviceSynchronize();
  }
  return (double)bpdq_monotonic_nanoseconds() * 1e-9;
}

static bpdq_status timed(bench *b, int stage, double begin, bpdq_status status) {
  b->seconds[stage] += now() - begin;
  return status;
}
#define TIMED(b, stage, call)                                 \
  do {                                                        \
    double begin_ = now();                                    \
    BPDQ_TRY_GOTO(timed((b), (stage), begin_, (call)), done); \
  } while (0)

static bpdq_status run_method(bench *b, const bpdq_inputs *inputs, const shape *s, const float *weight) {
  bpdq_algebra *a = b->algebra;
  bpdq_work_desc desc = {.name = s->name, .rows = s->rows, .planes = 2, .weight = weight, .use_cross = true, .use_residual = true};
  bpdq_walk_options walk = {BPDQ_START_MSB | BPDQ_START_NARROW | BPDQ_START_WIDE, 10, 1e-4, true};
  bpdq_work *work = NULL;
  bpdq_layer_result result = {0};
  bpdq_status status;
  double objectives[6], against[3];
  int64_t changed;
  TIMED(b, TARGET, a->work_create(a, inputs, &desc, &work, &b->error));
  TIMED(b, WALK, a->walk(a, work, &walk, &b->error));
  BPDQ_TRY_GOTO(a->objective(a, work, &objectives[0], &against[0], NULL, &b->error), done);
  for (int round = 0; round < 5; round++) {
    for (int i = 0; i < 2; i++) TIMED(b, SWEEPS, a->sweep(a, work, &changed, &b->error));
    if (round < 4) TIMED(b, REFITS, a->refit(a, work, &b->error));
    if (!round) BPDQ_TRY_GOTO(a->objective(a, work, NULL, &against[1], NULL, &b->error), done);
  }
  TIMED(b, OBJECTIVES, a->objective(a, work, &objectives[1], &against[2], &objectives[2], &b->error));
  TIMED(b, RESULT, a->result(a, work, &result, &b->error));
  printf("   %s: against T: walk %.5g, round 1 %.5g, end %.5g (%.3f of the walk); last sweep moved %.2g of the weights\n", s->name,
         against[0], against[1], against[2], against[2] / against[0], (double)changed / (double)(s->rows * s->columns));
done:
  bpdq_layer_result_free(&result);
  a->work_destroy(a, work);
  return status;
}

/* Statistics once with `tokens` tokens, then one linear. */
static bpdq_status run_shape(bench *b, const shape *s, int64_t tokens) {
  bpdq_algebra *a = b->algebra;
  float *x = bpdq_alloc_array((size_t)(tokens * s->columns), sizeof *x);
  float *outputs = bpdq_alloc_array((size_t)(tokens * s->rows), sizeof *outputs);
  float *weight = bpdq_alloc_array((size_t)(s->rows * s->columns), sizeof *weight);
  bpdq_statistics_desc desc = {s->name, s->columns, !s->whole, s->whole ? s->rows : 0, s->whole};
  bpdq_inputs_desc inputs_desc = {.group = 64, .damping = 0.05, .target_damping = 0.01, .factor = true, .metric = true};
  bpdq_statistics *statistics = NULL;
  bpdq_inputs *inputs = NULL;
  bpdq_inputs_info info;
  bpdq_status status = BPDQ_ERROR_MEMORY;
  if (!x || !outputs || !weight) goto done;
  fill_tokens(&b->seed, tokens, s->columns, x);
  for (int64_t i = 0; i < tokens * s->rows; i++) outputs[i] = uniform(&b->seed);
  for (int64_t i = 0; i < s->rows * s->columns; i++) weight[i] = 0.02f * (uniform(&b->seed) + uniform(&b->seed) + uniform(&b->seed));
  BPDQ_TRY_GOTO(a->statistics_create(a, &desc, &statistics, &b->error), done);
  TIMED(b, STATISTICS, a->statistics_add(a, statistics, x, x, outputs, tokens, &b->error));
  TIMED(b, FINISH, a->statistics_finish(a, statistics, &b->error));
  TIMED(b, INPUTS, a->inputs_create(a, statistics, &inputs_desc, &inputs, &info, &b->error));
  BPDQ_TRY_GOTO(run_method(b, inputs, s, weight), done);
done:
  a->inputs_destroy(a, inputs);
  a->statistics_destroy(a, statistics);
  free(x);
  free(outputs);
  free(weight);
  return status;
}

/* Adds this shape's share of a whole model and prints its line. */
static void report(bench *b, const model *m, const shape *s, int64_t tokens) {
  printf("%-8s %6lld x %-6lld", s->name, (long long)s->rows, (long long)s->columns);
  for (int i = 0; i < STAGES; i++) {
    double factor = s->linears;
    if (i == STATISTICS) factor = (double)(s->inputs) * CALIBRATION_TOKENS / (double)tokens;
    if (i == FINISH || i == INPUTS) factor = s->inputs;
    b->whole_model[i] += m->blocks * factor * b->seconds[i];
    printf(" %7.3f", b->seconds[i]);
    b->seconds[i] = 0;
  }
  printf("\n");
}

static bpdq_status run_model(bench *b, const model *m, int64_t scale) {
  const int64_t hidden = m->hidden / scale, heads = m->heads / scale, middle = m->middle / scale;
  const shape shapes[] = {{"k, v", heads, hidden, 2, 0, false},
                          {"q, o", hidden, hidden, 2, 3, false},
                          {"gate, up", middle, hidden, 2, 0, false},
                          {"down", hidden, middle, 1, 1, true}};
  printf("%s: seconds per linear; k = 2, g = 64\n%-24s", m->name, "");
  for (int i = 0; i < STAGES; i++) printf(" %7s", STAGE_NAMES[i]);
  printf("\n");
  BPDQ_TRY(run_shape(b, shapes, hidden)); /* starts the device and the libraries */
  for (int i = 0; i < STAGES; i++) b->seconds[i] = 0;
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    int64_t tokens = shapes[i].columns + 2048 / scale;
    BPDQ_TRY(run_shape(b, &shapes[i], tokens));
    report(b, m, &shapes[i], tokens);
  }
  double total = 0;
  printf("model of %d blocks      ", m->blocks);
  for (int i = 0; i < STAGES; i++) printf(" %7.1f", b->whole_model[i]);
  for (int i = 0; i < STAGES; i++) total += b->whole_model[i];
  printf("\ntotal %.1f s = %.2f min without forward passes\n", total, total / 60);
  return BPDQ_OK;
}

static void print_peak(void) {
  cudaMemPool_t pool;
  uint64_t peak;
  if (cudaDeviceGetDefaultMemPool(&pool, 0) == cudaSuccess &&
      cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &peak) == cudaSuccess)
    printf("peak of device memory %.2f GiB\n", (double)peak / (1 << 30));
}

#define MOST_SCALE 64 /* leaves the heads some channels */

static const char usage[] =
    "usage: bpdq-quantizer-bench [7b|72b [SCALE [ALGEBRA]]]\n"
    "           the linears of a block, stage by stage (default: 7b 1 cuda)\n"
    "       bpdq-quantizer-bench blocks [7b|72b [BLOCKS [DEVICE_GIB [FOLDER [SCALE [WINDOWS [ALGEBRA [ROUNDS]]]]]]]]\n"
    "           whole blocks from folder to folder (default: 7b 1 0 . 1 128 cuda 4)\n"
    "  SCALE       divides all dimensions, for trying it out\n"
    "  ALGEBRA     cpu, cuda, cuda:N, or several joined by '+'\n"
    "  BLOCKS      that are quantized\n"
    "  DEVICE_GIB  device memory that may be taken; 0: all\n"
    "  FOLDER      where the model is made and quantized\n"
    "  WINDOWS     of calibration\n"
    "  ROUNDS      of sweeps and a refit\n";

/* What is left of the command line; the first word that is not what was expected is kept. */
typedef struct words {
  int count;
  char **words;
  const char *expected, *wrong;
} words;

static const char *next_word(words *w, const char *absent) {
  if (!w->count) return absent;
  w->count--;
  return *w->words++;
}

static void complain(words *w, const char *expected, const char *word) {
  if (w->wrong) return;
  w->expected = expected;
  w->wrong = word;
}

static double next_number(words *w, const char *name, const char *absent, double least, double most, bool whole) {
  const char *word = next_word(w, absent);
  char *end;
  double number = strtod(word, &end);
  if (end != word && !*end && number >= least && number <= most && (!whole || number == floor(number))) return number;
  complain(w, name, word);
  return least;
}

static int next_count(words *w, const char *name, const char *absent, int most) { return (int)next_number(w, name, absent, 1, most, true); }

static const model *next_model(words *w) {
  const char *word = next_word(w, "7b");
  for (size_t i = 0; i < sizeof MODELS / sizeof *MODELS; i++)
    if (!strcmp(word, MODELS[i].name)) return &MODELS[i];
  complain(w, "7b, 72b or blocks", word);
  return &MODELS[0];
}

static const char *next_algebra(words *w) {
  const char *word = next_word(w, "cuda");
  if (!bpdq_quantize_algebra_known(word)) complain(w, "ALGEBRA", word);
  return word;
}

/* 0, or the exit code after a line that says what is wrong. */
static int check_words(words *w) {
  if (w->count) complain(w, "nothing more", *w->words);
  if (!w->wrong) return 0;
  fprintf(stderr, "bpdq-quantizer-bench: error: expected %s, not '%s'\n%s", w->expected, w->wrong, usage);
  return 2;
}

static int bench_blocks(words *w) {
  const model *m = next_model(w);
  int blocks = next_count(w, "BLOCKS", "1", m->blocks);
  double gib = next_number(w, "DEVICE_GIB", "0", 0, 1 << 20, false);
  const char *folder = next_word(w, ".");
  int64_t scale = next_count(w, "SCALE", "1", MOST_SCALE), windows = next_count(w, "WINDOWS", "128", 1 << 20), head_dim = 128;
  const char *algebra = next_algebra(w);
  int rounds = next_count(w, "ROUNDS", "4", 1 << 20), code = check_words(w);
  if (code) return code;
  while (m->heads / scale < 2 * head_dim && head_dim > 2) head_dim /= 2;
  bpdq_bench_shape shape = {.blocks = blocks,
                            .model_blocks = m->blocks,
                            .hidden = m->hidden / scale / head_dim * head_dim,
                            .heads = m->heads / scale / head_dim * head_dim,
                            .middle = m->middle / scale,
                            .head_dim = head_dim,
                            .windows = windows,
                            .length = 2048,
                            .device_memory = gib * (1 << 30),
                            .rounds = rounds};
  bpdq_error error = {0};
  if (bpdq_bench_blocks(&shape, folder, algebra, &error) == BPDQ_OK) return 0;
  fprintf(stderr, "bpdq-quantizer-bench: %s\n", error.message);
  return 1;
}

static int bench_linears(words *w) {
  const model *m = next_model(w);
  int64_t scale = next_count(w, "SCALE", "1", MOST_SCALE);
  const char *algebra = next_algebra(w);
  int code = check_words(w);
  if (code) return code;
  bench b = {.seed = 88172645463325252u};
  bpdq_status status = bpdq_algebra_create(algebra, 0, &b.algebra, &b.error);
  if (status == BPDQ_OK) status = run_model(&b, m, scale);
  if (status == BPDQ_OK) print_peak();
  if (status != BPDQ_OK) fprintf(stderr, "bpdq-quantizer-bench: %s\n", b.error.message);
  if (b.algebra) b.algebra->destroy(b.algebra);
  return status == BPDQ_OK ? 0 : 1;
}

int main(int count, char **arguments) {
  for (int i = 1; i < count; i++)
    if (!strcmp(arguments[i], "--help") || !strcmp(arguments[i], "-h")) return fputs(usage, stdout) == EOF;
  words w = {.count = count - 1, .words = arguments + 1};
  if (!w.count || strcmp(*w.words, "blocks")) return bench_linears(&w);
  next_word(&w, "");
  return bench_blocks(&w);
}
