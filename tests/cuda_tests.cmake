# What needs a GPU; where there is none, each such test reports itself skipped.
function(cake_cuda_test)
  cake_test(${ARGN})
  cmake_parse_arguments(arg "" "NAME" "" ${ARGN})
  target_link_libraries(${arg_NAME} PRIVATE cake::cuda)
endfunction()

cake_cuda_test(NAME cuda_test SOURCES
  cuda/attention_decode_test.cpp
  cuda/attention_test.cpp
  cuda/runtime_test.cpp)

# What decides how attention is dealt out; needs no GPU.
cake_cuda_test(NAME attention_plan_test SOURCES
  cuda/attention_plan_test.cpp)

# The instructions of sm_90a, in kernels of the tests' own.
add_library(hopper_kernels OBJECT cuda/hopper_kernels.cu)
set_target_properties(hopper_kernels PROPERTIES CUDA_ARCHITECTURES 90a-real)
target_compile_options(hopper_kernels PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
target_include_directories(hopper_kernels PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/src/cuda)
target_link_libraries(hopper_kernels PRIVATE cake::cake CUDA::cudart_static)
cake_warnings(hopper_kernels)
cake_cuda_test(NAME hopper_test SOURCES
  cuda/hopper_test.cpp
  $<TARGET_OBJECTS:hopper_kernels>)

# Its machine code, where cuobjdump is.
add_test(NAME "cuda: machine code of the attention for sm_90a"
  COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/cuda/check_sass.sh $<TARGET_FILE:cake_cuda>)
set_tests_properties("cuda: machine code of the attention for sm_90a" PROPERTIES SKIP_RETURN_CODE 77)

# KV into pages and out of them; the same again over a CUDA runtime of the tests' own, without a GPU.
cake_cuda_test(NAME kv_transfer_cuda_test SOURCES
  cuda/kv_transfer_engine_test.cpp
  cuda/kv_transfer_flight_test.cpp
  cuda/kv_transfer_plan_test.cpp
  cuda/kv_transfer_test.cpp
  cuda/pinned_staging_test.cpp)
cake_test(NAME kv_transfer_fake_test SOURCES
  cuda/kv_transfer_engine_test.cpp
  cuda/kv_transfer_flight_test.cpp
  cuda/kv_transfer_test.cpp
  cuda/pinned_staging_test.cpp
  cuda/fake_cuda.cpp
  ../src/cuda/kv_transfer.cpp
  ../src/cuda/kv_transfer_operation.cpp
  ../src/cuda/kv_transfer_plan.cpp
  ../src/cuda/kv_transfer_runs.cpp
  ../src/cuda/paged_kv.cpp
  ../src/cuda/pinned_staging.cpp
  ../src/cuda/runtime.cpp)
target_include_directories(kv_transfer_fake_test SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})

# The model on the GPU, and what of it needs none.
if(CAKE_HAVE_LLAMA_CUDA)
  cake_cuda_test(NAME llama_cuda_test SOURCES
    cuda/llama_cuda_test.cpp
    cuda/llama_faults_test.cpp
    cuda/llama_gemm_test.cpp
    cuda/llama_graphs_test.cpp
    cuda/llama_host_test.cpp
    cuda/llama_kernels_test.cpp
    cuda/llama_kv_test.cpp
    cuda/llama_real_test.cpp
    cuda/llama_refusals_test.cpp
    cuda/llama_steps_test.cpp
    cuda/llama_swiglu_test.cpp
    LIBRARIES cake::llama_cuda TIMEOUT 300)
  target_compile_definitions(llama_cuda_test PRIVATE
    CAKE_REFERENCE_DATA="${CMAKE_CURRENT_SOURCE_DIR}/reference/data")
endif()

# Device staging, and GDS with the real library. In the environment, CAKE_GDS_DIRECTORY names a directory on the disk to
# try, and CAKE_CUFILE_LIBRARY the library.
cake_cuda_test(NAME gds_cuda_test SOURCES
  cuda/gds_gpu_test.cpp)
if(TARGET cuda_paged)
  add_test(NAME "example: cuda_paged" COMMAND cuda_paged)
  set_tests_properties("example: cuda_paged" PROPERTIES LABELS example TIMEOUT 120 SKIP_RETURN_CODE 77)
endif()
