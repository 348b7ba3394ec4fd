#include "gsm8k_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gsm8k.h"
#include "sampling.h"

#define MAX_SHOTS 1000
#define LOOK_BACK 12 /* tokens that are searched for a stop string: the longest has ten bytes, a token has at least one */

static const option options[] = {
    {0, "task-data", OPTION_TEXT, offsetof(gsm8k_flags, questions), "FILE", "questions: JSON lines with \"question\" and \"answer\"", 0, 0,
     NULL},
    {0, "task-train", OPTION_TEXT, offsetof(gsm8k_flags, examples), "FILE", "examples, of the same form", 0, 0, NULL},
    {0, "shots", OPTION_INTEGER, offsetof(gsm8k_flags, shots), "N", "examples in front of each question (default 5)", 0, MAX_SHOTS, NULL},
    {0, "same-shots", OPTION_FLAG, offsetof(gsm8k_flags, same_shots), NULL,
     "the first N examples for every question, evaluated once,\ninstead of the harness's choice of others for each", 0, 0, NULL},
    {0, "limit", OPTION_INTEGER, offsetof(gsm8k_flags, limit), "N", "only the first N questions", 1, 2147483647, NULL},
    {0, "dump", OPTION_TEXT, offsetof(gsm8k_flags, dump), "FILE", "write a JSON line per question: prompt, generation, what was extracted",
     0, 0, NULL},
};
const option_table gsm8k_flag_table = TABLE_OF("options of --task gsm8k", options);

gsm8k_flags gsm8k_flags_default(void) { return (gsm8k_flags){.shots = -1}; }

const char *gsm8k_first_flag(const gsm8k_flags *own) {
  return own->questions    ? "--task-data"
         : own->examples   ? "--task-train"
         : own->shots >= 0 ? "--shots"
         : own->same_shots ? "--same-shots"
         : own->limit      ? "--limit"
         : own->dump       ? "--dump"
                           : NULL;
}

/* A question as the model gets it. */
typedef struct request {
  char *prompt;
  size_t length;
  int32_t *ids; /* [count], from bpdq_tokenize */
  size_t count;
} request;

typedef struct run_state {
  const gsm8k_flags *own;
  gsm8k_set questions, examples;
  gsm8k_shots shots;
  request *requests; /* [count] */
  size_t count;
  cli_model loaded;
  bpdq_session *session;
  int64_t context;
  gsm8k_scorer *scorer;
  console_output *dump;
  size_t correct[GSM8K_FILTERS], scored, cut; /* cut: prompts that lost their first tokens */
  bpdq_generation total;                      /* sums over the questions */
  progress_bar bar;
} run_state;

/* ---- one question ---- */

/* The tokens of an answer as they come. They stop where a stop string stands in the text with special tokens, which the final text leaves
 * out, as in the harness. */
typedef struct answer {
  run_state *state;
  int32_t ids[GSM8K_MAX_TOKENS];
  size_t count;
  bool stopped;
  bpdq_error error; /* of reading the tokens back */
} answer;

static bool on_token(void *user, int32_t token, const char *text, size_t length) {
  (void)text, (void)length;
  answer *a = user;
  run_state *state = a->state;
  if (a->count == GSM8K_MAX_TOKENS) return true; /* the end hands over held-back bytes once more */
  a->ids[a->count++] = token;
  size_t first = a->count > LOOK_BACK ? a->count - LOOK_BACK : 0, bytes;
  char *recent = NULL;
  bpdq_status status = bpdq_detokenize(state->loaded.model, a->ids + first, a->count - first, false, &recent, &bytes, &a->error);
  if (status == BPDQ_OK) a->stopped = gsm8k_before_stop(recent, bytes) < bytes;
  bpdq_free(recent);
  double questions = (double)state->scored + (double)a->count / GSM8K_MAX_TOKENS;
  char note[64];
  snprintf(note, sizeof note, "%zu of %zu right", state->correct[GSM8K_FLEXIBLE], state->scored);
  progress_show(&state->bar, questions / (double)state->count, note);
  return status == BPDQ_OK && !a->stopped && !console_interrupted();
}

