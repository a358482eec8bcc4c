# The examples run, and check themselves what they show; quickstart's options are refused in words.
function(cake_example_test name)
  add_test(NAME "example: ${name}" COMMAND ${ARGN})
  set_tests_properties("example: ${name}" PROPERTIES LABELS example TIMEOUT 120)
endfunction()

if(CAKE_BUILD_EXAMPLES)
  cake_example_test(custom_engine custom_engine)
  cake_example_test(custom_storage custom_storage)
  cake_example_test(engine_driven engine_driven)
  set(cake_test_model "$ENV{CAKE_TEST_MODEL}")
  if(CAKE_HAVE_LLAMA AND cake_test_model)
    cake_example_test("engine_driven with a model" engine_driven --model ${cake_test_model})
  endif()
endif()

# Code that the README shows is taken from the examples; this fails when the two differ.
add_test(NAME "readme" COMMAND ${CMAKE_COMMAND} -DSOURCE=${PROJECT_SOURCE_DIR}
  -P ${CMAKE_CURRENT_SOURCE_DIR}/readme_check.cmake)
