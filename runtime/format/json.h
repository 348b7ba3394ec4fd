/* JSON from hostile files: jansson with limits in front, and getters that check the type and range of what they read. */
#ifndef BPDQ_FORMAT_JSON_H
#define BPDQ_FORMAT_JSON_H

#include <jansson.h>

#include "core/status.h"

/* Limits on a text: its nesting, and the memory that jansson may take for its values (a text of "{},{},..." costs 100 times its size).
 * The largest known tokenizer.json nests seven deep and stays below 100 MiB. */
#define BPDQ_JSON_MAX_DEPTH 64
#define BPDQ_JSON_MAX_MEMORY ((uint64_t)384 << 20)

/* Parses UTF-8 text whose root is an object. Duplicate keys, invalid UTF-8 and \u0000 are errors. `name` (a path) starts the messages.
 * On success the caller owns *root (json_decref). */
bpdq_status bpdq_json_parse(const char *text, size_t length, const char *name, json_t **root, bpdq_error *error);

/* The same for a file of at most `limit` bytes. */
bpdq_status bpdq_json_load(const char *path, uint64_t limit, json_t **root, bpdq_error *error);

/* The value of `key`, or NULL where it is absent or null. `object` may be NULL or no object: then NULL. */
const json_t *bpdq_json_member(const json_t *object, const char *key);

/* Each reads object[key] into *value. Where the key is absent or null, *value stays as it is and BPDQ_OK is returned; another JSON type,
 * or a number outside minimum..maximum, is BPDQ_ERROR_FORMAT naming the key. Integers must be written as integers. */
bpdq_status bpdq_json_get_integer(const json_t *object, const char *key, int64_t minimum, int64_t maximum, int64_t *value,
                                  bpdq_error *error);
bpdq_status bpdq_json_get_number(const json_t *object, const char *key, double minimum, double maximum, double *value, bpdq_error *error);
bpdq_status bpdq_json_get_bool(const json_t *object, const char *key, bool *value, bpdq_error *error);
/* *value is borrowed from `object`. */
bpdq_status bpdq_json_get_string(const json_t *object, const char *key, const char **value, bpdq_error *error);

#endif
