#include "model/rope.h"

#include <math.h>

#define PI 3.14159265358979323846

static double llama3_frequency(const bpdq_rope_config *rope, double frequency) {
  double wavelength = 2 * PI / frequency;
  if (wavelength > rope->original_context / rope->low_freq_factor) return frequency / rope->factor;
  if (wavelength < rope->original_context / rope->high_freq_factor) return frequency;
  double smooth = (rope->original_context / wavelength - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
  return (1 - smooth) * frequency / rope->factor + smooth * frequency;
}

/* The dimension whose wavelength makes `rotations` turns over the original context (YaRN, arXiv 2309.00071, section 3.2). */
static double yarn_dimension(const bpdq_rope_config *rope, double rotations, double head_dim, double original) {
  return head_dim * log(original / (rotations * 2 * PI)) / (2 * log(rope->theta));
}

static double yarn_frequency(const bpdq_rope_config *rope, double frequency, double index, double head_dim, double original) {
  double low = yarn_dimension(rope, rope->beta_fast, head_dim, original);
  double high = yarn_dimension(rope, rope->beta_slow, head_dim, original);
  if (rope->truncate) {
    low = floor(low);
    high = ceil(high);
  }
  low = fmax(low, 0);
  high = fmin(high, head_dim - 1);
  if (low == high) high += 0.001;
  double ramp = fmin(fmax((index - low) / (high - low), 0), 1); /* 0: keep the frequency, 1: interpolate */
  return frequency / rope->factor * ramp + frequency * (1 - ramp);
}

static double yarn_mscale(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1; }

static double attention_factor(const bpdq_rope_config *rope) {
  if (rope->kind != BPDQ_ROPE_YARN) return 1;
  if (rope->attention_factor > 0) return rope->attention_factor;
  if (rope->mscale > 0 && rope->mscale_all_dim > 0)
    return yarn_mscale(rope->factor, rope->mscale) / yarn_mscale(rope->factor, rope->mscale_all_dim);
  return yarn_mscale(rope->factor, 1);
}

static double scaled_frequency(const bpdq_rope_config *rope, int64_t index, int64_t head_dim, double original) {
  double frequency = pow(rope->theta, -2.0 * (double)index / (double)head_dim);
  switch (rope->kind) {
    case BPDQ_ROPE_LINEAR:
      return frequency / rope->factor;
    case BPDQ_ROPE_LLAMA3:
      return llama3_frequency(rope, frequency);
    case BPDQ_ROPE_YARN:
      return yarn_frequency(rope, frequency, (double)index, (double)head_dim, original);
    default:
      return frequency;
  }
}

void bpdq_rope_table(const bpdq_rope_config *rope, int64_t head_dim, int64_t context_length, int64_t positions, float *table) {
  double original = rope->original_context > 0 ? rope->original_context : (double)context_length, factor = attention_factor(rope);
  int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; i++) {
    /* The reference keeps frequencies and angles in float32; at long positions that rounding is part of the model. */
    float frequency = (float)scaled_frequency(rope, i, head_dim, original);
    for (int64_t p = 0; p < positions; p++) {
      float angle = frequency * (float)p;
      table[p * head_dim + i] = (float)(cos(angle) * factor);
      table[p * head_dim + half + i] = (float)(sin(angle) * factor);
    }
  }
}
