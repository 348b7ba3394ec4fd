/* Where a model folder keeps its chat template and the tokens that it writes. */
#include <stdlib.h>
#include <string.h>

#include "core/platform.h"
#include "format/json.h"
#include "format/template/template.h"

#define MAX_TEMPLATE_BYTES ((uint64_t)1 << 20)
#define MAX_CONFIG_BYTES ((uint64_t)64 << 20) /* some tokenizer_config.json list every added token */

static bpdq_status copy_string(const char *value, char **copy, bpdq_error *error) {
  *copy = strdup(value);
  return *copy ? BPDQ_OK : bpdq_fail(error, BPDQ_ERROR_MEMORY, "tokenizer_config.json: out of memory");
}

/* A special token is a string or an object with its text under "content". */
static bpdq_status special_token(const json_t *config, const char *key, char **token, bpdq_error *error) {
  const json_t *value = bpdq_json_member(config, key);
  if (json_is_object(value)) value = bpdq_json_member(value, "content");
  return json_is_string(value) ? copy_string(json_string_value(value), token, error) : BPDQ_OK;
}

/* chat_template is the text itself, or a list of {"name", "template"} of which "default" is taken. */
static bpdq_status template_text(const json_t *config, char **text, bpdq_error *error) {
  const json_t *value = bpdq_json_member(config, "chat_template");
  for (size_t i = 0, count = json_array_size(value); i < count; i++) {
    const char *name = NULL;
    const json_t *entry = json_array_get(value, i);
    BPDQ_TRY(bpdq_json_get_string(entry, "name", &name, error));
    if (!name || strcmp(name, "default") != 0) continue;
    value = bpdq_json_member(entry, "template");
    break;
  }
  return json_is_string(value) ? copy_string(json_string_value(value), text, error) : BPDQ_OK;
}

static bpdq_status load_config(const char *path, char **text, char **bos_token, char **eos_token, bpdq_error *error) {
  json_t *config = NULL;
  BPDQ_TRY(bpdq_json_load(path, MAX_CONFIG_BYTES, &config, error));
  bpdq_status status = *text ? BPDQ_OK : template_text(config, text, error);
  if (status == BPDQ_OK) status = special_token(config, "bos_token", bos_token, error);
  if (status == BPDQ_OK) status = special_token(config, "eos_token", eos_token, error);
  json_decref(config);
  return status;
}

bpdq_status bpdq_template_load(const char *folder, char **text, char **bos_token, char **eos_token, bpdq_error *error) {
  *text = *bos_token = *eos_token = NULL;
  char *file = bpdq_path_join(folder, "chat_template.jinja");
  char *config = bpdq_path_join(folder, "tokenizer_config.json");
  size_t size;
  bpdq_status status = BPDQ_OK;
  if (!file || !config) status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of memory", folder);
  if (status == BPDQ_OK && bpdq_path_exists(file)) status = bpdq_read_file(file, MAX_TEMPLATE_BYTES, text, &size, error);
  if (status == BPDQ_OK && bpdq_path_exists(config)) status = load_config(config, text, bos_token, eos_token, error);
  if (status != BPDQ_OK) {
    free(*text);
    free(*bos_token);
    free(*eos_token);
    *text = *bos_token = *eos_token = NULL;
  }
  free(file);
  free(config);
  return status;
}
