/* core/platform.h for Linux and other POSIX systems. Where Linux tells more (cgroup limits, /proc), it is asked; elsewhere the
 * portable answer stands. */
#define _GNU_SOURCE
#include "core/platform.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "core/checked.h"

/* ---- files ---- */

static bpdq_status fail_errno(bpdq_error *error, int code, const char *action, const char *path) {
  bpdq_status status = code == ENOMEM ? BPDQ_ERROR_MEMORY : BPDQ_ERROR_IO;
  return bpdq_fail(error, status, "cannot %s '%s': %s", action, path, strerror(code));
}

/* O_NONBLOCK keeps open() of a FIFO that somebody put in the way from hanging; it has no effect on regular files. */
static bpdq_status open_regular(const char *path, int *descriptor, uint64_t *size, bpdq_error *error) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return fail_errno(error, errno, "open", path);
  struct stat info;
  if (fstat(fd, &info) != 0) {
    int code = errno;
    close(fd);
    return fail_errno(error, code, "examine", path);
  }
  if (!S_ISREG(info.st_mode)) {
    close(fd);
    return bpdq_fail(error, BPDQ_ERROR_IO, "'%s' is %s, not a regular file", path, S_ISDIR(info.st_mode) ? "a folder" : "a special file");
  }
  *descriptor = fd;
  *size = (uint64_t)info.st_size;
  return BPDQ_OK;
}

bpdq_status bpdq_map_file(const char *path, bpdq_mapping *mapping, bpdq_error *error) {
  *mapping = (bpdq_mapping){0};
  int fd = -1;
  uint64_t size = 0;
  BPDQ_TRY(open_regular(path, &fd, &size, error));
  if (size > SIZE_MAX) {
    close(fd);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "'%s' does not fit into the address space", path);
  }
  void *data = NULL;
  int code = 0;
  if (size > 0) {
    data = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
    code = data == MAP_FAILED ? errno : 0;
  }
  close(fd);
  if (code) return fail_errno(error, code, "map", path);
  *mapping = (bpdq_mapping){.data = data, .size = size};
  return BPDQ_OK;
}

void bpdq_unmap_file(bpdq_mapping *mapping) {
  if (mapping->data) munmap((void *)mapping->data, (size_t)mapping->size);
  *mapping = (bpdq_mapping){0};
}

/* Asked first, because where a file system cannot reserve room the C library writes to every block until the disk is full. */
static bpdq_status check_room(int fd, const char *folder, uint64_t bytes, bpdq_error *error) {
  struct statvfs info;
  if (fstatvfs(fd, &info) != 0) return fail_errno(error, errno, "examine", folder);
  double room = (double)info.f_bavail * (double)info.f_frsize;
  if ((double)bytes <= room && bytes <= SIZE_MAX / 2) return BPDQ_OK;
  return bpdq_fail(error, BPDQ_ERROR_IO, "the disk of '%s' has room for %.1f GiB where %.1f GiB are needed", folder, room / (1 << 30),
                   (double)bytes / (1 << 30));
}

bpdq_status bpdq_map_scratch(const char *folder, uint64_t bytes, void **memory, bpdq_error *error) {
  *memory = NULL;
  char *path = bpdq_path_join(folder, "scratch.partial-XXXXXX");
  if (!path) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory");
  int fd = mkostemp(path, O_CLOEXEC), code = errno;
  if (fd >= 0) unlink(path);
  free(path);
  if (fd < 0) return fail_errno(error, code, "create a temporary file in", folder);
  bpdq_status status = check_room(fd, folder, bytes, error);
  if (status == BPDQ_OK) {
    code = posix_fallocate(fd, 0, (off_t)bytes);
    void *data = code ? MAP_FAILED : mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (!code && data == MAP_FAILED) code = errno;
    if (code)
      status = fail_errno(error, code, "reserve a temporary file in", folder);
    else
      *memory = data;
  }
  close(fd);
  return status;
}

void bpdq_unmap_scratch(void *memory, uint64_t bytes) {
  if (memory) munmap(memory, (size_t)bytes);
}

/* madvise wants page-aligned ranges. `outward` widens the range to whole pages, otherwise it shrinks to the pages that lie
 * entirely inside, so that a released range never takes its neighbours' bytes along. */
