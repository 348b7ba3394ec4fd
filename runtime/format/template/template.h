/* Chat templates: a small strict interpreter of the Jinja subset that published templates use. */
#ifndef BPDQ_FORMAT_TEMPLATE_H
#define BPDQ_FORMAT_TEMPLATE_H

#include "core/status.h"

typedef struct bpdq_template bpdq_template; /* read-only after parsing */

/* Parses Jinja text (at most 1 MB), with trim_blocks and lstrip_blocks on as in `transformers`. A construct outside the subset is
 * BPDQ_ERROR_UNSUPPORTED: the message names it with its line and says that another template can be passed with --chat-template. */
bpdq_status bpdq_template_parse(const char *text, size_t length, bpdq_template **result, bpdq_error *error);
void bpdq_template_free(bpdq_template *parsed); /* NULL is allowed */

typedef struct bpdq_template_input {
  const bpdq_chat_message *messages;
  size_t message_count;
  bool add_generation_prompt;
  const char *bos_token, *eos_token; /* NULL: undefined in the template */
} bpdq_template_input;

/* Renders as `transformers`' apply_chat_template(tokenize=False) does with tools unset. raise_exception() in the template becomes
 * BPDQ_ERROR_ARGUMENT with its text. Output is bounded to 16 MB, steps to 10 million, nesting to 64. *output is malloc'ed, NUL-terminated.
 */
bpdq_status bpdq_template_render(const bpdq_template *parsed, const bpdq_template_input *input, char **output, bpdq_error *error);

/* The chat template of a model folder, malloc'ed: chat_template.jinja, else chat_template of tokenizer_config.json (a string, or the entry
 * "default" of a list); *text is NULL where the model has none. bos and eos (malloc'ed or NULL) come from tokenizer_config.json. */
bpdq_status bpdq_template_load(const char *folder, char **text, char **bos_token, char **eos_token, bpdq_error *error);

#endif
