/* The walk over one group of columns on a variable grid, and uniform grids (quantizer/cpu/walk.c has the mathematics). A thread is one row
 * from one start: the chain of columns is sequential, and rows and starts give enough of them. What a thread keeps between the steps of
 * an iterate lies in scratch columns of its own, so that no step needs a barrier. */
#include "levels.cuh"

enum { INITIAL_BITS = 8, PROJECT_BLOCK = 8, THREADS = 256 };

/* Steps, in standard deviations, of the uniform grid of 2^k levels with the least squared error for a normal distribution (Max 1960). */
static __device__ const float NORMAL_STEP[9] = {0, 1.596f, 0.9957f, 0.5860f, 0.3352f, 0.1881f, 0.1041f, 0.0569f, 0.0308f};

/* ---- fit ---- */

/* Solves the symmetric positive definite system a x = b in place by Cholesky; false where it breaks down. */
template <int N>
static __device__ bool solve_small(double (&a)[N][N], double (&b)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) {
#pragma unroll
    for (int j = 0; j <= i; j++) {
      double sum = a[i][j];
      for (int m = 0; m < j; m++) sum -= a[i][m] * a[j][m];
      if (i > j)
        a[i][j] = sum / a[j][j];
      else if (sum <= 0)
        return false;
      else
        a[i][i] = sqrt(sum);
    }
  }
#pragma unroll
  for (int i = 0; i < N; i++) {
    for (int m = 0; m < i; m++) b[i] -= a[i][m] * b[m];
    b[i] /= a[i][i];
  }
#pragma unroll
  for (int i = N - 1; i >= 0; i--) {
    for (int m = i + 1; m < N; m++) b[i] -= a[m][i] * b[m];
    b[i] /= a[i][i];
  }
  return true;
}

/* The planes of `codes` times U_loc^-1 into projected [PLANES][group], and least squares for the coefficients. `codes`, `goal`,
 * `projected` and `coefficients` are one row at distance `stride`. A system that breaks down keeps the coefficients it finds there. */
template <int PLANES>
static __device__ void project_and_fit(const bpdq_gpu_walk &w, const uint8_t *codes, const float *goal, float *projected,
                                       float *coefficients) {
  const int64_t stride = w.state.stride;
  const int group = w.state.group;
  float gram[PLANES + 1][PLANES + 1] = {}, right[PLANES + 1] = {};
  for (int s = 0; s < group; s += PROJECT_BLOCK) {
    float sum[PLANES][PROJECT_BLOCK] = {};
#pragma unroll 4
    for (int t = 0; t < s + PROJECT_BLOCK; t++) {
      unsigned code = codes[t * stride];
      const float4 *row = (const float4 *)(w.inverse + t * group + s);
      float4 low = row[0], high = row[1];
      const float factor[PROJECT_BLOCK] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int p = 0; p < PLANES; p++) {
        float bit = (float)(code >> p & 1u);
#pragma unroll
        for (int i = 0; i < PROJECT_BLOCK; i++) sum[p][i] += bit * factor[i];
      }
    }
#pragma unroll
    for (int i = 0; i < PROJECT_BLOCK; i++) {
      float one = w.ones[s + i], target = goal[(s + i) * stride];
      gram[PLANES][PLANES] += one * one;
      right[PLANES] += one * target;
#pragma unroll
      for (int p = 0; p < PLANES; p++) {
        projected[((int64_t)p * group + s + i) * stride] = sum[p][i];
#pragma unroll
        for (int o = 0; o <= p; o++) gram[p][o] += sum[p][i] * sum[o][i];
        gram[PLANES][p] += sum[p][i] * one;
        right[p] += sum[p][i] * target;
      }
    }
  }
  double a[PLANES + 1][PLANES + 1], b[PLANES + 1];
#pragma unroll
  for (int p = 0; p <= PLANES; p++) {
#pragma unroll
    for (int o = 0; o <= p; o++) a[p][o] = (double)gram[p][o];
    a[p][p] += w.alpha;
    b[p] = (double)right[p];
  }
  if (!solve_small<PLANES + 1>(a, b)) return;
