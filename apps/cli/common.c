#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define MAX_TEXT_BYTES ((size_t)1 << 31)

/* ---- messages ---- */

static void print_log_line(bpdq_log_level level, const char *line) {
  fprintf(stderr, "bpdq: %s%s\n", level == BPDQ_LOG_WARNING ? "warning: " : "", line);
}

void cli_log_callback(void *user, bpdq_log_level level, const char *line) {
  cli_log *log = user;
  if (log->quiet && level == BPDQ_LOG_INFO) return;
  if (log->released) {
    print_log_line(level, line);
    return;
  }
  size_t used = log->waiting ? strlen(log->waiting) : 0, room = strlen(line) + 3;
  char *longer = realloc(log->waiting, used + room);
  if (!longer) return;
  snprintf(longer + used, room, "%c%s\n", level == BPDQ_LOG_WARNING ? 'w' : 'i', line);
  log->waiting = longer;
}

void cli_log_release(cli_log *log) {
  log->released = true;
  for (char *line = log->waiting; line && *line;) {
    char *end = strchr(line, '\n');
    *end = 0;
    print_log_line(line[0] == 'w' ? BPDQ_LOG_WARNING : BPDQ_LOG_INFO, line + 1);
    line = end + 1;
  }
  free(log->waiting);
  log->waiting = NULL;
}

void cli_log_free(cli_log *log) {
  free(log->waiting);
  log->waiting = NULL;
}

int cli_fail(const bpdq_error *error) {
  bool interrupted = error->status == BPDQ_ERROR_CANCELLED || console_interrupted();
  fprintf(stderr, "bpdq: error: %s\n", interrupted ? "interrupted" : error->message);
  return 1;
}

int cli_fail_text(const char *format, ...) {
  bpdq_error error = {.status = BPDQ_ERROR_IO};
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error.message, sizeof error.message, format, arguments);
  va_end(arguments);
  for (char *c = error.message; *c; c++)
    if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
  return cli_fail(&error);
}

const bpdq_error *cli_name_context(const bpdq_model *model, int64_t context, bpdq_error *error) {
  bpdq_model_info info;
  bpdq_model_get_info(model, &info);
  bool too_small = error->status == BPDQ_ERROR_CONTEXT_FULL && context < info.context_length;
  bool too_large = error->status == BPDQ_ERROR_ARGUMENT && context > info.context_length;
  size_t used = strlen(error->message);
  if (too_small || too_large) snprintf(error->message + used, sizeof error->message - used, too_small ? " (--ctx)" : "; change --ctx");
  return error;
}

bool cli_show(const char *text, size_t length) {
  errno = 0;
  /* ferror: glibc's fwrite counts a text that ends with a newline as written even where the write behind it failed. */
  if (fwrite(text, 1, length, stdout) == length && fflush(stdout) == 0 && !ferror(stdout)) return true;
  if (errno != EINTR || !console_interrupted()) return false;
  clearerr(stdout);
  return true;
}

int cli_print_json(json_t *object) {
  if (!object) return cli_fail_text("out of memory while writing JSON");
  bool written = json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) == 0 && putchar('\n') != EOF;
  json_decref(object);
  return written ? 0 : cli_fail_text("standard output: %s", strerror(errno));
}

/* Length of the valid UTF-8 sequence at text, or 0. */
static size_t sequence_length(const unsigned char *text, size_t length) {
  unsigned char c = text[0];
  size_t bytes = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
  if (bytes == 0 || bytes > length) return 0;
  for (size_t i = 1; i < bytes; i++)
    if ((text[i] & 0xc0) != 0x80) return 0;
  bool overlong = (c == 0xe0 && text[1] < 0xa0) || (c == 0xf0 && text[1] < 0x90);
  bool outside = (c == 0xed && text[1] > 0x9f) || (c == 0xf4 && text[1] > 0x8f);
  return overlong || outside ? 0 : bytes;
}

json_t *cli_json_text(const char *text, size_t length) {
  char *clean = malloc(3 * length + 1);
  if (!clean) return NULL;
  size_t used = 0;
  for (size_t i = 0; i < length;) {
    size_t bytes = sequence_length((const unsigned char *)text + i, length - i);
    memcpy(clean + used, bytes ? text + i : "\xef\xbf\xbd", bytes ? bytes : 3);
    used += bytes ? bytes : 3;
    i += bytes ? bytes : 1;
  }
  json_t *string = json_stringn(clean, used);
  free(clean);
  return string;
}

/* ---- options that several commands share ---- */

const char *const cli_activation_words[] = {"default", "f32", "16", "8", NULL};
const char *const cli_backend_words[] = {"cpu", "vulkan", "cuda", NULL};
const char *const cli_kv_words[] = {"f16", "q8", NULL};

/* Rows that stand in several tables. */
#define BACKEND_ROW                                                                                  \
  {                                                                                                  \
    0, "backend", OPTION_WORD, offsetof(model_flags, backend), "NAME",                               \
        "cpu, vulkan or cuda (default: BPDQ_BACKEND, else the best device)", 0, 0, cli_backend_words \
  }
#define DEVICE_ROW                                                                                                                        \
  {                                                                                                                                       \
    0, "device", OPTION_INTEGER, offsetof(model_flags, device), "N", "number of the device, as `bpdq devices` lists it (BPDQ_DEVICE)", 0, \
        1023, NULL                                                                                                                        \
  }
