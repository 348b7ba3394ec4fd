/* Measuring, then a walk up the convex hulls of all linears' curves of divergence over bits. */
#include "budget.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "capture.h"
#include "core/checked.h"
#include "method.h"
#include "sensitivity.h"

enum {
  WINDOWS = 8,         /* calibration windows that are looked at ... */
  WINDOW_TOKENS = 512, /* ... and their longest length */
  MEASURED_PLANES = 2, /* the plane count at which the divergence is measured */
  MAX_GROUPS = 4
};

typedef struct finder {
  const bpdq_checkpoint *checkpoint;
  const bpdq_quantize_options *options;
  bpdq_quantize_options quick; /* a cheap recipe: the objectives' ratios matter, not their values */
  bpdq_algebra *algebra;
  bpdq_calibration windows;
  bpdq_sensitivity *sensitivity;
  bpdq_streams *streams;
  int groups[MAX_GROUPS], group_count;
  int lowest; /* planes that are tried at least: 1 only where the budget forces it */
  int64_t linears;
  double *divergence; /* [group_count][linears][BPDQ_BUDGET_PLANES] */
} finder;

/* ---- choosing ---- */

/* Steps up the lower convex hull of each linear's (bits, divergence) curve, the steepest step first, while the budget lasts. */
typedef struct step {
  int64_t linear;
  int planes;
  double cost, gain;
} step;

/* The next corner of the hull above `planes`: the plane count with the most gain per bit. 0 where there is none. */
static int next_corner(const double *divergence, const double *bits, int planes) {
  int best = 0;
  double steepest = 0;
  for (int k = planes + 1; k <= BPDQ_BUDGET_PLANES; k++) {
    double slope = (divergence[planes - 1] - divergence[k - 1]) / (bits[k - 1] - bits[planes - 1]);
    if (slope > steepest) steepest = slope, best = k;
  }
  return best;
}

static bool choose_from(int64_t linears, const double *divergence, const double *bits, const double *weights, double budget, int lowest,
                        uint8_t *planes, double *total) {
  double all = 0, used = 0;
  for (int64_t i = 0; i < linears; i++) all += weights[i];
  used = all * bits[lowest - 1];
  if (used > budget * all * (1 + 1e-12)) return false;
  for (int64_t i = 0; i < linears; i++) planes[i] = (uint8_t)lowest;
  for (;;) {
    step best = {.linear = -1};
    for (int64_t i = 0; i < linears; i++) {
      const double *curve = divergence + i * BPDQ_BUDGET_PLANES;
      int next = next_corner(curve, bits, planes[i]);
      if (!next) continue;
      double cost = weights[i] * (bits[next - 1] - bits[planes[i] - 1]), gain = curve[planes[i] - 1] - curve[next - 1];
      if (used + cost <= budget * all * (1 + 1e-12) && (best.linear < 0 || gain / cost > best.gain / best.cost))
        best = (step){i, next, cost, gain};
    }
    if (best.linear < 0) break;
    planes[best.linear] = (uint8_t)best.planes;
    used += best.cost;
  }
  *total = 0;
  for (int64_t i = 0; i < linears; i++) *total += divergence[i * BPDQ_BUDGET_PLANES + planes[i] - 1];
  return true;
}

/* One plane is so coarse that divergences no longer add up: it is considered only where two planes each are over the budget. */
bool bpdq_budget_choose(int64_t linears, const double *divergence, const double *bits, const double *weights, double budget,
                        uint8_t *planes, double *total) {
  return choose_from(linears, divergence, bits, weights, budget, 2, planes, total) ||
         choose_from(linears, divergence, bits, weights, budget, 1, planes, total);
}

/* ---- measuring ---- */

