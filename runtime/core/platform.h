/* Everything that is asked of the operating system, so that a port is one file: platform_posix.c today.
 * All paths are UTF-8. Functions are thread-safe unless they say otherwise. */
#ifndef BPDQ_CORE_PLATFORM_H
#define BPDQ_CORE_PLATFORM_H

#include "core/status.h"

/* ---- files ---- */

typedef struct bpdq_mapping {
  const uint8_t *data; /* NULL for an empty file */
  uint64_t size;
} bpdq_mapping;

/* Maps a whole regular file read-only. The file is never read into anonymous memory. */
bpdq_status bpdq_map_file(const char *path, bpdq_mapping *mapping, bpdq_error *error);
void bpdq_unmap_file(bpdq_mapping *mapping);

/* Hints for [offset, offset+bytes) of a mapping: will be read soon (may wait for the disk), or may leave memory. Never fail. */
void bpdq_map_will_need(const bpdq_mapping *mapping, uint64_t offset, uint64_t bytes);
void bpdq_map_release(const bpdq_mapping *mapping, uint64_t offset, uint64_t bytes);

/* Reads a whole file of at most `limit` bytes into malloc'ed memory with a NUL behind it (not counted in *size). */
bpdq_status bpdq_read_file(const char *path, uint64_t limit, char **data, size_t *size, bpdq_error *error);

/* Zeroed memory of `bytes` > 0 in a file in `folder` that has no name and vanishes with the memory: the system moves it out where main
 * memory is short. The disk's room is taken at once; BPDQ_ERROR_IO where there is not enough. */
bpdq_status bpdq_map_scratch(const char *folder, uint64_t bytes, void **memory, bpdq_error *error);
void bpdq_unmap_scratch(void *memory, uint64_t bytes); /* NULL is allowed */

bool bpdq_path_exists(const char *path);
bool bpdq_path_is_folder(const char *path);
/* Whether `path` is `folder` or lies somewhere in it, symbolic links followed. False where one of them does not exist. */
bool bpdq_path_within(const char *path, const char *folder);

/* "folder/name" in malloc'ed memory; NULL when out of memory. */
char *bpdq_path_join(const char *folder, const char *name);

/* Creates the folder and its missing parents. */
bpdq_status bpdq_make_folder(const char *path, bpdq_error *error);

/* Removes a folder with everything in it. A missing folder is not an error. Symbolic links are not followed. */
bpdq_status bpdq_remove_folder(const char *path, bpdq_error *error);

/* Calls visit(user, name) for each entry except "." and "..", in no order; stops when it returns false. */
bpdq_status bpdq_list_folder(const char *path, bool (*visit)(void *user, const char *name), void *user, bpdq_error *error);

/* Renames a file or folder and makes the rename durable (syncs the parent folder). Replaces a file. */
bpdq_status bpdq_rename_durable(const char *from, const char *to, bpdq_error *error);

/* A file that appears under its name only when it is complete: written as "PATH.partial-PID", synced, renamed. */
typedef struct bpdq_output_file bpdq_output_file;
bpdq_status bpdq_output_open(const char *path, bpdq_output_file **file, bpdq_error *error);
bpdq_status bpdq_output_write(bpdq_output_file *file, const void *data, size_t bytes, bpdq_error *error);
/* Commits (sync + rename) and frees; on failure the temporary is removed. */
bpdq_status bpdq_output_commit(bpdq_output_file *file, bpdq_error *error);
void bpdq_output_discard(bpdq_output_file *file); /* NULL is allowed */

/* An exclusive lock on a lock file, held until released or the process ends. BPDQ_ERROR_IO when another holds it. */
typedef struct bpdq_file_lock bpdq_file_lock;
bpdq_status bpdq_lock_file(const char *path, bpdq_file_lock **lock, bpdq_error *error);
void bpdq_unlock_file(bpdq_file_lock *lock);

/* The user's cache folder for bpdq ("$XDG_CACHE_HOME/bpdq" or "~/.cache/bpdq"), malloc'ed, not created; NULL if unknown. */
char *bpdq_cache_folder(void);

/* ---- machine ---- */

uint64_t bpdq_monotonic_nanoseconds(void);
int bpdq_cpu_count(void);              /* cores this process may run on, at least 1 */
uint64_t bpdq_host_memory_total(void); /* bytes */
uint64_t bpdq_host_memory_available(void);
uint64_t bpdq_process_peak_memory(void); /* peak resident bytes */
void bpdq_cpu_name(char *name, size_t size);

/* ---- shared libraries ---- */

typedef struct bpdq_library bpdq_library;
/* Loads a shared library by file name or path. BPDQ_ERROR_IO with the loader's own words. */
bpdq_status bpdq_library_open(const char *name, bpdq_library **library, bpdq_error *error);
void *bpdq_library_symbol(bpdq_library *library, const char *name); /* NULL where there is none */
void bpdq_library_close(bpdq_library *library);                     /* NULL is allowed */

/* ---- console ---- */

bool bpdq_is_terminal(int stream); /* 0, 1 or 2 */
int bpdq_terminal_width(int stream);
/* Calls handler (async-signal-safe code only) on the first Ctrl-C or SIGTERM; a second one ends the process with status 130. */
void bpdq_on_interrupt(void (*handler)(void *user), void *user);

/* ---- threads ---- */

typedef struct bpdq_thread bpdq_thread;
typedef struct bpdq_mutex bpdq_mutex;
typedef struct bpdq_condition bpdq_condition;
bpdq_thread *bpdq_thread_start(void (*entry)(void *argument), void *argument); /* NULL on failure */
void bpdq_thread_join(bpdq_thread *thread);                                    /* frees it */
bpdq_mutex *bpdq_mutex_create(void);
void bpdq_mutex_destroy(bpdq_mutex *mutex);
void bpdq_mutex_lock(bpdq_mutex *mutex);
void bpdq_mutex_unlock(bpdq_mutex *mutex);
bpdq_condition *bpdq_condition_create(void);
void bpdq_condition_destroy(bpdq_condition *condition);
void bpdq_condition_wait(bpdq_condition *condition, bpdq_mutex *mutex);
void bpdq_condition_broadcast(bpdq_condition *condition);
void bpdq_thread_yield(void);

#endif
