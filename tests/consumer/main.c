/* Continues a text: consumer MODEL-FOLDER TEXT */
#include <bpdq.h>
#include <stdio.h>
#include <string.h>

static bool show(void *user, int32_t token, const char *text, size_t length) {
  (void)user, (void)token;
  fwrite(text, 1, length, stdout);
  fflush(stdout);
  return true; /* false stops */
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  bpdq_error error;
  bpdq_model *model = NULL;
  bpdq_session *session = NULL;
  int32_t *prompt = NULL;
  size_t tokens;
  bpdq_sampling greedy = bpdq_sampling_default();
  greedy.temperature = 0;

  bpdq_status status = bpdq_model_load(arguments[1], NULL, &model, &error); /* NULL: the best device, all cores */
  if (status == BPDQ_OK) status = bpdq_session_create(model, NULL, &session, &error);
  if (status == BPDQ_OK) status = bpdq_tokenize(model, arguments[2], strlen(arguments[2]), true, &prompt, &tokens, &error);
  if (status == BPDQ_OK) status = bpdq_generate(session, prompt, tokens, 16, &greedy, show, NULL, NULL, &error);
  if (status != BPDQ_OK) fprintf(stderr, "%s\n", error.message);

  bpdq_free(prompt);
  bpdq_session_free(session);
  bpdq_model_free(model);
  return status == BPDQ_OK ? 0 : 1;
}