static void advise(const bpdq_mapping *mapping, uint64_t offset, uint64_t bytes, int advice, bool outward) {
  uint64_t end;
  if (!mapping->data || offset >= mapping->size || !bpdq_add_u64(offset, bytes, &end)) return;
  if (end > mapping->size) end = mapping->size;
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  uint64_t first = outward ? offset / page * page : bpdq_ceil_div(offset, page) * page;
  uint64_t last = outward || end == mapping->size ? end : end / page * page;
  if (last > first) madvise((void *)(mapping->data + first), (size_t)(last - first), advice);
}

/* Reading ahead does nothing for what is in the page cache already, so the pages are touched too: whoever reads them next meets no page
 * fault. madvise could map them (MADV_POPULATE_READ), but with the address space locked: a driver that starts meanwhile, mapping much,
 * took 0.1 s longer. */
void bpdq_map_will_need(const bpdq_mapping *mapping, uint64_t offset, uint64_t bytes) {
  advise(mapping, offset, bytes, MADV_WILLNEED, true);
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  uint64_t end = offset > mapping->size || bytes > mapping->size - offset ? mapping->size : offset + bytes;
  for (uint64_t at = offset; at < end; at = (at / page + 1) * page) (void)*(const volatile uint8_t *)(mapping->data + at);
}

void bpdq_map_release(const bpdq_mapping *mapping, uint64_t offset, uint64_t bytes) {
  advise(mapping, offset, bytes, MADV_DONTNEED, false);
}

/* Reads until the end of the file or `capacity`. Returns the bytes read, or -1 with errno. */
static ssize_t read_fully(int fd, char *data, size_t capacity) {
  size_t used = 0;
  while (used < capacity) {
    ssize_t got = read(fd, data + used, capacity - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) break;
    used += (size_t)got;
  }
  return (ssize_t)used;
}

bpdq_status bpdq_read_file(const char *path, uint64_t limit, char **data, size_t *size, bpdq_error *error) {
  *data = NULL;
  *size = 0;
  int fd = -1;
  uint64_t bytes = 0;
  BPDQ_TRY(open_regular(path, &fd, &bytes, error));
  if (bytes > limit || bytes >= SIZE_MAX) {
    close(fd);
    return bpdq_fail(error, BPDQ_ERROR_IO, "'%s' has %llu bytes, more than the %llu allowed here", path, (unsigned long long)bytes,
                     (unsigned long long)limit);
  }
  char *buffer = malloc((size_t)bytes + 1);
  if (!buffer) {
    close(fd);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory for the %llu bytes of '%s'", (unsigned long long)bytes, path);
  }
  ssize_t got = read_fully(fd, buffer, (size_t)bytes);
  int code = errno;
  close(fd);
  if (got < 0) {
    free(buffer);
    return fail_errno(error, code, "read", path);
  }
  buffer[got] = 0;
  *data = buffer;
  *size = (size_t)got;
  return BPDQ_OK;
}

bool bpdq_path_exists(const char *path) {
  struct stat info;
  return stat(path, &info) == 0;
}

bool bpdq_path_is_folder(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool bpdq_path_within(const char *path, const char *folder) {
  char *inner = realpath(path, NULL), *outer = realpath(folder, NULL);
  size_t length = outer ? strlen(outer) : 0;
  if (length == 1) length = 0; /* "/" holds everything */
  bool within = inner && outer && !strncmp(inner, outer, length) && (!inner[length] || inner[length] == '/');
  free(inner);
  free(outer);
  return within;
}

char *bpdq_path_join(const char *folder, const char *name) {
  size_t length = strlen(folder);
  bool separated = length == 0 || folder[length - 1] == '/';
  char *path;
  return asprintf(&path, "%s%s%s", folder, separated ? "" : "/", name) < 0 ? NULL : path;
}

/* Everything before the last name of `path`, malloc'ed: "a/b" -> "a", "b" -> ".", "/b" -> "/". */
static char *parent_folder(const char *path) {
  size_t length = strlen(path);
  while (length > 1 && path[length - 1] == '/') length--;
  while (length > 0 && path[length - 1] != '/') length--;
  while (length > 1 && path[length - 1] == '/') length--;
  return length ? strndup(path, length) : strdup(".");
}

bpdq_status bpdq_make_folder(const char *path, bpdq_error *error) {
  char *partial = strdup(path);
  if (!partial) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory");
  bpdq_status status = BPDQ_OK;
  for (char *cursor = partial + (*partial == '/');; cursor++) {
    char end = *cursor;
    if (end != 0 && end != '/') continue;
    *cursor = 0;
    if (*partial && mkdir(partial, 0777) != 0 && !bpdq_path_is_folder(partial)) {
      status = fail_errno(error, errno, "create folder", partial);
      break;
    }
    *cursor = end;
    if (end == 0) break;
  }
  free(partial);
  return status;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *position) {
  (void)info, (void)type, (void)position;
  return remove(path) == 0 ? 0 : errno;
}

bpdq_status bpdq_remove_folder(const char *path, bpdq_error *error) {
  struct stat info;
  if (lstat(path, &info) != 0) return errno == ENOENT ? BPDQ_OK : fail_errno(error, errno, "examine", path);
  if (!S_ISDIR(info.st_mode)) return bpdq_fail(error, BPDQ_ERROR_IO, "'%s' is not a folder", path);
  int code = nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
  return code == 0 ? BPDQ_OK : fail_errno(error, code > 0 ? code : errno, "remove folder", path);
}

bpdq_status bpdq_list_folder(const char *path, bool (*visit)(void *user, const char *name), void *user, bpdq_error *error) {
  DIR *folder = opendir(path);
  if (!folder) return fail_errno(error, errno, "list folder", path);
  const struct dirent *entry;
  errno = 0;
  while ((entry = readdir(folder))) {
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && !visit(user, entry->d_name)) {
      errno = 0;
      break;
    }
    errno = 0;
  }
  int code = errno;
  closedir(folder);
  return code ? fail_errno(error, code, "list folder", path) : BPDQ_OK;
}

