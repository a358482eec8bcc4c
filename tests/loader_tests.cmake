# The loader and what it is made of, behind real threads.
cake_test(NAME testing_test SOURCES testing_test.cpp)
cake_test(NAME session_test SOURCES session_test.cpp)
cake_test(NAME loader_test SOURCES loader_test.cpp)
cake_test(NAME loader_faults_test SOURCES fault/loader_faults_test.cpp)
