# Libraries of cake: static, or shared where BUILD_SHARED_LIBS is on. A shared one exports what is marked CAKE_API.
set(cake_hidden CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
  POSITION_INDEPENDENT_CODE ON)

# cake_library(target name): what all libraries of cake have in common. `name` is its name for others: cake::<name>.
function(cake_library target name)
  add_library(cake::${name} ALIAS ${target})
  # While the version is 0.x, a new minor version may change the ABI.
  # CAKE_API is the same for whoever builds and whoever uses, so that static and shared libraries have the same objects.
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name} DEFINE_SYMBOL "" ${cake_hidden}
    VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR}
    VERIFY_INTERFACE_HEADER_SETS ${CAKE_VERIFY_HEADERS})
  # Installed libraries of cake find each other beside them, unless whoever builds the package decides otherwise.
  if(NOT DEFINED CMAKE_INSTALL_RPATH)
    set_target_properties(${target} PROPERTIES INSTALL_RPATH "$ORIGIN")
  endif()
  # CMake 3.25 knows no C++20 of nvcc 13, so the flag is given by hand.
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
  # Nobody puts another function in the place of an exported one. Without the flag g++ reckons with that wherever code
  # is position independent: it then inlines no member of an exported class, and calls each through a table.
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANG_AND_ID:CXX,GNU,Clang>:-fno-semantic-interposition>)
  cake_warnings(${target})
endfunction()

# cake_internals(target link...): defines <target>_internals, for tests and benchmarks that use what src/ keeps to
# itself. It is the library itself where that is static; else a static one of the same objects, which is not installed
# and links what is named here. Whoever links it must not link the library, too.
function(cake_internals target)
  get_target_property(type ${target} TYPE)
  if(NOT type STREQUAL "SHARED_LIBRARY")
    add_library(${target}_internals ALIAS ${target})
    return()
  endif()
  get_target_property(objects ${target} SOURCES)
  list(FILTER objects INCLUDE REGEX "^\\$<TARGET_OBJECTS:")
  add_library(${target}_internals STATIC EXCLUDE_FROM_ALL $<TARGET_OBJECTS:${target}> ${objects})
  set_target_properties(${target}_internals PROPERTIES LINKER_LANGUAGE CXX)
  target_compile_features(${target}_internals PUBLIC cxx_std_20)
  target_include_directories(${target}_internals PUBLIC ${PROJECT_SOURCE_DIR}/include)
  target_link_libraries(${target}_internals PUBLIC ${ARGN})
endfunction()

# cake_sm90_kernels(target file...): an object library whose code may use instructions that only sm_90a has, whatever
# else cake is built for.
function(cake_sm90_kernels target)
  add_library(${target} OBJECT ${ARGN})
  set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES 90a-real ${cake_hidden})
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
  target_link_libraries(${target} PRIVATE cake::cake ${CAKE_CUDA_RUNTIME})
  cake_warnings(${target})
endfunction()
