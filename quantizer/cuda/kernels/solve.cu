/* The normal equations of the refit, one thread block per row: a blocked left-looking Cholesky factorisation, then the solution from the
 * last unknown up with each coefficient rounded to bf16 before it enters the equations above it.
 *
 * The right-hand side r is one more row below the matrix, so that the factorisation turns it into y = L^-1 r. For a step s (after
 * rounding) let f = y - L^T s, which is what the substitution leaves. The objective then changes by
 * s^T A s - 2 s^T r = |f|^2 - |y|^2 - eps |s|^2. */
#include "levels.cuh"

enum { TILE = 64, DEPTH = 16, THREADS = 256, SIDE = 16, MICRO = 4, SOLVE_THREADS = 128 };
static __device__ const float RIDGE = 1e-3f; /* eps as a share of the mean diagonal */

struct tiles {
  float left[DEPTH][TILE + 4], right[DEPTH][TILE + 4]; /* operands of the update, transposed */
  float block[TILE][TILE + 1];                         /* the tile that is worked on */
  float inverse[TILE][TILE + 1];                       /* of the diagonal tile's factor, lower */
};

/* sum += rows first .. first + 63 times rows panel .. panel + 63, over the columns before the panel, transposed. */
static __device__ void update(const float *a, int64_t unknowns, int64_t first, int64_t panel, tiles &t, float (&sum)[MICRO][MICRO]) {
  const int tid = (int)threadIdx.x, x = tid % SIDE * MICRO, y = tid / SIDE * MICRO, r = tid / 4, k = tid % 4 * 4;
  for (int64_t begin = 0; begin < panel; begin += DEPTH) {
    for (int i = 0; i < 4; i++) {
      t.left[k + i][r] = first + r <= unknowns ? a[(first + r) * unknowns + begin + k + i] : 0.0f;
      t.right[k + i][r] = panel + r < unknowns ? a[(panel + r) * unknowns + begin + k + i] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
      float4 u = *(const float4 *)&t.left[d][y], v = *(const float4 *)&t.right[d][x];
      const float left[MICRO] = {u.x, u.y, u.z, u.w}, right[MICRO] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < MICRO; i++)
#pragma unroll
        for (int j = 0; j < MICRO; j++) sum[i][j] += left[i] * right[j];
    }
    __syncthreads();
  }
}

/* Cholesky of the leading `width` rows and columns of t.block in place, and its inverse. False where a pivot is not positive. */
static __device__ bool factor_diagonal(tiles &t, int width) {
  const int tid = (int)threadIdx.x;
  for (int c = 0; c < width; c++) {
    float pivot = t.block[c][c];
    if (!(pivot > 0)) return false;
    float root = sqrtf(pivot);
    __syncthreads();
    if (tid >= c && tid < width) t.block[tid][c] = tid == c ? root : t.block[tid][c] / root;
    __syncthreads();
    for (int i = tid; i < width * TILE; i += THREADS) {
      int r = i / TILE, s = i % TILE;
      if (s > c && s <= r) t.block[r][s] -= t.block[r][c] * t.block[s][c];
    }
    __syncthreads();
  }
  if (tid < TILE)
    for (int r = 0; r < TILE; r++) {
      float sum = r == tid ? 1.0f : 0.0f;
      if (r >= tid && r < width) {
        for (int m = tid; m < r; m++) sum -= t.block[r][m] * t.inverse[m][tid];
        sum /= t.block[r][r];
      }
      t.inverse[r][tid] = r >= tid ? sum : 0.0f;
    }
  __syncthreads();
  return true;
}

/* Solves X L^T = t.block for the rows of a tile below the diagonal and stores them; `skip` leading rows are stored as they are. */
static __device__ void store_panel(float *a, int64_t unknowns, int64_t first, int64_t panel, int width, int skip, const tiles &t) {
  const int x = (int)threadIdx.x % SIDE * MICRO, y = (int)threadIdx.x / SIDE * MICRO;
  float sum[MICRO][MICRO] = {};
  for (int m = 0; m < width; m++)
#pragma unroll
    for (int i = 0; i < MICRO; i++)
#pragma unroll
      for (int j = 0; j < MICRO; j++) sum[i][j] += t.block[y + i][m] * t.inverse[x + j][m];
#pragma unroll
  for (int i = 0; i < MICRO; i++)
#pragma unroll
    for (int j = 0; j < MICRO; j++)
      if (first + y + i <= unknowns && x + j < width)
        a[(first + y + i) * unknowns + panel + x + j] = y + i < skip ? t.block[y + i][x + j] : sum[i][j];
}

