/* Reports and settings as JSON. */
#ifndef BPDQ_QUANTIZER_REPORT_H
#define BPDQ_QUANTIZER_REPORT_H

#include <jansson.h>

#include "calibration.h"
#include "format/checkpoint.h"
#include "options.h"

/* Each returns a new reference, or NULL when out of memory. Values that are not finite become null. */
json_t *bpdq_layer_report_json(const bpdq_layer_report *report);
/* quantize_report.json: the summary and `layers` (borrowed). */
json_t *bpdq_report_json(const bpdq_quantize_options *options, const bpdq_quantize_summary *summary, json_t *layers);
/* Reads back what a resumed run needs of a layer's report: its size for the summary, and all for the callback. */
void bpdq_layer_report_read(const json_t *object, bpdq_layer_report *report);

/* Everything that the bytes of the result depend on. */
json_t *bpdq_settings_json(const char *source, const bpdq_checkpoint *checkpoint, const bpdq_quantize_options *options,
                           const bpdq_calibration *calibration);

/* quantization_config (docs/format.md section 2). `planes` holds the plane count of each linear, [layers * 7]; those that differ from
 * options->planes become `dynamic` overrides. */
json_t *bpdq_quantization_json(const bpdq_checkpoint *checkpoint, const bpdq_quantize_options *options, const uint8_t *planes, bool head);

/* total += seconds, part by part. */
void bpdq_seconds_add(bpdq_quantize_seconds *total, const bpdq_quantize_seconds *seconds);
/* {"load": 1.5, ...}; parts that are 0 are left out. */
json_t *bpdq_seconds_json(const bpdq_quantize_seconds *seconds);

#endif
