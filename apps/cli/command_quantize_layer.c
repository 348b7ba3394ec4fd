#include <math.h>
#include <stdio.h>

#include "quantizing.h"

static const option output_options[] = {QUANTIZING_JSON_OPTION("as without it: stdout is one JSON object"), QUANTIZING_QUIET_OPTION};
static const option_table output_table = TABLE_OF("output", output_options);

static json_t *number_or_null(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static int print_report(const bpdq_layer_report *r) {
  return cli_print_json(json_pack("{sI sI si si sf so so so so sf sI sf}", "rows", (json_int_t)r->rows, "columns", (json_int_t)r->columns,
                                  "planes", r->planes, "group", r->group, "bits_per_weight", r->bits_per_weight, "herr",
                                  number_or_null(r->objective), "herr_zero", number_or_null(r->objective_zero), "herr_rtn",
                                  number_or_null(r->objective_rtn), "herr_gptq", number_or_null(r->objective_gptq), "damping", r->damping,
                                  "dead_columns", (json_int_t)r->dead_columns, "seconds", r->seconds));
}

static int run(const command *self, int argc, char **argv) {
  quantizing_flags flags = quantizing_flags_default();
  void *bases[] = {&flags, &flags, &flags};
  const char *words[MAX_POSITIONALS];
  bpdq_quantize_options chosen;
  int code;
  if (!options_parse(self, bases, argc, argv, words, &code)) return code;
  if (!quantizing_options(self, &flags, &chosen, &code)) return code;
  bpdq_error error = {0};
  bpdq_layer_report report = {0};
  cli_log log = {.quiet = flags.quiet};
  progress_bar bar = progress_start("quantizing", flags.quiet);
  chosen.progress = progress_callback;
  chosen.progress_user = &bar;
  chosen.log = cli_log_callback;
  chosen.log_user = &log;
  bpdq_status status = bpdq_quantize_layer_file(words[0], words[1], &chosen, &report, &error);
  progress_end(&bar);
  if (status == BPDQ_OK) cli_log_release(&log);
  cli_log_free(&log);
  return status == BPDQ_OK ? print_report(&report) : cli_fail(&error);
}

const command command_quantize_layer = {
    .name = "quantize-layer",
    .summary = "quantize one linear layer from a file with W and H",
    .positionals = {"IN.safetensors", "OUT.safetensors"},
    .tables = {&quantizing_flag_table, &recipe_flag_table, &output_table},
    .details =
        "IN holds W f32 [N, K] and H f32 [K, K] (undamped); OUT gets c (bf16), B (int32 bit-planes) and Q (f32). --method bpdq also uses\n"
        "two tensors that IN need not hold: C f32 [K, K], the cross covariance of the dense model's inputs with those of H (unless\n"
        "--no-dense-target), and R f32 [N, K], that of the residual stream's error with them (unless --no-residual-target). Prints one\n"
        "JSON object with herr = tr((W-Q) H (W-Q)^T) of the result with its coefficients rounded to bf16.",
    .examples =
        "bpdq quantize-layer layer.safetensors out.safetensors --planes 2 --group 64\n"
        "bpdq quantize-layer layer.safetensors out.safetensors --planes 3 --group 128 --method reference",
    .run = run,
};
