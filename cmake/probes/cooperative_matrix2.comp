#version 450
#extension GL_KHR_cooperative_matrix : require
#extension GL_NV_cooperative_matrix2 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types : require
#extension GL_EXT_shader_16bit_storage : require
layout(local_size_x = 128) in;
layout(binding = 0) buffer Matrices { float16_t data[]; };
void main() {
  tensorLayoutNV<2> shape = createTensorLayoutNV(2);
  shape = setTensorLayoutDimensionNV(shape, 64, 64);
  coopmat<float16_t, gl_ScopeWorkgroup, 64, 64, gl_MatrixUseAccumulator> c;
  coopMatLoadTensorNV(c, data, 0, sliceTensorLayoutNV(shape, 0, 64, 0, 64));
  coopMatStoreTensorNV(c, data, 4096, sliceTensorLayoutNV(shape, 0, 64, 0, 64));
}
