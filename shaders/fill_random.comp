#version 460
// Random contents for benchmarks, from a hash of the word's index.
layout(local_size_x_id = 0) in;
layout(set = 0, binding = 1) writeonly buffer Target { uint target[]; };
layout(push_constant) uniform Push {
  uint words;
  uint seed;
  uint mode;   // 0: any bits, 1: pairs of 16-bit values, 2: f32 values, 3: f32 ones
  uint number; // of mode 1; 1: f16, 2: bf16
} push;

uint hash(uint value) {
  value ^= value >> 16;
  value *= 0x7feb352du;
  value ^= value >> 15;
  value *= 0x846ca68bu;
  return value ^ value >> 16;
}

void main() {
  uint step = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
  for (uint i = gl_GlobalInvocationID.x; i < push.words; i += step) {
    uint bits = hash(i * 2654435761u ^ push.seed);
    // Values of either sign with magnitudes of 2^-7 to 2^-6, which is what weights of large layers look like.
    if (push.mode == 1) bits = bits & 0x807f807fu | (push.number == 2 ? 0x3c003c00u : 0x20002000u);
    if (push.mode == 2) bits = bits & 0x807fffffu | 0x3c000000u;
    if (push.mode == 3) bits = 0x3f800000u;
    target[i] = bits;
  }
}
