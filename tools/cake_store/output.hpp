// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What people read: sizes, times, failures, and how far something is.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

namespace cake::tools {

/// Exit status of every command.
enum Exit : int {
  kGood = 0,
  kFailed = 1,  // damage was found, or something failed
  kWrongUse = 2,
};

/// "1.23 GB"
std::string bytes_text(std::uint64_t bytes);
/// "2026-01-02 03:04:05", in UTC; "-" where it is not known.
std::string time_text(std::optional<std::int64_t> seconds);
/// "3 min 20 s"
std::string span_text(std::chrono::nanoseconds span);

/// Tells of failures on stderr, and counts them.
///
/// Thread:  Safe for concurrent use
class Failures {
 public:
  void tell(const std::string& what);
  std::uint64_t count() const;

 private:
  mutable std::mutex mutex_;
  std::uint64_t count_ = 0;
};

/// How far a command is, and how long it may still take: a line on stderr, where that is a terminal.
///
/// Thread:  Safe for concurrent use
class Progress {
 public:
  /// `doing`: "verify". Units: objects and bytes, in all.
  Progress(std::string doing, std::uint64_t objects, std::uint64_t bytes);
  /// Removes the line.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// One object more is done.
  void add(std::uint64_t bytes);

 private:
  using Clock = std::chrono::steady_clock;
  const std::string doing_;
  const std::uint64_t objects_, bytes_;
  const bool shown_;
  const Clock::time_point begun_ = Clock::now();
  std::mutex mutex_;
  Clock::time_point next_{};
  std::uint64_t objects_done_ = 0, bytes_done_ = 0;
};

}  // namespace cake::tools
