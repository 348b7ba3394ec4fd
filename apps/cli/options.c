#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HELP_COLUMN 30

int options_wrong(const command *command, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char message[512];
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  for (char *c = message; *c; c++)
    if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
  fprintf(stderr, "bpdq: error: %s: %s (see bpdq %s --help)\n", command->name, message, command->name);
  return 2;
}

/* ---- suggestions ---- */

/* Edits (insert, delete, replace, swap of neighbours) between two short words. */
static size_t edit_distance(const char *a, const char *b) {
  enum { LIMIT = 32 };
  size_t n = strlen(a), m = strlen(b), rows[3][LIMIT + 1];
  if (n > LIMIT || m > LIMIT) return LIMIT;
  for (size_t j = 0; j <= m; j++) rows[0][j] = j;
  for (size_t i = 1; i <= n; i++) {
    size_t *now = rows[i % 3], *before = rows[(i + 2) % 3], *two_before = rows[(i + 1) % 3];
    now[0] = i;
    for (size_t j = 1; j <= m; j++) {
      size_t best = before[j - 1] + (a[i - 1] != b[j - 1]);
      if (before[j] + 1 < best) best = before[j] + 1;
      if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
      bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped && two_before[j - 2] + 1 < best) best = two_before[j - 2] + 1;
      now[j] = best;
    }
  }
  return rows[n % 3][m];
}

const char *options_nearest(const char *word, const char *const *words, size_t count) {
  const char *nearest = NULL;
  size_t best = strlen(word) <= 3 ? 2 : 3; /* at least this many edits: no suggestion */
  for (size_t i = 0; i < count; i++) {
    size_t distance = edit_distance(word, words[i]);
    if (distance < best) {
      best = distance;
      nearest = words[i];
    }
  }
  for (size_t i = 0; i < count && !nearest; i++)
    if (strlen(word) >= 3 && strncmp(word, words[i], strlen(word)) == 0) nearest = words[i];
  return nearest;
}

static const char *nearest_option(const command *command, const char *name) {
  const char *names[128] = {"help"};
  size_t count = 1;
  for (int t = 0; t < MAX_TABLES && command->tables[t]; t++)
    for (size_t i = 0; i < command->tables[t]->count; i++)
      if (command->tables[t]->options[i].name && count < sizeof names / sizeof *names) names[count++] = command->tables[t]->options[i].name;
  return options_nearest(name, names, count);
}

/* ---- values ---- */

static bool parse_number(const char *text, double *number) {
  char *end;
  errno = 0;
  *number = strtod(text, &end);
  return end != text && !*end && !errno && isfinite(*number) && !isspace((unsigned char)*text);
}

static bool parse_integer(const char *text, int64_t *number) {
  char *end;
  errno = 0;
  *number = strtoll(text, &end, 10);
  return end != text && !*end && !errno && !isspace((unsigned char)*text);
}

/* A number with a unit of 1024: B, K, M, G, T, each also as KB or KiB; without one, MiB. */
static bool parse_size(const char *text, uint64_t *bytes) {
  static const char units[] = "bkmgt";
  char *end;
  errno = 0;
  double number = strtod(text, &end);
  if (end == text || errno || !(number >= 0) || isspace((unsigned char)*text)) return false;
  double scale = 0x1p20;
  if (*end) {
    const char *unit = strchr(units, tolower((unsigned char)*end));
    if (!unit) return false;
    scale = ldexp(1, 10 * (int)(unit - units));
    end++;
    if (unit != units && tolower((unsigned char)*end) == 'i') end++;
    if (unit != units && tolower((unsigned char)*end) == 'b') end++;
    if (*end) return false;
  }
  if (number * scale >= 0x1p63) return false;
  *bytes = (uint64_t)(number * scale);
  return true;
}

static int wrong_choice(const command *command, const char *shown, const option *o, const char *text) {
  char list[256] = "";
  for (size_t i = 0; o->choices[i]; i++) {
    if (i) strncat(list, ", ", sizeof list - strlen(list) - 1);
    strncat(list, o->choices[i], sizeof list - strlen(list) - 1);
  }
  return options_wrong(command, "%s: '%.60s' is none of %s", shown, text, list);
}

