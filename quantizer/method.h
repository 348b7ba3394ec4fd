/* The quantization methods, written once on top of linalg.h. */
#ifndef BPDQ_QUANTIZER_METHOD_H
#define BPDQ_QUANTIZER_METHOD_H

#include "clock.h"
#include "core/threads.h"
#include "linalg.h"
#include "options.h"

typedef struct bpdq_method {
  bool calibrated;     /* needs H */
  bool factor, metric; /* what bpdq_inputs must hold */
  bool reference_dead; /* dead columns as the published code treats them */
  bool dense_stream;   /* uses C and R where the recipe asks for them */
  /* Adds the time of its steps to `seconds`. */
  bpdq_status (*run)(bpdq_algebra *algebra, bpdq_work *work, const bpdq_quantize_options *options, bpdq_quantize_seconds *seconds,
                     bpdq_error *error);
} bpdq_method;

extern const bpdq_method bpdq_method_rtn, bpdq_method_gptq, bpdq_method_reference, bpdq_method_bpdq;

const bpdq_method *bpdq_method_of(bpdq_quantize_method method);

/* How a method wants its inputs prepared. */
bpdq_inputs_desc bpdq_method_inputs(const bpdq_method *method, const bpdq_quantize_options *options, int group);

/* Quantizes one linear: weight is f32 [rows, K]. Fills `result` (free with bpdq_layer_result_free) and the objectives, sizes and time of
 * `report`; `info` is what inputs_create said. */
typedef struct bpdq_linear_job {
  const char *name;
  const float *weight; /* f32 [rows, K] */
  int64_t rows;
  int planes;
} bpdq_linear_job;

bpdq_status bpdq_quantize_linear(bpdq_algebra *algebra, const bpdq_inputs *inputs, const bpdq_inputs_info *info, const bpdq_linear_job *job,
                                 const bpdq_quantize_options *options, bpdq_layer_result *result, bpdq_layer_report *report,
                                 bpdq_error *error);

/* Exact bits per weight of a [rows, columns] linear: planes, 16-bit coefficients and padding. */
double bpdq_bits_per_weight(int64_t columns, int planes, int group);

/* ---- the result in the checkpoint's layout (docs/format.md section 2) ---- */

/* c as bf16 [groups, planes + 1, N], B as int32 [groups * group / 32, planes, N]; malloc'ed. `pool` may be NULL, here and below. */
bpdq_status bpdq_pack_result(const bpdq_layer_result *result, bpdq_pool *pool, uint16_t **coefficients, uint32_t **bits, bpdq_error *error);

/* Q as f32 [N, K]; `out` is the caller's. */
void bpdq_dequantize_result(const bpdq_layer_result *result, bpdq_pool *pool, float *out);

#endif
