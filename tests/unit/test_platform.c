/* The operating-system layer, against a temporary folder. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../temporary.h"
#include "core/platform.h"

static char folder[4096];

static char *inside(const char *name) {
  char *path = bpdq_path_join(folder, name);
  assert_non_null(path);
  return path;
}

static void write_text(const char *path, const char *text) {
  bpdq_output_file *file;
  assert_int_equal(bpdq_output_open(path, &file, NULL), BPDQ_OK);
  assert_int_equal(bpdq_output_write(file, text, strlen(text), NULL), BPDQ_OK);
  assert_int_equal(bpdq_output_commit(file, NULL), BPDQ_OK);
}

static bool count_entry(void *user, const char *name) {
  (void)name;
  ++*(int *)user;
  return true;
}

static bool stop_at_once(void *user, const char *name) {
  count_entry(user, name);
  return false;
}

static int entries(const char *path) {
  int count = 0;
  assert_int_equal(bpdq_list_folder(path, count_entry, &count, NULL), BPDQ_OK);
  return count;
}

static int set_up(void **unused) {
  (void)unused;
  return temporary_folder(folder, sizeof folder, "bpdq-platform") ? 0 : -1;
}

static int tear_down(void **unused) {
  (void)unused;
  return bpdq_remove_folder(folder, NULL) == BPDQ_OK && !bpdq_path_exists(folder) ? 0 : -1;
}

static void output_appears_only_when_committed(void **unused) {
  (void)unused;
  char *path = inside("out.bin");
  bpdq_output_file *file;
  assert_int_equal(bpdq_output_open(path, &file, NULL), BPDQ_OK);
  assert_int_equal(bpdq_output_write(file, "half", 4, NULL), BPDQ_OK);
  assert_false(bpdq_path_exists(path));
  bpdq_output_discard(file);
  assert_int_equal(entries(folder), 0);
  write_text(path, "first");
  write_text(path, "second");
  assert_int_equal(entries(folder), 1);
  char *data;
  size_t size;
  assert_int_equal(bpdq_read_file(path, 6, &data, &size, NULL), BPDQ_OK);
  assert_int_equal(size, 6);
  assert_string_equal(data, "second");
  free(data);
  bpdq_error error;
  assert_int_equal(bpdq_read_file(path, 5, &data, &size, &error), BPDQ_ERROR_IO);
  assert_null(data);
  assert_non_null(strstr(error.message, "out.bin"));
  unlink(path);
  free(path);
  bpdq_output_discard(NULL);
}

static void failures_name_the_path(void **unused) {
  (void)unused;
  char *missing = inside("no/such/file");
  bpdq_error error;
  bpdq_mapping mapping;
  bpdq_output_file *file;
  char *data;
  size_t size;
  assert_int_equal(bpdq_map_file(missing, &mapping, &error), BPDQ_ERROR_IO);
  assert_non_null(strstr(error.message, "no/such/file"));
  assert_int_equal(bpdq_read_file(missing, 100, &data, &size, &error), BPDQ_ERROR_IO);
  assert_int_equal(bpdq_output_open(missing, &file, &error), BPDQ_ERROR_IO);
  assert_null(file);
  assert_int_equal(bpdq_list_folder(missing, count_entry, &size, &error), BPDQ_ERROR_IO);
  assert_int_equal(bpdq_map_file(folder, &mapping, &error), BPDQ_ERROR_IO);
  assert_non_null(strstr(error.message, "is a folder"));
  char *fifo = inside("fifo");
  assert_int_equal(mkfifo(fifo, 0600), 0);
  assert_int_equal(bpdq_map_file(fifo, &mapping, &error), BPDQ_ERROR_IO); /* and does not hang */
  unlink(fifo);
  free(fifo);
  free(missing);
}

/* The limit on file sizes stands in for a full disk. */
static void a_full_disk_is_reported(void **unused) {
  (void)unused;
  char *path = inside("full");
  bpdq_output_file *file;
  bpdq_error error;
  assert_int_equal(bpdq_output_open(path, &file, NULL), BPDQ_OK);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {.rlim_cur = 4096, .rlim_max = 4096};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(3);
    char *block = calloc(1, 4u << 20);
    bpdq_status status = bpdq_output_write(file, block, 4u << 20, &error);
    if (status == BPDQ_OK) status = bpdq_output_commit(file, &error);
    free(block);
    if (status != BPDQ_ERROR_IO || !strstr(error.message, path)) _exit(4);
    void *memory;
    status = bpdq_map_scratch(folder, 1u << 20, &memory, &error);
    _exit(status == BPDQ_ERROR_IO && strstr(error.message, folder) ? 0 : 5);
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
  bpdq_output_discard(file);
  assert_false(bpdq_path_exists(path));
  free(path);
}