#pragma unroll
  for (int p = 0; p <= PLANES; p++) coefficients[p * stride] = (float)b[p];
}

/* E = goal - D c, into `errors` unless it is NULL; returns sum E^2. */
template <int PLANES>
static __device__ float find_errors(const bpdq_gpu_walk &w, const float *goal, const float *projected, const float *coefficients,
                                    float *errors) {
  const int64_t stride = w.state.stride;
  float c[PLANES + 1], total = 0;
#pragma unroll
  for (int p = 0; p <= PLANES; p++) c[p] = coefficients[p * stride];
  for (int s = 0; s < w.state.group; s++) {
    float e = goal[s * stride] - c[PLANES] * w.ones[s];
#pragma unroll
    for (int p = 0; p < PLANES; p++) e -= c[p] * projected[((int64_t)p * w.state.group + s) * stride];
    total += e * e;
    if (errors) errors[s * stride] = e;
  }
  return total;
}

/* ---- starts ---- */

/* The kept planes of an asymmetric 8-bit code (docs/format.md section 3 step 4, first bullet). */
template <int PLANES>
static __device__ void start_from_code(const bpdq_gpu_walk &w, const float *values, uint8_t *codes) {
  const int64_t stride = w.state.stride;
  const float top = (1 << INITIAL_BITS) - 1;
  float low = 0, high = 0;
  for (int t = 0; t < w.state.group; t++) {
    low = fminf(low, values[t * stride]);
    high = fmaxf(high, values[t * stride]);
  }
  if (low == 0 && high == 0) low = -1, high = 1;
  float scale = (high - low) / top, zero = rintf(-low / scale);
  for (int t = 0; t < w.state.group; t++) {
    float code = fminf(fmaxf(rintf(values[t * stride] / scale) + zero, 0.0f), top);
    codes[t * stride] = (uint8_t)((unsigned)code >> (INITIAL_BITS - PLANES));
  }
}

/* A uniform grid around the mean, `width` times as wide as the best one for a normal distribution. */
template <int PLANES>
static __device__ void start_from_grid(const bpdq_gpu_walk &w, const float *values, float width, float *coefficients) {
  const int64_t stride = w.state.stride;
  const int group = w.state.group;
  double sum = 0, square = 0;
  for (int t = 0; t < group; t++) {
    double value = (double)values[t * stride];
    sum += value;
    square += value * value;
  }
  double mean = sum / group, deviation = sqrt(fmax(square / group - mean * mean, 0.0));
  double step = (double)width * (double)NORMAL_STEP[PLANES] * deviation;
  for (int p = 0; p < PLANES; p++) coefficients[p * stride] = (float)(step * (1 << p));
  coefficients[PLANES * stride] = (float)(mean - step * ((1 << PLANES) - 1) / 2);
}

/* ---- walk ---- */

/* Nearest level column by column, each error spread over the rest of the group (step 4a). Left-looking: a sub-block first collects the
 * errors of all columns before it. Without `compensate` no error is spread and U is not read. */
template <int PLANES>
static __device__ void walk_columns(const bpdq_gpu_walk &w, int64_t row, bool compensate, const float *coefficients, float *errors,
                                    uint8_t *codes) {
  const int64_t stride = w.state.stride, n = w.state.padded;
  float levels[1 << PLANES], values[SUB_BLOCK], factor[SUB_BLOCK];
  load_levels<PLANES>(coefficients, stride, levels);
  for (int sub = 0; sub < w.state.group; sub += SUB_BLOCK) {
#pragma unroll
    for (int i = 0; i < SUB_BLOCK; i++) values[i] = w.current[(w.begin + sub + i) * stride + row];
#pragma unroll 4
    for (int t = 0; t < (compensate ? sub : 0); t++) {
      float e = errors[t * stride];
      load_sub_block(w.factor + (w.begin + t) * n + w.begin + sub, factor);
#pragma unroll
      for (int i = 0; i < SUB_BLOCK; i++) values[i] -= e * factor[i];
    }
#pragma unroll
    for (int i = 0; i < SUB_BLOCK; i++) {
      float nearest = levels[0];
      int code = 0;
      find_nearest<PLANES>(levels, values[i], nearest, code);
      codes[(sub + i) * stride] = (uint8_t)code;
      if (!compensate) continue;
      load_sub_block(w.factor + (w.begin + sub + i) * n + w.begin + sub, factor);
      float e = (values[i] - nearest) / factor[i];
      errors[(sub + i) * stride] = e;
#pragma unroll
      for (int l = i + 1; l < SUB_BLOCK; l++) values[l] -= e * factor[l];
    }
  }
}

