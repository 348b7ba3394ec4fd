#version 460
// A plain read of a buffer, once or several times: each thread folds 16-byte loads, and writes only what never occurs.
layout(local_size_x_id = 0) in;
layout(set = 0, binding = 0) readonly buffer Source { uvec4 source[]; };
layout(set = 0, binding = 1) writeonly buffer Target { uint target[]; };
layout(push_constant) uniform Push {
  uint count, mask; // uvec4 to read, of which number i is at i & mask
} push;

void main() {
  uint step = gl_NumWorkGroups.x * gl_WorkGroupSize.x, i = gl_GlobalInvocationID.x;
  uvec4 a = uvec4(0), b = uvec4(0), c = uvec4(0), d = uvec4(0);
  for (; i + 3 * step < push.count; i += 4 * step) {
    a ^= source[i & push.mask];
    b ^= source[(i + step) & push.mask];
    c ^= source[(i + 2 * step) & push.mask];
    d ^= source[(i + 3 * step) & push.mask];
  }
  for (; i < push.count; i += step) a ^= source[i & push.mask];
  a ^= b ^ c ^ d;
  uint folded = a.x ^ a.y ^ a.z ^ a.w;
  if (folded == 0x9e3779b9u && a.x == 0x7f4a7c15u) target[0] = folded;
}
