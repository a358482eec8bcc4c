# The package as others use it: installed into a temporary prefix, then consumed from outside.
function(cake_package_test case)
  add_test(NAME "package: ${case}" COMMAND ${CMAKE_COMMAND}
    -DCASE=${case} -DSOURCE=${PROJECT_SOURCE_DIR} -DBUILD=${PROJECT_BINARY_DIR}
    -DWORK=${PROJECT_BINARY_DIR}/package -DVERSION=${PROJECT_VERSION} -DLLAMA=${CAKE_HAVE_LLAMA} -DCUDA=${CAKE_HAVE_CUDA}
    -DLLAMA_CUDA=${CAKE_HAVE_LLAMA_CUDA}
    -DGENERATOR=${CMAKE_GENERATOR} -DCXX=${CMAKE_CXX_COMPILER} "-DCXX_FLAGS=${CMAKE_CXX_FLAGS}"
    -DPKG_CONFIG=${CAKE_PKG_CONFIG} -DBUILD_TYPE=$<CONFIG> -P ${CMAKE_CURRENT_SOURCE_DIR}/package/run.cmake)
  set_tests_properties("package: ${case}" PROPERTIES LABELS package TIMEOUT 300)
  if(case STREQUAL "install")
    set_tests_properties("package: ${case}" PROPERTIES FIXTURES_SETUP cake_installed)
  else()
    set_tests_properties("package: ${case}" PROPERTIES FIXTURES_REQUIRED cake_installed)
  endif()
endfunction()

find_program(CAKE_PKG_CONFIG NAMES pkg-config pkgconf)
find_program(CAKE_MAKE NAMES make)
mark_as_advanced(CAKE_PKG_CONFIG CAKE_MAKE)
if(CAKE_INSTALL)
  cake_package_test(install)
  foreach(case headers find_package cuda unknown_component other_version add_subdirectory cuda_option old_standard missing_tools)
    cake_package_test(${case})
  endforeach()
  if(CAKE_HAVE_LLAMA)
    cake_package_test(llama)
    cake_package_test(add_subdirectory_with_llama)
  endif()
  if(TARGET cake::llama_cuda)
    cake_package_test(llama_cuda)
  endif()
  if(CAKE_PKG_CONFIG AND CAKE_MAKE)
    cake_package_test(pkg_config)
  else()
    message(STATUS "No test of cake.pc: it needs make and pkg-config")
  endif()
endif()

# What examples/run.sh and tests/run.sh do on machines that lack something, without such a machine.
if(Python3_FOUND AND CMAKE_HOST_UNIX)
  add_test(NAME setup_test COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/setup_test.py ${PROJECT_SOURCE_DIR})
  set_tests_properties(setup_test PROPERTIES TIMEOUT 120)
endif()
