/* Options of the commands that generate text. */
#ifndef BPDQ_CLI_SAMPLING_H
#define BPDQ_CLI_SAMPLING_H

#include "cli.h"

typedef struct sampling_flags {
  double temperature, top_p, min_p, repetition_penalty;
  int64_t top_k, seed;
} sampling_flags;

extern const option_table sampling_flag_table;
sampling_flags sampling_flags_default(void);
bpdq_sampling cli_sampling(const sampling_flags *flags);

/* "prompt: 11 tokens, 123.4 tokens/s; generated: 48 tokens, 25.1 tokens/s" to stderr. */
void cli_print_speed(const bpdq_generation *generation);
double cli_rate(size_t tokens, double seconds); /* tokens/s, 0 where nothing was timed */

#endif
