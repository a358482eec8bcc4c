# The loader and what it is made of, behind real threads.
cake_test(NAME testing_test SOURCES testing_test.cpp)
cake_test(NAME session_test SOURCES session_test.cpp)
cake_test(NAME loader_test SOURCES loader_test.cpp)
cake_test(NAME save_test SOURCES save_test.cpp inputs_test.cpp tiers_test.cpp)
cake_test(NAME loader_faults_test SOURCES fault/loader_faults_test.cpp)
cake_test(NAME session_lifecycle_test SOURCES session_lifecycle_test.cpp)
cake_test(NAME lanes_test SOURCES
  deadline_calls_test.cpp
  io_lanes_test.cpp
  lookup_test.cpp)
cake_test(NAME lane_memory_test SOURCES fault/lane_memory_test.cpp)
cake_test(NAME lanes_threads_test SOURCES io_lanes_threads_test.cpp)
target_link_libraries(lanes_threads_test PRIVATE ${CMAKE_DL_LIBS})
cake_test(NAME loader_throws_test SOURCES fault/loader_throws_test.cpp)

# The quickstart, from outside.
if(TARGET quickstart)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  add_test(NAME quickstart_test
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/quickstart_test.py $<TARGET_FILE:quickstart>)
  set_tests_properties(quickstart_test PROPERTIES TIMEOUT 600)
endif()

# Random engines, stores and schedulers; `chaos_test --seed N --rounds 1` replays a round that broke a rule.
add_executable(chaos_test chaos/chaos_test.cpp)
target_include_directories(chaos_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(chaos_test PRIVATE cake::cake)
cake_warnings(chaos_test)
add_test(NAME chaos_test COMMAND chaos_test)
set_tests_properties(chaos_test PROPERTIES TIMEOUT 300)
