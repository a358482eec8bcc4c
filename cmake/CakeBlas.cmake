# Sets CAKE_HAVE_REFERENCE and what cake::reference needs, a BLAS with the C interface (cblas.h): the target BLAS::BLAS,
# CAKE_CBLAS_INCLUDE_DIR and CAKE_REFERENCE_BLAS, its name for people. Sets CAKE_REFERENCE_WHY_NOT where there is none.
set(CAKE_HAVE_REFERENCE OFF)
set(CAKE_REFERENCE_BLAS "")
set(CAKE_REFERENCE_WHY_NOT "CAKE_REFERENCE is OFF")
if(CAKE_REFERENCE STREQUAL "OFF")
  return()
endif()
set(CAKE_REFERENCE_WHY_NOT "")
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
  set(CAKE_REFERENCE_WHY_NOT "no BLAS with cblas.h was found (install libopenblas-dev)")
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
    set(CAKE_REFERENCE_WHY_NOT "the BLAS that was found (${BLAS_LIBRARIES}) has no C interface (install libopenblas-dev)")
  endif()
endif()

if(CAKE_REFERENCE_WHY_NOT)
  if(CAKE_REFERENCE STREQUAL "ON")
    message(FATAL_ERROR "CAKE_REFERENCE is ON, but ${CAKE_REFERENCE_WHY_NOT}")
  endif()
  return()
endif()
set(CAKE_HAVE_REFERENCE ON)
if("${BLAS_LIBRARIES}" MATCHES "openblas")
  set(CAKE_REFERENCE_BLAS OpenBLAS)
else()
  set(CAKE_REFERENCE_BLAS "${BLAS_LIBRARIES}")
endif()
