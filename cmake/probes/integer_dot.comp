#version 450
#extension GL_EXT_integer_dot_product : require
layout(local_size_x = 32) in;
layout(binding = 0) buffer Words { int word[]; };
void main() { word[0] = dotPacked4x8AccSatEXT(word[1], word[2], word[3]) + dotPacked4x8EXT(word[4], word[5]); }
