/* Errors as values: how functions fail and how a failure is handed on. */
#ifndef BPDQ_CORE_STATUS_H
#define BPDQ_CORE_STATUS_H

#include "bpdq.h"

/* Control characters, and bytes that are no UTF-8, become '?'. Names in a file system are bytes, and a text that was cut to a length may
 * end within a character. */
void bpdq_make_one_line(char *text);

/* Writes status and message into *error (which may be NULL) and returns `status`. The message is cut to one line of UTF-8, so that a
 * hostile file name or tensor name cannot forge log lines. */
bpdq_status bpdq_fail(bpdq_error *error, bpdq_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The result is spelt out here, so that compilers and analysers, which do not see into the function, know that a failure is not
 * BPDQ_OK and that results need not be set after one. `status` is evaluated twice. */
static inline bpdq_status bpdq_known_status(bpdq_status returned, bpdq_status status) {
  (void)returned;
  return status;
}
#define bpdq_fail(error, status, ...) bpdq_known_status(bpdq_fail((error), (status), __VA_ARGS__), (status))

/* Puts "prefix: " before the message in *error, for callers that know the file or tensor. Returns error's status. */
bpdq_status bpdq_fail_context(bpdq_error *error, bpdq_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

#define BPDQ_TRY(call)                                    \
  do {                                                    \
    bpdq_status status_of_try_ = (call);                  \
    if (status_of_try_ != BPDQ_OK) return status_of_try_; \
  } while (0)

/* For functions with one clean-up label: keeps the status in the variable `status` and jumps. */
#define BPDQ_TRY_GOTO(call, label)     \
  do {                                 \
    status = (call);                   \
    if (status != BPDQ_OK) goto label; \
  } while (0)

#endif
