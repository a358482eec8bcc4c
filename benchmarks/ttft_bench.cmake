# Time to first token on the GPU, end to end.
if(TARGET cake::llama_cuda)
  add_executable(ttft_bench ttft_bench.cpp)
  target_link_libraries(ttft_bench PRIVATE cake::llama_cuda)
  cake_warnings(ttft_bench)
endif()
