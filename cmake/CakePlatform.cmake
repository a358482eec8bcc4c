# What cake is built with and for; anything else is refused here, in a sentence. Included after project().
if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  message(FATAL_ERROR "cake runs on Linux only: its storage uses O_DIRECT, openat2() and unnamed files. "
    "This build is for ${CMAKE_SYSTEM_NAME}")
endif()
if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64|aarch64|arm64)$")
  message(FATAL_ERROR "cake runs on x86-64 and aarch64; this build is for ${CMAKE_SYSTEM_PROCESSOR}")
endif()
if(NOT CMAKE_SIZEOF_VOID_P EQUAL 8)
  math(EXPR cake_pointer_bits "8 * ${CMAKE_SIZEOF_VOID_P}")
  message(FATAL_ERROR "cake needs a 64-bit build; pointers have ${cake_pointer_bits} bits here (is -m32 or -mx32 among the flags?)")
endif()
if(NOT CMAKE_CXX_BYTE_ORDER STREQUAL "LITTLE_ENDIAN")
  message(FATAL_ERROR "cake needs a little-endian machine: stored chunks are written in its byte order. "
    "CMake found ${CMAKE_CXX_BYTE_ORDER}")
endif()
if(NOT ((CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 12) OR
        (CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 14)))
  message(FATAL_ERROR "cake needs g++ 12 or clang 14 at least; this is ${CMAKE_CXX_COMPILER_ID} "
    "${CMAKE_CXX_COMPILER_VERSION}. Name another compiler with -DCMAKE_CXX_COMPILER=...")
endif()
