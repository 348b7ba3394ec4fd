#include "sampling.h"

#include <stdio.h>

static const option options[] = {
    {0, "temp", OPTION_NUMBER, offsetof(sampling_flags, temperature), "T", "temperature; 0 is greedy (default 0.7)", 0, 100, NULL},
    {0, "top-k", OPTION_INTEGER, offsetof(sampling_flags, top_k), "K",
     "keep the K likeliest tokens; 0: all (default 40). Up to 64 are found\non the device; 0 or more than 64 copies all logits for each "
     "token:\n"
     "slower",
     0, 16777216, NULL},
    {0, "top-p", OPTION_NUMBER, offsetof(sampling_flags, top_p), "P", "keep the likeliest tokens up to this share; 1: all (default 0.95)",
     1e-6, 1, NULL},
    {0, "min-p", OPTION_NUMBER, offsetof(sampling_flags, min_p), "P", "drop tokens below this share of the likeliest (default 0)", 0, 1,
     NULL},
    {0, "repeat-penalty", OPTION_NUMBER, offsetof(sampling_flags, repetition_penalty), "R",
     "above 1: discourage recent tokens (default 1); copies all logits too", 0.01, 100, NULL},
    {'s', "seed", OPTION_INTEGER, offsetof(sampling_flags, seed), "S", "same seed, same text (default 0)", 0, 9007199254740992.0, NULL},
};
const option_table sampling_flag_table = TABLE_OF("generation", options);

sampling_flags sampling_flags_default(void) {
  bpdq_sampling defaults = bpdq_sampling_default();
  return (sampling_flags){.temperature = defaults.temperature,
                          .top_p = defaults.top_p,
                          .min_p = defaults.min_p,
                          .repetition_penalty = defaults.repetition_penalty,
                          .top_k = defaults.top_k,
                          .seed = (int64_t)defaults.seed};
}

bpdq_sampling cli_sampling(const sampling_flags *flags) {
  return (bpdq_sampling){.temperature = (float)flags->temperature,
                         .top_k = (int)flags->top_k,
                         .top_p = (float)flags->top_p,
                         .min_p = (float)flags->min_p,
                         .repetition_penalty = (float)flags->repetition_penalty,
                         .seed = (uint64_t)flags->seed};
}

double cli_rate(size_t tokens, double seconds) { return seconds > 0 ? (double)tokens / seconds : 0; }

void cli_print_speed(const bpdq_generation *g) {
  fprintf(stderr, "prompt: %zu tokens, %.1f tokens/s; generated: %zu tokens, %.1f tokens/s\n", g->prompt_tokens,
          cli_rate(g->prompt_tokens, g->prompt_seconds), g->generated_tokens, cli_rate(g->generated_tokens, g->decode_seconds));
}
