# `cmake --install`: the library with its header, a CMake package (find_package(bpdq), target bpdq::bpdq), a pkg-config file, and the
# command-line program.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS bpdq EXPORT bpdqTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES runtime/include/bpdq.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET bpdq-cli)
  install(TARGETS bpdq-cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

# What a program that links the static library needs besides it. The runtime's own list of libraries decides.
set(BPDQ_PC_REQUIRES "jansson libpcre2-8 libutf8proc")
set(BPDQ_PC_LIBRARIES "-lm -pthread ${CMAKE_DL_LIBS}")
list(TRANSFORM BPDQ_PC_LIBRARIES REPLACE " ([a-z])" " -l\\1")
get_target_property(linked bpdq LINK_LIBRARIES)
set(BPDQ_NEEDS_CUDA OFF)
if(linked MATCHES "CUDA::cudart_static")
  set(BPDQ_NEEDS_CUDA ON)
  # nvcc's host code needs the C++ runtime, which a C program's link does not bring.
  target_link_libraries(bpdq INTERFACE $<INSTALL_INTERFACE:stdc++>)
  string(APPEND BPDQ_PC_LIBRARIES " ${CUDA_cudart_static_LIBRARY} -lrt -lstdc++")
endif()

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/bpdq)
configure_package_config_file(cmake/bpdqConfig.cmake.in ${CMAKE_BINARY_DIR}/bpdqConfig.cmake INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/bpdqConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(EXPORT bpdqTargets NAMESPACE bpdq:: DESTINATION ${package_folder})
install(FILES ${CMAKE_BINARY_DIR}/bpdqConfig.cmake ${CMAKE_BINARY_DIR}/bpdqConfigVersion.cmake DESTINATION ${package_folder})

# Relative, so that an installed folder can be moved.
file(RELATIVE_PATH BPDQ_PC_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(cmake/bpdq.pc.in ${CMAKE_BINARY_DIR}/bpdq.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/bpdq.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
