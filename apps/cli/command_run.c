#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sampling.h"

#define DEFAULT_CONTEXT 4096

typedef struct run_flags {
  const char *prompt, *file, *ids;
  int64_t tokens;
} run_flags;

static const option options[] = {
    {'p', "prompt", OPTION_TEXT, offsetof(run_flags, prompt), "TEXT", "what to continue", 0, 0, NULL},
    {'f', "file", OPTION_TEXT, offsetof(run_flags, file), "FILE", "read the prompt from a file (- is standard input)", 0, 0, NULL},
    {0, "ids", OPTION_TEXT, offsetof(run_flags, ids), "1,2,3", "the prompt as token ids", 0, 0, NULL},
    {'n', "tokens", OPTION_INTEGER, offsetof(run_flags, tokens), "N", "most tokens to generate (default 256; 0: until the context is full)",
     0, 2147483647, NULL},
};
static const option_table table = TABLE_OF("options", options);
static const option context_options[] = {
    CLI_CONTEXT_OPTION("what the prompt and -n need (-n 0: 4096),\nat least 4096, as far as the model goes"), CLI_KV_OPTION};
static const option_table context_table = TABLE_OF("context", context_options);

/* What to continue: a text, or the ids that stand for it. */
typedef struct prompt {
  const char *text;
  size_t length;
  int32_t *ids; /* owned by bpdq_tokenize's caller, or by options_parse_ids's */
  size_t count;
} prompt;

/* The generated text: to stdout as it comes, or collected for --json with its ids. */
typedef struct printer {
  bool stream;
  json_t *ids;
  char *text;
  size_t length, capacity;
  bool line_ended; /* the last character was a newline */
  bool failed;
} printer;

static bool collect(printer *p, const char *text, size_t length) {
  if (p->length + length + 1 > p->capacity) {
    size_t capacity = 2 * (p->length + length) + 256;
    char *larger = realloc(p->text, capacity);
    if (!larger) return false;
    p->text = larger;
    p->capacity = capacity;
  }
  memcpy(p->text + p->length, text, length);
  p->length += length;
  p->text[p->length] = 0;
  return true;
}

static bool on_text(void *user, int32_t token, const char *text, size_t length) {
  printer *p = user;
  if (p->stream) {
    p->failed |= length && !cli_show(text, length);
    if (length) p->line_ended = text[length - 1] == '\n';
  } else {
    p->failed |= !collect(p, text, length) || json_array_append_new(p->ids, json_integer(token)) != 0;
  }
  return !p->failed && !console_interrupted();
}

/* Room for the prompt and what is to be generated (0: a text of any length), as far as the model goes, where --ctx does not say
 * otherwise. */
static int64_t context_for(const bpdq_model *model, size_t prompt_tokens, int64_t new_tokens) {
  bpdq_model_info info;
  bpdq_model_get_info(model, &info);
  int64_t wanted = (int64_t)prompt_tokens + (new_tokens ? new_tokens : DEFAULT_CONTEXT);
  if (wanted < DEFAULT_CONTEXT) wanted = DEFAULT_CONTEXT;
  return wanted < info.context_length ? wanted : info.context_length;
}

static int print_result(const prompt *prompt, const printer *p, const bpdq_generation *g) {
  /* The last call may hand over bytes that were held back, with an id that was there before. */
  while (json_array_size(p->ids) > g->generated_tokens) json_array_remove(p->ids, json_array_size(p->ids) - 1);
  return cli_print_json(json_pack("{so so sO sI sI sf sf sb}", "prompt", cli_json_text(prompt->text, prompt->length), "text",
                                  cli_json_text(p->text ? p->text : "", p->length), "ids", p->ids, "prompt_tokens",
                                  (json_int_t)g->prompt_tokens, "generated_tokens", (json_int_t)g->generated_tokens,
                                  "prompt_tokens_per_second", cli_rate(g->prompt_tokens, g->prompt_seconds), "decode_tokens_per_second",
                                  cli_rate(g->generated_tokens, g->decode_seconds), "end_of_text", g->end_of_text));
}

