/* `quantize`: a model folder block by block. Within a block the linears come in true sequence (q k v, o, gate up, down): each stage's
 * inputs are captured with everything before it quantized, and only that stage's Hessian is in memory. */
#include <string.h>

#include "budget.h"
#include "capture.h"
#include "core/checked.h"
#include "core/half.h"
#include "core/platform.h"
#include "method.h"
#include "report.h"
#include "writer.h"

typedef struct run {
  const bpdq_quantize_options *options; /* with the plan's planes and group where bits are a budget */
  bpdq_quantize_options planned;
  const bpdq_method *method;
  bpdq_log log;
  bpdq_checkpoint checkpoint;
  bpdq_calibration calibration;
  bpdq_pool *pool; /* for what the host does with weights */
  bpdq_algebra *algebra;
  bpdq_streams *streams; /* NULL where the method needs no calibration */
  bpdq_writer *writer;
  uint8_t *planes; /* [layers * BPDQ_LINEARS] */
  json_t *layers;  /* reports of all linears so far */
  bpdq_quantize_summary summary;
  double bits; /* stored bits of all linears so far */
  double steps_done, steps;
} run;

typedef struct stage_linears {
  int first, count;
} stage_linears;

static const stage_linears STAGES[BPDQ_STAGES] = {{BPDQ_Q, 3}, {BPDQ_O, 1}, {BPDQ_GATE, 2}, {BPDQ_DOWN, 1}};

static double seconds_since(uint64_t begin) { return (double)(bpdq_monotonic_nanoseconds() - begin) * 1e-9; }

