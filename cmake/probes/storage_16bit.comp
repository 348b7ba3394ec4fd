#version 450
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
layout(local_size_x = 32) in;
layout(binding = 0) buffer Halves { float16_t half_value[]; };
void main() { half_value[0] = half_value[1] * half_value[2]; }
