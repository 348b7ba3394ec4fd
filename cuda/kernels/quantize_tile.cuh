/* One warp makes the integers of 256 columns of an input: largest magnitude of each group, rounding, and, for the operand of the 1-bit
 * tensor cores, an 8 x 8 transposition of bits and lanes.
 *
 * A lane n * 4 + q has eight neighbouring columns: 32 q + 8 (n & 3) of the lower or upper 128. Their bytes are an 8 x 8 matrix of bits;
 * once it is transposed, byte p holds bit p of the eight columns. The eight lanes of a q then exchange bytes so that lane n gets bit n of
 * their 64 columns, which is its share of the B operand of m16n8k256. */
#ifndef BPDQ_CUDA_QUANTIZE_TILE_CUH
#define BPDQ_CUDA_QUANTIZE_TILE_CUH

#include "kernels/device.cuh"

#define EIGHT 8 /* columns of a lane */

/* Column, within a tile, of the lane's first value. */
__device__ __forceinline__ static int lane_column(int lane) { return (lane >> 4) * 128 + (lane & 3) * 32 + (lane >> 2 & 3) * 8; }

/* Values column .. column + 7 of a row of `width`; zeros beyond it. `aligned`: the row and its width are multiples of eight. */
__device__ __forceinline__ static void load_eight(const float *row, int64_t column, int64_t width, bool aligned, float values[EIGHT]) {
  if (aligned) {
    const float4 *from = (const float4 *)(row + column);
    float4 low = make_float4(0, 0, 0, 0), high = low;
    if (column < width) low = __ldcg(from), high = __ldcg(from + 1);
    values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
    values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
    return;
  }
#pragma unroll
  for (int i = 0; i < EIGHT; i++) values[i] = column + i < width ? __ldcg(row + column + i) : 0;
}

/* Byte p: bit p of the eight bytes in x (bytes 0 .. 3) and y (4 .. 7). */
__device__ __forceinline__ static void transpose_bits(uint32_t &x, uint32_t &y) {
  uint32_t t = (x ^ x >> 7) & 0x00aa00aau, u = (y ^ y >> 7) & 0x00aa00aau;
  x ^= t ^ t << 7, y ^= u ^ u << 7;
  t = (x ^ x >> 14) & 0x0000ccccu, u = (y ^ y >> 14) & 0x0000ccccu;
  x ^= t ^ t << 14, y ^= u ^ u << 14;
  t = (x ^ y << 4) & 0xf0f0f0f0u;
  x ^= t, y ^= t >> 4;
}

/* Among the eight lanes with the same q: lane n gets byte n of each lane, in the order of the lanes. */
__device__ __forceinline__ static void exchange_bytes(uint32_t &x, uint32_t &y, int lane) {
  bool upper = lane & 16, middle = lane & 8, odd = lane & 4;
  uint32_t other = __shfl_xor_sync(~0u, upper ? x : y, 16); /* bytes 0 .. 3 stay in lanes n < 4 */
  uint32_t first = upper ? other : x, second = upper ? y : other;
  other = __shfl_xor_sync(~0u, __byte_perm(first, second, middle ? 0x5410 : 0x7632), 8);
  first = __byte_perm(first, other, middle ? 0x3254 : 0x5410);
  second = __byte_perm(second, other, middle ? 0x3276 : 0x7610);
  other = __shfl_xor_sync(~0u, __byte_perm(first, second, odd ? 0x6420 : 0x7531), 4);
  x = __byte_perm(first, other, odd ? 0x3514 : 0x5240);
  y = __byte_perm(second, other, odd ? 0x3716 : 0x7260);
}

