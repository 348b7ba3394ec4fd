/* A log sink that is passed down explicitly; there is no process-wide log. */
#ifndef BPDQ_CORE_LOG_H
#define BPDQ_CORE_LOG_H

#include "bpdq.h"

typedef struct bpdq_log {
  bpdq_log_callback callback; /* NULL: silent */
  void *user;
} bpdq_log;

/* `log` may be NULL. One line of UTF-8, no newline; cut at 1,000 bytes. Control characters and other bytes become '?'. */
void bpdq_log_info(const bpdq_log *log, const char *format, ...) __attribute__((format(printf, 2, 3)));
void bpdq_log_warning(const bpdq_log *log, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
