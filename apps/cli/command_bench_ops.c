#include <stdio.h>

#include "report.h"

typedef struct bench_ops_flags {
  const char *shape, *operation;
  int64_t planes, group, rows, depth;
  int format;
} bench_ops_flags;

static const option options[] = {
    {0, "shape", OPTION_TEXT, offsetof(bench_ops_flags, shape), "NAME",
     "qwen2.5-0.5b, qwen2.5-1.5b, llama-3.2-1b, qwen2.5-7b,\nqwen2.5-72b, or tiny for tests", 0, 0, NULL},
    {0, "planes", OPTION_INTEGER, offsetof(bench_ops_flags, planes), "K", "bit-planes (default 2)", 1, 8, NULL},
    {0, "group", OPTION_INTEGER, offsetof(bench_ops_flags, group), "G", "group size (default 128)", 32, 256, NULL},
    {'m', "rows", OPTION_INTEGER, offsetof(bench_ops_flags, rows), "M", "tokens that an operation works on at once (default 1)", 1, 4096,
     NULL},
    {0, "depth", OPTION_INTEGER, offsetof(bench_ops_flags, depth), "D", "tokens in the KV cache for attention (default 512)", 0, 16777216,
     NULL},
    {0, "operation", OPTION_TEXT, offsetof(bench_ops_flags, operation), "NAME", "only this one, by its name in the table", 0, 0, NULL},
    {'o', "output", OPTION_CHOICE, offsetof(bench_ops_flags, format), "md|json|csv", "form of the report (default md)", 0, 0,
     report_format_words},
};
static const option_table table = TABLE_OF("options", options);

typedef struct listing {
  json_t *rows;
  const double *bandwidth;
} listing;

static bool on_timing(void *user, const bpdq_op_timing *t) {
  listing *list = user;
  double rate = (double)t->bytes / t->seconds;
  json_array_append_new(
      list->rows,
      json_pack("{ss sI sI si si sI sf sI sf sf}", "operation", t->name, "rows", (json_int_t)t->rows, "columns", (json_int_t)t->columns,
                "planes", t->planes, "group", t->group, "tokens", (json_int_t)t->tokens, "seconds", t->seconds, "bytes",
                (json_int_t)t->bytes, "bytes_per_second", rate, "bandwidth_share", *list->bandwidth > 0 ? rate / *list->bandwidth : 0.0));
  return !console_interrupted();
}

static int run(const command *self, int argc, char **argv) {
  static const report_column columns[] = {{"operation", "operation", -1, 0},
                                          {"rows", "N", 0, 0},
                                          {"columns", "K", 0, 0},
                                          {"planes", "k", 0, 0},
                                          {"group", "g", 0, 0},
                                          {"tokens", "tokens", 0, 0},
                                          {"seconds", "µs", 1, 1e6},
                                          {"bytes", "MB", 2, 1e-6},
                                          {"bytes_per_second", "GB/s", 1, 1e-9},
                                          {"bandwidth_share", "% of bandwidth", 1, 100}};
  bench_ops_flags own = {.planes = 2, .group = 128, .rows = 1, .depth = 512};
  model_flags flags = model_flags_default();
  void *bases[] = {&own, &flags};
  const char *words[MAX_POSITIONALS];
  int code;
  if (!options_parse(self, bases, argc, argv, words, &code)) return code;
  if (!own.shape) return options_wrong(self, "--shape NAME is missing");
  if (own.group % 32) return options_wrong(self, "--group: %lld is not a multiple of 32", (long long)own.group);
  if (flags.context && flags.context < own.depth + own.rows)
    return options_wrong(self, "--ctx: %lld has no room for --depth %lld and %lld rows", (long long)flags.context, (long long)own.depth,
                         (long long)own.rows);
  if (flags.json) own.format = REPORT_JSON;
  bpdq_error error = {0};
  bpdq_device_info device = {0};
  double bandwidth = 0;
  listing list = {json_array(), &bandwidth};
  cli_log log = {0};
  progress_bar bar = progress_start("timing", flags.quiet);
  bpdq_model_options model_options = cli_model_options(&flags, &log, &bar);
  bpdq_op_benchmark what = {
      own.shape, (int)own.planes, (int)own.group, own.rows, own.depth, flags.context, flags.kv ? BPDQ_KV_Q8 : BPDQ_KV_F16, own.operation};
  bpdq_status status = bpdq_benchmark_ops(&what, &model_options, on_timing, &list, &device, &bandwidth, &error);
  progress_end(&bar);
  if (status != BPDQ_OK) {
    json_decref(list.rows);
    cli_log_free(&log);
    return cli_fail(&error);
  }
  cli_log_release(&log);
  json_t *facts =
      json_pack("{ss ss ss ss sI sI ss sf}", "shape", own.shape, "backend", device.backend, "device", device.name, "driver", device.driver,
                "depth", (json_int_t)own.depth, "context", (json_int_t)(flags.context ? flags.context : own.depth + own.rows), "kv",
                flags.kv ? "q8" : "f16", "bandwidth_bytes_per_second", bandwidth);
  return report_print((report_format)own.format, columns, sizeof columns / sizeof *columns, list.rows, facts);
}

const command command_bench_ops = {
    .name = "bench-ops",
    .summary = "time of every operation at the shapes of a model",
    .tables = {&table, &model_flag_table},
    .details =
        "Each figure is the median of nine runs (fewer where they take long) over copies of what the operation reads, more than the\n"
        "device's caches hold. Bytes are the weight's, or the KV cache's at that depth; the bandwidth is that of a plain read in the same\n"
        "run. rope+attention is the pair as a model has it, which a device may do in one kernel; beyond 16 rows each of the two has a row\n"
        "besides. --ctx is the room in the cache (default: what the depth and the rows need).",
    .examples =
        "bpdq bench-ops --shape qwen2.5-7b --planes 2 --group 128\n"
        "bpdq bench-ops --shape qwen2.5-7b --operation rope+attention --depth 32000 --kv q8\n"
        "bpdq bench-ops --shape qwen2.5-72b --planes 2 --group 256 -m 8 -o csv --backend vulkan",
    .run = run,
};
