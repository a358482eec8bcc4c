# Install rules: libraries, headers, a CMake package whose targets files are one per component, and a pkg-config file.
include(CMakePackageConfigHelpers)
set(cake_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/cake)

# cake_install(target export): the library and its headers, and the file that describes it to importers.
function(cake_install target export)
  install(TARGETS ${target} EXPORT ${export}
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(EXPORT ${export} NAMESPACE cake:: DESTINATION ${cake_package_dir} FILE ${export}.cmake)
endfunction()

cake_install(cake_core cakeTargets)
if(CAKE_HAVE_LLAMA)
  cake_install(cake_llama cakeLlamaTargets)
endif()

if(CAKE_HAVE_CUDA)
  cake_install(cake_cuda cakeCudaTargets)
endif()
if(CAKE_HAVE_LLAMA_CUDA)
  cake_install(cake_llama_cuda cakeLlamaCudaTargets)
endif()

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/cakeConfig.cmake.in ${PROJECT_BINARY_DIR}/cakeConfig.cmake
  INSTALL_DESTINATION ${cake_package_dir} NO_SET_AND_CHECK_MACRO)
# While the version is 0.x, a new minor version may break what was there.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cakeConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/cakeConfig.cmake ${PROJECT_BINARY_DIR}/cakeConfigVersion.cmake
  ${CMAKE_CURRENT_LIST_DIR}/FindIsal.cmake DESTINATION ${cake_package_dir})

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
configure_file(${CMAKE_CURRENT_LIST_DIR}/cake.pc.in ${PROJECT_BINARY_DIR}/cake.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/cake.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
