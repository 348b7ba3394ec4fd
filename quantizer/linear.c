/* One linear from weight to planes: the method, and the objectives of the report. */
#include <math.h>
#include <stdio.h>

#include "core/checked.h"
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
  BPDQ_TRY_GOTO(bpdq_quantize_go_on(options, error), done);
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
