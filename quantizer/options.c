/* Defaults and checks of the public options. */
#include "options.h"

#include <math.h>
#include <string.h>

#include "linalg.h"

static const char *const METHOD_NAMES[] = {"bpdq", "reference", "gptq", "rtn"};

const char *bpdq_quantize_method_name(bpdq_quantize_method method) {
  return (unsigned)method < sizeof METHOD_NAMES / sizeof *METHOD_NAMES ? METHOD_NAMES[method] : "unknown";
}

bool bpdq_quantize_method_parse(const char *word, bpdq_quantize_method *method) {
  for (size_t i = 0; i < sizeof METHOD_NAMES / sizeof *METHOD_NAMES; i++)
    if (!strcmp(word, METHOD_NAMES[i])) {
      *method = (bpdq_quantize_method)i;
      return true;
    }
  return false;
}

bpdq_quantize_options bpdq_quantize_default_options(void) {
  return (bpdq_quantize_options){
      .method = BPDQ_METHOD_BPDQ,
      .planes = 2,
      .group = 64,
      .text_field = "text",
      .samples = 128,
      .sequence_length = 1024,
      .damping = 0.05,
      .iterations = 10,
      .alpha = 1e-4,
      .recipe = {.dense_target = true,
                 .residual_target = true,
                 .best_per_row = true,
                 .several_starts = true,
                 .coordinate_descent = true,
                 .joint_refit = true,
                 .rounds = 4,
                 .sweeps_per_round = 2,
                 .final_sweeps = 2,
                 .target_damping = 0.01},
      .algebra = "cpu",
      .device = -1,
  };
}

static bool backend_known(const char *name) { return !strcmp(name, "cpu") || !strcmp(name, "vulkan") || !strcmp(name, "cuda"); }

static bool within(double value, double low, double high) { return isfinite(value) && value >= low && value <= high; }

bpdq_status bpdq_check_quantize_options(const bpdq_quantize_options *options, bpdq_error *error) {
  const bpdq_recipe *recipe = &options->recipe;
  if ((unsigned)options->method >= sizeof METHOD_NAMES / sizeof *METHOD_NAMES)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "method: unknown number %d", (int)options->method);
  if (options->planes < 1 || options->planes > 8)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "planes: %d given, 1 to 8 are possible", options->planes);
  if (options->group < 32 || options->group > 256 || options->group % 32)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "group: %d given, must be a multiple of 32 from 32 to 256", options->group);
  if (options->bits != 0 && !within(options->bits, 1, 9))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "bits: %g given, 1 to 9 bits per weight are possible", options->bits);
  if (options->head_bits != 0 && (options->head_bits < 2 || options->head_bits > 8))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "head bits: %d given, 2 to 8 are possible (0: dense)", options->head_bits);
  if (options->samples < 0 || options->samples > 1 << 24)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "samples: %lld is out of range", (long long)options->samples);
  if (options->sequence_length < 8 || options->sequence_length > 1 << 20)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "sequence length: %lld given, 8 to 1048576 are possible",
                     (long long)options->sequence_length);
  if (!within(options->damping, 0, 10) || !within(options->alpha, 0, 1e6) || !within(recipe->target_damping, 1e-9, 10))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "damping or alpha is out of range");
  if (options->iterations < 1 || options->iterations > 1000)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "iterations: %d given, 1 to 1000 are possible", options->iterations);
  if (recipe->rounds < 0 || recipe->rounds > 1000 || recipe->sweeps_per_round < 0 || recipe->sweeps_per_round > 1000 ||
      recipe->final_sweeps < 0 || recipe->final_sweeps > 1000)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "rounds and sweeps: 0 to 1000 are possible");
  if (recipe->restarts < 0 || recipe->restarts > 3 || (recipe->restarts && !recipe->several_starts))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "restarts: 0 to 3 are possible, and none without several starts");
  if (!within(options->device_memory, 0, 1e18))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "device memory: %g bytes given, must be 0 (all) or more", options->device_memory);
  if (options->backend && !backend_known(options->backend))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "backend: '%s' is unknown, possible are cpu, vulkan and cuda", options->backend);
  if (options->device < -1 || (options->device >= 0 && !options->backend))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "device: %d given, must be the number of a device of a named backend, or -1",
                     options->device);
  if (!bpdq_quantize_algebra_known(options->algebra))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT,
                     "algebra: '%s' is unknown, possible are cpu, cuda, cuda:N and several of a kind joined by +, like cuda:0+cuda:1",
                     options->algebra);
  return BPDQ_OK;
}

bool bpdq_quantize_cancelled(const bpdq_quantize_options *options) { return options->cancel && *options->cancel; }

bpdq_status bpdq_quantize_go_on(const bpdq_quantize_options *options, bpdq_error *error) {
  return bpdq_quantize_cancelled(options) ? bpdq_fail(error, BPDQ_ERROR_CANCELLED, "quantize: interrupted") : BPDQ_OK;
}
