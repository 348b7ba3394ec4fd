#include "score.h"

#include <math.h>
#include <string.h>

#define BLOCK 512 /* terms that are summed in float before they join a double */

/* exp(x) for x <= 0 to 2 units in the last place, without branches, so that loops over it vectorize: x = n ln 2 + r with a polynomial of
 * degree 6 for exp(r) (coefficients of the Cephes library). */
static inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  float n = x * 1.44269504f;
  n = (float)(int)(n - 0.5f); /* x <= 0: rounds to nearest */
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  int32_t bits = ((int32_t)n + 127) << 23;
  float scale;
  memcpy(&scale, &bits, sizeof scale);
  return y * scale;
}

static float largest(const float *values, int64_t count) {
  enum { LANES = 16 };
  float most[LANES];
  int64_t i = 0;
  for (int lane = 0; lane < LANES; lane++) most[lane] = values[0];
  for (; i + LANES <= count; i += LANES)
    for (int lane = 0; lane < LANES; lane++) most[lane] = values[i + lane] > most[lane] ? values[i + lane] : most[lane];
  for (; i < count; i++) most[0] = values[i] > most[0] ? values[i] : most[0];
  for (int lane = 1; lane < LANES; lane++) most[0] = most[lane] > most[0] ? most[lane] : most[0];
  return most[0];
}

double score_log_sum_exp(const float *logits, int64_t count) {
  float most = largest(logits, count);
  double total = 0;
  for (int64_t first = 0; first < count; first += BLOCK) {
    int64_t last = first + BLOCK < count ? first + BLOCK : count;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = first; i < last; i++) sum += exponential(logits[i] - most);
    total += (double)sum;
  }
  return (double)most + log(total);
}

int64_t score_argmax(const float *logits, int64_t count) {
  float most = largest(logits, count);
  for (int64_t i = 0; i < count; i++)
    if (logits[i] == most) return i;
  return 0;
}

double score_kl(const float *p, double p_lse, const float *q, double q_lse, int64_t count) {
  double total = 0;
  float shift = (float)p_lse, difference = (float)(q_lse - p_lse);
  for (int64_t first = 0; first < count; first += BLOCK) {
    int64_t last = first + BLOCK < count ? first + BLOCK : count;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = first; i < last; i++) {
      float log_p = p[i] - shift;
      sum += exponential(log_p < 0 ? log_p : 0) * (p[i] - q[i] + difference);
    }
    total += (double)sum;
  }
  return total;
}

bool score_finite(const float *logits, int64_t count) {
  int broken = 0;
#pragma omp simd reduction(| : broken)
  for (int64_t i = 0; i < count; i++) broken |= !(logits[i] - logits[i] == 0);
  return !broken;
}
