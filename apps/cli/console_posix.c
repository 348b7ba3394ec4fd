#include "console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A signal handler has no argument: what it touches is static by need. */
static volatile int interrupt_flag;
static _Atomic(bpdq_session *) interrupted_session;
/* Wakes a wait for input: the handler may run in any thread (libedit's own handler sends the signal a second time), so that neither the
 * flag nor an interrupted system call can be relied on to reach a thread that is about to sleep. */
static int wake_pipe[2] = {-1, -1};

static void on_interrupt(int number) {
  (void)number;
  if (interrupt_flag) _exit(130);
  interrupt_flag = 1;
  int error = errno;
  if (write(wake_pipe[1], "", 1) < 0) errno = error;
  bpdq_session *session = atomic_load(&interrupted_session);
  if (session) bpdq_session_cancel(session);
}

static void open_wake_pipe(void) {
  if (pipe(wake_pipe) != 0) {
    wake_pipe[0] = wake_pipe[1] = -1; /* poll passes over it */
    return;
  }
  for (int i = 0; i < 2; i++) {
    fcntl(wake_pipe[i], F_SETFD, FD_CLOEXEC);
    fcntl(wake_pipe[i], F_SETFL, O_NONBLOCK);
  }
}

/* Opened for the wrong direction, so that reads and writes fail as they do without it. open takes the lowest number that is free. */
void console_reserve_streams(void) {
  for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; stream++)
    if (fcntl(stream, F_GETFD) < 0 && errno == EBADF) open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

void console_catch_interrupt(void) {
  open_wake_pipe();
  struct sigaction action = {.sa_handler = on_interrupt}; /* no SA_RESTART: a blocking read is to return */
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
}

bool console_interrupted(void) { return interrupt_flag != 0; }

void console_clear_interrupt(void) {
  char bytes[16];
  interrupt_flag = 0;
  while (read(wake_pipe[0], bytes, sizeof bytes) > 0) continue;
}

const volatile int *console_interrupt_flag(void) { return &interrupt_flag; }

bool console_wait_for_input(void) {
  struct pollfd inputs[] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = wake_pipe[0], .events = POLLIN}};
  for (;;) {
    if (interrupt_flag) return false;
    int ready = poll(inputs, 2, -1);
    if (ready > 0 && inputs[1].revents) return false;
    if (ready > 0 || (ready < 0 && errno != EINTR)) return true;
  }
}

void console_stop_session(bpdq_session *session) {
  atomic_store(&interrupted_session, session);
  if (session && interrupt_flag) bpdq_session_cancel(session); /* it came before there was a session */
}

bool console_is_terminal(int stream) { return isatty(stream) == 1; }

int console_width(int stream) {
  struct winsize window;
  return ioctl(stream, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 ? window.ws_col : 80;
}

double console_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

char *console_history_path(void) {
  const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
  char path[4096];
  int used = state && *state ? snprintf(path, sizeof path, "%s/bpdq", state)
             : home && *home ? snprintf(path, sizeof path, "%s/.local/state/bpdq", home)
                             : 0;
  if (used <= 0 || (size_t)used > sizeof path - sizeof "/history") return NULL;
  for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    mkdir(path, 0700);
    *slash = '/';
  }
  if (mkdir(path, 0700) != 0 && errno != EEXIST) return NULL;
  return strdup(strcat(path, "/history"));
}

/* ---- output files ---- */

struct console_output {
  FILE *file;
  char *path, *temporary; /* temporary is NULL where the file is written in place */
};

static bool failed(const char *path, char *message, size_t size) {
  snprintf(message, size, "%s: %s", path, strerror(errno));
  return false;
}

console_output *console_output_open(const char *path, char *message, size_t size) {
  struct stat facts;
  bool in_place = stat(path, &facts) == 0 && !S_ISREG(facts.st_mode);
  console_output *output = calloc(1, sizeof *output);
  size_t room = strlen(path) + 32;
  if (output) output->path = strdup(path);
  if (output && !in_place) output->temporary = malloc(room);
  if (!output || !output->path || (!in_place && !output->temporary)) {
    snprintf(message, size, "out of memory");
    console_output_discard(output);
    return NULL;
  }
  if (!in_place) snprintf(output->temporary, room, "%s.partial-%ld", path, (long)getpid());
  int descriptor = open(in_place ? path : output->temporary, O_WRONLY | O_CLOEXEC | (in_place ? 0 : O_CREAT | O_TRUNC), 0666);
  output->file = descriptor < 0 ? NULL : fdopen(descriptor, "wb");
  if (output->file) return output;
  failed(path, message, size);
  if (descriptor >= 0) close(descriptor);
  console_output_discard(output);
  return NULL;
}

bool console_output_write(console_output *output, const void *data, size_t bytes, char *message, size_t size) {
  errno = 0;
  return fwrite(data, 1, bytes, output->file) == bytes || failed(output->path, message, size);
}

bool console_output_commit(console_output *output, char *message, size_t size) {
  bool complete = fflush(output->file) == 0 && (!output->temporary || fsync(fileno(output->file)) == 0);
  if (!complete) failed(output->path, message, size);
  if (fclose(output->file) != 0 && complete) complete = failed(output->path, message, size);
  output->file = NULL;
  if (complete && output->temporary && rename(output->temporary, output->path) != 0) complete = failed(output->path, message, size);
  if (complete) {
    free(output->temporary);
    output->temporary = NULL;
  }
  console_output_discard(output);
  return complete;
}

void console_output_discard(console_output *output) {
  if (!output) return;
  if (output->file) fclose(output->file);
  if (output->temporary) unlink(output->temporary);
  free(output->temporary);
  free(output->path);
  free(output);
}
