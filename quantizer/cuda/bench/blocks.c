/* Quantizes the first blocks of a made model with random weights the way `bpdq quantize` does it: from a folder to a folder, forward
 * passes, reading and writing included. */
#include "blocks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bpdq_quantizer.h"
#include "core/checked.h"
#include "core/half.h"
#include "core/platform.h"
#include "format/safetensors.h"

enum { VOCABULARY = 8192, MOST_TENSORS = 64 };

typedef struct made_model {
  bpdq_tensor_to_write tensors[MOST_TENSORS];
  char names[MOST_TENSORS][96];
  size_t count;
  uint64_t seed;
} made_model;

static uint64_t next_random(uint64_t *seed) {
  *seed ^= *seed << 13;
  *seed ^= *seed >> 7;
  *seed ^= *seed << 17;
  return *seed;
}

/* bf16 [rows, columns] (rows 0: a vector): `offset` plus about normal values of the given deviation. False when out of memory. */
static bool add_tensor(made_model *m, const char *name, int64_t rows, int64_t columns, double offset, double deviation) {
  int64_t count = (rows ? rows : 1) * columns;
  uint16_t table[4096], *data = bpdq_alloc_array((size_t)count, sizeof *data);
  if (!data) return false;
  for (int i = 0; i < 4096; i++) { /* sums of four uniform values */
    double sum = 0;
    for (int j = 0; j < 4; j++) sum += (double)(next_random(&m->seed) >> 11) * 0x1p-53 - 0.5;
    table[i] = bpdq_float_to_bf16((float)(offset + deviation * sum * sqrt(3)));
  }
  for (int64_t i = 0; i < count; i += 5) {
    uint64_t bits = next_random(&m->seed);
    for (int64_t j = i; j < i + 5 && j < count; j++, bits >>= 12) data[j] = table[bits & 4095];
  }
  bpdq_tensor_to_write *t = &m->tensors[m->count];
  snprintf(m->names[m->count], sizeof m->names[0], "%s", name);
  *t = (bpdq_tensor_to_write){.name = m->names[m->count], .type = BPDQ_STORED_BF16, .dimensions = rows ? 2 : 1, .data = data};
  t->shape[0] = rows ? rows : columns;
  t->shape[1] = rows ? columns : 0;
  m->count++;
  return true;
}

static bool add_block(made_model *m, const bpdq_bench_shape *s, int block) {
  const struct {
    const char *name;
    int64_t rows, columns;
  } parts[] = {{"input_layernorm.weight", 0, s->hidden},          {"post_attention_layernorm.weight", 0, s->hidden},
               {"self_attn.q_proj.weight", s->hidden, s->hidden}, {"self_attn.q_proj.bias", 0, s->hidden},
               {"self_attn.k_proj.weight", s->heads, s->hidden},  {"self_attn.k_proj.bias", 0, s->heads},
               {"self_attn.v_proj.weight", s->heads, s->hidden},  {"self_attn.v_proj.bias", 0, s->heads},
               {"self_attn.o_proj.weight", s->hidden, s->hidden}, {"mlp.gate_proj.weight", s->middle, s->hidden},
               {"mlp.up_proj.weight", s->middle, s->hidden},      {"mlp.down_proj.weight", s->hidden, s->middle}};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    char name[96];
    snprintf(name, sizeof name, "model.layers.%d.%s", block, parts[i].name);
    bool norm = i<2, matrix = parts[i].rows> 0;
    if (!add_tensor(m, name, parts[i].rows, parts[i].columns, norm, matrix ? 1 / sqrt((double)parts[i].columns) : 0.1)) return false;
  }
  return true;
}

static bpdq_status write_text(const char *folder, const char *name, const char *text, size_t size, bpdq_error *error) {
  char path[1024];
  bpdq_output_file *file;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  BPDQ_TRY(bpdq_output_open(path, &file, error));
  bpdq_status status = bpdq_output_write(file, text, size, error);
  if (status == BPDQ_OK) return bpdq_output_commit(file, error);
  bpdq_output_discard(file);
  return status;
}

/* Random ids, as decimal numbers. */
static bpdq_status write_calibration(const char *folder, const bpdq_bench_shape *s, uint64_t *seed, bpdq_error *error) {
  int64_t tokens = s->windows * s->length;
  char *text = bpdq_alloc_array((size_t)tokens, 6);
  if (!text) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  size_t size = 0;
  for (int64_t i = 0; i < tokens; i++) size += (size_t)snprintf(text + size, 6, "%u\n", (unsigned)(next_random(seed) >> 20) % VOCABULARY);
  bpdq_status status = write_text(folder, "calibration.ids", text, size, error);
  free(text);
  return status;
}

