/* Sessions: creation, evaluation of tokens, logits. */
#include "model/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "model/rope.h"

#define HEAD_ROWS 64 /* rows of logits that bpdq_evaluate_all computes at a time */

bpdq_session_options bpdq_session_default_options(void) { return (bpdq_session_options){.sequences = 1}; }

static bpdq_status check_options(const bpdq_model *model, const bpdq_session_options *options, bpdq_error *error) {
  if (options->sequences < 0 || options->sequences > MAX_SEQUENCES)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "a session has 1 to %d sequences, not %d", MAX_SEQUENCES, options->sequences);
  if (options->context < 0 || options->context > model->config.context_length)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "a context of %lld tokens is outside 1..%lld, what the model was made for",
                     (long long)options->context, (long long)model->config.context_length);
  if (options->kv_type != BPDQ_KV_F16 && options->kv_type != BPDQ_KV_Q8)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "unknown cache type %d", (int)options->kv_type);
  return BPDQ_OK;
}

static bpdq_status out_of_memory(bpdq_error *error) {
  return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory for a session; use a smaller context");
}

static bpdq_status create_state(bpdq_session *session, bpdq_kv_type kv_type, bpdq_error *error) {
  const bpdq_config *c = &session->model->config;
  size_t count = TENSOR_FIRST_CACHE + 2 * (size_t)c->layers;
  bpdq_tensor_desc *tensors = calloc(count, sizeof *tensors);
  if (!tensors) return out_of_memory(error);
  int64_t rows = session->max_tokens, q_width = c->heads * c->head_dim, kv_width = c->kv_heads * c->head_dim;
  tensors[TENSOR_HIDDEN] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_F32, .rows = rows, .columns = c->hidden_size};
  tensors[TENSOR_QKV] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_F32, .rows = rows, .columns = q_width + 2 * kv_width};
  tensors[TENSOR_ATTENTION] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_F32, .rows = rows, .columns = q_width};
  tensors[TENSOR_GATE_UP] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_F32, .rows = rows, .columns = 2 * c->intermediate_size};
  tensors[TENSOR_ROPE] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_F32, .rows = session->context, .columns = c->head_dim};
  tensors[TENSOR_LOGITS] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_F32, .rows = session->sequences, .columns = c->vocab_size};
  int64_t candidates = bpdq_model_candidates(session->model);
  tensors[TENSOR_BEST_VALUE] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_F32, .rows = session->sequences, .columns = 2, .result = true};
  tensors[TENSOR_BEST_ID] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_I32, .rows = session->sequences, .columns = 1, .result = true};
  tensors[TENSOR_VALUES] =
      (bpdq_tensor_desc){.kind = BPDQ_TENSOR_F32, .rows = session->sequences, .columns = candidates + 1, .result = true};
  tensors[TENSOR_IDS] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_I32, .rows = session->sequences, .columns = candidates, .result = true};
  for (size_t i = TENSOR_FIRST_CACHE; i < count; i++)
    tensors[i] = (bpdq_tensor_desc){.kind = BPDQ_TENSOR_KV,
                                    .rows = session->sequences * session->context,
                                    .columns = kv_width,
                                    .kv_type = kv_type,
                                    .head_dim = c->head_dim};
  bpdq_status status = session->model->backend->state_create(session->model->backend, tensors, count, &session->state, error);
  free(tensors);
  return status;
}

static bpdq_status write_rope_table(bpdq_session *session, bpdq_error *error) {
  const bpdq_config *c = &session->model->config;
  float *table = bpdq_alloc_array((size_t)(session->context * c->head_dim), sizeof *table);
  if (!table) return out_of_memory(error);
  bpdq_rope_table(&c->rope, c->head_dim, c->context_length, session->context, table);
  bpdq_status status = session->model->backend->tensor_write(session->state, TENSOR_ROPE, 0, session->context * c->head_dim, table, error);
  free(table);
  return status;
}

static bpdq_status allocate_host(bpdq_session *session, bpdq_error *error) {
  size_t rows = (size_t)session->max_tokens;
  session->positions = calloc((size_t)session->sequences, sizeof *session->positions);
  session->history = bpdq_alloc_array((size_t)(session->sequences * session->context), sizeof *session->history);
  session->run_positions = bpdq_alloc_array(rows, sizeof *session->run_positions);
  session->run_sequences = bpdq_alloc_array(rows, sizeof *session->run_sequences);
  session->rows = bpdq_alloc_array(rows * (size_t)session->model->config.hidden_size, sizeof *session->rows);
  bool complete = session->positions && session->history && session->run_positions && session->run_sequences && session->rows;
  return complete ? BPDQ_OK : out_of_memory(error);
}

