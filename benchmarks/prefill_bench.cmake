# Whole prefill on the GPU; the peer is peers/prefill.py.
if(TARGET cake::llama_cuda)
  add_executable(prefill_bench prefill_bench.cpp)
  target_link_libraries(prefill_bench PRIVATE cake::llama_cuda)
  cake_warnings(prefill_bench)
endif()
