# Attention of few queries on the GPU, beside a plain copy.
if(CAKE_HAVE_CUDA)
  add_executable(decode_bench decode_bench.cpp)
  target_link_libraries(decode_bench PRIVATE cake::cuda)
  cake_warnings(decode_bench)
endif()
