#include "backend/program.h"

#include "core/status.h"

static bool has_shape(const bpdq_tensor_desc *cache, int64_t kv_heads, int64_t head_dim) {
  return cache->columns == kv_heads * head_dim && cache->head_dim == head_dim;
}

bpdq_status bpdq_check_caches(const char *operation, const bpdq_tensor_desc *keys, const bpdq_tensor_desc *values, int64_t kv_heads,
                              int64_t head_dim, int64_t context, bpdq_error *error) {
  if (!keys || !values || keys == values)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "operation %s: it needs a cache of keys and another of values", operation);
  if (context < 1 || keys->rows < context || keys->rows % context)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "operation %s: a cache of %lld rows holds no whole sequences of %lld positions",
                     operation, (long long)keys->rows, (long long)context);
  if (keys->rows != values->rows || keys->kv_type != values->kv_type)
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "operation %s: its caches must agree: %lld rows of type %d, %lld of type %d", operation,
                     (long long)keys->rows, (int)keys->kv_type, (long long)values->rows, (int)values->kv_type);
  if (!has_shape(keys, kv_heads, head_dim) || !has_shape(values, kv_heads, head_dim))
    return bpdq_fail(error, BPDQ_ERROR_UNSUPPORTED, "operation %s: its caches are not made for %lld heads of %lld values", operation,
                     (long long)kv_heads, (long long)head_dim);
  return BPDQ_OK;
}

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
