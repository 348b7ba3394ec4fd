/* Arbitrary bytes as a chat template, parsed and, where that works, rendered over a short conversation. */
#include <stdlib.h>

#include "format/template/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const bpdq_chat_message messages[] = {
      {"system", "Be brief."}, {"user", "H\xc3\xa9llo\n"}, {"assistant", "</think>x"}, {"user", ""}};
  bpdq_error error;
  bpdq_template *parsed = NULL;
  if (bpdq_template_parse((const char *)data, size, &parsed, &error) != BPDQ_OK) return 0;
  bpdq_template_input input = {.messages = messages, .message_count = 4, .add_generation_prompt = true, .bos_token = "<s>"};
  char *output = NULL;
  if (bpdq_template_render(parsed, &input, &output, &error) == BPDQ_OK) free(output);
  bpdq_template_free(parsed);
  return 0;
}
