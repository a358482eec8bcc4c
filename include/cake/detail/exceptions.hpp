// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Exceptions of any kind, as errors.
#pragma once

#include <exception>
#include <new>
#include <string>

#include "cake/result.hpp"

namespace cake::detail {

/// The exception that is being handled, as an error; `call` names what threw it.
///
/// Needs:   to be called in a catch block
inline Error caught(const char* call) noexcept {
  try {
    try {
      throw;
    } catch (const Exception& e) {
      return e.error();
    } catch (const std::bad_alloc&) {
      return Error{Errc::out_of_memory, 0, "no memory"};
    } catch (const std::exception& e) {
      return Error{Errc::io, 0, std::string(call) + " threw an exception: " + e.what()};
    } catch (...) {
      return Error{Errc::io, 0, std::string(call) + " threw something that is no std::exception"};
    }
  } catch (...) {
    return Error{Errc::out_of_memory, 0, "no memory"};  // short enough to need none
  }
}

}  // namespace cake::detail
