/* eval --task gsm8k: asks a model the questions of a file and scores its answers. */
#ifndef BPDQ_CLI_GSM8K_RUN_H
#define BPDQ_CLI_GSM8K_RUN_H

#include "cli.h"

typedef struct gsm8k_flags {
  const char *questions, *examples, *dump; /* paths */
  int64_t shots, limit;                    /* -1 and 0: not given */
  bool same_shots;
} gsm8k_flags;

extern const option_table gsm8k_flag_table;
gsm8k_flags gsm8k_flags_default(void);

/* The first of the flags that was given ("--shots"), or NULL. */
const char *gsm8k_first_flag(const gsm8k_flags *own);

/* Evaluates the model in `folder` and prints the scores; returns the exit code. `self` is the command, for wrong usage. */
int gsm8k_run(const command *self, const char *folder, const gsm8k_flags *own, const model_flags *flags);

#endif
