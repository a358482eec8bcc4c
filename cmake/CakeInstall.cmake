# Install rules: libraries, headers, a CMake package whose targets files are one per component, a pkg-config file for
# each, and the texts that belong to a copy of cake.
include(CMakePackageConfigHelpers)
set(cake_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/cake)
get_target_property(cake_library_type cake_core TYPE)

# The prefix is told relative to the file, so that the installed tree can be moved.
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(pc_prefix ${CMAKE_INSTALL_PREFIX})
  set(pc_libdir ${CMAKE_INSTALL_FULL_LIBDIR})
  set(pc_includedir ${CMAKE_INSTALL_FULL_INCLUDEDIR})
else()
  file(RELATIVE_PATH pc_up /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  string(REGEX REPLACE "/$" "" pc_up ${pc_up})
  set(pc_prefix "\${pcfiledir}/${pc_up}")
  set(pc_libdir "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
  set(pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()

# cake_link_flags(out library...): names and paths of libraries as a linker takes them: -l where it looks by itself.
function(cake_link_flags out)
  set(flags "")
  foreach(library IN LISTS ARGN)
    cmake_path(GET library PARENT_PATH folder)
    cmake_path(GET library STEM name)
    if(NOT IS_ABSOLUTE "${library}")
      string(REGEX REPLACE "^(-l)?([^-].*)$" "-l\\2" library "${library}")
    elseif(folder IN_LIST CMAKE_CXX_IMPLICIT_LINK_DIRECTORIES AND name MATCHES "^lib(.+)$")
      set(library -l${CMAKE_MATCH_1})
    endif()
    list(APPEND flags ${library})
  endforeach()
  list(JOIN flags " " flags)
  set(${out} "${flags}" PARENT_SCOPE)
endfunction()

# cake_component(target export pc DESCRIPTION text [REQUIRES pc] [PRIVATE_REQUIRES pc] [CFLAGS flag...] [LIBS flag...]
#   [PRIVATE_LIBS flag...]): installs the library, its headers, and what describes it to CMake and to pkg-config.
# What is private to a shared library is everybody's business where the library is a static one.
function(cake_component target export pc)
  cmake_parse_arguments(pc "" "DESCRIPTION;REQUIRES;PRIVATE_REQUIRES" "CFLAGS;LIBS;PRIVATE_LIBS" ${ARGN})
  install(TARGETS ${target} EXPORT ${export}
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(EXPORT ${export} NAMESPACE cake:: DESTINATION ${cake_package_dir} FILE ${export}.cmake)

  set(pc_name ${pc})
  get_target_property(pc_library ${target} OUTPUT_NAME)
  if(NOT pc_library)
    set(pc_library ${target})
  endif()
  if(cake_library_type STREQUAL "STATIC_LIBRARY")
    list(JOIN pc_PRIVATE_REQUIRES " " private)
    string(JOIN ", " pc_REQUIRES ${pc_REQUIRES} ${private})
    list(APPEND pc_LIBS ${pc_PRIVATE_LIBS})
    set(pc_PRIVATE_REQUIRES "")
    set(pc_PRIVATE_LIBS "")
  endif()
  foreach(list CFLAGS LIBS PRIVATE_LIBS)
    list(JOIN pc_${list} " " pc_${list})
  endforeach()
  configure_file(${PROJECT_SOURCE_DIR}/cmake/cake.pc.in ${PROJECT_BINARY_DIR}/${pc}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${pc}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endfunction()

cake_link_flags(dl ${CMAKE_DL_LIBS})
set(needs "libcrypto >= 3, libisal")
if(CAKE_HAVE_URING)
  string(APPEND needs ", liburing")
endif()
cake_component(cake_core cakeTargets cake DESCRIPTION "${PROJECT_DESCRIPTION}"
  PRIVATE_REQUIRES "${needs}" CFLAGS -pthread LIBS -pthread PRIVATE_LIBS ${dl})
if(CAKE_HAVE_REFERENCE)
  cake_link_flags(blas ${BLAS_LIBRARIES})
  cake_component(cake_reference cakeReferenceTargets cake-reference DESCRIPTION "The reference model of cake on the CPU"
    REQUIRES "cake = ${PROJECT_VERSION}" PRIVATE_LIBS ${blas})
endif()
if(CAKE_HAVE_S3)
  cake_component(cake_s3 cakeS3Targets cake-s3 DESCRIPTION "Chunks of cake in a bucket of an S3-compatible store"
    REQUIRES "cake = ${PROJECT_VERSION}" PRIVATE_REQUIRES "libcurl >= 7.88")
endif()
if(CAKE_HAVE_REDIS)
  cake_component(cake_redis cakeRedisTargets cake-redis DESCRIPTION "Chunks of cake in Redis or Valkey"
    REQUIRES "cake = ${PROJECT_VERSION}" PRIVATE_REQUIRES "libssl >= 3")
endif()
if(CAKE_HAVE_CUDA)
  set(cuda_libs "")
  if(CAKE_CUDA_RUNTIME STREQUAL "CUDA::cudart")
    set(cuda_libs -L${CUDAToolkit_LIBRARY_DIR} -lcudart)
  elseif(CAKE_CUDA_RUNTIME STREQUAL "CUDA::cudart_static")
    set(cuda_libs -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static ${dl} -lrt -pthread)
  endif()
  list(TRANSFORM CUDAToolkit_INCLUDE_DIRS PREPEND -I OUTPUT_VARIABLE cuda_cflags)
  cake_component(cake_cuda cakeCudaTargets cake-cuda DESCRIPTION "Parts of cake for an engine on a GPU"
    REQUIRES "cake = ${PROJECT_VERSION}" CFLAGS ${cuda_cflags} LIBS ${cuda_libs})
endif()
if(CAKE_HAVE_REFERENCE_CUDA)
  cake_component(cake_reference_cuda cakeReferenceCudaTargets cake-reference-cuda DESCRIPTION "The reference model of cake on a GPU"
    REQUIRES "cake-reference = ${PROJECT_VERSION}, cake-cuda = ${PROJECT_VERSION}"
    PRIVATE_LIBS -L${CUDAToolkit_LIBRARY_DIR} -lcublasLt)
endif()

if(cake_library_type STREQUAL "STATIC_LIBRARY")
  set(cake_static TRUE)
else()
  set(cake_static FALSE)
endif()
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/cakeConfig.cmake.in ${PROJECT_BINARY_DIR}/cakeConfig.cmake
  INSTALL_DESTINATION ${cake_package_dir} NO_SET_AND_CHECK_MACRO)
# While the version is 0.x, a new minor version may break what was there.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cakeConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/cakeConfig.cmake ${PROJECT_BINARY_DIR}/cakeConfigVersion.cmake
  ${CMAKE_CURRENT_LIST_DIR}/FindIsal.cmake ${CMAKE_CURRENT_LIST_DIR}/FindLiburing.cmake DESTINATION ${cake_package_dir})
# Inside another project, CMAKE_INSTALL_DOCDIR is that project's.
if(PROJECT_IS_TOP_LEVEL)
  set(cake_doc_dir ${CMAKE_INSTALL_DOCDIR})
else()
  set(cake_doc_dir ${CMAKE_INSTALL_DATAROOTDIR}/doc/cake)
endif()
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/CHANGELOG.md
  ${PROJECT_SOURCE_DIR}/SECURITY.md DESTINATION ${cake_doc_dir})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs DESTINATION ${cake_doc_dir})
