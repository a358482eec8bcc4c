# GDS without a GPU: a libcufile.so.0 of our own, in variants that lack functions or whose driver is a test's own.
function(fake_cufile variant)
  add_library(fake_cufile_${variant} MODULE fault/fake_cufile.cpp)
  set_target_properties(fake_cufile_${variant} PROPERTIES PREFIX "" OUTPUT_NAME libcufile SUFFIX .so.0
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/fake_cufile/${variant})
  target_include_directories(fake_cufile_${variant} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/.. ${CMAKE_CURRENT_SOURCE_DIR}/../include)
  target_compile_features(fake_cufile_${variant} PRIVATE cxx_std_20)
  target_compile_definitions(fake_cufile_${variant} PRIVATE ${ARGN})
  cake_warnings(fake_cufile_${variant})
endfunction()
fake_cufile(all)
fake_cufile(driver)
fake_cufile(hanging)
fake_cufile(opened)
fake_cufile(no_read FAKE_WITHOUT_READ)
fake_cufile(no_stats FAKE_WITHOUT_STATS)

cake_test(NAME gds_test SOURCES
  storage/gds_crc_test.cpp
  storage/gds_declarations_test.cpp
  storage/gds_ladder_test.cpp
  storage/gds_loader_test.cpp
  storage/gds_test.cpp
  storage/gds_verify_test.cpp)
target_compile_definitions(gds_test PRIVATE CAKE_FAKE_CUFILE="${CMAKE_CURRENT_BINARY_DIR}/fake_cufile")
target_link_libraries(gds_test PRIVATE ${CMAKE_DL_LIBS})
add_dependencies(gds_test fake_cufile_all fake_cufile_driver fake_cufile_hanging fake_cufile_opened fake_cufile_no_read
  fake_cufile_no_stats)