/* Over the lanes that have columns of the same group. */
template <int GROUP>
__device__ __forceinline__ static float group_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 4));
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 8));
  if (GROUP >= 128) value = fmaxf(value, __shfl_xor_sync(~0u, value, 2));
  if (GROUP >= 256) value = fmaxf(value, __shfl_xor_sync(~0u, value, 16));
  return value;
}
template <int GROUP>
__device__ __forceinline__ static int group_add(int value) {
  value += __shfl_xor_sync(~0u, value, 1);
  value += __shfl_xor_sync(~0u, value, 4);
  value += __shfl_xor_sync(~0u, value, 8);
  if (GROUP >= 128) value += __shfl_xor_sync(~0u, value, 2);
  if (GROUP >= 256) value += __shfl_xor_sync(~0u, value, 16);
  return value;
}
/* The lane's group, and whether it is the first lane that has columns of it. */
template <int GROUP>
__device__ __forceinline__ static int lane_group(int lane) {
  return GROUP == 256 ? 0 : GROUP == 128 ? lane >> 4 : (lane >> 4) * 2 + (lane >> 1 & 1);
}
template <int GROUP>
__device__ __forceinline__ static bool leads_group(int lane) {
  return (lane & (GROUP == 256 ? 31 : GROUP == 128 ? 15 : 13)) == 0;
}

/* Integers of magnitude up to LIMIT from a lane's values, in the low bits of `codes`; *largest, of the lane's group, is theirs at LIMIT. */
#define CODE_BASE_BITS 0x4b400000u /* 1.5 * 2^23: a sum with it holds a rounded integer in its low bits */
template <int GROUP, int LIMIT>
__device__ __forceinline__ static void round_values(const float values[EIGHT], uint32_t codes[EIGHT], float *largest) {
  float most = fabsf(values[0]);
#pragma unroll
  for (int i = 1; i < EIGHT; i++) most = fmaxf(most, fabsf(values[i]));
  most = group_max<GROUP>(most);
  float inverse = approximate_inverse(most) * (float)LIMIT;
  if (most < 1e-30f) inverse = 0, most = 0;
  if (most > 8e37f) most = INFINITY; /* its inverse was flushed to zero: let nobody take that for a result */
#pragma unroll
  for (int i = 0; i < EIGHT; i++) codes[i] = __float_as_uint(fmaf(values[i], inverse, __uint_as_float(CODE_BASE_BITS)));
  *largest = most;
}

/* Bytes number `byte` of the lane's codes, the first column's lowest. */
__device__ __forceinline__ static void gather_bytes(const uint32_t codes[EIGHT], int byte, uint32_t *low, uint32_t *high) {
  uint32_t pair = byte == 0 ? 0x0040 : 0x0051;
  *low = __byte_perm(__byte_perm(codes[0], codes[1], pair), __byte_perm(codes[2], codes[3], pair), 0x5410);
  *high = __byte_perm(__byte_perm(codes[4], codes[5], pair), __byte_perm(codes[6], codes[7], pair), 0x5410);
}

/* The lane's eight integers of 8 bits, and the scale of its 128 columns. */
__device__ __forceinline__ static float quantize_bytes(const float values[EIGHT], uint32_t *low, uint32_t *high) {
  uint32_t codes[EIGHT];
  float largest;
  round_values<128, 127>(values, codes, &largest);
  gather_bytes(codes, 0, low, high);
  return largest * (1.0f / 127);
}

/* The lane's share of the operand in bits[slice]; returns (scale, scale * sum of the integers) of its group. */
template <int GROUP, int SLICES>
__device__ __forceinline__ static float2 quantize_tile(const float values[EIGHT], int lane, uint2 bits[SLICES]) {
  constexpr int LIMIT = SLICES == 1 ? 127 : 32767;
  uint32_t codes[EIGHT], sum = 0;
  float largest;
  round_values<GROUP, LIMIT>(values, codes, &largest);
#pragma unroll
  for (int i = 0; i < EIGHT; i++) sum += codes[i];
  int total = group_add<GROUP>((int)(sum - EIGHT * CODE_BASE_BITS));
#pragma unroll
  for (int s = 0; s < SLICES; s++) {
    uint32_t x, y;
    gather_bytes(codes, s, &x, &y);
    transpose_bits(x, y);
    exchange_bytes(x, y, lane);
    bits[s] = make_uint2(x, y);
  }
  float scale = largest * (1.0f / LIMIT);
  return make_float2(scale, scale * (float)total);
}

#endif
