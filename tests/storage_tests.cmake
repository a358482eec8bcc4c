# The stored chunk object and the storage backends.
cake_test(NAME chunk_test SOURCES
  chunk/digest_test.cpp
  chunk/format_test.cpp
  chunk/reader_test.cpp
  chunk/writer_test.cpp)
