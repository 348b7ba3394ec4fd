#include "backend/registry.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const bpdq_backend_registration *const registrations[] = {
#ifdef BPDQ_HAVE_CUDA
    &bpdq_cuda_registration,
#endif
#ifdef BPDQ_HAVE_VULKAN
    &bpdq_vulkan_registration,
#endif
    &bpdq_cpu_registration,
};

#define REGISTRATION_COUNT (sizeof registrations / sizeof *registrations)
#define MAX_DEVICES 64

const bpdq_backend_registration *const *bpdq_backend_registrations(size_t *count) {
  *count = REGISTRATION_COUNT;
  return registrations;
}

static const bpdq_backend_registration *find(const char *name) {
  for (size_t i = 0; i < REGISTRATION_COUNT; i++)
    if (!strcmp(registrations[i]->name, name)) return registrations[i];
  return NULL;
}

/* Lower is better; discrete > integrated > virtual > cpu (design section 3). */
static int kind_rank(const char *kind) {
  static const char *const order[] = {"discrete", "integrated", "virtual", "cpu"};
  for (int i = 0; i < 4; i++)
    if (!strcmp(kind, order[i])) return i;
  return 4;
}

static bpdq_status device_from_environment(int *device, bpdq_error *error) {
  const char *text = getenv("BPDQ_DEVICE");
  if (!text || !*text) return BPDQ_OK;
  char *end;
  errno = 0;
  long value = strtol(text, &end, 10);
  if (errno || *end || value < 0 || value > INT_MAX)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "BPDQ_DEVICE=%s is not a device number; `bpdq devices` lists them", text);
  *device = (int)value;
  return BPDQ_OK;
}

/* The usable device of a backend that ranks best, or -1 with the reason. Devices with less than `memory_needed` free do not count. */
static int best_device(const bpdq_backend_registration *registration, uint64_t memory_needed, bool allow_cpu_kind, const bpdq_log *log,
                       char *reason, size_t size) {
  bpdq_device_info devices[MAX_DEVICES];
  size_t count = registration->list(devices, MAX_DEVICES, log);
  int best = -1;
  snprintf(reason, size, "no %s device", registration->name);
  for (size_t i = 0; i < count && i < MAX_DEVICES; i++) {
    if (devices[i].unusable[0]) {
      snprintf(reason, size, "%s %.100s: %.100s", registration->name, devices[i].name, devices[i].unusable);
    } else if (!allow_cpu_kind && !strcmp(devices[i].kind, "cpu")) {
      snprintf(reason, size, "%s has no GPU, only %.100s", registration->name, devices[i].name);
    } else if (devices[i].memory_free < memory_needed) {
      snprintf(reason, size, "%s %.100s has %.1f GiB free, the model needs %.1f GiB", registration->name, devices[i].name,
               (double)devices[i].memory_free / 0x1p30, (double)memory_needed / 0x1p30);
    } else if (best < 0 || kind_rank(devices[i].kind) < kind_rank(devices[best].kind)) {
      best = (int)i;
    }
  }
  return best < 0 ? -1 : devices[best].index;
}

static bpdq_status create_named(const char *name, const char *why, const bpdq_backend_options *options, bpdq_backend **backend,
                                char *choice, size_t size, bpdq_error *error) {
  const bpdq_backend_registration *registration = find(name);
  if (!registration) {
    bool known = !strcmp(name, "cuda") || !strcmp(name, "vulkan") || !strcmp(name, "cpu");
    return bpdq_fail(
        error, BPDQ_ERROR_DEVICE,
        known ? "backend \"%s\" is not in this build; `bpdq devices` lists what is" : "unknown backend \"%s\"; choose cpu, vulkan or cuda",
        name);
  }
  BPDQ_TRY(registration->create(options, backend, error));
  snprintf(choice, size, "%s on %.150s (%s)", name, (*backend)->info.name, why);
  return BPDQ_OK;
}

static bpdq_status create_best(uint64_t memory_needed, bpdq_backend_options *options, bpdq_backend **backend, char *choice, size_t size,
                               bpdq_error *error) {
  if (options->vulkan) return create_named("vulkan", "the device was handed over by the program", options, backend, choice, size, error);
  char passed_over[200] = "";
  for (size_t i = 0; i < REGISTRATION_COUNT; i++) {
    char reason[200];
    bool is_cpu = !strcmp(registrations[i]->name, "cpu");
    if (is_cpu) break;
    int device = best_device(registrations[i], memory_needed, false, &options->log, reason, sizeof reason);
    if (device >= 0) {
      bpdq_backend_options chosen = *options;
      if (chosen.device < 0) chosen.device = device;
      return create_named(registrations[i]->name, "the best device found", &chosen, backend, choice, size, error);
    }
    size_t used = strlen(passed_over);
    snprintf(passed_over + used, sizeof passed_over - used, "%s%.90s", used ? "; " : "", reason);
  }
  bpdq_backend_options chosen = *options;
  chosen.device = -1;
  return create_named("cpu", passed_over[0] ? passed_over : "no GPU backend in this build", &chosen, backend, choice, size, error);
}

bpdq_status bpdq_backend_choose(const char *name, uint64_t memory_needed, const bpdq_backend_options *options, bpdq_backend **backend,
                                char *choice, size_t size, bpdq_error *error) {
  bpdq_backend_options chosen = *options;
  *backend = NULL;
  if (chosen.device < 0) BPDQ_TRY(device_from_environment(&chosen.device, error));
  const char *environment = getenv("BPDQ_BACKEND");
  if (name && *name) return create_named(name, "asked for", &chosen, backend, choice, size, error);
  if (environment && *environment) return create_named(environment, "BPDQ_BACKEND", &chosen, backend, choice, size, error);
  return create_best(memory_needed, &chosen, backend, choice, size, error);
}

size_t bpdq_devices(bpdq_device_info *devices, size_t capacity, bpdq_log_callback callback, void *user) {
  bpdq_log log = {callback, user};
  size_t total = 0;
  for (size_t i = 0; i < REGISTRATION_COUNT; i++) {
    size_t room = total < capacity ? capacity - total : 0;
    total += registrations[i]->list(room ? devices + total : NULL, room, &log);
  }
  return total;
}
