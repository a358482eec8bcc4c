# The read path beside plain reads, POSIX and GDS.
if(CAKE_HAVE_CUDA)
  add_executable(read_bench read_bench.cpp)
  target_link_libraries(read_bench PRIVATE cake::cuda)
  cake_warnings(read_bench)
endif()
