/* Lines of a conversation: with editing and history on a terminal, plain otherwise. */
#ifndef BPDQ_CLI_LINE_H
#define BPDQ_CLI_LINE_H

#include <stdbool.h>

typedef struct line_reader line_reader;

line_reader *line_open(const char *prompt); /* NULL: out of memory */
/* The next line without its newline, owned by the reader until the next call; NULL at the end of input, and on an interrupt (which
 * console_interrupted tells). */
const char *line_read(line_reader *reader);
bool line_is_interactive(const line_reader *reader);
void line_close(line_reader *reader); /* writes the history; NULL is allowed */

#endif
