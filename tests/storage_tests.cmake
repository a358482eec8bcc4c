# The stored chunk object and the storage backends.
cake_test(NAME chunk_test SOURCES
  chunk/digest_test.cpp
  chunk/format_test.cpp
  chunk/fuzz_test.cpp
  chunk/hostile_header_test.cpp
  chunk/reader_test.cpp
  chunk/writer_test.cpp
  fuzz/chunk_fuzz.cpp)

# libFuzzer on the object parser: chunk_fuzz -max_total_time=60
option(CAKE_BUILD_FUZZERS "Build the libFuzzer programs (needs clang)" OFF)
if(CAKE_BUILD_FUZZERS)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "CAKE_BUILD_FUZZERS needs clang; configure with -DCMAKE_CXX_COMPILER=clang++")
  endif()
  add_executable(chunk_fuzz fuzz/chunk_fuzz.cpp)
  target_include_directories(chunk_fuzz PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/..)
  target_link_libraries(chunk_fuzz PRIVATE cake::cake)
  target_compile_options(cake_core PRIVATE -fsanitize=fuzzer-no-link,address,undefined)
  target_compile_options(chunk_fuzz PRIVATE -fsanitize=fuzzer,address,undefined)
  target_link_options(chunk_fuzz PRIVATE -fsanitize=fuzzer,address,undefined)
endif()

cake_test(NAME storage_test SOURCES
  fault/faulty_storage_test.cpp
  storage/decorators_test.cpp
  storage/memory_test.cpp
  storage/process_test.cpp
  storage/throttled_test.cpp
  storage/tiered_test.cpp)

cake_test(NAME posix_test SOURCES
  storage/posix_direct_test.cpp
  storage/posix_evict_test.cpp
  storage/posix_hang_test.cpp
  storage/posix_index_test.cpp
  storage/posix_mounts_test.cpp
  storage/posix_open_test.cpp
  storage/posix_publish_test.cpp
  storage/posix_silence_test.cpp
  storage/posix_test.cpp)

cake_test(NAME posix_processes_test SOURCES
  fault/posix_processes_test.cpp)
cake_test(NAME posix_fork_test SOURCES
  fault/posix_fork_test.cpp)
# With an operator new of its own.
cake_test(NAME posix_memory_test SOURCES
  fault/failing_new.cpp
  fault/posix_memory_test.cpp)

# A file system of our own that fails on order; without libfuse3 the tests on it are skipped by name.
cake_test(NAME posix_fuse_test SOURCES
  fault/posix_fuse_test.cpp)
find_package(PkgConfig QUIET)
if(PkgConfig_FOUND)
  pkg_check_modules(FUSE3 QUIET IMPORTED_TARGET fuse3)
endif()
if(FUSE3_FOUND)
  add_executable(faulty_mount fault/faulty_mount.cpp)
  target_compile_features(faulty_mount PRIVATE cxx_std_20)
  target_link_libraries(faulty_mount PRIVATE PkgConfig::FUSE3)
  cake_warnings(faulty_mount)
  add_dependencies(posix_fuse_test faulty_mount)
  target_compile_definitions(posix_fuse_test PRIVATE CAKE_FAULTY_MOUNT="$<TARGET_FILE:faulty_mount>")
endif()
