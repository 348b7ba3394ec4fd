/* Writes the launches of the decode kernels as a card with the given multiprocessors and shared memory per block would get them: linked
 * with the backend's own kernel files and, in place of the CUDA runtime, the few functions below. Nothing runs.
 *
 *   launches PARAMETERS MULTIPROCESSORS SHARED_PER_BLOCK
 *
 * PARAMETERS: lines "kernel offset size offset size ..". Prints per launch "launch LABEL..", "kernel NAME GRID BLOCK SHARED", "parameters
 * HEX" and "end"; before them "memory ADDRESS VALUE" for the numbers in device memory that kernels decide by. */
#include <stdio.h>
#include <stdlib.h>

#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"

typedef std::vector<std::pair<size_t, size_t>> places;
static std::map<std::string, places> parameters;
static std::map<const void *, std::string> names;

/* ---- in place of the runtime ---- */

extern "C" {
void **__cudaRegisterFatBinary(void *) {
  static void *handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void **) {}
void __cudaUnregisterFatBinary(void **) {}
char __cudaInitModule(void **) { return 1; }
void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int) {}
void __cudaRegisterFunction(void **, const char *host, char *, const char *name, int, void *, void *, void *, void *, int *) {
  names[host] = name;
}
unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, void *) { return 0; }
cudaError_t __cudaPopCallConfiguration(dim3 *, dim3 *, size_t *, void *) { return cudaSuccess; }
cudaError_t __cudaGetKernel(cudaKernel_t *, const void *) { return cudaErrorNotSupported; }
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void **, size_t, cudaStream_t) { return cudaErrorNotSupported; }
}
cudaError_t CUDARTAPI cudaLaunchKernel(const void *, dim3, dim3, void **, size_t, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t CUDARTAPI cudaFuncSetAttribute(const void *, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t CUDARTAPI cudaFuncGetAttributes(cudaFuncAttributes *, const void *) { return cudaErrorNotSupported; }
cudaError_t CUDARTAPI cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *, const void *, int, size_t) { return cudaErrorNotSupported; }
cudaError_t CUDARTAPI cudaFuncGetName(const char **, const void *) { return cudaErrorNotSupported; }
cudaError_t CUDARTAPI cudaGetLastError(void) { return cudaSuccess; }

cudaError_t CUDARTAPI cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *kernel, void **arguments) {
  const std::string &name = names.at(kernel);
  const places &at = parameters.at(name);
  std::vector<unsigned char> bytes(at.empty() ? 0 : at.back().first + at.back().second);
  for (size_t i = 0; i < at.size(); i++)
    for (size_t j = 0; j < at[i].second; j++) bytes[at[i].first + j] = ((unsigned char *)arguments[i])[j];
  printf("kernel %s %u %u %u %u %u\nparameters ", name.c_str(), c->gridDim.x, c->gridDim.y, c->gridDim.z, c->blockDim.x,
         (unsigned)c->dynamicSmemBytes);
  for (unsigned char byte : bytes) printf("%02x", byte);
  printf("\nend\n");
  return cudaSuccess;
}

/* ---- the launches ---- */

/* Addresses that nothing is stored at. */
#define PLACE(n) ((char *)((uintptr_t)(n) << 40))
#define SCALARS PLACE(1)

static bpdq_cuda_queue queue;
static const bpdq_cuda_run run = {(int32_t *)SCALARS, (int32_t *)(SCALARS + 256), (int32_t *)(SCALARS + 512)};
static int32_t tokens, position; /* of the run: that many sequences, each at the position */

/* bytes: that a launch has to read; weights: what its instructions are counted per, `of` names them; streamed: the bytes that its lanes
 * request with __ldcs, where the report shall check that every weight was met once, else 0; turns: row tiles that blocks may go round. */
static void label(const char *kernel, const std::string &format, const char *shape, double bytes, double weights, const char *of,
                  double streamed, int64_t turns = 0) {
  for (int i = 0; i < 16; i++)
    printf("memory %zu %d\nmemory %zu %d\n", (size_t)(run.positions + i), position, (size_t)(run.sequences + i), i);
  printf("memory %zu %d\nlaunch %s|%s|%s|%.0f|%.0f|%s|%.0f|%lld\n", (size_t)run.tokens, tokens, kernel, format.c_str(), shape, bytes,
         weights, of, streamed, (long long)turns);
}
static void check(cudaError_t result) {
  if (result == cudaSuccess) return;
  fprintf(stderr, "launches: a launch was refused (%d)\n", (int)result);
  exit(1);
}

