/* The values of a rendering and what all of them can do: truth, equality, order, text. Lists, dicts and strings never change once made;
 * only namespaces do. Everything lives in the renderer's arena. */
#ifndef BPDQ_FORMAT_TEMPLATE_VALUE_H
#define BPDQ_FORMAT_TEMPLATE_VALUE_H

#include "format/template/ast.h"

typedef enum bpdq_value_kind {
  BPDQ_VALUE_UNDEFINED, /* text: what is undefined, for messages */
  BPDQ_VALUE_NONE,
  BPDQ_VALUE_BOOLEAN, /* integer: 0 or 1 */
  BPDQ_VALUE_INTEGER,
  BPDQ_VALUE_FLOAT,
  BPDQ_VALUE_STRING,    /* text */
  BPDQ_VALUE_LIST,      /* list */
  BPDQ_VALUE_TUPLE,     /* list */
  BPDQ_VALUE_DICT,      /* dict */
  BPDQ_VALUE_NAMESPACE, /* dict, the only mutable one */
  BPDQ_VALUE_LOOP,      /* loop */
  BPDQ_VALUE_FUNCTION,  /* text: the name of a global function */
  BPDQ_VALUE_METHOD,    /* method: a function with the value that it belongs to */
  BPDQ_VALUE_MACRO      /* macro */
} bpdq_value_kind;

typedef struct bpdq_value bpdq_value;

typedef struct bpdq_value_list {
  bpdq_value *items;
  size_t count, capacity;
} bpdq_value_list;

typedef struct bpdq_value_dict {
  bpdq_value *entries;    /* key, value, key, value ... in order of insertion */
  size_t count, capacity; /* of entries: twice the keys */
} bpdq_value_dict;

typedef struct bpdq_value_loop {
  const bpdq_value_list *items;
  size_t index; /* from 0 */
  int depth;    /* from 0 */
} bpdq_value_loop;

typedef struct bpdq_value_method bpdq_value_method;

struct bpdq_value {
  bpdq_value_kind kind;
  union {
    int64_t integer;
    double number;
    bpdq_text text;
    bpdq_value_list *list;
    bpdq_value_dict *dict;
    bpdq_value_loop *loop;
    bpdq_value_method *method;
    const bpdq_statement *macro;
  };
};

struct bpdq_value_method {
  bpdq_value object;
  bpdq_text name;
};

/* What a rendering has used and may use; every operation that takes time or memory charges it. */
typedef struct bpdq_budget {
  bpdq_arena arena;
  int64_t steps;
  int line; /* of the statement or expression at work, for messages */
  bpdq_error *error;
} bpdq_budget;

/* Counts one step and the work of walking over `bytes`. */
bpdq_status bpdq_budget_charge(bpdq_budget *budget, size_t bytes);
void *bpdq_budget_alloc(bpdq_budget *budget, size_t count, size_t size); /* NULL: bpdq_budget_exhausted says why */
bpdq_status bpdq_budget_exhausted(bpdq_budget *budget);

