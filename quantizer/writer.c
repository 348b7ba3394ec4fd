/* Every step leaves the staging folder in a state that a later run understands: shards and reports appear whole or not at all, a block
 * counts when it has both, and the last act is one rename. */
#include "writer.h"

#include <stdio.h>
#include <string.h>

#include "core/platform.h"
#include "format/json.h"

static const uint64_t LARGEST_JSON = 64 << 20, LARGEST_COPY = (uint64_t)1 << 30;
enum { MAX_BLOCKS = 1 << 16 };

struct bpdq_writer {
  char *destination, *staging, *model; /* DST, DST.partial, DST.partial/model */
  bpdq_file_lock *lock;
  int64_t blocks, shards, finished;
  bool overwrite, keep; /* keep: something worth resuming is in the staging folder */
};

/* "folder/name" with a formatted name; NULL when out of memory. */
static char *numbered(const char *folder, const char *format, int64_t a, int64_t b) {
  char name[64];
  snprintf(name, sizeof name, format, (long long)a, (long long)b);
  return bpdq_path_join(folder, name);
}

static char *shard_name(const bpdq_writer *w, int64_t shard) {
  return numbered(w->model, "model-%05lld-of-%05lld.safetensors", shard + 1, w->shards);
}

static char *block_name(const bpdq_writer *w, int64_t block) { return numbered(w->staging, "block-%05lld.json", block, 0); }

char *bpdq_writer_shard_path(const bpdq_writer *writer, int64_t shard) { return shard_name(writer, shard); }

const char *bpdq_writer_folder(const bpdq_writer *writer) { return writer->staging; }

int64_t bpdq_writer_finished_blocks(const bpdq_writer *writer) { return writer->finished; }

static bpdq_status out_of_memory(bpdq_error *error) { return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory"); }

/* ---- small files ---- */

static bpdq_status write_file(const char *folder, const char *name, const void *data, size_t size, bpdq_error *error) {
  char *path = bpdq_path_join(folder, name);
  if (!path) return out_of_memory(error);
  bpdq_output_file *file = NULL;
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_output_open(path, &file, error), done);
  status = bpdq_output_write(file, data, size, error);
  if (status == BPDQ_OK)
    status = bpdq_output_commit(file, error);
  else
    bpdq_output_discard(file);
done:
  free(path);
  return status;
}

static bpdq_status write_json(const char *folder, const char *name, const json_t *value, bpdq_error *error) {
  char *text = json_dumps(value, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
  if (!text) return out_of_memory(error);
  bpdq_status status = write_file(folder, name, text, strlen(text), error);
  free(text);
  return status;
}

/* ---- opening ---- */

/* Removes what an interrupted write left behind. */
static bool remove_stray(void *user, const char *name) {
  const char *folder = user;
  if (!strstr(name, ".partial-")) return true;
  char *path = bpdq_path_join(folder, name);
  if (path) remove(path);
  free(path);
  return true;
}

static bool file_exists(char *path) {
  bool exists = path && bpdq_path_exists(path);
  free(path);
  return exists;
}

/* Counts the leading blocks that have both shard and reports. */
static void count_finished(bpdq_writer *w) {
  if (!file_exists(shard_name(w, 0))) return;
  while (w->finished < w->blocks && file_exists(shard_name(w, w->finished + 1)) && file_exists(block_name(w, w->finished))) w->finished++;
}

static bpdq_status check_settings(const bpdq_writer *w, const json_t *settings, bpdq_error *error) {
  char *path = bpdq_path_join(w->staging, "settings.json");
  if (!path) return out_of_memory(error);
  json_t *stored = NULL;
  bpdq_status status = bpdq_json_load(path, LARGEST_JSON, &stored, error);
  free(path);
  BPDQ_TRY(status);
  const char *key;
  json_t *value;
  /* Compared as text, so that numbers are equal when they are written equally. */
  json_object_foreach((json_t *)settings, key, value) {
    char *now = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(12)), *then = NULL;
    json_t *other = json_object_get(stored, key);
    if (other) then = json_dumps(other, JSON_ENCODE_ANY | JSON_REAL_PRECISION(12));
    if (status == BPDQ_OK && (!now || !then || strcmp(now, then)))
      status =
          bpdq_fail(error, BPDQ_ERROR_ARGUMENT,
                    "%s: the interrupted run had another %s (%s, now %s): resume with the same options, or start anew with --overwrite",
                    w->staging, key, then ? then : "none", now ? now : "none");
    free(now);
    free(then);
  }
  json_decref(stored);
  return status;
}

static void remove_named(const char *folder, const char *name) {
  char *path = bpdq_path_join(folder, name);
  if (path) remove(path);
  free(path);
}

