/* bpdq: the command line. Exit codes: 0 done, 1 failed (one line on stderr), 2 wrong usage. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

const command *const cli_commands[] = {
    &command_run,      &command_chat,           &command_devices,    &command_info, &command_tokenize, &command_logits, &command_eval,
#ifdef BPDQ_HAVE_QUANTIZER
    &command_quantize, &command_quantize_layer,
#endif
    &command_bench,    &command_bench_ops,      &command_completion,
};
const size_t cli_command_count = sizeof cli_commands / sizeof *cli_commands;

static void print_help(FILE *to) {
  fprintf(to, "bpdq %s: bit-plane quantized language models on any GPU, or on none\n\nusage: bpdq COMMAND [options]\n\ncommands:\n",
          bpdq_version());
  for (size_t i = 0; i < cli_command_count; i++) fprintf(to, "  %-16s%s\n", cli_commands[i]->name, cli_commands[i]->summary);
  fprintf(to,
          "\n  bpdq COMMAND --help   options and examples of a command\n  bpdq --version        the version\n\n"
          "MODEL is a folder: a BPDQ checkpoint or a dense Hugging Face model (safetensors).\n"
          "BPDQ_BACKEND and BPDQ_DEVICE in the environment choose the device where --backend and --device do not.\n"
          "\nexamples:\n"
          "  bpdq quantize Qwen2.5-7B-Instruct Qwen2.5-7B-k2 --planes 2 --group 64 --calib c4.txt\n"
          "  bpdq run Qwen2.5-7B-k2 -p \"It was a dark and stormy night, and\" -n 200\n"
          "  bpdq chat Qwen2.5-7B-k2\n");
}

static int unknown_command(const char *word) {
  const char *names[32];
  for (size_t i = 0; i < cli_command_count; i++) names[i] = cli_commands[i]->name;
  const char *nearest = options_nearest(word, names, cli_command_count);
  const char *kind = word[0] == '-' ? "option" : "command";
  if (nearest)
    fprintf(stderr, "bpdq: error: unknown %s '%.60s'; did you mean '%s'? (see bpdq --help)\n", kind, word, nearest);
  else
    fprintf(stderr, "bpdq: error: unknown %s '%.60s' (see bpdq --help)\n", kind, word);
  return 2;
}

static int dispatch(int argc, char **argv) {
  if (argc < 2) {
    print_help(stderr);
    return 2;
  }
  const char *word = argv[1];
  if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
    for (size_t i = 0; argc > 2 && i < cli_command_count; i++) {
      char *help[] = {(char[]){"--help"}};
      if (strcmp(argv[2], cli_commands[i]->name) == 0) return cli_commands[i]->run(cli_commands[i], 1, help);
    }
    print_help(stdout);
    return 0;
  }
  if (strcmp(word, "--version") == 0 || strcmp(word, "version") == 0) {
    printf("bpdq %s\n", bpdq_version());
    return 0;
  }
  for (size_t i = 0; i < cli_command_count; i++)
    if (strcmp(word, cli_commands[i]->name) == 0) return cli_commands[i]->run(cli_commands[i], argc - 2, argv + 2);
  return unknown_command(word);
}

int main(int argc, char **argv) {
  console_reserve_streams();
  console_catch_interrupt();
  int code = dispatch(argc, argv);
  errno = 0;
  if (fflush(stdout) != 0 || ferror(stdout)) {
    if (code == 0) code = cli_fail_text("standard output: %s", errno ? strerror(errno) : "cannot be written");
  }
  return code;
}
