#version 450
#extension GL_EXT_shader_8bit_storage : require
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require
layout(local_size_x = 32) in;
layout(binding = 0) buffer Bytes { int8_t value[]; };
void main() { value[0] = value[1] + value[2]; }
