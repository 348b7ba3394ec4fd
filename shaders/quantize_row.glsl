// One input row as integers (integers.glsl), made by a work group for its own use. Include transform.glsl and integers.glsl before, and
// declare
//   ITEM_COUNT   items of 4 columns, a multiple of 8
//   uint column_of(uint item, uint j)         the column of value j of an item; 8 neighbouring items are 32 neighbouring columns
//   void put_item(uint item, Integers of)     keeps an item's packed bytes, and with the first of 8 the group's scale and sum
// A norm's 1 / rms is not applied: it is left in row_factor, for the end. Groups have scales of their own, which take any factor.
const uint ITEMS = (ITEM_COUNT + THREADS - 1) / THREADS;
shared float squares_of[THREADS / 8]; // per subgroup

#ifdef SUBGROUP
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
void put_squares(float squares) { share(squares); }
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
  float all_values[ITEMS * 4], squares = 0.0;
  UNROLL for (uint i = 0; i < ITEMS; i++) {
    uint item = thread + i * THREADS;
    UNROLL for (uint j = 0; j < 4; j++) {
      uint column = column_of(item, j);
      all_values[i * 4 + j] = item < ITEM_COUNT ? transformed(base, width, column) : 0.0; // row_factor is still 1
      if (TRANSFORM == 1 && item < ITEM_COUNT && column < width) squares += x[base + column] * x[base + column];
    }
  }
  UNROLL for (uint i = 0; i < ITEMS; i++) {
    uint item = thread + i * THREADS;
    float values[4];
    UNROLL for (uint j = 0; j < 4; j++) values[j] = all_values[i * 4 + j];
    Integers integers = to_integers(values);
    if (item < ITEM_COUNT) put_item(item, integers);
  }
  if (TRANSFORM == 1) put_squares(squares);
  barrier();
  if (TRANSFORM == 1) row_factor = inversesqrt(get_squares() / float(width) + epsilon);
}
