#include "report.h"

#include <stdio.h>
#include <string.h>

const char *const report_format_words[] = {"md", "json", "csv", NULL};

static void print_cell(const json_t *value, int decimals, double scale) {
  if (json_is_string(value))
    printf("%s", json_string_value(value));
  else if (json_is_integer(value) && !scale)
    printf("%lld", (long long)json_integer_value(value));
  else if (json_is_number(value))
    printf("%.*f", decimals, json_number_value(value) * (scale ? scale : 1));
  else
    printf("-");
}

/* A fact above the table; sizes and rates in units that people read. */
static void print_fact(const char *key, const json_t *value) {
  char size[32];
  printf("%s: ", key);
  if (strstr(key, "bytes_per_second"))
    printf("%.1f GB/s\n", json_number_value(value) * 1e-9);
  else if (strstr(key, "bytes"))
    printf("%s\n", options_size_text((uint64_t)json_number_value(value), size, sizeof size));
  else if (json_is_string(value))
    printf("%s\n", json_string_value(value));
  else
    printf("%.6g\n", json_number_value(value));
}

static void print_markdown(const report_column *columns, size_t count, const json_t *rows, const json_t *facts) {
  void *position = json_object_iter((json_t *)facts);
  for (; position; position = json_object_iter_next((json_t *)facts, position))
    print_fact(json_object_iter_key(position), json_object_iter_value(position));
  printf("\n|");
  for (size_t i = 0; i < count; i++) printf(" %s |", columns[i].heading);
  printf("\n|");
  for (size_t i = 0; i < count; i++) printf(columns[i].decimals < 0 ? "---|" : "---:|");
  printf("\n");
  for (size_t r = 0; r < json_array_size(rows); r++) {
    printf("|");
    for (size_t i = 0; i < count; i++) {
      printf(" ");
      print_cell(json_object_get(json_array_get(rows, r), columns[i].key), columns[i].decimals, columns[i].scale);
      printf(" |");
    }
    printf("\n");
  }
}

/* Quotes double within quotes (RFC 4180). */
static void print_csv_value(const json_t *value) {
  if (json_is_string(value)) {
    putchar('"');
    for (const char *c = json_string_value(value); *c; c++) printf(*c == '"' ? "\"\"" : "%c", *c);
    putchar('"');
  } else if (json_is_real(value)) {
    printf("%.9g", json_real_value(value));
  } else {
    print_cell(value, 0, 0);
  }
}

/* A table for scripts has nothing beside it: the facts are columns behind the others, the same in every row. */
static void print_csv(const report_column *columns, size_t count, const json_t *rows, json_t *facts) {
  const char *key;
  json_t *value;
  for (size_t i = 0; i < count; i++) printf("%s%s", i ? "," : "", columns[i].key);
  json_object_foreach(facts, key, value) printf(",%s", key);
  printf("\n");
  for (size_t r = 0; r < json_array_size(rows); r++) {
    for (size_t i = 0; i < count; i++) {
      if (i) putchar(',');
      print_csv_value(json_object_get(json_array_get(rows, r), columns[i].key));
    }
    json_object_foreach(facts, key, value) {
      putchar(',');
      print_csv_value(value);
    }
    printf("\n");
  }
}

int report_print(report_format format, const report_column *columns, size_t count, json_t *rows, json_t *facts) {
  if (!rows || !facts) {
    json_decref(rows);
    json_decref(facts);
    return cli_fail_text("out of memory for the results");
  }
  if (format == REPORT_JSON) {
    json_object_set_new(facts, "rows", rows);
    return cli_print_json(facts);
  }
  if (format == REPORT_MD)
    print_markdown(columns, count, rows, facts);
  else
    print_csv(columns, count, rows, facts);
  json_decref(rows);
  json_decref(facts);
  return 0;
}
