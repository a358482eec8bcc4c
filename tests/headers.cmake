# Each public header compiles alone; part of the build, so that every build of the tests proves it.
if(CAKE_VERIFY_HEADERS)
  add_custom_target(cake_headers ALL)
  add_dependencies(cake_headers all_verify_interface_header_sets)
endif()