bpdq_status bpdq_session_create(bpdq_model *model, const bpdq_session_options *options, bpdq_session **result, bpdq_error *error) {
  bpdq_session_options defaults = bpdq_session_default_options();
  if (!options) options = &defaults;
  *result = NULL;
  if (!model->backend) return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "the model was loaded without its weights");
  BPDQ_TRY(check_options(model, options, error));
  bpdq_session *session = calloc(1, sizeof *session);
  if (!session) return out_of_memory(error);
  session->model = model;
  session->context = options->context ? options->context : bpdq_default_context(model->config.context_length);
  session->sequences = options->sequences ? options->sequences : 1;
  session->wanted_candidates = bpdq_model_candidates(model);
  int64_t chunk = model->backend->prefill_tokens < session->context ? model->backend->prefill_tokens : session->context;
  session->max_tokens = chunk > session->sequences ? chunk : session->sequences;
  atomic_init(&session->cancelled, false);
  bpdq_status status = allocate_host(session, error);
  if (status == BPDQ_OK) status = create_state(session, options->kv_type, error);
  if (status == BPDQ_OK) status = write_rope_table(session, error);
  if (status != BPDQ_OK) {
    bpdq_session_free(session);
    return status;
  }
  *result = session;
  return BPDQ_OK;
}

void bpdq_session_free(bpdq_session *session) {
  if (!session) return;
  bpdq_backend *backend = session->model->backend;
  for (size_t i = 0; i < session->program_count; i++) backend->executable_destroy(backend, session->programs[i].executable);
  backend->executable_destroy(backend, session->head_executable);
  backend->state_destroy(backend, session->head_state);
  backend->state_destroy(backend, session->state);
  free(session->programs);
  free(session->positions);
  free(session->history);
  free(session->run_positions);
  free(session->run_sequences);
  free(session->rows);
  free(session->logits);
  free(session->entries);
  free(session);
}

int64_t bpdq_session_position(const bpdq_session *session) { return session->positions[0]; }
int64_t bpdq_session_context(const bpdq_session *session) { return session->context; }
void bpdq_session_cancel(bpdq_session *session) { atomic_store(&session->cancelled, true); }

bpdq_status bpdq_session_check_cancelled(bpdq_session *session, bpdq_error *error) {
  if (!atomic_exchange(&session->cancelled, false)) return BPDQ_OK;
  return bpdq_fail(error, BPDQ_ERROR_CANCELLED, "interrupted");
}

/* What was just computed, or is out of date, for the first `count` sequences. Others keep the row that their own last token left. */
static void set_logits(bpdq_session *session, int count, bool there) {
  for (int s = 0; s < count; s++) {
    session->has_logits[s] = there;
    session->fresh_candidates[s] = session->wanted_candidates;
  }
}

bpdq_status bpdq_session_check_logits(const bpdq_session *session, int sequence, bpdq_error *error) {
  if (sequence < 0 || sequence >= session->sequences)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "sequence %d is not one of the session's %d", sequence, session->sequences);
  if (session->has_logits[sequence]) return BPDQ_OK;
  return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "no logits of sequence %d yet: evaluate tokens first", sequence);
}

bpdq_status bpdq_session_rewind(bpdq_session *session, int64_t position, bpdq_error *error) {
  if (position < 0 || position > session->positions[0])
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "cannot rewind to position %lld: %lld tokens are in the cache", (long long)position,
                     (long long)session->positions[0]);
  for (int s = 0; s < session->sequences; s++)
    if (session->positions[s] > position) session->positions[s] = position;
  set_logits(session, session->sequences, false);
  if (position == 0) session->seeded = false;
  return BPDQ_OK;
}

/* The smallest power of two that holds `tokens`, so that prompts of all lengths share a few programs. */
static int64_t bucket(const bpdq_session *session, int64_t tokens) {
  int64_t size = 1;
  while (size < tokens) size *= 2;
  return size < session->max_tokens ? size : session->max_tokens;
}

