#include <stdio.h>
#include <stdlib.h>

#include "cli.h"

#define MAX_DEVICES 64

static json_t *device_json(const bpdq_device_info *d) {
  return json_pack("{ss sI ss* ss* ss sI sI ss* ss*}", "backend", d->backend, "index", (json_int_t)d->index, "name", d->name, "driver",
                   d->driver, "kind", d->kind, "memory_total", (json_int_t)d->memory_total, "memory_free", (json_int_t)d->memory_free,
                   "features", d->features, "unusable", d->unusable[0] ? d->unusable : NULL);
}

static int print_json(const bpdq_device_info *devices, size_t count) {
  json_t *list = json_array();
  for (size_t i = 0; i < count; i++) json_array_append_new(list, device_json(&devices[i]));
  return cli_print_json(json_pack("{so}", "devices", list));
}

static void print_device(const bpdq_device_info *d) {
  char total[32], unused[32];
  printf("%s %d: %s\n", d->backend, d->index, d->name);
  printf("  kind    %s\n", d->kind);
  printf("  memory  %s, %s free\n", options_size_text(d->memory_total, total, sizeof total),
         options_size_text(d->memory_free, unused, sizeof unused));
  if (d->driver[0]) printf("  driver  %s\n", d->driver);
  if (d->features[0]) printf("  paths   %s\n", d->features);
  if (d->unusable[0]) printf("  cannot run models: %s\n", d->unusable);
}

static int run(const command *self, int argc, char **argv) {
  model_flags flags = model_flags_default();
  void *bases[] = {&flags};
  const char *words[MAX_POSITIONALS];
  int code;
  if (!options_parse(self, bases, argc, argv, words, &code)) return code;
  cli_log log = {.quiet = flags.quiet, .released = true};
  bpdq_device_info *devices = calloc(MAX_DEVICES, sizeof *devices);
  if (!devices) return cli_fail_text("out of memory");
  size_t count = bpdq_devices(devices, MAX_DEVICES, cli_log_callback, &log);
  if (count > MAX_DEVICES) count = MAX_DEVICES;
  if (flags.json) code = print_json(devices, count);
  for (size_t i = 0; i < count && !flags.json; i++) print_device(&devices[i]);
  free(devices);
  return code;
}

const command command_devices = {
    .name = "devices",
    .summary = "list every device of every backend",
    .tables = {&output_flag_table},
    .examples = "bpdq devices\nbpdq devices --json",
    .run = run,
};
