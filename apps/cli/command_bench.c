#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"

#define REPEATS 3
#define CHUNK 512 /* tokens that fill the cache at a time, so that an interrupt is answered */

typedef struct bench_flags {
  const char *shape;
  int64_t planes, group, prompt, tokens, depth, batch, repeats;
  int format;
} bench_flags;

static const option options[] = {
    {0, "shape", OPTION_TEXT, offsetof(bench_flags, shape), "NAME",
     "random weights of a known shape instead of a MODEL: qwen2.5-0.5b,\nqwen2.5-1.5b, llama-3.2-1b, qwen2.5-7b, qwen2.5-72b,\n"
     "or tiny for tests",
     0, 0, NULL},
    {0, "planes", OPTION_INTEGER, offsetof(bench_flags, planes), "K", "with --shape: bit-planes (default 2)", 1, 8, NULL},
    {0, "group", OPTION_INTEGER, offsetof(bench_flags, group), "G", "with --shape: group size (default 128)", 32, 256, NULL},
    {'p', "prompt", OPTION_INTEGER, offsetof(bench_flags, prompt), "N", "tokens of prefill (default 512; 0: none)", 0, 1048576, NULL},
    {'n', "tokens", OPTION_INTEGER, offsetof(bench_flags, tokens), "N", "tokens to decode (default 128; 0: none)", 0, 1048576, NULL},
    {0, "depth", OPTION_INTEGER, offsetof(bench_flags, depth), "D", "tokens in the KV cache before (default 0)", 0, 16777216, NULL},
    {0, "batch", OPTION_INTEGER, offsetof(bench_flags, batch), "B", "sequences that decode together (default 1)", 1, 64, NULL},
    {'r', "repeats", OPTION_INTEGER, offsetof(bench_flags, repeats), "R", "repeats; the median is reported (default 3)", 1, 99, NULL},
    {'o', "output", OPTION_CHOICE, offsetof(bench_flags, format), "md|json|csv", "form of the report (default md)", 0, 0,
     report_format_words},
};
static const option_table table = TABLE_OF("options", options);

/* Runs before those that count: they compile, and an idle GPU takes some 300 ms to raise its clocks. */
#define WARM_UP_SECONDS 0.5

typedef struct timing {
  double median, least, most; /* tokens/s over the repeats */
} timing;

typedef struct bench {
  bpdq_model *model;
  bpdq_session *session;
  bpdq_model_info info;
  const bench_flags *flags;
  int32_t *tokens; /* [longest run], of the whole vocabulary */
} bench;