static bpdq_status find_program(bpdq_session *session, int64_t tokens, model_head head, bpdq_executable **executable, bpdq_error *error) {
  int64_t max_tokens = head == HEAD_ALL ? session->sequences : bucket(session, tokens); /* the logits hold one row per sequence */
  int candidates = head == HEAD_NONE ? 0 : session->wanted_candidates;
  for (size_t i = 0; i < session->program_count; i++) {
    const session_program *program = &session->programs[i];
    if (program->max_tokens == max_tokens && program->head == head && program->candidates == candidates) {
      *executable = program->executable;
      return BPDQ_OK;
    }
  }
  session_program *grown = realloc(session->programs, (session->program_count + 1) * sizeof *grown);
  if (!grown) return out_of_memory(error);
  session->programs = grown;
  size_t count;
  bpdq_op *ops = bpdq_decoder_ops(session->model, session->context, head, candidates, &count);
  if (!ops) return out_of_memory(error);
  bpdq_program program = {ops, count, max_tokens, session->model->activations};
  bpdq_backend *backend = session->model->backend;
  bpdq_status status = backend->compile(backend, session->state, &program, executable, error);
  free(ops);
  if (status == BPDQ_OK) session->programs[session->program_count++] = (session_program){max_tokens, head, candidates, *executable};
  return status;
}

static bpdq_status check_tokens(const bpdq_session *session, const int32_t *tokens, size_t count, bpdq_error *error) {
  for (size_t i = 0; i < count; i++)
    if (tokens[i] < 0 || tokens[i] >= session->model->config.vocab_size)
      return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "token id %d at index %zu is outside the vocabulary 0..%lld", tokens[i], i,
                       (long long)session->model->config.vocab_size - 1);
  return BPDQ_OK;
}

static bpdq_status check_room(const bpdq_session *session, int sequence, size_t count, bpdq_error *error) {
  int64_t room = session->context - session->positions[sequence];
  if ((uint64_t)count <= (uint64_t)room) return BPDQ_OK;
  int64_t most = session->model->config.context_length;
  char remedy[80] = "";
  if (session->context < most) snprintf(remedy, sizeof remedy, " or use a larger context, at most %lld", (long long)most);
  return bpdq_fail(error, BPDQ_ERROR_CONTEXT_FULL, "%zu tokens do not fit: the context holds %lld%s and %lld are used; shorten the text%s",
                   count, (long long)session->context, remedy[0] ? "" : ", all that the model was made for,",
                   (long long)session->positions[sequence], remedy);
}

/* Writes the embedding rows and runs a program over `count` rows whose positions and sequences are set. */
static bpdq_status run_rows(bpdq_session *session, const int32_t *tokens, int64_t count, model_head head, bpdq_error *error) {
  bpdq_backend *backend = session->model->backend;
  int64_t hidden = session->model->config.hidden_size;
  bpdq_executable *executable;
  BPDQ_TRY(find_program(session, count, head, &executable, error));
  for (int64_t i = 0; i < count; i++) bpdq_model_embed(session->model, tokens[i], session->rows + i * hidden);
  BPDQ_TRY(backend->tensor_write(session->state, TENSOR_HIDDEN, 0, count * hidden, session->rows, error));
  bpdq_run run = {count, session->run_positions, session->run_sequences};
  return backend->run(executable, &run, error);
}

/* One chunk of sequence 0. The position moves on only when the run succeeded. */
static bpdq_status run_chunk(bpdq_session *session, const int32_t *tokens, int64_t count, model_head head, bpdq_error *error) {
  BPDQ_TRY(bpdq_session_check_cancelled(session, error));
  for (int64_t i = 0; i < count; i++) {
    session->run_positions[i] = (int32_t)(session->positions[0] + i);
    session->run_sequences[i] = 0;
  }
  BPDQ_TRY(run_rows(session, tokens, count, head, error));
  memcpy(session->history + session->positions[0], tokens, (size_t)count * sizeof *tokens);
  session->positions[0] += count;
  return BPDQ_OK;
}

bpdq_status bpdq_evaluate_batch(bpdq_session *session, const int32_t *tokens, bpdq_error *error) {
  BPDQ_TRY(check_tokens(session, tokens, (size_t)session->sequences, error));
  for (int s = 0; s < session->sequences; s++) BPDQ_TRY(check_room(session, s, 1, error));
  BPDQ_TRY(bpdq_session_check_cancelled(session, error));
  set_logits(session, session->sequences, false);
  for (int s = 0; s < session->sequences; s++) {
    session->run_positions[s] = (int32_t)session->positions[s];
    session->run_sequences[s] = s;
  }
  BPDQ_TRY(run_rows(session, tokens, session->sequences, HEAD_ALL, error));
  for (int s = 0; s < session->sequences; s++) session->history[s * session->context + session->positions[s]++] = tokens[s];
  set_logits(session, session->sequences, true);
  return BPDQ_OK;
}

