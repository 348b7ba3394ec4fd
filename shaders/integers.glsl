// Inputs of products as integers, 32 neighbouring columns sharing a scale:
//   int8:  value = scale * q,                q in -127..127
//   int16: value = scale * (256 hi + lo),    hi and lo signed bytes
// A cluster of neighbouring threads makes such a group together: 8 of them with 4 columns each, or 32 with one each. Declare before
//   BYTES, RANGE   bytes per integer; its largest value
// and, without SUBGROUP, shared float reduction[THREADS]: then all threads of a work group must call these functions together. With SUBGROUP
// it is enough that those of the cluster do.
#ifdef SUBGROUP
float cluster_max(float value, uint threads) {
  UNROLL for (uint i = 1; i < threads; i <<= 1) value = max(value, subgroupShuffleXor(value, i));
  return value;
}
float cluster_sum(float value, uint threads) {
  UNROLL for (uint i = 1; i < threads; i <<= 1) value += subgroupShuffleXor(value, i);
  return value;
}
#else
void share(float value) {
  barrier();
  reduction[gl_LocalInvocationIndex] = value;
  barrier();
}
float cluster_max(float value, uint threads) {
  share(value);
  uint first = gl_LocalInvocationIndex / threads * threads;
  for (uint i = 0; i < threads; i++) value = max(value, reduction[first + i]);
  return value;
}
float cluster_sum(float value, uint threads) {
  share(value);
  uint first = gl_LocalInvocationIndex / threads * threads;
  float sum = 0.0;
  for (uint i = 0; i < threads; i++) sum += reduction[first + i];
  return sum;
}
#endif

struct Integers {
  uint high, low;   // 4 values in bytes; BYTES == 1: low only
  float scale, sum; // the group's scale, and the sum of its dequantized values
};

int quantize(float value, float largest) {
  float inverse = largest > 1.0e-30 ? RANGE / largest : 0.0;
  return int(clamp(roundEven(value * inverse), -RANGE, RANGE));
}

// `sum` is the cluster's: below 2^24, so exact.
Integers pack_integers(int values[4], float largest, float sum) {
  float scale = largest / RANGE;
  Integers result = Integers(0, 0, scale, scale * sum);
  UNROLL for (uint j = 0; j < 4; j++) {
    int byte = bitfieldExtract(values[j], 0, 8);
    result.low |= uint(byte & 255) << (8 * j);
    result.high |= uint((values[j] - byte) / 256 & 255) << (8 * j);
  }
  return result;
}

// Of 8 threads, each of which has 4 columns and gets them packed.
Integers to_integers(float values[4]) {
  float largest = cluster_max(max(max(abs(values[0]), abs(values[1])), max(abs(values[2]), abs(values[3]))), 8);
  int integers[4], sum = 0;
  UNROLL for (uint j = 0; j < 4; j++) {
    integers[j] = quantize(values[j], largest);
    sum += integers[j];
  }
  return pack_integers(integers, largest, cluster_sum(float(sum), 8));
}

// Of 32 threads with a column each: the first 8 get columns b, b + 8, b + 16, b + 24 of the group packed.
Integers to_integers_of_columns(float value) {
  float largest = cluster_max(abs(value), 32);
  int integer = quantize(value, largest), integers[4];
  float sum = cluster_sum(float(integer), 32);
#ifndef SUBGROUP
  share(float(integer));
#endif
  UNROLL for (uint j = 0; j < 4; j++)
#ifdef SUBGROUP
    integers[j] = j == 0 ? integer : subgroupShuffleXor(integer, 8 * j);
#else
    integers[j] = int(reduction[gl_LocalInvocationIndex ^ (8 * j)]);
#endif
  return pack_integers(integers, largest, sum);
}
