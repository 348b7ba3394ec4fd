// What the products of 8-bit weights share: 32 neighbouring threads take a row, 16 columns at a time. Declare before: shared float
// reduction[THREADS] where SUBGROUP is not defined.
const uint LANES = 32;

#ifdef SUBGROUP
float add_lanes(float value) {
  UNROLL for (uint i = 1; i < LANES; i <<= 1) value += subgroupShuffleXor(value, i);
  return value;
}
#else
// In lane 0 at least.
float add_lanes(float value) {
  uint thread = gl_LocalInvocationIndex;
  barrier();
  reduction[thread] = value;
  barrier();
  for (uint step = LANES / 2; step > 0; step >>= 1) {
    if (thread % LANES < step) reduction[thread] += reduction[thread + step];
    barrier();
  }
  return reduction[thread];
}
#endif

// 16 columns of a row.
float product(uvec4 weights, uvec4 high, uvec4 low) {
  int sum_high = 0, sum_low = 0;
  UNROLL for (uint i = 0; i < 4; i++) {
    sum_high += dotPacked4x8EXT(int(weights[i]), int(high[i]));
    sum_low += dotPacked4x8EXT(int(weights[i]), int(low[i]));
  }
  return float(sum_high * 256 + sum_low);
}