/* Stores `text` in the option's field; 0 or the exit code. */
static int set_value(const command *command, const option *o, const char *shown, void *base, const char *text) {
  char *field = (char *)base + o->offset;
  int64_t integer;
  double number;
  uint64_t bytes;
  switch (o->kind) {
    case OPTION_FLAG:
      *(bool *)field = true;
      return 0;
    case OPTION_OFF:
      *(bool *)field = false;
      return 0;
    case OPTION_TEXT:
      *(const char **)field = text;
      return 0;
    case OPTION_INTEGER:
      if (!parse_integer(text, &integer)) return options_wrong(command, "%s: '%.60s' is not a whole number", shown, text);
      if ((double)integer < o->minimum || (double)integer > o->maximum)
        return options_wrong(command, "%s: %lld is outside %.0f to %.0f", shown, (long long)integer, o->minimum, o->maximum);
      *(int64_t *)field = integer;
      return 0;
    case OPTION_NUMBER:
      if (!parse_number(text, &number)) return options_wrong(command, "%s: '%.60s' is not a number", shown, text);
      if (number < o->minimum || number > o->maximum)
        return options_wrong(command, "%s: %g is outside %g to %g", shown, number, o->minimum, o->maximum);
      *(double *)field = number;
      return 0;
    case OPTION_SIZE:
      if (!parse_size(text, &bytes)) return options_wrong(command, "%s: '%.60s' is not a size such as 512MiB or 22.69GiB", shown, text);
      *(uint64_t *)field = bytes;
      return 0;
    case OPTION_CHOICE:
    case OPTION_WORD:
      for (int i = 0; o->choices[i]; i++)
        if (strcmp(text, o->choices[i]) == 0) {
          if (o->kind == OPTION_CHOICE)
            *(int *)field = i;
          else
            *(const char **)field = text;
          return 0;
        }
      return wrong_choice(command, shown, o, text);
  }
  return 2;
}

/* ---- help ---- */

static void print_option(const option *o) {
  char left[80];
  int used = 0;
  if (o->letter) used = snprintf(left, sizeof left, "-%c%s", o->letter, o->name ? ", " : "");
  if (o->name) used += snprintf(left + used, sizeof left - (size_t)used, "%s--%s", o->letter ? "" : "    ", o->name);
  if (o->value) snprintf(left + used, sizeof left - (size_t)used, " %s", o->value);
  printf("  %-*s", HELP_COLUMN - 2, left);
  if (strlen(left) > HELP_COLUMN - 3) printf("\n%*s", HELP_COLUMN, "");
  for (const char *line = o->help; line;) {
    const char *end = strchr(line, '\n');
    printf("%.*s\n", end ? (int)(end - line) : (int)strlen(line), line);
    line = end ? end + 1 : NULL;
    if (line) printf("%*s", HELP_COLUMN, "");
  }
}

static void print_help(const command *command) {
  printf("bpdq %s: %s\n\nusage: bpdq %s", command->name, command->summary, command->name);
  for (int i = 0; i < MAX_POSITIONALS && command->positionals[i]; i++) printf(" %s", command->positionals[i]);
  printf("%s\n", command->tables[0] ? " [options]" : "");
  if (command->details) printf("\n%s\n", command->details);
  for (int t = 0; t < MAX_TABLES && command->tables[t]; t++) {
    printf("\n%s:\n", command->tables[t]->title);
    for (size_t i = 0; i < command->tables[t]->count; i++) print_option(&command->tables[t]->options[i]);
  }
  printf("\n  -h, --help%*sthis text\n", HELP_COLUMN - 12, "");
  if (!command->examples) return;
  printf("\nexamples:\n");
  for (const char *line = command->examples; line;) {
    const char *end = strchr(line, '\n');
    printf("  %.*s\n", end ? (int)(end - line) : (int)strlen(line), line);
    line = end ? end + 1 : NULL;
  }
}

/* ---- parsing ---- */

