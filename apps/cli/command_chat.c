#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conversation.h"
#include "line.h"
#include "sampling.h"

typedef struct chat_flags {
  const char *system, *chat_template;
  int64_t tokens;
} chat_flags;

static const option options[] = {
    {0, "system", OPTION_TEXT, offsetof(chat_flags, system), "TEXT", "system message", 0, 0, NULL},
    {0, "chat-template", OPTION_TEXT, offsetof(chat_flags, chat_template), "FILE", "Jinja file instead of the model's chat template", 0, 0,
     NULL},
    {'n', "tokens", OPTION_INTEGER, offsetof(chat_flags, tokens), "N", "most tokens of an answer (default 0: until the context is full)", 0,
     2147483647, NULL},
};
static const option_table table = TABLE_OF("options", options);
static const option context_options[] = {CLI_CONTEXT_OPTION("the model's, at most 4096"), CLI_KV_OPTION};
static const option_table context_table = TABLE_OF("context", context_options);

typedef struct chat {
  conversation talk;
  line_reader *reader;
  bpdq_sampling sampling;
  size_t max_tokens;
  bool json, quiet;
} chat;

typedef enum next_step { NEXT_LINE, NEXT_LEAVE, NEXT_FAIL } next_step;

static void print_commands(void) {
  fprintf(stderr, "/reset  forget the conversation\n/exit   leave (also Ctrl-D)\nCtrl-C  stop an answer\n");
}

static bpdq_status answer_last(chat *c, bpdq_error *error) {
  int32_t *ids = NULL;
  size_t count, length;
  int dropped;
  char *text = NULL;
  bpdq_generation result = {0};
  bpdq_status status = conversation_tokens(&c->talk, &ids, &count, &dropped, error);
  if (status == BPDQ_OK) {
    if (dropped && !c->quiet) fprintf(stderr, "bpdq: the context is full: the oldest %d turns are forgotten\n", dropped);
    status = conversation_answer(&c->talk, ids, count, c->max_tokens, &c->sampling, !c->json, &text, &length, &result, error);
    bool stopped = status == BPDQ_ERROR_CANCELLED; /* what was said before counts */
    if ((status == BPDQ_OK || stopped) && !conversation_add(&c->talk, "assistant", text ? text : "", length)) {
      status = error->status = BPDQ_ERROR_MEMORY;
      snprintf(error->message, sizeof error->message, "out of memory for the conversation");
    }
    if (!c->json && (text || status == BPDQ_OK)) cli_show("\n", 1);
    if (status == BPDQ_OK && !c->quiet && line_is_interactive(c->reader)) cli_print_speed(&result);
  }
  free(text);
  bpdq_free(ids);
  return status;
}

static next_step handle_line(chat *c, const char *line, bpdq_error *error) {
  if (line[0] == 0) return NEXT_LINE;
  if (strcmp(line, "/exit") == 0 || strcmp(line, "/quit") == 0) return NEXT_LEAVE;
  if (line[0] == '/' && strcmp(line, "/reset") != 0) {
    print_commands();
    return NEXT_LINE;
  }
  if (line[0] == '/') {
    conversation_clear(&c->talk, true);
    return NEXT_LINE;
  }
  if (!conversation_add(&c->talk, "user", line, strlen(line))) return NEXT_FAIL;
  bpdq_status status = answer_last(c, error);
  if (status == BPDQ_OK) return NEXT_LINE;
  if (status == BPDQ_ERROR_CANCELLED && line_is_interactive(c->reader)) { /* Ctrl-C stops the answer, not the program */
    console_clear_interrupt();
    return NEXT_LINE;
  }
  if (status == BPDQ_ERROR_CONTEXT_FULL && line_is_interactive(c->reader)) { /* one message alone does not fit */
    fprintf(stderr, "bpdq: %s\n", cli_name_context(c->talk.model, bpdq_session_context(c->talk.session), error)->message);
    conversation_drop_last(&c->talk);
    return NEXT_LINE;
  }
  return NEXT_FAIL;
}

static int print_conversation(const conversation *talk) {
  json_t *messages = json_array();
  for (size_t i = 0; i < talk->count; i++)
    json_array_append_new(messages, json_pack("{ss so}", "role", talk->messages[i].role, "content",
                                              cli_json_text(talk->messages[i].content, strlen(talk->messages[i].content))));
  return cli_print_json(json_pack("{so sI}", "messages", messages, "forgotten_messages", (json_int_t)talk->forgotten));
}

