/* Sampling from a session, and the loop of generation. */
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "core/platform.h"
#include "model/session.h"

static void seed_when_new(bpdq_session *session, const bpdq_sampling *sampling) {
  if (session->seeded && session->seed == sampling->seed) return;
  bpdq_random_seed(&session->random, sampling->seed);
  session->seed = sampling->seed;
  session->seeded = true;
}

/* How many candidates the programs of the next evaluations should bring for these settings. Where every logit takes part they bring one,
 * the cheapest. */
static int candidates_for(const bpdq_session *session, const bpdq_sampling *sampling) {
  int needed = bpdq_sampling_candidates(sampling), most = bpdq_model_candidates(session->model);
  return needed > 1 && needed <= most ? most : 1;
}

static bpdq_status sample_candidates(bpdq_session *session, int sequence, const bpdq_sampling *sampling, int32_t *token,
                                     bpdq_error *error) {
  bpdq_backend *backend = session->model->backend;
  int count = session->fresh_candidates[sequence];
  float values[BPDQ_MAX_CANDIDATES];
  int32_t ids[BPDQ_MAX_CANDIDATES];
  sampler_entry entries[BPDQ_MAX_CANDIDATES];
  bpdq_tensor value_tensor = count == 1 ? TENSOR_BEST_VALUE : TENSOR_VALUES, id_tensor = count == 1 ? TENSOR_BEST_ID : TENSOR_IDS;
  BPDQ_TRY(backend->tensor_read(session->state, value_tensor, (int64_t)sequence * (count + 1), count, values, error));
  BPDQ_TRY(backend->tensor_read(session->state, id_tensor, (int64_t)sequence * count, count, ids, error));
  int found = 0;
  for (int i = 0; i < count; i++)
    if (ids[i] >= 0) entries[found++] = (sampler_entry){values[i], ids[i]};
  *token = bpdq_sampling_choose(sampling, entries, found, &session->random);
  return BPDQ_OK;
}

static bpdq_status sample_all(bpdq_session *session, int sequence, const bpdq_sampling *sampling, int32_t *token, bpdq_error *error) {
  int64_t vocab = session->model->config.vocab_size, position = session->positions[sequence];
  if (!session->logits) session->logits = bpdq_alloc_array((size_t)vocab, sizeof *session->logits);
  if (!session->entries) session->entries = bpdq_alloc_array((size_t)vocab, sizeof *session->entries);
  if (!session->logits || !session->entries) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory while sampling");
  BPDQ_TRY(bpdq_get_logits(session, sequence, session->logits, error));
  int64_t recent = position < PENALTY_WINDOW ? position : PENALTY_WINDOW;
  if (sampling->repetition_penalty != 1)
    bpdq_sampling_penalize(sampling->repetition_penalty, session->history + sequence * session->context + position - recent, recent,
                           session->logits, vocab);
  for (int64_t i = 0; i < vocab; i++) session->entries[i] = (sampler_entry){session->logits[i], (int32_t)i};
  *token = bpdq_sampling_choose(sampling, session->entries, vocab, &session->random);
  return BPDQ_OK;
}

bpdq_status bpdq_sample(bpdq_session *session, int sequence, const bpdq_sampling *sampling, int32_t *token, bpdq_error *error) {
  bpdq_sampling defaults = bpdq_sampling_default();
  if (!sampling) sampling = &defaults;
  BPDQ_TRY(bpdq_sampling_check(sampling, error));
  BPDQ_TRY(bpdq_session_check_logits(session, sequence, error));
  seed_when_new(session, sampling);
  int needed = bpdq_sampling_candidates(sampling);
  bool enough = needed > 0 && needed <= session->fresh_candidates[sequence];
  BPDQ_TRY(enough ? sample_candidates(session, sequence, sampling, token, error) : sample_all(session, sequence, sampling, token, error));
  session->wanted_candidates = candidates_for(session, sampling);
  if (*token >= 0) return BPDQ_OK;
  return bpdq_fail(error, BPDQ_ERROR_DEVICE,
                   "no logit of the last token is a finite number: the weights or the device's results are broken; try --backend cpu");
}

/* Counts and clocks of one bpdq_generate call. */
typedef struct generation {
  bpdq_session *session;
  const bpdq_sampling *sampling;
  bpdq_text_callback callback;
  void *user;
  bpdq_token_stream *stream; /* NULL for a model without a tokenizer: the callback gets empty texts */
  bpdq_generation *result;
} generation;

static bpdq_status show(const generation *g, int32_t token, bool at_end, bpdq_error *error) {
  const char *text = "";
  size_t length = 0;
  if (g->stream && at_end)
    BPDQ_TRY(bpdq_token_stream_finish(g->stream, &text, &length, error));
  else if (g->stream)
    BPDQ_TRY(bpdq_token_stream_push(g->stream, token, &text, &length, error));
  if (!g->callback || (at_end && !length)) return BPDQ_OK;
  if (g->callback(g->user, token, text, length)) return BPDQ_OK;
  return bpdq_fail(error, BPDQ_ERROR_CANCELLED, "interrupted");
}

static bpdq_status decode_loop(generation *g, size_t max_tokens, bpdq_error *error) {
  bpdq_session *session = g->session;
  int32_t token = 0;
  while (!max_tokens || g->result->generated_tokens < max_tokens) {
    BPDQ_TRY(bpdq_session_check_cancelled(session, error));
    BPDQ_TRY(bpdq_sample(session, 0, g->sampling, &token, error));
    g->result->generated_tokens++;
    if (bpdq_is_end_of_text(session->model, token)) {
      g->result->end_of_text = true;
      break;
    }
    BPDQ_TRY(show(g, token, false, error));
    bool more = !max_tokens || g->result->generated_tokens < max_tokens;
    if (session->positions[0] == session->context) break;
    if (more) BPDQ_TRY(bpdq_evaluate(session, &token, 1, error));
  }
  return show(g, token, true, error);
}

static double seconds_since(uint64_t start) { return (double)(bpdq_monotonic_nanoseconds() - start) * 1e-9; }

bpdq_status bpdq_generate(bpdq_session *session, const int32_t *prompt, size_t count, size_t max_tokens, const bpdq_sampling *sampling,
                          bpdq_text_callback callback, void *user, bpdq_generation *result, bpdq_error *error) {
  bpdq_sampling defaults = bpdq_sampling_default();
  bpdq_generation own = {0};
  generation g = {session, sampling ? sampling : &defaults, callback, user, NULL, result ? result : &own};
  memset(g.result, 0, sizeof *g.result);
  BPDQ_TRY(bpdq_sampling_check(g.sampling, error));
  if (session->model->tokenizer) BPDQ_TRY(bpdq_token_stream_create(session->model->tokenizer, &g.stream, error));
  session->wanted_candidates = candidates_for(session, g.sampling);
  uint64_t start = bpdq_monotonic_nanoseconds();
  bpdq_status status = bpdq_evaluate(session, prompt, count, error);
  g.result->prompt_seconds = seconds_since(start);
  if (status == BPDQ_OK) {
    g.result->prompt_tokens = count;
    start = bpdq_monotonic_nanoseconds();
    status = decode_loop(&g, max_tokens, error);
    g.result->decode_seconds = seconds_since(start);
  }
  /* A callback may have stopped because of the request that the flag stands for: one stop, one call. */
  if (status == BPDQ_ERROR_CANCELLED) atomic_store(&session->cancelled, false);
  bpdq_token_stream_free(g.stream);
  return status;
}
