#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

typedef struct tokenize_flags {
  const char *prompt, *file, *ids;
  bool keep_special, plain;
} tokenize_flags;

static const option options[] = {
    {'p', "prompt", OPTION_TEXT, offsetof(tokenize_flags, prompt), "TEXT", "text to turn into ids", 0, 0, NULL},
    {'f', "file", OPTION_TEXT, offsetof(tokenize_flags, file), "FILE", "read the text from a file (- is standard input)", 0, 0, NULL},
    {0, "ids", OPTION_TEXT, offsetof(tokenize_flags, ids), "1,2,3", "ids to turn into text", 0, 0, NULL},
    {0, "plain", OPTION_FLAG, offsetof(tokenize_flags, plain), NULL, "leave out the tokens that the post-processor adds (bos)", 0, 0, NULL},
    {0, "keep-special", OPTION_FLAG, offsetof(tokenize_flags, keep_special), NULL, "with --ids: keep special tokens in the text", 0, 0,
     NULL},
};
static const option_table table = TABLE_OF("options", options);

static int print_json(const int32_t *ids, size_t count, const char *text, size_t length) {
  json_t *list = json_array();
  for (size_t i = 0; i < count; i++) json_array_append_new(list, json_integer(ids[i]));
  return cli_print_json(json_pack("{so so}", "ids", list, "text", cli_json_text(text, length)));
}

static void print_ids(const int32_t *ids, size_t count) {
  for (size_t i = 0; i < count; i++) printf(i ? ",%d" : "%d", ids[i]);
  putchar('\n');
}

static int encode(const bpdq_model *model, const tokenize_flags *own, const char *text, size_t length, bool json) {
  bpdq_error error = {0};
  int32_t *ids = NULL;
  size_t count = 0;
  if (bpdq_tokenize(model, text, length, !own->plain, &ids, &count, &error) != BPDQ_OK) return cli_fail(&error);
  int code = 0;
  if (json)
    code = print_json(ids, count, text, length);
  else
    print_ids(ids, count);
  bpdq_free(ids);
  return code;
}

static int decode(const bpdq_model *model, const tokenize_flags *own, const int32_t *ids, size_t count, bool json) {
  bpdq_error error = {0};
  char *text = NULL;
  size_t length = 0;
  if (bpdq_detokenize(model, ids, count, !own->keep_special, &text, &length, &error) != BPDQ_OK) return cli_fail(&error);
  int code = 0;
  if (json)
    code = print_json(ids, count, text, length);
  else if (fwrite(text, 1, length, stdout) == length)
    putchar('\n');
  bpdq_free(text);
  return code;
}

static int run(const command *self, int argc, char **argv) {
  tokenize_flags own = {0};
  model_flags flags = model_flags_default();
  void *bases[] = {&own, &flags, &flags};
  const char *words[MAX_POSITIONALS];
  int code;
  if (!options_parse(self, bases, argc, argv, words, &code)) return code;
  if (!!own.prompt + !!own.file + !!own.ids != 1) return options_wrong(self, "one of -p TEXT, -f FILE and --ids is needed");
  int32_t *ids = NULL;
  char *from_file = NULL;
  size_t count = 0, length = own.prompt ? strlen(own.prompt) : 0;
  if (own.ids && !options_parse_ids(own.ids, &ids, &count)) return options_wrong(self, "--ids: '%.60s' is not a list of ids", own.ids);
  if (own.file && !(from_file = cli_read_file(own.file, &length))) return 1;
  cli_model loaded;
  code = cli_load(words[0], &flags, true, &loaded);
  if (code == 0) {
    code = own.ids ? decode(loaded.model, &own, ids, count, flags.json)
                   : encode(loaded.model, &own, from_file ? from_file : own.prompt, length, flags.json);
    if (code == 0) cli_log_release(&loaded.log);
    cli_unload(&loaded);
  }
  free(ids);
  free(from_file);
  return code;
}

const command command_tokenize = {
    .name = "tokenize",
    .summary = "the ids of a text, or the text of ids",
    .positionals = {"MODEL"},
    .tables = {&table, &output_flag_table, &device_flag_table},
    .details =
        "Only the tokenizer is loaded: no weights, no device, so that the device options, which all model commands take, change nothing.\n"
        "Ids are those of the Python library's encode(), the text that of its decode().",
    .examples = "bpdq tokenize Qwen2.5-7B-k2 -p \"Hello, world\"\nbpdq tokenize Qwen2.5-7B-k2 --ids 9707,11,1879 --json",
    .run = run,
};