/* Tokens at the front that two requests share; one of `next` is left to be evaluated. */
static size_t shared_tokens(const request *before, const request *next) {
  size_t shared = 0;
  while (shared < before->count && shared + 1 < next->count && before->ids[shared] == next->ids[shared]) shared++;
  return shared;
}

/* Generates the answer to request `index`, cut at its stop string; *text is freed with bpdq_free. */
static bpdq_status generate(run_state *state, size_t index, char **text, size_t *length, bpdq_error *error) {
  const request *r = &state->requests[index];
  size_t shared = index ? shared_tokens(r - 1, r) : 0;
  bpdq_sampling greedy = bpdq_sampling_default();
  greedy.temperature = 0;
  answer a = {.state = state};
  bpdq_generation result = {0};
  bpdq_status status = bpdq_session_rewind(state->session, (int64_t)shared, error);
  if (status != BPDQ_OK) return status;
  console_stop_session(state->session);
  status = bpdq_generate(state->session, r->ids + shared, r->count - shared, GSM8K_MAX_TOKENS, &greedy, on_token, &a, &result, error);
  console_stop_session(NULL);
  if (a.stopped && !console_interrupted()) status = BPDQ_OK;
  if (a.error.status != BPDQ_OK) *error = a.error;
  if (status != BPDQ_OK) return error->status;
  state->total.prompt_tokens += result.prompt_tokens;
  state->total.prompt_seconds += result.prompt_seconds;
  state->total.generated_tokens += result.generated_tokens;
  state->total.decode_seconds += result.decode_seconds;
  size_t generated = result.generated_tokens - result.end_of_text;
  if (a.count > generated) a.count = generated; /* an id that came again with held-back bytes */
  status = bpdq_detokenize(state->loaded.model, a.ids, a.count, true, text, length, error);
  if (status == BPDQ_OK) *length = gsm8k_before_stop(*text, *length);
  return status;
}

static json_t *filter_facts(const gsm8k_score *score, int filter) {
  return json_pack("{ss sb}", "extracted", score->extracted[filter], "correct", score->correct[filter]);
}

static bpdq_status dump_question(run_state *state, size_t index, const char *text, size_t length, const gsm8k_score *score,
                                 bpdq_error *error) {
  const request *r = &state->requests[index];
  const gsm8k_item *item = &state->questions.items[index];
  json_t *object = json_pack("{sI so ss so so so}", "line", (json_int_t)item->line, "prompt", cli_json_text(r->prompt, r->length), "answer",
                             item->answer, "generation", cli_json_text(text, length), gsm8k_filter_names[GSM8K_STRICT],
                             filter_facts(score, GSM8K_STRICT), gsm8k_filter_names[GSM8K_FLEXIBLE], filter_facts(score, GSM8K_FLEXIBLE));
  char *line = object ? json_dumps(object, JSON_COMPACT) : NULL;
  json_decref(object);
  snprintf(error->message, sizeof error->message, "%s: out of memory", state->own->dump);
  bool written = line && console_output_write(state->dump, line, strlen(line), error->message, sizeof error->message) &&
                 console_output_write(state->dump, "\n", 1, error->message, sizeof error->message);
  free(line);
  return written ? BPDQ_OK : (error->status = BPDQ_ERROR_IO);
}

static bpdq_status answer_question(run_state *state, size_t index, bpdq_error *error) {
  char *text = NULL;
  size_t length;
  bpdq_status status = generate(state, index, &text, &length, error);
  if (status != BPDQ_OK) return status;
  const gsm8k_item *item = &state->questions.items[index];
  gsm8k_score score;
  if (!gsm8k_score_answer(state->scorer, text, length, item->answer, &score)) {
    status = error->status = BPDQ_ERROR_MEMORY;
    snprintf(error->message, sizeof error->message, "%s:%zu: too long to be scored, or out of memory", state->own->questions, item->line);
  }
  for (int filter = 0; filter < GSM8K_FILTERS; filter++) state->correct[filter] += score.correct[filter];
  state->scored++;
  if (status == BPDQ_OK && state->dump) status = dump_question(state, index, text, length, &score, error);
  gsm8k_score_free(&score);
  bpdq_free(text);
  return status;
}

/* ---- all questions ---- */