typedef struct shape {
  const char *name;
  int64_t n, k;
  bool normed; /* its input has an RMS norm, whose factor the product makes */
} shape;
static const shape shapes[] = {{"7B qkv 4608x3584", 4608, 3584, true},
                               {"7B output 3584x3584", 3584, 3584, false},
                               {"7B gate_up 37888x3584", 37888, 3584, true},
                               {"7B down 3584x18944", 3584, 18944, false}};
static const shape large_shapes[] = {{"72B qkv 10240x8192", 10240, 8192, true},
                                     {"72B output 8192x8192", 8192, 8192, false},
                                     {"72B gate_up 59136x8192", 59136, 8192, true},
                                     {"72B down 8192x29568", 8192, 29568, false}};
static const shape head = {"7B head 152064x3584", 152064, 3584, true};

static bpdq_cuda_planes planes_of(const shape &s, int planes, int group) {
  bpdq_cuda_planes p = {};
  p.words = (uint32_t *)PLACE(2), p.coefficients = PLACE(3), p.coefficient_type = BPDQ_CUDA_BF16;
  p.planes = planes, p.group = group, p.rows = s.n, p.columns = s.k, p.half_scale = 64;
  p.column_tiles = ((s.k + group - 1) / group * group + 255) / 256, p.groups = p.column_tiles * 256 / group;
  return p;
}
static double word_bytes(const bpdq_cuda_planes &p) { return (double)((p.rows + 15) / 16) * (double)p.column_tiles * p.planes * 512; }
static double bytes_of(const bpdq_cuda_planes &p) {
  return word_bytes(p) + (double)((p.rows + 15) / 16) * (double)p.groups * (p.planes + 1) * 32;
}
static double weights_of(const bpdq_cuda_planes &p) { return (double)p.rows * (double)p.columns; }

static bpdq_cuda_output output_of(const shape &s, int64_t rows) {
  bpdq_cuda_output o = {};
  o.data = (float *)PLACE(4), o.stride = s.n, o.max_rows = rows, o.run = run;
  o.accumulate = !s.normed; /* output and down add to the residual stream */
  return o;
}
static std::string format_of(int planes, int group, const char *rest) {
  std::ostringstream text;
  text << "k=" << planes << " g=" << group << ", " << rest;
  return text.str();
}

static void bitserial(const shape &s, int planes, int group, int slices) {
  bpdq_cuda_planes p = planes_of(s, planes, group);
  bpdq_cuda_output o = output_of(s, 1);
  bpdq_cuda_bits input = {(uint32_t *)PLACE(5), (float2 *)PLACE(6), s.normed ? (float *)PLACE(7) : NULL, 1e-6f};
  label("bit-serial", format_of(planes, group, slices == 1 ? "8 bit" : "16 bit"), s.name, bytes_of(p), weights_of(p), "weight", bytes_of(p),
        (p.rows + 15) / 16);
  check(bpdq_cuda_bitserial(&queue, &p, slices, &input, &o, NULL));
}
static std::string rows_text(int rows) { return std::to_string(rows) + (rows == 1 ? " row" : " rows"); }

static void levels(const shape &s, int planes, int group, int rows) {
  bpdq_cuda_planes p = planes_of(s, planes, group);
  bpdq_cuda_output o = output_of(s, rows);
  bpdq_cuda_bytes input = {PLACE(5), (float *)PLACE(6), s.normed ? (float *)PLACE(7) : NULL, 1e-6f};
  tokens = rows;
  label("levels", format_of(planes, group, rows_text(rows).c_str()), s.name, bytes_of(p), weights_of(p), "weight", word_bytes(p),
        (p.rows + 15) / 16);
  check(bpdq_cuda_planes_levels(&queue, &p, &input, PLACE(8), &o));
  tokens = 1;
}
static void batch(const shape &s, int planes, int group, int rows) {
  bpdq_cuda_planes p = planes_of(s, planes, group);
  bpdq_cuda_output o = output_of(s, rows);
  tokens = rows;
  label("f16 batch", format_of(planes, group, rows_text(rows).c_str()), s.name, bytes_of(p), weights_of(p), "weight", word_bytes(p));
  check(bpdq_cuda_planes_batch(&queue, &p, PLACE(5), (float *)PLACE(6), &o));
  tokens = 1;
}
static void exact(const shape &s, int planes, int group) {
  bpdq_cuda_planes p = planes_of(s, planes, group);
  bpdq_cuda_output o = output_of(s, 1);
  label("exact f32", format_of(planes, group, "1 row"), s.name, bytes_of(p), weights_of(p), "weight", 0);
  check(bpdq_cuda_planes_exact(&queue, &p, (float *)PLACE(5), &o));
}

