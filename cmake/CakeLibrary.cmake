# cake_library(target name): what all libraries of cake have in common. `name` is its name for others: cake::<name>.
function(cake_library target name)
  add_library(cake::${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name} POSITION_INDEPENDENT_CODE ON
    VERIFY_INTERFACE_HEADER_SETS ${CAKE_VERIFY_HEADERS})
  # CMake 3.25 knows no C++20 of nvcc 13, so the flag is given by hand.
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
  cake_warnings(${target})
endfunction()

# cake_sm90_kernels(target file...): an object library whose code may use instructions that only sm_90a has, whatever
# else cake is built for.
function(cake_sm90_kernels target)
  add_library(${target} OBJECT ${ARGN})
  set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES 90a-real POSITION_INDEPENDENT_CODE ON)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
  target_link_libraries(${target} PRIVATE cake::cake CUDA::cudart_static)
  cake_warnings(${target})
endfunction()