/* goal = current[group] U_loc^-1. */
static __global__ void project_goal(bpdq_gpu_walk w) {
  const int64_t row = (int64_t)blockIdx.x * BPDQ_GPU_LANES + threadIdx.x, stride = w.state.stride;
  const int group = w.state.group;
  for (int s = 0; s < group; s += SUB_BLOCK) {
    float sum[SUB_BLOCK] = {}, factor[SUB_BLOCK];
    for (int t = 0; t < s + SUB_BLOCK; t++) {
      float value = w.current[(w.begin + t) * stride + row];
      load_sub_block(w.inverse + t * group + s, factor);
#pragma unroll
      for (int i = 0; i < SUB_BLOCK; i++) sum[i] += value * factor[i];
    }
#pragma unroll
    for (int i = 0; i < SUB_BLOCK; i++) w.goal[(s + i) * stride + row] = sum[i];
  }
}

/* All iterates of start blockIdx.y. */
template <int PLANES>
static __global__ void refine(bpdq_gpu_walk w) {
  const int64_t row = (int64_t)blockIdx.x * BPDQ_GPU_LANES + threadIdx.x, stride = w.state.stride;
  const int group = w.state.group, start = (int)blockIdx.y;
  const float *goal = w.goal + row;
  float *projected = w.projected + (int64_t)start * PLANES * group * stride + row;
  uint8_t *codes = w.codes + (int64_t)start * w.iterations * group * stride + row;
  float *coefficients = w.coefficients + (int64_t)start * w.iterations * (PLANES + 1) * stride + row;
  for (int p = 0; p <= PLANES; p++) coefficients[p * stride] = 0;
  if (w.width[start] > 0) {
    start_from_grid<PLANES>(w, w.current + w.begin * stride + row, w.width[start], coefficients);
  } else {
    start_from_code<PLANES>(w, w.current + w.begin * stride + row, codes);
    project_and_fit<PLANES>(w, codes, goal, projected, coefficients);
  }
  const float *before = coefficients;
  for (int iteration = 0; iteration < w.iterations; iteration++) {
    walk_columns<PLANES>(w, row, true, before, projected, codes); /* the errors lie where the planes will */
    for (int p = 0; p <= PLANES; p++) coefficients[p * stride] = before[p * stride];
    project_and_fit<PLANES>(w, codes, goal, projected, coefficients);
    w.scores[((int64_t)start * w.iterations + iteration) * stride + row] = find_errors<PLANES>(w, goal, projected, coefficients, NULL);
    before = coefficients;
    coefficients += (PLANES + 1) * stride;
    codes += group * stride;
  }
}

/* totals[iterate] = its score over all rows. */
static __global__ void sum_scores(bpdq_gpu_walk w) {
  __shared__ double partial[THREADS];
  const float *scores = w.scores + blockIdx.x * w.state.stride;
  double sum = 0;
  for (int64_t row = threadIdx.x; row < w.state.rows; row += THREADS) sum += (double)scores[row];
  partial[threadIdx.x] = sum;
  __syncthreads();
  for (int half = THREADS / 2; half; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) w.totals[blockIdx.x] = partial[0];
}

