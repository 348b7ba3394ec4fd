/* Everything that the program asks of the operating system, so that a port is one file: console_posix.c today. */
#ifndef BPDQ_CLI_CONSOLE_H
#define BPDQ_CLI_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bpdq.h"

/* To be called before anything is opened: a stream that the program was started without stays unusable, instead of becoming the next file.
 */
void console_reserve_streams(void);
/* After this, Ctrl-C (and SIGTERM) sets the flag below and stops the session that is at work; a second one while the first has not been
 * answered ends the process with status 130. */
void console_catch_interrupt(void);
bool console_interrupted(void);
void console_clear_interrupt(void);
/* The flag itself, for the quantizer. */
const volatile int *console_interrupt_flag(void);
/* Sleeps until stdin has something to read (or has ended); false as soon as the flag is set, whenever the signal came. */
bool console_wait_for_input(void);
/* The session that an interrupt stops; NULL: none. */
void console_stop_session(bpdq_session *session);

bool console_is_terminal(int stream); /* 0, 1 or 2 */
int console_width(int stream);        /* columns; 80 where unknown */
double console_seconds(void);         /* a clock that only goes forward */

/* "~/.local/state/bpdq/history" or its like, malloc'ed, its folder created; NULL where there is no place. */
char *console_history_path(void);

/* A file that appears under its name when it is complete, and never half-written; anything that is no regular file (/dev/stdout) is
 * written in place. */
typedef struct console_output console_output;
console_output *console_output_open(const char *path, char *message, size_t size);
bool console_output_write(console_output *output, const void *data, size_t bytes, char *message, size_t size);
bool console_output_commit(console_output *output, char *message, size_t size); /* frees; false: nothing is left behind */
void console_output_discard(console_output *output);                            /* NULL is allowed */

#endif
