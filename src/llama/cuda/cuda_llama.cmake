# cake::llama_cuda: the reference model on a GPU. cake::llama itself needs no CUDA.
if(NOT TARGET CUDA::cublasLt)
  message(STATUS "cake::llama_cuda is not built: no cuBLASLt was found beside the CUDA runtime")
  return()
endif()
set(CAKE_HAVE_LLAMA_CUDA ON)
set(CAKE_HAVE_LLAMA_CUDA ON PARENT_SCOPE)  # for tests, examples and benchmarks
add_library(cake_llama_cuda STATIC
  llama/cuda/backend_state.cpp
  llama/cuda/cuda_backend.cpp
  llama/cuda/cuda_pass.cpp
  llama/cuda/cuda_weights.cpp
  llama/cuda/gemm.cpp
  llama/cuda/kernels.cu
  llama/cuda/kv_pool.cpp
  llama/cuda/model.cpp
  llama/cuda/numbers.cu
  llama/cuda/swiglu_product.cpp
  $<TARGET_OBJECTS:cake_llama_cuda_sm90>
)
# Instructions that only sm_90a has, whatever else the library is built for.
add_library(cake_llama_cuda_sm90 OBJECT llama/cuda/swiglu_product.cu)
set_target_properties(cake_llama_cuda_sm90 PROPERTIES CUDA_ARCHITECTURES 90a-real POSITION_INDEPENDENT_CODE ON)
target_compile_options(cake_llama_cuda_sm90 PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
target_include_directories(cake_llama_cuda_sm90 PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/cuda)
target_link_libraries(cake_llama_cuda_sm90 PRIVATE cake::cake CUDA::cudart_static)
cake_warnings(cake_llama_cuda_sm90)
add_library(cake::llama_cuda ALIAS cake_llama_cuda)
set_target_properties(cake_llama_cuda PROPERTIES EXPORT_NAME llama_cuda POSITION_INDEPENDENT_CODE ON)
target_compile_options(cake_llama_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
target_link_libraries(cake_llama_cuda PUBLIC cake::llama cake::cuda PRIVATE CUDA::cublasLt)
cake_warnings(cake_llama_cuda)
target_sources(cake_llama_cuda PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include FILES
  ${PROJECT_SOURCE_DIR}/include/cake/llama/cuda_backend.hpp
  ${PROJECT_SOURCE_DIR}/include/cake/llama/cuda_weights.hpp
)
set_target_properties(cake_llama_cuda PROPERTIES VERIFY_INTERFACE_HEADER_SETS ${CAKE_VERIFY_HEADERS})
