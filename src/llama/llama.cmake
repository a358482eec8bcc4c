# cake::llama: the reference model on the CPU, over a BLAS with the C interface (cblas.h).
set(llama_reason "")
if(NOT DEFINED BLA_VENDOR)
  # OpenBLAS where it is installed, whatever else is: Debian's plain libblas is the slow reference.
  set(BLA_VENDOR OpenBLAS)
  find_package(BLAS QUIET)
  unset(BLA_VENDOR)
endif()
if(NOT BLAS_FOUND)
  find_package(BLAS QUIET)
endif()
find_path(CAKE_CBLAS_INCLUDE_DIR NAMES cblas.h PATH_SUFFIXES openblas openblas-pthread blis mkl)
mark_as_advanced(CAKE_CBLAS_INCLUDE_DIR)
if(NOT BLAS_FOUND OR NOT CAKE_CBLAS_INCLUDE_DIR)
  set(llama_reason "no BLAS with cblas.h was found (install libopenblas-dev)")
else()
  include(CheckCXXSourceCompiles)
  include(CMakePushCheckState)
  cmake_push_check_state(RESET)
  set(CMAKE_REQUIRED_LIBRARIES BLAS::BLAS)
  set(CMAKE_REQUIRED_INCLUDES ${CAKE_CBLAS_INCLUDE_DIR})
  check_cxx_source_compiles("
    #include <cblas.h>
    int main() {
      float x = 1;
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, 1, 1, 1, 1, &x, 1, &x, 1, 0, &x, 1);
      return 0;
    }" CAKE_CBLAS_WORKS)
  cmake_pop_check_state()
  if(NOT CAKE_CBLAS_WORKS)
    set(llama_reason "the BLAS that was found (${BLAS_LIBRARIES}) has no C interface (install libopenblas-dev)")
  endif()
endif()

if(llama_reason)
  if(CAKE_LLAMA STREQUAL "ON")
    message(FATAL_ERROR "CAKE_LLAMA is ON, but ${llama_reason}")
  endif()
  message(STATUS "cake::llama is not built: ${llama_reason}")
  return()
endif()

set(CAKE_HAVE_LLAMA ON)
set(CAKE_HAVE_LLAMA ON PARENT_SCOPE)  # for tests, examples and benchmarks
if("${BLAS_LIBRARIES}" MATCHES "openblas")
  set(CAKE_LLAMA_BLAS OpenBLAS PARENT_SCOPE)
else()
  set(CAKE_LLAMA_BLAS "${BLAS_LIBRARIES}" PARENT_SCOPE)
endif()
add_library(cake_llama STATIC
  llama/attention.cpp
  llama/blas.cpp
  llama/config.cpp
  llama/cpu_backend.cpp
  llama/dequantise.cpp
  llama/gguf.cpp
  llama/gguf_values.cpp
  llama/kernels.cpp
  llama/kernels_base.cpp
  llama/kv_pages.cpp
  llama/thread_pool.cpp
  llama/transformer.cpp
  llama/weights.cpp
)
add_library(cake::llama ALIAS cake_llama)
set_target_properties(cake_llama PROPERTIES EXPORT_NAME llama POSITION_INDEPENDENT_CODE ON)
target_link_libraries(cake_llama PUBLIC cake::cake PRIVATE BLAS::BLAS)
target_include_directories(cake_llama SYSTEM PRIVATE ${CAKE_CBLAS_INCLUDE_DIR})
cake_warnings(cake_llama)

# The loops between the products, once for every x86-64 and once for each wider instruction set.
set(llama_kernels llama/kernels_base.cpp)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  list(APPEND llama_kernels llama/kernels_avx2.cpp llama/kernels_avx512.cpp)
  target_sources(cake_llama PRIVATE llama/kernels_avx2.cpp llama/kernels_avx512.cpp)
  set_property(SOURCE llama/kernels.cpp APPEND PROPERTY COMPILE_DEFINITIONS CAKE_LLAMA_X86_KERNELS)
  set_property(SOURCE llama/kernels_avx2.cpp APPEND PROPERTY COMPILE_OPTIONS -mavx2 -mfma)
  set_property(SOURCE llama/kernels_avx512.cpp APPEND PROPERTY COMPILE_OPTIONS
    -mavx2 -mfma -mavx512f -mavx512bw -mavx512cd -mavx512dq -mavx512vl -mprefer-vector-width=512)
endif()
# Clang warns where a loop could not be vectorised, as in builds with a sanitizer.
set_property(SOURCE ${llama_kernels} APPEND PROPERTY COMPILE_OPTIONS
  -O3 -fopenmp-simd $<$<CXX_COMPILER_ID:Clang,AppleClang>:-Wno-pass-failed>)