/* An interrupted run is in the staging folder: go on with it, or clear it away. */
static bpdq_status take_over(bpdq_writer *w, const bpdq_quantize_options *options, const json_t *settings, bool *complete,
                             bpdq_error *error) {
  bool started = file_exists(bpdq_path_join(w->staging, "settings.json"));
  if (options->resume && started) {
    w->keep = true; /* what is there is what the user asked for, also where the options turn out not to fit it */
    BPDQ_TRY(check_settings(w, settings, error));
    if (!bpdq_path_is_folder(w->model) && bpdq_path_is_folder(w->destination)) {
      w->keep = false;
      *complete = true; /* killed between the last rename and the removal of the staging folder */
      return bpdq_remove_folder(w->staging, error);
    }
    BPDQ_TRY(bpdq_make_folder(w->model, error));
    BPDQ_TRY(bpdq_list_folder(w->model, remove_stray, w->model, error));
    BPDQ_TRY(bpdq_list_folder(w->staging, remove_stray, w->staging, error));
    count_finished(w);
    return BPDQ_OK;
  }
  count_finished(w);
  if (w->finished && !options->overwrite) {
    w->keep = true;
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT,
                     "%s holds %lld finished blocks of an interrupted run: go on with --resume, start anew with --overwrite, or remove it",
                     w->staging, (long long)w->finished);
  }
  w->finished = 0;
  remove_named(w->staging, "settings.json"); /* first: beside them, a missing model folder would mean a run that was complete */
  BPDQ_TRY(bpdq_remove_folder(w->model, error));
  for (int64_t block = 0; block < w->blocks; block++) {
    char *path = block_name(w, block);
    if (path) remove(path);
    free(path);
  }
  remove_named(w->staging, "plan.json");
  BPDQ_TRY(bpdq_make_folder(w->model, error));
  return write_json(w->staging, "settings.json", settings, error);
}

static void free_writer(bpdq_writer *w) {
  bpdq_unlock_file(w->lock);
  free(w->destination);
  free(w->staging);
  free(w->model);
  free(w);
}

/* The path without trailing separators, with `suffix`. */
static char *with_suffix(const char *path, const char *suffix) {
  size_t length = strlen(path);
  while (length > 1 && path[length - 1] == '/') length--;
  size_t size = length + strlen(suffix) + 1;
  char *out = malloc(size);
  if (out) snprintf(out, size, "%.*s%s", (int)length, path, suffix);
  return out;
}

/* --overwrite replaces a model folder or an empty one, never a folder with other things in it. */
static bool note_entry(void *user, const char *name) {
  (void)name;
  *(bool *)user = true;
  return false;
}

/* Whether the last part of the path is a name that a folder can be given. */
static bool has_name(const char *path) {
  size_t length = strlen(path);
  while (length && path[length - 1] == '/') length--;
  size_t start = length;
  while (start && path[start - 1] != '/') start--;
  const char *name = path + start;
  length -= start;
  return length && strncmp(name, ".", length) && strncmp(name, "..", length);
}

static bpdq_status check_replaceable(const char *destination, bpdq_error *error) {
  if (!bpdq_path_exists(destination) || file_exists(bpdq_path_join(destination, "config.json"))) return BPDQ_OK;
  bool occupied = false;
  BPDQ_TRY(bpdq_list_folder(destination, note_entry, &occupied, error));
  if (!occupied) return BPDQ_OK;
  return bpdq_fail(error, BPDQ_ERROR_ARGUMENT,
                   "%s is not a model folder (it has no config.json), so it is not overwritten: choose another, or move it away",
                   destination);
}

bpdq_status bpdq_writer_open(const char *destination, const bpdq_quantize_options *options, int64_t blocks, int64_t shards,
                             const json_t *settings, bpdq_writer **writer, bool *complete, bpdq_error *error) {
  *writer = NULL;
  *complete = false;
  if (!has_name(destination))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "the output folder '%s' has no name of its own: pass one, like NAME or FOLDER/NAME",
                     destination);
  bpdq_writer *w = calloc(1, sizeof *w);
  if (!w) return out_of_memory(error);
  w->blocks = blocks;
  w->shards = shards;
  w->overwrite = options->overwrite;
  w->destination = with_suffix(destination, "");
  w->staging = with_suffix(destination, ".partial");
  w->model = w->staging ? bpdq_path_join(w->staging, "model") : NULL;
  char *lock = w->staging ? bpdq_path_join(w->staging, "lock") : NULL;
  bpdq_status status = BPDQ_OK;
  if (!w->destination || !w->model || !lock) status = out_of_memory(error);
  if (status == BPDQ_OK && bpdq_path_exists(w->destination) && !options->overwrite && !options->resume)
    status = bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "%s exists already: choose another folder, or pass --overwrite", w->destination);
  if (status == BPDQ_OK) status = check_replaceable(w->destination, error);
  if (status == BPDQ_OK) status = bpdq_make_folder(w->staging, error);
  if (status == BPDQ_OK) status = bpdq_lock_file(lock, &w->lock, error);
  free(lock);
  if (status == BPDQ_OK) {
    status = take_over(w, options, settings, complete, error);
    if (status == BPDQ_OK && !*complete && bpdq_path_exists(w->destination) && !options->overwrite) {
      w->keep = w->finished > 0;
      status = bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "%s exists already: choose another folder, or pass --overwrite", w->destination);
    }
  } else if (w->lock == NULL) {
    w->keep = true; /* another run's staging folder, or none */
  }
  if (status != BPDQ_OK) {
    bpdq_writer_close(w);
    return status;
  }
  *writer = w;
  return BPDQ_OK;
}

