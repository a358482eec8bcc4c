# cake::cuda: kernels and copies over KV that the engine owns.
add_library(cake_cuda STATIC
  cuda/attention.cpp
  cuda/attention_bf16.cu
  cuda/attention_combine.cu
  cuda/attention_decode.cu
  cuda/attention_f16.cu
  cuda/attention_plan.cpp
  cuda/attention_reference.cu
  cuda/device_staging.cpp
  cuda/device_staging.cu
  cuda/kernel_image.cu
  cuda/kv_transfer.cpp
  cuda/kv_transfer.cu
  cuda/kv_transfer_operation.cpp
  cuda/kv_transfer_plan.cpp
  cuda/kv_transfer_runs.cpp
  cuda/paged_kv.cpp
  cuda/pinned_staging.cpp
  cuda/runtime.cpp
  cuda/sm90_attention.cpp
  cuda/tensor_map.cpp
  $<TARGET_OBJECTS:cake_cuda_sm90>
)
# Instructions that only sm_90a has, whatever else the library is built for.
add_library(cake_cuda_sm90 OBJECT cuda/sm90_attention.cu)
set_target_properties(cake_cuda_sm90 PROPERTIES CUDA_ARCHITECTURES 90a-real POSITION_INDEPENDENT_CODE ON)
target_compile_options(cake_cuda_sm90 PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
if(CAKE_WERROR)  # spilled registers and serialized products are errors, too
  target_compile_options(cake_cuda_sm90 PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xptxas --warning-as-error,--warn-on-spills>")
  set_target_properties(cake_cuda_sm90 PROPERTIES
    RULE_LAUNCH_COMPILE "${PROJECT_SOURCE_DIR}/cmake/no_serialized_wgmma.sh")
endif()
target_include_directories(cake_cuda_sm90 PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/cuda)
target_link_libraries(cake_cuda_sm90 PRIVATE cake::cake CUDA::cudart_static)
cake_warnings(cake_cuda_sm90)
add_library(cake::cuda ALIAS cake_cuda)
set_target_properties(cake_cuda PROPERTIES EXPORT_NAME cuda POSITION_INDEPENDENT_CODE ON)
# CMake 3.25 knows no C++20 of nvcc 13, so the flag is given by hand.
target_compile_options(cake_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
target_link_libraries(cake_cuda PUBLIC cake::cake CUDA::cudart_static)
cake_warnings(cake_cuda)
target_sources(cake_cuda PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include FILES
  ${PROJECT_SOURCE_DIR}/include/cake/cuda/attention.hpp
  ${PROJECT_SOURCE_DIR}/include/cake/cuda/device_staging.hpp
  ${PROJECT_SOURCE_DIR}/include/cake/cuda/paged_kv.hpp
  ${PROJECT_SOURCE_DIR}/include/cake/cuda/kv_transfer.hpp
  ${PROJECT_SOURCE_DIR}/include/cake/cuda/pinned_staging.hpp
  ${PROJECT_SOURCE_DIR}/include/cake/cuda/runtime.hpp
)
set_target_properties(cake_cuda PROPERTIES VERIFY_INTERFACE_HEADER_SETS ${CAKE_VERIFY_HEADERS})
