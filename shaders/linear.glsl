// What every product shares: its shape, and where the results go.
layout(push_constant) uniform Push {
  uint rows;      // of this piece of the matrix
  uint first_row; // of the piece in the matrix
  uint columns;   // K
  uint blocks;    // planes: of 128 columns; dense: 16-byte words per row
  uint groups;    // planes: as stored
  uint x_stride, y_stride, y_offset;
  uint flags;
  float epsilon;
  uint next_blocks; // linear_dot.comp: of the next product's input
  uint zero;        // linear_dot.comp with EARLY
} push;
// LAST: only the run's last row, written to row 0. ONE: programs of one row, which need not look how many a run has.
const uint FLAG_ACCUMULATE = 1, FLAG_BIAS = 2, FLAG_LAST = 4, FLAG_ONE = 8;

uint input_row(uint index) { return (push.flags & (FLAG_LAST | FLAG_ONE)) == FLAG_LAST ? run.tokens - 1 : index; }
uint output_rows() { return (push.flags & (FLAG_LAST | FLAG_ONE)) != 0 ? 1 : run.tokens; }

uint place_of(uint token, uint row) { return token * push.y_stride + push.y_offset + push.first_row + row; }

// What is added to a result: the bias, and what the output holds. Needs the buffers `bias` and `y`.
float addend(uint token, uint row) {
  float value = (push.flags & FLAG_BIAS) != 0 ? bias[push.first_row + row] : 0.0;
  if ((push.flags & FLAG_ACCUMULATE) != 0) value += y[place_of(token, row)];
  return value;
}

void store(uint token, uint row, float value) { y[place_of(token, row)] = value + addend(token, row); }
