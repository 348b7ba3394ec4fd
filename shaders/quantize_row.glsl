// One input row as integers with a scale per group, made by a work group for its own use. Include transform.glsl before, and declare
//   ITEMS, GROUPS, GROUP_ITEMS   items of 4 columns per thread; groups; items per group (a multiple of 8)
//   ITEM_COUNT, BYTES, RANGE     items in all; bytes per integer; its largest value
//   uint column_of(uint item, uint j)                 the column of value j of an item
//   void put_item(uint item, uint high, uint low)     keeps an item's packed bytes (BYTES == 1: low only)
// A norm's 1 / rms is not applied: it is left in row_factor, for the end. Groups have scales of their own, which take any factor.
shared uint largest_of[GROUPS]; // f32 bits: they order as integers where no sign is set
shared int sum_of[GROUPS];
shared float squares_of[THREADS / 8]; // per subgroup

#ifdef SUBGROUP
float cluster_max(float value) {
  UNROLL for (uint i = 1; i < 8; i <<= 1) value = max(value, subgroupShuffleXor(value, i));
  return value;
}
int cluster_sum(int value) {
  UNROLL for (uint i = 1; i < 8; i <<= 1) value += subgroupShuffleXor(value, i);
  return value;
}
bool speaks(uint item) { return item % 8 == 0; } // one thread of 8 neighbours, which are within a group
void put_squares(float squares) {
  squares = subgroupAdd(squares);
  if (subgroupElect()) squares_of[gl_SubgroupID] = squares;
}
float get_squares() {
  float sum = 0.0;
  for (uint i = 0; i < gl_NumSubgroups; i++) sum += squares_of[i];
  return sum;
}
#else
float cluster_max(float value) { return value; }
int cluster_sum(int value) { return value; }
bool speaks(uint item) { return true; }
void put_squares(float squares) { reduction[gl_LocalInvocationIndex] = squares; }
float get_squares() {
  for (uint step = THREADS / 2; step > 0; step >>= 1) {
    if (gl_LocalInvocationIndex < step) reduction[gl_LocalInvocationIndex] += reduction[gl_LocalInvocationIndex + step];
    barrier();
  }
  return reduction[0];
}
#endif

// All threads of the work group must call it; `base` is the row's first element.
void quantize_row(uint base, uint width, float epsilon) {
  uint thread = gl_LocalInvocationIndex;
  float values[ITEMS * 4], squares = 0.0;
  UNROLL for (uint i = 0; i < ITEMS; i++) {
    uint item = thread + i * THREADS;
    UNROLL for (uint j = 0; j < 4; j++) {
      uint column = column_of(item, j);
      values[i * 4 + j] = item < ITEM_COUNT ? transformed(base, width, column) : 0.0; // row_factor is still 1
      if (TRANSFORM == 1 && item < ITEM_COUNT && column < width) squares += x[base + column] * x[base + column];
    }
  }
  for (uint i = thread; i < GROUPS; i += THREADS) {
    largest_of[i] = 0;
    sum_of[i] = 0;
  }
  if (TRANSFORM == 1) put_squares(squares);
  barrier();
  UNROLL for (uint i = 0; i < ITEMS; i++) {
    uint item = thread + i * THREADS;
    float largest = 0.0;
    UNROLL for (uint j = 0; j < 4; j++) largest = max(largest, abs(values[i * 4 + j]));
    largest = cluster_max(largest);
    if (item < ITEM_COUNT && speaks(item)) atomicMax(largest_of[item / GROUP_ITEMS], floatBitsToUint(largest));
  }
  if (TRANSFORM == 1) row_factor = inversesqrt(get_squares() / float(width) + epsilon);
  barrier();
  UNROLL for (uint i = 0; i < ITEMS; i++) {
    uint item = thread + i * THREADS, group = item / GROUP_ITEMS;
    float largest = uintBitsToFloat(largest_of[min(group, GROUPS - 1)]), inverse = largest > 1.0e-30 ? RANGE / largest : 0.0;
    int sum = 0;
    uint high = 0, low = 0;
    UNROLL for (uint j = 0; j < 4; j++) {
      int value = int(clamp(roundEven(values[i * 4 + j] * inverse), -RANGE, RANGE)), byte = bitfieldExtract(value, 0, 8);
      sum += value;
      low |= uint(byte & 255) << (8 * j);
      high |= uint((value - byte) / 256 & 255) << (8 * j);
    }
    sum = cluster_sum(sum);
    if (item < ITEM_COUNT) {
      if (speaks(item)) atomicAdd(sum_of[group], sum);
      put_item(item, high, low);
    }
  }
  barrier();
}

// Scale of a group, and the sum of its dequantized values.
vec2 own_scale(uint group) {
  float scale = uintBitsToFloat(largest_of[group]) / RANGE;
  return vec2(scale, scale * float(sum_of[group]));
}