static bpdq_status out_of_memory(bpdq_error *error) { return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory"); }

static bpdq_status advance(run *r, double steps, bpdq_error *error) {
  r->steps_done += steps;
  const bpdq_quantize_options *o = r->options;
  bool stop = bpdq_quantize_cancelled(o) || (o->progress && !o->progress(o->progress_user, r->steps_done / r->steps));
  return stop ? bpdq_fail(error, BPDQ_ERROR_CANCELLED, "quantize: interrupted; finished blocks are kept, go on with --resume") : BPDQ_OK;
}

/* ---- one stage ---- */

static bpdq_status count_report(run *r, const bpdq_layer_report *report, json_t *reports, bpdq_error *error) {
  double weights = (double)report->rows * (double)report->columns;
  r->summary.linears++;
  r->summary.quantized_weights += (uint64_t)(report->rows * report->columns);
  r->bits += weights * report->bits_per_weight;
  bpdq_seconds_add(&r->summary.parts, &report->parts);
  json_t *object = bpdq_layer_report_json(report);
  if (!object || json_array_append(r->layers, object) || (reports && json_array_append(reports, object))) {
    json_decref(object);
    return out_of_memory(error);
  }
  json_decref(object);
  if (r->options->layer_done) r->options->layer_done(r->options->layer_user, report);
  return BPDQ_OK;
}

/* Quantizes the linears of one stage with finished statistics; their dequantized weights replace those in `block`. */
static bpdq_status quantize_stage(run *r, int64_t layer, bpdq_stage stage, const bpdq_statistics *statistics, bpdq_block *block,
                                  bpdq_layer_result *results, json_t *reports, bpdq_error *error) {
  const bpdq_quantize_options *o = r->options;
  bpdq_inputs_desc desc = bpdq_method_inputs(r->method, o, o->group);
  desc.factor = desc.factor || (o->compare_gptq && r->method->calibrated);
  bpdq_inputs *inputs;
  bpdq_inputs_info info;
  bpdq_clock clock = bpdq_clock_start(r->algebra);
  BPDQ_TRY(r->algebra->inputs_create(r->algebra, statistics, &desc, &inputs, &info, error));
  bpdq_clock_add(&clock, &r->summary.parts.factor);
  if (info.damping > o->damping + 1e-9)
    bpdq_log_warning(&r->log, "%s: damping was raised to %.2f to factorise the Hessian", block->linears[STAGES[stage].first].name,
                     info.damping);
  bpdq_status status = BPDQ_OK;
  for (int i = STAGES[stage].first; i < STAGES[stage].first + STAGES[stage].count && status == BPDQ_OK; i++) {
    bpdq_block_linear *linear = &block->linears[i];
    int64_t index = layer * BPDQ_LINEARS + i;
    bpdq_linear_job job = {linear->name, linear->weight, linear->rows, r->planes[index]};
    bpdq_layer_report report = {.layer_index = index, .layer_count = r->checkpoint.config.layers * BPDQ_LINEARS};
    report.calibration_tokens = r->streams ? bpdq_streams_tokens(r->streams) : 0;
    status = bpdq_quantize_linear(r->algebra, inputs, &info, &job, o, &results[i], &report, error);
    if (status != BPDQ_OK) break;
    clock = bpdq_clock_start(r->algebra);
    bpdq_dequantize_result(&results[i], r->pool, linear->weight);
    bpdq_clock_add(&clock, &report.parts.result);
    status = count_report(r, &report, reports, error);
    if (status == BPDQ_OK) status = advance(r, 1, error);
  }
  r->algebra->inputs_destroy(r->algebra, inputs);
  return status;
}

/* H = I, for methods without calibration. */
static bpdq_status set_identity(run *r, bpdq_statistics *statistics, int64_t columns, bpdq_error *error) {
  float *identity = calloc((size_t)columns, (size_t)columns * sizeof *identity);
  if (!identity) return out_of_memory(error);
  for (int64_t i = 0; i < columns; i++) identity[i * columns + i] = 1;
  bpdq_status status = r->algebra->statistics_set(r->algebra, statistics, identity, NULL, NULL, error);
  free(identity);
  return status;
}

static bpdq_status run_stage(run *r, int64_t layer, bpdq_stage stage, const bpdq_block *dense, bpdq_block *block,
                             bpdq_layer_result *results, json_t *reports, bpdq_error *error) {
  const bpdq_block_linear *first = &block->linears[STAGES[stage].first];
  bpdq_statistics_desc desc = {.name = first->name, .columns = first->columns};
  if (r->streams) desc = bpdq_streams_statistics(r->streams, stage, first->name, first->rows, first->columns);
  bpdq_statistics *statistics;
  BPDQ_TRY(r->algebra->statistics_create(r->algebra, &desc, &statistics, error));
  uint64_t begin = bpdq_monotonic_nanoseconds();
  bpdq_status status;
  if (r->streams)
    BPDQ_TRY_GOTO(r->streams->capture(r->streams, stage, dense, block, statistics, error), done);
  else
    BPDQ_TRY_GOTO(set_identity(r, statistics, first->columns, error), done);
  r->summary.forward_seconds += seconds_since(begin);
  BPDQ_TRY_GOTO(advance(r, 1, error), done);
  begin = bpdq_monotonic_nanoseconds();
  bpdq_clock clock = bpdq_clock_start(r->algebra);
  BPDQ_TRY_GOTO(r->algebra->statistics_finish(r->algebra, statistics, error), done);
  bpdq_clock_add(&clock, &r->summary.parts.factor);
  BPDQ_TRY_GOTO(quantize_stage(r, layer, stage, statistics, block, results, reports, error), done);
  r->summary.algorithm_seconds += seconds_since(begin);
done:
  r->algebra->statistics_destroy(r->algebra, statistics);
  return status;
}

/* ---- shards ---- */

typedef struct shard {
  bpdq_tensor_to_write tensors[64];
  char names[64][176];
  void *owned[64];
  size_t count, owned_count;
} shard;

static void free_shard(shard *s) {
  for (size_t i = 0; i < s->owned_count; i++) free(s->owned[i]);
  free(s);
}

/* A tensor of the source as it is; NULL adds nothing. That of a decoder saved on its own gets the "model." of a whole model's, which the
 * names of the quantized linears have. */
static void add_stored(shard *s, const bpdq_stored_tensor *tensor) {
  if (!tensor) return;
  bpdq_tensor_to_write *to = &s->tensors[s->count++];
  const char *name = tensor->name;
  if (strncmp(name, "model.", 6) && strncmp(name, "lm_head.", 8)) {
    snprintf(s->names[s->count - 1], sizeof s->names[0], "model.%s", name);
    name = s->names[s->count - 1];
  }
  *to = (bpdq_tensor_to_write){.name = name, .type = tensor->type, .dimensions = tensor->dimensions, .data = tensor->data};
  memcpy(to->shape, tensor->shape, sizeof to->shape);
}

static void add_made(shard *s, const char *module, const char *suffix, bpdq_stored_type type, const int64_t shape[3], void *data) {
  bpdq_tensor_to_write *to = &s->tensors[s->count];
  snprintf(s->names[s->count], sizeof s->names[0], "%s.%s", module, suffix);
  *to = (bpdq_tensor_to_write){.name = s->names[s->count], .type = type, .dimensions = 3, .data = data};
  memcpy(to->shape, shape, 3 * sizeof *shape);
  s->count++;
  s->owned[s->owned_count++] = data;
}

static bpdq_status add_result(shard *s, const char *module, const bpdq_layer_result *result, bpdq_pool *pool, bpdq_error *error) {
  uint16_t *coefficients;
  uint32_t *bits;
  BPDQ_TRY(bpdq_pack_result(result, pool, &coefficients, &bits, error));
  add_made(s, module, "B", BPDQ_STORED_I32, (int64_t[3]){result->groups * result->group / 32, result->planes, result->rows}, bits);
  add_made(s, module, "c", BPDQ_STORED_BF16, (int64_t[3]){result->groups, result->planes + 1, result->rows}, coefficients);
  return BPDQ_OK;
}

static bpdq_status write_block(run *r, int64_t layer, const bpdq_layer_result *results, const json_t *reports, bpdq_error *error) {
  const bpdq_layer_source *source = &r->checkpoint.layers[layer];
  shard *s = calloc(1, sizeof *s);
  if (!s) return out_of_memory(error);
  add_stored(s, source->attention_norm);
  add_stored(s, source->mlp_norm);
  add_stored(s, source->q_norm);
  add_stored(s, source->k_norm);
  bpdq_status status = BPDQ_OK;
  for (int i = 0; i < BPDQ_LINEARS && status == BPDQ_OK; i++) {
    add_stored(s, bpdq_block_source(source, i)->bias);
    status = add_result(s, bpdq_block_source(source, i)->name, &results[i], r->pool, error);
  }
  if (status == BPDQ_OK) status = bpdq_writer_shard(r->writer, layer + 1, s->tensors, s->count, reports, error);
  free_shard(s);
  return status;
}

/* Embedding, final norm and an untied head. */
static bpdq_status write_ends(run *r, bpdq_error *error) {
  shard *s = calloc(1, sizeof *s);
  if (!s) return out_of_memory(error);
  const bpdq_checkpoint *c = &r->checkpoint;
  add_stored(s, c->embedding);
  add_stored(s, c->final_norm);
  if (c->head.weight != c->embedding && !r->options->head_bits) add_stored(s, c->head.weight);
  add_stored(s, c->head.bias);
  bpdq_status status = bpdq_writer_shard(r->writer, 0, s->tensors, s->count, NULL, error);
  free_shard(s);
  return status;
}

/* ---- blocks ---- */

/* Whether something reads the streams behind block `layer`. */
static bool needs_next(const run *r, int64_t layer) {
  return r->streams && (layer + 1 < r->checkpoint.config.layers || r->options->head_bits > 0);
}

static bpdq_status quantize_block(run *r, int64_t layer, bpdq_error *error) {
  bpdq_block dense, block;
  bpdq_clock clock = bpdq_clock_start(r->algebra);
  BPDQ_TRY(bpdq_block_load(&r->checkpoint, layer, r->pool, &dense, error));
  bpdq_status status = bpdq_block_copy(&r->checkpoint.config, &dense, r->pool, &block, error);
  if (status != BPDQ_OK) {
    bpdq_block_free(&dense);
    return status;
  }
  bpdq_layer_result results[BPDQ_LINEARS] = {0};
  json_t *reports = json_array();
  bpdq_clock_add(&clock, &r->summary.parts.load);
  if (!reports) {
    status = out_of_memory(error);
    goto done;
  }
  for (bpdq_stage stage = 0; stage < BPDQ_STAGES; stage++)
    BPDQ_TRY_GOTO(run_stage(r, layer, stage, &dense, &block, results, reports, error), done);
  clock = bpdq_clock_start(r->algebra);
  BPDQ_TRY_GOTO(write_block(r, layer, results, reports, error), done);
  bpdq_clock_add(&clock, &r->summary.parts.write);
  if (needs_next(r, layer)) status = r->streams->finish_block(r->streams, &block, error);
done:
  json_decref(reports);
  for (int i = 0; i < BPDQ_LINEARS; i++) bpdq_layer_result_free(&results[i]);
  bpdq_block_free(&dense);
  bpdq_block_free(&block);
  return status;
}

/* Replaces the weights of `block` by the planes of a finished shard. */
static bpdq_status load_quantized(const bpdq_safetensors *file, const char *path, bpdq_block *block, bpdq_error *error) {
  for (int i = 0; i < BPDQ_LINEARS; i++) {
    bpdq_block_linear *linear = &block->linears[i];
    char name[200];
    snprintf(name, sizeof name, "%s.c", linear->name);
    const bpdq_stored_tensor *c = bpdq_safetensors_find(file, name);
    snprintf(name, sizeof name, "%s.B", linear->name);
    const bpdq_stored_tensor *b = bpdq_safetensors_find(file, name);
    bool fits = c && b && c->type == BPDQ_STORED_BF16 && b->type == BPDQ_STORED_I32 && c->dimensions == 3 && b->dimensions == 3 &&
                c->shape[0] > 0 && c->shape[1] == b->shape[1] + 1 && c->shape[2] == linear->rows && b->shape[2] == linear->rows &&
                b->shape[0] * 32 % c->shape[0] == 0 && b->shape[0] * 32 >= linear->columns;
    if (!fits) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: the shard of the interrupted run does not fit '%s'", path, linear->name);
    int64_t planes = b->shape[1], group = b->shape[0] * 32 / c->shape[0], n = linear->rows;
    const uint16_t *coefficients = (const uint16_t *)(const void *)c->data;
    const uint32_t *bits = (const uint32_t *)(const void *)b->data;
    for (int64_t row = 0; row < n; row++)
      for (int64_t column = 0; column < linear->columns; column++) {
        const uint16_t *of_group = coefficients + column / group * (planes + 1) * n + row;
        float value = bpdq_bf16_to_float(of_group[planes * n]);
        for (int64_t p = 0; p < planes; p++)
          if (bits[(column / 32 * planes + p) * n + row] >> (column % 32) & 1u) value += bpdq_bf16_to_float(of_group[p * n]);
        linear->weight[row * linear->columns + column] = value;
      }
  }
  return BPDQ_OK;
}

/* A block that an interrupted run finished: its reports count, and the streams move through it. */
static bpdq_status resume_block(run *r, int64_t layer, bpdq_error *error) {
  json_t *reports = NULL;
  BPDQ_TRY(bpdq_writer_block_reports(r->writer, layer, &reports, error));
  size_t i;
  json_t *object;
  bpdq_status status = BPDQ_OK;
  json_array_foreach(reports, i, object) {
    bpdq_layer_report report;
    bpdq_layer_report_read(object, &report);
    report.layer_index = layer * BPDQ_LINEARS + (int64_t)i;
    report.layer_count = r->checkpoint.config.layers * BPDQ_LINEARS;
    if (status == BPDQ_OK) status = count_report(r, &report, NULL, error);
  }
  json_decref(reports);
  BPDQ_TRY(status);
  r->summary.resumed_blocks++;
  r->steps -= BPDQ_STAGES + BPDQ_LINEARS;
  if (!needs_next(r, layer)) return BPDQ_OK;
  bpdq_block dense = {0}, block = {0};
  bpdq_safetensors *file = NULL;
  char *path = bpdq_writer_shard_path(r->writer, layer + 1);
  if (!path) return out_of_memory(error);
  BPDQ_TRY_GOTO(bpdq_block_load(&r->checkpoint, layer, r->pool, &dense, error), done);
  BPDQ_TRY_GOTO(bpdq_block_copy(&r->checkpoint.config, &dense, r->pool, &block, error), done);
  BPDQ_TRY_GOTO(bpdq_safetensors_open(path, &file, error), done);
  BPDQ_TRY_GOTO(load_quantized(file, path, &block, error), done);
  status = bpdq_streams_replay(r->streams, &dense, &block, error);
done:
  free(path);
  bpdq_safetensors_close(file);
  bpdq_block_free(&dense);
  bpdq_block_free(&block);
  return status;
}

/* Nothing reads the streams any more: their memory is free for others. */
static void end_streams(run *r) {
  if (!r->streams) return;
  r->summary.parts.forward = r->streams->forward_seconds;
  r->summary.parts.statistics = r->streams->statistics_seconds;
  r->summary.peak_device_bytes = r->streams->peak_device_bytes;
  bpdq_streams_destroy(r->streams);
  r->streams = NULL;
}

/* ---- the head ---- */

/* Uniform grids above four planes: with so many levels the variable grid gains nothing and its search costs 2^planes. */
static bpdq_status quantize_head_weight(run *r, const bpdq_statistics *statistics, const bpdq_block_linear *head, bpdq_layer_result *result,
                                        bpdq_error *error) {
  bpdq_quantize_options options = *r->options;
  if (options.head_bits > 4) options.method = r->method->calibrated ? BPDQ_METHOD_GPTQ : BPDQ_METHOD_RTN;
  bpdq_inputs_desc desc = bpdq_method_inputs(bpdq_method_of(options.method), &options, options.group);
  bpdq_inputs *inputs;
  bpdq_inputs_info info;
  BPDQ_TRY(r->algebra->inputs_create(r->algebra, statistics, &desc, &inputs, &info, error));
  bpdq_linear_job job = {head->name, head->weight, head->rows, options.head_bits};
  bpdq_layer_report report = {0};
  bpdq_status status = bpdq_quantize_linear(r->algebra, inputs, &info, &job, &options, result, &report, error);
  r->algebra->inputs_destroy(r->algebra, inputs);
  if (status == BPDQ_OK)
    bpdq_log_info(&r->log, "%s: %d planes, objective %.3g of the weights' own", head->name, options.head_bits,
                  report.objective_zero > 0 ? report.objective / report.objective_zero : 0);
  return status;
}

static bpdq_status load_head(run *r, bpdq_block_linear *head, float *norm, bpdq_error *error) {
  const bpdq_checkpoint *c = &r->checkpoint;
  *head = (bpdq_block_linear){.name = "lm_head", .rows = c->config.vocab_size, .columns = c->config.hidden_size};
  size_t count;
  if (!__builtin_mul_overflow((size_t)head->rows, (size_t)head->columns, &count)) head->weight = bpdq_alloc_array(count, sizeof(float));
  if (!head->weight) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "lm_head: out of host memory");
  for (int64_t row = 0; row < head->rows; row++)
    bpdq_stored_row_to_f32(c->head.weight, row, head->columns, head->weight + row * head->columns);
  bpdq_stored_row_to_f32(c->final_norm, 0, head->columns, norm);
  return BPDQ_OK;
}

