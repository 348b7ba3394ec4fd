#version 460
// Checkpoint planes [lines = 4 words per block][planes][rows] to the tile layout of weight.h: one thread per row, plane and block.
layout(local_size_x_id = 0) in;
layout(set = 0, binding = 0) readonly buffer Source { uint source[]; };
layout(set = 0, binding = 1) writeonly buffer Matrix { uvec4 matrix[]; };
layout(push_constant) uniform Push {
  uint rows;        // of this chunk, a multiple of 8
  uint first_row;   // within the piece, a multiple of 8
  uint first_block;
  uint lines;       // words per row that the chunk holds; the blocks' other words are zero
  uint planes;
  uint blocks;      // of the whole matrix
} push;

void main() {
  uint row = gl_GlobalInvocationID.x, plane = gl_WorkGroupID.y, block = gl_WorkGroupID.z;
  if (row >= push.rows) return;
  uvec4 words = uvec4(0);
  for (uint j = 0; j < 4; j++)
    if (4 * block + j < push.lines) words[j] = source[((4 * block + j) * push.planes + plane) * push.rows + row];
  uint target = push.first_row + row;
  matrix[(((target >> 3) * push.blocks + push.first_block + block) * push.planes + plane) * 8 + (target & 7)] = words;
}
