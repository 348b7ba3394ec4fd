#version 460
// Checkpoint coefficients [groups][planes + 1][rows] to the tile layout of weight.h: one thread per row and group.
layout(local_size_x_id = 0) in;
layout(set = 0, binding = 0) readonly buffer Source { uint source[]; };
layout(set = 0, binding = 1) writeonly buffer Coefficients { uint coefficients[]; };
layout(push_constant) uniform Push {
  uint rows;        // of this chunk, a multiple of 8
  uint first_row;   // within the piece, a multiple of 8
  uint first_group;
  uint planes;
  uint groups;      // of the whole matrix
  uint number;      // 0: f32, else 16 bits
} push;

uint half_at(uint index) {
  uint word = source[index >> 1];
  return (index & 1) != 0 ? word >> 16 : word & 0xffffu;
}

void main() {
  uint row = gl_GlobalInvocationID.x, group = gl_WorkGroupID.y;
  if (row >= push.rows) return;
  uint target = push.first_row + row, tile = target >> 3, r = target & 7, count = push.planes + 1;
  uint from = group * count * push.rows + row, slot = tile * push.groups + push.first_group + group;
  if (push.number == 0) {
    for (uint p = 0; p < count; p++) coefficients[slot * count * 8 + p * 8 + r] = source[from + p * push.rows];
    return;
  }
  uint to = slot * count * 4, pairs = count >> 1;
  for (uint i = 0; i < pairs; i++)
    coefficients[to + i * 8 + r] = half_at(from + 2 * i * push.rows) | half_at(from + (2 * i + 1) * push.rows) << 16;
  if ((count & 1) != 0 && (r & 1) == 0)
    coefficients[to + pairs * 8 + (r >> 1)] = half_at(from + push.planes * push.rows) | half_at(from + push.planes * push.rows + 1) << 16;
}