/* The option that `--name` (length bytes) or `-letter` names, with the struct it fills. */
static const option *find_option(const command *command, void *const *bases, const char *name, size_t length, char letter, void **base) {
  for (int t = 0; t < MAX_TABLES && command->tables[t]; t++)
    for (size_t i = 0; i < command->tables[t]->count; i++) {
      const option *o = &command->tables[t]->options[i];
      bool by_name = name && o->name && strlen(o->name) == length && strncmp(o->name, name, length) == 0;
      if (!by_name && !(letter && o->letter == letter)) continue;
      *base = bases[t];
      return o;
    }
  return NULL;
}

/* One option at argv[*i], with its value; moves *i behind it. 0 or the exit code. */
static int parse_option(const command *command, void *const *bases, int argc, char **argv, int *i) {
  const char *word = argv[(*i)++], *value = NULL;
  bool is_long = word[1] == '-';
  const char *name = word + (is_long ? 2 : 1);
  size_t length = is_long ? strcspn(name, "=") : 1;
  void *base = NULL;
  const option *o = find_option(command, bases, is_long ? name : NULL, length, is_long ? 0 : name[0], &base);
  if (!o) {
    char unknown[64];
    snprintf(unknown, sizeof unknown, "%.*s", (int)(length < 60 ? length : 60), name);
    const char *nearest = is_long || strlen(name) > 1 ? nearest_option(command, is_long ? unknown : name) : NULL;
    return nearest ? options_wrong(command, "unknown option %.60s; did you mean --%s?", word, nearest)
                   : options_wrong(command, "unknown option %.60s", word);
  }
  char shown[64] = {'-', o->letter};
  if (is_long) snprintf(shown, sizeof shown, "--%s", o->name);
  bool needs_value = o->kind != OPTION_FLAG && o->kind != OPTION_OFF;
  if (name[length]) value = name + length + is_long; /* --name=value or -nVALUE */
  if (!needs_value && value) return options_wrong(command, "%s takes no value", shown);
  if (needs_value && !value) {
    if (*i == argc) return options_wrong(command, "%s needs a value: %s", shown, o->value);
    value = argv[(*i)++];
  }
  return set_value(command, o, shown, base, value);
}

static bool asks_for_help(int argc, char **argv) {
  for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
  return false;
}

bool options_parse(const command *command, void *const *bases, int argc, char **argv, const char **positionals, int *exit_code) {
  int found = 0, most = 0;
  bool only_words = false;
  *exit_code = 0;
  while (most < MAX_POSITIONALS && command->positionals[most]) positionals[most++] = NULL;
  if (asks_for_help(argc, argv)) {
    print_help(command);
    return false;
  }
  for (int i = 0; i < argc;) {
    if (!only_words && strcmp(argv[i], "--") == 0) {
      only_words = true;
      i++;
    } else if (!only_words && argv[i][0] == '-' && argv[i][1]) {
      *exit_code = parse_option(command, bases, argc, argv, &i);
      if (*exit_code) return false;
    } else if (found == most) {
      *exit_code = options_wrong(command, "unexpected argument '%.60s'", argv[i]);
      return false;
    } else {
      positionals[found++] = argv[i++];
    }
  }
  if (found < most && command->positionals[found][0] != '[') {
    *exit_code = options_wrong(command, "%s is missing", command->positionals[found]);
    return false;
  }
  return true;
}

bool options_parse_ids(const char *text, int32_t **ids, size_t *count) {
  size_t capacity = strlen(text) / 2 + 1;
  *count = 0;
  *ids = malloc(capacity * sizeof **ids);
  if (!*ids) return false;
  while (*text) {
    while (*text == ' ' || *text == ',' || *text == '\n') text++;
    if (!*text) break;
    char *end;
    errno = 0;
    long long id = strtoll(text, &end, 10);
    if (end == text || errno || id < INT32_MIN || id > INT32_MAX || (*end && !strchr(" ,\n", *end))) {
      free(*ids);
      *ids = NULL;
      return false;
    }
    (*ids)[(*count)++] = (int32_t)id;
    text = end;
  }
  return true;
}

const char *options_size_text(uint64_t bytes, char *buffer, size_t size) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double number = (double)bytes;
  int unit = 0;
  for (; number >= 1024 && unit < 4; unit++) number /= 1024;
  snprintf(buffer, size, unit ? "%.2f %s" : "%.0f %s", number, units[unit]);
  return buffer;
}
