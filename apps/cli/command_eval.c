#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gsm8k_run.h"
#include "score.h"

#define DEFAULT_WINDOW 1024
#define CHUNK_BYTES ((size_t)256 << 20) /* of logits that are held at a time, per model */

typedef struct eval_flags {
  const char *text, *against;
  int64_t every; /* 0: not given */
  int task;      /* -1: none, else an index into task_words */
  bool step_by_step;
} eval_flags;

static const char *const task_words[] = {"gsm8k", NULL};

static const option options[] = {
    {0, "text", OPTION_TEXT, offsetof(eval_flags, text), "FILE", "text to predict (- is standard input)", 0, 0, NULL},
    {0, "against", OPTION_TEXT, offsetof(eval_flags, against), "DENSE",
     "also compare with this model: KL(dense || model) and top-1 agreement", 0, 0, NULL},
    {0, "step-by-step", OPTION_FLAG, offsetof(eval_flags, step_by_step), NULL,
     "evaluate one token at a time, with the kernels of a generation", 0, 0, NULL},
    {0, "every", OPTION_INTEGER, offsetof(eval_flags, every), "N", "evaluate every N-th window (default 1: all)", 1, 2147483647, NULL},
    {0, "task", OPTION_CHOICE, offsetof(eval_flags, task), "NAME", "answer the questions of a task instead: gsm8k", 0, 0, task_words},
};
static const option_table table = TABLE_OF("options", options);
static const option context_options[] = {
    CLI_CONTEXT_OPTION("1024, with --task the longest prompt\nand 256 tokens for its answer; at most the model's"), CLI_KV_OPTION};
static const option_table context_table = TABLE_OF("context", context_options);

typedef struct side { /* one of the two models */
  cli_model loaded;
  bpdq_session *session;
  float *logits; /* [chunk, vocab] */
} side;

typedef struct evaluation {
  side model, dense; /* dense.session is NULL without --against */
  int64_t vocab, window;
  size_t chunk;      /* tokens evaluated at a time */
  bool step_by_step; /* one token to a run of the model */
  double nll, kl;
  int64_t tokens, agreed;
  progress_bar bar;
  double fraction;
} evaluation;

/* `whose`: "the model" or "the --against model". */
static bpdq_status check_finite(const evaluation *e, const float *logits, const char *whose, bpdq_error *error) {
  if (score_finite(logits, e->vocab)) return BPDQ_OK;
  error->status = BPDQ_ERROR_INTERNAL;
  snprintf(error->message, sizeof error->message, "%s's logits are not finite numbers; try --backend cpu or --activations f32", whose);
  return error->status;
}

/* Scores `rows` predictions of one chunk: row i predicts next[i]. */
static bpdq_status score_chunk(evaluation *e, const int32_t *next, size_t rows, bpdq_error *error) {
  for (size_t i = 0; i < rows; i++) {
    const float *logits = e->model.logits + i * (size_t)e->vocab;
    if (check_finite(e, logits, "the model", error) != BPDQ_OK) return error->status;
    double lse = score_log_sum_exp(logits, e->vocab);
    e->nll += lse - (double)logits[next[i]];
    e->tokens++;
    if (!e->dense.session) continue;
    const float *dense = e->dense.logits + i * (size_t)e->vocab;
    if (check_finite(e, dense, "the --against model", error) != BPDQ_OK) return error->status;
    e->kl += score_kl(dense, score_log_sum_exp(dense, e->vocab), logits, lse, e->vocab);
    e->agreed += score_argmax(dense, e->vocab) == score_argmax(logits, e->vocab);
  }
  return BPDQ_OK;
}

/* As a generation does: the kernels of one token, not those of a prefill. */
static bpdq_status evaluate_steps(side *s, const int32_t *ids, size_t rows, int64_t vocab, bpdq_error *error) {
  bpdq_status status = BPDQ_OK;
  for (size_t i = 0; i < rows && status == BPDQ_OK; i++) {
    status = bpdq_evaluate(s->session, ids + i, 1, error);
    if (status == BPDQ_OK) status = bpdq_get_logits(s->session, 0, s->logits + i * (size_t)vocab, error);
  }
  return status;
}

static bpdq_status evaluate_side(const evaluation *e, side *s, const int32_t *ids, size_t rows, bpdq_error *error) {
  console_stop_session(s->session);
  bpdq_status status =
      e->step_by_step ? evaluate_steps(s, ids, rows, e->vocab, error) : bpdq_evaluate_all(s->session, ids, rows, s->logits, error);
  console_stop_session(NULL);
  return status;
}

