// Reading weights in the layout of weight.h. Include after declaring the specialization constants PLANES, GROUP and NUMBER and the
// buffer `coefficients`.
const uint NUMBER_F32 = 0, NUMBER_F16 = 1, NUMBER_BF16 = 2, NUMBER_INT8 = 3; // INT8: dense only

float half_value(uint bits) { return NUMBER == NUMBER_BF16 ? uintBitsToFloat(bits << 16) : unpackHalf2x16(bits).x; }

// A slot (tile * groups + group) has its row's coefficients in COEFFICIENT_WORDS words: one each in f32, else pairs and the odd one out.
const uint COEFFICIENT_WORDS = NUMBER == NUMBER_F32 ? PLANES + 1 : (PLANES + 2) / 2;

uint coefficient_word(uint slot, uint i, uint r) {
  if (NUMBER == NUMBER_F32) return coefficients[(slot * (PLANES + 1) + i) * 8 + r];
  return coefficients[slot * (PLANES + 1) * 4 + i * 8 + (i < (PLANES + 1) / 2 ? r : r / 2)];
}

// Which of those words holds coefficient `plane` (PLANES: the bias), and its value.
uint word_of(uint plane) { return NUMBER == NUMBER_F32 ? plane : plane / 2; }

float coefficient_value(uint word, uint plane, uint r) {
  if (NUMBER == NUMBER_F32) return uintBitsToFloat(word);
  uint odd = plane < (PLANES + 1) / 2 * 2 ? plane & 1 : r & 1;
  return half_value(odd != 0 ? word >> 16 : word & 0xffffu);
}

// Coefficient `plane` of row r of a tile.
float coefficient(uint slot, uint plane, uint r) { return coefficient_value(coefficient_word(slot, word_of(plane), r), plane, r); }

#include "block_runs.glsl"
