// Stores an item of a prepared input (prepared.glsl): byte b of word `word` of a row that begins at uvec4 `row`, and with b = 0 what the word
// has one of. Declare before: buffer { uint next[]; }.
void put_prepared(uint row, uint blocks, uint word, uint b, Integers of, float squares) {
  uint at = (row + packed_at(blocks, word, b)) * 4 + b % 4;
  next[at] = BYTES == 2 ? of.high : of.low;
  if (BYTES == 2) next[at + blocks * 32] = of.low;
  if (b != 0) return;
  uint scale = (row + scales_at(blocks)) * 4 + word * 2;
  next[scale] = floatBitsToUint(of.scale * STORED_SCALE);
  next[scale + 1] = floatBitsToUint(of.sum);
  next[(row + squares_at(blocks)) * 4 + word] = floatBitsToUint(squares);
}
