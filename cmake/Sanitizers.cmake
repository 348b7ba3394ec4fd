# Sanitizers for everything in the build, tests included.
option(BPDQ_SANITIZE "Build with AddressSanitizer and UndefinedBehaviorSanitizer" OFF)
option(BPDQ_FUZZ "Build the fuzz targets with libFuzzer, ASan and UBSan (clang only)" OFF)

if(BPDQ_FUZZ AND NOT CMAKE_C_COMPILER_ID MATCHES "Clang")
  message(FATAL_ERROR "BPDQ_FUZZ needs clang: configure with -DCMAKE_C_COMPILER=clang")
endif()
if(BPDQ_SANITIZE OR BPDQ_FUZZ)
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()
if(BPDQ_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(BPDQ_SANITIZE) # of keep_libraries.c, which comes with the runtime
  add_link_options(LINKER:--export-dynamic-symbol=dlclose)
endif()
