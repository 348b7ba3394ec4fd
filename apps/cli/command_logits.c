#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define CHUNK_BYTES ((size_t)256 << 20) /* of logits that are held at a time */

typedef struct logits_flags {
  const char *ids, *output;
} logits_flags;

static const option options[] = {
    {0, "ids", OPTION_TEXT, offsetof(logits_flags, ids), "1,2,3", "token ids to evaluate", 0, 0, NULL},
    {'o', "output", OPTION_TEXT, offsetof(logits_flags, output), "FILE", "safetensors file to write", 0, 0, NULL},
};
static const option_table table = TABLE_OF("options", options);
static const option context_options[] = {CLI_CONTEXT_OPTION("the number of ids"), CLI_KV_OPTION};
static const option_table context_table = TABLE_OF("context", context_options);

/* A safetensors header for the one tensor "logits", padded so that the data behind it is 8-byte aligned. */
static bool write_header(console_output *file, size_t tokens, int64_t vocab, char *message, size_t size) {
  char header[256];
  unsigned char length[8];
  int used = snprintf(header, sizeof header, "{\"logits\":{\"dtype\":\"F32\",\"shape\":[%zu,%lld],\"data_offsets\":[0,%llu]}}", tokens,
                      (long long)vocab, 4ull * tokens * (unsigned long long)vocab);
  while (used % 8) header[used++] = ' ';
  for (int i = 0; i < 8; i++) length[i] = (unsigned char)((unsigned long long)used >> (8 * i));
  return console_output_write(file, length, 8, message, size) && console_output_write(file, header, (size_t)used, message, size);
}

/* Evaluates piece by piece and writes each piece's logits; 0 or the exit code. */
static int write_logits(bpdq_session *session, const int32_t *ids, size_t count, int64_t vocab, console_output *file) {
  char message[512];
  bpdq_error error = {0};
  size_t row = sizeof(float) * (size_t)vocab, chunk = CHUNK_BYTES / row ? CHUNK_BYTES / row : 1;
  if (chunk > count) chunk = count;
  if (!write_header(file, count, vocab, message, sizeof message)) return cli_fail_text("%s", message);
  float *logits = malloc(chunk * row);
  if (!logits) return cli_fail_text("out of memory for %zu rows of logits", chunk);
  int code = 0;
  for (size_t done = 0; done < count && code == 0; done += chunk) {
    size_t rows = count - done < chunk ? count - done : chunk;
    if (bpdq_evaluate_all(session, ids + done, rows, logits, &error) != BPDQ_OK)
      code = cli_fail(&error);
    else if (!console_output_write(file, logits, rows * row, message, sizeof message))
      code = cli_fail_text("%s", message);
  }
  free(logits);
  return code;
}

static int logits_to_file(cli_model *loaded, const model_flags *flags, const logits_flags *own, const int32_t *ids, size_t count) {
  char message[512];
  bpdq_error error = {0};
  bpdq_model_info info;
  bpdq_session *session = NULL;
  bpdq_session_options options = cli_session_options(flags);
  bpdq_model_get_info(loaded->model, &info);
  if (!options.context) options.context = (int64_t)count < info.context_length ? (int64_t)count : info.context_length;
  if ((int64_t)count > options.context)
    return cli_fail_text("%zu token ids do not fit into a context of %lld tokens; give fewer%s", count, (long long)options.context,
                         options.context < info.context_length ? ", or raise --ctx" : ": the model was made for no more");
  if (bpdq_session_create(loaded->model, &options, &session, &error) != BPDQ_OK)
    return cli_fail(cli_name_context(loaded->model, options.context, &error));
  console_output *file = console_output_open(own->output, message, sizeof message);
  if (!file) {
    bpdq_session_free(session);
    return cli_fail_text("%s", message);
  }
  console_stop_session(session);
  int code = write_logits(session, ids, count, info.vocab_size, file);
  console_stop_session(NULL);
  bpdq_session_free(session);
  if (code != 0) {
    console_output_discard(file);
    return code;
  }
  if (!console_output_commit(file, message, sizeof message)) return cli_fail_text("%s", message);
  cli_log_release(&loaded->log);
  if (flags->json)
    return cli_print_json(json_pack("{so sI sI}", "output", cli_json_text(own->output, strlen(own->output)), "tokens", (json_int_t)count,
                                    "vocab_size", (json_int_t)info.vocab_size));
  return 0;
}

static int run(const command *self, int argc, char **argv) {
  logits_flags own = {0};
  model_flags flags = model_flags_default();
  void *bases[] = {&own, &flags, &flags, &flags};
  const char *words[MAX_POSITIONALS];
  int code;
  if (!options_parse(self, bases, argc, argv, words, &code)) return code;
  if (!own.ids) return options_wrong(self, "--ids 1,2,3 is missing");
  if (!own.output) return options_wrong(self, "-o FILE is missing");
  int32_t *ids;
  size_t count;
  if (!options_parse_ids(own.ids, &ids, &count)) return options_wrong(self, "--ids: '%.60s' is not a list of ids", own.ids);
  if (count == 0) {
    free(ids);
    return options_wrong(self, "--ids is empty");
  }
  cli_model loaded;
  code = cli_load(words[0], &flags, false, &loaded);
  if (code == 0) {
    code = logits_to_file(&loaded, &flags, &own, ids, count);
    cli_unload(&loaded);
  }
  free(ids);
  return code;
}

const command command_logits = {
    .name = "logits",
    .summary = "the logits of every position, as a safetensors file",
    .positionals = {"MODEL"},
    .tables = {&table, &context_table, &device_flag_table, &output_flag_table},
    .details = "Writes one tensor \"logits\", f32 [tokens, vocab].",
    .examples =
        "bpdq logits Qwen2.5-7B-k2 --ids 9707,11,1879 -o logits.safetensors\n"
        "bpdq logits Qwen2.5-7B-k2 --ids 9707,11,1879 -o logits.safetensors --activations f32 --backend cpu",
    .run = run,
};
