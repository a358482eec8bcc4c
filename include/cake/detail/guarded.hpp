// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Calls user code. Every exception, of whatever type, becomes an error. If there is no memory for
// the text of the error, the text is dropped and the code kept.
#pragma once

#include <concepts>
#include <string_view>
#include <type_traits>
#include <utility>

#include "cake/export.hpp"
#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::detail {

/// An Error with as much of its text as there is memory for.
CAKE_API Error error_of(Errc code, int native, std::string_view what,
                        std::string_view why = {}) noexcept;

/// Turns the exception that is being handled into an error of the call `what`. A cake::Exception
/// keeps its code.
///
/// Needs:   called inside a catch block
CAKE_API Error caught(Errc code, std::string_view what) noexcept;

/// Calls f(), which returns a Status or a Result; an exception becomes an error with this code.
template <class F>
auto guarded(Errc code, std::string_view what, F&& f) noexcept -> std::invoke_result_t<F> {
  try {
    return std::forward<F>(f)();
  } catch (...) {
    return caught(code, what);
  }
}

/// Calls f() for its value, and `otherwise` where it throws.
template <class F, class T>
T value_or(F&& f, T otherwise) noexcept {
  try {
    return std::forward<F>(f)();
  } catch (...) {
    return otherwise;
  }
}

}  // namespace cake::inline CAKE_ABI::detail
