# Finds what the Vulkan backend is built with and says what its shaders may use. The newer tools that scripts/setup unpacks into
# build/toolchain come before the system's, whichever build folder is in use.
#   BPDQ_VULKAN_FOUND    headers, volk's source and glslc are all there
#   BPDQ_GLSLC           the GLSL to SPIR-V compiler
#   BPDQ_VULKAN_INCLUDE  folder of vulkan/vulkan.h
#   BPDQ_VOLK_INCLUDE    folder of volk.h and volk.c; compile volk.c in, so that no Vulkan loader is needed to start
#   BPDQ_SHADER_HAS_X    ON where glslc compiles cmake/probes/x.comp:
#                        COOPERATIVE_MATRIX, COOPERATIVE_MATRIX2, INTEGER_DOT, SUBGROUP, STORAGE_16BIT, STORAGE_8BIT
include_guard(GLOBAL)

set(toolchains ${CMAKE_BINARY_DIR}/toolchain ${PROJECT_SOURCE_DIR}/build/toolchain)
set(include_hints ${toolchains})
list(TRANSFORM include_hints APPEND /root/usr/include)
# NO_DEFAULT_PATH first: a found older system copy must not win over the unpacked one.
find_program(BPDQ_GLSLC glslc PATHS ${toolchains} PATH_SUFFIXES bin NO_DEFAULT_PATH)
find_program(BPDQ_GLSLC glslc)
find_path(BPDQ_VULKAN_INCLUDE vulkan/vulkan.h PATHS ${include_hints} NO_DEFAULT_PATH)
find_path(BPDQ_VULKAN_INCLUDE vulkan/vulkan.h)
find_path(BPDQ_VOLK_INCLUDE volk.c PATHS ${include_hints} NO_DEFAULT_PATH)
find_path(BPDQ_VOLK_INCLUDE volk.c)

set(BPDQ_VULKAN_FOUND OFF)
if(BPDQ_GLSLC AND BPDQ_VULKAN_INCLUDE AND BPDQ_VOLK_INCLUDE)
  set(BPDQ_VULKAN_FOUND ON)
endif()

function(bpdq_probe_shader source)
  get_filename_component(name ${source} NAME_WE)
  string(TOUPPER ${name} upper)
  # The answer is kept until the compiler changes.
  if(NOT DEFINED BPDQ_SHADER_HAS_${upper} OR NOT "${BPDQ_PROBED_GLSLC}" STREQUAL "${BPDQ_GLSLC}")
    execute_process(COMMAND ${BPDQ_GLSLC} --target-env=vulkan1.3 -o ${CMAKE_BINARY_DIR}/probe.spv ${source}
                    RESULT_VARIABLE result OUTPUT_QUIET ERROR_QUIET)
    set(has OFF)
    if(result EQUAL 0)
      set(has ON)
    endif()
    set(BPDQ_SHADER_HAS_${upper} ${has} CACHE INTERNAL "glslc compiles ${name}.comp")
  endif()
endfunction()

if(BPDQ_VULKAN_FOUND)
  file(GLOB probes ${PROJECT_SOURCE_DIR}/cmake/probes/*.comp)
  set(features)
  foreach(probe ${probes})
    bpdq_probe_shader(${probe})
    get_filename_component(name ${probe} NAME_WE)
    string(TOUPPER ${name} upper)
    if(BPDQ_SHADER_HAS_${upper})
      list(APPEND features ${name})
    endif()
  endforeach()
  set(BPDQ_PROBED_GLSLC ${BPDQ_GLSLC} CACHE INTERNAL "the compiler that the answers belong to")
  list(JOIN features ", " features)
  message(STATUS "Vulkan: ${BPDQ_GLSLC} (${features})")
else()
  message(STATUS "Vulkan: left out, because glslc, the Vulkan headers or volk is missing (scripts/setup installs them)")
endif()
