#include <math.h>
#include <stdio.h>
#include <string.h>

#include "quantizing.h"

typedef struct quantize_flags {
  const char *calibration, *text_field, *backend;
  int format;
  int64_t samples, sequence_length, head_bits, device;
  double bits;
  bool as_chat, resume, overwrite;
} quantize_flags;

static const char *const format_words[] = {"auto", "text", "jsonl", "ids", NULL}; /* in the order of bpdq_calibration_format */
static const option options[] = {
    {0, "calib", OPTION_TEXT, offsetof(quantize_flags, calibration), "FILE", "calibration text, .jsonl documents or .ids (rtn needs none)",
     0, 0, NULL},
    {0, "samples", OPTION_INTEGER, offsetof(quantize_flags, samples), "N", "calibration windows (default 128; 0: the whole text)", 0,
     16777216, NULL},
    {0, "seqlen", OPTION_INTEGER, offsetof(quantize_flags, sequence_length), "L", "tokens of a window, at least 8 (default 1024)", 8,
     1048576, NULL},
    {0, "calib-format", OPTION_CHOICE, offsetof(quantize_flags, format), "WORD", "auto (default, by the file's name), text, jsonl or ids",
     0, 0, format_words},
    {0, "text-field", OPTION_TEXT, offsetof(quantize_flags, text_field), "NAME", "jsonl: the field with the text (default text)", 0, 0,
     NULL},
    {0, "as-chat", OPTION_FLAG, offsetof(quantize_flags, as_chat), NULL, "jsonl: each document is a user's message in the chat template", 0,
     0, NULL},
    {0, "bits", OPTION_NUMBER, offsetof(quantize_flags, bits), "X",
     "budget in bits per weight, coefficients included: planes are\nspread over the layers by sensitivity (instead of --planes), which is\n"
     "measured on --backend, the CPU unless one is named, with the whole\nmodel as float32 in host memory",
     1, 9, NULL},
    {0, "head-bits", OPTION_INTEGER, offsetof(quantize_flags, head_bits), "N", "planes for the head, 2 to 8 (default 0: it stays dense)", 0,
     8, NULL},
    {0, "backend", OPTION_WORD, offsetof(quantize_flags, backend), "NAME",
     "where the forward passes run: cpu, vulkan or cuda (default: with\n--algebra cuda on its devices, else cpu)", 0, 0, cli_backend_words},
    {0, "device", OPTION_INTEGER, offsetof(quantize_flags, device), "N", "number of that backend's device, as `bpdq devices` lists it", 0,
     1023, NULL},
    {0, "resume", OPTION_FLAG, offsetof(quantize_flags, resume), NULL, "go on with an interrupted run (DST.partial)", 0, 0, NULL},
    {0, "overwrite", OPTION_FLAG, offsetof(quantize_flags, overwrite), NULL, "replace DST where it exists", 0, 0, NULL},
};
static const option_table table = TABLE_OF("options", options);
static const option output_options[] = {QUANTIZING_JSON_OPTION("one JSON object on stdout"), QUANTIZING_QUIET_OPTION};
static const option_table output_table = TABLE_OF("output", output_options);

/* What the callbacks of one run share. */
typedef struct watcher {
  progress_bar bar;
  double fraction;
  char last[160]; /* the linear that was done last */
  bool table, heading;
} watcher;

static bool on_progress(void *user, double fraction) {
  watcher *w = user;
  w->fraction = fraction;
  progress_show(&w->bar, fraction, w->last[0] ? w->last : NULL);
  return !console_interrupted();
}

static void print_ratio(double value, double base) {
  if (isfinite(value) && isfinite(base) && base > 0)
    fprintf(stderr, " %9.4f", value / base);
  else
    fprintf(stderr, " %9s", "-");
}

/* One line of the per-layer table on stderr. */
static void on_layer(void *user, const bpdq_layer_report *r) {
  watcher *w = user;
  snprintf(w->last, sizeof w->last, "%s", r->name);
  if (!w->table) return;
  progress_end(&w->bar);
  if (!w->heading)
    fprintf(stderr, "%-40s %13s %3s %4s %9s %9s %8s %7s\n", "linear", "N x K", "k", "g", "vs RTN", "vs GPTQ", "damping", "s");
  w->heading = true;
  char shape[40];
  snprintf(shape, sizeof shape, "%lldx%lld", (long long)r->rows, (long long)r->columns);
  fprintf(stderr, "%-40s %13s %3d %4d", r->name, shape, r->planes, r->group);
  print_ratio(r->objective, r->objective_rtn);
  print_ratio(r->objective, r->objective_gptq);
  fprintf(stderr, " %8.3f %7.2f\n", r->damping, r->seconds);
}

