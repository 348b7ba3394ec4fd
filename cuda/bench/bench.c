/* bpdq-cuda-bench: times every CUDA kernel at the shapes of 1B, 7B and 72B models, as graphs of many launches over more weights than
 * the L2 cache holds. Prints one line per measurement: microseconds, GB/s (or TFLOP/s) and the share of the read bandwidth measured
 * in the same run.
 *
 *   bpdq-cuda-bench [--tune] [--filter TEXT]
 *
 * --tune sweeps warps and depth of the bit-serial kernel. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define POOL_BYTES ((uint64_t)4 << 30) /* weights to take slices of */
#define SPREAD_BYTES 600e6             /* each measurement reads at least this much, so that L2 does not help */
#define REPEATS 7

typedef struct bench {
  bpdq_cuda_queue queue;
  char *pool;                              /* random words, also read as coefficients (bf16 of moderate size) */
  char *inputs, *outputs, *work, *scratch; /* scratch: of products of many rows, zeros between launches where it counts */
  int32_t *scalars;
  bpdq_cuda_run run;
  double bandwidth;
  const char *filter;
  bool tune;
} bench;

typedef cudaError_t (*launcher)(const bench *b, void *context, uint64_t offset);

static void check(cudaError_t result, const char *doing) {
  if (result == cudaSuccess) return;
  fprintf(stderr, "bpdq-cuda-bench: %s: %s\n", doing, cudaGetErrorString(result));
  exit(1);
}

static int by_value(const void *a, const void *b) {
  return (*(const float *)a > *(const float *)b) - (*(const float *)a < *(const float *)b);
}

