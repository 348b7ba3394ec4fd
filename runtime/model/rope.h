/* Rotary position embedding: the table of cosines and sines that BPDQ_OP_ROPE_CACHE reads. */
#ifndef BPDQ_MODEL_ROPE_H
#define BPDQ_MODEL_ROPE_H

#include "format/config.h"

/* Fills table f32 [positions, head_dim]: row p holds cos(p * f_i) for i < head_dim/2, then sin(p * f_i). Frequencies follow the formulas of
 * Hugging Face transformers (default, linear, llama3, yarn; yarn's attention factor multiplies both halves). head_dim is even. */
void bpdq_rope_table(const bpdq_rope_config *rope, int64_t head_dim, int64_t context_length, int64_t positions, float *table);

#endif
