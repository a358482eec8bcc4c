# The reference model. Needs cake::llama; includes two of its private headers to measure the BLAS itself.
if(CAKE_HAVE_LLAMA)
  find_package(benchmark REQUIRED)
  add_executable(llama_bench llama_bench.cpp)
  target_include_directories(llama_bench PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(llama_bench PRIVATE cake::llama benchmark::benchmark)
  cake_warnings(llama_bench)
endif()
