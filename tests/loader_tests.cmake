# The loader and what it is made of, behind real threads.
cake_test(NAME testing_test SOURCES testing_test.cpp)
cake_test(NAME session_test SOURCES session_test.cpp)
cake_test(NAME loader_test SOURCES loader_test.cpp)
cake_test(NAME save_test SOURCES save_test.cpp inputs_test.cpp)
cake_test(NAME loader_faults_test SOURCES fault/loader_faults_test.cpp)

# The quickstart, from outside.
if(TARGET quickstart)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  add_test(NAME quickstart_test
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/quickstart_test.py $<TARGET_FILE:quickstart>)
  set_tests_properties(quickstart_test PROPERTIES TIMEOUT 600)
endif()