/* A window of `length` tokens: the first length - 1 are evaluated, positions 1 .. length - 1 are scored. */
static bpdq_status score_window(evaluation *e, const int32_t *ids, size_t length, bpdq_error *error) {
  bpdq_status status = bpdq_session_rewind(e->model.session, 0, error);
  if (status == BPDQ_OK && e->dense.session) status = bpdq_session_rewind(e->dense.session, 0, error);
  for (size_t done = 0; done + 1 < length && status == BPDQ_OK;) {
    size_t left = length - 1 - done, rows = left < e->chunk ? left : e->chunk;
    status = evaluate_side(e, &e->model, ids + done, rows, error);
    if (status == BPDQ_OK && e->dense.session) status = evaluate_side(e, &e->dense, ids + done, rows, error);
    if (status == BPDQ_OK) status = score_chunk(e, ids + done + 1, rows, error);
    if (status == BPDQ_OK && console_interrupted()) status = error->status = BPDQ_ERROR_CANCELLED;
    done += rows;
  }
  return status;
}

/* Full windows; a text shorter than one is a window of its own. The rest behind the last full window is left out, so that every scored
 * position has the context that its index says. */
static bpdq_status score_text(evaluation *e, const int32_t *ids, size_t count, int64_t every, bpdq_error *error) {
  size_t window = (size_t)e->window, index = 0;
  if (count < window) window = count;
  for (size_t first = 0; first + window <= count; first += window, index++) {
    if (index % (size_t)every) continue;
    char note[64];
    bpdq_status status = score_window(e, ids + first, window, error);
    if (status != BPDQ_OK) return status;
    snprintf(note, sizeof note, "perplexity %.3f", exp(e->nll / (double)e->tokens));
    progress_show(&e->bar, (double)(first + window) / (double)count, note);
  }
  return BPDQ_OK;
}

/* Session and buffer of one side; 0 or the exit code. */
static int prepare(evaluation *e, side *s, const model_flags *flags) {
  bpdq_error error = {0};
  bpdq_session_options session_options = cli_session_options(flags);
  session_options.context = e->window;
  if (bpdq_session_create(s->loaded.model, &session_options, &s->session, &error) != BPDQ_OK)
    return cli_fail(cli_name_context(s->loaded.model, e->window, &error));
  s->logits = malloc(e->chunk * (size_t)e->vocab * sizeof *s->logits);
  return s->logits ? 0 : cli_fail_text("out of memory for %zu rows of logits", e->chunk);
}

static void release(side *s) {
  bpdq_session_free(s->session);
  free(s->logits);
  cli_unload(&s->loaded);
}

static int print_scores(const evaluation *e, bool json) {
  double ppl = exp(e->nll / (double)e->tokens), kl = e->kl / (double)e->tokens, top1 = (double)e->agreed / (double)e->tokens;
  if (json) {
    json_t *object = json_pack("{sf sI sI}", "ppl", ppl, "tokens", (json_int_t)e->tokens, "ctx", (json_int_t)e->window);
    if (e->dense.session) {
      json_object_set_new(object, "kl", json_real(kl));
      json_object_set_new(object, "top1", json_real(top1));
    }
    return cli_print_json(object);
  }
  printf("perplexity       %.4f\n", ppl);
  if (e->dense.session) printf("KL(dense||model) %.5f\ntop-1 agreement  %.4f\n", kl, top1);
  printf("tokens           %lld\n", (long long)e->tokens);
  return 0;
}

/* The models, tokens and sessions are there: evaluates and prints. */
static int evaluate(evaluation *e, const eval_flags *own, const model_flags *flags, const char *text, size_t length) {
  bpdq_error error = {0};
  int32_t *ids = NULL;
  size_t count = 0;
  if (bpdq_tokenize(e->model.loaded.model, text, length, true, &ids, &count, &error) != BPDQ_OK) return cli_fail(&error);
  int code = 0;
  if (count < 2) {
    code = cli_fail_text("%s: %zu tokens; at least 2 are needed to score one", own->text, count);
  } else {
    e->bar = progress_start("evaluating", flags->quiet);
    bpdq_status status = score_text(e, ids, count, own->every, &error);
    progress_end(&e->bar);
    if (status == BPDQ_OK) cli_log_release(&e->model.loaded.log);
    code = status == BPDQ_OK ? print_scores(e, flags->json) : cli_fail(&error);
  }
  bpdq_free(ids);
  return code;
}

