// Where the parts of an input lie that was prepared for linear_bits.comp, and which columns a thread of a subgroup multiplies. Needs the
// specialization constant GROUP, and block_runs.glsl. 8 tokens are a tile, 128 columns a block; of a block, RUN_WORDS words of 32 columns
// share coefficients, and four threads (q of r, q) share each of its RUNS runs:
//   a thread has a share of one word, columns first_pair(q) + 0..PAIRS-1, and the ones 16 further: two of these pairs for each of
//   MATRICES matrices of 16 columns, whose columns 2q, 2q + 1 are the first pair and 2q + 8, 2q + 9 the second.
// uvec4 [token tiles][blocks][ITEM]:
//   [4][32 threads]   f16: of matrices 2i and 2i + 1, the thread's two pairs of token r each, times 2^(5 - place)
//   [8]               f32 [RUNS][8 tokens]: sums of a run's values, times UNIT
const uint RUNS = 4 / RUN_WORDS;
const uint MATRICES = 2 * RUN_WORDS; // of a run
const uint PAIRS = 2 * MATRICES;     // of a thread in a run
const uint ITEM = 136;               // struct Item of linear_bits.comp; BITS_ITEM_BYTES of ops_bits.c
const float UNIT = 1.0 / 524288.0;   // a bit at place 5 is 2^-19

uint word_of_run(uint run, uint q) { return run * RUN_WORDS + q * RUN_WORDS / 4; }
uint first_pair(uint q) { return q % RUNS * PAIRS; }

// A bit is multiplied where it stands, as the f16 number that has this bit alone: places 5 to 10, so 2^-19 to 2^-14. Words are shifted so
// that all bits come there.
int shift_of(uint pair) { return pair < 5 ? 5 : pair > 10 ? -6 : 0; }
uint place_of_pair(uint pair) { return uint(int(pair) + shift_of(pair)); }
