#version 460
// Rows of a dense matrix to 8 bits: signed bytes with one scale per 32 columns. One thread per row and 64 columns.
//   matrix  uint [rows][columns / 4];  scales  uint [rows][columns / 64], two bf16 each
layout(local_size_x_id = 0) in;
layout(set = 0, binding = 0) readonly buffer Source { uint source[]; }; // [rows][columns] in the type `number`
layout(set = 0, binding = 1) writeonly buffer Matrix { uint matrix[]; };
layout(set = 0, binding = 2) writeonly buffer Scales { uint scales[]; };
layout(push_constant) uniform Push {
  uint rows;      // of this chunk
  uint first_row; // within the piece
  uint columns;   // padded to a multiple of 64
  uint number;    // 0: f32, 1: f16, 2: bf16
} push;

float value_at(uint index) {
  if (push.number == 0) return uintBitsToFloat(source[index]);
  uint word = source[index >> 1], bits = (index & 1) != 0 ? word >> 16 : word & 0xffffu;
  return push.number == 1 ? unpackHalf2x16(bits).x : uintBitsToFloat(bits << 16);
}

void main() {
  uint row = gl_WorkGroupID.y, part = gl_GlobalInvocationID.x;
  if (part >= push.columns / 64) return;
  uint packed_scales = 0, target = push.first_row + row;
  for (uint h = 0; h < 2; h++) {
    uint first = row * push.columns + part * 64 + h * 32;
    float largest = 0.0;
    for (uint i = 0; i < 32; i++) largest = max(largest, abs(value_at(first + i)));
    // The scale is rounded up to bf16 before it divides, so that its rounding adds no error.
    uint bits = floatBitsToUint(largest / 127.0);
    bits = (bits + 0xffffu) >> 16;
    float scale = uintBitsToFloat(bits << 16), inverse = scale > 0.0 ? 1.0 / scale : 0.0;
    packed_scales |= bits << (16 * h);
    for (uint i = 0; i < 8; i++) {
      uint word = 0;
      for (uint j = 0; j < 4; j++) {
        int value = int(clamp(roundEven(value_at(first + 4 * i + j) * inverse), -127.0, 127.0));
        word |= uint(value & 255) << (8 * j);
      }
      matrix[target * (push.columns / 4) + part * 16 + h * 8 + i] = word;
    }
  }
  scales[target * (push.columns / 64) + part] = packed_scales;
}
