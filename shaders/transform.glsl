// What happens to a row of an input before a product. Include after declaring TRANSFORM (a specialization constant with the values of
// bpdq_transform_kind), the buffers `x` and `norm`, and shared float reduction[THREADS].
float row_factor = 1.0; // 1 / rms of the row

// All threads of the work group must call it; `base` is the row's first element, `width` its length.
void transform_start(uint base, uint width, float epsilon) {
  if (TRANSFORM != 1) return;
  float sum = 0.0;
  for (uint j = gl_LocalInvocationIndex; j < width; j += THREADS) sum += x[base + j] * x[base + j];
  reduction[gl_LocalInvocationIndex] = sum;
  barrier();
  for (uint step = THREADS / 2; step > 0; step >>= 1) {
    if (gl_LocalInvocationIndex < step) reduction[gl_LocalInvocationIndex] += reduction[gl_LocalInvocationIndex + step];
    barrier();
  }
  row_factor = inversesqrt(reduction[0] / float(width) + epsilon);
  barrier();
}

// What a column's transform needs besides its value: the norm's weight, or what a gate multiplies. `j` is below `width`.
float transform_partner(uint base, uint width, uint j) { return TRANSFORM == 1 ? norm[j] : TRANSFORM == 2 ? x[base + width + j] : 0.0; }

float transform_value(float value, float partner) {
  if (TRANSFORM == 1) return value * (row_factor * partner);
  if (TRANSFORM == 2) return value / (1.0 + exp(-value)) * partner;
  return value;
}

// Element j of the transformed row; 0 past its end.
float transformed(uint base, uint width, uint j) {
  return j < width ? transform_value(x[base + j], transform_partner(base, width, j)) : 0.0;
}
