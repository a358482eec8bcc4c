# Whole runs in virtual time. `simulate SEED 1 trace` replays one that failed.
cake_test(NAME simulation_test TIMEOUT 300 SOURCES simulation/simulation_test.cpp)
target_include_directories(simulation_test PRIVATE simulation)

add_executable(simulate simulation/simulate.cpp)
target_include_directories(simulate PRIVATE simulation)
target_link_libraries(simulate PRIVATE cake::cake)
cake_warnings(simulate)
