# Attention on the GPU; the peer is peers/attention.py.
if(CAKE_HAVE_CUDA)
  add_executable(attention_bench attention_bench.cpp)
  target_include_directories(attention_bench PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(attention_bench PRIVATE cake::cuda)
  cake_warnings(attention_bench)
endif()