void bpdq_writer_close(bpdq_writer *writer) {
  if (!writer) return;
  if (!writer->keep && writer->staging) bpdq_remove_folder(writer->staging, NULL);
  free_writer(writer);
}

/* ---- shards ---- */

bpdq_status bpdq_writer_shard(bpdq_writer *writer, int64_t shard, const bpdq_tensor_to_write *tensors, size_t count, const json_t *reports,
                              bpdq_error *error) {
  static const char *const METADATA[] = {"format", "pt", NULL};
  char *path = shard_name(writer, shard);
  if (!path) return out_of_memory(error);
  bpdq_status status = bpdq_safetensors_write(path, tensors, count, METADATA, error);
  free(path);
  if (status != BPDQ_OK || shard == 0 || shard > writer->blocks) return status;
  char name[64];
  snprintf(name, sizeof name, "block-%05lld.json", (long long)(shard - 1));
  json_t *object = json_pack("{sO}", "layers", (json_t *)reports);
  status = object ? write_json(writer->staging, name, object, error) : out_of_memory(error);
  json_decref(object);
  if (status == BPDQ_OK) {
    writer->finished = shard;
    writer->keep = true;
  }
  return status;
}

bpdq_status bpdq_writer_block_reports(const bpdq_writer *writer, int64_t block, json_t **reports, bpdq_error *error) {
  *reports = NULL;
  char *path = block_name(writer, block);
  if (!path) return out_of_memory(error);
  json_t *object;
  bpdq_status status = bpdq_json_load(path, LARGEST_JSON, &object, error);
  if (status == BPDQ_OK) {
    *reports = json_incref(json_object_get(object, "layers"));
    json_decref(object);
    if (!json_is_array(*reports)) status = bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: not the reports of a block", path);
  }
  free(path);
  return status;
}

bpdq_status bpdq_writer_store_plan(const bpdq_writer *writer, const json_t *plan, bpdq_error *error) {
  return write_json(writer->staging, "plan.json", plan, error);
}

bpdq_status bpdq_writer_load_plan(const bpdq_writer *writer, json_t **plan, bpdq_error *error) {
  *plan = NULL;
  char *path = bpdq_path_join(writer->staging, "plan.json");
  if (!path) return out_of_memory(error);
  bpdq_status status = bpdq_path_exists(path) ? bpdq_json_load(path, LARGEST_JSON, plan, error) : BPDQ_OK;
  free(path);
  return status;
}

/* ---- finishing ---- */

/* Adds the tensors of one shard to the weight map. */
static bpdq_status index_shard(const bpdq_writer *w, int64_t shard, json_t *map, uint64_t *bytes, bpdq_error *error) {
  char *path = shard_name(w, shard);
  if (!path) return out_of_memory(error);
  bpdq_safetensors *file;
  bpdq_status status = bpdq_safetensors_open(path, &file, error);
  if (status == BPDQ_OK) {
    for (size_t i = 0; i < bpdq_safetensors_count(file); i++) {
      const bpdq_stored_tensor *tensor = bpdq_safetensors_at(file, i);
      *bytes += tensor->bytes;
      if (json_object_set_new(map, tensor->name, json_string(strrchr(path, '/') + 1))) status = out_of_memory(error);
    }
    bpdq_safetensors_close(file);
  }
  free(path);
  return status;
}

bpdq_status bpdq_writer_index(const bpdq_writer *w, uint64_t *bytes, bpdq_error *error) {
  json_t *map = json_object();
  bpdq_status status = map ? BPDQ_OK : out_of_memory(error);
  *bytes = 0;
  for (int64_t shard = 0; shard < w->shards && status == BPDQ_OK; shard++) status = index_shard(w, shard, map, bytes, error);
  if (status == BPDQ_OK) {
    json_t *index = json_pack("{s{sI}sO}", "metadata", "total_size", (json_int_t)*bytes, "weight_map", map);
    char *text = index ? json_dumps(index, JSON_INDENT(1) | JSON_SORT_KEYS) : NULL;
    status = text ? write_file(w->model, "model.safetensors.index.json", text, strlen(text), error) : out_of_memory(error);
    free(text);
    json_decref(index);
  }
  json_decref(map);
  return status;
}