static bpdq_status quantize_head(run *r, bpdq_error *error) {
  bpdq_block_linear head = {0};
  bpdq_statistics *statistics = NULL;
  bpdq_layer_result result = {0};
  shard *s = calloc(1, sizeof *s);
  float *norm = bpdq_alloc_array((size_t)r->checkpoint.config.hidden_size, sizeof *norm);
  bpdq_status status = s && norm ? BPDQ_OK : out_of_memory(error);
  if (status != BPDQ_OK) goto done;
  BPDQ_TRY_GOTO(load_head(r, &head, norm, error), done);
  bpdq_statistics_desc desc = {.name = head.name, .columns = head.columns};
  if (r->streams) desc = bpdq_streams_statistics(r->streams, BPDQ_STAGE_HEAD, head.name, head.rows, head.columns);
  BPDQ_TRY_GOTO(r->algebra->statistics_create(r->algebra, &desc, &statistics, error), done);
  if (r->streams)
    BPDQ_TRY_GOTO(r->streams->capture_head(r->streams, norm, statistics, error), done);
  else
    BPDQ_TRY_GOTO(set_identity(r, statistics, head.columns, error), done);
  end_streams(r);
  BPDQ_TRY_GOTO(r->algebra->statistics_finish(r->algebra, statistics, error), done);
  BPDQ_TRY_GOTO(quantize_head_weight(r, statistics, &head, &result, error), done);
  BPDQ_TRY_GOTO(add_result(s, head.name, &result, r->pool, error), done);
  status = bpdq_writer_shard(r->writer, r->checkpoint.config.layers + 1, s->tensors, s->count, NULL, error);
done:
  if (s) free_shard(s);
  free(norm);
  free(head.weight);
  bpdq_layer_result_free(&result);
  r->algebra->statistics_destroy(r->algebra, statistics);
  return status;
}