static void mappings_hold_the_file(void **unused) {
  (void)unused;
  char *path = inside("mapped");
  write_text(path, "0123456789");
  bpdq_mapping mapping;
  assert_int_equal(bpdq_map_file(path, &mapping, NULL), BPDQ_OK);
  assert_int_equal(mapping.size, 10);
  bpdq_map_will_need(&mapping, 3, UINT64_MAX);
  bpdq_map_will_need(&mapping, 0, 10);
  bpdq_map_release(&mapping, 0, 10);
  bpdq_map_release(&mapping, 100, 10);
  assert_memory_equal(mapping.data, "0123456789", 10);
  bpdq_unmap_file(&mapping);
  assert_null(mapping.data);
  write_text(path, "");
  assert_int_equal(bpdq_map_file(path, &mapping, NULL), BPDQ_OK);
  assert_null(mapping.data);
  assert_int_equal(mapping.size, 0);
  bpdq_unmap_file(&mapping);
  unlink(path);
  free(path);
}

static void scratch_has_no_name(void **unused) {
  (void)unused;
  enum { BYTES = 1000003 };
  char *missing = inside("missing");
  uint8_t *memory;
  int before = 0, after = 0;
  bpdq_error error;
  assert_int_equal(bpdq_list_folder(folder, count_entry, &before, NULL), BPDQ_OK);
  assert_int_equal(bpdq_map_scratch(folder, BYTES, (void **)&memory, NULL), BPDQ_OK);
  assert_int_equal(bpdq_list_folder(folder, count_entry, &after, NULL), BPDQ_OK);
  assert_int_equal(before, after);
  for (int i = 0; i < BYTES; i++) assert_int_equal(memory[i], 0);
  memset(memory, 7, BYTES);
  assert_int_equal(memory[BYTES - 1], 7);
  bpdq_unmap_scratch(memory, BYTES);
  bpdq_unmap_scratch(NULL, 0);
  assert_int_equal(bpdq_map_scratch(missing, BYTES, (void **)&memory, &error), BPDQ_ERROR_IO);
  assert_non_null(strstr(error.message, missing));
  assert_null(memory);
  const uint64_t too_much[] = {(uint64_t)1 << 60, UINT64_MAX};
  for (int i = 0; i < 2; i++) {
    assert_int_equal(bpdq_map_scratch(folder, too_much[i], (void **)&memory, &error), BPDQ_ERROR_IO);
    assert_non_null(strstr(error.message, "GiB"));
  }
  free(missing);
}

static void folders_are_made_and_removed(void **unused) {
  (void)unused;
  char *deep = inside("a/b//c/");
  char *top = inside("a");
  assert_int_equal(bpdq_make_folder(deep, NULL), BPDQ_OK);
  assert_int_equal(bpdq_make_folder(deep, NULL), BPDQ_OK);
  assert_true(bpdq_path_is_folder(deep));
  char *file = inside("a/b/file");
  write_text(file, "x");
  bpdq_error error;
  char *below_file = inside("a/b/file/x");
  assert_int_equal(bpdq_make_folder(below_file, &error), BPDQ_ERROR_IO);
  int count = 0;
  char *middle = inside("a/b");
  assert_int_equal(entries(middle), 2);
  assert_int_equal(bpdq_list_folder(middle, stop_at_once, &count, NULL), BPDQ_OK);
  assert_int_equal(count, 1);
  /* a link out of the folder is removed, what it points to stays */
  char *outside = inside("outside");
  char *link = inside("a/link");
  assert_int_equal(bpdq_make_folder(outside, NULL), BPDQ_OK);
  assert_int_equal(symlink(outside, link), 0);
  assert_int_equal(bpdq_remove_folder(top, NULL), BPDQ_OK);
  assert_int_equal(bpdq_remove_folder(top, NULL), BPDQ_OK);
  assert_false(bpdq_path_exists(top));
  assert_true(bpdq_path_is_folder(outside));
  assert_int_equal(bpdq_remove_folder(outside, NULL), BPDQ_OK);
  char *paths[] = {deep, top, file, below_file, middle, outside, link};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) free(paths[i]);
}