static bpdq_status write_model(const char *folder, const bpdq_bench_shape *s, bpdq_error *error) {
  char config[1024], path[1024];
  int length = snprintf(config, sizeof config,
                        "{\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\",\"hidden_act\":\"silu\",\"hidden_size\":%lld,"
                        "\"intermediate_size\":%lld,\"num_hidden_layers\":%d,\"num_attention_heads\":%lld,\"num_key_value_heads\":%lld,"
                        "\"vocab_size\":%d,\"max_position_embeddings\":32768,\"rms_norm_eps\":1e-6,\"rope_theta\":1000000.0,"
                        "\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\"}\n",
                        (long long)s->hidden, (long long)s->middle, s->blocks, (long long)(s->hidden / s->head_dim),
                        (long long)(s->heads / s->head_dim), VOCABULARY);
  made_model *m = calloc(1, sizeof *m);
  if (!m) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  m->seed = 88172645463325252u;
  bpdq_status status = bpdq_make_folder(folder, error);
  bool made =
      add_tensor(m, "model.embed_tokens.weight", VOCABULARY, s->hidden, 0, 1) && add_tensor(m, "model.norm.weight", 0, s->hidden, 1, 0.1);
  for (int i = 0; i < s->blocks && made; i++) made = add_block(m, s, i);
  if (status == BPDQ_OK && !made) status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory for the model");
  if (status == BPDQ_OK) status = write_text(folder, "config.json", config, (size_t)length, error);
  if (status == BPDQ_OK) status = write_calibration(folder, s, &m->seed, error);
  snprintf(path, sizeof path, "%s/model.safetensors", folder);
  if (status == BPDQ_OK) status = bpdq_safetensors_write(path, m->tensors, m->count, NULL, error);
  for (size_t i = 0; i < m->count; i++) free((void *)m->tensors[i].data);
  free(m);
  return status;
}

static void print_layer(void *user, const bpdq_layer_report *r) {
  (void)user;
  const bpdq_quantize_seconds *p = &r->parts;
  printf("%-34s %7.3f %7.3f %7.3f %7.3f %7.3f %7.3f  against T: %.4f of RTN\n", r->name, p->target, p->walk, p->sweeps, p->refits,
         p->objectives, p->result, r->objective_target / r->objective_rtn);
  fflush(stdout);
}

static void print_log(void *user, bpdq_log_level level, const char *message) {
  (void)user;
  if (level <= BPDQ_LOG_WARNING) printf("%s\n", message);
}

static void print_summary(const bpdq_bench_shape *s, const bpdq_quantize_summary *sum) {
  const bpdq_quantize_seconds *p = &sum->parts;
  const struct {
    const char *name;
    double seconds;
  } rows[] = {{"load", p->load},     {"forward", p->forward}, {"statistics", p->statistics},
              {"factor", p->factor}, {"target", p->target},   {"walk", p->walk},
              {"sweeps", p->sweeps}, {"refits", p->refits},   {"objectives", p->objectives},
              {"result", p->result}, {"write", p->write}};
  double total = 0;
  printf("\n%-12s %9s %9s %12s\n", "seconds", "measured", "a block", "model*");
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    total += rows[i].seconds;
    printf("%-12s %9.2f %9.2f %12.1f\n", rows[i].name, rows[i].seconds, rows[i].seconds / s->blocks,
           rows[i].seconds / s->blocks * s->model_blocks);
  }
  printf("%-12s %9.2f %9.2f %12.1f = %.2f min\n", "together", total, total / s->blocks, total / s->blocks * s->model_blocks,
         total / s->blocks * s->model_blocks / 60);
  printf("%-12s %9.2f (the whole call, with start and embeddings)\n", "elapsed", sum->seconds);
  printf("* extrapolated: %d blocks as long as the %d measured; the last block applies no down_proj\n", s->model_blocks, s->blocks);
  printf("peak of the process %.2f GiB, allocated on the device %.2f GiB\n", (double)sum->peak_host_bytes / (1 << 30),
         (double)sum->peak_device_bytes / (1 << 30));
}

bpdq_status bpdq_bench_blocks(const bpdq_bench_shape *shape, const char *folder, const char *algebra, bpdq_error *error) {
  char source[512], destination[512], calibration[600];
  snprintf(source, sizeof source, "%s/bpdq-bench-source", folder);
  snprintf(destination, sizeof destination, "%s/bpdq-bench-quantized", folder);
  snprintf(calibration, sizeof calibration, "%s/calibration.ids", source);
  uint64_t begin = bpdq_monotonic_nanoseconds();
  BPDQ_TRY(write_model(source, shape, error));
  printf("model made in %.1f s\n", (double)(bpdq_monotonic_nanoseconds() - begin) * 1e-9);
  bpdq_quantize_options options = bpdq_quantize_default_options();
  options.calibration_path = calibration;
  options.samples = shape->windows;
  options.sequence_length = shape->length;
  options.algebra = algebra;
  options.device_memory = shape->device_memory;
  options.recipe.rounds = shape->rounds;
  options.overwrite = true;
  options.layer_done = print_layer;
  options.log = print_log;
  bpdq_quantize_summary summary;
  printf("%d of %d blocks, %lld windows of %lld tokens, k = 2, g = 64, %d rounds\n%-34s %7s %7s %7s %7s %7s %7s\n", shape->blocks,
         shape->model_blocks, (long long)shape->windows, (long long)shape->length, shape->rounds, "seconds", "target", "walk", "sweeps",
         "refits", "report", "result");
  bpdq_status status = bpdq_quantize_folder(source, destination, &options, &summary, error);
  if (status == BPDQ_OK) print_summary(shape, &summary);
  (void)bpdq_remove_folder(source, NULL);
  (void)bpdq_remove_folder(destination, NULL);
  return status;
}
