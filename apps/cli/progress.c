#include <stdio.h>

#include "cli.h"

#define REDRAW_SECONDS 0.1
#define BAR_COLUMNS 30

progress_bar progress_start(const char *label, bool quiet) {
  return (progress_bar){.label = label, .enabled = !quiet && console_is_terminal(2), .started = console_seconds()};
}

static void time_text(double seconds, char *buffer, size_t size) {
  long whole = (long)(seconds + 0.5);
  if (whole < 3600)
    snprintf(buffer, size, "%ld:%02ld", whole / 60, whole % 60);
  else
    snprintf(buffer, size, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
}

void progress_show(progress_bar *bar, double fraction, const char *note) {
  double now = console_seconds();
  if (!bar->enabled || now - bar->drawn < REDRAW_SECONDS) return;
  bar->drawn = now;
  char left[32] = "", blocks[BAR_COLUMNS + 1], line[256];
  if (fraction > 1) fraction = 1;
  double elapsed = now - bar->started;
  if (fraction > 0.01 && elapsed > 1) time_text(elapsed / fraction - elapsed, left, sizeof left);
  for (int i = 0; i < BAR_COLUMNS; i++) blocks[i] = i < (int)(fraction * BAR_COLUMNS) ? '#' : '.';
  blocks[BAR_COLUMNS] = 0;
  snprintf(line, sizeof line, "%s [%s] %3.0f%%%s%s%s%s", bar->label, blocks, 100 * fraction, left[0] ? "  left " : "", left,
           note ? "  " : "", note ? note : "");
  fprintf(stderr, "\r\033[K%.*s", console_width(2) - 1, line);
  fflush(stderr);
}

void progress_end(progress_bar *bar) {
  if (!bar->enabled || bar->drawn == 0) return;
  fprintf(stderr, "\r\033[K");
  fflush(stderr);
}

bool progress_callback(void *user, double fraction) {
  progress_show(user, fraction, NULL);
  return !console_interrupted();
}