/* The objective of one linear with a cheap recipe, and where `divergence` is given what the model suffers from that result. */
static bpdq_status try_planes(finder *f, const bpdq_inputs *inputs, int64_t layer, int linear, int planes, double *objective,
                              double *divergence, bpdq_error *error) {
  const bpdq_block_linear *source = &bpdq_sensitivity_block(f->sensitivity, layer)->linears[linear];
  bpdq_work_desc desc = {.name = source->name, .rows = source->rows, .planes = planes, .weight = source->weight};
  bpdq_work *work;
  bpdq_layer_result result = {0};
  bpdq_quantize_seconds seconds = {0};
  float *weight = NULL;
  BPDQ_TRY(f->algebra->work_create(f->algebra, inputs, &desc, &work, error));
  bpdq_status status;
  BPDQ_TRY_GOTO(bpdq_method_bpdq.run(f->algebra, work, &f->quick, &seconds, error), done);
  BPDQ_TRY_GOTO(f->algebra->objective(f->algebra, work, objective, NULL, NULL, error), done);
  if (!divergence) goto done;
  BPDQ_TRY_GOTO(f->algebra->result(f->algebra, work, &result, error), done);
  weight = bpdq_alloc_array((size_t)(source->rows * source->columns), sizeof *weight);
  if (weight) {
    bpdq_dequantize_result(&result, NULL, weight);
    status = bpdq_sensitivity_measure(f->sensitivity, layer, linear, weight, divergence, error);
  } else {
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  }
done:
  free(weight);
  bpdq_layer_result_free(&result);
  f->algebra->work_destroy(f->algebra, work);
  return status;
}

/* The objectives of one linear at all plane counts and group sizes, and its divergence at two planes and the smallest group. One plane is
 * tried only where the budget forces it; five are taken to improve on four as four do on three. */
static bpdq_status measure_linear(finder *f, int64_t layer, int linear, bpdq_inputs *const *inputs, bpdq_error *error) {
  double objectives[MAX_GROUPS][BPDQ_BUDGET_PLANES], measured = 0;
  for (int g = 0; g < f->group_count; g++) {
    double *of_group = objectives[g];
    for (int k = f->lowest; k <= 4; k++)
      BPDQ_TRY(try_planes(f, inputs[g], layer, linear, k, &of_group[k - 1], g == 0 && k == MEASURED_PLANES ? &measured : NULL, error));
    if (f->lowest > 1) of_group[0] = INFINITY;
    of_group[4] = of_group[2] > 0 ? of_group[3] * fmin(of_group[3] / of_group[2], 1) : 0;
  }
  double per_objective = objectives[0][MEASURED_PLANES - 1] > 0 ? fmax(measured, 0) / objectives[0][MEASURED_PLANES - 1] : 0;
  for (int g = 0; g < f->group_count; g++)
    for (int k = 0; k < BPDQ_BUDGET_PLANES; k++)
      f->divergence[((int64_t)g * f->linears + layer * BPDQ_LINEARS + linear) * BPDQ_BUDGET_PLANES + k] = per_objective * objectives[g][k];
  return BPDQ_OK;
}

static bpdq_status measure_stage(finder *f, int64_t layer, bpdq_stage stage, bpdq_error *error) {
  static const int FIRST[BPDQ_STAGES + 1] = {BPDQ_Q, BPDQ_O, BPDQ_GATE, BPDQ_DOWN, BPDQ_LINEARS};
  const bpdq_block *block = bpdq_sensitivity_block(f->sensitivity, layer);
  const bpdq_block_linear *first = &block->linears[FIRST[stage]];
  bpdq_statistics_desc desc = {.name = first->name, .columns = first->columns};
  bpdq_statistics *statistics;
  bpdq_inputs *inputs[MAX_GROUPS] = {0};
  BPDQ_TRY(f->algebra->statistics_create(f->algebra, &desc, &statistics, error));
  bpdq_status status;
  BPDQ_TRY_GOTO(f->streams->capture(f->streams, stage, NULL, block, statistics, error), done);
  BPDQ_TRY_GOTO(f->algebra->statistics_finish(f->algebra, statistics, error), done);
  for (int g = 0; g < f->group_count; g++) {
    bpdq_inputs_info info;
    bpdq_inputs_desc prepared = bpdq_method_inputs(bpdq_method_of(f->quick.method), &f->quick, f->groups[g]);
    BPDQ_TRY_GOTO(f->algebra->inputs_create(f->algebra, statistics, &prepared, &inputs[g], &info, error), done);
  }
  for (int i = FIRST[stage]; i < FIRST[stage + 1]; i++) BPDQ_TRY_GOTO(measure_linear(f, layer, i, inputs, error), done);
done:
  for (int g = 0; g < f->group_count; g++) f->algebra->inputs_destroy(f->algebra, inputs[g]);
  f->algebra->statistics_destroy(f->algebra, statistics);
  return status;
}

