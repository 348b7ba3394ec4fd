/* Renders a chat template with the runtime's interpreter, for template_parity.py: reads one JSON object per line
 * {"template", "messages": [{"role", "content"}], "add_generation_prompt", "bos_token", "eos_token"} and answers each with
 * {"output"} or {"error"}. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "format/template/template.h"

static json_t *render(const json_t *request) {
  bpdq_error error = {0};
  bpdq_template *parsed = NULL;
  char *output = NULL;
  const json_t *messages = json_object_get(request, "messages");
  size_t count = json_array_size(messages);
  bpdq_chat_message *list = calloc(count + 1, sizeof *list);
  if (!list) return json_pack("{ss}", "error", "out of memory");
  for (size_t i = 0; i < count; i++) {
    const json_t *message = json_array_get(messages, i);
    list[i].role = json_string_value(json_object_get(message, "role"));
    list[i].content = json_string_value(json_object_get(message, "content"));
  }
  bpdq_template_input input = {.messages = list,
                               .message_count = count,
                               .add_generation_prompt = json_is_true(json_object_get(request, "add_generation_prompt")),
                               .bos_token = json_string_value(json_object_get(request, "bos_token")),
                               .eos_token = json_string_value(json_object_get(request, "eos_token"))};
  const json_t *text = json_object_get(request, "template");
  bpdq_status status = bpdq_template_parse(json_string_value(text), json_string_length(text), &parsed, &error);
  if (status == BPDQ_OK) status = bpdq_template_render(parsed, &input, &output, &error);
  json_t *answer = status == BPDQ_OK ? json_pack("{ss}", "output", output) : json_pack("{ss,si}", "error", error.message, "status", status);
  bpdq_template_free(parsed);
  free(output);
  free(list);
  return answer;
}

int main(void) {
  json_t *request;
  json_error_t problem;
  while ((request = json_loadf(stdin, JSON_DISABLE_EOF_CHECK, &problem))) {
    json_t *answer = render(request);
    if (!answer || json_dumpf(answer, stdout, JSON_COMPACT) != 0) return 1;
    putchar('\n');
    json_decref(answer);
    json_decref(request);
  }
  return 0;
}
