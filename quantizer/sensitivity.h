/* How much the model's predictions suffer when one linear is replaced. */
#ifndef BPDQ_QUANTIZER_SENSITIVITY_H
#define BPDQ_QUANTIZER_SENSITIVITY_H

#include "block.h"
#include "calibration.h"

typedef struct bpdq_sensitivity bpdq_sensitivity;

/* Runs the dense model over the windows once and keeps its predictions and the residual stream before each block: windows * length *
 * ((layers + 1) * hidden + vocab) * 4 bytes, and the model's weights as float32. */
bpdq_status bpdq_sensitivity_create(const bpdq_checkpoint *checkpoint, const bpdq_calibration *windows,
                                    const bpdq_quantize_options *options, bpdq_sensitivity **sensitivity, bpdq_error *error);
void bpdq_sensitivity_destroy(bpdq_sensitivity *sensitivity); /* NULL is allowed */

/* The dense weights of block `layer`. */
const bpdq_block *bpdq_sensitivity_block(const bpdq_sensitivity *sensitivity, int64_t layer);

/* Mean KL(dense || model with `weight` f32 [N, K] in place of one linear) in nats per token. */
bpdq_status bpdq_sensitivity_measure(bpdq_sensitivity *sensitivity, int64_t layer, int linear, float *weight, double *divergence,
                                     bpdq_error *error);

#endif
