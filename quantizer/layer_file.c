/* `quantize-layer`: one linear from a safetensors file with W and H into one with c, B and Q. */
#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "format/safetensors.h"
#include "method.h"

enum { MAX_COLUMNS = 1 << 17, MAX_ROWS = 1 << 24 };

/* A finite f32 matrix in memory of its own. `rows` or `columns` of -1: any. */
static bpdq_status read_matrix(const bpdq_safetensors *file, const char *path, const char *name, int64_t rows, int64_t columns,
                               bool optional, float **out, const bpdq_stored_tensor **tensor, bpdq_error *error) {
  const bpdq_stored_tensor *found = bpdq_safetensors_find(file, name);
  *out = NULL;
  *tensor = found;
  if (!found) return optional ? BPDQ_OK : bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: there is no tensor '%s'", path, name);
  if (found->type != BPDQ_STORED_F32 || found->dimensions != 2)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: tensor '%s' must be F32 with two dimensions", path, name);
  if ((rows >= 0 && found->shape[0] != rows) || (columns >= 0 && found->shape[1] != columns))
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: tensor '%s' is %lld x %lld, which does not fit the other tensors", path, name,
                     (long long)found->shape[0], (long long)found->shape[1]);
  if (found->shape[0] < 1 || found->shape[1] < 1 || found->shape[0] > MAX_ROWS || found->shape[1] > MAX_COLUMNS)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: tensor '%s' of %lld x %lld is out of range", path, name, (long long)found->shape[0],
                     (long long)found->shape[1]);
  *out = malloc(found->bytes);
  if (!*out) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory for tensor '%s'", path, name);
  memcpy(*out, found->data, found->bytes);
  for (uint64_t i = 0; i < found->bytes / sizeof(float); i++)
    if (!isfinite((*out)[i])) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: tensor '%s' has a value that is not finite", path, name);
  return BPDQ_OK;
}

typedef struct layer_matrices {
  float *weight, *hessian, *cross, *residual;
  int64_t rows, columns;
} layer_matrices;

static void free_matrices(layer_matrices *m) {
  free(m->weight);
  free(m->hessian);
  free(m->cross);
  free(m->residual);
}

static bpdq_status read_layer(const char *path, layer_matrices *m, bpdq_error *error) {
  bpdq_safetensors *file;
  BPDQ_TRY(bpdq_safetensors_open(path, &file, error));
  const bpdq_stored_tensor *tensor;
  bpdq_status status;
  BPDQ_TRY_GOTO(read_matrix(file, path, "W", -1, -1, false, &m->weight, &tensor, error), done);
  m->rows = tensor->shape[0];
  m->columns = tensor->shape[1];
  BPDQ_TRY_GOTO(read_matrix(file, path, "H", m->columns, m->columns, false, &m->hessian, &tensor, error), done);
  BPDQ_TRY_GOTO(read_matrix(file, path, "C", m->columns, m->columns, true, &m->cross, &tensor, error), done);
  BPDQ_TRY_GOTO(read_matrix(file, path, "R", m->rows, m->columns, true, &m->residual, &tensor, error), done);
done:
  bpdq_safetensors_close(file);
  return status;
}

static bpdq_status write_layer(const char *path, const bpdq_layer_result *result, bpdq_error *error) {
  uint16_t *coefficients = NULL;
  uint32_t *bits = NULL;
  BPDQ_TRY(bpdq_pack_result(result, NULL, &coefficients, &bits, error));
  float *quantized = bpdq_alloc_array((size_t)(result->rows * result->columns), sizeof *quantized);
  bpdq_status status;
  if (quantized) {
    bpdq_dequantize_result(result, NULL, quantized);
    const bpdq_tensor_to_write tensors[] = {
        {"B", BPDQ_STORED_I32, 3, {result->groups * result->group / 32, result->planes, result->rows}, bits},
        {"Q", BPDQ_STORED_F32, 2, {result->rows, result->columns}, quantized},
        {"c", BPDQ_STORED_BF16, 3, {result->groups, result->planes + 1, result->rows}, coefficients},
    };
    status = bpdq_safetensors_write(path, tensors, 3, NULL, error);
  } else {
    status = bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory", path);
  }
  free(quantized);
  free(coefficients);
  free(bits);
  return status;
}

static bpdq_status quantize(bpdq_algebra *algebra, const char *path, const layer_matrices *m, const bpdq_quantize_options *options,
                            bpdq_layer_result *result, bpdq_layer_report *report, bpdq_error *error) {
  bpdq_statistics_desc desc = {.name = path, .columns = m->columns, .cross = m->cross != NULL, .residual_rows = m->residual ? m->rows : 0};
  bpdq_statistics *statistics;
  BPDQ_TRY(algebra->statistics_create(algebra, &desc, &statistics, error));
  bpdq_inputs *inputs = NULL;
  bpdq_inputs_info info;
  bpdq_status status;
  BPDQ_TRY_GOTO(algebra->statistics_set(algebra, statistics, m->hessian, m->cross, m->residual, error), done);
  BPDQ_TRY_GOTO(algebra->statistics_finish(algebra, statistics, error), done);
  bpdq_inputs_desc inputs_desc = bpdq_method_inputs(bpdq_method_of(options->method), options, options->group);
  inputs_desc.factor = inputs_desc.factor || options->compare_gptq;
  BPDQ_TRY_GOTO(algebra->inputs_create(algebra, statistics, &inputs_desc, &inputs, &info, error), done);
  bpdq_linear_job job = {path, m->weight, m->rows, options->planes};
  BPDQ_TRY_GOTO(bpdq_quantize_linear(algebra, inputs, &info, &job, options, result, report, error), done);
  report->layer_count = 1;
done:
  algebra->inputs_destroy(algebra, inputs);
  algebra->statistics_destroy(algebra, statistics);
  return status;
}

bpdq_status bpdq_quantize_layer_file(const char *input, const char *output, const bpdq_quantize_options *options, bpdq_layer_report *report,
                                     bpdq_error *error) {
  bpdq_quantize_options defaults = bpdq_quantize_default_options();
  if (!options) options = &defaults;
  bpdq_layer_report own;
  if (!report) report = &own;
  *report = (bpdq_layer_report){0};
  BPDQ_TRY(bpdq_check_quantize_options(options, error));
  layer_matrices matrices = {0};
  bpdq_algebra *algebra = NULL;
  bpdq_layer_result result = {0};
  bpdq_status status;
  BPDQ_TRY_GOTO(read_layer(input, &matrices, error), done);
  BPDQ_TRY_GOTO(bpdq_algebra_create(options->algebra, options->threads, &algebra, error), done);
  if (options->device_memory > 0 && algebra->limit_memory) algebra->limit_memory(algebra, (uint64_t)options->device_memory);
  BPDQ_TRY_GOTO(quantize(algebra, input, &matrices, options, &result, report, error), done);
  status = write_layer(output, &result, error);
done:
  bpdq_layer_result_free(&result);
  if (algebra) algebra->destroy(algebra);
  free_matrices(&matrices);
  return status;
}
