/* Calibration texts as windows of token ids. */
#ifndef BPDQ_QUANTIZER_CALIBRATION_H
#define BPDQ_QUANTIZER_CALIBRATION_H

#include "core/log.h"
#include "options.h"

typedef struct bpdq_calibration {
  int32_t *ids;   /* [count * length], window by window */
  int64_t count;  /* windows */
  int64_t length; /* tokens per window */
} bpdq_calibration;

/* Reads options->calibration_path with the tokenizer of `model_folder` and cuts it into options->samples windows of
 * options->sequence_length tokens (at most `context`), spread evenly over the text; 0 samples: all whole windows. A text that holds fewer
 * windows gives what it has, with a warning; one that does not fill a window gives a single shorter one. Empty or binary files, text that
 * is not UTF-8, bad JSON and ids beyond the vocabulary are errors that name the file and the line or byte. */
bpdq_status bpdq_calibration_load(const char *model_folder, int64_t vocab_size, int64_t context, const bpdq_quantize_options *options,
                                  const bpdq_log *log, bpdq_calibration *calibration, bpdq_error *error);
void bpdq_calibration_free(bpdq_calibration *calibration);

#endif