static void dense_head(int type, int rows) {
  bpdq_cuda_dense d = {PLACE(2), (float *)PLACE(3), type, head.n, head.k, head.k};
  bpdq_cuda_output o = output_of(head, rows);
  double weights = (double)head.n * (double)head.k;
  tokens = rows;
  if (type == BPDQ_CUDA_Q8) {
    label("dense 8 bit", rows_text(rows), head.name, weights * (1 + 4.0 / 256), weights, "weight", weights * (1 + 1.0 / 16));
    check(bpdq_cuda_dense_q8(&queue, &d, PLACE(5), (float *)PLACE(6), &o));
  } else {
    label("dense bf16", rows_text(rows), head.name, weights * 2, weights, "weight", weights * 2);
    check(bpdq_cuda_dense_gemv(&queue, &d, (float *)PLACE(5), &o));
  }
  tokens = 1;
}

static bpdq_cuda_heads heads_of(int64_t max_tokens) { return {28, 4, 128, 32800, max_tokens, run}; }

static void attention(int type, int depth) {
  bpdq_cuda_heads h = heads_of(1);
  bpdq_cuda_rope rope = {(float *)PLACE(5), (float *)PLACE(6), NULL, NULL, 1e-6f};
  bpdq_cuda_cache cache = {PLACE(2), PLACE(3), (float *)PLACE(7), (float *)PLACE(8), 32800, 128, type};
  double numbers = 2.0 * h.kv_heads * h.head_dim * (depth + 1), bytes = type == BPDQ_CUDA_Q8 ? numbers * (1 + 4.0 / 128) : numbers * 2;
  position = depth;
  label("attention", type == BPDQ_CUDA_Q8 ? "8-bit cache" : "f16 cache", ("7B, depth " + std::to_string(depth)).c_str(), bytes, numbers,
        "cached number", 0);
  check(bpdq_cuda_attention_decode(&queue, &h, &rope, 0.088f, &cache, PLACE(9)));
}

static bpdq_cuda_prepare prepare_of(int kind, int64_t width) {
  bpdq_cuda_prepare p = {};
  p.input = (float *)PLACE(5), p.norm = kind == 1 ? (float *)PLACE(6) : NULL, p.epsilon = 1e-6f;
  p.kind = kind, p.width = width, p.max_rows = 1, p.run = run;
  if (kind != BPDQ_CUDA_MERGE_ATTENTION) return p;
  bpdq_cuda_heads h = heads_of(1);
  p.attention = bpdq_cuda_attention_sums_of(&queue, &h, BPDQ_CUDA_F16, PLACE(9));
  return p;
}
static const struct {
  const char *name;
  int kind;
  int64_t width;
  int numbers; /* read for each column */
} kinds[] = {
    {"RMS norm 3584", 1, 3584, 2}, {"merge of attention 3584", BPDQ_CUDA_MERGE_ATTENTION, 3584, 20}, {"SiLU gate 18944", 2, 18944, 2}};