bpdq_status bpdq_rename_durable(const char *from, const char *to, bpdq_error *error) {
  if (rename(from, to) != 0) {
    return bpdq_fail(error, BPDQ_ERROR_IO, "cannot rename '%s' to '%s': %s", from, to, strerror(errno));
  }
  char *parent = parent_folder(to);
  if (!parent) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory");
  int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  /* Some network file systems refuse to sync a folder (EINVAL): the rename itself stands. */
  int code = fd < 0 || (fsync(fd) != 0 && errno != EINVAL) ? errno : 0;
  if (fd >= 0) close(fd);
  bpdq_status status = code ? fail_errno(error, code, "sync folder", parent) : BPDQ_OK;
  free(parent);
  return status;
}

struct bpdq_output_file {
  char *path;
  char *partial;
  FILE *stream;
};

static void free_output(bpdq_output_file *file) {
  if (file->stream) fclose(file->stream);
  free(file->path);
  free(file->partial);
  free(file);
}

bpdq_status bpdq_output_open(const char *path, bpdq_output_file **file, bpdq_error *error) {
  *file = NULL;
  bpdq_output_file *output = calloc(1, sizeof *output);
  if (!output) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory");
  output->path = strdup(path);
  if (asprintf(&output->partial, "%s.partial-%ld", path, (long)getpid()) < 0) output->partial = NULL;
  if (!output->path || !output->partial) {
    free_output(output);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory");
  }
  int fd = open(output->partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
  output->stream = fd < 0 ? NULL : fdopen(fd, "wb");
  if (!output->stream) {
    int code = errno;
    if (fd >= 0) close(fd);
    free_output(output);
    return fail_errno(error, code, "create", path);
  }
  setvbuf(output->stream, NULL, _IOFBF, 1 << 20);
  *file = output;
  return BPDQ_OK;
}

bpdq_status bpdq_output_write(bpdq_output_file *file, const void *data, size_t bytes, bpdq_error *error) {
  if (bytes && fwrite(data, 1, bytes, file->stream) != bytes) return fail_errno(error, errno, "write", file->path);
  return BPDQ_OK;
}

bpdq_status bpdq_output_commit(bpdq_output_file *file, bpdq_error *error) {
  int code = fflush(file->stream) != 0 || fsync(fileno(file->stream)) != 0 ? errno : 0;
  if (fclose(file->stream) != 0 && !code) code = errno;
  file->stream = NULL;
  bpdq_status status = code ? fail_errno(error, code, "write", file->path) : bpdq_rename_durable(file->partial, file->path, error);
  if (status != BPDQ_OK) unlink(file->partial);
  free_output(file);
  return status;
}

void bpdq_output_discard(bpdq_output_file *file) {
  if (!file) return;
  unlink(file->partial);
  free_output(file);
}

struct bpdq_file_lock {
  int descriptor;
};

bpdq_status bpdq_lock_file(const char *path, bpdq_file_lock **lock, bpdq_error *error) {
  *lock = NULL;
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
  if (fd < 0) return fail_errno(error, errno, "open lock file", path);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    int code = errno;
    close(fd);
    if (code == EWOULDBLOCK) return bpdq_fail(error, BPDQ_ERROR_IO, "'%s' is locked by another process: wait until it has ended", path);
    return fail_errno(error, code, "lock", path);
  }
  bpdq_file_lock *held = malloc(sizeof *held);
  if (!held) {
    close(fd);
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of memory");
  }
  held->descriptor = fd;
  *lock = held;
  return BPDQ_OK;
}