static int print_summary(const char *destination, const bpdq_quantize_summary *s, bool json) {
  char source[32], written[32], peak[32], device[32];
  if (json)
    return cli_print_json(json_pack("{so sI sI sf sI sI sI sI sI sf sf sf sI}", "output", cli_json_text(destination, strlen(destination)),
                                    "linears", (json_int_t)s->linears, "quantized_weights", (json_int_t)s->quantized_weights,
                                    "bits_per_weight", s->bits_per_weight, "source_bytes", (json_int_t)s->source_bytes, "written_bytes",
                                    (json_int_t)s->written_bytes, "calibration_tokens", (json_int_t)s->calibration_tokens,
                                    "peak_host_bytes", (json_int_t)s->peak_host_bytes, "peak_device_bytes",
                                    (json_int_t)s->peak_device_bytes, "seconds", s->seconds, "forward_seconds", s->forward_seconds,
                                    "algorithm_seconds", s->algorithm_seconds, "resumed_blocks", (json_int_t)s->resumed_blocks));
  printf("%s: %lld linears at %.4f bits per weight, %s from %s, in %.1f s (forward passes %.1f s, algorithm %.1f s), peak memory %s",
         destination, (long long)s->linears, s->bits_per_weight, options_size_text(s->written_bytes, written, sizeof written),
         options_size_text(s->source_bytes, source, sizeof source), s->seconds, s->forward_seconds, s->algorithm_seconds,
         options_size_text(s->peak_host_bytes, peak, sizeof peak));
  if (s->peak_device_bytes) printf(" and %s of the device's", options_size_text(s->peak_device_bytes, device, sizeof device));
  printf("\n");
  return 0;
}

static int run(const command *self, int argc, char **argv) {
  bpdq_quantize_options chosen = bpdq_quantize_default_options();
  quantize_flags own = {.samples = chosen.samples, .sequence_length = chosen.sequence_length, .device = -1};
  quantizing_flags flags = quantizing_flags_default();
  void *bases[] = {&own, &flags, &flags, &flags};
  const char *words[MAX_POSITIONALS];
  int code;
  if (!options_parse(self, bases, argc, argv, words, &code)) return code;
  flags.backend = own.backend;
  if (!quantizing_options(self, &flags, &chosen, &code)) return code;
  if (own.device >= 0 && !own.backend) return options_wrong(self, "--device is of a backend: add --backend NAME");
  if (own.head_bits == 1) return options_wrong(self, "--head-bits: 1 is too few: 2 to 8 are possible, or 0 for a dense head");
  if (!own.calibration && (chosen.method != BPDQ_METHOD_RTN || own.bits > 0)) return options_wrong(self, "--calib FILE is missing");
  watcher watch = {.bar = progress_start("quantizing", flags.quiet), .table = !flags.quiet};
  cli_log log = {.quiet = flags.quiet};
  chosen.calibration_path = own.calibration;
  chosen.calibration_format = (bpdq_calibration_format)own.format;
  chosen.text_field = own.text_field;
  chosen.chat_template = own.as_chat;
  chosen.samples = own.samples;
  chosen.sequence_length = own.sequence_length;
  chosen.device = (int)own.device;
  chosen.bits = own.bits;
  chosen.head_bits = (int)own.head_bits;
  chosen.resume = own.resume;
  chosen.overwrite = own.overwrite;
  chosen.progress = on_progress;
  chosen.progress_user = &watch;
  chosen.layer_done = on_layer;
  chosen.layer_user = &watch;
  chosen.log = cli_log_callback;
  chosen.log_user = &log;
  bpdq_error error = {0};
  bpdq_quantize_summary summary = {0};
  bpdq_status status = bpdq_quantize_folder(words[0], words[1], &chosen, &summary, &error);
  progress_end(&watch.bar);
  if (status == BPDQ_OK) cli_log_release(&log);
  code = status == BPDQ_OK ? print_summary(words[1], &summary, flags.json) : cli_fail(&error);
  cli_log_free(&log);
  return code;
}

const command command_quantize = {
    .name = "quantize",
    .summary = "make a BPDQ checkpoint of a dense model",
    .positionals = {"SRC", "DST"},
    .tables = {&table, &quantizing_flag_table, &recipe_flag_table, &output_table},
    .details =
        "SRC is a Hugging Face folder; DST appears complete or not at all. A line per layer goes to stderr: its objective relative to\n"
        "round to nearest and to GPTQ (with --compare-gptq). An interrupted run keeps its finished blocks for --resume.\n\n"
        "The calibration text passes through the model twice, dense and quantized so far. The bytes of the result depend on the backend\n"
        "that does this, so no GPU is chosen by itself, and BPDQ_BACKEND is not asked. --algebra cuda keeps the activations on its device\n"
        "unless a backend is named; else they are in host memory, or in a file in DST.partial where that is short.",
    .examples =
        "bpdq quantize Qwen2.5-7B Qwen2.5-7B-k2 --planes 2 --group 64 --calib c4.txt\n"
        "bpdq quantize Qwen2.5-7B Qwen2.5-7B-2.5 --bits 2.5 --group 128 --calib c4.jsonl --samples 256 --seqlen 2048\n"
        "bpdq quantize Qwen2.5-72B Qwen2.5-72B-k2 --planes 2 --group 256 --calib c4.txt --devices 0,1\n"
        "bpdq quantize Llama-3.2-1B Llama-3.2-1B-k2 --planes 2 --group 64 --calib c4.txt --backend vulkan\n"
        "bpdq quantize Qwen2.5-7B Qwen2.5-7B-gptq --method gptq --calib c4.txt --json",
    .run = run,
};