/* "chat template line N: ..." with BPDQ_ERROR_FORMAT: the template does what its values do not allow. */
bpdq_status bpdq_value_error(bpdq_budget *budget, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The construct is outside the subset: BPDQ_ERROR_UNSUPPORTED, with the advice to pass another template. */
bpdq_status bpdq_value_unsupported(bpdq_budget *budget, const char *what, bpdq_text name);

static inline bpdq_value bpdq_value_undefined(bpdq_text name) { return (bpdq_value){.kind = BPDQ_VALUE_UNDEFINED, .text = name}; }
static inline bpdq_value bpdq_value_none(void) { return (bpdq_value){.kind = BPDQ_VALUE_NONE}; }
static inline bpdq_value bpdq_value_boolean(bool b) { return (bpdq_value){.kind = BPDQ_VALUE_BOOLEAN, .integer = b}; }
static inline bpdq_value bpdq_value_integer(int64_t i) { return (bpdq_value){.kind = BPDQ_VALUE_INTEGER, .integer = i}; }
static inline bpdq_value bpdq_value_float(double d) { return (bpdq_value){.kind = BPDQ_VALUE_FLOAT, .number = d}; }
static inline bpdq_value bpdq_value_string(bpdq_text text) { return (bpdq_value){.kind = BPDQ_VALUE_STRING, .text = text}; }
static inline bool bpdq_value_is_sequence(bpdq_value v) { return v.kind == BPDQ_VALUE_LIST || v.kind == BPDQ_VALUE_TUPLE; }
static inline bool bpdq_value_is_whole(bpdq_value v) { return v.kind == BPDQ_VALUE_INTEGER || v.kind == BPDQ_VALUE_BOOLEAN; }
static inline bool bpdq_value_is_number(bpdq_value v) { return bpdq_value_is_whole(v) || v.kind == BPDQ_VALUE_FLOAT; }
static inline double bpdq_value_to_double(bpdq_value v) { return v.kind == BPDQ_VALUE_FLOAT ? v.number : (double)v.integer; }

const char *bpdq_value_kind_name(bpdq_value value); /* as Python names the type */

/* New containers; kind is LIST or TUPLE. */
bpdq_status bpdq_value_new_list(bpdq_budget *budget, bpdq_value_kind kind, size_t capacity, bpdq_value *list);
bpdq_status bpdq_value_append(bpdq_budget *budget, bpdq_value_list *list, bpdq_value item);
bpdq_status bpdq_value_new_dict(bpdq_budget *budget, bpdq_value *dict);
bpdq_status bpdq_value_put(bpdq_budget *budget, bpdq_value_dict *dict, bpdq_value key, bpdq_value value);
/* Whether the dict has the key; *value is set where it does. */
bpdq_status bpdq_value_get(bpdq_budget *budget, const bpdq_value_dict *dict, bpdq_value key, bool *found, bpdq_value *value);

bool bpdq_value_truth(bpdq_value value);
bpdq_status bpdq_value_equal(bpdq_budget *budget, bpdq_value a, bpdq_value b, bool *equal);
/* *order < 0, 0, > 0; an error where the types have no order. */
bpdq_status bpdq_value_compare(bpdq_budget *budget, bpdq_value a, bpdq_value b, int *order);
/* needle in haystack */
bpdq_status bpdq_value_contains(bpdq_budget *budget, bpdq_value haystack, bpdq_value needle, bool *found);
/* The items that a loop over the value visits: of a list or tuple, the keys of a dict, the characters of a string, none of undefined. */
bpdq_status bpdq_value_iterate(bpdq_budget *budget, bpdq_value value, const bpdq_value_list **items);
bpdq_status bpdq_value_length(bpdq_budget *budget, bpdq_value value, int64_t *length);

/* Text that is put together piece by piece, in the arena. */
typedef struct bpdq_buffer {
  char *data;
  size_t length, capacity;
} bpdq_buffer;
bpdq_status bpdq_buffer_add(bpdq_budget *budget, bpdq_buffer *buffer, const char *data, size_t length);
static inline bpdq_text bpdq_buffer_text(const bpdq_buffer *buffer) { return (bpdq_text){buffer->data, buffer->length}; }

/* str(value): what printing it gives. */
bpdq_status bpdq_value_to_text(bpdq_budget *budget, bpdq_value value, bpdq_text *text);
/* Shortest text that reads back as the same double, as Python writes it. out holds 32 bytes. */
void bpdq_value_float_text(double number, char out[32]);

typedef struct bpdq_json_style {
  int indent; /* spaces per level; -1: one line */
  bool ascii, sort_keys;
  bpdq_text item_separator, key_separator;
} bpdq_json_style;
/* json.dumps(value). */
bpdq_status bpdq_value_to_json(bpdq_budget *budget, bpdq_value value, const bpdq_json_style *style, bpdq_text *text);

#endif
