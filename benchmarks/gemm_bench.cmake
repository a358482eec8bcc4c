# Matrix products on the GPU: cuBLASLt's algorithms, and SwiGLU within the product or behind it.
if(TARGET cake::llama_cuda)
  add_executable(gemm_bench gemm_bench.cpp)
  target_include_directories(gemm_bench PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(gemm_bench PRIVATE cake::llama_cuda CUDA::cublasLt)
  cake_warnings(gemm_bench)
endif()