/* ---- the plan of a bit budget ---- */

static bpdq_status use_plan(run *r, int group, int planes, bpdq_error *error) {
  r->planned = *r->options;
  r->planned.group = group;
  r->planned.planes = planes;
  r->options = &r->planned;
  return bpdq_check_quantize_options(r->options, error);
}

static bpdq_status read_plan(run *r, const json_t *stored, bpdq_error *error) {
  const json_t *planes = json_object_get(stored, "linears");
  int64_t linears = r->checkpoint.config.layers * BPDQ_LINEARS;
  if ((int64_t)json_array_size(planes) != linears)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "plan.json of the interrupted run does not fit the model: start anew with --overwrite");
  for (int64_t i = 0; i < linears; i++) {
    json_int_t value = json_integer_value(json_array_get(planes, (size_t)i));
    if (value < 1 || value > 8)
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "plan.json of the interrupted run is damaged: start anew with --overwrite");
    r->planes[i] = (uint8_t)value;
  }
  return use_plan(r, (int)json_integer_value(json_object_get(stored, "group")), (int)json_integer_value(json_object_get(stored, "planes")),
                  error);
}

static bpdq_status make_plan(run *r, bpdq_error *error) {
  json_t *stored;
  BPDQ_TRY(bpdq_writer_load_plan(r->writer, &stored, error));
  bpdq_status status;
  if (stored) {
    status = read_plan(r, stored, error);
    json_decref(stored);
    return status;
  }
  bpdq_budget_plan plan;
  BPDQ_TRY(bpdq_budget_find(&r->checkpoint, &r->calibration, r->options, r->algebra, &r->log, &plan, error));
  int64_t linears = r->checkpoint.config.layers * BPDQ_LINEARS;
  memcpy(r->planes, plan.per_linear, (size_t)linears);
  free(plan.per_linear);
  json_t *list = json_array();
  for (int64_t i = 0; i < linears; i++) json_array_append_new(list, json_integer(r->planes[i]));
  stored = json_pack("{si si so}", "group", plan.group, "planes", plan.planes, "linears", list);
  status = stored ? bpdq_writer_store_plan(r->writer, stored, error) : out_of_memory(error);
  json_decref(stored);
  BPDQ_TRY(status);
  bpdq_log_info(&r->log, "%.4f bits per weight: groups of %d, %d planes unless noted otherwise", plan.bits, plan.group, plan.planes);
  return use_plan(r, plan.group, plan.planes, error);
}