/* Copies the right-hand side into the last row, adds the ridge to the diagonal and returns it. */
static __device__ float prepare(const bpdq_gpu_refit &f, float *a, tiles &t) {
  const int tid = (int)threadIdx.x;
  float trace = 0;
  for (int64_t i = tid; i < f.unknowns; i += THREADS) {
    trace += a[i * f.unknowns + i];
    a[f.unknowns * f.unknowns + i] = f.right[i * f.state.stride + f.first + blockIdx.x];
  }
  float *partial = &t.block[0][0];
  partial[tid] = trace;
  __syncthreads();
  for (int half = THREADS / 2; half; half /= 2) {
    if (tid < half) partial[tid] += partial[tid + half];
    __syncthreads();
  }
  float ridge = RIDGE * partial[0] / (float)f.unknowns;
  for (int64_t i = tid; i < f.unknowns; i += THREADS) a[i * f.unknowns + i] += ridge;
  __syncthreads();
  return ridge;
}

static __global__ void __launch_bounds__(THREADS) factorise(bpdq_gpu_refit f) {
  __shared__ tiles t;
  const int64_t unknowns = f.unknowns;
  const int x = (int)threadIdx.x % SIDE * MICRO, y = (int)threadIdx.x / SIDE * MICRO;
  float *a = f.systems + blockIdx.x * (unknowns + 1) * unknowns;
  float ridge = prepare(f, a, t);
  for (int64_t panel = 0; panel < unknowns; panel += TILE) {
    const int width = (int)(unknowns - panel < TILE ? unknowns - panel : TILE);
    for (int64_t first = panel; first <= unknowns; first += TILE) {
      float sum[MICRO][MICRO] = {};
      update(a, unknowns, first, panel, t, sum);
#pragma unroll
      for (int i = 0; i < MICRO; i++)
#pragma unroll
        for (int j = 0; j < MICRO; j++) {
          bool inside = first + y + i <= unknowns && x + j < width;
          t.block[y + i][x + j] = inside ? a[(first + y + i) * unknowns + panel + x + j] - sum[i][j] : 0.0f;
        }
      __syncthreads();
      if (first == panel && !factor_diagonal(t, width)) {
        if (threadIdx.x == 0) f.ridges[blockIdx.x] = NAN;
        return;
      }
      store_panel(a, unknowns, first, panel, width, first == panel ? width : 0, t);
      __syncthreads();
    }
  }
  if (threadIdx.x == 0) f.ridges[blockIdx.x] = ridge;
}

static __global__ void __launch_bounds__(SOLVE_THREADS) substitute(bpdq_gpu_refit f) {
  __shared__ double partial[SOLVE_THREADS];
  const int tid = (int)threadIdx.x;
  const int64_t unknowns = f.unknowns, stride = f.state.stride;
  const float *a = f.systems + blockIdx.x * (unknowns + 1) * unknowns;
  float *y = f.systems + (blockIdx.x * (unknowns + 1) + unknowns) * unknowns, *coefficients = f.state.coefficients + f.first + blockIdx.x;
  const float ridge = f.ridges[blockIdx.x];
  if (isnan(ridge)) return;
  double sum = 0;
  for (int64_t i = tid; i < unknowns; i += SOLVE_THREADS) sum += (double)y[i] * (double)y[i];
  partial[tid] = sum;
  __syncthreads();
  for (int half = SOLVE_THREADS / 2; half; half /= 2) {
    if (tid < half) partial[tid] += partial[tid + half];
    __syncthreads();
  }
  double change = -partial[0];
  float last = 0; /* the newest coefficient, stored one step late: y[j] is still being read in its own step */
  for (int64_t j = unknowns - 1; j >= 0; j--) {
    const float *row = a + j * unknowns;
    float rest = y[j], pivot = row[j], old = coefficients[j * stride];
    float rounded = round_to_bf16(old + rest / pivot), step = rounded - old, left = rest - pivot * step;
    change += (double)left * (double)left - (double)ridge * (double)step * (double)step;
    for (int64_t i = tid; i < j; i += SOLVE_THREADS) y[i] -= row[i] * step;
    if (tid == 0 && j + 1 < unknowns) y[j + 1] = last;
    last = rounded;
    __syncthreads();
  }
  if (tid == 0) y[0] = last;
  __syncthreads();
  if (!(change < 0)) return;
  for (int64_t i = tid; i < unknowns; i += SOLVE_THREADS) coefficients[i * stride] = y[i];
}

cudaError_t bpdq_gpu_solve(const bpdq_gpu_refit *refit, cudaStream_t stream) {
  factorise<<<(unsigned)refit->count, THREADS, 0, stream>>>(*refit);
  substitute<<<(unsigned)refit->count, SOLVE_THREADS, 0, stream>>>(*refit);
  return cudaGetLastError();
}
