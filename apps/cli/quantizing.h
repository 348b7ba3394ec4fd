/* Options of the commands that quantize. */
#ifndef BPDQ_CLI_QUANTIZING_H
#define BPDQ_CLI_QUANTIZING_H

#include "bpdq_quantizer.h"
#include "cli.h"

enum { MAX_QUANTIZING_DEVICES = 16 };

/* The fields of bpdq_quantize_options in the types that the option tables fill. */
typedef struct quantizing_flags {
  int method; /* index into quantizing_methods */
  int64_t planes, group, iterations, restarts, rounds, sweeps, final_sweeps, threads;
  double damping, alpha, target_damping, device_memory; /* device_memory: GiB */
  bool dense_target, residual_target, best_per_row, several_starts, coordinate_descent, joint_refit, compare_gptq;
  const char *algebra, *devices, *backend;          /* backend: an option of `quantize` alone */
  char device_algebra[MAX_QUANTIZING_DEVICES * 16]; /* what `devices` means */
  bool json, quiet;
} quantizing_flags;

extern const option_table quantizing_flag_table, recipe_flag_table;
/* Rows of each command's table of its output. */
#define QUANTIZING_JSON_OPTION(help) \
  { 0, "json", OPTION_FLAG, offsetof(quantizing_flags, json), NULL, help, 0, 0, NULL }
#define QUANTIZING_QUIET_OPTION \
  { 'q', "quiet", OPTION_FLAG, offsetof(quantizing_flags, quiet), NULL, "no log lines, no progress", 0, 0, NULL }
quantizing_flags quantizing_flags_default(void);
/* Checks what the table cannot; false after the error line, with *exit_code. `flags` must live as long as `options`. */
bool quantizing_options(const command *command, quantizing_flags *flags, bpdq_quantize_options *options, int *exit_code);

#endif
