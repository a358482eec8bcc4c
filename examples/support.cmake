# cake_example_support: the tokenizer. PCRE2 has the Unicode classes that its regular expressions need.
find_path(CAKE_PCRE2_INCLUDE_DIR NAMES pcre2.h)
find_library(CAKE_PCRE2_LIBRARY NAMES pcre2-8)
mark_as_advanced(CAKE_PCRE2_INCLUDE_DIR CAKE_PCRE2_LIBRARY)
if(TARGET cake::llama AND CAKE_PCRE2_INCLUDE_DIR AND CAKE_PCRE2_LIBRARY)
  add_library(cake_example_support STATIC tokenizer.cpp)
  target_include_directories(cake_example_support PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}
    PRIVATE ${CAKE_PCRE2_INCLUDE_DIR})
  target_link_libraries(cake_example_support PUBLIC cake::llama PRIVATE ${CAKE_PCRE2_LIBRARY})
  cake_warnings(cake_example_support)
else()
  message(STATUS "Examples with a language model are not built: cake::llama and PCRE2 (libpcre2-dev) are needed")
endif()
