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

static const bpdq_backend_registration *find(const bpdq_backend_list *list, const char *name) {
  for (size_t i = 0; i < list->count; i++)
    if (!strcmp(list->backends[i]->name, name)) return list->backends[i];
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

/* The best of a backend's devices that can take the model, or -1 with the reason. `asked` >= 0: that one alone counts. CPUs do not. */
static int best_device(const char *name, const bpdq_device_info *devices, size_t count, uint64_t memory_needed, int asked, char *reason,
                       size_t size) {
  int best = -1;
  if (asked < 0)
    snprintf(reason, size, "no %s device", name);
  else
    snprintf(reason, size, "no %s device %d", name, asked);
  for (size_t i = 0; i < count; i++) {
    if (asked >= 0 && devices[i].index != asked) continue;
    if (devices[i].unusable[0]) {
      snprintf(reason, size, "%s %.100s: %.100s", name, devices[i].name, devices[i].unusable);
    } else if (!strcmp(devices[i].kind, "cpu")) {
      snprintf(reason, size, "%s has no GPU, only %.100s", name, devices[i].name);
    } else if (devices[i].memory_free < memory_needed) {
      snprintf(reason, size, "%s %.100s has %.1f GiB free, the model needs %.1f GiB", name, devices[i].name,
               (double)devices[i].memory_free / 0x1p30, (double)memory_needed / 0x1p30);
    } else if (best < 0 || kind_rank(devices[i].kind) < kind_rank(devices[best].kind)) {
      best = (int)i;
    }
  }
  return best;
}

/* What was not taken, for the line that explains the choice. */
typedef struct passed_over {
  char text[300];
  bool failed; /* a device did not start */
} passed_over;

static void pass_over(passed_over *passed, const char *reason) {
  size_t used = strlen(passed->text);
  snprintf(passed->text + used, sizeof passed->text - used, "%s%.140s", used ? "; " : "", reason);
}

/* The best device of a backend that starts; one that was asked for must. Without an error *backend may be NULL: there is none. */
static bpdq_status start_best(const bpdq_backend_registration *registration, uint64_t memory_needed, const bpdq_backend_options *options,
                              bpdq_backend **backend, passed_over *passed, bpdq_error *error) {
  bpdq_device_info devices[MAX_DEVICES];
  size_t listed = registration->list(devices, MAX_DEVICES, &options->log), count = listed < MAX_DEVICES ? listed : MAX_DEVICES;
  for (bool failed = false;; failed = true) {
    char reason[300];
    int best = best_device(registration->name, devices, count, memory_needed, options->device, reason, sizeof reason);
    if (best < 0 && !failed) pass_over(passed, reason);
    if (best < 0) return BPDQ_OK;
    bpdq_backend_options chosen = *options;
    bpdq_error problem = {0};
    chosen.device = devices[best].index;
    bpdq_status status = registration->create(&chosen, backend, &problem);
    if (status == BPDQ_OK) return BPDQ_OK;
    if (status != BPDQ_ERROR_DEVICE || options->device >= 0) {
      if (error) *error = problem;
      return status;
    }
    bpdq_log_warning(&options->log, "%s device %d, %.100s, does not start and is passed over: %s", registration->name, chosen.device,
                     devices[best].name, problem.message);
    snprintf(reason, sizeof reason, "%s %.60s: %s", registration->name, devices[best].name, problem.message);
    pass_over(passed, reason);
    passed->failed = true;
    snprintf(devices[best].unusable, sizeof devices[best].unusable, "does not start");
  }
}

static bpdq_status create_named(const bpdq_backend_list *list, const char *name, const char *why, const bpdq_backend_options *options,
                                bpdq_backend **backend, char *choice, size_t size, bpdq_error *error) {
  const bpdq_backend_registration *registration = find(list, name);
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

static bpdq_status create_best(const bpdq_backend_list *list, uint64_t memory_needed, const bpdq_backend_options *options,
                               bpdq_backend **backend, char *choice, size_t size, bpdq_error *error) {
  if (options->vulkan)
    return create_named(list, "vulkan", "the device was handed over by the program", options, backend, choice, size, error);
  passed_over passed = {0};
  for (size_t i = 0; i < list->count && strcmp(list->backends[i]->name, "cpu"); i++) {
    BPDQ_TRY(start_best(list->backends[i], memory_needed, options, backend, &passed, error));
    if (!*backend) continue;
    snprintf(choice, size, "%s on %.150s (%s%s)", list->backends[i]->name, (*backend)->info.name,
             passed.failed ? "the best device that starts; " : "the best device found", passed.failed ? passed.text : "");
    return BPDQ_OK;
  }
  const char *why = passed.text[0] ? passed.text : "no GPU backend in this build";
  /* The CPU is device 0 alone, and nobody who asks for another means it. */
  if (options->device > 0)
    return bpdq_fail(error, BPDQ_ERROR_DEVICE, "device %d cannot be had: %s; `bpdq devices` lists what is there", options->device, why);
  return create_named(list, "cpu", why, options, backend, choice, size, error);
}

bpdq_status bpdq_backend_choose_from(const bpdq_backend_list *list, const char *name, uint64_t memory_needed,
                                     const bpdq_backend_options *options, bpdq_backend **backend, char *choice, size_t size,
                                     bpdq_error *error) {
  bpdq_backend_options chosen = *options;
  *backend = NULL;
  if (chosen.device < 0) BPDQ_TRY(device_from_environment(&chosen.device, error));
  const char *environment = getenv("BPDQ_BACKEND");
  if (name && *name) return create_named(list, name, "asked for", &chosen, backend, choice, size, error);
  if (environment && *environment) return create_named(list, environment, "BPDQ_BACKEND", &chosen, backend, choice, size, error);
  return create_best(list, memory_needed, &chosen, backend, choice, size, error);
}

bpdq_status bpdq_backend_choose(const char *name, uint64_t memory_needed, const bpdq_backend_options *options, bpdq_backend **backend,
                                char *choice, size_t size, bpdq_error *error) {
  const bpdq_backend_list built_in = {registrations, REGISTRATION_COUNT};
  return bpdq_backend_choose_from(&built_in, name, memory_needed, options, backend, choice, size, error);
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