static __device__ int choose(const bpdq_gpu_walk &w, int64_t row) {
  int best = 0;
  for (int i = 1; i < w.starts * w.iterations; i++) {
    bool better =
        w.best_per_row ? w.scores[i * w.state.stride + row] < w.scores[best * w.state.stride + row] : w.totals[i] < w.totals[best];
    if (better) best = i;
  }
  return best;
}

/* Takes the chosen iterate over and leaves its errors. */
template <int PLANES>
static __global__ void apply(bpdq_gpu_walk w) {
  const int64_t row = (int64_t)blockIdx.x * BPDQ_GPU_LANES + threadIdx.x, stride = w.state.stride;
  const int group = w.state.group, iterate = choose(w, row);
  const uint8_t *chosen = w.codes + (int64_t)iterate * group * stride + row;
  const float *from = w.coefficients + (int64_t)iterate * (PLANES + 1) * stride + row;
  float *to = w.state.coefficients + w.begin / group * (PLANES + 1) * stride + row, *projected = w.projected + row;
  for (int t = 0; t < group; t++) w.state.codes[(w.begin + t) * stride + row] = chosen[t * stride];
  project_and_fit<PLANES>(w, chosen, w.goal + row, projected, to);
  find_errors<PLANES>(w, w.goal + row, projected, from, w.errors + row);
  for (int p = 0; p <= PLANES; p++) to[p * stride] = round_to_bf16(from[p * stride]);
}

cudaError_t bpdq_gpu_walk_group(const bpdq_gpu_walk *walk, cudaStream_t stream) {
  unsigned blocks = (unsigned)(walk->state.stride / BPDQ_GPU_LANES);
  dim3 grid(blocks, (unsigned)walk->starts);
  project_goal<<<blocks, BPDQ_GPU_LANES, 0, stream>>>(*walk);
  BPDQ_GPU_FOR_PLANES(walk->state.planes, (refine<PLANES><<<grid, BPDQ_GPU_LANES, 0, stream>>>(*walk)));
  if (!walk->best_per_row) sum_scores<<<(unsigned)(walk->starts * walk->iterations), THREADS, 0, stream>>>(*walk);
  BPDQ_GPU_FOR_PLANES(walk->state.planes, (apply<PLANES><<<blocks, BPDQ_GPU_LANES, 0, stream>>>(*walk)));
  return cudaGetLastError();
}

/* ---- uniform grids ---- */

/* Minimum and maximum with zero included, as in GPTQ; coefficient p = scale 2^p, bias = -zero scale, both as stored. */
template <int PLANES>
static __global__ void uniform(bpdq_gpu_walk w, bool compensate) {
  const int64_t row = (int64_t)blockIdx.x * BPDQ_GPU_LANES + threadIdx.x, stride = w.state.stride;
  const int group = w.state.group;
  const float *values = w.current + w.begin * stride + row;
  float *coefficients = w.state.coefficients + w.begin / group * (PLANES + 1) * stride + row;
  float low = 0, high = 0;
  for (int t = 0; t < group; t++) {
    low = fminf(low, values[t * stride]);
    high = fmaxf(high, values[t * stride]);
  }
  if (low == 0 && high == 0) low = -1, high = 1;
  float scale = (high - low) / (float)((1 << PLANES) - 1), zero = rintf(-low / scale);
  scale = round_to_bf16(scale);
  for (int p = 0; p < PLANES; p++) coefficients[p * stride] = scale * (float)(1 << p);
  coefficients[PLANES * stride] = round_to_bf16(-zero * scale);
  walk_columns<PLANES>(w, row, compensate, coefficients, w.errors + row, w.state.codes + w.begin * stride + row);
}

cudaError_t bpdq_gpu_uniform_group(const bpdq_gpu_walk *walk, bool compensate, cudaStream_t stream) {
  unsigned blocks = (unsigned)(walk->state.stride / BPDQ_GPU_LANES);
  BPDQ_GPU_FOR_PLANES(walk->state.planes, (uniform<PLANES><<<blocks, BPDQ_GPU_LANES, 0, stream>>>(*walk, compensate)));
  return cudaGetLastError();
}