static void preparations() {
  position = 4096;
  for (const auto &k : kinds) {
    bpdq_cuda_prepare p = prepare_of(k.kind, k.width);
    double numbers = (double)k.width, bytes = numbers * 4 * k.numbers;
    int64_t tiles = (k.width + 255) / 256;
    for (int slices = 1; slices <= 2; slices++)
      for (int group = 64; group <= 256; group *= 2) {
        label("prepare bits", std::string(slices == 1 ? "8" : "16") + " bit, g=" + std::to_string(group), k.name, bytes, numbers, "number",
              0);
        check(bpdq_cuda_prepare_bits(&queue, &p, slices, group, tiles, (uint32_t *)PLACE(10), (float2 *)PLACE(11), (float *)PLACE(12)));
      }
    label("prepare byte tiles", "1 row", k.name, bytes, numbers, "number", 0);
    check(bpdq_cuda_prepare_byte_tiles(&queue, &p, tiles, PLACE(10), (float *)PLACE(11), (float *)PLACE(12)));
    label("prepare half tiles", "1 row", k.name, bytes, numbers, "number", 0);
    check(bpdq_cuda_prepare_half_tiles(&queue, &p, tiles, PLACE(10), (float *)PLACE(11)));
    if (k.kind == BPDQ_CUDA_MERGE_ATTENTION) continue;
    label("prepare bytes", "1 row", k.name, bytes, numbers, "number", 0);
    check(bpdq_cuda_prepare_bytes(&queue, &p, tiles, PLACE(10), (float *)PLACE(11)));
    label("prepare f32", "1 row", k.name, bytes, numbers, "number", 0);
    check(bpdq_cuda_prepare_f32(&queue, &p, (float *)PLACE(10), tiles * 256));
  }
}

static void sampling(int k) {
  bpdq_cuda_top_k t = {};
  t.logits = (float *)PLACE(5), t.vocab = t.stride = head.n, t.k = k, t.max_rows = 1, t.run = run;
  t.values = (float *)PLACE(6), t.ids = (int32_t *)PLACE(7);
  label("top k", "k=" + std::to_string(k), "7B 152064 logits", (double)head.n * 4, (double)head.n, "logit", 0);
  check(bpdq_cuda_top_k_launch(&queue, &t, PLACE(8)));
}

static void rest() {
  position = 4096;
  bpdq_cuda_heads h = heads_of(1);
  bpdq_cuda_attention_sums sums = bpdq_cuda_attention_sums_of(&queue, &h, BPDQ_CUDA_F16, PLACE(9));
  label("merge attention", "20 splits", "7B, depth 4096", 28.0 * 128 * 20 * 4, 28.0 * 128, "number", 0);
  check(bpdq_cuda_attention_merge(&queue, &sums, 1, (float *)PLACE(10)));
  label("start run", "1 row", "7B 3584", 3584.0 * 4, 3584, "number", 0);
  check(bpdq_cuda_start_run(&queue, (int32_t *)PLACE(10), (int32_t *)PLACE(11), 6, PLACE(12), 3584 * 4));
}

static void read_parameters(const char *path) {
  std::ifstream file(path);
  std::string line, name;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    size_t offset, size;
    words >> name;
    for (places &at = parameters[name]; words >> offset >> size;) at.push_back({offset, size});
  }
}

int main(int count, char **words) {
  if (count != 4) return 2;
  read_parameters(words[1]);
  queue.multiprocessors = atoi(words[2]);
  queue.shared_per_block = atoi(words[3]);
  tokens = 1;
  for (int planes = 1; planes <= 4; planes++)
    for (int group = 64; group <= 256; group *= 2) {
      for (int slices = 1; slices <= 2; slices++)
        for (const shape &s : shapes) bitserial(s, planes, group, slices);
      for (const shape &s : shapes)
        if (planes <= 3) levels(s, planes, group, 8);
    }
  for (int slices = 1; slices <= 2; slices++)
    for (const shape &s : large_shapes) bitserial(s, 2, 256, slices);
  for (const shape &s : shapes) levels(s, 2, 128, 16);
  for (int planes = 1; planes <= 4; planes++)
    for (const shape &s : shapes) batch(s, planes, 128, 8);
  for (const shape &s : shapes) batch(s, 2, 128, 16);
  for (int planes : {1, 2, 3, 4, 8}) exact(shapes[2], planes, 128);
  dense_head(BPDQ_CUDA_Q8, 1);
  dense_head(BPDQ_CUDA_Q8, 8);
  dense_head(BPDQ_CUDA_BF16, 1);
  for (int depth : {127, 512, 4096, 32768}) {
    attention(BPDQ_CUDA_F16, depth);
    attention(BPDQ_CUDA_Q8, depth);
  }
  preparations();
  rest();
  sampling(1);
  sampling(40);
}
