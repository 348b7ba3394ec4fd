// Reading weights in the layout of weight.h. Include after declaring the specialization constants PLANES, GROUP and NUMBER and the
// buffer `coefficients`.
const uint NUMBER_F32 = 0, NUMBER_F16 = 1, NUMBER_BF16 = 2, NUMBER_INT8 = 3; // INT8: dense only

float half_value(uint bits) { return NUMBER == NUMBER_BF16 ? uintBitsToFloat(bits << 16) : unpackHalf2x16(bits).x; }

// Coefficient `plane` (PLANES: the bias) of row r of a tile; slot = tile * groups + group.
float coefficient(uint slot, uint plane, uint r) {
  if (NUMBER == NUMBER_F32) return uintBitsToFloat(coefficients[(slot * (PLANES + 1) + plane) * 8 + r]);
  uint base = slot * (PLANES + 1) * 4;
  bool paired = plane < (PLANES + 1) / 2 * 2;
  uint word = coefficients[paired ? base + plane / 2 * 8 + r : base + (PLANES + 1) / 2 * 8 + r / 2];
  uint odd = paired ? plane & 1 : r & 1;
  return half_value(odd != 0 ? word >> 16 : word & 0xffffu);
}

// Words of a block that share their coefficients: groups are multiples of 32 columns, a block is 4 words.
const uint GROUP_WORDS = GROUP / 32;
const uint RUN_WORDS = GROUP_WORDS % 4 == 0 ? 4 : GROUP_WORDS % 2 == 0 ? 2 : 1;