/* config.json with quantization_config put in the place of a null; NULL where there is none, or no memory. */
static char *replace_null(const char *text, size_t size, const json_t *quantization) {
  json_t *root = json_loadb(text, size, 0, NULL);
  char *joined = NULL;
  if (json_object_get(root, "quantization_config") && !json_object_set(root, "quantization_config", (json_t *)quantization))
    joined = json_dumps(root, JSON_INDENT(1));
  json_decref(root);
  return joined;
}

/* The source's config.json as it is written, with quantization_config as its last member; a second member of that name would make it
 * unreadable. */
static bpdq_status write_config(const bpdq_writer *w, const char *source, const json_t *quantization, bpdq_error *error) {
  char *path = bpdq_path_join(source, "config.json"), *text = NULL, *added = NULL, *joined = NULL;
  size_t size = 0;
  bpdq_status status = path ? bpdq_read_file(path, LARGEST_JSON, &text, &size, error) : out_of_memory(error);
  if (status != BPDQ_OK) goto done;
  joined = replace_null(text, size, quantization);
  char *brace = strrchr(text, '}');
  if (joined) {
    status = write_file(w->model, "config.json", joined, strlen(joined), error);
    goto done;
  }
  if (!brace) {
    status = bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: not a JSON object", path);
    goto done;
  }
  added = json_dumps(quantization, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
  size_t kept = (size_t)(brace - text);
  while (kept && strchr(" \t\r\n", text[kept - 1])) kept--;
  const char *comma = kept && text[kept - 1] == '{' ? "" : ",";
  if (added) joined = malloc(kept + strlen(added) + 64);
  if (!joined) {
    status = out_of_memory(error);
    goto done;
  }
  memcpy(joined, text, kept);
  sprintf(joined + kept, "%s\n \"quantization_config\": %s\n}\n", comma, added);
  status = write_file(w->model, "config.json", joined, strlen(joined), error);
done:
  free(path);
  free(text);
  free(added);
  free(joined);
  return status;
}

static bpdq_status copy_files(const bpdq_writer *w, const char *source, bpdq_error *error) {
  static const char *const NAMES[] = {
      "tokenizer.json",  "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",      "vocab.json", "merges.txt",
      "tokenizer.model", "chat_template.jinja",   "chat_template.json",      "generation_config.json", "LICENSE",    "LICENSE.txt",
      "NOTICE"};
  for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
    char *path = bpdq_path_join(source, NAMES[i]), *data = NULL;
    size_t size = 0;
    bpdq_status status = path ? BPDQ_OK : out_of_memory(error);
    if (status == BPDQ_OK && bpdq_path_exists(path)) {
      status = bpdq_read_file(path, LARGEST_COPY, &data, &size, error);
      if (status == BPDQ_OK) status = write_file(w->model, NAMES[i], data, size, error);
    }
    free(data);
    free(path);
    BPDQ_TRY(status);
  }
  return BPDQ_OK;
}

/* An existing destination steps aside into the staging folder, which is removed at the very end. A run can take hours, so what is under
 * that name now need not be what was there, or was not there, at its start. */
static bpdq_status give_name(bpdq_writer *w, bpdq_error *error) {
  if (bpdq_path_exists(w->destination)) {
    if (!w->overwrite)
      return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "%s was made by someone else meanwhile: move it away and finish with --resume",
                       w->destination);
    BPDQ_TRY(check_replaceable(w->destination, error));
    char *aside = bpdq_path_join(w->staging, "replaced");
    if (!aside) return out_of_memory(error);
    bpdq_status status = bpdq_remove_folder(aside, error);
    if (status == BPDQ_OK) status = bpdq_rename_durable(w->destination, aside, error);
    free(aside);
    BPDQ_TRY(status);
  }
  return bpdq_rename_durable(w->model, w->destination, error);
}

bpdq_status bpdq_writer_finish(bpdq_writer *writer, const char *source, const json_t *quantization, const json_t *report,
                               bpdq_error *error) {
  BPDQ_TRY(copy_files(writer, source, error));
  BPDQ_TRY(write_json(writer->model, "quantize_config.json", quantization, error));
  BPDQ_TRY(write_json(writer->model, "quantize_report.json", report, error));
  BPDQ_TRY(write_config(writer, source, quantization, error));
  BPDQ_TRY(give_name(writer, error));
  writer->keep = false;
  return BPDQ_OK;
}
