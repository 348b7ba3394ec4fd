/* Inside a bpdq_session: one state on the backend, programs compiled on first use, and where each sequence stands. */
#ifndef BPDQ_MODEL_SESSION_H
#define BPDQ_MODEL_SESSION_H

#include <stdatomic.h>

#include "model/model.h"
#include "model/sampler.h"

#define MAX_SEQUENCES 64
#define PENALTY_WINDOW 256 /* tokens that the repetition penalty looks back (bpdq.h) */

typedef struct session_program {
  int64_t max_tokens;
  model_head head;
  int candidates;
  bpdq_executable *executable;
} session_program;

struct bpdq_session {
  bpdq_model *model;
  int64_t context, max_tokens; /* rows of the state's activation tensors */
  int sequences;
  bpdq_state *state;
  session_program *programs;
  size_t program_count;
  int64_t *positions;                     /* [sequences] tokens in each cache */
  int32_t *history;                       /* [sequences, context] */
  int32_t *run_positions, *run_sequences; /* [max_tokens] */
  float *rows;                            /* [max_tokens, hidden] embedding rows on their way to the device */

  int wanted_candidates;               /* appended to programs that compute logits; follows the sampling settings */
  bool has_logits[MAX_SEQUENCES];      /* the sequence's row of the logits tensor belongs to its present position */
  int fresh_candidates[MAX_SEQUENCES]; /* how many candidates were computed with that row */

  bpdq_state *head_state; /* bpdq_evaluate_all: final norm and head on a few rows at a time; made on first use */
  bpdq_executable *head_executable;
  bpdq_random random;
  uint64_t seed;
  bool seeded;
  float *logits;          /* [vocab] for the host's sampler; made on first use */
  sampler_entry *entries; /* [vocab] likewise */
  atomic_bool cancelled;
};

/* Fails where the session has no such sequence, or nothing was evaluated in it. */
bpdq_status bpdq_session_check_logits(const bpdq_session *session, int sequence, bpdq_error *error);

/* Fails with BPDQ_ERROR_CANCELLED, and clears the request, when bpdq_session_cancel() was called. */
bpdq_status bpdq_session_check_cancelled(bpdq_session *session, bpdq_error *error);

#endif
