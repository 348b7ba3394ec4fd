// Where the parts of an input lie that was prepared for linear_head_matrix.comp. 8 tokens are a tile, 64 columns an item; thread (r, q)
// multiplies 16 columns, from column 16q on, four for each of four matrices of 16 columns: bytes 0 and 2 of a word are their columns
// 2q, 2q + 1 there, bytes 1 and 3 the columns 2q + 8, 2q + 9. So threads 0 and 1, and 2 and 3, have a group of 32
// columns, which share a scale.
// uvec4 [token tiles][items][ITEM]:
//   [2][32 threads]   f16: four of eight pairs of token r's values
//   [2 groups][2]     f32 [8 tokens]: sums of a group's values, as rounded
const uint ITEM = 68; // struct Item of linear_head_matrix.comp; HEAD_ITEM_BYTES of ops_bits.c

// Of a thread's 16 columns, the first one of pair i; the other is two behind it.
uint first_of_pair(uint i) { return i / 2 * 4 + i % 2; }
