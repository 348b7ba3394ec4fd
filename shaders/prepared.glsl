// Where the parts of an input that was prepared for linear_dot.comp lie. Per row, with `blocks` of 128 columns:
//   uvec4 [8 (then 8 for the low bytes of int16)][blocks]   packed integers (integers.glsl): uint b of a word's 8 holds columns b, b + 8,
//                                                           b + 16, b + 24 of its 32; the uvec4's index and component are 2 (word % 4) +
//                                                           b / 4 and b % 4, so that neighbouring blocks lie side by side
//   vec2  [4 blocks]                                        scale (a 128th: linear_dot.comp's sums are 128 times too large) and sum of a
//                                                           word's dequantized values
//   float [4 blocks]                                        sum of the squares of a word's values before a norm's weights
// A norm's 1 / rms is not in the values: whoever multiplies them applies it at the end. Zeros fill the columns past the input's.
// With PLAIN_ORDER, for linear_head_batch.comp, the packed integers are in the order of the columns, and so are the bytes in them; the
// scale is whole.
uint prepared_row(uint blocks) { return blocks * (8 * BYTES + 3); } // uvec4
#ifdef PLAIN_ORDER
uint packed_at(uint blocks, uint word, uint b) { return 2 * word + b / 4; }
const float STORED_SCALE = 1.0;
#else
const float STORED_SCALE = 1.0 / 128.0;
uint packed_at(uint blocks, uint word, uint b) { return (2 * (word % 4) + b / 4) * blocks + word / 4; }
#endif
uint scales_at(uint blocks) { return blocks * 8 * BYTES; }        // uvec4
uint squares_at(uint blocks) { return blocks * (8 * BYTES + 2); } // uvec4
// Column of value j of an item, which is byte item % 8 of word item / 8.
#ifdef PLAIN_ORDER
uint column_of(uint item, uint j) { return 4 * item + j; }
#else
uint column_of(uint item, uint j) { return item / 8 * 32 + item % 8 + 8 * j; }
#endif