/* Both models must have the same vocabulary. */
static int check_pair(const evaluation *e, const char *model, const char *dense) {
  bpdq_model_info info;
  bpdq_model_get_info(e->dense.loaded.model, &info);
  if (info.vocab_size == e->vocab) return 0;
  return cli_fail_text("%s has a vocabulary of %lld tokens, %s of %lld: they cannot be compared", model, (long long)e->vocab, dense,
                       (long long)info.vocab_size);
}

static int run(const command *self, int argc, char **argv) {
  eval_flags own = {.task = -1};
  gsm8k_flags task = gsm8k_flags_default();
  model_flags flags = model_flags_default();
  void *bases[] = {&own, &task, &flags, &flags, &flags};
  const char *words[MAX_POSITIONALS];
  int code;
  if (!options_parse(self, bases, argc, argv, words, &code)) return code;
  if (own.task >= 0 && (own.text || own.against || own.every))
    return options_wrong(self, "--task goes with neither --text nor --against nor --every");
  if (own.task >= 0) return gsm8k_run(self, words[0], &task, &flags);
  if (gsm8k_first_flag(&task)) return options_wrong(self, "%s needs --task gsm8k", gsm8k_first_flag(&task));
  if (!own.text) return options_wrong(self, "--text FILE is missing");
  if (!own.every) own.every = 1;
  if (flags.context == 1) return options_wrong(self, "--ctx: a window needs at least 2 tokens");
  size_t length;
  char *text = cli_read_file(own.text, &length);
  if (!text) return 1;
  evaluation e = {.step_by_step = own.step_by_step};
  code = cli_load(words[0], &flags, false, &e.model.loaded);
  model_flags dense_flags = flags;
  dense_flags.activations = CLI_ACTIVATIONS_F32; /* so that a model against itself tells what its activations cost */
  if (code == 0 && own.against) code = cli_load(own.against, &dense_flags, false, &e.dense.loaded);
  if (code == 0) {
    bpdq_model_info info;
    bpdq_model_get_info(e.model.loaded.model, &info);
    e.vocab = info.vocab_size;
    e.window = flags.context ? flags.context : info.context_length < DEFAULT_WINDOW ? info.context_length : DEFAULT_WINDOW;
    e.chunk = CHUNK_BYTES / (sizeof(float) * (size_t)e.vocab);
    if (e.chunk < 1) e.chunk = 1;
    if (e.chunk > (size_t)e.window) e.chunk = (size_t)e.window;
    if (own.against) code = check_pair(&e, words[0], own.against);
    if (code == 0) code = prepare(&e, &e.model, &flags);
    if (code == 0 && own.against) code = prepare(&e, &e.dense, &flags);
    if (code == 0) code = evaluate(&e, &own, &flags, text, length);
  }
  release(&e.model);
  release(&e.dense);
  free(text);
  return code;
}

const command command_eval = {
    .name = "eval",
    .summary = "perplexity on a text, KL to a dense model, or answers to the questions of a task",
    .positionals = {"MODEL"},
    .tables = {&table, &gsm8k_flag_table, &context_table, &device_flag_table, &output_flag_table},
    .details =
        "The file is tokenized as a whole and cut into windows of --ctx tokens (default 1024) that do not overlap; positions 1 to\n"
        "ctx-1 of each are scored; a text shorter than a window is scored as it is. The DENSE\n"
        "model's activations are f32 whatever --activations says. JSON keys: ppl, tokens (scored), ctx, and with "
        "--against kl and top1.\n\n"
        "--task gsm8k scores exact match of grade-school arithmetic as lm-evaluation-harness does: its prompts, its choice of examples for "
        "the\n"
        "same file of them, greedy answers of at most 256 tokens without a chat template, and its two readings of an answer. strict_match\n"
        "takes the number behind ####, flexible_extract the last number. A prompt that leaves no room for 256 tokens loses its first "
        "tokens.\n"
        "JSON keys: task, shots, questions, cut_prompts, strict_match, strict_match_stderr, flexible_extract, flexible_extract_stderr,\n"
        "prompt_tokens, generated_tokens, prompt_tokens_per_second, decode_tokens_per_second.",
    .examples =
        "bpdq eval Qwen2.5-7B-k2 --text wikitext2-test.txt\n"
        "bpdq eval Qwen2.5-7B-k2 --text wikitext2-test.txt --against Qwen2.5-7B --every 8 --json\n"
        "bpdq eval Qwen2.5-7B-k2 --task gsm8k --shots 5 --task-data gsm8k-test.jsonl --task-train gsm8k-train.jsonl --limit 200",
    .run = run,
};
