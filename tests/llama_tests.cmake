# The reference model: on models that the tests write themselves, and on the real one.
cake_test(NAME llama_test SOURCES
  llama/config_test.cpp
  llama/cpu_backend_test.cpp
  llama/gguf_fuzz_test.cpp
  llama/gguf_test.cpp
  llama/kernels_test.cpp
  llama/kv_presence_test.cpp
  llama/kv_transfer_test.cpp
  llama/loader_test.cpp
  llama/thread_pool_test.cpp
  llama/weights_test.cpp
  fuzz/gguf_fuzz.cpp
  LIBRARIES cake::llama)
target_include_directories(llama_test PRIVATE ${PROJECT_SOURCE_DIR}/src/llama)

if(TARGET cake_example_support)
  cake_test(NAME tokenizer_test SOURCES llama/tokenizer_test.cpp LIBRARIES cake_example_support)
  cake_test(NAME quickstart_output_test SOURCES llama/quickstart_output_test.cpp
    ../examples/quickstart_options.cpp ../examples/quickstart_output.cpp LIBRARIES cake_example_support)
  cake_test(NAME llama_reference_test SOURCES llama/reference_test.cpp LIBRARIES cake_example_support TIMEOUT 600)
  target_compile_definitions(llama_reference_test PRIVATE
    CAKE_REFERENCE_DATA="${CMAKE_CURRENT_SOURCE_DIR}/reference/data")
endif()

# libFuzzer on the GGUF reader: gguf_fuzz -max_total_time=60
if(CAKE_BUILD_FUZZERS)
  add_executable(gguf_fuzz fuzz/gguf_fuzz.cpp)
  target_include_directories(gguf_fuzz PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/..)
  target_link_libraries(gguf_fuzz PRIVATE cake::llama)
  target_compile_options(cake_llama PRIVATE -fsanitize=fuzzer-no-link,address,undefined)
  target_compile_options(gguf_fuzz PRIVATE -fsanitize=fuzzer,address,undefined)
  target_link_options(gguf_fuzz PRIVATE -fsanitize=fuzzer,address,undefined)
endif()