static int generate(cli_model *loaded, const model_flags *flags, const sampling_flags *sampling, const prompt *prompt, int64_t tokens) {
  bpdq_error error = {0};
  bpdq_session *session = NULL;
  bpdq_generation result = {0};
  printer out = {.stream = !flags->json, .ids = json_array()};
  bpdq_session_options options = cli_session_options(flags);
  bpdq_sampling chosen = cli_sampling(sampling);
  if (!options.context) options.context = context_for(loaded->model, prompt->count, tokens);
  bpdq_status status = bpdq_session_create(loaded->model, &options, &session, &error);
  if (status == BPDQ_OK) {
    if ((int64_t)prompt->count <= bpdq_session_context(session)) cli_log_release(&loaded->log);
    console_stop_session(session);
    status = bpdq_generate(session, prompt->ids, prompt->count, (size_t)tokens, &chosen, on_text, &out, &result, &error);
    console_stop_session(NULL);
  }
  int code;
  if (out.stream && result.generated_tokens && !out.line_ended) putchar('\n');
  fflush(stdout);
  if (out.failed)
    code = cli_fail_text("standard output: cannot be written");
  else if (status != BPDQ_OK)
    code = cli_fail(cli_name_context(loaded->model, options.context, &error));
  else
    code = flags->json ? print_result(prompt, &out, &result) : 0;
  if (code == 0 && !flags->quiet) cli_print_speed(&result);
  bpdq_session_free(session);
  json_decref(out.ids);
  free(out.text);
  return code;
}

/* The other form of the prompt; 0 or the exit code. Both forms of it are then malloc'ed by the library where the flag did not give them. */
static int complete_prompt(const bpdq_model *model, prompt *prompt, char **made_text) {
  bpdq_error error = {0};
  bpdq_status status = prompt->text ? bpdq_tokenize(model, prompt->text, prompt->length, true, &prompt->ids, &prompt->count, &error)
                                    : bpdq_detokenize(model, prompt->ids, prompt->count, false, made_text, &prompt->length, &error);
  if (!prompt->text) prompt->text = *made_text;
  if (status != BPDQ_OK) return cli_fail(&error);
  return prompt->count ? 0 : cli_fail_text("the prompt is empty: there is nothing to continue; give a text with -p or -f, or --ids");
}

static int run(const command *self, int argc, char **argv) {
  run_flags own = {.tokens = 256};
  sampling_flags sampling = sampling_flags_default();
  model_flags flags = model_flags_default();
  void *bases[] = {&own, &sampling, &flags, &flags, &flags};
  const char *words[MAX_POSITIONALS];
  int code;
  if (!options_parse(self, bases, argc, argv, words, &code)) return code;
  if (!!own.prompt + !!own.file + !!own.ids != 1) return options_wrong(self, "one of -p TEXT, -f FILE and --ids is needed");
  char *made_text = NULL;
  prompt prompt = {.text = own.prompt, .length = own.prompt ? strlen(own.prompt) : 0};
  if (own.ids && !options_parse_ids(own.ids, &prompt.ids, &prompt.count))
    return options_wrong(self, "--ids: '%.60s' is not a list of ids", own.ids);
  if (own.file && !(prompt.text = made_text = cli_read_file(own.file, &prompt.length))) return 1;
  cli_model loaded;
  code = cli_load(words[0], &flags, false, &loaded);
  if (code == 0) {
    code = complete_prompt(loaded.model, &prompt, &made_text);
    if (code == 0) code = generate(&loaded, &flags, &sampling, &prompt, own.tokens);
    cli_unload(&loaded);
  }
  free(made_text);
  free(prompt.ids);
  return code;
}

const command command_run = {
    .name = "run",
    .summary = "continue a text",
    .positionals = {"MODEL"},
    .tables = {&table, &sampling_flag_table, &context_table, &device_flag_table, &output_flag_table},
    .details = "The text is streamed to stdout, the speed of prompt and decoding goes to stderr.",
    .examples =
        "bpdq run Qwen2.5-7B-k2 -p \"It was a dark and stormy night, and the\" -n 200\n"
        "bpdq run Qwen2.5-7B-k2 -p \"The capital of France is\" -n 8 --temp 0\n"
        "bpdq run Qwen2.5-7B-k2 -f letter.txt --temp 1 --top-k 0 --min-p 0.05 --seed 7 --json",
    .run = run,
};
