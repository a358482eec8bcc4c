if(TARGET cake_example_support)
  cake_test(NAME llama_reference_test SOURCES llama/reference_test.cpp LIBRARIES cake_example_support TIMEOUT 600)
  target_compile_definitions(llama_reference_test PRIVATE
    CAKE_REFERENCE_DATA="${CMAKE_CURRENT_SOURCE_DIR}/reference/data")
endif()

cake_test(NAME llama_test SOURCES
  llama/cpu_backend_test.cpp
  llama/gguf_test.cpp
  llama/kernels_test.cpp
  llama/thread_pool_test.cpp
  llama/weights_test.cpp
  LIBRARIES cake::llama)
target_include_directories(llama_test PRIVATE ${PROJECT_SOURCE_DIR}/src/llama)
