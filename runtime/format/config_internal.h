/* The parts of reading config.json, one file each. All read keys of hostile JSON and leave *config's other members alone. */
#ifndef BPDQ_FORMAT_CONFIG_INTERNAL_H
#define BPDQ_FORMAT_CONFIG_INTERNAL_H

#include "format/config.h"
#include "format/json.h"

/* rope_parameters or rope_theta + rope_scaling into config->rope. Needs config->context_length. */
bpdq_status bpdq_config_read_rope(const json_t *root, bpdq_config *config, bpdq_error *error);

/* Refuses the model when any of its layers would attend to a window only. Needs architecture, layers and context_length. */
bpdq_status bpdq_config_check_windows(const json_t *root, const bpdq_config *config, bpdq_error *error);

/* The object quantization_config (or the root of quantize_config.json). On failure nothing is held. */
bpdq_status bpdq_config_read_quantization(const json_t *object, bpdq_quantization_config *quantization, bpdq_error *error);
void bpdq_config_free_quantization(bpdq_quantization_config *quantization);

#endif