static const bpdq_linear_source *linear_at(const finder *f, int64_t index) {
  return bpdq_block_source(&f->checkpoint->layers[index / BPDQ_LINEARS], (int)(index % BPDQ_LINEARS));
}

static double stored_weights(const bpdq_linear_source *linear, int group) { /* padded columns are paid for too */
  return (double)linear->rows * (double)bpdq_round_up((uint64_t)linear->columns, (uint64_t)group);
}

/* Bits per weight of the whole with one plane everywhere. */
static double one_plane_bits(const finder *f, int group) {
  double all = 0, stored = 0;
  for (int64_t i = 0; i < f->linears; i++) {
    all += (double)(linear_at(f, i)->rows * linear_at(f, i)->columns);
    stored += stored_weights(linear_at(f, i), group);
  }
  return (1 + 32.0 / group) * stored / all;
}

/* Known before anything is measured: whether the budget holds one plane everywhere in the groups that take least. */
static bpdq_status check_budget(const finder *f, bpdq_error *error) {
  double budget = f->options->bits * (1 + 1e-12), least = INFINITY;
  for (int g = 0; g < f->group_count; g++) least = fmin(least, one_plane_bits(f, f->groups[g]));
  if (budget >= least) return BPDQ_OK;
  char other[64] = "";
  for (int group = 32; group <= 256 && !other[0]; group += 32)
    if (budget >= one_plane_bits(f, group)) snprintf(other, sizeof other, " or use other groups (--group %d)", group);
  return bpdq_fail(error, BPDQ_ERROR_ARGUMENT,
                   "bits: %g per weight are less than the %.3f that one plane takes in groups from %d up: raise the budget (--bits)%s",
                   f->options->bits, ceil(least * 1000) / 1000, f->groups[0], other);
}

/* Evenly spread windows of the calibration set, cut to WINDOW_TOKENS. */
static bpdq_status take_windows(finder *f, const bpdq_calibration *calibration, bpdq_error *error) {
  int64_t count = calibration->count < WINDOWS ? calibration->count : WINDOWS;
  int64_t length = calibration->length < WINDOW_TOKENS ? calibration->length : WINDOW_TOKENS;
  f->windows = (bpdq_calibration){bpdq_alloc_array((size_t)(count * length), sizeof(int32_t)), count, length};
  if (!f->windows.ids) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  for (int64_t i = 0; i < count; i++)
    memcpy(f->windows.ids + i * length, calibration->ids + i * calibration->count / count * calibration->length,
           (size_t)length * sizeof *f->windows.ids);
  return BPDQ_OK;
}

static bpdq_status measure(finder *f, const bpdq_calibration *calibration, bpdq_error *error) {
  BPDQ_TRY(take_windows(f, calibration, error));
  BPDQ_TRY(bpdq_sensitivity_create(f->checkpoint, &f->windows, f->options, &f->sensitivity, error));
  bpdq_streams_desc desc = {
      .checkpoint = f->checkpoint, .calibration = &f->windows, .threads = f->options->threads, .cancel = f->options->cancel};
  BPDQ_TRY(bpdq_streams_create(f->algebra, &desc, &f->streams, error));
  f->lowest = f->options->bits < 2 + 16.0 * 3 / f->groups[f->group_count - 1] ? 1 : 2;
  f->divergence = bpdq_alloc_array((size_t)(f->linears * f->group_count * BPDQ_BUDGET_PLANES), sizeof *f->divergence);
  if (!f->divergence) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  for (int64_t layer = 0; layer < f->checkpoint->config.layers; layer++) {
    for (bpdq_stage stage = 0; stage < BPDQ_STAGES; stage++) BPDQ_TRY(measure_stage(f, layer, stage, error));
    BPDQ_TRY(f->streams->finish_block(f->streams, bpdq_sensitivity_block(f->sensitivity, layer), error));
  }
  return BPDQ_OK;
}

/* ---- the plan ---- */

