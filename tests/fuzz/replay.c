/* Feeds every file of the given folders to a fuzz target's entry, for builds without libFuzzer. */
#include <stdio.h>
#include <stdlib.h>

#include "core/platform.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct replay {
  const char *folder;
  size_t files;
  bool failed;
} replay;

static bool replay_file(void *user, const char *name) {
  replay *state = user;
  char *path = bpdq_path_join(state->folder, name);
  char *data = NULL;
  size_t size = 0;
  bpdq_error error;
  if (!path || bpdq_read_file(path, 1u << 26, &data, &size, &error) != BPDQ_OK) {
    fprintf(stderr, "%s\n", path ? error.message : "out of memory");
    state->failed = true;
  } else {
    /* A copy of the exact size, so that a sanitizer sees a read of the byte behind the input. */
    uint8_t *exact = malloc(size ? size : 1);
    for (size_t i = 0; exact && i < size; i++) exact[i] = (uint8_t)data[i];
    if (exact) LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    state->files++;
  }
  free(data);
  free(path);
  return !state->failed;
}

int main(int count, char **arguments) {
  replay state = {0};
  for (int i = 1; i < count && !state.failed; i++) {
    bpdq_error error;
    state.folder = arguments[i];
    if (bpdq_list_folder(arguments[i], replay_file, &state, &error) != BPDQ_OK) {
      fprintf(stderr, "%s\n", error.message);
      return 1;
    }
  }
  printf("%zu inputs replayed\n", state.files);
  return state.failed || state.files == 0;
}
