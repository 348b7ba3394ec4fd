# How each kind of test is built and run; tests/CMakeLists.txt says which files are which.
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)

# A compile definition for C and an environment variable for scripts, so that both find the same material.
set(BPDQ_TEST_ENVIRONMENT "BPDQ_SHARED=${BPDQ_SHARED}" "BPDQ_TEST_DATA=${BPDQ_TEST_DATA}" "BPDQ_SOURCE_DIR=${PROJECT_SOURCE_DIR}")

function(bpdq_test_defaults target)
  target_link_libraries(${target} PRIVATE bpdq_internal m)
  if(TARGET bpdq_quantizer)
    target_link_libraries(${target} PRIVATE bpdq_quantizer)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
  endif()
  target_compile_definitions(${target} PRIVATE BPDQ_SHARED="${BPDQ_SHARED}" BPDQ_TEST_DATA="${BPDQ_TEST_DATA}")
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
endfunction()

function(bpdq_add_unit_test source)
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  bpdq_test_defaults(${name})
  target_link_libraries(${name} PRIVATE PkgConfig::CMOCKA)
  add_test(NAME unit.${name} COMMAND ${name})
  set(labels unit)
  if(name MATCHES "^test_vulkan")
    list(APPEND labels vulkan)
  endif()
  # 77: the test says why it cannot run here (no device).
  set_tests_properties(unit.${name} PROPERTIES LABELS "${labels}" TIMEOUT 900 SKIP_RETURN_CODE 77 ENVIRONMENT "${BPDQ_TEST_ENVIRONMENT}")
endfunction()

# bpdq-ops BACKEND runs every operation on that backend against the double-precision oracle.
function(bpdq_add_operation_suite)
  add_executable(bpdq-ops ${ARGN})
  bpdq_test_defaults(bpdq-ops)
  foreach(backend ${BPDQ_SUITE_BACKENDS})
    add_test(NAME ops.${backend} COMMAND bpdq-ops --backend ${backend})
    set_tests_properties(ops.${backend} PROPERTIES LABELS ops TIMEOUT 1200 ENVIRONMENT "${BPDQ_TEST_ENVIRONMENT}")
  endforeach()
endfunction()

add_custom_target(fuzz-targets)

# Without libFuzzer the same function is linked with a small main that replays the corpus: a regression test in every build.
function(bpdq_add_fuzz_target source)
  get_filename_component(name ${source} NAME_WE)
  set(target fuzz-${name})
  set(corpus ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus/${name})
  if(BPDQ_FUZZ)
    add_executable(${target} ${source})
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    # New inputs go to a folder below the build; the corpus in the tree is read only.
    set(work ${CMAKE_CURRENT_BINARY_DIR}/fuzz/${name})
    file(MAKE_DIRECTORY ${work})
    add_test(NAME fuzz.${name} COMMAND ${target} -runs=${BPDQ_FUZZ_RUNS} -seed=1 -max_len=65536 -timeout=20 -rss_limit_mb=4096
                                       -print_final_stats=0 -artifact_prefix=${work}/ ${work} ${corpus})
  else()
    add_executable(${target} ${source} ${PROJECT_SOURCE_DIR}/tests/fuzz/replay.c)
    add_test(NAME fuzz.${name} COMMAND ${target} ${corpus})
  endif()
  bpdq_test_defaults(${target})
  add_dependencies(fuzz-targets ${target})
  set_tests_properties(fuzz.${name} PROPERTIES LABELS fuzz TIMEOUT 600 ENVIRONMENT "${BPDQ_TEST_ENVIRONMENT}")
endfunction()

# tests/cli/x.sh becomes cli.x, tests/parity/x.py becomes parity.x.
function(bpdq_add_script_test script)
  get_filename_component(name ${script} NAME_WE)
  get_filename_component(folder ${script} DIRECTORY)
  get_filename_component(kind ${folder} NAME)
  get_filename_component(extension ${script} LAST_EXT)
  set(interpreter bash)
  if(extension STREQUAL ".py")
    set(interpreter ${BPDQ_PYTHON})
  endif()
  add_test(NAME ${kind}.${name} COMMAND ${interpreter} ${script} ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/bpdq)
  set_tests_properties(${kind}.${name} PROPERTIES LABELS ${kind} TIMEOUT 900 ENVIRONMENT "${BPDQ_TEST_ENVIRONMENT}")
endfunction()

# The installed library, used from outside: tests/consumer.
function(bpdq_add_consumer_test)
  set(flags)
  if(BPDQ_SANITIZE)
    set(flags -fsanitize=address,undefined)
  endif()
  add_test(NAME install.consumer COMMAND bash ${PROJECT_SOURCE_DIR}/tests/consumer/check.sh ${CMAKE_BINARY_DIR} ${CMAKE_C_COMPILER})
  set_tests_properties(install.consumer PROPERTIES LABELS install TIMEOUT 300 ENVIRONMENT "${BPDQ_TEST_ENVIRONMENT};CONSUMER_FLAGS=${flags}")
endfunction()
