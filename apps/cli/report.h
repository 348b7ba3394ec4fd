/* Rows of figures as Markdown, CSV or JSON, for the benchmarks. */
#ifndef BPDQ_CLI_REPORT_H
#define BPDQ_CLI_REPORT_H

#include "cli.h"

typedef enum report_format { REPORT_MD, REPORT_JSON, REPORT_CSV } report_format;
extern const char *const report_format_words[]; /* in the order of report_format */

/* One column: its key in JSON and CSV, its heading in Markdown, and how a number is written there (decimals; -1: whatever JSON writes). */
typedef struct report_column {
  const char *key, *heading;
  int decimals;
  double scale; /* of the number in Markdown, as 1e-9 for GB/s; 0: 1 */
} report_column;

/* `rows` is a JSON array of objects with the columns' keys; what they hold beyond is in JSON only. `facts` (an object) goes into JSON
 * beside "rows", above the table as one line each in Markdown, and into CSV as more columns by the same names. Takes both references. 0, or
 * the exit code. */
int report_print(report_format format, const report_column *columns, size_t count, json_t *rows, json_t *facts);

#endif
