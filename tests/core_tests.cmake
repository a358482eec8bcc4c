# Whole runs in virtual time. `simulate SEED 1 trace` replays one that failed.
cake_test(NAME simulation_test TIMEOUT 300 SOURCES
  simulation/simulation_test.cpp
  simulation/coverage_test.cpp
  simulation/exhaustive_test.cpp
  simulation/learning_test.cpp)
target_include_directories(simulation_test PRIVATE simulation)

add_executable(simulate simulation/simulate.cpp)
target_include_directories(simulate PRIVATE simulation)
target_link_libraries(simulate PRIVATE cake::cake)
cake_warnings(simulate)

# Puts deliberate bugs into copies of the code and requires that the simulation or a named test finds each. ctest -L mutation
find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND)
  add_test(NAME mutation_check COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/simulation/mutation_check.py
    --source ${PROJECT_SOURCE_DIR} --cxx ${CMAKE_CXX_COMPILER} --jobs 2)
  set_tests_properties(mutation_check PROPERTIES LABELS mutation TIMEOUT 900 PROCESSORS 2)
endif()

cake_test(NAME core_test SOURCES
  board_test.cpp
  bound_test.cpp
  claims_test.cpp
  gate_test.cpp
  identity_test.cpp
  kv_layout_test.cpp
  kv_presence_test.cpp
  lane_model_test.cpp
  plan_test.cpp
  report_test.cpp
  result_test.cpp
  session_core_test.cpp)

cake_test(NAME scheduler_test SOURCES
  scheduler/baselines_test.cpp
  scheduler/cost_model_test.cpp
  scheduler/load_order_test.cpp
  scheduler/meet_in_the_middle_test.cpp
  scheduler/outlook_test.cpp)
