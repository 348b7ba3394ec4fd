/* Command-line options as tables: parsing, checking, --help and shell completion all come from the same lines. */
#ifndef BPDQ_CLI_OPTIONS_H
#define BPDQ_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum option_kind {
  OPTION_FLAG,    /* bool: present or not */
  OPTION_OFF,     /* bool: present sets it to false */
  OPTION_TEXT,    /* const char * */
  OPTION_INTEGER, /* int64_t within minimum..maximum */
  OPTION_NUMBER,  /* double within minimum..maximum */
  OPTION_SIZE,    /* uint64_t bytes: "22.69GiB", "512MiB"; a bare number is MiB */
  OPTION_CHOICE,  /* int: the index of the word in `choices` */
  OPTION_WORD     /* const char *: one of `choices` */
} option_kind;

typedef struct option {
  char letter;      /* 'p' for -p, or 0 */
  const char *name; /* "ctx" for --ctx, or NULL */
  option_kind kind;
  size_t offset;     /* of the field in the struct that the table fills */
  const char *value; /* what --help calls the value: "N" */
  const char *help;  /* one line, or several with \n */
  double minimum, maximum;
  const char *const *choices; /* NULL-terminated */
} option;

typedef struct option_table {
  const char *title; /* heading in --help */
  const option *options;
  size_t count;
} option_table;

#define MAX_TABLES 6
#define MAX_POSITIONALS 2

typedef struct command {
  const char *name, *summary;
  const char *positionals[MAX_POSITIONALS]; /* "MODEL" ..., in brackets where optional */
  const option_table *tables[MAX_TABLES];   /* NULL behind the last */
  const char *details;                      /* paragraph of --help, or NULL */
  const char *examples;                     /* lines without indentation */
  int (*run)(const struct command *command, int argc, char **argv);
} command;

/* Reads argv (behind the command's name). bases[i] is the struct that tables[i] fills; it holds the defaults. positionals[] gets the words
 * that are not options, NULL where an optional one is absent. Returns true to go on; otherwise the command ends with *exit_code: 0 after
 * --help, 2 after one line about what is wrong. */
bool options_parse(const command *command, void *const *bases, int argc, char **argv, const char **positionals, int *exit_code);

/* Prints one line "bpdq: error: COMMAND: ..." with a pointer to --help; returns 2. */
int options_wrong(const command *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The word of the list that was probably meant, or NULL. */
const char *options_nearest(const char *word, const char *const *words, size_t count);

/* "1,2,3" or "1 2 3" to ids (malloc'ed). False where it is not a list of numbers that fit an int32. */
bool options_parse_ids(const char *text, int32_t **ids, size_t *count);

/* Bytes as "3.25 GiB" into buffer; returns buffer. */
const char *options_size_text(uint64_t bytes, char *buffer, size_t size);

#define TABLE_OF(heading, array) \
  { heading, array, sizeof(array) / sizeof *(array) }

#endif