/* The cheapest choice over the group sizes. Stored bits depend on the columns through padding, so they are summed exactly. */
static bpdq_status make_plan(finder *f, const bpdq_log *log, bpdq_budget_plan *plan, bpdq_error *error) {
  double *weights = bpdq_alloc_array((size_t)f->linears, sizeof *weights), least = INFINITY;
  uint8_t *planes = bpdq_alloc_array((size_t)f->linears, 1);
  plan->per_linear = bpdq_alloc_array((size_t)f->linears, 1);
  bpdq_status status = BPDQ_OK;
  if (!weights || !planes || !plan->per_linear) status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  for (int g = 0; g < f->group_count && status == BPDQ_OK; g++) {
    double bits[BPDQ_BUDGET_PLANES], total, stored = 0, all = 0;
    for (int k = 1; k <= BPDQ_BUDGET_PLANES; k++) bits[k - 1] = k + 16.0 * (k + 1) / f->groups[g];
    for (int64_t i = 0; i < f->linears; i++) weights[i] = stored_weights(linear_at(f, i), f->groups[g]);
    for (int64_t i = 0; i < f->linears; i++) all += (double)(linear_at(f, i)->rows * linear_at(f, i)->columns), stored += weights[i];
    const double *divergence = f->divergence + (int64_t)g * f->linears * BPDQ_BUDGET_PLANES;
    if (!bpdq_budget_choose(f->linears, divergence, bits, weights, f->options->bits * all / stored, planes, &total)) continue;
    bpdq_log_info(log, "groups of %d: sum of the layers' divergences %.4f", f->groups[g], total);
    if (total >= least) continue;
    least = total;
    plan->group = f->groups[g];
    plan->bits = 0;
    memcpy(plan->per_linear, planes, (size_t)f->linears);
    for (int64_t i = 0; i < f->linears; i++) plan->bits += weights[i] * bits[planes[i] - 1] / all;
  }
  free(weights);
  free(planes);
  if (status == BPDQ_OK && !plan->group)
    status = bpdq_fail(error, BPDQ_ERROR_INTERNAL, "bits: no choice of planes takes %g per weight", f->options->bits);
  if (status == BPDQ_OK) {
    int64_t counts[BPDQ_BUDGET_PLANES + 1] = {0};
    for (int64_t i = 0; i < f->linears; i++) counts[plan->per_linear[i]]++;
    for (int k = 1; k <= BPDQ_BUDGET_PLANES; k++)
      if (!plan->planes || counts[k] > counts[plan->planes]) plan->planes = k;
  }
  return status;
}

bpdq_status bpdq_budget_find(const bpdq_checkpoint *checkpoint, const bpdq_calibration *calibration, const bpdq_quantize_options *options,
                             bpdq_algebra *algebra, const bpdq_log *log, bpdq_budget_plan *plan, bpdq_error *error) {
  *plan = (bpdq_budget_plan){0};
  finder f = {.checkpoint = checkpoint,
              .options = options,
              .quick = *options,
              .algebra = algebra,
              .linears = checkpoint->config.layers * BPDQ_LINEARS};
  for (int group = options->group; group <= 256 && f.group_count < MAX_GROUPS; group *= 2) f.groups[f.group_count++] = group;
  BPDQ_TRY(check_budget(&f, error));
  f.quick.method = BPDQ_METHOD_BPDQ;
  f.quick.iterations = 5;
  f.quick.compare_gptq = false;
  f.quick.recipe = (bpdq_recipe){.best_per_row = true,
                                 .coordinate_descent = true,
                                 .joint_refit = true,
                                 .rounds = 1,
                                 .sweeps_per_round = 1,
                                 .final_sweeps = 1,
                                 .target_damping = options->recipe.target_damping};
  bpdq_log_info(log, "measuring how sensitive each linear is, to spread %g bits per weight", options->bits);
  bpdq_status status = measure(&f, calibration, error);
  if (status == BPDQ_OK) status = make_plan(&f, log, plan, error);
  free(f.divergence);
  free(f.windows.ids);
  bpdq_streams_destroy(f.streams);
  bpdq_sensitivity_destroy(f.sensitivity);
  if (status != BPDQ_OK) {
    free(plan->per_linear);
    plan->per_linear = NULL;
  }
  return status;
}