static bpdq_status create_head(bpdq_session *session, bpdq_error *error) {
  if (session->head_executable) return BPDQ_OK;
  bpdq_backend *backend = session->model->backend;
  const bpdq_config *c = &session->model->config;
  bpdq_tensor_desc tensors[2] = {{.kind = BPDQ_TENSOR_F32, .rows = HEAD_ROWS, .columns = c->hidden_size},
                                 {.kind = BPDQ_TENSOR_F32, .rows = HEAD_ROWS, .columns = c->vocab_size}};
  bpdq_op ops[3];
  bpdq_program program = {ops, bpdq_decoder_head_ops(session->model, 0, 1, BPDQ_ROWS_ALL, ops), HEAD_ROWS, session->model->activations};
  if (!session->head_state) BPDQ_TRY(backend->state_create(backend, tensors, 2, &session->head_state, error));
  return backend->compile(backend, session->head_state, &program, &session->head_executable, error);
}

/* Logits of `count` rows of the residual stream, which the last run left in TENSOR_HIDDEN. */
static bpdq_status head_of_rows(bpdq_session *session, int64_t count, float *logits, bpdq_error *error) {
  bpdq_backend *backend = session->model->backend;
  int64_t hidden = session->model->config.hidden_size, vocab = session->model->config.vocab_size;
  BPDQ_TRY(create_head(session, error));
  BPDQ_TRY(backend->tensor_read(session->state, TENSOR_HIDDEN, 0, count * hidden, session->rows, error));
  for (int64_t first = 0; first < count; first += HEAD_ROWS) {
    int64_t rows = count - first < HEAD_ROWS ? count - first : HEAD_ROWS;
    bpdq_run run = {rows, session->run_positions + first, session->run_sequences + first};
    BPDQ_TRY(bpdq_session_check_cancelled(session, error));
    BPDQ_TRY(backend->tensor_write(session->head_state, 0, 0, rows * hidden, session->rows + first * hidden, error));
    BPDQ_TRY(backend->run(session->head_executable, &run, error));
    BPDQ_TRY(backend->tensor_read(session->head_state, 1, 0, rows * vocab, logits + first * vocab, error));
  }
  return BPDQ_OK;
}

/* Evaluates in chunks; `logits` [count, vocab] is NULL where only the last token's are wanted, which stay on the device. */
static bpdq_status evaluate_chunks(bpdq_session *session, const int32_t *tokens, size_t count, float *logits, bpdq_error *error) {
  if (!count) return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "no tokens to evaluate");
  BPDQ_TRY(check_tokens(session, tokens, count, error));
  BPDQ_TRY(check_room(session, 0, count, error));
  set_logits(session, 1, false);
  for (size_t done = 0; done < count;) {
    size_t left = count - done, chunk = left < (size_t)session->max_tokens ? left : (size_t)session->max_tokens;
    BPDQ_TRY(run_chunk(session, tokens + done, (int64_t)chunk, done + chunk == count ? HEAD_LAST : HEAD_NONE, error));
    if (logits) BPDQ_TRY(head_of_rows(session, (int64_t)chunk, logits + done * (size_t)session->model->config.vocab_size, error));
    done += chunk;
  }
  set_logits(session, 1, true);
  return BPDQ_OK;
}

bpdq_status bpdq_evaluate(bpdq_session *session, const int32_t *tokens, size_t count, bpdq_error *error) {
  return evaluate_chunks(session, tokens, count, NULL, error);
}

bpdq_status bpdq_evaluate_all(bpdq_session *session, const int32_t *tokens, size_t count, float *logits, bpdq_error *error) {
  return evaluate_chunks(session, tokens, count, logits, error);
}

bpdq_status bpdq_get_logits(bpdq_session *session, int sequence, float *logits, bpdq_error *error) {
  BPDQ_TRY(bpdq_session_check_logits(session, sequence, error));
  int64_t vocab = session->model->config.vocab_size;
  return session->model->backend->tensor_read(session->state, TENSOR_LOGITS, sequence * vocab, vocab, logits, error);
}
