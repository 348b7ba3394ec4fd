// Inputs of products as integers, 32 neighbouring columns sharing a scale:
//   int8:  value = scale * q,                q in -127..127
//   int16: value = scale * (256 hi + lo),    hi and lo signed bytes
// 8 neighbouring threads make such a group together, 4 columns each. Declare before
//   BYTES, RANGE   bytes per integer; its largest value
// and, without SUBGROUP, shared float reduction[THREADS]: then all threads of a work group must call these functions together. With SUBGROUP
// it is enough that those 8 do.
#ifdef SUBGROUP
float cluster_max(float value) {
  UNROLL for (uint i = 1; i < 8; i <<= 1) value = max(value, subgroupShuffleXor(value, i));
  return value;
}
float cluster_sum(float value) {
  UNROLL for (uint i = 1; i < 8; i <<= 1) value += subgroupShuffleXor(value, i);
  return value;
}
#else
void share(float value) {
  barrier();
  reduction[gl_LocalInvocationIndex] = value;
  barrier();
}
float cluster_max(float value) {
  share(value);
  uint first = gl_LocalInvocationIndex & ~7u;
  for (uint i = 0; i < 8; i++) value = max(value, reduction[first + i]);
  return value;
}
float cluster_sum(float value) {
  share(value);
  uint first = gl_LocalInvocationIndex & ~7u;
  float sum = 0.0;
  for (uint i = 0; i < 8; i++) sum += reduction[first + i];
  return sum;
}
#endif

struct Integers {
  uint high, low;   // the thread's 4 values in bytes; BYTES == 1: low only
  float scale, sum; // the group's scale, and the sum of its dequantized values
};

Integers to_integers(float values[4]) {
  float largest = cluster_max(max(max(abs(values[0]), abs(values[1])), max(abs(values[2]), abs(values[3]))));
  float inverse = largest > 1.0e-30 ? RANGE / largest : 0.0;
  Integers result = Integers(0, 0, largest / RANGE, 0.0);
  int sum = 0;
  UNROLL for (uint j = 0; j < 4; j++) {
    int value = int(clamp(roundEven(values[j] * inverse), -RANGE, RANGE)), byte = bitfieldExtract(value, 0, 8);
    sum += value;
    result.low |= uint(byte & 255) << (8 * j);
    result.high |= uint((value - byte) / 256 & 255) << (8 * j);
  }
  result.sum = result.scale * cluster_sum(float(sum)); // below 2^24: exact
  return result;
}