/* Median microseconds of one launch; `bytes` are the weights that a launch reads. */
static double measure(const bench *b, launcher launch, void *context, uint64_t bytes) {
  uint64_t step = (bytes + 255) / 256 * 256;
  int copies = (int)(SPREAD_BYTES / (double)step) + 4;
  if (copies > 200) copies = 200;
  bench load = *b;
  load.queue.load_only = true;
  check(launch(&load, context, 0), "loading a kernel");
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  check(cudaStreamBeginCapture(b->queue.stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < copies; i++) check(launch(b, context, (uint64_t)i * step % (POOL_BYTES - step) / 256 * 256), "launch");
  check(cudaStreamEndCapture(b->queue.stream, &graph), "capture");
  check(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  float times[REPEATS];
  for (int i = -2; i < REPEATS; i++) {
    check(cudaEventRecord(begin, b->queue.stream), "event");
    check(cudaGraphLaunch(executable, b->queue.stream), "graph launch");
    check(cudaEventRecord(end, b->queue.stream), "event");
    check(cudaEventSynchronize(end), "running a kernel");
    if (i >= 0) check(cudaEventElapsedTime(&times[i], begin, end), "timing");
  }
  qsort(times, REPEATS, sizeof *times, by_value);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  return times[REPEATS / 2] * 1e3 / copies;
}

static void report(const bench *b, const char *name, double microseconds, uint64_t bytes, double operations) {
  double rate = (double)bytes / microseconds * 1e-3;
  printf("%-64s %9.2f us %7.0f GB/s %5.1f%%", name, microseconds, rate, rate * 1e9 / b->bandwidth * 100);
  if (operations > 0) printf(" %7.1f TFLOP/s", operations / microseconds * 1e-6);
  printf("\n");
  fflush(stdout);
}

static bool wanted(const bench *b, const char *name) { return !b->filter || strstr(name, b->filter); }

static void set_tokens(bench *b, int32_t tokens, int32_t position) {
  int32_t scalars[4 + 2 * 1024] = {tokens};
  for (int i = 0; i < 1024; i++) scalars[4 + i] = position + i;
  check(cudaMemcpy(b->scalars, scalars, sizeof scalars, cudaMemcpyHostToDevice), "scalars");
}

/* Up to 16 tokens of as many sequences, all at `position`. */
static void set_sequences(bench *b, int32_t position) {
  int32_t positions[16], sequences[16];
  for (int i = 0; i < 16; i++) positions[i] = position, sequences[i] = i;
  check(cudaMemcpy(b->scalars + 4, positions, sizeof positions, cudaMemcpyHostToDevice), "scalars");
  check(cudaMemcpy(b->scalars + 4 + 1024, sequences, sizeof sequences, cudaMemcpyHostToDevice), "scalars");
}

/* ---- bit-plane products ---- */

typedef struct planes_case {
  bpdq_cuda_planes planes;
  bpdq_cuda_tuning tuning;
  int slices; /* of few rows: 0 for activations of 16 bits */
  int64_t rows;
  uint64_t words_bytes;
} planes_case;

static planes_case make_planes(int64_t n, int64_t k, int planes, int group, int slices, int64_t rows) {
  planes_case c = {.slices = slices, .rows = rows};
  int64_t groups = (k + group - 1) / group, tiles = (n + 15) / 16;
  c.planes = (bpdq_cuda_planes){.planes = planes, .group = group, .rows = n, .columns = k, .half_scale = 64};
  c.planes.coefficient_type = BPDQ_CUDA_BF16;
  c.planes.column_tiles = (groups * group + 255) / 256;
  c.planes.groups = c.planes.column_tiles * 256 / group;
  c.words_bytes = (uint64_t)(tiles * c.planes.column_tiles * planes * 512);
  return c;
}

static uint64_t planes_bytes(const planes_case *c) {
  return c->words_bytes + (uint64_t)((c->planes.rows + 15) / 16 * c->planes.groups * (c->planes.planes + 1) * 32);
}

static bpdq_cuda_output output_of(const bench *b, int64_t n, int64_t rows) {
  return (bpdq_cuda_output){.data = (float *)b->outputs, .stride = n, .max_rows = rows, .run = b->run};
}

static bpdq_cuda_planes placed(const bench *b, const planes_case *c, uint64_t offset) {
  bpdq_cuda_planes planes = c->planes;
  planes.words = (const uint32_t *)(b->pool + offset);
  planes.coefficients = b->pool + offset + c->words_bytes;
  return planes;
}

static cudaError_t launch_bitserial(const bench *b, void *context, uint64_t offset) {
  const planes_case *c = context;
  bpdq_cuda_planes planes = placed(b, c, offset);
  bpdq_cuda_output output = output_of(b, planes.rows, c->rows);
  bpdq_cuda_bits input = {(const uint32_t *)b->inputs, (const float2 *)b->work, NULL, 0};
  return bpdq_cuda_bitserial(&b->queue, &planes, c->slices, &input, &output, &c->tuning);
}

static cudaError_t launch_planes_gemm(const bench *b, void *context, uint64_t offset) {
  const planes_case *c = context;
  bpdq_cuda_planes planes = placed(b, c, offset);
  bpdq_cuda_output output = output_of(b, planes.rows, c->rows);
  if (c->rows <= 16 && c->slices == 1)
    return bpdq_cuda_planes_levels(&b->queue, &planes, &(bpdq_cuda_bytes){b->inputs, (const float *)b->work, NULL, 0}, b->scratch, &output);
  return c->rows <= 16 ? bpdq_cuda_planes_batch(&b->queue, &planes, b->inputs, (const float *)b->work, &output)
                       : bpdq_cuda_planes_gemm(&b->queue, &planes, b->inputs, (const float *)b->work, b->scratch, &output);
}

static cudaError_t launch_exact(const bench *b, void *context, uint64_t offset) {
  const planes_case *c = context;
  bpdq_cuda_planes planes = placed(b, c, offset);
  bpdq_cuda_output output = output_of(b, planes.rows, c->rows);
  return bpdq_cuda_planes_exact(&b->queue, &planes, (const float *)b->inputs, &output);
}

typedef struct shape {
  const char *model, *name;
  int64_t n, k;
} shape;

static const shape shapes[] = {{"1b", "qkv", 3072, 2048},   {"1b", "o", 2048, 2048},        {"1b", "gate_up", 16384, 2048},
                               {"1b", "down", 2048, 8192},  {"7b", "qkv", 4608, 3584},      {"7b", "o", 3584, 3584},
                               {"7b", "gate", 18944, 3584}, {"7b", "gate_up", 37888, 3584}, {"7b", "down", 3584, 18944},
                               {"72b", "qkv", 10240, 8192}, {"72b", "o", 8192, 8192},       {"72b", "gate_up", 59136, 8192},
                               {"72b", "down", 8192, 29568}};
#define SHAPES (sizeof shapes / sizeof *shapes)

static void time_bitserial(bench *b, const shape *s, int planes, int group, int slices, bpdq_cuda_tuning tuning) {
  char name[160];
  planes_case c = make_planes(s->n, s->k, planes, group, slices, 1);
  c.tuning = tuning;
  snprintf(name, sizeof name, "bitserial %s.%s %lldx%lld k=%d g=%d act=%d warps=%d depth=%d", s->model, s->name, (long long)s->n,
           (long long)s->k, planes, group, 8 * slices, tuning.warps, tuning.depth);
  if (!wanted(b, name)) return;
  bench one_row = *b;
  one_row.queue.one_row = true;
  set_tokens(b, 1, 0);
  report(b, name, measure(&one_row, launch_bitserial, &c, planes_bytes(&c)), planes_bytes(&c), 0);
}

static void bench_bitserial(bench *b) {
  const bpdq_cuda_tuning automatic = {0, 0};
  for (size_t i = 0; i < SHAPES; i++)
    for (int group = 64; group <= 256; group *= 2)
      for (int slices = 1; slices <= 2; slices++) time_bitserial(b, &shapes[i], 2, group, slices, automatic);
  for (int planes = 1; planes <= 4; planes++)
    for (int slices = 1; slices <= 2; slices++)
      for (int group = 64; group <= 256; group *= 2) time_bitserial(b, &shapes[7], planes, group, slices, automatic);
}

static void tune_bitserial(bench *b) {
  static const int warps[] = {4, 8, 12, 16}, depths[] = {1, 2};
  for (size_t i = 4; i < SHAPES; i++)
    for (int slices = 1; slices <= 2; slices++)
      for (int w = 0; w < 4; w++)
        for (int d = 0; d < 2; d++) time_bitserial(b, &shapes[i], 2, i < 9 ? 128 : 256, slices, (bpdq_cuda_tuning){warps[w], depths[d]});
}

static void bench_gemm(bench *b) {
  static const int tokens[] = {2, 8, 16, 64, 512};
  for (size_t i = 4; i < SHAPES; i++)
    for (int planes = 2; planes <= 4; planes++)
      for (int t = 0; t < 5; t++) {
        if (planes > 2 && (i != 7 || tokens[t] != 512)) continue;
        char name[120];
        const shape *s = &shapes[i];
        planes_case c = make_planes(s->n, s->k, planes, 128, 0, tokens[t]);
        snprintf(name, sizeof name, "%s %s.%s %lldx%lld k=%d g=128 rows=%d", tokens[t] <= 16 ? "planes-batch" : "planes-gemm", s->model,
                 s->name, (long long)s->n, (long long)s->k, planes, tokens[t]);
        set_tokens(b, tokens[t], 0);
        if (wanted(b, name))
          report(b, name, measure(b, launch_planes_gemm, &c, planes_bytes(&c)), planes_bytes(&c), 2.0 * (double)(s->n * s->k) * tokens[t]);
        if (tokens[t] > 16) continue;
        for (int group = 64; group <= 256; group *= 2) {
          c = make_planes(s->n, s->k, planes, group, 1, tokens[t]);
          snprintf(name, sizeof name, "levels %s.%s k=%d g=%d rows=%d", s->model, s->name, planes, group, tokens[t]);
          if (!wanted(b, name)) continue;
          report(b, name, measure(b, launch_planes_gemm, &c, planes_bytes(&c)), planes_bytes(&c), 0);
        }
      }
  planes_case exact = make_planes(37888, 3584, 2, 128, 0, 1);
  set_tokens(b, 1, 0);
  if (wanted(b, "exact"))
    report(b, "exact f32 7b.gate_up k=2 g=128", measure(b, launch_exact, &exact, planes_bytes(&exact)), planes_bytes(&exact), 0);
}

/* ---- dense ---- */

typedef struct dense_case {
  bpdq_cuda_dense dense;
  int64_t rows;
  uint64_t data_bytes;
} dense_case;

static cudaError_t launch_dense(const bench *b, void *context, uint64_t offset) {
  const dense_case *c = context;
  bpdq_cuda_dense dense = c->dense;
  bpdq_cuda_output output = output_of(b, dense.rows, c->rows);
  dense.data = b->pool + offset;
  dense.scales = (const float *)(b->pool + offset + c->data_bytes);
  if (dense.type == BPDQ_CUDA_Q8) return bpdq_cuda_dense_q8(&b->queue, &dense, b->inputs, (const float *)b->work, &output);
  if (c->rows > 16) return bpdq_cuda_dense_gemm(&b->queue, &dense, b->inputs, b->work, &output);
  return bpdq_cuda_dense_gemv(&b->queue, &dense, (const float *)b->inputs, &output);
}

static void bench_dense(bench *b) {
  static const int64_t columns[] = {2048, 3584, 8192};
  static const int64_t rows[] = {1, 8, 512};
  for (int i = 0; i < 3; i++)
    for (int q8 = 0; q8 < 2; q8++)
      for (int r = 0; r < 3; r++) {
        if ((q8 || i != 1) && rows[r] == 512) continue;
        char name[100];
        int64_t n = rows[r] == 512 ? 18944 : 152064;
        dense_case c = {.rows = rows[r],
                        .dense = {.type = q8 ? BPDQ_CUDA_Q8 : BPDQ_CUDA_BF16, .rows = n, .columns = columns[i], .stride = columns[i]}};
        c.data_bytes = (uint64_t)(n * columns[i] * (q8 ? 1 : 2));
        uint64_t bytes = c.data_bytes + (q8 ? (uint64_t)(n * columns[i] / 256 * 4) : 0);
        snprintf(name, sizeof name, "dense %s %lldx%lld rows=%lld", q8 ? "q8" : "bf16", (long long)n, (long long)columns[i],
                 (long long)rows[r]);
        if (!wanted(b, name)) continue;
        set_tokens(b, (int32_t)rows[r], 0);
        report(b, name, measure(b, launch_dense, &c, bytes), bytes, rows[r] == 512 ? 2.0 * (double)(n * columns[i]) * 512 : 0);
      }
}

/* ---- the rest of a token ---- */

typedef struct other_case {
  bpdq_cuda_prepare prepare;
  bpdq_cuda_heads heads;
  bpdq_cuda_cache cache;
  bpdq_cuda_top_k top;
  int slices;
  bool fused; /* attention with the rotation */
} other_case;

static cudaError_t launch_prepare(const bench *b, void *context, uint64_t offset) {
  const other_case *c = context;
  (void)offset;
  return bpdq_cuda_prepare_bits(&b->queue, &c->prepare, c->slices, 128, (c->prepare.width + 255) / 256, (uint32_t *)b->work,
                                (float2 *)(b->work + (32 << 20)), (float *)(b->work + (33 << 20)));
}
static cudaError_t launch_prepare_half(const bench *b, void *context, uint64_t offset) {
  const other_case *c = context;
  (void)offset;
  return bpdq_cuda_prepare_half(&b->queue, &c->prepare, (c->prepare.width + 255) / 256, false, b->work, (float *)(b->work + (48 << 20)));
}
static cudaError_t launch_attention(const bench *b, void *context, uint64_t offset) {
  const other_case *c = context;
  bpdq_cuda_cache cache = c->cache;
  cache.keys = b->pool + offset;
  cache.values = b->pool + offset + (uint64_t)(cache.rows * c->heads.kv_heads * cache.width * 2);
  cache.key_scales = cache.value_scales = (float *)b->inputs;
  bpdq_cuda_rope rope = {(float *)b->inputs, (const float *)b->outputs, NULL, NULL, 0};
  if (c->fused) return bpdq_cuda_attention_decode(&b->queue, &c->heads, &rope, 0.088f, &cache, b->work);
  return bpdq_cuda_attention(&b->queue, &c->heads, (const float *)b->inputs, 0.088f, &cache, b->work, (float *)b->outputs);
}
static cudaError_t launch_rope(const bench *b, void *context, uint64_t offset) {
  const other_case *c = context;
  bpdq_cuda_cache cache = c->cache;
  (void)offset;
  cache.keys = b->work;
  cache.values = b->work + (64 << 20);
  bpdq_cuda_rope rope = {(float *)b->inputs, (const float *)b->outputs, NULL, NULL, 0};
  return bpdq_cuda_rope_cache(&b->queue, &c->heads, &rope, &cache);
}
static cudaError_t launch_top(const bench *b, void *context, uint64_t offset) {
  const other_case *c = context;
  (void)offset;
  return bpdq_cuda_top_k_launch(&b->queue, &c->top, b->work);
}

/* `tokens` of one sequence, or, up to 16 of them, of as many sequences. */
static void bench_attention(bench *b, int heads, int kv_heads, int type, int tokens, int depth) {
  char name[120];
  int sequences = tokens <= 16 ? tokens : 1, context = depth + tokens / sequences;
  other_case c = {.heads = {heads, kv_heads, 128, context, tokens > 16 ? 512 : tokens, b->run}, .fused = tokens <= 16};
  c.cache = (bpdq_cuda_cache){.rows = (sequences * context + 31) / 32 * 32, .width = 128, .type = type};
  uint64_t bytes = (uint64_t)(c.cache.rows * kv_heads * 128 * 2 * (type == BPDQ_CUDA_Q8 ? 1 : 2));
  snprintf(name, sizeof name, "attention %d/%d heads %s tokens=%d depth=%d", heads, kv_heads, type == BPDQ_CUDA_Q8 ? "q8" : "f16", tokens,
           depth);
  if (!wanted(b, name)) return;
  set_tokens(b, tokens, depth);
  if (tokens <= 16) set_sequences(b, depth);
  check(cudaMemset(b->work, 0, 1 << 20), "clearing");
  report(b, name, measure(b, launch_attention, &c, bytes), bytes, 0);
}

static void bench_others(bench *b) {
  static const int64_t widths[] = {3584, 8192, 18944};
  for (int i = 0; i < 3; i++)
    for (int kind = 0; kind < 3; kind++) {
      char name[100];
      other_case c = {
          .slices = 1,
          .prepare = {
              .input = (float *)b->inputs, .norm = (float *)b->outputs, .kind = kind, .width = widths[i], .max_rows = 1, .run = b->run}};
      set_tokens(b, 1, 0);
      snprintf(name, sizeof name, "prepare-bits kind=%d K=%lld rows=1", kind, (long long)widths[i]);
      if (wanted(b, name)) report(b, name, measure(b, launch_prepare, &c, (uint64_t)widths[i] * 4), (uint64_t)widths[i] * 4, 0);
      c.prepare.max_rows = 512;
      set_tokens(b, 512, 0);
      snprintf(name, sizeof name, "prepare-half kind=%d K=%lld rows=512", kind, (long long)widths[i]);
      if (wanted(b, name)) report(b, name, measure(b, launch_prepare_half, &c, (uint64_t)widths[i] * 2048), (uint64_t)widths[i] * 2048, 0);
    }
  other_case rope = {.heads = {28, 4, 128, 4096, 1, b->run}, .cache = {.rows = 4096, .width = 128, .type = BPDQ_CUDA_F16}};
  set_tokens(b, 1, 100);
  if (wanted(b, "rope")) report(b, "rope 28/4 heads tokens=1", measure(b, launch_rope, &rope, 4096), 0, 0);
  static const int depths[] = {1, 127, 512, 4096, 32768};
  for (int i = 0; i < 5; i++) {
    bench_attention(b, 28, 4, BPDQ_CUDA_F16, 1, depths[i]);
    bench_attention(b, 28, 4, BPDQ_CUDA_Q8, 1, depths[i]);
    bench_attention(b, 64, 8, BPDQ_CUDA_F16, 1, depths[i]);
  }
  for (int depth = 64; depth <= 4096; depth *= 8) bench_attention(b, 28, 4, BPDQ_CUDA_F16, 8, depth);
  bench_attention(b, 28, 4, BPDQ_CUDA_F16, 512, 0);
  bench_attention(b, 28, 4, BPDQ_CUDA_F16, 512, 4096);
  for (int k = 1; k <= 128; k = k == 1 ? 40 : k == 40 ? 128 : 129) {
    char name[60];
    other_case c = {.top = {.logits = (float *)b->outputs,
                            .vocab = 152064,
                            .stride = 152064,
                            .k = k,
                            .values = (float *)b->inputs,
                            .ids = (int32_t *)(b->inputs + 4096),
                            .max_rows = 1,
                            .run = b->run}};
    snprintf(name, sizeof name, "top-k %d of 152064", k);
    set_tokens(b, 1, 0);
    check(cudaMemset(b->work, 0, 1 << 20), "clearing");
    if (wanted(b, name)) report(b, name, measure(b, launch_top, &c, 152064 * 4), 152064 * 4, 0);
  }
}

/* ---- set-up ---- */

static void measure_read(bench *b) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  float best = 1e9f;
  for (int i = 0; i < 8; i++) {
    float milliseconds;
    cudaEventRecord(begin, b->queue.stream);
    check(bpdq_cuda_read(b->queue.stream, b->pool, POOL_BYTES, b->queue.multiprocessors, (uint32_t *)b->outputs), "read");
    cudaEventRecord(end, b->queue.stream);
    check(cudaEventSynchronize(end), "read");
    check(cudaEventElapsedTime(&milliseconds, begin, end), "read");
    if (milliseconds < best) best = milliseconds;
  }
  b->bandwidth = (double)POOL_BYTES / (best * 1e-3);
  printf("read bandwidth %.0f GB/s\n", b->bandwidth * 1e-9);
}

static void set_up(bench *b) {
  struct cudaDeviceProp p;
  check(cudaSetDevice(0), "device 0");
  check(cudaGetDeviceProperties(&p, 0), "device properties");
  int code;
  check(bpdq_cuda_code_version(&code), "the code for device 0");
  bool dependent_launch = code >= 90 && !getenv("BPDQ_CUDA_NO_PDL"), wgmma = bpdq_cuda_uses_wgmma();
  printf("%s, %d multiprocessors, sm_%d%d (code for %d), dependent launch %s, wgmma %s\n", p.name, p.multiProcessorCount, p.major, p.minor,
         code, dependent_launch ? "on" : "off", wgmma ? "on" : "off");
  b->queue = (bpdq_cuda_queue){.wgmma = wgmma,
                               .dependent_launch = dependent_launch,
                               .multiprocessors = p.multiProcessorCount,
                               .shared_per_block = (int)p.sharedMemPerBlockOptin,
                               .shared_per_multiprocessor = (int)p.sharedMemPerMultiprocessor};
  check(cudaStreamCreateWithFlags(&b->queue.stream, cudaStreamNonBlocking), "stream");
  check(cudaMalloc((void **)&b->pool, POOL_BYTES + (256 << 20)), "the weight pool");
  check(cudaMalloc((void **)&b->inputs, 128 << 20), "inputs");
  check(cudaMalloc((void **)&b->outputs, 256 << 20), "outputs");
  check(cudaMalloc((void **)&b->work, 128 << 20), "work");
  check(cudaMalloc((void **)&b->scratch, 128 << 20), "scratch");
  check(cudaMemset(b->scratch, 0, 128 << 20), "scratch");
  check(cudaMalloc((void **)&b->scalars, 16384), "scalars");
  b->run = (bpdq_cuda_run){b->scalars, b->scalars + 4, b->scalars + 4 + 1024};
  check(cudaMemset(b->scalars, 0, 16384), "scalars");
  check(cudaMemset(b->work, 0, 128 << 20), "work");
  check(bpdq_cuda_random_numbers(b->queue.stream, b->pool, BPDQ_CUDA_BF16, (POOL_BYTES + (256 << 20)) / 2, 0.05f, 7), "random weights");
  check(bpdq_cuda_random_numbers(b->queue.stream, b->inputs, BPDQ_CUDA_F32, (128 << 20) / 4, 1, 8), "random inputs");
  check(bpdq_cuda_random_numbers(b->queue.stream, b->outputs, BPDQ_CUDA_F32, (256 << 20) / 4, 1, 9), "random outputs");
  check(cudaStreamSynchronize(b->queue.stream), "set-up");
}

static const char usage[] =
    "usage: bpdq-cuda-bench [--tune] [--filter TEXT]\n"
    "  --tune         sweep the launch shapes of the bit-serial kernel besides\n"
    "  --filter TEXT  only measurements whose line contains TEXT, as \"attention\" or \"7b.gate_up\"\n";

static int wrong(const char *what, const char *word) {
  fprintf(stderr, "bpdq-cuda-bench: error: %s %s\n%s", what, word, usage);
  return 2;
}

int main(int argc, char **argv) {
  bench b = {0};
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
      fputs(usage, stdout);
      return 0;
    }
    if (!strcmp(argv[i], "--tune"))
      b.tune = true;
    else if (strcmp(argv[i], "--filter"))
      return wrong("unknown word", argv[i]);
    else if (++i < argc)
      b.filter = argv[i];
    else
      return wrong("no TEXT behind", "--filter");
  }
  set_up(&b);
  measure_read(&b);
  bench_bitserial(&b);
  bench_gemm(&b);
  bench_dense(&b);
  bench_others(&b);
  if (b.tune) tune_bitserial(&b);
  return 0;
}
