/* One linear from weight to planes: the method, the objectives of the report, and the checkpoint's layout. */
#include <math.h>
#include <stdio.h>

#include "core/checked.h"
#include "core/half.h"
#include "method.h"

const bpdq_method *bpdq_method_of(bpdq_quantize_method method) {
  switch (method) {
    case BPDQ_METHOD_RTN:
      return &bpdq_method_rtn;
    case BPDQ_METHOD_GPTQ:
      return &bpdq_method_gptq;
    case BPDQ_METHOD_REFERENCE:
      return &bpdq_method_reference;
    default:
      return &bpdq_method_bpdq;
  }
}

bpdq_inputs_desc bpdq_method_inputs(const bpdq_method *method, const bpdq_quantize_options *options, int group) {
  return (bpdq_inputs_desc){.group = group,
                            .damping = options->damping,
                            .target_damping = options->recipe.target_damping,
                            .factor = method->factor,
                            .metric = method->metric,
                            .reference_dead = method->reference_dead};
}

double bpdq_bits_per_weight(int64_t columns, int planes, int group) {
  double groups = (double)bpdq_ceil_div((uint64_t)columns, (uint64_t)group);
  return groups * (planes * (double)group + 16.0 * (planes + 1)) / (double)columns;
}

/* Objectives of round to nearest and, where asked for, GPTQ on the plain weight. */
static bpdq_status compare_uniform(bpdq_algebra *algebra, const bpdq_inputs *inputs, const bpdq_work_desc *desc, bool gptq,
                                   bpdq_layer_report *report, bpdq_error *error) {
  bpdq_work_desc plain = *desc;
  plain.use_cross = plain.use_residual = false;
  bpdq_work *work;
  BPDQ_TRY(algebra->work_create(algebra, inputs, &plain, &work, error));
  bpdq_status status;
  BPDQ_TRY_GOTO(algebra->uniform(algebra, work, false, error), done);
  BPDQ_TRY_GOTO(algebra->objective(algebra, work, &report->objective_rtn, NULL, &report->objective_zero, error), done);
  if (!gptq) goto done;
  BPDQ_TRY_GOTO(algebra->uniform(algebra, work, true, error), done);
  BPDQ_TRY_GOTO(algebra->objective(algebra, work, &report->objective_gptq, NULL, NULL, error), done);
done:
  algebra->work_destroy(algebra, work);
  return status;
}

bpdq_status bpdq_quantize_linear(bpdq_algebra *algebra, const bpdq_inputs *inputs, const bpdq_inputs_info *info, const bpdq_linear_job *job,
                                 const bpdq_quantize_options *options, bpdq_layer_result *result, bpdq_layer_report *report,
                                 bpdq_error *error) {
  const bpdq_method *method = bpdq_method_of(options->method);
  bpdq_quantize_seconds *parts = &report->parts;
  bpdq_clock clock = bpdq_clock_start(algebra);
  bpdq_work_desc desc = {.name = job->name,
                         .rows = job->rows,
                         .planes = job->planes,
                         .weight = job->weight,
                         .use_cross = method->dense_stream && options->recipe.dense_target,
                         .use_residual = method->dense_stream && options->recipe.residual_target};
  snprintf(report->name, sizeof report->name, "%s", job->name);
  report->rows = job->rows;
  report->planes = job->planes;
  report->damping = info->damping;
  report->dead_columns = info->dead_columns;
  report->objective_gptq = NAN;
  bpdq_work *work;
  BPDQ_TRY(algebra->work_create(algebra, inputs, &desc, &work, error));
  bpdq_clock_add(&clock, &parts->target);
  bpdq_status status;
  BPDQ_TRY_GOTO(method->run(algebra, work, options, parts, error), done);
  clock = bpdq_clock_start(algebra);
  BPDQ_TRY_GOTO(algebra->result(algebra, work, result, error), done);
  bpdq_clock_add(&clock, &parts->result);
  report->columns = result->columns;
  report->group = result->group;
  report->bits_per_weight = bpdq_bits_per_weight(result->columns, result->planes, result->group);
  report->seconds = parts->target + parts->walk + parts->sweeps + parts->refits + parts->result;
  bool own_target = desc.use_cross || desc.use_residual; /* else T is W */
  BPDQ_TRY_GOTO(algebra->objective(algebra, work, &report->objective, own_target ? &report->objective_target : NULL, NULL, error), done);
  if (!own_target) report->objective_target = report->objective;
  BPDQ_TRY_GOTO(compare_uniform(algebra, inputs, &desc, options->compare_gptq && method->factor, report, error), done);
  bpdq_clock_add(&clock, &parts->objectives);
done:
  if (status != BPDQ_OK) bpdq_layer_result_free(result);
  algebra->work_destroy(algebra, work);
  return status;
}

bpdq_status bpdq_pack_result(const bpdq_layer_result *result, uint16_t **coefficients, uint32_t **bits, bpdq_error *error) {
  int64_t n = result->rows, padded = result->groups * result->group, terms = result->groups * (result->planes + 1) * n;
  *coefficients = bpdq_alloc_array((size_t)terms, sizeof **coefficients);
  *bits = calloc((size_t)(padded / 32 * result->planes * n), sizeof **bits);
  if (!*coefficients || !*bits) {
    free(*coefficients);
    free(*bits);
    *coefficients = NULL;
    *bits = NULL;
    return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory for the packed planes");
  }
  for (int64_t i = 0; i < terms; i++) (*coefficients)[i] = bpdq_float_to_bf16(result->coefficients[i]);
  for (int64_t column = 0; column < padded; column++)
    for (int p = 0; p < result->planes; p++) {
      uint32_t *words = *bits + (column / 32 * result->planes + p) * n;
      const uint8_t *codes = result->codes + column * n;
      for (int64_t row = 0; row < n; row++) words[row] |= (uint32_t)(codes[row] >> p & 1u) << (column % 32);
    }
  return BPDQ_OK;
}

void bpdq_dequantize_result(const bpdq_layer_result *result, float *out) {
  int64_t n = result->rows;
  for (int64_t row = 0; row < n; row++)
    for (int64_t column = 0; column < result->columns; column++) {
      const float *c = result->coefficients + column / result->group * (result->planes + 1) * n + row;
      unsigned code = result->codes[column * n + row];
      float value = c[result->planes * n];
      for (int p = 0; p < result->planes; p++)
        if (code >> p & 1u) value += c[p * n];
      out[row * result->columns + column] = value;
    }
}
