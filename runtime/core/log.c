#include "core/log.h"

#include <stdarg.h>
#include <stdio.h>

#include "core/status.h"

static void emit(const bpdq_log *log, bpdq_log_level level, const char *format, va_list arguments) {
  if (!log || !log->callback) return;
  char line[1001];
  vsnprintf(line, sizeof line, format, arguments);
  bpdq_make_one_line(line);
  log->callback(log->user, level, line);
}

void bpdq_log_info(const bpdq_log *log, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  emit(log, BPDQ_LOG_INFO, format, arguments);
  va_end(arguments);
}

void bpdq_log_warning(const bpdq_log *log, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  emit(log, BPDQ_LOG_WARNING, format, arguments);
  va_end(arguments);
}