static int by_value(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

static timing summarize(double *rates, int64_t count) {
  qsort(rates, (size_t)count, sizeof *rates, by_value);
  return (timing){rates[count / 2], rates[0], rates[count - 1]};
}

static int32_t some_token(const bench *b, int64_t i) { return (int32_t)((uint64_t)i * 2654435761u % (uint64_t)b->info.vocab_size); }

/* The cache filled up to the depth, in every sequence. */
static bpdq_status fill_cache(bench *b, bpdq_error *error) {
  int32_t tokens[CHUNK];
  bpdq_status status = bpdq_session_rewind(b->session, 0, error);
  for (int64_t done = 0; done < b->flags->depth && status == BPDQ_OK;) {
    int64_t count = b->flags->batch > 1 ? 1 : b->flags->depth - done < CHUNK ? b->flags->depth - done : CHUNK;
    for (int64_t i = 0; i < (count > b->flags->batch ? count : b->flags->batch); i++) tokens[i] = some_token(b, done + i);
    status = b->flags->batch > 1 ? bpdq_evaluate_batch(b->session, tokens, error) : bpdq_evaluate(b->session, tokens, (size_t)count, error);
    done += count;
  }
  return status;
}

static bpdq_status prefill_once(bench *b, double *rate, bpdq_error *error) {
  bpdq_status status = bpdq_session_rewind(b->session, b->flags->depth, error);
  double start = console_seconds();
  if (status == BPDQ_OK) status = bpdq_evaluate(b->session, b->tokens, (size_t)b->flags->prompt, error);
  *rate = (double)b->flags->prompt / (console_seconds() - start);
  return status;
}

/* `count` steps of decoding; each chooses the likeliest token and evaluates it, as a generation does. */
static bpdq_status decode_once(bench *b, int64_t count, double *rate, bpdq_error *error) {
  const bpdq_sampling greedy = {.temperature = 0, .top_p = 1, .repetition_penalty = 1};
  int sequences = (int)b->flags->batch;
  int32_t tokens[64];
  bpdq_status status = bpdq_session_rewind(b->session, b->flags->depth, error);
  for (int s = 0; s < sequences; s++) tokens[s] = some_token(b, s + 1);
  double start = console_seconds();
  for (int64_t i = 0; i < count && status == BPDQ_OK; i++) {
    status = sequences > 1 ? bpdq_evaluate_batch(b->session, tokens, error) : bpdq_evaluate(b->session, tokens, 1, error);
    for (int s = 0; s < sequences && status == BPDQ_OK; s++) status = bpdq_sample(b->session, s, &greedy, &tokens[s], error);
  }
  *rate = (double)(count * sequences) / (console_seconds() - start);
  return status;
}

static bpdq_status measure(bench *b, timing *prefill, timing *decode, bpdq_error *error) {
  double rates[100];
  bpdq_status status = fill_cache(b, error);
  if (b->flags->prompt && b->flags->batch == 1) {
    double warm = console_seconds() + WARM_UP_SECONDS;
    do {
      if (status == BPDQ_OK) status = prefill_once(b, &rates[0], error);
    } while (status == BPDQ_OK && console_seconds() < warm);
    for (int64_t i = 0; i < b->flags->repeats && status == BPDQ_OK; i++) status = prefill_once(b, &rates[i], error);
    *prefill = summarize(rates, b->flags->repeats);
  }
  if (b->flags->tokens) {
    double warm = console_seconds() + WARM_UP_SECONDS;
    do {
      if (status == BPDQ_OK) status = decode_once(b, b->flags->tokens < 8 ? b->flags->tokens : 8, &rates[0], error);
    } while (status == BPDQ_OK && console_seconds() < warm);
    for (int64_t i = 0; i < b->flags->repeats && status == BPDQ_OK; i++) status = decode_once(b, b->flags->tokens, &rates[i], error);
    *decode = summarize(rates, b->flags->repeats);
  }
  return status;
}

/* KV cache that a decoding step reads per sequence, half-way through the run. */
static double cache_bytes(const bench *b, bool q8) {
  double positions = (double)b->flags->depth + (double)b->flags->tokens / 2;
  double entry = q8 ? (double)b->info.head_dim + sizeof(float) : 2.0 * (double)b->info.head_dim;
  return 2 * positions * (double)(b->info.layers * b->info.kv_heads) * entry;
}

static json_t *timing_row(const char *what, const timing *t, double bytes, double bandwidth, int64_t tokens_per_pass) {
  double share = t->median / (double)tokens_per_pass * bytes / bandwidth;
  json_t *row = json_pack("{ss sf sf sf}", "test", what, "tokens_per_second", t->median, "slowest", t->least, "fastest", t->most);
  if (bytes > 0) {
    json_object_set_new(row, "bytes_per_token", json_real(bytes / (double)tokens_per_pass));
    json_object_set_new(row, "bandwidth_share", json_real(share));
  }
  return row;
}

static int report(const bench *b, const char *name, bool q8, const timing *prefill, const timing *decode, double bandwidth) {
  static const report_column columns[] = {
      {"test", "test", -1, 0},      {"tokens_per_second", "tokens/s", 1, 0},           {"slowest", "slowest", 1, 0},
      {"fastest", "fastest", 1, 0}, {"bytes_per_token", "MB read per token", 2, 1e-6}, {"bandwidth_share", "% of bandwidth", 1, 100}};
  const bench_flags *f = b->flags;
  uint64_t current, peak;
  char text[64];
  bpdq_model_memory(b->model, &current, &peak);
  double bytes = (double)b->info.bytes_per_token + cache_bytes(b, q8) * (double)f->batch;
  json_t *rows = json_array();
  json_t *facts =
      json_pack("{so ss ss ss sf sI sI ss sI sI sf sI sI}", "model", cli_json_text(name, strlen(name)), "backend", b->info.device.backend,
                "device", b->info.device.name, "driver", b->info.device.driver, "bits_per_weight", b->info.bits_per_weight, "depth",
                (json_int_t)f->depth, "batch", (json_int_t)f->batch, "kv", q8 ? "q8" : "f16", "context",
                (json_int_t)bpdq_session_context(b->session), "activations", (json_int_t)b->info.activations, "bandwidth_bytes_per_second",
                bandwidth, "weight_bytes_per_token", (json_int_t)b->info.bytes_per_token, "peak_device_bytes", (json_int_t)peak);
  if (b->info.load_bytes) { /* the weights are not random */
    double load_bytes = (double)b->info.load_bytes;
    json_object_set_new(facts, "load_bytes", json_integer((json_int_t)b->info.load_bytes));
    json_object_set_new(facts, "load_seconds", json_real(b->info.load_seconds));
    json_object_set_new(facts, "load_bytes_per_second", json_real(load_bytes / b->info.load_seconds));
    json_object_set_new(facts, "load_weights_seconds", json_real(b->info.load_weights_seconds));
    json_object_set_new(facts, "load_weights_bytes_per_second", json_real(load_bytes / b->info.load_weights_seconds));
  }
  if (prefill->median > 0) {
    snprintf(text, sizeof text, "prefill %lld", (long long)f->prompt);
    json_array_append_new(rows, timing_row(text, prefill, 0, bandwidth, 1));
    if (f->format == REPORT_JSON) json_object_set_new(facts, "prefill_tokens_per_second", json_real(prefill->median));
  }
  if (decode->median > 0) {
    snprintf(text, sizeof text, "decode %lld", (long long)f->tokens);
    json_array_append_new(rows, timing_row(text, decode, bytes, bandwidth, f->batch));
  }
  if (decode->median > 0 && f->format == REPORT_JSON) { /* the figures by name too; a table has them already */
    json_object_set_new(facts, "decode_tokens_per_second", json_real(decode->median));
    json_object_set_new(facts, "bytes_per_token", json_real(bytes / (double)f->batch));
    json_object_set_new(facts, "bandwidth_share", json_real(decode->median / (double)f->batch * bytes / bandwidth));
  }
  return report_print((report_format)f->format, columns, sizeof columns / sizeof *columns, rows, facts);
}

static int bench_model(cli_model *loaded, const model_flags *flags, const bench_flags *own, const char *name) {
  bpdq_error error = {0};
  bench b = {.model = loaded->model, .flags = own};
  timing prefill = {0}, decode = {0};
  double bandwidth = 0;
  bpdq_model_get_info(b.model, &b.info);
  bpdq_session_options session_options = cli_session_options(flags);
  int64_t longest = own->prompt > own->tokens && own->batch == 1 ? own->prompt : own->tokens;
  if (!session_options.context && own->depth + longest > b.info.context_length)
    return cli_fail_text("--depth %lld and a run of %lld tokens do not fit: the model was made for %lld; lower --depth, -p or -n",
                         (long long)own->depth, (long long)longest, (long long)b.info.context_length);
  if (!session_options.context) session_options.context = own->depth + longest;
  session_options.sequences = (int)own->batch;
  b.tokens = malloc((size_t)longest * sizeof *b.tokens);
  if (!b.tokens) return cli_fail_text("out of memory");
  for (int64_t i = 0; i < longest; i++) b.tokens[i] = some_token(&b, i);
  bpdq_status status = bpdq_session_create(b.model, &session_options, &b.session, &error);
  console_stop_session(b.session);
  if (status == BPDQ_OK) status = bpdq_model_measure_bandwidth(b.model, &bandwidth, &error);
  if (status == BPDQ_OK) status = measure(&b, &prefill, &decode, &error);
  console_stop_session(NULL);
  int code;
  if (status == BPDQ_OK) {
    cli_log_release(&loaded->log);
    code = report(&b, name, flags->kv, &prefill, &decode, bandwidth);
  } else {
    code = cli_fail(cli_name_context(b.model, session_options.context, &error));
  }
  bpdq_session_free(b.session);
  free(b.tokens);
  return code;
}

/* 0 or the exit code. */
static int make_random(const model_flags *flags, const bench_flags *own, cli_model *loaded) {
  bpdq_error error = {0};
  *loaded = (cli_model){0};
  progress_bar bar = progress_start("making weights", flags->quiet);
  bpdq_model_options model_options = cli_model_options(flags, &loaded->log, &bar);
  bpdq_status status = bpdq_model_random(own->shape, (int)own->planes, (int)own->group, &model_options, &loaded->model, &error);
  progress_end(&bar);
  if (status == BPDQ_OK) return 0;
  cli_unload(loaded);
  return cli_fail(&error);
}

static int run(const command *self, int argc, char **argv) {
  bench_flags own = {.prompt = 512, .tokens = 128, .batch = 1, .repeats = REPEATS};
  model_flags flags = model_flags_default();
  void *bases[] = {&own, &flags};
  const char *words[MAX_POSITIONALS];
  int code;
  if (!options_parse(self, bases, argc, argv, words, &code)) return code;
  if (!words[0] == !own.shape)
    return options_wrong(self, own.shape ? "MODEL and --shape exclude each other" : "MODEL or --shape NAME is missing");
  if (words[0] && (own.planes || own.group)) return options_wrong(self, "--planes and --group belong to --shape; a MODEL has its own");
  if (!own.planes) own.planes = 2;
  if (!own.group) own.group = 128;
  if (own.group % 32) return options_wrong(self, "--group: %lld is not a multiple of 32", (long long)own.group);
  if ((!own.prompt || own.batch > 1) && !own.tokens) return options_wrong(self, "-p 0 and -n 0 leave nothing to measure");
  if (flags.json) own.format = REPORT_JSON;
  cli_model loaded;
  code = own.shape ? make_random(&flags, &own, &loaded) : cli_load(words[0], &flags, false, &loaded);
  if (code != 0) return code;
  char name[128];
  snprintf(name, sizeof name, "%s k=%lld g=%lld", own.shape ? own.shape : "", (long long)own.planes, (long long)own.group);
  code = bench_model(&loaded, &flags, &own, own.shape ? name : words[0]);
  cli_unload(&loaded);
  return code;
}

const command command_bench = {
    .name = "bench",
    .summary = "tokens/s of prefill and decoding, and the share of the bandwidth",
    .positionals = {"[MODEL]"},
    .tables = {&table, &model_flag_table},
    .details =
        "Each figure is the median of the repeats, after half a second of runs that do not count. Bytes per token are the weights and\n"
        "the KV cache that one decoded token reads; the bandwidth is that of a plain read on the same device in the same run. With\n"
        "--batch the prefill is left out. The load rate counts the checkpoint's bytes that go to the device; that of the weights alone\n"
        "leaves out what starts the device and reads the tokenizer.",
    .examples =
        "bpdq bench Qwen2.5-7B-k2\n"
        "bpdq bench --shape qwen2.5-7b --planes 2 --group 128 -p 512 -n 128 --backend vulkan\n"
        "bpdq bench --shape qwen2.5-72b --planes 2 --group 256 --depth 8192 --memory-cap 22.69GiB -o json",
    .run = run,
};
