/* What the commands share. */
#ifndef BPDQ_CLI_CLI_H
#define BPDQ_CLI_CLI_H

#include <jansson.h>

#include "bpdq.h"
#include "console.h"
#include "options.h"

/* ---- the commands (main.c holds the table) ---- */

extern const command command_run, command_chat, command_devices, command_info, command_tokenize, command_logits, command_eval,
    command_bench, command_bench_ops, command_completion;
#ifdef BPDQ_HAVE_QUANTIZER
extern const command command_quantize, command_quantize_layer;
#endif
extern const command *const cli_commands[];
extern const size_t cli_command_count;

/* ---- messages ---- */

/* Log lines wait until cli_log_release, so that a command that fails early says one line, the error. */
typedef struct cli_log {
  bool quiet;
  bool released;
  char *waiting; /* lines so far, or NULL */
} cli_log;
void cli_log_callback(void *user, bpdq_log_level level, const char *line); /* user: a cli_log */
void cli_log_release(cli_log *log);
void cli_log_free(cli_log *log);

/* Prints "bpdq: error: ..." and returns the exit code 1. An interrupt reads "interrupted", whatever the message is. */
int cli_fail(const bpdq_error *error);
int cli_fail_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Adds --ctx to a message about a context of `context` tokens where another one would do; other errors stay as they are. Returns
 * the error. */
const bpdq_error *cli_name_context(const bpdq_model *model, int64_t context, bpdq_error *error);

/* Writes to stdout at once; false where it cannot. Where an interrupt ends a wait for a terminal that takes nothing, the rest of the
 * text is dropped and the result is true: a second attempt would only wait again, and console_interrupted() tells the caller. */
bool cli_show(const char *text, size_t length);

/* Prints the object to stdout (indented) and frees it; 0, or the exit code where stdout cannot be written. */
int cli_print_json(json_t *object);

/* A string for JSON whatever its bytes: invalid UTF-8 becomes U+FFFD. */
json_t *cli_json_text(const char *text, size_t length);

/* ---- progress ---- */

typedef struct progress_bar {
  const char *label;
  bool enabled; /* stderr is a terminal and nobody asked for quiet */
  double started, drawn;
} progress_bar;
progress_bar progress_start(const char *label, bool quiet);
/* Draws at most ten times a second. */
void progress_show(progress_bar *bar, double fraction, const char *note);
void progress_end(progress_bar *bar); /* clears the line */
/* A bpdq_progress_callback; user: a progress_bar. Stops on an interrupt. */
bool progress_callback(void *user, double fraction);

/* ---- options that several commands share ---- */

enum { CLI_ACTIVATIONS_F32 = 1 };

typedef struct model_flags {
  const char *backend;
  int64_t device, threads;
  int activations; /* index into the choices: 0 is the default of the device, or CLI_ACTIVATIONS_F32 */
  uint64_t memory_cap;
  int kv; /* 0: f16, 1: q8 */
  int64_t context;
  const char *chat_template; /* path; an option of `chat` alone */
  bool json, quiet;
} model_flags;

/* A command lists the tables of what it uses; each fills a model_flags. */
extern const option_table device_flag_table, output_flag_table;
extern const option_table model_flag_table; /* both and the context, for the benchmarks */
/* Rows of a table of the command's own: what --ctx is by default differs, and every command with a MODEL takes --activations, also one that
 * runs none of its layers. */
#define CLI_CONTEXT_OPTION(by_default) \
  { 'c', "ctx", OPTION_INTEGER, offsetof(model_flags, context), "N", "tokens of context (default: " by_default ")", 1, 2147483647, NULL }
#define CLI_KV_OPTION \
  { 0, "kv", OPTION_CHOICE, offsetof(model_flags, kv), "f16|q8", "precision of the KV cache (default f16)", 0, 0, cli_kv_words }
#define CLI_ACTIVATIONS_OPTION(help) \
  { 0, "activations", OPTION_CHOICE, offsetof(model_flags, activations), "f32|16|8", help, 0, 0, cli_activation_words }
extern const char *const cli_backend_words[], *const cli_kv_words[], *const cli_activation_words[];

model_flags model_flags_default(void);

/* A loaded model with what its options and callbacks refer to. */
typedef struct cli_model {
  bpdq_model *model;
  char *chat_template;
  cli_log log;
} cli_model;

/* Loads with a progress bar; `text_only`: the tokenizer alone. 0, or the exit code after the error line. */
int cli_load(const char *folder, const model_flags *flags, bool text_only, cli_model *loaded);
/* The options that the flags ask for; `log` and `bar` must outlive the load. */
bpdq_model_options cli_model_options(const model_flags *flags, cli_log *log, progress_bar *bar);
void cli_unload(cli_model *loaded);
bpdq_activations cli_activations(const model_flags *flags);
bpdq_session_options cli_session_options(const model_flags *flags);

/* ---- files ---- */

/* Reads a whole file ("-": stdin) into malloc'ed memory with a NUL behind it; NULL after the error line. */
char *cli_read_file(const char *path, size_t *size);

#endif