/* ---- the whole model ---- */

static bpdq_status check_source(const run *r, const char *source, bpdq_error *error) {
  const bpdq_checkpoint *c = &r->checkpoint;
  for (int64_t layer = 0; layer < c->config.layers; layer++)
    for (int i = 0; i < BPDQ_LINEARS; i++)
      if (!bpdq_block_source(&c->layers[layer], i)->weight)
        return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "%s is quantized already ('%s' is stored as bit-planes): pass the original model",
                         source, bpdq_block_source(&c->layers[layer], i)->name);
  if (c->config.quantization.present)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "%s: config.json has a quantization_config already: pass the original model", source);
  return BPDQ_OK;
}

static bpdq_status prepare(run *r, const char *source, const char *destination, bool *complete, bpdq_error *error) {
  const bpdq_quantize_options *o = r->options;
  const bpdq_config *config = &r->checkpoint.config;
  if (bpdq_path_within(source, destination))
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "%s holds the model to quantize (%s), which would be lost: choose another output folder",
                     destination, source);
  if (r->method->calibrated || o->bits > 0)
    BPDQ_TRY(bpdq_calibration_load(source, config->vocab_size, config->context_length, o, &r->log, &r->calibration, error));
  r->planes = bpdq_alloc_array((size_t)(config->layers * BPDQ_LINEARS), 1);
  r->layers = json_array();
  if (!r->planes || !r->layers) return out_of_memory(error);
  memset(r->planes, o->planes, (size_t)(config->layers * BPDQ_LINEARS));
  json_t *settings = bpdq_settings_json(source, &r->checkpoint, o, &r->calibration);
  if (!settings) return out_of_memory(error);
  bpdq_status status =
      bpdq_writer_open(destination, o, config->layers, config->layers + 1 + (o->head_bits > 0), settings, &r->writer, complete, error);
  json_decref(settings);
  if (status != BPDQ_OK || *complete) return status;
  BPDQ_TRY(bpdq_algebra_create(o->algebra, o->threads, &r->algebra, error));
  if (o->device_memory > 0 && r->algebra->limit_memory) r->algebra->limit_memory(r->algebra, (uint64_t)o->device_memory);
  if (o->bits > 0) BPDQ_TRY(make_plan(r, error));
  if (r->method->calibrated) {
    bpdq_streams_desc desc = {.checkpoint = &r->checkpoint,
                              .calibration = &r->calibration,
                              .dense_target = r->method->dense_stream && o->recipe.dense_target,
                              .residual_target = r->method->dense_stream && o->recipe.residual_target,
                              .backend = o->backend,
                              .device = o->device,
                              .device_memory = (uint64_t)o->device_memory,
                              .threads = o->threads,
                              .cancel = o->cancel,
                              .spill_folder = bpdq_writer_folder(r->writer),
                              .log = &r->log};
    BPDQ_TRY(bpdq_streams_create(r->algebra, &desc, &r->streams, error));
    bpdq_log_info(&r->log, "calibrating with %lld windows of %lld tokens", (long long)r->calibration.count,
                  (long long)r->calibration.length);
  }
  r->summary.source_bytes = r->checkpoint.weight_bytes;
  r->summary.calibration_tokens = r->calibration.count * r->calibration.length;
  return BPDQ_OK;
}

