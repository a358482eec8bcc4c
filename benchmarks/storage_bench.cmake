# The chunk object and the stores, beside ISA-L and plain pread.
find_package(benchmark REQUIRED)
find_package(Isal REQUIRED)
add_executable(storage_bench storage_bench.cpp)
target_link_libraries(storage_bench PRIVATE cake::cake Isal::isal benchmark::benchmark)
cake_warnings(storage_bench)
