# What a scheduler's decisions cost, and what its schedules come to in virtual time.
find_package(benchmark REQUIRED)
add_executable(scheduler_bench scheduler_bench.cpp)
target_link_libraries(scheduler_bench PRIVATE cake::cake benchmark::benchmark)
cake_warnings(scheduler_bench)
add_executable(schedules schedules.cpp)
target_link_libraries(schedules PRIVATE cake::cake)
cake_warnings(schedules)
