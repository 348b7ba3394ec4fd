#include "backend/program.h"

#include "core/status.h"

/* Caches are read only up to a row's own position, so a position past the context or a sequence past the caches is all that could reach
 * foreign memory. */
bpdq_status bpdq_check_run(const bpdq_run *run, int64_t max_tokens, int64_t context, int64_t sequences, bpdq_error *error) {
  if (run->tokens < 1 || run->tokens > max_tokens)
    return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "a run of %lld tokens; the program takes 1 to %lld", (long long)run->tokens,
                     (long long)max_tokens);
  if (!context) return BPDQ_OK;
  if (!run->positions || !run->sequences) return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "a run without positions or sequences");
  for (int64_t i = 0; i < run->tokens; i++) {
    int position = run->positions[i], sequence = run->sequences[i];
    if (position < 0 || position >= context)
      return bpdq_fail(error, BPDQ_ERROR_CONTEXT_FULL, "position %d lies outside the context of %lld tokens", position, (long long)context);
    if (sequence < 0 || sequence >= sequences)
      return bpdq_fail(error, BPDQ_ERROR_INTERNAL, "sequence %d of %lld does not exist", sequence, (long long)sequences);
  }
  return BPDQ_OK;
}