/* Reads and parses one file; 0 or the exit code. */
static int read_set(const char *path, gsm8k_set *set) {
  size_t length;
  char *text = cli_read_file(path, &length);
  if (!text) return 1;
  bpdq_error error = {0};
  bpdq_status status = gsm8k_parse(path, text, length, set, &error);
  free(text);
  return status == BPDQ_OK ? 0 : cli_fail_text("%s", error.message);
}

static int read_files(run_state *state) {
  const gsm8k_flags *own = state->own;
  uint32_t shots = own->shots < 0 ? GSM8K_SHOTS : (uint32_t)own->shots;
  int code = read_set(own->questions, &state->questions);
  if (code == 0 && shots) code = read_set(own->examples, &state->examples);
  if (code) return code;
  if (state->examples.count < shots)
    return cli_fail_text("%s: %zu examples, fewer than --shots %u", own->examples, state->examples.count, (unsigned)shots);
  state->count = state->questions.count;
  if (own->limit && (size_t)own->limit < state->count) state->count = (size_t)own->limit;
  state->requests = calloc(state->count, sizeof *state->requests);
  state->scorer = gsm8k_scorer_create();
  bool ready = gsm8k_shots_start(&state->shots, (uint32_t)state->examples.count, shots, own->same_shots);
  return ready && state->requests && state->scorer ? 0 : cli_fail_text("out of memory for %zu questions", state->count);
}

/* A prompt that leaves no room for the answer loses its first tokens, as in the harness. */
static void cut_front(run_state *state, request *r) {
  size_t room = (size_t)state->context - GSM8K_MAX_TOKENS;
  if (r->count <= room) return;
  memmove(r->ids, r->ids + (r->count - room), room * sizeof *r->ids);
  r->count = room;
  state->cut++;
}

/* Prompts and their tokens, all before the first is answered, so that one that does not fit is known at once. */
static int prepare_requests(run_state *state, bool can_grow, size_t *longest) {
  if (state->context <= GSM8K_MAX_TOKENS)
    return cli_fail_text("a context of %lld tokens has no room for a prompt and %d tokens of an answer%s", (long long)state->context,
                         GSM8K_MAX_TOKENS, can_grow ? "; use a larger --ctx" : "");
  for (size_t i = 0; i < state->count; i++) {
    bpdq_error error = {0};
    request *r = &state->requests[i];
    size_t line = state->questions.items[i].line;
    gsm8k_shots_next(&state->shots);
    r->prompt = gsm8k_prompt(&state->examples, &state->shots, &state->questions.items[i], &r->length);
    if (!r->prompt)
      return cli_fail_text("%s:%zu: the prompt with its examples is larger than 64 MiB, or memory is exhausted", state->own->questions,
                           line);
    if (bpdq_tokenize(state->loaded.model, r->prompt, r->length, true, &r->ids, &r->count, &error) != BPDQ_OK) return cli_fail(&error);
    if (console_interrupted()) return cli_fail(&error);
    if ((int64_t)r->count > state->context)
      return cli_fail_text("%s:%zu: the prompt's %zu tokens do not fit into the context of %lld; use %s", state->own->questions, line,
                           r->count, (long long)state->context, can_grow ? "a larger --ctx" : "fewer --shots");
    cut_front(state, r);
    if (r->count > *longest) *longest = r->count;
  }
  return 0;
}

