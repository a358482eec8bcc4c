// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Errors. Whatever runs on a lane returns Result<T> or Status; constructors may throw. "Not stored"
// and "stored but damaged" are data for the loader, not failures: it computes such chunks instead.
#pragma once

#include <cerrno>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>

#include "cake/export.hpp"
#include "cake/version.hpp"

namespace cake::inline CAKE_ABI {

/// The kind of an error. `native` and `context` of Error have the details.
enum class Errc {
  ok = 0,
  not_found,         // nothing is stored under this key
  corrupt,           // stored bytes are not what was written: digest, structure or length
  mismatch,          // whole, but another model's, tenant's, layout's or prompt's object
  io,                // the operating system refused or interrupted an operation
  timeout,           // not done by its deadline
  device,            // compute device or driver
  out_of_memory,     // memory, or room on a disk
  canceled,          // a std::stop_token asked to stop
  superseded,        // the step or load lost its chunks meanwhile; it is issued again if needed
  invalid_argument,  // the caller broke a rule that the context names
  unsupported,       // valid, but not by this build, device or file system
};

constexpr std::string_view to_string(Errc code) {
  switch (code) {
    case Errc::ok:
      return "ok";
    case Errc::not_found:
      return "not found";
    case Errc::corrupt:
      return "corrupt";
    case Errc::mismatch:
      return "mismatch";
    case Errc::io:
      return "I/O error";
    case Errc::timeout:
      return "timeout";
    case Errc::device:
      return "device error";
    case Errc::out_of_memory:
      return "out of memory or space";
    case Errc::canceled:
      return "canceled";
    case Errc::superseded:
      return "superseded";
    case Errc::invalid_argument:
      return "invalid argument";
    case Errc::unsupported:
      return "unsupported";
  }
  return "unknown";
}

/// `native` is errno, cudaError_t or the like (0: none). `context` says what was being done to what
/// and, where there is one, the remedy.
struct Error {
  Errc code = Errc::io;
  int native = 0;
  std::string context;

  CAKE_API std::string message() const;
};

/// What value() throws, and what constructors of this library throw.
class CAKE_API Exception : public std::runtime_error {
 public:
  explicit Exception(Error error) : std::runtime_error(error.message()), error_(std::move(error)) {}
  const Error& error() const { return error_; }

 private:
  Error error_;
};

/// A value or an Error, with the member names of std::expected. It is never an alias of it: a type
/// that changes with the user's -std would break linking against the compiled part.
template <class T>
class [[nodiscard]] Result {
 public:
  using value_type = T;
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }
  T& operator*() & { return *std::get_if<0>(&state_); }
  const T& operator*() const& { return *std::get_if<0>(&state_); }
  T&& operator*() && { return std::move(*std::get_if<0>(&state_)); }
  T* operator->() { return std::get_if<0>(&state_); }
  const T* operator->() const { return std::get_if<0>(&state_); }
  T& value() & { return check(), **this; }
  const T& value() const& { return check(), **this; }
  T&& value() && { return check(), std::move(**this); }
  const Error& error() const { return *std::get_if<1>(&state_); }
  template <class U>
  T value_or(U&& other) const& {
    return has_value() ? **this : static_cast<T>(std::forward<U>(other));
  }

 private:
  void check() const {
    if (!has_value()) throw Exception(error());
  }
  std::variant<T, Error> state_;
};

/// Success, or an Error. A Status is also the simplest Completion: the call blocked.
template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}

  bool has_value() const { return !error_; }
  explicit operator bool() const { return has_value(); }
  void value() const {
    if (error_) throw Exception(*error_);
  }
  const Error& error() const { return *error_; }
  Errc code() const { return error_ ? error_->code : Errc::ok; }

 private:
  std::optional<Error> error_;
};
using Status = Result<void>;

/// An Error from errno; ENOSPC, EDQUOT and ENOMEM become out_of_memory, ENOENT becomes not_found.
inline Error errno_error(int number, std::string context) {
  Errc code = Errc::io;
  if (number == ENOSPC || number == EDQUOT || number == ENOMEM) {
    code = Errc::out_of_memory;
  } else if (number == ENOENT) {
    code = Errc::not_found;
  }
  return Error{code, number, std::move(context) + ": " + std::generic_category().message(number)};
}

}  // namespace cake::inline CAKE_ABI
