// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// When a request is tried again, and what of its arguments and its access is checked beforehand.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>

#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/staging.hpp"
#include "cake/types.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::detail {

using RemoteClock = std::chrono::steady_clock;

/// From now on; a span that is too long for the clock is cut.
inline RemoteClock::time_point deadline_after(std::chrono::nanoseconds span) {
  return RemoteClock::now() +
         std::min<std::chrono::nanoseconds>(span, std::chrono::hours(24 * 365));
}

/// Before the next attempt after so many: 50 ms that double up to 2 s, half of it random.
inline std::chrono::nanoseconds pause_after(unsigned attempts, std::minstd_rand& random) {
  constexpr std::chrono::milliseconds kFirst{50};
  constexpr std::chrono::milliseconds kLongest{2000};
  const auto pause = std::min<std::chrono::nanoseconds>(
      kFirst * (std::int64_t{1} << std::min(attempts - 1, 10u)), kLongest);
  const auto part = std::uniform_real_distribution<double>(0.5, 1)(random);
  return std::chrono::duration_cast<std::chrono::nanoseconds>(pause * part);
}

/// What a store behind a network asks of a read. `where`: "a bucket".
inline Status check_read(const char* where, std::uint32_t tier, std::uint64_t offset,
                         MutableBytes out) {
  if (tier != 0) {
    return Error{Errc::invalid_argument, 0, std::string("read: ") + where + " has only tier 0"};
  }
  if (offset % kIoAlignment != 0 || out.size() % kIoAlignment != 0) {
    return Error{Errc::invalid_argument, 0, "offset and size of a read must be multiples of 4096"};
  }
  return {};
}

/// No store takes objects as large as this, and no sum with a read's size overflows. `url`: of the object.
inline Status check_offset(const std::string& url, std::uint64_t offset) {
  if (offset <= std::uint64_t{1} << 50) return {};
  return Error{Errc::corrupt, 0, "read of " + url + ": the object ends before the read does"};
}

/// Where an option says that it only serves. `where`: its address.
inline Status check_serves_only(bool read_only, const char* doing, const std::string& where,
                                const char* option) {
  if (!read_only) return {};
  return Error{Errc::unsupported, 0,
               std::string(doing) + " in " + where + ": the store only serves (" + option + ")"};
}

/// What it asks of an object that is written.
inline Status check_written(ConstBytes bytes) {
  if (!bytes.empty() && bytes.size() % kIoAlignment == 0) return {};
  return Error{
      Errc::invalid_argument, 0,
      "an object's size must be a multiple of 4096, and is " + std::to_string(bytes.size())};
}

/// Whether an object that nobody asks for can be written, read and erased. `at`: its address.
template <class Write, class Read, class Erase>
Status check_by_object(const Sha256Digest& noise, const std::string& at, Write&& write, Read&& read,
                       Erase&& erase) {
  AlignedBuffer object(kIoAlignment), back(kIoAlignment);
  std::memset(object.data(), 0, object.size());
  std::memset(back.data(), 0xff, back.size());
  std::copy(noise.begin(), noise.end(), object.bytes().begin());
  const Result<bool> written = write(object.bytes());
  if (!written) return written.error();
  Status status = read(back.bytes());
  if (status && std::memcmp(object.data(), back.data(), back.size()) != 0) {
    status =
        Error{Errc::corrupt, 0, "read of " + at + ": the server gives other bytes than it got"};
  }
  const Status erased = erase();
  return status ? erased : status;
}

inline Sha256Digest random_digest() {
  std::random_device random;
  Sha256Digest noise;
  for (std::byte& byte : noise) byte = static_cast<std::byte>(random());
  return noise;
}

}  // namespace cake::inline CAKE_ABI::detail
