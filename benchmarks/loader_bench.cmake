# The loader's own cost.
find_package(benchmark REQUIRED)
add_executable(loader_bench loader_bench.cpp)
target_link_libraries(loader_bench PRIVATE cake::cake benchmark::benchmark)
cake_warnings(loader_bench)
