#include "quantizing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const method_words[] = {"bpdq", "reference", "gptq", "rtn", NULL}; /* in the order of bpdq_quantize_method */

static const option options[] = {
    {0, "planes", OPTION_INTEGER, offsetof(quantizing_flags, planes), "K", "bit-planes (default 2)", 1, 8, NULL},
    {0, "group", OPTION_INTEGER, offsetof(quantizing_flags, group), "G", "columns that share coefficients, a multiple of 32 (default 64)",
     32, 256, NULL},
    {0, "method", OPTION_CHOICE, offsetof(quantizing_flags, method), "WORD", "bpdq (default), reference (the published BPDQ), gptq or rtn",
     0, 0, method_words},
    {0, "damp", OPTION_NUMBER, offsetof(quantizing_flags, damping), "X", "share of mean diag H that is added to H (default 0.05)", 0, 10,
     NULL},
    {0, "iterations", OPTION_INTEGER, offsetof(quantizing_flags, iterations), "N", "refinements of a group (default 10)", 1, 1000, NULL},
    {0, "alpha", OPTION_NUMBER, offsetof(quantizing_flags, alpha), "X", "ridge of the coefficient fit (default 1e-4)", 0, 1e6, NULL},
    {0, "algebra", OPTION_TEXT, offsetof(quantizing_flags, algebra), "NAME",
     "where the linear algebra runs: cpu (default), cuda, cuda:N, or\nseveral joined by +, as cuda:0+cuda:1", 0, 0, NULL},
    {0, "devices", OPTION_TEXT, offsetof(quantizing_flags, devices), "N,N",
     "CUDA devices that share the work, by number (instead of --algebra)", 0, 0, NULL},
    {0, "device-memory", OPTION_NUMBER, offsetof(quantizing_flags, device_memory), "GIB",
     "how much of a device's memory may be taken (default: all that is free)", 0, 1e6, NULL},
    {'t', "threads", OPTION_INTEGER, offsetof(quantizing_flags, threads), "N", "CPU threads (default: one per core)", 0, 1024, NULL},
    {0, "compare-gptq", OPTION_FLAG, offsetof(quantizing_flags, compare_gptq), NULL, "also run GPTQ on each layer, for the report", 0, 0,
     NULL},
};
const option_table quantizing_flag_table = TABLE_OF("quantization", options);

static const option recipe[] = {
    {0, "no-dense-target", OPTION_OFF, offsetof(quantizing_flags, dense_target), NULL, "take the weights themselves as the target", 0, 0,
     NULL},
    {0, "no-residual-target", OPTION_OFF, offsetof(quantizing_flags, residual_target), NULL, "do not correct the residual stream", 0, 0,
     NULL},
    {0, "no-best-per-row", OPTION_OFF, offsetof(quantizing_flags, best_per_row), NULL, "keep one iterate for all rows of a group", 0, 0,
     NULL},
    {0, "no-starts", OPTION_OFF, offsetof(quantizing_flags, several_starts), NULL,
     "start each group from the bit-planes of the 8-bit code only", 0, 0, NULL},
    {0, "no-descent", OPTION_OFF, offsetof(quantizing_flags, coordinate_descent), NULL, "no coordinate descent", 0, 0, NULL},
    {0, "no-refit", OPTION_OFF, offsetof(quantizing_flags, joint_refit), NULL, "no joint least squares over a row's coefficients", 0, 0,
     NULL},
    {0, "restarts", OPTION_INTEGER, offsetof(quantizing_flags, restarts), "N", "further descents, each from another start (default 0)", 0,
     3, NULL},
    {0, "rounds", OPTION_INTEGER, offsetof(quantizing_flags, rounds), "N", "rounds of sweeps and a refit (default 4)", 0, 1000, NULL},
    {0, "sweeps", OPTION_INTEGER, offsetof(quantizing_flags, sweeps), "N", "sweeps of a round (default 2)", 0, 1000, NULL},
    {0, "final-sweeps", OPTION_INTEGER, offsetof(quantizing_flags, final_sweeps), "N", "sweeps after the last refit (default 2)", 0, 1000,
     NULL},
    {0, "target-damp", OPTION_NUMBER, offsetof(quantizing_flags, target_damping), "X", "damping of the target's solve (default 0.01)", 1e-9,
     10, NULL},
};
const option_table recipe_flag_table = TABLE_OF("parts of --method bpdq", recipe);