static bpdq_status finish(run *r, const char *source, uint64_t begin, bpdq_error *error) {
  bpdq_quantize_summary *s = &r->summary;
  s->bits_per_weight = r->bits / (double)s->quantized_weights;
  s->seconds = seconds_since(begin);
  s->peak_host_bytes = bpdq_process_peak_memory();
  end_streams(r);
  if (r->algebra->peak_memory) s->peak_device_bytes += r->algebra->peak_memory(r->algebra);
  BPDQ_TRY(bpdq_writer_index(r->writer, &s->written_bytes, error));
  json_t *quantization = bpdq_quantization_json(&r->checkpoint, r->options, r->planes, r->options->head_bits > 0);
  json_t *report = bpdq_report_json(r->options, s, r->layers);
  bpdq_status status = quantization && report ? bpdq_writer_finish(r->writer, source, quantization, report, error) : out_of_memory(error);
  json_decref(quantization);
  json_decref(report);
  return status;
}

static bpdq_status quantize_model(run *r, const char *source, const char *destination, bpdq_error *error) {
  uint64_t begin = bpdq_monotonic_nanoseconds();
  BPDQ_TRY(bpdq_checkpoint_open(source, &r->checkpoint, &r->log, error));
  BPDQ_TRY(check_source(r, source, error));
  bool complete;
  BPDQ_TRY(prepare(r, source, destination, &complete, error));
  if (complete) {
    bpdq_log_info(&r->log, "%s was complete already", destination);
    return BPDQ_OK;
  }
  int64_t layers = r->checkpoint.config.layers;
  r->steps = (double)(layers * (BPDQ_STAGES + BPDQ_LINEARS));
  int64_t resumed = bpdq_writer_finished_blocks(r->writer);
  if (resumed) bpdq_log_info(&r->log, "%lld finished blocks are taken over", (long long)resumed);
  for (int64_t layer = 0; layer < resumed; layer++) BPDQ_TRY(resume_block(r, layer, error));
  if (!resumed) BPDQ_TRY(write_ends(r, error));
  for (int64_t layer = resumed; layer < layers; layer++) BPDQ_TRY(quantize_block(r, layer, error));
  if (r->options->head_bits) BPDQ_TRY(quantize_head(r, error));
  return finish(r, source, begin, error);
}

bpdq_status bpdq_quantize_folder(const char *source, const char *destination, const bpdq_quantize_options *options,
                                 bpdq_quantize_summary *summary, bpdq_error *error) {
  bpdq_quantize_options defaults = bpdq_quantize_default_options();
  run r = {.options = options ? options : &defaults};
  BPDQ_TRY(bpdq_check_quantize_options(r.options, error));
  r.method = bpdq_method_of(r.options->method);
  r.log = (bpdq_log){r.options->log, r.options->log_user};
  bpdq_status status = bpdq_pool_create(r.options->threads, &r.pool, error);
  if (status == BPDQ_OK) status = quantize_model(&r, source, destination, error);
  if (summary) *summary = r.summary;
  bpdq_streams_destroy(r.streams);
  if (r.algebra) r.algebra->destroy(r.algebra);
  bpdq_writer_close(r.writer);
  json_decref(r.layers);
  free(r.planes);
  bpdq_pool_destroy(r.pool);
  bpdq_calibration_free(&r.calibration);
  bpdq_checkpoint_close(&r.checkpoint);
  return status;
}