static void rename_replaces(void **unused) {
  (void)unused;
  char *from = inside("from");
  char *to = inside("to");
  write_text(from, "new");
  write_text(to, "old");
  assert_int_equal(bpdq_rename_durable(from, to, NULL), BPDQ_OK);
  assert_false(bpdq_path_exists(from));
  bpdq_error error;
  assert_int_equal(bpdq_rename_durable(from, to, &error), BPDQ_ERROR_IO);
  assert_non_null(strstr(error.message, from));
  unlink(to);
  free(from);
  free(to);
}

static void locks_exclude_each_other(void **unused) {
  (void)unused;
  char *path = inside("lock");
  bpdq_file_lock *first, *second;
  bpdq_error error;
  assert_int_equal(bpdq_lock_file(path, &first, NULL), BPDQ_OK);
  assert_int_equal(bpdq_lock_file(path, &second, &error), BPDQ_ERROR_IO);
  assert_null(second);
  assert_non_null(strstr(error.message, "locked"));
  bpdq_unlock_file(first);
  assert_int_equal(bpdq_lock_file(path, &second, NULL), BPDQ_OK);
  bpdq_unlock_file(second);
  unlink(path);
  free(path);
}

static void check_join(const char *base, const char *name, const char *expected) {
  char *path = bpdq_path_join(base, name);
  assert_string_equal(path, expected);
  free(path);
}

static void paths_join(void **unused) {
  (void)unused;
  check_join("a", "b", "a/b");
  check_join("a/", "b", "a/b");
  check_join("/", "b", "/b");
  check_join("", "b", "b");
}

static void cache_folder_follows_the_environment(void **unused) {
  (void)unused;
  setenv("XDG_CACHE_HOME", "/somewhere", 1);
  char *path = bpdq_cache_folder();
  assert_string_equal(path, "/somewhere/bpdq");
  free(path);
  setenv("XDG_CACHE_HOME", "relative", 1);
  setenv("HOME", "/people/me", 1);
  path = bpdq_cache_folder();
  assert_string_equal(path, "/people/me/.cache/bpdq");
  free(path);
  unsetenv("HOME");
  assert_null(bpdq_cache_folder());
}

static void machine_figures_are_sane(void **unused) {
  (void)unused;
  uint64_t before = bpdq_monotonic_nanoseconds();
  assert_true(bpdq_monotonic_nanoseconds() >= before);
  assert_true(bpdq_cpu_count() >= 1);
  assert_true(bpdq_host_memory_total() >= 1u << 20);
  assert_true(bpdq_host_memory_available() <= bpdq_host_memory_total());
  assert_true(bpdq_process_peak_memory() > 0);
  char name[64];
  bpdq_cpu_name(name, sizeof name);
  assert_true(strlen(name) > 0);
  bpdq_cpu_name(name, 5);
  assert_true(strlen(name) <= 4);
}

static void note_interrupt(void *user) { *(volatile sig_atomic_t *)user += 1; }

static void second_interrupt_ends_the_process(void **unused) {
  (void)unused;
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    static volatile sig_atomic_t count;
    bpdq_on_interrupt(note_interrupt, (void *)&count);
    raise(SIGINT);
    if (count != 1) _exit(1);
    raise(SIGTERM);
    _exit(2);
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 130);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(output_appears_only_when_committed),
      cmocka_unit_test(failures_name_the_path),
      cmocka_unit_test(a_full_disk_is_reported),
      cmocka_unit_test(mappings_hold_the_file),
      cmocka_unit_test(scratch_has_no_name),
      cmocka_unit_test(folders_are_made_and_removed),
      cmocka_unit_test(rename_replaces),
      cmocka_unit_test(locks_exclude_each_other),
      cmocka_unit_test(paths_join),
      cmocka_unit_test(cache_folder_follows_the_environment),
      cmocka_unit_test(machine_figures_are_sane),
      cmocka_unit_test(second_interrupt_ends_the_process),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