quantizing_flags quantizing_flags_default(void) {
  bpdq_quantize_options o = bpdq_quantize_default_options();
  return (quantizing_flags){.method = (int)o.method,
                            .planes = o.planes,
                            .group = o.group,
                            .iterations = o.iterations,
                            .restarts = o.recipe.restarts,
                            .rounds = o.recipe.rounds,
                            .sweeps = o.recipe.sweeps_per_round,
                            .final_sweeps = o.recipe.final_sweeps,
                            .threads = o.threads,
                            .damping = o.damping,
                            .alpha = o.alpha,
                            .target_damping = o.recipe.target_damping,
                            .dense_target = o.recipe.dense_target,
                            .residual_target = o.recipe.residual_target,
                            .best_per_row = o.recipe.best_per_row,
                            .several_starts = o.recipe.several_starts,
                            .coordinate_descent = o.recipe.coordinate_descent,
                            .joint_refit = o.recipe.joint_refit,
                            .compare_gptq = o.compare_gptq};
}

/* "0,1" becomes "cuda:0+cuda:1"; returns 0, or the exit code after the error line. */
static int name_devices(const command *command, const char *list, char *algebra, size_t size) {
  long numbers[MAX_QUANTIZING_DEVICES];
  size_t written = 0;
  const char *rest = list;
  for (int count = 0;; count++, rest++) {
    char *end = NULL;
    if (count == MAX_QUANTIZING_DEVICES) return options_wrong(command, "--devices: more than %d devices", MAX_QUANTIZING_DEVICES);
    numbers[count] = *rest >= '0' && *rest <= '9' ? strtol(rest, &end, 10) : -1;
    if (numbers[count] < 0 || numbers[count] > 1023 || (*end && *end != ','))
      return options_wrong(command, "--devices: '%s' is not a list of CUDA device numbers like 0,1", list);
    for (int i = 0; i < count; i++)
      if (numbers[i] == numbers[count]) return options_wrong(command, "--devices: device %ld is named twice", numbers[i]);
    written += (size_t)snprintf(algebra + written, size - written, "%scuda:%ld", count ? "+" : "", numbers[count]);
    rest = end;
    if (!*rest) return 0;
  }
}

static bool choose_algebra(const command *command, quantizing_flags *f, bpdq_quantize_options *options, int *exit_code) {
  if (f->algebra && !bpdq_quantize_algebra_known(f->algebra)) {
    *exit_code =
        options_wrong(command, "--algebra: '%.60s' is none of cpu, cuda, cuda:N or several of a kind like cuda:0+cuda:1", f->algebra);
    return false;
  }
  if (f->algebra) options->algebra = f->algebra;
  if (!f->devices) return true;
  *exit_code = f->algebra ? options_wrong(command, "--devices and --algebra exclude each other")
                          : name_devices(command, f->devices, f->device_algebra, sizeof f->device_algebra);
  options->algebra = f->device_algebra;
  return *exit_code == 0;
}

bool quantizing_options(const command *command, quantizing_flags *f, bpdq_quantize_options *options, int *exit_code) {
  *options = bpdq_quantize_default_options();
  if (!choose_algebra(command, f, options, exit_code)) return false;
  if (f->device_memory > 0 && strncmp(options->algebra, "cuda", 4) && !f->backend) {
    *exit_code = options_wrong(command,
                               "--device-memory is for CUDA devices and backends: add --devices N, --algebra cuda or, with quantize, "
                               "--backend NAME");
    return false;
  }
  options->backend = f->backend;
  options->device_memory = f->device_memory * (1 << 30);
  if (f->group % 32) {
    *exit_code = options_wrong(command, "--group: %lld is not a multiple of 32", (long long)f->group);
    return false;
  }
  if (f->restarts && !f->several_starts) {
    *exit_code = options_wrong(command, "--restarts begins from other starts: leave out --no-starts");
    return false;
  }
  options->method = (bpdq_quantize_method)f->method;
  options->planes = (int)f->planes;
  options->group = (int)f->group;
  options->iterations = (int)f->iterations;
  options->damping = f->damping;
  options->alpha = f->alpha;
  options->threads = (int)f->threads;
  options->compare_gptq = f->compare_gptq;
  options->recipe = (bpdq_recipe){.dense_target = f->dense_target,
                                  .residual_target = f->residual_target,
                                  .best_per_row = f->best_per_row,
                                  .several_starts = f->several_starts,
                                  .coordinate_descent = f->coordinate_descent,
                                  .joint_refit = f->joint_refit,
                                  .restarts = (int)f->restarts,
                                  .rounds = (int)f->rounds,
                                  .sweeps_per_round = (int)f->sweeps,
                                  .final_sweeps = (int)f->final_sweeps,
                                  .target_damping = f->target_damping};
  options->cancel = console_interrupt_flag();
  return true;
}