static int print_scores(const run_state *state, bool json) {
  double share[GSM8K_FILTERS], deviation[GSM8K_FILTERS];
  const bpdq_generation *g = &state->total;
  double prompt_rate = cli_rate(g->prompt_tokens, g->prompt_seconds), decode_rate = cli_rate(g->generated_tokens, g->decode_seconds);
  for (int filter = 0; filter < GSM8K_FILTERS; filter++) {
    share[filter] = (double)state->correct[filter] / (double)state->scored;
    deviation[filter] = gsm8k_standard_error(state->correct[filter], state->scored);
  }
  if (json) {
    json_t *object = json_pack("{ss sI sI sI}", "task", "gsm8k", "shots", (json_int_t)state->shots.count, "questions",
                               (json_int_t)state->scored, "cut_prompts", (json_int_t)state->cut);
    for (int filter = 0; filter < GSM8K_FILTERS && object; filter++) {
      char name[64];
      snprintf(name, sizeof name, "%s_stderr", gsm8k_filter_names[filter]);
      json_object_set_new(object, gsm8k_filter_names[filter], json_real(share[filter]));
      json_object_set_new(object, name, isnan(deviation[filter]) ? json_null() : json_real(deviation[filter]));
    }
    json_t *speed =
        json_pack("{sI sI sf sf}", "prompt_tokens", (json_int_t)g->prompt_tokens, "generated_tokens", (json_int_t)g->generated_tokens,
                  "prompt_tokens_per_second", prompt_rate, "decode_tokens_per_second", decode_rate);
    json_object_update(object, speed);
    json_decref(speed);
    return cli_print_json(object);
  }
  static const char *const labels[GSM8K_FILTERS] = {"strict match", "flexible extract"};
  for (int filter = 0; filter < GSM8K_FILTERS; filter++) {
    printf("%-16s %.4f", labels[filter], share[filter]);
    if (!isnan(deviation[filter])) printf(" +- %.4f", deviation[filter]);
    putchar('\n');
  }
  printf("questions        %zu, each after %u examples\n", state->scored, (unsigned)state->shots.count);
  if (state->cut) printf("cut prompts      %zu: their first tokens left out, so that %d can be generated\n", state->cut, GSM8K_MAX_TOKENS);
  printf("tokens/s         %.1f prompt, %.1f decode\n", prompt_rate, decode_rate);
  return 0;
}

/* The model is loaded: asks, scores, prints. */
static int answer_all(run_state *state, const model_flags *flags) {
  bpdq_model_info info;
  bpdq_error error = {0};
  size_t longest = 0;
  bpdq_model_get_info(state->loaded.model, &info);
  state->context = flags->context ? flags->context : info.context_length;
  int code = prepare_requests(state, flags->context && flags->context < info.context_length, &longest);
  if (code) return code;
  bpdq_session_options session_options = cli_session_options(flags);
  if (!flags->context) session_options.context = (int64_t)longest + GSM8K_MAX_TOKENS;
  if (bpdq_session_create(state->loaded.model, &session_options, &state->session, &error) != BPDQ_OK)
    return cli_fail(cli_name_context(state->loaded.model, session_options.context, &error));
  char message[512];
  if (state->own->dump && !(state->dump = console_output_open(state->own->dump, message, sizeof message)))
    return cli_fail_text("%s", message);
  state->bar = progress_start("answering", flags->quiet);
  bpdq_status status = BPDQ_OK;
  for (size_t i = 0; i < state->count && status == BPDQ_OK; i++) status = answer_question(state, i, &error);
  progress_end(&state->bar);
  if (status != BPDQ_OK) return cli_fail_text("%s", error.message);
  console_output *dump = state->dump;
  state->dump = NULL; /* committing frees it */
  if (dump && !console_output_commit(dump, message, sizeof message)) return cli_fail_text("%s", message);
  cli_log_release(&state->loaded.log);
  return print_scores(state, flags->json);
}

static void release(run_state *state) {
  console_output_discard(state->dump);
  bpdq_session_free(state->session);
  for (size_t i = 0; i < state->count && state->requests; i++) {
    free(state->requests[i].prompt);
    bpdq_free(state->requests[i].ids);
  }
  free(state->requests);
  gsm8k_scorer_free(state->scorer);
  gsm8k_shots_free(&state->shots);
  gsm8k_set_free(&state->questions);
  gsm8k_set_free(&state->examples);
  cli_unload(&state->loaded);
}

int gsm8k_run(const command *self, const char *folder, const gsm8k_flags *own, const model_flags *flags) {
  if (!own->questions) return options_wrong(self, "--task gsm8k: --task-data FILE is missing");
  if (!own->examples && own->shots) return options_wrong(self, "--task gsm8k: --task-train FILE is missing (or --shots 0)");
  run_state state = {.own = own};
  int code = read_files(&state);
  if (code == 0) code = cli_load(folder, flags, false, &state.loaded);
  if (code == 0) code = answer_all(&state, flags);
  release(&state);
  return code;
}
