#include "line.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "console.h"

#define HISTORY_LINES 1000

struct line_reader {
  const char *prompt;
  EditLine *editor; /* NULL: stdin or stdout is no terminal */
  History *history;
  char *history_path;
  char *line; /* the last one handed out */
  size_t capacity;
};

static char *prompt_of(EditLine *editor) {
  line_reader *reader;
  el_get(editor, EL_CLIENTDATA, &reader);
  return (char *)reader->prompt;
}

/* Reads one character; unlike libedit's own function it gives up on an interrupt instead of reading on, also on one that came before. */
static int read_character(EditLine *editor, wchar_t *character) {
  (void)editor;
  mbstate_t state = {0};
  for (;;) {
    if (!console_wait_for_input()) return -1;
    int byte = getchar();
    if (byte == EOF) {
      clearerr(stdin);
      return console_interrupted() ? -1 : 0;
    }
    if (byte == 0)
      continue; /* a Ctrl-D from before the terminal was raw: as a character of the line it would keep the next one from leaving */
    char c = (char)byte;
    size_t used = mbrtowc(character, &c, 1, &state);
    if (used == (size_t)-2) continue;
    if (used != (size_t)-1) return 1;
    memset(&state, 0, sizeof state); /* a byte that is no UTF-8: skip it */
  }
}

static bool open_editor(line_reader *reader) {
  HistEvent event;
  setlocale(LC_CTYPE, "");
  setvbuf(stdin, NULL, _IONBF, 0); /* nothing may wait in a buffer that the editor does not see */
  reader->editor = el_init("bpdq", stdin, stdout, stderr);
  reader->history = history_init();
  if (!reader->editor || !reader->history) return false;
  el_set(reader->editor, EL_CLIENTDATA, reader);
  el_set(reader->editor, EL_PROMPT, prompt_of);
  el_set(reader->editor, EL_EDITOR, "emacs");
  el_set(reader->editor, EL_SIGNAL, 1);
  el_set(reader->editor, EL_GETCFN, read_character);
  history(reader->history, &event, H_SETSIZE, HISTORY_LINES);
  history(reader->history, &event, H_SETUNIQUE, 1);
  el_set(reader->editor, EL_HIST, history, reader->history);
  reader->history_path = console_history_path();
  if (reader->history_path) history(reader->history, &event, H_LOAD, reader->history_path);
  return true;
}

line_reader *line_open(const char *prompt) {
  line_reader *reader = calloc(1, sizeof *reader);
  if (!reader) return NULL;
  reader->prompt = prompt;
  if (!console_is_terminal(0) || !console_is_terminal(1) || open_editor(reader)) return reader;
  line_close(reader);
  return NULL;
}

bool line_is_interactive(const line_reader *reader) { return reader->editor != NULL; }

static const char *read_edited(line_reader *reader) {
  int length;
  HistEvent event;
  const char *line = el_gets(reader->editor, &length);
  if (!line || length <= 0) return NULL;
  free(reader->line);
  reader->line = strdup(line);
  if (!reader->line) return NULL;
  reader->line[strcspn(reader->line, "\n")] = 0;
  if (reader->line[0]) history(reader->history, &event, H_ENTER, reader->line);
  return reader->line;
}

const char *line_read(line_reader *reader) {
  if (reader->editor) return read_edited(reader);
  errno = 0;
  long length = getline(&reader->line, &reader->capacity, stdin);
  if (length < 0 || console_interrupted()) return NULL;
  if (length > 0 && reader->line[length - 1] == '\n') reader->line[length - 1] = 0;
  return reader->line;
}

void line_close(line_reader *reader) {
  HistEvent event;
  if (!reader) return;
  if (reader->history && reader->history_path) history(reader->history, &event, H_SAVE, reader->history_path);
  if (reader->history) history_end(reader->history);
  if (reader->editor) el_end(reader->editor);
  free(reader->history_path);
  free(reader->line);
  free(reader);
}