void bpdq_unlock_file(bpdq_file_lock *lock) {
  if (!lock) return;
  close(lock->descriptor);
  free(lock);
}

char *bpdq_cache_folder(void) {
  /* The XDG base directory specification: relative paths in the variable are to be ignored. */
  const char *cache = getenv("XDG_CACHE_HOME");
  if (cache && *cache == '/') return bpdq_path_join(cache, "bpdq");
  const char *home = getenv("HOME");
  return home && *home == '/' ? bpdq_path_join(home, ".cache/bpdq") : NULL;
}

/* ---- machine ---- */

uint64_t bpdq_monotonic_nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The first `count` decimal numbers of a kernel file; how many were there ("max" ends the list). */
static int read_kernel_numbers(const char *path, uint64_t *numbers, int count) {
  FILE *stream = fopen(path, "re");
  if (!stream) return 0;
  int found = 0;
  unsigned long long value;
  while (found < count && fscanf(stream, "%llu", &value) == 1) numbers[found++] = value;
  fclose(stream);
  return found;
}

/* A container's processor quota in whole cores (cgroup v2: "quota period"); INT_MAX-like where there is none. */
static int quota_cores(void) {
  uint64_t quota[2];
  if (read_kernel_numbers("/sys/fs/cgroup/cpu.max", quota, 2) != 2 || quota[1] == 0) return 1 << 20;
  uint64_t cores = bpdq_ceil_div(quota[0], quota[1]);
  return cores < 1 ? 1 : cores > (1 << 20) ? 1 << 20 : (int)cores;
}

int bpdq_cpu_count(void) {
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  int cores = online > 0 ? (int)online : 1;
#ifdef CPU_COUNT
  cpu_set_t allowed; /* machines with more than 1,024 processors fail here and keep the count that is online */
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0 && CPU_COUNT(&allowed) > 0) cores = CPU_COUNT(&allowed);
#endif
  int quota = quota_cores();
  return quota < cores ? quota : cores;
}

/* The number behind `name`, "MemAvailable:" or "active_file ", at the start of a line of a kernel file; 0 where it is missing. */
static uint64_t read_kernel_entry(const char *path, const char *name) {
  FILE *stream = fopen(path, "re");
  if (!stream) return 0;
  char line[256];
  unsigned long long value = 0;
  size_t length = strlen(name);
  while (fgets(line, sizeof line, stream)) {
    if (strncmp(line, name, length) == 0) {
      value = strtoull(line + length, NULL, 10);
      break;
    }
  }
  fclose(stream);
  return value;
}

uint64_t bpdq_host_memory_total(void) {
  uint64_t total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
  uint64_t limit;
  if (read_kernel_numbers("/sys/fs/cgroup/memory.max", &limit, 1) == 1 && limit < total) total = limit;
  return total;
}

uint64_t bpdq_host_memory_available(void) {
  uint64_t available = read_kernel_entry("/proc/meminfo", "MemAvailable:") * 1024;
  if (available == 0) available = bpdq_host_memory_total() / 2;
  uint64_t limit, used;
  if (read_kernel_numbers("/sys/fs/cgroup/memory.max", &limit, 1) == 1 &&
      read_kernel_numbers("/sys/fs/cgroup/memory.current", &used, 1) == 1) {
    /* A container's own copies of files count as used, though they make way. */
    uint64_t files =
        read_kernel_entry("/sys/fs/cgroup/memory.stat", "active_file ") + read_kernel_entry("/sys/fs/cgroup/memory.stat", "inactive_file ");
    used -= files < used ? files : used;
    uint64_t left = limit > used ? limit - used : 0;
    if (left < available) available = left;
  }
  return available;
}

uint64_t bpdq_process_peak_memory(void) {
  struct rusage usage;
  return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss * 1024 : 0;
}

void bpdq_cpu_name(char *name, size_t size) {
  if (size == 0) return;
  name[0] = 0;
  FILE *stream = fopen("/proc/cpuinfo", "re");
  char line[512];
  while (stream && fgets(line, sizeof line, stream)) {
    const char *value = strchr(line, ':');
    if (strncmp(line, "model name", 10) != 0 || !value) continue;
    value += 1 + strspn(value + 1, " \t");
    snprintf(name, size, "%.*s", (int)strcspn(value, "\n"), value);
    break;
  }
  if (stream) fclose(stream);
  struct utsname system;
  if (name[0] == 0 && uname(&system) == 0) snprintf(name, size, "%s processor", system.machine);
}

