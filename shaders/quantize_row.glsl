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

float row_values[ITEMS * 4], row_partners[ITEMS * 4];

// Requests the row; `base` is its first element. Multiprocessors get what they request in order: request first what is needed first.
void request_row(uint base, uint width) {
  UNROLL for (uint i = 0; i < ITEMS; i++)
    UNROLL for (uint j = 0; j < 4; j++) {
      uint column = min(column_of(gl_LocalInvocationIndex + i * THREADS, j), width - 1);
      row_values[i * 4 + j] = x[base + column];
      row_partners[i * 4 + j] = transform_partner(base, width, column);
    }
}

// All threads of the work group must call it, behind request_row().
void quantize_row(uint width, float epsilon) {
  float squares = 0.0;
  UNROLL for (uint i = 0; i < ITEMS; i++) {
    uint item = gl_LocalInvocationIndex + i * THREADS;
    float values[4];
    UNROLL for (uint j = 0; j < 4; j++) {
      uint at = i * 4 + j;
      bool inside = item < ITEM_COUNT && column_of(item, j) < width;
      values[j] = inside ? transform_value(row_values[at], row_partners[at]) : 0.0; // row_factor is still 1
      if (inside) squares += row_values[at] * row_values[at];
    }
    Integers integers = to_integers(values);
    if (item < ITEM_COUNT) put_item(item, integers);
  }
  if (TRANSFORM == 1) put_squares(squares);
  barrier();
  if (TRANSFORM == 1) row_factor = inversesqrt(get_squares() / float(width) + epsilon);
}