#define THREADS_ROW \
  { 't', "threads", OPTION_INTEGER, offsetof(model_flags, threads), "N", "CPU threads (default: one per core)", 0, 1024, NULL }
#define MEMORY_CAP_ROW                                                             \
  {                                                                                \
    0, "memory-cap", OPTION_SIZE, offsetof(model_flags, memory_cap), "SIZE",       \
        "most device memory to use, as 22.69GiB; a bare number is MiB", 0, 0, NULL \
  }
#define JSON_ROW \
  { 0, "json", OPTION_FLAG, offsetof(model_flags, json), NULL, "one JSON object on stdout", 0, 0, NULL }
#define QUIET_ROW \
  { 'q', "quiet", OPTION_FLAG, offsetof(model_flags, quiet), NULL, "no log lines, no progress", 0, 0, NULL }
#define DEVICE_ROWS BACKEND_ROW, DEVICE_ROW, THREADS_ROW, CLI_ACTIVATIONS_OPTION(ACTIVATIONS_HELP), MEMORY_CAP_ROW
#define ACTIVATIONS_HELP "precision of activations in bit-plane products\n(default: the fastest that keeps the KL within 1e-3)"

static const option device_options[] = {DEVICE_ROWS};
static const option output_options[] = {JSON_ROW, QUIET_ROW};
static const option bench_options[] = {DEVICE_ROWS, CLI_CONTEXT_OPTION("--depth and the longest run"), CLI_KV_OPTION, JSON_ROW, QUIET_ROW};
const option_table device_flag_table = TABLE_OF("device", device_options);
const option_table output_flag_table = TABLE_OF("output", output_options);
const option_table model_flag_table = TABLE_OF("model options", bench_options);

model_flags model_flags_default(void) { return (model_flags){.device = -1}; }

bpdq_activations cli_activations(const model_flags *flags) {
  static const bpdq_activations activations[] = {BPDQ_ACTIVATIONS_DEFAULT, BPDQ_ACTIVATIONS_F32, BPDQ_ACTIVATIONS_16, BPDQ_ACTIVATIONS_8};
  return activations[flags->activations];
}

bpdq_model_options cli_model_options(const model_flags *flags, cli_log *log, progress_bar *bar) {
  bpdq_model_options options = bpdq_model_default_options();
  options.backend = flags->backend;
  options.device = (int)flags->device;
  options.threads = (int)flags->threads;
  options.activations = cli_activations(flags);
  options.memory_cap = flags->memory_cap;
  options.progress = progress_callback;
  options.progress_user = bar;
  options.log = cli_log_callback;
  options.log_user = log;
  log->quiet = flags->quiet;
  return options;
}

bpdq_session_options cli_session_options(const model_flags *flags) {
  bpdq_session_options options = bpdq_session_default_options();
  options.context = flags->context;
  options.kv_type = flags->kv ? BPDQ_KV_Q8 : BPDQ_KV_F16;
  return options;
}

int cli_load(const char *folder, const model_flags *flags, bool text_only, cli_model *loaded) {
  bpdq_error error = {0};
  size_t size;
  *loaded = (cli_model){0};
  if (flags->chat_template && !(loaded->chat_template = cli_read_file(flags->chat_template, &size))) return 1;
  progress_bar bar = progress_start("loading", flags->quiet);
  bpdq_model_options options = cli_model_options(flags, &loaded->log, &bar);
  options.chat_template = loaded->chat_template;
  bpdq_status status = text_only ? bpdq_model_load_text(folder, &options, &loaded->model, &error)
                                 : bpdq_model_load(folder, &options, &loaded->model, &error);
  progress_end(&bar);
  if (status == BPDQ_OK && console_interrupted()) status = error.status = BPDQ_ERROR_CANCELLED;
  if (status == BPDQ_OK) {
    if (console_is_terminal(2)) cli_log_release(&loaded->log);
    return 0;
  }
  cli_unload(loaded);
  return cli_fail(&error);
}

void cli_unload(cli_model *loaded) {
  bpdq_model_free(loaded->model);
  free(loaded->chat_template);
  cli_log_free(&loaded->log);
  loaded->model = NULL;
  loaded->chat_template = NULL;
}

/* ---- files ---- */

static char *read_stream(FILE *file, const char *path, size_t *size) {
  char *data = NULL;
  size_t capacity = 1 << 16, got = 0;
  *size = 0;
  do {
    if (!data || *size + 1 == capacity) {
      char *larger = capacity < MAX_TEXT_BYTES ? realloc(data, data ? capacity *= 2 : capacity) : NULL;
      if (!larger) {
        cli_fail_text("%s: larger than %zu MiB, or out of memory", path, MAX_TEXT_BYTES >> 20);
        free(data);
        return NULL;
      }
      data = larger;
    }
    got = fread(data + *size, 1, capacity - *size - 1, file);
    *size += got;
  } while (got && !console_interrupted());
  if (ferror(file) || console_interrupted()) {
    cli_fail_text("%s: %s", path, strerror(errno));
    free(data);
    return NULL;
  }
  data[*size] = 0;
  return data;
}

char *cli_read_file(const char *path, size_t *size) {
  if (strcmp(path, "-") == 0) return read_stream(stdin, "standard input", size);
  FILE *file = fopen(path, "rb");
  if (!file) {
    cli_fail_text("%s: %s", path, strerror(errno));
    return NULL;
  }
  char *data = read_stream(file, path, size);
  fclose(file);
  return data;
}
