#include <stdio.h>
#include <string.h>

#include "cli.h"

static void print_words(const option *o) {
  if (o->name) printf(" --%s", o->name);
  if (o->letter) printf(" -%c", o->letter);
}

/* The case of one command: its options, and the words of those that take one of a list. */
static void print_command(const command *c) {
  printf("    %s)\n      case $previous in\n", c->name);
  for (int t = 0; t < MAX_TABLES && c->tables[t]; t++)
    for (size_t i = 0; i < c->tables[t]->count; i++) {
      const option *o = &c->tables[t]->options[i];
      if (!o->choices) continue;
      if (o->name) printf("        --%s%s", o->name, o->letter ? "|" : "");
      if (o->letter) printf("%s-%c", o->name ? "" : "        ", o->letter);
      printf(") words=\"");
      for (size_t k = 0; o->choices[k]; k++) printf("%s%s", k ? " " : "", o->choices[k]);
      printf("\" ;;\n");
    }
  printf("        *) options=\"--help");
  for (int t = 0; t < MAX_TABLES && c->tables[t]; t++)
    for (size_t i = 0; i < c->tables[t]->count; i++) print_words(&c->tables[t]->options[i]);
  printf("\" ;;\n      esac ;;\n");
}

static void print_script(void) {
  printf(
      "# bash completion of bpdq; written by `bpdq completion bash`\n_bpdq() {\n"
      "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} words= options=\n  COMPREPLY=()\n"
      "  if [ \"$COMP_CWORD\" = 1 ]; then\n    COMPREPLY=($(compgen -W \"--help --version");
  for (size_t i = 0; i < cli_command_count; i++) printf(" %s", cli_commands[i]->name);
  printf("\" -- \"$current\"))\n    return\n  fi\n  case ${COMP_WORDS[1]} in\n");
  for (size_t i = 0; i < cli_command_count; i++) print_command(cli_commands[i]);
  printf(
      "  esac\n  if [ -n \"$words\" ]; then\n    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
      "  elif [ \"${current:0:1}\" = - ]; then\n    COMPREPLY=($(compgen -W \"$options\" -- \"$current\"))\n"
      "  else\n    COMPREPLY=($(compgen -f -- \"$current\"))\n  fi\n}\n"
      "complete -o filenames -F _bpdq bpdq\n");
}

static int run(const command *self, int argc, char **argv) {
  const char *words[MAX_POSITIONALS];
  int code;
  if (!options_parse(self, NULL, argc, argv, words, &code)) return code;
  if (strcmp(words[0], "bash") != 0) return options_wrong(self, "'%.60s': only bash is known", words[0]);
  print_script();
  return 0;
}

const command command_completion = {
    .name = "completion",
    .summary = "print the shell's completion script",
    .positionals = {"SHELL"},
    .examples = "source <(bpdq completion bash)\nbpdq completion bash > ~/.local/share/bash-completion/completions/bpdq",
    .run = run,
};
