#version 450
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_clustered : require
layout(local_size_x = 32) in;
layout(binding = 0) buffer Words { float value[]; };
void main() {
  value[0] = subgroupAdd(value[1]) + subgroupShuffle(value[2], 3) + subgroupBroadcast(value[3], 0) + subgroupClusteredAdd(value[4], 4);
}
