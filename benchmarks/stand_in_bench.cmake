# The loader in real time over a device and a link that sleep.
add_executable(stand_in_bench stand_in_bench.cpp)
target_link_libraries(stand_in_bench PRIVATE cake::cake)
cake_warnings(stand_in_bench)
