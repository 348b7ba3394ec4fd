// Reads what the product of planes behind begins with, so that it is in the device's cache when that one does (early.h): the same bytes of
// each tile, of which a sector of 32 is in the cache when one of its words was read. Define before
//   EARLY_CONSTANT, EARLY_BINDING   the first of the constants and of the bindings
layout(constant_id = EARLY_CONSTANT) const uint PLANES_LOADS = 0;
layout(constant_id = EARLY_CONSTANT + 1) const uint PLANES_CHUNK = 1;
layout(constant_id = EARLY_CONSTANT + 2) const uint PLANES_STRIDE = 8;
layout(constant_id = EARLY_CONSTANT + 3) const uint PLANES_COUNT = 1;
layout(constant_id = EARLY_CONSTANT + 4) const uint COEFFICIENTS_LOADS = 0;
layout(constant_id = EARLY_CONSTANT + 5) const uint COEFFICIENTS_CHUNK = 1;
layout(constant_id = EARLY_CONSTANT + 6) const uint COEFFICIENTS_STRIDE = 8;
layout(constant_id = EARLY_CONSTANT + 7) const uint COEFFICIENTS_COUNT = 1;
layout(set = 0, binding = EARLY_BINDING) readonly buffer PlanesBehind { uint planes_behind[]; };
layout(set = 0, binding = EARLY_BINDING + 1) readonly buffer CoefficientsBehind { uint coefficients_behind[]; };
const uint EARLY_LOADS = PLANES_LOADS + COEFFICIENTS_LOADS; // of each of the dispatch's threads; 0: there is nothing to read

// Load i of thread `thread` of `all`.
uint early_word(uint thread, uint all, uint i) {
  if (i < COEFFICIENTS_LOADS) {
    uint sector = min(thread + i * all, COEFFICIENTS_COUNT - 1);
    return coefficients_behind[sector / COEFFICIENTS_CHUNK * COEFFICIENTS_STRIDE + sector % COEFFICIENTS_CHUNK * 8];
  }
  uint sector = min(thread + (i - COEFFICIENTS_LOADS) * all, PLANES_COUNT - 1);
  return planes_behind[sector / PLANES_CHUNK * PLANES_STRIDE + sector % PLANES_CHUNK * 8];
}