/* ---- shared libraries: bpdq_library is the loader's own handle ---- */

bpdq_status bpdq_library_open(const char *name, bpdq_library **library, bpdq_error *error) {
  *library = (bpdq_library *)dlopen(name, RTLD_NOW | RTLD_LOCAL);
  return *library ? BPDQ_OK : bpdq_fail(error, BPDQ_ERROR_IO, "cannot load '%s': %s", name, dlerror());
}

void *bpdq_library_symbol(bpdq_library *library, const char *name) { return dlsym(library, name); }

void bpdq_library_close(bpdq_library *library) {
  if (library) dlclose(library);
}

/* ---- console ---- */

bool bpdq_is_terminal(int stream) { return isatty(stream) == 1; }

int bpdq_terminal_width(int stream) {
  struct winsize window;
  return ioctl(stream, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 ? window.ws_col : 80;
}

/* A signal handler gets no argument, so these three must be globals; they are written before the handler is installed. */
static void (*interrupt_handler)(void *user);
static void *interrupt_user;
static volatile sig_atomic_t interrupted;

static void on_signal(int number) {
  (void)number;
  if (interrupted) _exit(130);
  interrupted = 1;
  int saved = errno;
  interrupt_handler(interrupt_user);
  errno = saved;
}

void bpdq_on_interrupt(void (*handler)(void *user), void *user) {
  interrupt_handler = handler;
  interrupt_user = user;
  /* No SA_RESTART: a blocking read of the console is to return. */
  struct sigaction action = {.sa_handler = on_signal};
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
}

/* ---- threads ---- */

struct bpdq_thread {
  pthread_t handle;
  void (*entry)(void *argument);
  void *argument;
};

struct bpdq_mutex {
  pthread_mutex_t handle;
};

struct bpdq_condition {
  pthread_cond_t handle;
};

static void *run_thread(void *pointer) {
  bpdq_thread *thread = pointer;
  thread->entry(thread->argument);
  return NULL;
}

/* Signals go to the program's own threads: workers block them all, so that Ctrl-C interrupts the console's read. */
bpdq_thread *bpdq_thread_start(void (*entry)(void *argument), void *argument) {
  bpdq_thread *thread = malloc(sizeof *thread);
  if (!thread) return NULL;
  thread->entry = entry;
  thread->argument = argument;
  sigset_t every, before;
  sigfillset(&every);
  pthread_sigmask(SIG_SETMASK, &every, &before);
  int code = pthread_create(&thread->handle, NULL, run_thread, thread);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (code == 0) return thread;
  free(thread);
  return NULL;
}

void bpdq_thread_join(bpdq_thread *thread) {
  if (!thread) return;
  pthread_join(thread->handle, NULL);
  free(thread);
}

bpdq_mutex *bpdq_mutex_create(void) {
  bpdq_mutex *mutex = malloc(sizeof *mutex);
  if (mutex && pthread_mutex_init(&mutex->handle, NULL) != 0) {
    free(mutex);
    return NULL;
  }
  return mutex;
}

void bpdq_mutex_destroy(bpdq_mutex *mutex) {
  if (!mutex) return;
  pthread_mutex_destroy(&mutex->handle);
  free(mutex);
}

void bpdq_mutex_lock(bpdq_mutex *mutex) { pthread_mutex_lock(&mutex->handle); }
void bpdq_mutex_unlock(bpdq_mutex *mutex) { pthread_mutex_unlock(&mutex->handle); }

bpdq_condition *bpdq_condition_create(void) {
  bpdq_condition *condition = malloc(sizeof *condition);
  if (condition && pthread_cond_init(&condition->handle, NULL) != 0) {
    free(condition);
    return NULL;
  }
  return condition;
}

void bpdq_condition_destroy(bpdq_condition *condition) {
  if (!condition) return;
  pthread_cond_destroy(&condition->handle);
  free(condition);
}

void bpdq_condition_wait(bpdq_condition *condition, bpdq_mutex *mutex) { pthread_cond_wait(&condition->handle, &mutex->handle); }
void bpdq_condition_broadcast(bpdq_condition *condition) { pthread_cond_broadcast(&condition->handle); }
void bpdq_thread_yield(void) { sched_yield(); }