static int converse(chat *c) {
  bpdq_error error = {.status = BPDQ_ERROR_MEMORY, .message = "out of memory for the conversation"};
  for (;;) {
    const char *line = line_read(c->reader);
    if (!line && console_interrupted()) {
      if (!line_is_interactive(c->reader)) return cli_fail(&error);
      console_clear_interrupt();
      fprintf(stderr, "\n(Ctrl-D or /exit leaves)\n");
      continue;
    }
    if (!line) {
      if (ferror(stdin)) return cli_fail_text("standard input: %s", strerror(errno));
      if (line_is_interactive(c->reader)) putchar('\n');
      break;
    }
    next_step step = handle_line(c, line, &error);
    if (step == NEXT_FAIL) return cli_fail(cli_name_context(c->talk.model, bpdq_session_context(c->talk.session), &error));
    if (step == NEXT_LEAVE) break;
  }
  return c->json ? print_conversation(&c->talk) : 0;
}

/* Says at once what is wrong with the model's template instead of after the first line. */
static bpdq_status check_template(const bpdq_model *model, bpdq_error *error) {
  bpdq_chat_message hello = {"user", "Hello"};
  char *text = NULL;
  bpdq_status status = bpdq_apply_chat_template(model, &hello, 1, true, &text, error);
  bpdq_free(text);
  return status;
}

static int start(cli_model *loaded, const model_flags *flags, const chat_flags *own, const sampling_flags *sampling) {
  bpdq_error error = {0};
  chat c = {.sampling = cli_sampling(sampling), .max_tokens = (size_t)own->tokens, .json = flags->json, .quiet = flags->quiet};
  c.talk.model = loaded->model;
  bpdq_session_options session_options = cli_session_options(flags);
  if (check_template(loaded->model, &error) != BPDQ_OK) return cli_fail(&error);
  if (bpdq_session_create(loaded->model, &session_options, &c.talk.session, &error) != BPDQ_OK)
    return cli_fail(cli_name_context(loaded->model, session_options.context, &error));
  cli_log_release(&loaded->log);
  int code = 1;
  c.reader = line_open("> ");
  bool ready = c.reader && (!own->system || conversation_add(&c.talk, "system", own->system, strlen(own->system)));
  if (!ready) cli_fail_text("out of memory");
  if (ready && line_is_interactive(c.reader) && !c.quiet) fprintf(stderr, "/help lists what can be typed besides messages\n");
  if (ready) code = converse(&c);
  line_close(c.reader);
  bpdq_session_free(c.talk.session);
  conversation_free(&c.talk);
  return code;
}

static int run(const command *self, int argc, char **argv) {
  chat_flags own = {0};
  sampling_flags sampling = sampling_flags_default();
  model_flags flags = model_flags_default();
  void *bases[] = {&own, &sampling, &flags, &flags, &flags};
  const char *words[MAX_POSITIONALS];
  int code;
  if (!options_parse(self, bases, argc, argv, words, &code)) return code;
  flags.chat_template = own.chat_template;
  cli_model loaded;
  code = cli_load(words[0], &flags, false, &loaded);
  if (code != 0) return code;
  code = start(&loaded, &flags, &own, &sampling);
  cli_unload(&loaded);
  return code;
}

const command command_chat = {
    .name = "chat",
    .summary = "talk with a model",
    .positionals = {"MODEL"},
    .tables = {&table, &sampling_flag_table, &context_table, &device_flag_table, &output_flag_table},
    .details =
        "Lines are messages, edited with the arrow keys and kept in a history; /reset forgets the conversation, /exit or Ctrl-D leaves,\n"
        "/help lists these, and Ctrl-C stops an answer. Where stdin is no terminal, each of its lines is a message. Once the context is\n"
        "full, the oldest turns are forgotten. With --json the conversation is printed at its end: the messages that are left and, as\n"
        "forgotten_messages, how many are not.",
    .examples =
        "bpdq chat Qwen2.5-7B-k2\n"
        "bpdq chat Qwen2.5-7B-k2 --system \"Answer in one sentence.\" --temp 0.3\n"
        "echo \"Name three rivers.\" | bpdq chat Qwen2.5-7B-k2 --quiet",
    .run = run,
};
