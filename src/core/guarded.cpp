// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/guarded.hpp"

#include <exception>
#include <new>

namespace cake::inline CAKE_ABI::detail {

Error error_of(Errc code, int native, std::string_view what, std::string_view why) noexcept {
  Error error;
  error.code = code;
  error.native = native;
  try {
    error.context = what;
    if (!why.empty()) error.context.append(": ").append(why);
  } catch (...) {
    error.context.clear();
  }
  return error;
}

Error caught(Errc code, std::string_view what) noexcept {
  try {
    throw;
  } catch (const Exception& e) {
    return error_of(e.error().code, e.error().native, what, e.error().context);
  } catch (const std::bad_alloc&) {
    return error_of(Errc::out_of_memory, 0, what);
  } catch (const std::exception& e) {
    return error_of(code, 0, what, e.what());
  } catch (...) {
    return error_of(code, 0, what, "an exception that is no std::exception");
  }
}

}  // namespace cake::inline CAKE_ABI::detail
