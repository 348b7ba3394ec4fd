/* What every part of the quantizer asks of the public options. */
#ifndef BPDQ_QUANTIZER_OPTIONS_H
#define BPDQ_QUANTIZER_OPTIONS_H

#include "bpdq_quantizer.h"
#include "core/status.h"

/* BPDQ_ERROR_ARGUMENT naming the first option that is out of range. */
bpdq_status bpdq_check_quantize_options(const bpdq_quantize_options *options, bpdq_error *error);

bool bpdq_quantize_cancelled(const bpdq_quantize_options *options);
/* BPDQ_ERROR_CANCELLED where it is: asked between the steps of a linear, of which a large one takes minutes. */
bpdq_status bpdq_quantize_go_on(const bpdq_quantize_options *options, bpdq_error *error);

#endif
