if(TARGET cake_example_support)
  cake_test(NAME llama_reference_test SOURCES llama/reference_test.cpp LIBRARIES cake_example_support TIMEOUT 600)
  target_compile_definitions(llama_reference_test PRIVATE
    CAKE_REFERENCE_DATA="${CMAKE_CURRENT_SOURCE_DIR}/reference/data")
endif()
